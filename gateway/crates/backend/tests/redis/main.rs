//! The Redis bus against a real server: streams lose nothing whatever happens to the server, are bounded, and are never
//! trimmed unread; publish/subscribe follows the node's interests, and what is not ours is counted.
#![allow(clippy::unwrap_used)]

mod frozen;
mod node;
mod pubsub;
mod server;
mod streams;
