//! Who may come in: the gate of the whole node, shared by all shards.

mod gate;
mod peers;

pub use gate::{Admitted, Gate, GateSizes};
pub use peers::Peers;
