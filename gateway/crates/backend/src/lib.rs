//! Buses and backends: what carries messages between nodes and app servers, and the pump that takes events from
//! the shards to them. Lives on tokio; sees no record, no socket of a client and no mio.
//!
//! The traits are owned here, by their consumer. A bus that joins nodes is built from a [`Joint`].
#![forbid(unsafe_code)]

mod agreement;
mod arrivals;
pub mod bus;
pub mod bus_stats;
mod calls;
mod closing;
mod complaints;
pub mod embedded;
pub mod grpc;
mod hearing;
pub mod incoming;
pub mod interests;
pub mod joint;
pub mod lines;
pub mod nats;
pub mod outgoing;
pub mod peers;
pub mod presence;
pub mod proto;
pub mod pump;
pub mod redis;
pub mod trouble;
pub mod upstream;

pub use bus::{Bus, BusState, Excluded, PublishError, Publisher};
pub use bus_stats::BusStats;
pub use embedded::Embedded;
pub use incoming::Incoming;
pub use interests::Interests;
pub use joint::Joint;
pub use lines::Lines;
pub use nats::Nats;
pub use outgoing::Outgoing;
pub use peers::Peers;
pub use presence::Presence;
pub use pump::pump;
pub use trouble::Trouble;
pub use upstream::{Intake, Settler};
