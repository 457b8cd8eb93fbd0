//! Slots of a fixed size without a byte of overhead: vacant slots are chained through a field of their own.
//!
//! `slab` marks a vacant slot with a machine word beside the value, which would double an 8-byte entry and cost a subscription
//! a fifth. Owns slots and their free list; refuses to know whether an index is still in use: whoever keeps the index keeps
//! that promise, and the model tests watch over it. Called by the backlog (entries) and the channels (subscriptions).

use std::ops::{Index, IndexMut};

use crate::conns::NONE;

/// A value that can hold the index of the next vacant slot while it is itself vacant.
pub(crate) trait Vacancy: Copy {
    /// A vacant slot in front of `next`.
    fn vacant(next: u32) -> Self;
    /// What [`Vacancy::vacant`] was given.
    fn next_vacant(&self) -> u32;
}

/// At most `capacity` values, addressed by `u32`. Slots freed last are used first: they are the ones still in cache.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Vec<T>,
    first_vacant: u32,
    len: u32,
    capacity: u32,
}

impl<T: Vacancy> Arena<T> {
    /// Reserves address space for `capacity` values, which must be below [`NONE`].
    pub(crate) fn new(capacity: u32) -> Self {
        assert!(capacity < NONE, "an index must differ from NONE");
        Arena { slots: Vec::with_capacity(capacity as usize), first_vacant: NONE, len: 0, capacity }
    }

    /// `None` when full.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        let index = self.first_vacant;
        if index != NONE {
            self.first_vacant = self.slots[index as usize].next_vacant();
            self.slots[index as usize] = value;
        } else if self.is_full() {
            return None;
        } else {
            self.slots.push(value);
        }
        self.len += 1;
        Some(if index == NONE { self.slots.len() as u32 - 1 } else { index })
    }

    /// Takes back a slot that is in use.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let vacant = T::vacant(self.first_vacant);
        self.first_vacant = index;
        self.len -= 1;
        std::mem::replace(&mut self.slots[index as usize], vacant)
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.capacity
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.slots[index as usize]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.slots[index as usize]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    impl Vacancy for u32 {
        fn vacant(next: u32) -> Self {
            next
        }
        fn next_vacant(&self) -> u32 {
            *self
        }
    }

    #[test]
    fn a_full_arena_refuses_and_a_freed_slot_is_used_again() {
        let mut arena = Arena::new(2);
        let (a, b) = (arena.insert(10).unwrap(), arena.insert(11).unwrap());
        assert_eq!(arena.insert(12), None);
        assert_eq!(arena.remove(a), 10);
        assert_eq!(arena.insert(13), Some(a));
        assert_eq!((arena[a], arena[b], arena.len()), (13, 11, 2));
    }
}
