//! Buses and backends: what carries messages between nodes and app servers, and the pump that takes events from
//! the shards to them. Lives on tokio; sees no record, no socket of a client and no mio.
//!
//! The traits are owned here, by their consumer. The embedded bus is the only implementation so far.
#![forbid(unsafe_code)]

pub mod bus;
pub mod embedded;
pub mod proto;
pub mod pump;
pub mod redis;
pub mod upstream;

pub use bus::{Bus, BusState, PublishError, Publisher};
pub use embedded::Embedded;
pub use pump::pump;
pub use upstream::{Intake, Settler};
