//! Every structure beside a naive twin, under the same random operations, compared after each of them.
//!
//! `STORE_SEED=<number> cargo test -p store --test model` replays a failure; the number is in its output.
#![allow(clippy::unwrap_used)]

mod backlog;
mod channels;
mod conns;
mod seed;
mod wheel;
