//! The simulation of a backend's session: app servers that acknowledge in any order, late, twice, never or nonsense, that
//! die, fall silent, say goodbye and come back, all from one seed and on a virtual clock.
//!
//! `random` lets many runs happen, each followed by a rest in which everything must arrive; `cases` are single ones. What
//! must hold is in `world`, checked at each step, and in `Session::audit`. A failed run prints its seed;
//! `SESSION_SEED=… SESSION_STEPS=…` plays it again, and `SESSION_SEEDS=…` plays so many.
#![allow(clippy::unwrap_used)]

mod cases;
mod random;
mod world;
