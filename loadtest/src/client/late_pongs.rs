//! Pings that are answered later than they came: what a slow client looks like to a server.
//!
//! It owns their order, which is the order they came in, as the delay is the same for all. It refuses to
//! send.

use std::collections::VecDeque;

use super::link::Slot;

/// Pings waiting, all connections of a thread together; at the bound the oldest is answered at once.
const WAITING_MAX: usize = 65_536;

/// A ping to be answered later.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LatePong {
    due_ns: u64,
    pub(super) slot: Slot,
    /// Which connection of the slot was pinged.
    pub(super) serial: u32,
    pub(super) payload: Vec<u8>,
}

/// Pings to be answered later, in order.
#[derive(Debug)]
pub(super) struct LatePongs {
    delay_ns: u64,
    waiting: VecDeque<LatePong>,
}

impl LatePongs {
    pub(super) fn new(delay_ns: u64) -> LatePongs {
        LatePongs { delay_ns, waiting: VecDeque::new() }
    }

    /// How late answers are; 0 is at once, and then nothing should be pushed.
    pub(super) fn delay_ns(&self) -> u64 {
        self.delay_ns
    }

    /// Keeps a ping. At the bound it returns the oldest, to be answered now.
    pub(super) fn push(&mut self, now_ns: u64, slot: Slot, serial: u32, payload: &[u8]) -> Option<LatePong> {
        let oldest = if self.waiting.len() == WAITING_MAX { self.waiting.pop_front() } else { None };
        let due_ns = now_ns.saturating_add(self.delay_ns);
        self.waiting.push_back(LatePong { due_ns, slot, serial, payload: payload.to_vec() });
        oldest
    }

    /// The next ping whose time has come.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<LatePong> {
        if self.due_in_ns(now_ns) == 0 { self.waiting.pop_front() } else { None }
    }

    /// When the next ping is due; `u64::MAX` when none waits.
    pub(super) fn due_in_ns(&self, now_ns: u64) -> u64 {
        self.waiting.front().map_or(u64::MAX, |oldest| oldest.due_ns.saturating_sub(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_due_after_the_delay_and_not_before() {
        let mut pongs = LatePongs::new(100);
        assert_eq!(pongs.due_in_ns(0), u64::MAX);
        assert_eq!(pongs.push(1_000, Slot(3), 7, b"x"), None);
        assert_eq!(pongs.due_in_ns(1_050), 50);
        assert_eq!(pongs.pop_due(1_099), None);
        let due = pongs.pop_due(1_100).map(|due| (due.slot, due.serial, due.payload));
        assert_eq!(due, Some((Slot(3), 7, b"x".to_vec())));
        assert_eq!(pongs.pop_due(u64::MAX), None);
    }

    #[test]
    fn at_the_bound_the_oldest_is_answered_at_once() {
        let mut pongs = LatePongs::new(100);
        for serial in 0..WAITING_MAX as u32 {
            assert_eq!(pongs.push(0, Slot(0), serial, b""), None);
        }
        assert_eq!(pongs.push(0, Slot(0), u32::MAX, b"").map(|oldest| oldest.serial), Some(0));
    }
}
