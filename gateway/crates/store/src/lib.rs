//! The memory of one shard: who is connected, when something is due for whom, what waits for slow sockets, who listens to what.
//!
//! Owns layout and bookkeeping only. Refuses policy, I/O and clocks: time comes in as ticks, limits as arguments, and a full
//! structure answers with an error that its caller has to settle. Nothing here grows past the capacity it was built with.
//! The shard is the caller; every structure belongs to exactly one shard and is never shared between threads.
//!
//! | module | holds | bound | at the bound |
//! |---|---|---|---|
//! | [`conns`] | one 64-byte record per connection, found by a key that goes stale | connections | the socket is given back |
//! | [`cold`] | what few connections need at a time | entries | the value is given back |
//! | [`wheel`] | one timer per record, threaded through the records | none of its own | – |
//! | [`backlog`] | frames that slow sockets have not taken yet, each frame once | entries and bytes, per queue and in all | the push says which bound |
//! | [`channels`] | subscriptions, from both ends, with a cursor for fan-out | channels and subscriptions | the subscription is refused |
//!
//! Capacity is address space reserved at start: memory is touched when a slot is first used, and the slot freed last is used
//! first, so a second crowd needs no more than the first.
#![forbid(unsafe_code)]

mod arena;
pub mod backlog;
pub mod channels;
pub mod cold;
pub mod conns;
mod frames;
mod generation;
pub mod tally;
pub mod wheel;

pub use backlog::{Backlog, FrameIndex, Full, Queue, QueueLimit};
pub use channels::{ChannelIndex, Channels, Joined, Left, Refused};
pub use cold::Cold;
pub use conns::{Conn, Conns, Flags, Key, NONE, Pauses, Phase, Transport};
pub use tally::Tally;
pub use wheel::{Links, Wheel, WheelLink};
