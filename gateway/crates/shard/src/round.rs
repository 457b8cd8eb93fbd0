//! A round of goodbyes: how many connections of a table have been visited by now, and which of those are told to go.
//!
//! Owns the pace, which is even over a window, and the share. Refuses to know connections: it counts visits and keeps
//! the slot to go on at. Used by drain and shed.

/// Shares are told in ten-thousandths.
pub(crate) const WHOLE: u16 = 10_000;

/// One pass over the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// The tick at which it began, and how many it is spread over.
    from: u32,
    ticks: u32,
    /// Connections there were, and those of them that were visited.
    planned: u32,
    visited: u32,
    /// Everybody below this slot has been visited.
    pub(crate) cursor: u32,
    per_ten_thousand: u16,
    /// What has accrued of the next one to be told: in ten-thousandths.
    credit: u32,
}

impl Round {
    /// A round that begins now, over a table that holds `planned` connections.
    pub(crate) const fn new(now: u32, ticks: u32, planned: u32, per_ten_thousand: u16) -> Self {
        // Half of one to begin with: the sum is rounded, not cut.
        let credit = WHOLE as u32 / 2;
        Self { from: now, ticks, planned, visited: 0, cursor: 0, per_ten_thousand, credit }
    }

    /// How many it will tell to go, if nobody leaves before.
    pub(crate) const fn tells(&self) -> u32 {
        let parts = self.planned as u64 * self.per_ten_thousand as u64 + WHOLE as u64 / 2;
        (parts / WHOLE as u64) as u32
    }

    /// Visits that are due by now and not made. The first is due at once, the last before the window ends.
    pub(crate) fn due(&self, now: u32) -> u32 {
        let elapsed = u64::from(now.saturating_sub(self.from)) + 1;
        let by_now = match u64::from(self.ticks) {
            ticks if elapsed >= ticks => u64::from(self.planned),
            ticks => (u64::from(self.planned) * elapsed).div_ceil(ticks),
        };
        (by_now as u32).saturating_sub(self.visited)
    }

    /// Notes a visit; whether this one is told to go.
    pub(crate) fn takes(&mut self) -> bool {
        self.visited += 1;
        self.credit += u32::from(self.per_ten_thousand);
        let takes = self.credit >= u32::from(WHOLE);
        if takes {
            self.credit -= u32::from(WHOLE);
        }
        takes
    }

    /// Whether there is nobody left to visit in a table that ends at this slot.
    pub(crate) const fn is_over(&self, end: u32) -> bool {
        self.cursor >= end || self.visited >= self.planned
    }

    /// Makes the rest of it in at most so many ticks from now.
    pub(crate) fn hurry(&mut self, now: u32, ticks: u32) {
        let left = self.ticks.saturating_sub(now.saturating_sub(self.from));
        (self.from, self.ticks) = (now, ticks.min(left));
        (self.planned, self.visited) = (self.planned.saturating_sub(self.visited), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visits of each tick, with nobody leaving in between.
    fn visits(round: &mut Round, ticks: std::ops::Range<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        for now in ticks {
            let due = round.due(now);
            assert!((0..due).all(|_| round.takes()));
            all.push(due);
        }
        all
    }

    #[test]
    fn visits_are_even_from_the_first_tick_to_the_last() {
        let mut round = Round::new(100, 8, 20, WHOLE);
        let visits = visits(&mut round, 100..110);
        assert_eq!(visits.iter().sum::<u32>(), 20);
        assert!(visits[..8].iter().all(|visits| (2..=3).contains(visits)), "{visits:?}");
        assert!(round.is_over(u32::MAX));
    }

    #[test]
    fn a_single_connection_is_visited_at_once() {
        assert_eq!(Round::new(5, 600, 1, WHOLE).due(5), 1);
        assert_eq!(Round::new(5, 0, 7, WHOLE).due(5), 7);
        assert_eq!(Round::new(5, 10, 0, WHOLE).due(99), 0);
    }

    #[test]
    fn a_share_is_taken_evenly_out_of_the_table_and_rounded() {
        for (planned, share, tells) in [(1000, 2500, 250), (3, 5000, 2), (10, 1, 0), (4, WHOLE, 4), (9, 0, 0)]
        {
            let mut round = Round::new(0, 10, planned, share);
            assert_eq!(round.tells(), tells);
            let told: Vec<bool> = (0..planned).map(|_| round.takes()).collect();
            assert_eq!(told.iter().filter(|told| **told).count() as u32, tells, "{planned} {share}");
        }
        let mut round = Round::new(0, 10, 100, 5000);
        let first: u32 = (0..50).map(|_| u32::from(round.takes())).sum();
        assert_eq!(first, 25);
    }

    #[test]
    fn one_that_is_hurried_makes_the_rest_in_the_shorter_time() {
        let mut round = Round::new(0, 100, 100, WHOLE);
        assert_eq!(visits(&mut round, 0..50).iter().sum::<u32>(), 50);
        round.hurry(50, 10);
        assert_eq!(visits(&mut round, 50..60).iter().sum::<u32>(), 50);
        let mut round = Round::new(0, 10, 100, WHOLE);
        round.hurry(5, 100);
        assert_eq!(round.due(10), 100, "it is never made longer");
    }
}
