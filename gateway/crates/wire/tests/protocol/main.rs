//! The protocol crate from outside: vectors of the RFC, splits, limits, handshakes, and tungstenite as the
//! oracle.
//!
//! Owns promises that take more than one function to keep; single rules are tested beside their code.
#![allow(clippy::unwrap_used)]

mod client;
mod handshake;
mod head;
mod oracle;
mod positions;
mod splits;
mod vectors;
