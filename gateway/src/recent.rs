//! Owns the endings of late: a ring of the configured length that answers "why was I cut off?" after the fact. The
//! oldest goes when a new one comes. Refuses to be a log: it is memory, and gone with the process. Filled by the log of
//! endings as events arrive, searched by the api.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bridge::Ending;

/// One ending and when the program was told of it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Milliseconds since 1970; at most a tick or two behind the end itself.
    pub(crate) at_ms: u64,
    /// What happened.
    pub(crate) ending: Ending,
}

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The newest first.
    pub(crate) endings: Vec<Kept>,
    /// Whether there are older ones that match, too.
    pub(crate) has_more: bool,
    /// When the oldest ending that is kept was told, matching or not: nothing is known of what was before.
    pub(crate) oldest_ms: Option<u64>,
}

/// The ring. Its memory grows with what it keeps, up to its capacity.
#[derive(Debug)]
pub(crate) struct Recent {
    kept: Mutex<VecDeque<Kept>>,
    capacity: usize,
    left_out: AtomicU64,
}

impl Recent {
    /// A ring that keeps so many endings; zero keeps none.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { kept: Mutex::new(VecDeque::new()), capacity, left_out: AtomicU64::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an ending, in place of the oldest where there is no more room.
    pub(crate) fn keep(&self, at_ms: u64, ending: Ending) {
        if self.capacity == 0 {
            return;
        }
        let mut kept = self.kept();
        if kept.len() >= self.capacity {
            kept.pop_front();
        }
        kept.push_back(Kept { at_ms, ending });
    }

    /// Up to `limit` of those that are wanted.
    pub(crate) fn search(&self, limit: usize, wanted: impl Fn(&Kept) -> bool) -> Found {
        let kept = self.kept();
        let mut matching = kept.iter().rev().filter(|one| wanted(one));
        let endings = matching.by_ref().take(limit).cloned().collect();
        let has_more = matching.next().is_some();
        Found { endings, has_more, oldest_ms: kept.front().map(|oldest| oldest.at_ms) }
    }

    /// The log had no room for the line of one.
    pub(crate) fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Endings without a line of their own in the log, because there were too many in a second.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bridge::command::Traffic;
    use bridge::{Address, EndReason};

    use super::*;

    fn ending(slot: u32) -> Ending {
        Ending {
            address: Address { shard: 0, slot, generation: 1 },
            peer: IpAddr::from([127, 0, 0, 1]),
            route: 0,
            principal: None,
            reason: EndReason::ClientClose,
            age_ticks: 0,
            traffic: Traffic::default(),
            sent_code: None,
            received_code: None,
        }
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room_and_the_newest_is_found_first() {
        let recent = Recent::new(3);
        for slot in 0..5 {
            recent.keep(u64::from(slot) * 100, ending(slot));
        }
        let all = recent.search(10, |_| true);
        let slots: Vec<u32> = all.endings.iter().map(|kept| kept.ending.address.slot).collect();
        assert_eq!((slots, all.has_more, all.oldest_ms), (vec![4, 3, 2], false, Some(200)));
        let two = recent.search(1, |kept| kept.at_ms < 400);
        assert_eq!((two.endings[0].at_ms, two.has_more), (300, true));
    }

    #[test]
    fn a_ring_of_none_keeps_none() {
        let recent = Recent::new(0);
        recent.keep(1, ending(1));
        assert!(recent.search(10, |_| true).oldest_ms.is_none());
    }
}
