//! Who may come in and how fast they may go on: the gate of the whole node, shared by all shards, and what each shard
//! does about those who exceed a limit; and the bytes of all backlogs, which shards share as they share the gate.

mod blocks;
mod bytes;
mod gate;
pub mod gcra;
mod networks;
mod peers;
mod refuse;
pub mod rules;
mod traffic;

pub use blocks::{BLOCKS_MAX, Block, Blocks, BlocksFull};
pub use bytes::NodeBytes;
pub use gate::{Admitted, Entrance, Gate, GateSizes, Memory};
pub use gcra::Rate;
pub use networks::{IPV6_PREFIX_MAX, Network, Networks, PeerKey};
pub use peers::Peers;
pub(crate) use refuse::{Eviction, Exceeded, Notices};
pub(crate) use traffic::Paced;
