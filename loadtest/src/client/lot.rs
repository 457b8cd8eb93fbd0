//! How connections are dealt to threads.
//!
//! It owns the arithmetic of shares and refuses everything else. Used by the `desk` and by scenarios whose
//! threads differ.

/// Which part of the conductor's goal a thread sees to: of the connections from `first` up to `last`, dealt in
/// turn among `parts` threads, those of thread `part`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lot {
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) part: u32,
    pub(crate) parts: u32,
}

impl Lot {
    /// All connections are dealt among all threads.
    pub(crate) fn even(thread: u32, threads: u32) -> Lot {
        Lot { first: 0, last: u32::MAX, part: thread, parts: threads }
    }

    /// How many connections this thread should have when there should be `goal` in all.
    pub(crate) fn of(&self, goal: u32) -> u32 {
        share(goal.min(self.last).saturating_sub(self.first), self.part, self.parts)
    }
}

/// How many of `total` connections, dealt in turn, fall to this thread.
pub(crate) fn share(total: u32, thread: u32, threads: u32) -> u32 {
    total / threads + u32::from(thread < total % threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_from_the_first_lot_to_the_last() {
        let work = Lot { first: 0, last: 10, part: 0, parts: 1 };
        let idle = [0, 1].map(|part| Lot { first: 10, last: u32::MAX, part, parts: 2 });
        for (goal, expected) in [(0, [0, 0, 0]), (7, [7, 0, 0]), (10, [10, 0, 0]), (15, [10, 3, 2])] {
            assert_eq!([work.of(goal), idle[0].of(goal), idle[1].of(goal)], expected);
        }
        assert_eq!(Lot::even(1, 3).of(8), 3);
    }

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for (total, threads) in [(0, 3), (1, 3), (50_000, 3), (7, 7), (1_000_000, 56)] {
            let shares: Vec<u32> = (0..threads).map(|thread| share(total, thread, threads)).collect();
            assert_eq!(shares.iter().sum::<u32>(), total);
            assert!(shares.iter().max() <= shares.iter().min().map(|least| least + 1).as_ref());
        }
    }
}
