//! System calls for shards: the event loop, listeners, sockets, descriptor tables, wakers, freed memory and the clock.
//!
//! Owns every descriptor of a client; refuses to decide anything about protocols, limits or backends, and has no
//! `async`. The program builds a [`Prepared`] per shard before any thread starts, and each shard's thread runs
//! [`event_loop::run`].
#![deny(unsafe_code)]

pub mod clock;
pub mod descriptors;
pub mod event_loop;
pub mod listener;
pub mod memory;
pub mod socket;
#[allow(unsafe_code, reason = "calls that no dependency wraps")]
mod sys;
pub mod waker;

pub use clock::Clock;
pub use event_loop::Prepared;
pub use listener::Listener;
pub use socket::{Socket, SocketNet};
