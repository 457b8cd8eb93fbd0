//! Owns what app servers and operators can ask of a node, whatever they speak: publish, send, close, subscribe, look, end.
//! Each call is one function from a request to an answer or an [`Error`] with a reason of a closed set. The HTTP handlers
//! (`admin`) and the gRPC methods (`grpc`) translate to and from these, and do nothing else; `command` does the same for what
//! comes over a bus. It refuses to know tokens and statuses.

mod block_orders;
pub(crate) mod blocks;
pub(crate) mod command;
pub(crate) mod connections;
mod error;
pub(crate) mod list;
pub(crate) mod node;
pub(crate) mod protobuf;
pub(crate) mod publish;
mod shards;
pub(crate) mod users;

pub(crate) use block_orders::BlockOrders;
pub(crate) use error::{Error, Reason};
pub(crate) use shards::SHARD_DEADLINE;

/// One tick of a shard, in milliseconds.
pub(crate) const TICK_MS: u64 = 100;
