//! An open loop: every piece of work has a moment for which it is meant, whatever the server does.
//!
//! It owns those moments. Work `k` is meant for slot `k mod slots` at `k / rate` after the beginning, so the
//! moments of a slot's work follow from its numbers and none is stored. It refuses to wait: whoever is late
//! finds out by how much. Used by the scenarios that measure latency.

/// The work of one thread, dealt to its slots in turn.
#[derive(Debug)]
pub(crate) struct Pace {
    rate_per_s: f64,
    slots: u32,
    began_ns: u64,
    /// Pieces whose time has come, all slots together.
    dealt: u64,
}

impl Pace {
    /// A pace that begins now, with at least one slot.
    pub(crate) fn new(rate_per_s: f64, slots: u32, now_ns: u64) -> Pace {
        Pace { rate_per_s, slots: slots.max(1), began_ns: now_ns, dealt: 0 }
    }

    /// The numbers of the pieces whose time has come since the last call.
    pub(crate) fn deal(&mut self, now_ns: u64) -> std::ops::Range<u64> {
        let elapsed_s = now_ns.saturating_sub(self.began_ns) as f64 / 1e9;
        let until = ((elapsed_s * self.rate_per_s) as u64).max(self.dealt);
        std::mem::replace(&mut self.dealt, until)..until
    }

    /// How many pieces were dealt so far, to all slots together.
    pub(crate) fn dealt(&self) -> u64 {
        self.dealt
    }

    /// The slot for which a piece is meant.
    pub(crate) fn slot_of(&self, number: u64) -> u32 {
        u32::try_from(number % u64::from(self.slots)).unwrap_or(0)
    }

    /// How many pieces were dealt to a slot so far.
    pub(crate) fn due(&self, slot: u32) -> u64 {
        let slots = u64::from(self.slots);
        self.dealt / slots + u64::from(u64::from(slot) < self.dealt % slots)
    }

    /// When the `nth` piece of a slot is meant, ns.
    pub(crate) fn intended_ns(&self, slot: u32, nth: u32) -> u64 {
        self.moment_ns(u64::from(nth) * u64::from(self.slots) + u64::from(slot))
    }

    /// When a piece is meant, ns.
    pub(crate) fn moment_ns(&self, number: u64) -> u64 {
        self.began_ns + ((number + 1) as f64 / self.rate_per_s * 1e9) as u64
    }

    /// How long until the next piece, ns.
    pub(crate) fn next_in_ns(&self, now_ns: u64) -> u64 {
        self.moment_ns(self.dealt).saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_deals_in_turn_and_knows_every_intended_time() {
        let mut pace = Pace::new(1_000.0, 3, 5_000_000_000);
        assert_eq!(pace.deal(5_000_000_000), 0..0);
        assert_eq!(pace.deal(5_007_100_000), 0..7);
        assert_eq!([pace.due(0), pace.due(1), pace.due(2)], [3, 2, 2]);
        assert_eq!(pace.dealt(), 7);
        assert_eq!([pace.slot_of(5), pace.slot_of(6)], [2, 0]);
        assert_eq!(pace.intended_ns(0, 0), 5_001_000_000);
        assert_eq!(pace.intended_ns(1, 2), 5_008_000_000);
        assert_eq!(pace.next_in_ns(5_007_100_000), 900_000);
        assert_eq!(pace.deal(5_007_000_000), 7..7, "time never goes back");
    }
}
