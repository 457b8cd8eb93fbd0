//! Where the randomness of a model test comes from, and how it is repeated. Called by each of them once.

use fastrand::Rng;

/// A generator from `STORE_SEED`, or from a new seed that the output of a failing test shows.
#[expect(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
pub(crate) fn rng() -> Rng {
    let seed = match std::env::var("STORE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("replay with STORE_SEED={seed}");
    Rng::with_seed(seed)
}

/// One of a slice.
pub(crate) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
