//! What the conductor and the client threads tell each other: one goal, one phase, one tally per thread.
//!
//! It owns the atomics and nothing else. It refuses locks and queues: the conductor states what it wants, the
//! threads follow at their next turn, and what they did is read from their tallies at any moment.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::buckets::{BUCKETS, Counted, bucket_of};

/// Where a run stands. Set by the conductor only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connections are opened and closed to meet the goal; no messages.
    Ramp = 0,
    /// Messages flow, nothing is recorded.
    Warm = 1,
    /// Messages flow and latencies are recorded.
    Measure = 2,
    /// No new messages; what was meant before goes on until it is done.
    Settle = 3,
    /// Threads end.
    Finish = 4,
}

/// Shared by the conductor and all client threads.
#[derive(Debug)]
pub(crate) struct Board {
    goal: AtomicU32,
    phase: AtomicU8,
    /// Bits of a float; zero is no rate.
    rate_per_s: AtomicU64,
    tallies: Box<[Tally]>,
}

/// What one thread did so far. Each on its own cache lines, for the threads write them every turn.
#[derive(Debug)]
#[repr(align(128))]
struct Tally {
    thread_id: AtomicI32,
    /// The phase that the thread has taken a whole turn in.
    seen: AtomicU8,
    open: AtomicU32,
    busy: AtomicU32,
    attempts: AtomicU64,
    upgrades: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
    pings: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    owed: AtomicU64,
    latencies: [AtomicU32; BUCKETS],
}

impl Tally {
    fn new() -> Tally {
        Tally {
            thread_id: AtomicI32::new(0),
            seen: AtomicU8::new(u8::MAX),
            open: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            attempts: AtomicU64::new(0),
            upgrades: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            latencies: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

/// The sums of a thread, or of all threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that are open now.
    pub(crate) open: u32,
    /// Connections that are being opened or closed now.
    pub(crate) busy: u32,
    /// Connections begun.
    pub(crate) attempts: u64,
    /// Handshakes completed.
    pub(crate) upgrades: u64,
    /// Connections that never became open.
    pub(crate) failures: u64,
    /// Connections that ended while they were wanted.
    pub(crate) lost: u64,
    /// Pings answered.
    pub(crate) pings: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Messages received and found right.
    pub(crate) received: u64,
    /// Work that was meant for the window that is over and has not begun, because something under way holds it up.
    pub(crate) owed: u64,
}

impl Board {
    /// A board for this many threads: goal zero, phase [`Phase::Ramp`].
    pub(crate) fn new(threads: usize) -> Board {
        Board {
            goal: AtomicU32::new(0),
            phase: AtomicU8::new(Phase::Ramp as u8),
            rate_per_s: AtomicU64::new(0),
            tallies: (0..threads).map(|_| Tally::new()).collect(),
        }
    }

    /// How many connections there should be, all threads together.
    pub(crate) fn goal(&self) -> u32 {
        self.goal.load(Ordering::Acquire)
    }

    /// States how many connections there should be.
    pub(crate) fn set_goal(&self, goal: u32) {
        self.goal.store(goal, Ordering::Release);
    }

    /// Work per second that is wanted, all threads together; `None` is as much as the server does.
    pub(crate) fn rate_per_s(&self) -> Option<f64> {
        Some(f64::from_bits(self.rate_per_s.load(Ordering::Acquire))).filter(|&rate| rate > 0.0)
    }

    /// States how much work per second is wanted, before the phase in which it flows.
    pub(crate) fn set_rate_per_s(&self, rate: Option<f64>) {
        self.rate_per_s.store(rate.unwrap_or(0.0).to_bits(), Ordering::Release);
    }

    /// Where the run stands.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Ramp,
            1 => Phase::Warm,
            2 => Phase::Measure,
            3 => Phase::Settle,
            _ => Phase::Finish,
        }
    }

    /// States where the run stands.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Notes that a thread has taken a whole turn in this phase, and published what it did.
    pub(crate) fn set_seen(&self, thread: usize, phase: Phase) {
        self.tallies[thread].seen.store(phase as u8, Ordering::Release);
    }

    /// Whether every thread has taken a turn in this phase: what the phase before it did is in the counts.
    pub(crate) fn all_saw(&self, phase: Phase) -> bool {
        self.tallies.iter().all(|tally| tally.seen.load(Ordering::Acquire) == phase as u8)
    }

    /// How many threads write here.
    pub(crate) fn threads(&self) -> usize {
        self.tallies.len()
    }

    /// Notes the kernel's id of a thread, by which its CPU time is read.
    pub(crate) fn set_thread_id(&self, thread: usize, id: i32) {
        self.tallies[thread].thread_id.store(id, Ordering::Relaxed);
    }

    /// The kernel's ids of all threads.
    pub(crate) fn thread_ids(&self) -> Vec<i32> {
        self.tallies.iter().map(|tally| tally.thread_id.load(Ordering::Relaxed)).collect()
    }

    /// A thread's counts, published once per turn.
    pub(crate) fn publish(&self, thread: usize, counts: &Counts) {
        let tally = &self.tallies[thread];
        tally.open.store(counts.open, Ordering::Relaxed);
        tally.busy.store(counts.busy, Ordering::Relaxed);
        tally.attempts.store(counts.attempts, Ordering::Relaxed);
        tally.upgrades.store(counts.upgrades, Ordering::Relaxed);
        tally.failures.store(counts.failures, Ordering::Relaxed);
        tally.lost.store(counts.lost, Ordering::Relaxed);
        tally.pings.store(counts.pings, Ordering::Relaxed);
        tally.sent.store(counts.sent, Ordering::Relaxed);
        tally.received.store(counts.received, Ordering::Relaxed);
        tally.owed.store(counts.owed, Ordering::Relaxed);
    }

    /// Counts one latency of a thread, at once. Only that thread does, so that no read-modify-write is needed.
    pub(crate) fn observe(&self, thread: usize, ns: u64) {
        let bucket = &self.tallies[thread].latencies[bucket_of(ns)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// All threads' latencies so far. Counts wrap: differences are what is looked at.
    pub(crate) fn latencies(&self) -> Counted {
        let mut sum = [0_u32; BUCKETS];
        for tally in &self.tallies {
            for (sum, bucket) in sum.iter_mut().zip(&tally.latencies) {
                *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
            }
        }
        sum
    }

    /// The sums over all threads, each as of its last turn.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for tally in &self.tallies {
            sum.open += tally.open.load(Ordering::Relaxed);
            sum.busy += tally.busy.load(Ordering::Relaxed);
            sum.attempts += tally.attempts.load(Ordering::Relaxed);
            sum.upgrades += tally.upgrades.load(Ordering::Relaxed);
            sum.failures += tally.failures.load(Ordering::Relaxed);
            sum.lost += tally.lost.load(Ordering::Relaxed);
            sum.pings += tally.pings.load(Ordering::Relaxed);
            sum.sent += tally.sent.load(Ordering::Relaxed);
            sum.received += tally.received.load(Ordering::Relaxed);
            sum.owed += tally.owed.load(Ordering::Relaxed);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_threads() {
        let board = Board::new(2);
        board.publish(0, &Counts { open: 1, received: 10, ..Counts::default() });
        board.publish(1, &Counts { open: 2, received: 20, ..Counts::default() });
        assert_eq!(board.counts(), Counts { open: 3, received: 30, ..Counts::default() });
    }

    #[test]
    fn a_phase_is_seen_when_the_last_thread_has() {
        let board = Board::new(2);
        board.set_seen(0, Phase::Settle);
        assert!(!board.all_saw(Phase::Settle));
        board.set_seen(1, Phase::Settle);
        assert!(board.all_saw(Phase::Settle) && !board.all_saw(Phase::Ramp));
    }

    #[test]
    fn the_phase_read_is_the_phase_set() {
        let board = Board::new(1);
        for phase in [Phase::Ramp, Phase::Warm, Phase::Measure, Phase::Settle, Phase::Finish] {
            board.set_phase(phase);
            assert_eq!(board.phase(), phase);
        }
    }
}
