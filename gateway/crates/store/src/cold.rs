//! Rare state of connections, beside the table: half a frame, half a message, frames that wait, a handshake head.
//!
//! Owns the slots and their bound, and nothing of what is in them: `T` is the shard's. Refuses to grow past its capacity and
//! never shrinks (slots are used again). A record refers to its entry by index; the shard drops the entry as soon as the
//! connection is quiet again.

use slab::Slab;

use crate::conns::NONE;

/// At most `capacity` values of `T`, addressed by the `cold` field of a record.
#[derive(Debug)]
pub struct Cold<T> {
    slots: Slab<T>,
    capacity: u32,
}

impl<T> Cold<T> {
    /// Reserves address space for `capacity` entries.
    ///
    /// # Panics
    /// When `capacity` is [`NONE`], the one index that cannot be addressed.
    pub fn new(capacity: u32) -> Self {
        assert!(capacity < NONE, "an index must differ from NONE");
        Cold { slots: Slab::with_capacity(capacity as usize), capacity }
    }

    /// Takes the value in and says where it is.
    ///
    /// # Errors
    /// The value comes back when all entries are in use; the caller decides who pays for that.
    pub fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.is_full() { Err(value) } else { Ok(self.slots.insert(value) as u32) }
    }

    /// The entry at `index`; none for [`NONE`], so a record's field may be passed as it is.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)
    }

    /// As [`Cold::get`], to change it.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)
    }

    /// Takes the entry out; its slot is the next to be used.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        self.slots.try_remove(index as usize)
    }

    /// Entries in use.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next insertion will fail.
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// The bound given to [`Cold::new`].
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Every entry with its index, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().map(|(index, value)| (index as u32, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_slab_gives_the_value_back_and_a_freed_slot_is_used_again() {
        let mut cold = Cold::new(2);
        assert_eq!(cold.insert("a"), Ok(0));
        assert_eq!(cold.insert("b"), Ok(1));
        assert_eq!(cold.insert("c"), Err("c"));
        assert_eq!(cold.remove(0), Some("a"));
        assert_eq!(cold.remove(0), None);
        assert_eq!(cold.insert("c"), Ok(0));
        assert_eq!(cold.iter().collect::<Vec<_>>(), [(0, &"c"), (1, &"b")]);
    }

    #[test]
    fn none_leads_nowhere() {
        let mut cold = Cold::new(1);
        assert_eq!(cold.insert(1), Ok(0));
        assert_eq!(cold.get(NONE), None);
        assert_eq!(cold.get_mut(NONE), None);
        assert_eq!(cold.remove(NONE), None);
    }
}
