//! The clock of the process: the only place where shards' time comes from.

use std::time::{Duration, Instant};

use shard::TICK_MS;

/// Time since the program started; a copy shows the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}

/// The tick that a moment falls into. Ticks are counted from 1, so that 0 is before everything.
#[must_use]
pub fn tick(elapsed: Duration) -> u32 {
    (elapsed.as_millis() / u128::from(TICK_MS)) as u32 + 1
}

/// From a moment to the tick after the one it falls into.
#[must_use]
pub fn to_next_tick(elapsed: Duration) -> Duration {
    let tick = Duration::from_millis(u64::from(TICK_MS));
    tick.saturating_sub(Duration::from_nanos((elapsed.as_nanos() % tick.as_nanos()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_a_tenth_of_a_second_and_never_zero() {
        assert_eq!(tick(Duration::ZERO), 1);
        assert_eq!(tick(Duration::from_millis(99)), 1);
        assert_eq!(tick(Duration::from_millis(100)), 2);
        assert_eq!(to_next_tick(Duration::from_millis(130)), Duration::from_millis(70));
        assert_eq!(to_next_tick(Duration::from_millis(200)), Duration::from_millis(100));
    }
}
