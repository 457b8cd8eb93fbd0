//! When something is due for whom: a hashed wheel of record indices, threaded through the records themselves.
//!
//! Two levels: 1024 slots of one tick, then 64 slots of 1024 ticks; a deadline beyond both waits in the slot it will have and
//! is put back there whenever time comes round to it too early (every 109 minutes). The first level is longer than a
//! heartbeat, so heartbeats are never placed twice.
//! Owns the order in time; refuses to know what a deadline means (the record's phase says that) and to read a clock. A record
//! has at most one timer. Called by the shard: arming from anywhere, expiring once a turn under a budget.

use crate::conns::NONE;

/// Slots of the first level, one tick each.
const NEAR: u32 = 1024;
/// Slots of the second level, [`NEAR`] ticks each.
const FAR: u32 = 64;
/// In `prev`: this record is the first of its slot, and the other bits number the slot.
const HEAD: u32 = 1 << 31;

const WORD: u32 = u64::BITS;
const NEAR_WORDS: usize = (NEAR / WORD) as usize;
const _: () = assert!(NEAR.is_power_of_two() && FAR.is_power_of_two() && NEAR.is_multiple_of(WORD));
const _: () = assert!((NEAR + FAR) < HEAD && (HEAD | (NEAR + FAR)) != NONE);

/// A record's place in the wheel, 12 bytes. Only the wheel reads it.
#[derive(Copy, Clone, Debug)]
pub struct WheelLink {
    /// The record before it, or [`HEAD`] and the slot, or [`NONE`] when disarmed.
    prev: u32,
    next: u32,
    /// The tick at which it expires.
    deadline: u32,
}

impl WheelLink {
    pub(crate) fn is_armed(&self) -> bool {
        self.prev != NONE
    }
}

impl Default for WheelLink {
    /// Disarmed.
    fn default() -> Self {
        WheelLink { prev: NONE, next: NONE, deadline: 0 }
    }
}

/// Where the links of records are found. Indices are below 2³¹ and stay valid while armed.
pub trait Links {
    /// The link of the record at `index`.
    fn link(&self, index: u32) -> &WheelLink;
    /// As [`Links::link`], to change it.
    fn link_mut(&mut self, index: u32) -> &mut WheelLink;
}

/// The timers of one shard.
///
/// A deadline never expires early, and when [`Wheel::pop_expired`] is called every tick until it is empty, never late.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    /// One bit for each slot of the first level that has somebody in it: empty slots are passed over by the word.
    near_used: [u64; NEAR_WORDS],
    /// The tick whose slot is being emptied; all before it are done.
    current: u32,
    /// The latest time told. Ahead of `current` while the caller is catching up.
    now: u32,
    len: u32,
}

impl Wheel {
    /// An empty wheel at tick `now`.
    pub fn new(now: u32) -> Self {
        Wheel {
            heads: vec![NONE; (NEAR + FAR) as usize].into_boxed_slice(),
            near_used: [0; NEAR_WORDS],
            current: now,
            now,
            len: 0,
        }
    }

    /// Sets the one timer of the record, whether or not it had one. What is already due expires at the next tick, so that a
    /// caller who arms again whatever expires cannot be kept busy for ever.
    pub fn arm(&mut self, links: &mut impl Links, index: u32, deadline: u32) {
        let deadline = deadline.max(self.now.saturating_add(1));
        if self.is_armed(links, index) {
            if links.link(index).deadline == deadline {
                return;
            }
            self.unlink(links, index);
        } else {
            self.len += 1;
        }
        self.place(links, index, deadline);
    }

    /// Takes the record's timer away; nothing happens if it has none.
    pub fn disarm(&mut self, links: &mut impl Links, index: u32) {
        if self.is_armed(links, index) {
            self.unlink(links, index);
            self.len -= 1;
        }
    }

    /// Whether the record has a timer.
    pub fn is_armed(&self, links: &impl Links, index: u32) -> bool {
        links.link(index).is_armed()
    }

    /// The tick at which the record expires, if it is armed: what was asked for, or the tick after the asking if that was past.
    pub fn deadline(&self, links: &impl Links, index: u32) -> Option<u32> {
        self.is_armed(links, index).then(|| links.link(index).deadline)
    }

    /// Moves time forward to `now` and takes one expired record off (disarmed), or `None` when time has caught up. Call it in
    /// a loop under a budget: it goes on where it stopped. Records come in the order of their ticks; a `now` that goes
    /// backwards is ignored.
    ///
    /// Most calls cost a few loads. Once in 1024 ticks a call moves one slot of the second level into the first, at the price
    /// of that slot's length; a leap in time costs one step per 1024 ticks leapt.
    pub fn pop_expired(&mut self, links: &mut impl Links, now: u32) -> Option<u32> {
        self.now = self.now.max(now);
        loop {
            let index = self.heads[(self.current % NEAR) as usize];
            if index != NONE {
                debug_assert_eq!(links.link(index).deadline, self.current);
                self.disarm(links, index);
                return Some(index);
            }
            if self.current == self.now {
                return None;
            }
            self.advance(links);
        }
    }

    /// Armed timers.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves `current` to the next tick at which there may be something to do, at most to `now`. Its own slot is empty.
    fn advance(&mut self, links: &mut impl Links) {
        if self.len == 0 {
            self.current = self.now;
            return;
        }
        let lap = (self.current | (NEAR - 1)).saturating_add(1);
        self.current = self.next_used().unwrap_or(lap).min(self.now);
        if self.current.is_multiple_of(NEAR) {
            self.cascade(links);
        }
    }

    /// The next tick of this lap whose slot is in use. Slots behind `current` belong to the next lap already.
    fn next_used(&self) -> Option<u32> {
        let after = self.current % NEAR + 1;
        let mut mask = u64::MAX << (after % WORD);
        for word in after / WORD..NEAR / WORD {
            let used = self.near_used[word as usize] & mask;
            if used != 0 {
                return Some(self.current / NEAR * NEAR + word * WORD + used.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// A lap begins: who waited for it in the second level moves to the first, who waits for a later one is put back.
    fn cascade(&mut self, links: &mut impl Links) {
        let slot = NEAR + self.current / NEAR % FAR;
        let mut index = std::mem::replace(&mut self.heads[slot as usize], NONE);
        while index != NONE {
            let WheelLink { next, deadline, .. } = *links.link(index);
            self.place(links, index, deadline);
            index = next;
        }
    }

    /// Puts a record that is in no slot into the one for its deadline, which is not before `current`.
    fn place(&mut self, links: &mut impl Links, index: u32, deadline: u32) {
        debug_assert!(index < HEAD && deadline >= self.current);
        let is_near = deadline - self.current < NEAR;
        let slot = if is_near { deadline % NEAR } else { NEAR + deadline / NEAR % FAR };
        let next = std::mem::replace(&mut self.heads[slot as usize], index);
        if next != NONE {
            links.link_mut(next).prev = index;
        }
        *links.link_mut(index) = WheelLink { prev: HEAD | slot, next, deadline };
        if slot < NEAR {
            self.near_used[(slot / WORD) as usize] |= 1 << (slot % WORD);
        }
    }

    fn unlink(&mut self, links: &mut impl Links, index: u32) {
        let WheelLink { prev, next, .. } = std::mem::take(links.link_mut(index));
        if next != NONE {
            links.link_mut(next).prev = prev;
        }
        if prev & HEAD == 0 {
            links.link_mut(prev).next = next;
            return;
        }
        let slot = prev & !HEAD;
        self.heads[slot as usize] = next;
        if next == NONE && slot < NEAR {
            self.near_used[(slot / WORD) as usize] &= !(1 << (slot % WORD));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Records([WheelLink; 3]);

    impl Links for Records {
        fn link(&self, index: u32) -> &WheelLink {
            &self.0[index as usize]
        }

        fn link_mut(&mut self, index: u32) -> &mut WheelLink {
            &mut self.0[index as usize]
        }
    }

    #[test]
    fn a_slot_is_marked_used_as_long_as_somebody_is_in_it() {
        let mut records = Records([WheelLink::default(); 3]);
        let mut wheel = Wheel::new(0);
        wheel.arm(&mut records, 0, 70);
        wheel.arm(&mut records, 1, 70);
        wheel.arm(&mut records, 2, 200);
        wheel.disarm(&mut records, 0);
        assert_eq!(wheel.next_used(), Some(70));
        wheel.arm(&mut records, 1, 5000);
        assert_eq!(wheel.next_used(), Some(200));
        assert_eq!(wheel.pop_expired(&mut records, 200), Some(2));
        assert_eq!(wheel.near_used, [0; NEAR_WORDS]);
    }
}
