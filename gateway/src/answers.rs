//! Counters of what a listener answers, as a table: what was asked for, and how it was answered; and of the connections it
//! holds. Both sides are bounded, because each pair is a series.
//!
//! Owns the cells and refuses to know what they stand for: HTTP and gRPC say that by their [`Labels`]. Counted by their
//! dispatches and listeners, read by the metrics.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// What rows and columns stand for.
pub(crate) trait Labels {
    /// What may be asked for.
    const ASKED: &'static [&'static str];
    /// How that may be answered.
    const ANSWERED: &'static [&'static str];
}

/// The counters; several threads write them.
#[derive(Debug)]
pub(crate) struct Answers<L> {
    given: Box<[AtomicU64]>,
    connections: AtomicU64,
    labels: PhantomData<fn() -> L>,
}

/// A connection that is held; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a AtomicU64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<L: Labels> Default for Answers<L> {
    fn default() -> Self {
        let given = (0..L::ASKED.len() * L::ANSWERED.len()).map(|_| AtomicU64::new(0)).collect();
        Self { given, connections: AtomicU64::new(0), labels: PhantomData }
    }
}

impl<L: Labels> Answers<L> {
    /// An answer was given: its places among the labels.
    pub(crate) fn count(&self, asked: usize, answered: usize) {
        debug_assert!(asked < L::ASKED.len() && answered < L::ANSWERED.len(), "{asked} {answered}");
        if let Some(cell) = self.given.get(asked * L::ANSWERED.len() + answered) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection was accepted.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Held(&self.connections)
    }

    /// Connections held.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Every series: its place, what was asked for, how it was answered.
    pub(crate) fn series() -> impl Iterator<Item = (usize, &'static str, &'static str)> {
        let pairs =
            L::ASKED.iter().flat_map(|asked| L::ANSWERED.iter().map(move |answered| (*asked, *answered)));
        pairs.enumerate().map(|(place, (asked, answered))| (place, asked, answered))
    }

    /// The value at a place of [`Answers::series`].
    pub(crate) fn value(&self, place: usize) -> u64 {
        self.given.get(place).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
impl<L: Labels> Answers<L> {
    /// What has been counted, by its labels.
    pub(crate) fn counted(&self) -> Vec<(&'static str, &'static str, u64)> {
        let all = Self::series().map(|(place, asked, answered)| (asked, answered, self.value(place)));
        all.filter(|(_, _, times)| *times > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Oracle {}

    impl Labels for Oracle {
        const ASKED: &'static [&'static str] = &["weather", "luck"];
        const ANSWERED: &'static [&'static str] = &["yes", "no", "perhaps"];
    }

    #[test]
    fn each_pair_of_labels_has_a_cell_of_its_own() {
        let answers = Answers::<Oracle>::default();
        for asked in 0..2 {
            for answered in 0..3 {
                (0..=asked * 3 + answered).for_each(|_| answers.count(asked, answered));
            }
        }
        let expected = [
            ("weather", "yes", 1),
            ("weather", "no", 2),
            ("weather", "perhaps", 3),
            ("luck", "yes", 4),
            ("luck", "no", 5),
            ("luck", "perhaps", 6),
        ];
        assert_eq!(answers.counted(), expected);
    }

    #[test]
    fn a_connection_counts_while_it_is_held() {
        let answers = Answers::<Oracle>::default();
        let held = answers.hold();
        assert_eq!(answers.connections(), 1);
        drop(held);
        assert_eq!(answers.connections(), 0);
    }
}
