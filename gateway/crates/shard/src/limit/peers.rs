//! The peers that have a connection: an IPv4 address, or an IPv6 /64, and how many connections it has.
//!
//! One of the two tables that shards share. 16 bytes per slot beside the lookup; as many slots as the node may hold
//! connections, so a peer that was let in always has one. Striped by address: an accept locks one stripe for a moment.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

const STRIPES: u32 = 64;

/// A peer in eight bytes. The upper half of an IPv6 /64 never starts with 32 ones: that is multicast space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packed(u64);

const IPV4: u64 = 0xffff_ffff << 32;

impl Packed {
    fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IPV4 | u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }

    fn address(self) -> IpAddr {
        if self.0 & IPV4 == IPV4 {
            IpAddr::from((self.0 as u32).to_be_bytes())
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(self.0) << 64))
        }
    }
}

#[derive(Default)]
struct Stripe {
    lookup: HashMap<Packed, u32>,
    slots: Vec<Slot>,
    /// Head of the free list through `Slot::live`.
    free: Option<u32>,
}

struct Slot {
    peer: Packed,
    /// Connections; of a free slot the next free one, with [`END`] at the end.
    live: u32,
}

const END: u32 = u32::MAX;

/// The table.
pub struct Peers {
    stripes: Box<[Mutex<Stripe>]>,
    hasher: std::hash::RandomState,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: std::hash::RandomState::new(),
        }
    }
}

impl Peers {
    fn stripe(&self, number: u32) -> std::sync::MutexGuard<'_, Stripe> {
        self.stripes[number as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection of this address in and returns the peer's slot.
    pub fn enter(&self, address: IpAddr) -> u32 {
        use std::hash::BuildHasher as _;
        let peer = Packed::new(address);
        let number = (self.hasher.hash_one(peer) % u64::from(STRIPES)) as u32;
        let stripe = &mut *self.stripe(number);
        if let Some(slot) = stripe.lookup.get(&peer) {
            stripe.slots[*slot as usize].live += 1;
            return *slot * STRIPES + number;
        }
        let slot = match stripe.free {
            Some(slot) => {
                let next = std::mem::replace(&mut stripe.slots[slot as usize], Slot { peer, live: 1 }).live;
                stripe.free = (next != END).then_some(next);
                slot
            }
            None => {
                stripe.slots.push(Slot { peer, live: 1 });
                (stripe.slots.len() - 1) as u32
            }
        };
        stripe.lookup.insert(peer, slot);
        slot * STRIPES + number
    }

    /// Counts a connection of this slot's peer out; the last one frees the slot.
    pub fn leave(&self, slot: u32) {
        let (slot, number) = (slot / STRIPES, slot % STRIPES);
        let stripe = &mut *self.stripe(number);
        let entry = &mut stripe.slots[slot as usize];
        debug_assert!(entry.live > 0, "who leaves had entered");
        entry.live -= 1;
        if entry.live == 0 {
            let peer = entry.peer;
            entry.live = stripe.free.unwrap_or(END);
            stripe.free = Some(slot);
            stripe.lookup.remove(&peer);
        }
    }

    /// The address of a slot in use.
    #[must_use]
    pub fn address(&self, slot: u32) -> IpAddr {
        self.stripe(slot % STRIPES).slots[(slot / STRIPES) as usize].peer.address()
    }

    /// Connections of an address.
    #[must_use]
    pub fn live(&self, address: IpAddr) -> u32 {
        let peer = Packed::new(address);
        self.stripes
            .iter()
            .map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner))
            .find_map(|stripe| stripe.lookup.get(&peer).map(|slot| stripe.slots[*slot as usize].live))
            .unwrap_or(0)
    }

    /// Peers with a connection.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).lookup.len()).sum()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_privacy_addresses_do_not_multiply() {
        let peers = Peers::default();
        let a = peers.enter(ip("2001:db8::1"));
        let b = peers.enter(ip("2001:db8::ffff:2"));
        assert_eq!(a, b);
        assert_eq!(peers.address(a), ip("2001:db8::"));
        assert_eq!(peers.live(ip("2001:db8::9")), 2);
    }

    #[test]
    fn the_last_connection_frees_the_slot_for_another_peer() {
        let peers = Peers::default();
        let slots: Vec<_> = (0..500u32).map(|n| peers.enter(IpAddr::from(n.to_be_bytes()))).collect();
        assert_eq!(peers.len(), 500);
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(peers.address(*slot), IpAddr::from((n as u32).to_be_bytes()));
            peers.leave(*slot);
        }
        assert!(peers.is_empty());
        peers.enter(ip("::ffff:10.0.0.1"));
        assert_eq!(peers.live(ip("10.0.0.1")), 1, "a mapped address is the IPv4 peer");
    }
}
