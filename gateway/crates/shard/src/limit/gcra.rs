//! How fast something may go on: a leaky bucket in integers, whose whole state is four bytes.
//!
//! The state is the moment at which the bucket will be empty, on a clock that counts what the rate lets through (so a
//! bucket that has run empty looks like one that never was). Pure: the caller keeps the state and knows the tick. It
//! refuses to know what is counted. Called for each message and for each connect, and checked against a naive twin.

/// Ticks in a second.
const TICKS: u64 = 10;
/// How far apart two moments may be for their order to be known; half of what the state can tell.
const HORIZON: u32 = 1 << 31;
/// Most that a bucket holds, debts included.
const LEVEL_MAX: u32 = 1 << 30;
/// The horizon is at least this far away: who keeps states looks at each of them more often ([`Rate::settle`]).
pub const HORIZON_TICKS_MIN: u32 = 3_000;

/// How much of a rate is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Nothing, until [`Rate::wait_ticks`] have passed.
    None,
    /// Less than half of the burst: time to go by small steps.
    Little,
    /// More than that.
    Plenty,
}

/// A rate and its burst: a bucket that holds `burst` and loses `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    /// What one step of the clock stands for. More than one only at rates beyond seven million a second.
    quantum: u32,
    /// In quanta.
    burst: u32,
}

impl Rate {
    /// So many a second, and so many at once; zero is taken for one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let per_second = per_second.max(1);
        let in_horizon = u64::from(per_second) * u64::from(HORIZON_TICKS_MIN) / TICKS;
        let quantum = in_horizon.div_ceil(u64::from(HORIZON)).max(1) as u32;
        Self { per_second, quantum, burst: (burst / quantum).clamp(1, LEVEL_MAX / 2) }
    }

    /// The clock of this rate at a tick.
    fn clock(self, now: u32) -> u32 {
        (u64::from(now) * u64::from(self.per_second) / (TICKS * u64::from(self.quantum))) as u32
    }

    /// Quanta for an amount, to the nearest.
    fn quanta(self, amount: u32) -> u32 {
        if self.quantum == 1 { amount } else { amount.saturating_add(self.quantum / 2) / self.quantum }
    }

    /// What is in the bucket, in quanta.
    fn level(self, state: u32, clock: u32) -> u32 {
        let left = state.wrapping_sub(clock);
        if state == 0 || left >= HORIZON { 0 } else { left }
    }

    /// The state of a bucket with so much in it. Zero is the empty one, so the moment zero is told as the next.
    fn state(level: u32, clock: u32) -> u32 {
        if level == 0 { 0 } else { clock.wrapping_add(level.min(LEVEL_MAX)).max(1) }
    }

    /// How much room there is.
    #[must_use]
    pub fn room(self, state: u32, now: u32) -> Room {
        if state == 0 {
            return Room::Plenty;
        }
        let level = self.level(state, self.clock(now));
        if level >= self.burst {
            Room::None
        } else if level > self.burst / 2 {
            Room::Little
        } else {
            Room::Plenty
        }
    }

    /// What is in the bucket, and what it holds.
    #[must_use]
    pub fn filled(self, state: u32, now: u32) -> (u32, u32) {
        let level = self.level(state, self.clock(now));
        (level.saturating_mul(self.quantum), self.burst.saturating_mul(self.quantum))
    }

    /// Whether nothing is in the bucket: its state means nothing any more.
    #[must_use]
    pub fn is_empty(self, state: u32, now: u32) -> bool {
        state == 0 || self.level(state, self.clock(now)) == 0
    }

    /// The state with `amount` more in it, if that fits.
    #[must_use]
    pub fn take(self, state: u32, now: u32, amount: u32) -> Option<u32> {
        let clock = self.clock(now);
        let level = self.level(state, clock).saturating_add(self.quanta(amount));
        (level <= self.burst).then(|| Self::state(level, clock))
    }

    /// The state with `amount` more in it, whether it fits or not: a debt that only time pays.
    #[must_use]
    pub fn owe(self, state: u32, now: u32, amount: u32) -> u32 {
        let clock = self.clock(now);
        Self::state(self.level(state, clock).saturating_add(self.quanta(amount)), clock)
    }

    /// Ticks until something fits, at least one.
    #[must_use]
    pub fn wait_ticks(self, state: u32, now: u32) -> u32 {
        let level = self.level(state, self.clock(now));
        let over = u64::from((level + 1).saturating_sub(self.burst));
        let ticks = (over * TICKS * u64::from(self.quantum)).div_ceil(u64::from(self.per_second));
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }

    /// The state to keep when it was last looked at so many ticks ago: zero once the bucket is empty. Whoever looks
    /// at each state more often than [`HORIZON_TICKS_MIN`], or says how long he did not, never takes an old one for new.
    #[must_use]
    pub fn settle(self, state: u32, now: u32, unseen_ticks: u32) -> u32 {
        if unseen_ticks >= HORIZON_TICKS_MIN && u64::from(unseen_ticks) >= self.horizon_ticks() {
            return 0;
        }
        if self.is_empty(state, now) { 0 } else { state }
    }

    /// Ticks after which any bucket is empty, whatever its state says.
    fn horizon_ticks(self) -> u64 {
        u64::from(LEVEL_MAX) * TICKS * u64::from(self.quantum) / u64::from(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a bucket is, without thrift: tenths, as each tick lets a tenth of the rate through.
    struct Twin {
        per_second: u64,
        burst: u64,
        tenths: u64,
        now: u32,
    }

    impl Twin {
        fn advance(&mut self, now: u32) {
            let gone = u64::from(now - self.now) * self.per_second;
            self.tenths = self.tenths.saturating_sub(gone);
            self.now = now;
        }

        fn level(&self) -> u64 {
            self.tenths / 10
        }
    }

    #[test]
    fn it_agrees_with_a_naive_bucket_to_one_quantum_at_any_tick_of_a_long_life() {
        let mut rng = fastrand::Rng::with_seed(11);
        for case in 0..400 {
            let per_second = [1, 3, 7, 10, 99, 1000, 65_537, 7_000_000][case % 8];
            let burst = rng.u32(1..5000).max(per_second / 20);
            let rate = Rate::new(per_second, burst);
            assert_eq!(rate.quantum, 1);
            // Near the wrap of the tick's product as well as at the start.
            let mut now = if rng.bool() { rng.u32(..1000) } else { u32::MAX - rng.u32(100_000..2_000_000) };
            let mut twin = Twin { per_second: per_second.into(), burst: burst.into(), tenths: 0, now };
            let mut state = 0;
            for _ in 0..500 {
                let quiet = if rng.u8(..10) == 0 { rng.u32(..2900) } else { rng.u32(..4) };
                now = now.saturating_add(quiet);
                twin.advance(now);
                state = rate.settle(state, now, quiet);
                let amount = rng.u32(1..=1 + burst / 3);
                let would_be = twin.level() + u64::from(amount);
                match rate.take(state, now, amount) {
                    Some(next) => {
                        assert!(would_be <= twin.burst + 1, "case {case}: {would_be} over {burst}");
                        state = next;
                        twin.tenths += u64::from(amount) * 10;
                    }
                    None => assert!(would_be + 1 > twin.burst, "case {case}: {would_be} within {burst}"),
                }
                let level = u64::from(rate.level(state, rate.clock(now)));
                assert!(level.abs_diff(twin.level()) <= 1, "case {case}: {level} for {}", twin.level());
                // Both lose the fraction of a tick; it must not add up.
                twin.tenths = twin.tenths % 10 + level * 10;
            }
        }
    }

    #[test]
    fn after_the_wait_something_fits_and_a_tick_earlier_nothing() {
        let mut rng = fastrand::Rng::with_seed(12);
        for _ in 0..2000 {
            let rate = Rate::new(rng.u32(1..3000), rng.u32(1..1000));
            let now = rng.u32(..1 << 30);
            let state = rate.owe(0, now, rng.u32(1..20_000));
            if rate.room(state, now) > Room::None {
                continue;
            }
            let wait = rate.wait_ticks(state, now);
            assert!(rate.room(state, now + wait) > Room::None, "{rate:?}");
            // One more may be gone by the tick before, as ticks and the clock's steps do not meet.
            assert!(
                wait < 3 || rate.room(state, now + wait - 2 - TICKS as u32 / rate.per_second) == Room::None,
                "{rate:?}"
            );
        }
    }

    #[test]
    fn a_debt_is_paid_in_full() {
        let rate = Rate::new(100, 50);
        let mut state = 0;
        let mut let_through = 0;
        for now in 0..1000 {
            if rate.room(state, now) > Room::None {
                state = rate.owe(state, now, 300);
                let_through += 300;
            }
        }
        assert!((9_900..=10_600).contains(&let_through), "100 s at 100 a second let {let_through} through");
    }

    #[test]
    fn a_state_from_beyond_the_horizon_is_an_empty_bucket() {
        let rate = Rate::new(7_000_000, 1000);
        let state = rate.take(0, 5, 1000).unwrap();
        // 2^32 steps later the same clock comes round.
        let round = 5 + ((1u64 << 32) * 10 / 7_000_000) as u32;
        assert!(rate.level(state, rate.clock(round)) > 0, "which is why it has to be settled");
        assert_eq!(rate.settle(state, round, round - 5), 0);
        assert_eq!(rate.settle(state, 8, 3), 0);
        assert_eq!(rate.settle(state, 5, 0), state);
    }

    #[test]
    fn rates_beyond_the_clock_count_in_quanta() {
        let rate = Rate::new(1 << 31, 1 << 30);
        assert!(rate.quantum > 1);
        let state = rate.take(0, 100, 1 << 29).unwrap();
        assert!(!rate.is_empty(state, 101) && rate.is_empty(state, 104));
    }
}
