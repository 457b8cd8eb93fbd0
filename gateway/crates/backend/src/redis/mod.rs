//! The Redis bus.

pub mod envelope;
