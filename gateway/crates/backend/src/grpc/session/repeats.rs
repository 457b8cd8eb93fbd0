//! Which ids of orders were taken lately, so that a repetition is dropped. Owns the table and its bounds: a time and a
//! number; beyond the number the oldest is forgotten, which is counted.

use std::collections::{HashSet, VecDeque};

/// Ids of the last minute.
#[derive(Debug)]
pub(super) struct Repeats {
    ids: HashSet<u64>,
    by_age: VecDeque<(u64, u64)>,
    ids_max: usize,
    keep_ms: u64,
    /// Forgotten for want of room.
    pub(super) forgotten: u64,
}

impl Repeats {
    pub(super) fn new(ids_max: usize, keep_ms: u64) -> Self {
        Self { ids: HashSet::new(), by_age: VecDeque::new(), ids_max, keep_ms, forgotten: 0 }
    }

    /// Notes an id. `false` when it was noted before.
    pub(super) fn is_new(&mut self, id: u64, now_ms: u64) -> bool {
        while let Some((since, id)) = self.by_age.front() {
            let is_old = now_ms.saturating_sub(*since) >= self.keep_ms;
            let is_many = self.by_age.len() >= self.ids_max;
            if !is_old && !is_many {
                break;
            }
            self.forgotten += u64::from(!is_old);
            self.ids.remove(id);
            self.by_age.pop_front();
        }
        let is_new = self.ids.insert(id);
        if is_new {
            self.by_age.push_back((now_ms, id));
        }
        is_new
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_in_its_time() {
        let mut repeats = Repeats::new(100, 60_000);
        assert!(repeats.is_new(7, 0));
        assert!(!repeats.is_new(7, 59_999));
        assert!(repeats.is_new(7, 60_000));
        assert!(!repeats.is_new(7, 60_001));
        assert_eq!(repeats.forgotten, 0);
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_forgotten() {
        let mut repeats = Repeats::new(3, 60_000);
        for id in 1..=4 {
            assert!(repeats.is_new(id, id));
        }
        assert_eq!((repeats.forgotten, repeats.len()), (1, 3));
        assert!(!repeats.is_new(4, 5), "still known");
        assert!(repeats.is_new(1, 6), "forgotten");
    }
}
