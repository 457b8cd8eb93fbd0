//! Who has most connections: a look at the whole table by whoever inspects the node, a stripe at a time, so that nobody
//! who comes or goes waits for longer than one page.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::{Peers, RECENT};

impl Peers {
    /// The peers of one stripe with most connections, in no order; `None` behind the last stripe. Takes the stripe's lock
    /// for a page of slots at a time.
    #[must_use]
    pub fn largest_of(&self, stripe: usize, limit: usize) -> Option<Vec<(u32, IpAddr)>> {
        let stripe = self.stripes.get(stripe)?;
        let mut largest = BinaryHeap::new();
        for page in stripe.pages.iter().map_while(|page| page.get()) {
            // The two halves of an address are read together only under the lock.
            let _books = stripe.lock();
            for slot in page.iter() {
                let live = slot.live.load(Ordering::Relaxed);
                let is_connected = live > 0 && live & RECENT == 0;
                if !is_connected || limit == 0 {
                    continue;
                }
                if largest.len() < limit {
                    largest.push(Reverse((live, slot.key().address())));
                } else if largest.peek().is_some_and(|Reverse((least, _))| *least < live) {
                    largest.pop();
                    largest.push(Reverse((live, slot.key().address())));
                }
            }
        }
        Some(largest.into_iter().map(|Reverse(peer)| peer).collect())
    }

    /// Connections of the peer of a slot in use.
    #[must_use]
    pub fn connections_at(&self, slot: u32) -> u32 {
        let live = self.at(slot).map_or(0, |slot| slot.live.load(Ordering::Relaxed));
        if live & RECENT == 0 { live } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PeerRules, PeerSizes};
    use super::*;

    #[test]
    fn those_with_most_connections_are_found_and_those_who_left_are_not() {
        let (peers, rules) = (Peers::new(PeerSizes { live: 1000, recent: 10 }, 64), PeerRules::default());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let enter = |number: u32| peers.enter(peers.key(address(number)), &rules, 1).map(|(slot, _)| slot);
        for number in 1..200 {
            for _ in 0..number % 7 + 1 {
                enter(number);
            }
        }
        let largest = (0..50).fold(None, |_, _| enter(500));
        let gone = enter(900);
        gone.into_iter().for_each(|slot| peers.leave(slot, &rules, 1));
        assert_eq!(largest.map(|slot| peers.connections_at(slot)), Some(50));
        let mut found: Vec<(u32, IpAddr)> =
            (0..).map_while(|stripe| peers.largest_of(stripe, 1000)).flatten().collect();
        assert_eq!(found.len(), 200);
        found.sort_unstable();
        assert_eq!(found.last(), Some(&(50, address(500))));
        let three: Vec<Vec<_>> = (0..).map_while(|stripe| peers.largest_of(stripe, 1)).collect();
        assert!(three.iter().all(|of_stripe| of_stripe.len() <= 1));
        assert!(three.concat().contains(&(50, address(500))));
    }
}
