//! Answers to whoever looks at the shard from outside: one connection, a page of them, the busiest of them, the largest
//! channels. Owns what is shown and how far one look goes; refuses to change anything. Called by mail.
//!
//! Each command looks at so many slots and says where the next one goes on: a million connections are looked at in many
//! turns, between which everybody else is served.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bridge::command::{ChannelRanking, Limiter, RankBy, Ranking, Traffic};
use bridge::message::Bytes;
use bridge::{Address, Channel, Description, Page, Pause};
use store::{Key, Phase};

use crate::limit::Admitted;
use crate::net::Net;
use crate::turn::Shard;

/// Slots looked at for one page: a sparse table is listed in several pages rather than in one long step.
const SLOTS_PER_PAGE: u32 = 65_536;
/// Slots ranked for one command: some tens of microseconds.
const SLOTS_PER_RANKING: u32 = 4096;
/// Most entries of a ranking, whatever was asked for.
const RANKED_MAX: usize = 1024;

/// The largest of what passes by, in a bounded heap.
struct Largest<T> {
    heap: BinaryHeap<Reverse<(u64, u32, T)>>,
    limit: usize,
    /// The largest amount that was left out.
    floor: u64,
}

impl<T: Ord> Largest<T> {
    fn new(limit: usize) -> Self {
        Self { heap: BinaryHeap::new(), limit: limit.min(RANKED_MAX), floor: 0 }
    }

    /// `place` is what orders equals, and unique.
    fn offer(&mut self, amount: u64, place: u32, what: impl FnOnce() -> T) {
        if amount == 0 {
            return;
        }
        if self.heap.len() < self.limit {
            self.heap.push(Reverse((amount, place, what())));
            return;
        }
        match self.heap.peek() {
            Some(Reverse((least, ..))) if *least < amount => {
                self.floor = self.floor.max(*least);
                self.heap.pop();
                self.heap.push(Reverse((amount, place, what())));
            }
            _ => self.floor = self.floor.max(amount),
        }
    }

    /// In descending order, and the largest amount that is not among them.
    fn into_parts(self) -> (Vec<(u64, T)>, u64) {
        let sorted = self.heap.into_sorted_vec();
        (sorted.into_iter().map(|Reverse((amount, _, what))| (amount, what)).collect(), self.floor)
    }
}

impl<N: Net> Shard<N> {
    /// A connection that was opened and has not ended, also while it is being closed.
    pub(crate) fn describe_by_command(&self, whom: Address) -> Option<Box<Description>> {
        let key = self.key(whom)?;
        let phase = self.conns.get(key)?.phase;
        let is_there = self.opened(key) && phase != Phase::Ended;
        is_there.then(|| Box::new(self.describe(key)))
    }

    fn describe(&self, key: Key) -> Description {
        let mut description = Description {
            address: self.address(key),
            peer: String::new(),
            route: 0,
            user: None,
            state: Bytes::new(),
            unsettled: 0,
            age_ticks: 0,
            quiet_ticks: 0,
            channels: Vec::new(),
            traffic: self.traffic(key),
            backlog_frames: 0,
            backlog_bytes: 0,
            partial_bytes: 0,
            phase: "open",
            closing: None,
            paused: Vec::new(),
            peer_connections: 0,
            limiter: None,
        };
        if let Some(conn) = self.conns.get(key) {
            description.peer = self.gate.peers().address(conn.admission.peer()).to_string();
            description.peer_connections = self.gate.peers().connections_at(conn.admission.peer());
            description.limiter = self.limiter(conn);
            description.route = conn.route;
            description.age_ticks = self.now.saturating_sub(conn.opened);
            description.quiet_ticks = self.now.saturating_sub(conn.last_received);
            let names = self.channels.of(conn.first_subscription);
            description.channels = names
                .filter_map(|channel| self.channels.name(channel))
                .map(|name| Channel::from_checked(name.clone()))
                .collect();
            description.phase = label(conn.phase);
            description.paused =
                Pause::ALL.into_iter().filter(|why| conn.pauses.contains(*why as u8)).collect();
        }
        if let Some(principal) = self.principal(key) {
            description.user.clone_from(&principal.user);
            description.state.clone_from(&principal.state);
        }
        if let Some(rare) = self.rare(key) {
            description.backlog_frames = rare.queue.entries();
            description.backlog_bytes = rare.queue.bytes();
            description.partial_bytes = rare.partial.held_bytes();
            description.unsettled = u32::from(rare.told.unsettled);
            description.closing = rare.goodbye.map(|goodbye| (goodbye.why, goodbye.sent));
        }
        description
    }

    /// How much of the connection's message rate is used, if there is one.
    fn limiter(&self, conn: &store::Conn<N::Socket, Admitted>) -> Option<Limiter> {
        let rate = self.rules.limits.connection()?.messages;
        let unseen = self.now.saturating_sub(conn.last_received);
        let state = rate.settle(conn.limiter, self.now, unseen);
        let (messages, burst) = rate.filled(state, self.now);
        let wait_ticks = if messages < burst { 0 } else { rate.wait_ticks(state, self.now) };
        Some(Limiter { messages, burst, wait_ticks })
    }

    /// A page of the open connections.
    pub(crate) fn list(&self, after: Option<u32>, limit: usize) -> Page {
        let start = after.map_or(0, |slot| slot.saturating_add(1));
        let end = self.conns.end().min(start.saturating_add(SLOTS_PER_PAGE));
        let mut page = Page::default();
        for key in self.conns.keys_in(start..end) {
            let listed = self.conns.get(key).is_some_and(|conn| conn.phase != Phase::Handshake);
            if listed && self.opened(key) {
                page.connections.push(self.describe(key));
            }
            if page.connections.len() >= limit {
                page.next = Some(key.index());
                return page;
            }
        }
        page.next = (end < self.conns.end()).then(|| end - 1);
        page
    }

    /// The busiest connections of the next slots.
    pub(crate) fn rank(&self, by: RankBy, after: Option<u32>, limit: usize) -> Ranking {
        let start = after.map_or(0, |slot| slot.saturating_add(1));
        let end = self.conns.end().min(start.saturating_add(SLOTS_PER_RANKING));
        let mut largest = Largest::new(limit);
        for key in self.conns.keys_in(start..end) {
            let tally = self.conns.tally(key);
            let amount = match by {
                RankBy::Bytes => tally.bytes_in + tally.bytes_out,
                RankBy::Messages => u64::from(tally.messages_in) + u64::from(tally.messages_out),
            };
            largest.offer(amount, key.index(), || key.to_bits());
        }
        let keys = largest.into_parts().0.into_iter();
        let top =
            keys.filter_map(|(amount, bits)| Some((amount, self.address(Key::from_bits(bits)?)))).collect();
        Ranking { top, next: (end < self.conns.end()).then(|| end - 1) }
    }

    /// The channels with most subscribers on this shard, of the next slots.
    pub(crate) fn rank_channels(&self, after: Option<u32>, limit: usize) -> ChannelRanking {
        let start = after.map_or(0, |slot| slot.saturating_add(1));
        let end = self.channels.end().min(start.saturating_add(SLOTS_PER_RANKING));
        let mut largest = Largest::new(limit);
        for (slot, name, subscribers) in self.channels.slots(start..end) {
            largest.offer(u64::from(subscribers), slot, || name.clone());
        }
        let (top, floor) = largest.into_parts();
        let top = top.into_iter().map(|(amount, name)| (amount, Channel::from_checked(name))).collect();
        ChannelRanking { top, floor, next: (end < self.channels.end()).then(|| end - 1) }
    }

    /// How many subscribers each of these has on this shard.
    pub(crate) fn count_subscribers(&self, channels: &[Channel]) -> Vec<u32> {
        let count = |channel: &Channel| {
            self.channels.find(channel.as_str()).map_or(0, |found| self.channels.subscribers(found))
        };
        channels.iter().map(count).collect()
    }

    pub(crate) fn traffic(&self, key: Key) -> Traffic {
        let tally = self.conns.tally(key);
        Traffic {
            messages_in: tally.messages_in,
            messages_out: tally.messages_out,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
        }
    }
}

const fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Handshake => "handshake",
        Phase::Open => "open",
        Phase::PongWait => "pong_wait",
        Phase::Closing => "closing",
        Phase::Lingering => "lingering",
        Phase::Ended => "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_in_order_and_the_floor_is_the_largest_that_went() {
        let mut largest = Largest::new(3);
        for (place, amount) in [(0, 5), (1, 0), (2, 9), (3, 1), (4, 7), (5, 6), (6, 2)] {
            largest.offer(amount, place, || place);
        }
        assert_eq!(largest.into_parts(), (vec![(9, 2), (7, 4), (6, 5)], 5));
        let mut all = Largest::new(3);
        all.offer(4, 0, || ());
        assert_eq!(all.into_parts(), (vec![(4, ())], 0));
        let mut none = Largest::new(0);
        none.offer(4, 0, || ());
        assert_eq!(none.into_parts(), (vec![], 4));
    }
}
