//! What each subscriber must get next from each publisher, and which messages all subscribers have.
//!
//! It owns the two proofs of a fan-out: nothing missing, doubled or out of order at any subscriber
//! ([`Sequences`]), and the moment the last subscriber has a message ([`Ledger`]). It refuses to know
//! sockets. Used by `fanout`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::fault::Fault;

/// The next sequence number per subscriber and publisher.
#[derive(Debug)]
pub(crate) struct Sequences {
    publishers: usize,
    next: Vec<u32>,
}

impl Sequences {
    /// All begin at zero. Memory: four bytes for each pair.
    pub(crate) fn new(subscribers: usize, publishers: usize) -> Sequences {
        Sequences { publishers, next: vec![0; subscribers * publishers] }
    }

    /// Takes a message that came; returns how many are missing before it. Those are given up then, so that each gap
    /// is seen once.
    ///
    /// # Errors
    /// [`Fault::Stranger`] for an unknown publisher, [`Fault::Double`] for a message it had.
    pub(crate) fn take(&mut self, subscriber: usize, publisher: u32, sequence: u32) -> Result<u32, Fault> {
        let publisher = publisher as usize;
        if publisher >= self.publishers {
            return Err(Fault::Stranger);
        }
        let next = &mut self.next[subscriber * self.publishers + publisher];
        let missing = sequence.checked_sub(*next).ok_or(Fault::Double)?;
        *next = sequence.saturating_add(1);
        Ok(missing)
    }

    /// How many of `published` messages of a publisher this subscriber still lacks.
    pub(crate) fn missing(&self, subscriber: usize, publisher: usize, published: u32) -> u32 {
        published.saturating_sub(self.next[subscriber * self.publishers + publisher])
    }
}

/// Who has got what, shared by all threads: a ring of messages under way for each publisher.
#[derive(Debug)]
pub(crate) struct Ledger {
    subscribers: u32,
    lanes: Vec<Lane>,
}

/// Messages of one publisher that are remembered. Fewer are under way, see [`UNDER_WAY_MAX`].
const RING: usize = 4096;

/// Messages of one publisher under way at once; at the bound it waits. Well below [`RING`], because the
/// threads report deliveries in batches and a message may be seen complete a few turns before an earlier one.
pub(crate) const UNDER_WAY_MAX: u32 = 1024;

#[derive(Debug)]
struct Lane {
    published: AtomicU32,
    complete: AtomicU32,
    delivered: AtomicU64,
    ring: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    deliveries: AtomicU32,
    since_ns: AtomicU64,
}

impl Ledger {
    /// A ledger for this many publishers, each of whose messages goes to this many subscribers.
    pub(crate) fn new(publishers: usize, subscribers: u32) -> Ledger {
        let lane = || Lane {
            published: AtomicU32::new(0),
            complete: AtomicU32::new(0),
            delivered: AtomicU64::new(0),
            ring: (0..RING).map(|_| Entry::default()).collect(),
        };
        Ledger { subscribers, lanes: (0..publishers).map(|_| lane()).collect() }
    }

    /// Notes that a publisher is about to send its next message, meant for this moment; returns its number.
    pub(crate) fn publish(&self, publisher: usize, since_ns: u64) -> u32 {
        let lane = &self.lanes[publisher];
        let sequence = lane.published.load(Ordering::Relaxed);
        debug_assert!(sequence.wrapping_sub(lane.complete.load(Ordering::Relaxed)) < UNDER_WAY_MAX);
        let entry = &lane.ring[sequence as usize % RING];
        entry.deliveries.store(0, Ordering::Relaxed);
        entry.since_ns.store(since_ns, Ordering::Release);
        lane.published.store(sequence + 1, Ordering::Release);
        sequence
    }

    /// Notes deliveries of one message; returns since when it was under way once every subscriber has it.
    pub(crate) fn deliver(&self, publisher: usize, sequence: u32, count: u32) -> Option<u64> {
        let lane = &self.lanes[publisher];
        let entry = &lane.ring[sequence as usize % RING];
        lane.delivered.fetch_add(u64::from(count), Ordering::Relaxed);
        let before = entry.deliveries.fetch_add(count, Ordering::AcqRel);
        (before + count == self.subscribers).then(|| {
            lane.complete.fetch_add(1, Ordering::AcqRel);
            entry.since_ns.load(Ordering::Acquire)
        })
    }

    /// Messages of a publisher so far.
    pub(crate) fn published(&self, publisher: usize) -> u32 {
        self.lanes[publisher].published.load(Ordering::Acquire)
    }

    /// Messages of a publisher that not every subscriber has.
    pub(crate) fn under_way(&self, publisher: usize) -> u32 {
        let lane = &self.lanes[publisher];
        let complete = lane.complete.load(Ordering::Acquire);
        lane.published.load(Ordering::Acquire).wrapping_sub(complete)
    }

    /// Messages that every subscriber has, all publishers together.
    pub(crate) fn complete(&self) -> u64 {
        self.lanes.iter().map(|lane| u64::from(lane.complete.load(Ordering::Acquire))).sum()
    }

    /// For each message of a publisher that not every subscriber has, as far as the ring remembers: since when it was
    /// under way.
    pub(crate) fn incomplete(&self, publisher: usize) -> impl Iterator<Item = u64> {
        let lane = &self.lanes[publisher];
        let published = lane.published.load(Ordering::Acquire);
        let remembered = published.saturating_sub(RING as u32)..published;
        let entries = remembered.map(|sequence| &lane.ring[sequence as usize % RING]);
        let short = entries.filter(|entry| entry.deliveries.load(Ordering::Acquire) < self.subscribers);
        short.map(|entry| entry.since_ns.load(Ordering::Acquire))
    }

    /// Deliveries so far, all publishers and subscribers together: whether anything still moves.
    pub(crate) fn delivered(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.delivered.load(Ordering::Relaxed)).sum()
    }

    /// How many publishers there are.
    pub(crate) fn publishers(&self) -> usize {
        self.lanes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_with_what_is_missing_before_them_and_never_twice() {
        let mut sequences = Sequences::new(2, 2);
        assert_eq!(sequences.take(0, 0, 0), Ok(0));
        assert_eq!(sequences.take(0, 0, 1), Ok(0));
        assert_eq!(sequences.take(0, 0, 1), Err(Fault::Double));
        assert_eq!(sequences.take(0, 0, 4), Ok(2), "it came, and two before it did not");
        assert_eq!(sequences.take(0, 0, 5), Ok(0), "a gap is seen once");
        assert_eq!(sequences.take(0, 0, 3), Err(Fault::Double), "what comes late comes out of order");
        assert_eq!(sequences.take(0, 2, 0), Err(Fault::Stranger));
        assert_eq!(sequences.take(0, 1, u32::MAX), Ok(u32::MAX), "a number that a server made up");
    }

    #[test]
    fn subscribers_and_publishers_do_not_share_a_sequence() {
        let mut sequences = Sequences::new(2, 2);
        assert_eq!(sequences.take(0, 0, 0), Ok(0));
        assert_eq!(sequences.take(0, 1, 0), Ok(0));
        assert_eq!(sequences.take(1, 0, 0), Ok(0));
        assert_eq!(sequences.missing(0, 0, 3), 2);
        assert_eq!(sequences.missing(1, 1, 3), 3);
    }

    #[test]
    fn a_message_is_complete_with_its_last_subscriber() {
        let ledger = Ledger::new(1, 3);
        assert_eq!(ledger.publish(0, 77), 0);
        assert_eq!(ledger.publish(0, 88), 1);
        assert_eq!(ledger.deliver(0, 0, 2), None);
        assert_eq!(ledger.deliver(0, 1, 2), None);
        assert_eq!((ledger.under_way(0), ledger.delivered()), (2, 4));
        assert_eq!(ledger.deliver(0, 0, 1), Some(77));
        assert_eq!(ledger.complete(), 1);
        assert_eq!(ledger.incomplete(0).collect::<Vec<_>>(), [88]);
        assert_eq!(ledger.deliver(0, 1, 1), Some(88));
        assert_eq!(ledger.under_way(0), 0);
        assert_eq!(ledger.published(0), 2);
    }

    #[test]
    fn the_ring_is_used_again() {
        let ledger = Ledger::new(1, 1);
        for round in 0..10_000 {
            let sequence = ledger.publish(0, round);
            assert_eq!(ledger.deliver(0, sequence, 1), Some(round));
        }
        assert_eq!(ledger.complete(), 10_000);
    }
}
