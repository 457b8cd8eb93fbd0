//! The simulation: whole shards over a scripted network and a virtual clock, everything from one seed.
//!
//! `random` lets many runs happen, each followed by a rest, in which everybody must have heard what was said, and by a
//! drain, after which nothing may be left. The other modules with tests are single cases. Invariants are checked after
//! every turn by `Shard::audit`. A failed run prints its seed; `SHARD_SEED=… SHARD_STEPS=…` plays it again, and
//! `SHARD_RUNS=…` plays more than a test has time for.
#![allow(clippy::unwrap_used)]

mod api;
mod authorize;
mod bad_input;
mod blocks;
mod burst;
mod client;
mod drain;
mod dropped;
mod flow;
mod frames;
mod kinds;
mod limits;
mod lives;
mod looks;
mod model;
mod pressure;
mod proxied;
mod random;
mod reload;
mod script;
mod upstream;
mod weather;
mod world;
