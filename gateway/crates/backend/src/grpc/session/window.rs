//! What is under way on one stream: which positions are not acknowledged, and whose they are. Owns the arithmetic of
//! positions and refuses to know events. Memory is bounded by twice the stream's window, however long the oldest waits.

/// A position is not one that was sent, or a range is upside down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeverSent;

/// Positions that are not acknowledged, ascending, each with the number of its lane.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Ascending; those with lane `None` are done.
    flights: std::collections::VecDeque<(u64, Option<u32>)>,
    done: usize,
    sent: u64,
}

impl Window {
    /// The next position, under way for this lane from now on.
    pub(super) fn send(&mut self, lane: u32) -> u64 {
        self.sent += 1;
        self.flights.push_back((self.sent, Some(lane)));
        self.sent
    }

    /// Events under way.
    pub(super) fn len(&self) -> usize {
        self.flights.len() - self.done
    }

    /// Places held, done ones included.
    pub(super) fn places(&self) -> usize {
        self.flights.len()
    }

    /// Whether a range may be acknowledged.
    pub(super) const fn check(&self, first: u64, last: u64) -> Result<(), NeverSent> {
        if first == 0 || first > last || last > self.sent { Err(NeverSent) } else { Ok(()) }
    }

    /// Takes what is under way from `first` to `last`, and gives each position and its lane to `take`.
    pub(super) fn acknowledge(&mut self, first: u64, last: u64, mut take: impl FnMut(u64, u32)) {
        let start = self.flights.partition_point(|(position, _)| *position < first);
        for (position, lane) in self.flights.range_mut(start..) {
            if *position > last {
                break;
            }
            if let Some(lane) = lane.take() {
                self.done += 1;
                take(*position, lane);
            }
        }
        self.compact();
    }

    /// Forgets what is under way of a lane that `wanted` names.
    pub(super) fn forget(&mut self, mut wanted: impl FnMut(u32) -> bool) {
        self.flights.retain(|(_, lane)| lane.is_some_and(|lane| !wanted(lane)));
        self.done = 0;
    }

    fn compact(&mut self) {
        while let Some((_, None)) = self.flights.front() {
            self.flights.pop_front();
            self.done -= 1;
        }
        if self.done > self.len() {
            self.flights.retain(|(_, lane)| lane.is_some());
            self.done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(window: &mut Window, first: u64, last: u64) -> Vec<(u64, u32)> {
        let mut taken = Vec::new();
        window.acknowledge(first, last, |position, lane| taken.push((position, lane)));
        taken
    }

    #[test]
    fn a_position_is_taken_once_in_whatever_order() {
        let mut window = Window::default();
        for lane in 10..16 {
            window.send(lane);
        }
        assert_eq!(taken(&mut window, 3, 4), [(3, 12), (4, 13)]);
        assert_eq!(taken(&mut window, 1, 5), [(1, 10), (2, 11), (5, 14)]);
        assert_eq!(taken(&mut window, 1, 6), [(6, 15)]);
        assert_eq!((window.len(), window.places()), (0, 0));
    }

    #[test]
    fn what_was_never_sent_is_nonsense() {
        let mut window = Window::default();
        window.send(0);
        assert_eq!(window.check(1, 1), Ok(()));
        for (first, last) in [(0, 1), (1, 2), (2, 1), (2, 2), (1, u64::MAX)] {
            assert_eq!(window.check(first, last), Err(NeverSent), "{first}..={last}");
        }
    }

    #[test]
    fn one_that_waits_for_ever_does_not_grow_the_window() {
        let mut window = Window::default();
        window.send(7);
        for position in 2..10_000 {
            window.send(8);
            assert_eq!(taken(&mut window, position, position).len(), 1);
            assert!(window.places() <= 4, "{}", window.places());
        }
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn what_is_forgotten_is_not_taken() {
        let mut window = Window::default();
        for lane in [1, 2, 1] {
            window.send(lane);
        }
        window.forget(|lane| lane == 1);
        assert_eq!(taken(&mut window, 1, 3), [(2, 2)]);
    }
}
