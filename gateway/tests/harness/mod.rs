//! What the tests of the whole program share: a gateway of one's own as a child process, clients over real sockets,
//! an HTTP caller, and waiting for conditions. Refuses to look inside the program: it knows what a user knows. Used
//! by the test files beside this folder, each of which promises its users something.
#![allow(dead_code, unused_imports, reason = "every test file uses its own part of this")]
#![allow(unreachable_pub, reason = "every test file is a crate of its own")]
#![allow(clippy::unwrap_used)]

mod authority;
pub(crate) mod backend;
mod bystander;
mod cable;
mod client;
pub(crate) mod decider;
mod example;
mod halt;
mod http;
mod joining;
mod launch;
mod metrics;
mod nats;
mod raw;
mod redis;
mod servers;

use std::time::{Duration, Instant};

pub(crate) use authority::Authority;
pub(crate) use bystander::Bystander;
pub(crate) use cable::Cable;
pub(crate) use client::Client;
pub(crate) use decider::Decider;
pub(crate) use example::{Example, example_configuration, root};
pub(crate) use halt::Halted;
pub(crate) use http::{Answer, Http};
pub(crate) use joining::{BusApp, BusKind, BusServer};
pub(crate) use launch::{Finished, Gateway, program, program_with_descriptors};
pub(crate) use metrics::Metrics;
pub(crate) use nats::{Nats, NatsMessage};
pub(crate) use raw::{BINARY, CLOSE, PING, PONG, Raw, TEXT, frame, upgrade_request};
pub(crate) use redis::{Entry, Redis, RedisServer, Value};
pub(crate) use servers::{NatsServer, free_port};

/// How long anything may take before a test gives up on it: far beyond what it takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is something, and gives up with `what` was awaited.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::park_timeout(PAUSE);
    }
}
