//! The policy of one shard: who may come, what happens to what they send, who hears what, and how everybody
//! leaves. Generic over its network ([`Net`]), so that the same code runs over sockets and over a script.
//!
//! A [`Shard`] has three entry points, called by its event loop in this order once per pass, after it was told the time
//! of the pass to the microsecond by [`Shard::begin_pass`]:
//!
//! 1. [`Shard::mail`] when its mailbox may hold commands,
//! 2. [`Shard::ready`] for every connection the network has news of,
//! 3. [`Shard::turn`] for everything else; it answers how soon it wants to be called again.
//!
//! It never blocks, reads no clock (time is a tick of 100 ms, an argument), spawns nothing and allocates nothing for
//! a connection that is quiet. Shards share two tables, the [`limit::Gate`] and the switchboard of `bridge`.
#![forbid(unsafe_code)]

mod accept;
mod audit;
mod authorize;
mod close;
mod cold;
mod drain;
mod egress;
mod fanout;
mod handshake;
mod ingest;
mod inspect;
pub mod limit;
mod mail;
pub mod net;
mod profile;
mod publish;
mod round;
pub mod rules;
mod slow;
mod timers;
mod transport;
pub mod trust;
mod turn;
mod upstream;
mod users;

#[doc(hidden)]
pub use audit::Census;
pub use net::Net;
pub use rules::Rules;
pub use turn::{Identity, LISTENER, Next, Parts, Shard, Sizes};

/// Ticks are 100 ms.
pub const TICK_MS: u32 = 100;

/// Clients that are sent away are asked to come back within this, each at its own moment: all at once would be a
/// stampede. Added to what a limit makes them wait anyway.
pub const RETRY_SPREAD_MS: u32 = 5_000;

/// Labels of the refusals that are the request's fault, in the order of `Stats::refused`.
#[must_use]
pub fn refusal_labels() -> Vec<&'static str> {
    wire::error::Refusal::ALL.iter().map(|refusal| refusal.label()).collect()
}
