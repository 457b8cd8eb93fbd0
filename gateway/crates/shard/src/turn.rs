//! The shard and one turn of it. Owns the order of the steps and their budgets, and nothing of what they do.
//!
//! Mail and readiness come first (the event loop calls them), then, always in this order: connections that stopped
//! early for fairness, a slice of the current fan-outs, expired timers, accepts, publishes that waited, goodbyes of a
//! drain, frames that became due in this turn, those who wait for an upstream, the outbox as one batch, gauges.

use std::collections::VecDeque;
use std::sync::Arc;

use bridge::id::{Epoch, NodeName};
use bridge::message::Bytes;
use bridge::{Address, Inbox, Outbox, Pause, Quota, Stats, Switchboard};
use store::{Backlog, Channels, Cold, Conns, Key, Wheel};

use crate::close::Unreported;
use crate::cold::Rare;
use crate::drain::{Drain, Gap};
use crate::fanout::Fanout;
use crate::limit::{Admitted, Eviction, Gate, NodeBytes, Notices, Paced};
use crate::net::{Net, Readiness};
use crate::profile::Profile;
use crate::publish::Unplaced;
use crate::round::Round;
use crate::rules::Rules;
use crate::upstream::Lanes;
use crate::users::Leaving;

/// Carried-over connections per turn.
pub(crate) const CARRIED_PER_TURN: usize = 256;
/// Bytes of the scratch that every read goes into.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// Indices into `Stats::budget_hits`.
pub(crate) mod budget {
    pub(crate) const MAIL: usize = 0;
    pub(crate) const CARRIED: usize = 1;
    pub(crate) const FANOUT: usize = 2;
    pub(crate) const TIMERS: usize = 3;
    pub(crate) const ACCEPTS: usize = 4;
}

/// The token of the listener; every other token is a key.
pub const LISTENER: u64 = 0;

/// How soon the shard wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A step left work: poll without waiting.
    Now,
    /// Something waits for another thread: look again in a millisecond.
    Soon,
    /// Nothing to do before the next tick or event.
    Tick,
    /// Drained: there is nobody left and nothing to report.
    Finished,
}

/// Which shard of which node.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The shard's number.
    pub shard: u16,
}

/// Capacities of a shard's tables; address space, not memory.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Records.
    pub connections: u32,
    /// Channels.
    pub channels: u32,
    /// Subscriptions.
    pub subscriptions: u32,
    /// Backlog entries.
    pub backlog_entries: u32,
}

/// What a shard is built from.
pub struct Parts<N> {
    /// Its network.
    pub net: N,
    /// Who it is.
    pub identity: Identity,
    /// How big.
    pub sizes: Sizes,
    /// What it obeys.
    pub rules: Rules,
    /// What it may hand to each upstream, by number.
    pub upstreams: Vec<Quota>,
    /// The node's gate.
    pub gate: Arc<Gate>,
    /// The bytes that backlogs of the node may hold.
    pub node_bytes: Arc<NodeBytes>,
    /// The way to channels.
    pub switchboard: Arc<Switchboard>,
    /// Its mailbox.
    pub inbox: Inbox,
    /// Its outbox.
    pub outbox: Outbox,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// Seed of its random choices (heartbeat phases, retry hints).
    pub seed: u64,
    /// The current tick.
    pub now: u32,
}

/// One event loop's worth of connections.
pub struct Shard<N: Net> {
    pub(crate) net: N,
    pub(crate) shard: u16,
    /// `node-epoch-shard-`: what every id of this shard begins with.
    pub(crate) id_prefix: Box<str>,
    pub(crate) now: u32,
    /// The same moment in microseconds, for round trips; wraps.
    pub(crate) micros: u32,
    /// Hides the clock in pings, and spreads ages.
    pub(crate) salt: u64,
    pub(crate) rules: Arc<Rules>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) node_bytes: Arc<NodeBytes>,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    pub(crate) stats: Arc<Stats>,
    pub(crate) random: fastrand::Rng,

    pub(crate) conns: Conns<N::Socket, Admitted>,
    pub(crate) cold: Cold<Rare>,
    pub(crate) profiles: Cold<Profile>,
    pub(crate) wheel: Wheel,
    pub(crate) backlog: Backlog<Bytes>,
    pub(crate) channels: Channels,

    pub(crate) fanout: Fanout,
    pub(crate) unplaced: Unplaced,
    pub(crate) unreported: Unreported,
    pub(crate) lanes: Lanes,
    pub(crate) carry: VecDeque<Key>,
    pub(crate) dirty: Vec<Key>,
    /// The tick at which a frame last found the bounds that all backlogs share used up.
    pub(crate) node_full_at: Option<u32>,
    /// How often a frame met a bound and what waited had to be written before the end of a turn.
    pub(crate) offers: usize,
    pub(crate) drain: Option<Drain>,
    /// A share of the table that is told to go while the shard listens on.
    pub(crate) shed: Option<Round>,
    /// Goodbyes are due that this turn had no budget for.
    /// Closing those who may have missed something, if that goes on.
    pub(crate) gap: Option<Gap>,
    pub(crate) goodbyes_left: bool,
    /// Since when goodbyes wait for messages to be delivered.
    pub(crate) goodbyes_due_since: Option<u32>,
    pub(crate) eviction: Option<Eviction>,
    /// Users that are told to go.
    pub(crate) leaving: Leaving,
    pub(crate) paced: Paced,
    pub(crate) notices: Notices,
    /// Somebody may wait at the listener.
    pub(crate) accepting: bool,
    /// No descriptor was left at this tick; try again at the next.
    pub(crate) exhausted_at: Option<u32>,
    pub(crate) timers_left: bool,
    /// The outbox is due, and its reader has no room.
    pub(crate) outbox_blocked: bool,
    pub(crate) handshakes: u32,
    pub(crate) paused: u32,
    /// The same by reason.
    pub(crate) paused_by: [u32; Pause::ALL.len()],
    /// Memory held for what has arrived in part.
    pub(crate) partial_bytes: u64,

    /// Every read goes here first.
    pub(crate) scratch: Vec<u8>,
    /// Replies to one connection are gathered here.
    pub(crate) out: Vec<u8>,
}

impl<N: Net> Shard<N> {
    /// A shard with an empty table whose listener may have somebody waiting.
    #[must_use]
    pub fn new(parts: Parts<N>) -> Self {
        let Identity { node, epoch, shard } = &parts.identity;
        let sizes = parts.sizes;
        parts.stats.capacity.set(u64::from(sizes.connections));
        parts.stats.listening.set(1);
        parts.stats.rules.set(1);
        Self {
            net: parts.net,
            shard: *shard,
            id_prefix: format!("{node}-{epoch}-{shard:x}-").into(),
            now: parts.now,
            micros: 0,
            salt: parts.seed,
            // A copy of its own: the reference count of a shared one would be a cache line that all shards write.
            rules: Arc::new(parts.rules),
            gate: parts.gate,
            node_bytes: parts.node_bytes,
            switchboard: parts.switchboard,
            inbox: parts.inbox,
            outbox: parts.outbox,
            stats: parts.stats,
            random: fastrand::Rng::with_seed(parts.seed),
            conns: Conns::new(sizes.connections),
            cold: Cold::new(sizes.connections),
            profiles: Cold::new(sizes.connections),
            wheel: Wheel::new(parts.now),
            backlog: Backlog::new(sizes.backlog_entries, 0),
            channels: Channels::new(sizes.channels, sizes.subscriptions),
            fanout: Fanout::default(),
            unplaced: Unplaced::default(),
            unreported: Unreported::default(),
            lanes: Lanes::new(&parts.upstreams),
            carry: VecDeque::new(),
            dirty: Vec::new(),
            node_full_at: None,
            offers: 0,
            drain: None,
            shed: None,
            gap: None,
            goodbyes_left: false,
            goodbyes_due_since: None,
            eviction: None,
            leaving: Leaving::default(),
            paced: Paced::new(parts.now),
            notices: Notices::default(),
            accepting: true,
            exhausted_at: None,
            timers_left: false,
            outbox_blocked: false,
            handshakes: 0,
            paused: 0,
            paused_by: [0; Pause::ALL.len()],
            partial_bytes: 0,
            scratch: vec![0; SCRATCH_BYTES],
            out: Vec::with_capacity(SCRATCH_BYTES),
        }
    }

    /// A pass of the loop begins, so many microseconds after some moment; the number may wrap. Only the measuring of
    /// round trips needs it. Call before [`Shard::mail`].
    pub const fn begin_pass(&mut self, micros: u32) {
        self.micros = micros;
    }

    /// News of one token. Call after [`Shard::mail`] and before [`Shard::turn`].
    pub fn ready(&mut self, now: u32, token: u64, readiness: Readiness) {
        self.now = now;
        if token == LISTENER {
            self.accepting = self.drain.is_none_or(|drain| drain.is_listening());
        } else if let Some(key) = Key::from_bits(token) {
            if readiness.writable {
                self.writable(key);
            }
            if readiness.readable || readiness.hung_up {
                self.readable(key, readiness.hung_up);
            }
        }
    }

    /// All steps but mail and readiness.
    pub fn turn(&mut self, now: u32) -> Next {
        self.now = now;
        self.resume_paced();
        self.carried();
        self.fan_out();
        self.expire();
        self.accept();
        self.place();
        self.drain_slice();
        self.evict_slice();
        self.close_users();
        self.flush_dirty();
        self.serve_lanes();
        self.report();
        self.return_bytes();
        self.gauge();
        self.next()
    }

    fn carried(&mut self) {
        for _ in 0..self.carry.len().min(CARRIED_PER_TURN) {
            let Some(key) = self.carry.pop_front() else { return };
            if let Some(conn) = self.conns.get_mut(key) {
                conn.flags.remove(store::Flags::CARRIED);
                self.ingest(key);
            }
        }
        if self.carry.len() >= CARRIED_PER_TURN {
            self.stats.budget_hits[budget::CARRIED].add(1);
        }
    }

    fn gauge(&self) {
        let stats = &self.stats;
        stats.handshakes.set(u64::from(self.handshakes));
        stats.fanout_pending.set(self.fanout.pending() as u64);
        stats.backlog_bytes.set(self.backlog.bytes_held());
        stats.backlog_entries.set(u64::from(self.backlog.entries()));
        stats.cold.set(u64::from(self.cold.len()));
        stats.assembly_bytes.set(self.partial_bytes);
        stats.paused.set(u64::from(self.paused));
        for (gauge, count) in stats.paused_by.iter().zip(self.paused_by) {
            gauge.set(u64::from(count));
        }
        stats.channels.set(u64::from(self.channels.len()));
        stats.subscriptions.set(u64::from(self.channels.subscriptions()));
        stats.mailbox_depth.set(self.inbox.depth() as u64);
        stats.unplaced.set(self.unplaced.len() as u64);
        stats.unplaced_bytes.set(self.unplaced.bytes() as u64);
        stats.outbox_events.set((self.outbox.len() + self.unreported.len()) as u64);
        stats.inbound_unsettled.set(self.lanes.unsettled());
        // Written last and read first: whoever sees that somebody has gone sees what went with him, too.
        stats.connections.set(u64::from(self.conns.len()));
        stats.turns.add(1);
    }

    fn next(&self) -> Next {
        let accepts = self.accepting && self.exhausted_at != Some(self.now);
        if self.is_drained() {
            Next::Finished
        } else if accepts
            || self.timers_left
            || !self.carry.is_empty()
            || !self.fanout.is_empty()
            || !self.inbox.is_empty()
            || self.goodbyes_left
            || self.eviction.is_some()
            || !self.leaving.is_empty()
            || self.paced.has_due()
        {
            Next::Now
        } else if !self.unplaced.is_empty() || !self.unreported.is_empty() || self.outbox_blocked {
            Next::Soon
        } else {
            Next::Tick
        }
    }

    /// The tick it believes in.
    #[must_use]
    pub const fn now(&self) -> u32 {
        self.now
    }

    /// Records in the table.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.conns.len()
    }

    /// Its network: the tests reach the script through it.
    pub const fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    pub(crate) fn address(&self, key: Key) -> Address {
        Address { shard: self.shard, slot: key.index(), generation: key.generation() }
    }

    /// The key of an address, if it is of this shard.
    pub(crate) fn key(&self, address: Address) -> Option<Key> {
        let bits = u64::from(address.generation) << 32 | u64::from(address.slot);
        (address.shard == self.shard).then(|| Key::from_bits(bits)).flatten()
    }

    pub(crate) fn arm(&mut self, key: Key, ticks: u32) {
        self.wheel.arm(&mut self.conns, key.index(), self.now.saturating_add(ticks.max(1)));
    }
}
