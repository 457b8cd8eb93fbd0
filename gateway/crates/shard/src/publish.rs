//! Messages of clients on their way to a channel: into the mailboxes of the shards that care, this one's included.
//!
//! When one of those is full the message waits here, in order, and its publisher is not read until it has left. The
//! wait is bounded over all publishers: at the bound every publisher of the shard is paused before it is read again.

use std::collections::VecDeque;

use bridge::message::Kind;
use bridge::{Address, Channel, Message, Pause};
use store::{Flags, Key, Phase};

use crate::net::Net;
use crate::rules::Route;
use crate::turn::Shard;

/// Messages and payload bytes that may wait before publishers are paused unread.
const UNPLACED_MAX: usize = 1024;
const UNPLACED_BYTES_MAX: usize = 16 << 20;
/// Messages placed per turn.
const PLACED_PER_TURN: usize = 1024;

struct Waiting {
    key: Key,
    channel: Channel,
    message: Message,
    exclude: Option<Address>,
}

/// Publishes that wait for a place, and publishers that wait for those.
#[derive(Default)]
pub(crate) struct Unplaced {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Paused before they were read; at most one entry per connection, which its cold entry knows of.
    starved: Vec<Key>,
}

impl Unplaced {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.starved.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose messages wait, and their payload bytes.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Key, usize)> {
        self.waiting.iter().map(|waiting| (waiting.key, waiting.message.payload().len()))
    }

    pub(crate) fn starved(&self) -> impl Iterator<Item = Key> {
        self.starved.iter().copied()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= UNPLACED_MAX || self.bytes >= UNPLACED_BYTES_MAX
    }
}

impl<N: Net> Shard<N> {
    /// A client's message on a route that publishes.
    pub(crate) fn publish(&mut self, key: Key, route: &Route, kind: Kind, payload: &[u8]) {
        let Some(channel) = self.profile(key).and_then(|profile| profile.publishes_to.clone()) else {
            return;
        };
        let message = Message::copy_from(kind, payload);
        let exclude = route.exclude_self.then(|| self.address(key));
        let waits = self.rare(key).is_some_and(|rare| rare.unplaced > 0);
        let placed =
            !waits && self.switchboard.publish(Some(self.shard), &channel, &message, exclude, None).is_ok();
        if placed {
            return;
        }
        self.stats.publishes_delayed.add(1);
        self.unplaced.bytes += payload.len();
        self.unplaced.waiting.push_back(Waiting { key, channel, message, exclude });
        if let Some(rare) = self.rare_mut(key) {
            rare.unplaced += 1;
        }
        self.pause(key, Pause::Mailbox);
    }

    /// Whether a publisher has to be paused before it is read, because too much waits already.
    pub(crate) fn starve(&mut self, key: Key) -> bool {
        if !self.unplaced.is_full() || self.profile(key).is_none_or(|profile| profile.publishes_to.is_none())
        {
            return false;
        }
        let Some(conn) = self.conns.get_mut(key) else { return false };
        // Whoever is on the way out publishes no more, and its answer to our close frame is to be read.
        if !matches!(conn.phase, Phase::Open | Phase::PongWait) {
            return false;
        }
        conn.flags.insert(Flags::UNREAD);
        self.pause(key, Pause::Publishers);
        if let Some(rare) = self.rare_mut(key)
            && !std::mem::replace(&mut rare.starved, true)
        {
            self.unplaced.starved.push(key);
        }
        true
    }

    /// Tries again, in the order of arrival. The messages of a connection that has ended meanwhile are placed like
    /// all others: they were accepted.
    pub(crate) fn place(&mut self) {
        for _ in 0..PLACED_PER_TURN {
            let Some(first) = self.unplaced.waiting.front() else { break };
            let Waiting { key, channel, message, exclude } = first;
            if self.switchboard.publish(Some(self.shard), channel, message, *exclude, None).is_err() {
                return;
            }
            let key = *key;
            self.unplaced.bytes -= message.payload().len();
            self.unplaced.waiting.pop_front();
            if let Some(rare) = self.rare_mut(key) {
                rare.unplaced -= 1;
                if rare.unplaced == 0 {
                    self.resume(key, Pause::Mailbox);
                }
            }
            self.settle(key);
        }
        if !self.unplaced.is_full() {
            for key in std::mem::take(&mut self.unplaced.starved) {
                if let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) {
                    rare.starved = false;
                }
                self.resume(key, Pause::Publishers);
                self.settle(key);
            }
        }
    }
}
