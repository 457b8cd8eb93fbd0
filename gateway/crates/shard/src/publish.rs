//! Messages of clients on their way to a channel: into the mailboxes of the shards that care, this one's included, and
//! into that of the bus, where there is one beside the embedded.
//!
//! When one of those is full the message waits here, in order, and its publisher is not read until it has left. The
//! wait is bounded over all publishers: at the bound every publisher of the shard is paused before it is read again.
//! Routes that wait for a bus that is away stand in a line of their own, so that the others never wait behind them.

use std::collections::VecDeque;

use bridge::inbound::BUS;
use bridge::message::Kind;
use bridge::{Address, Channel, Message, Pause};
use store::{Flags, Key, Phase};

use crate::net::Net;
use crate::rules::{Inbound, OnBusLoss, Route};
use crate::turn::Shard;

/// Messages and payload bytes that may wait in a line before publishers are paused unread.
const UNPLACED_MAX: usize = 1024;
const UNPLACED_BYTES_MAX: usize = 16 << 20;
/// Messages placed per turn and line.
const PLACED_PER_TURN: usize = 1024;

struct Waiting {
    key: Key,
    channel: Channel,
    message: Message,
    exclude: Option<Address>,
}

/// Publishes that wait for a place, and publishers that wait for those.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Paused before they were read; at most one entry per connection, which its cold entry knows of.
    starved: Vec<Key>,
}

impl Line {
    fn is_full(&self) -> bool {
        self.waiting.len() >= UNPLACED_MAX || self.bytes >= UNPLACED_BYTES_MAX
    }
}

/// Who stands where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// With those whose messages go no farther than this node while the bus is away.
    Near,
    /// With those that wait for it.
    Patient,
}

/// Both lines.
#[derive(Default)]
pub(crate) struct Unplaced([Line; 2]);

impl Unplaced {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|line| line.waiting.is_empty() && line.starved.is_empty())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|line| line.waiting.len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|line| line.bytes).sum()
    }

    /// Whose messages wait, and their payload bytes.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Key, usize)> {
        let waiting = self.0.iter().flat_map(|line| &line.waiting);
        waiting.map(|waiting| (waiting.key, waiting.message.payload().len()))
    }

    pub(crate) fn starved(&self) -> impl Iterator<Item = Key> {
        self.0.iter().flat_map(|line| line.starved.iter().copied())
    }

    /// Whether a line is at its bound.
    pub(crate) fn is_full(&self) -> bool {
        self.0.iter().any(Line::is_full)
    }

    const fn line(&mut self, stands: Stands) -> &mut Line {
        &mut self.0[stands as usize]
    }
}

impl<N: Net> Shard<N> {
    /// A client's message on a route that publishes.
    pub(crate) fn publish(&mut self, key: Key, route: &Route, kind: Kind, payload: &[u8]) {
        let Some(channel) = self.profile(key).and_then(|profile| profile.publishes_to.clone()) else {
            return;
        };
        if route.on_bus_loss == OnBusLoss::Close && self.is_cut_off() && self.is_open(key) {
            return self.give_up(key);
        }
        let message = Message::copy_from(kind, payload);
        let exclude = route.exclude_self.then(|| self.address(key));
        let waits = self.rare(key).is_some_and(|rare| rare.unplaced > 0);
        let stands = self.stands(route.on_bus_loss);
        if !waits && self.try_place(stands, &channel, &message, exclude) {
            return;
        }
        self.stats.publishes_delayed.add(1);
        let line = self.unplaced.line(stands);
        line.bytes += payload.len();
        line.waiting.push_back(Waiting { key, channel, message, exclude });
        if let Some(rare) = self.rare_mut(key) {
            rare.unplaced += 1;
        }
        self.pause(key, Pause::Mailbox);
    }

    /// Whether there is a bus beside the embedded, and it is away.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.switchboard.beyond().is_some_and(bridge::Beyond::is_cut_off)
    }

    /// Whether a message of a client may be as long as that: where it goes over a bus, the bus has a say.
    pub(crate) fn may_leave(&self, route: &Route, bytes: usize) -> bool {
        let goes_over_bus = match route.inbound {
            Inbound::Publish(_) => true,
            Inbound::Upstream(upstream) => upstream == BUS,
            Inbound::Echo | Inbound::Ignore => false,
        };
        !goes_over_bus || self.switchboard.beyond().is_none_or(|beyond| beyond.carries(bytes))
    }

    fn stands(&self, on_bus_loss: OnBusLoss) -> Stands {
        if on_bus_loss == OnBusLoss::Pause && self.switchboard.beyond().is_some() {
            Stands::Patient
        } else {
            Stands::Near
        }
    }

    /// Into all mailboxes or none. What stands near leaves out a bus that is away.
    fn try_place(
        &self,
        stands: Stands,
        channel: &Channel,
        message: &Message,
        exclude: Option<Address>,
    ) -> bool {
        if stands == Stands::Near && self.is_cut_off() {
            let placed = self.switchboard.publish(Some(self.shard), channel, message, exclude, None).is_ok();
            self.stats.bus_left_out.add(u64::from(placed));
            return placed;
        }
        self.switchboard.publish_everywhere(self.shard, channel, message, exclude).is_ok()
    }

    /// Whether a publisher has to be paused before it is read, because too much waits already.
    pub(crate) fn starve(&mut self, key: Key) -> bool {
        let route = self.conns.get(key).and_then(|conn| self.rules.routes.get(usize::from(conn.route)));
        let Some(stands) = route.map(|route| self.stands(route.on_bus_loss)) else { return false };
        if !self.unplaced.line(stands).is_full()
            || self.profile(key).is_none_or(|profile| profile.publishes_to.is_none())
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
            self.unplaced.line(stands).starved.push(key);
        }
        true
    }

    /// Tries again, in the order of arrival. The messages of a connection that has ended meanwhile are placed like
    /// all others: they were accepted.
    pub(crate) fn place(&mut self) {
        self.place_line(Stands::Near);
        self.place_line(Stands::Patient);
    }

    fn place_line(&mut self, stands: Stands) {
        for _ in 0..PLACED_PER_TURN {
            let Some(first) = self.unplaced.line(stands).waiting.pop_front() else { break };
            let Waiting { key, channel, message, exclude } = &first;
            if !self.try_place(stands, channel, message, *exclude) {
                self.unplaced.line(stands).waiting.push_front(first);
                return;
            }
            self.has_left(stands, *key, message.payload().len());
        }
        let line = self.unplaced.line(stands);
        if !line.is_full() {
            for key in std::mem::take(&mut line.starved) {
                if let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) {
                    rare.starved = false;
                }
                self.resume(key, Pause::Publishers);
                self.settle(key);
            }
        }
    }

    /// A message that waited does so no more.
    fn has_left(&mut self, stands: Stands, key: Key, bytes: usize) {
        self.unplaced.line(stands).bytes -= bytes;
        if let Some(rare) = self.rare_mut(key) {
            rare.unplaced -= 1;
            if rare.unplaced == 0 {
                self.resume(key, Pause::Mailbox);
            }
        }
        self.settle(key);
    }

    /// The drain's time is up: what waits for a bus goes without it.
    pub(crate) fn give_up_unplaced(&mut self) {
        while let Some(first) = self.unplaced.line(Stands::Patient).waiting.pop_front() {
            let Waiting { key, channel, message, exclude } = first;
            let _ = self.switchboard.publish(Some(self.shard), &channel, &message, exclude, None);
            self.stats.bus_left_out.add(1);
            self.has_left(Stands::Patient, key, message.payload().len());
        }
    }
}
