//! Those who may not come in, or no longer: what they are told, and what the log is told of them.
//!
//! Owns the once-a-second account of limits that were hit, bounded in peers, and the walk that ends connections of a
//! network that was blocked. Refuses to judge; `gate` and `traffic` do.

use std::net::IpAddr;

use bridge::Event;
use bridge::ending::Turned;
use bridge::limited::{Action, Kind, Limit, Limited};
use store::{Key, Phase};
use wire::error::Refusal;

use super::rules::Refuse;
use crate::net::Net;
use crate::turn::Shard;

/// Peers and limits in one account; all others are one line.
const NOTICES_MAX: usize = 32;
/// Ticks between two accounts.
const NOTICE_TICKS: u32 = 10;
/// Slots looked at per turn for those whose network was blocked.
const SLOTS_PER_TURN: u32 = 512;
/// Seconds for `Retry-After` where nobody knows better.
const RETRY_AFTER_S: u32 = 5;

/// Why somebody who is being let in is to be told to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exceeded {
    limit: Limit,
    retry_ticks: u32,
}

impl Exceeded {
    /// The HTTP answer.
    fn refusal(self) -> Refusal {
        let seconds = self.retry_ticks.div_ceil(1000 / crate::TICK_MS);
        Refusal::TooMany { retry_after_s: if seconds == 0 { RETRY_AFTER_S } else { seconds } }
    }
}

/// Limits that were hit since the last account.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    list: Vec<Limited>,
    due: u32,
}

impl Notices {
    fn add(&mut self, peer: Option<IpAddr>, kind: Kind) {
        let of = |notice: &&mut Limited| notice.kind == kind && notice.peer == peer;
        if let Some(notice) = self.list.iter_mut().find(of) {
            notice.times += 1;
        } else if self.list.len() < NOTICES_MAX {
            self.list.push(Limited { peer, kind, times: 1 });
        } else if let Some(others) = self.list.get_mut(NOTICES_MAX) {
            others.times += 1;
        } else {
            self.list.push(Limited { peer: None, kind, times: 1 });
        }
    }
}

/// A walk over the table in slices.
#[derive(Debug)]
pub(crate) struct Eviction {
    cursor: u32,
    end: u32,
}

impl<N: Net> Shard<N> {
    /// Notes what the gate said of somebody. What it is to be told once its request is here, if anything.
    pub(crate) fn judged(&mut self, peer: IpAddr, over: Option<Limit>, retry_ticks: u32) -> Option<Exceeded> {
        let limit = over?;
        let rules = self.rules.limits.peers();
        let dry_run = rules.dry_run && limit != Limit::Blocked;
        let closes = rules.refuse == Refuse::Close && limit != Limit::Blocked;
        let action = if closes { Action::Close } else { Action::Refuse };
        self.note_limit(Some(peer), Kind { limit, action, dry_run });
        (!dry_run).then_some(Exceeded { limit, retry_ticks })
    }

    /// Why a request is answered with a refusal instead of the upgrade, if so.
    pub(crate) fn refused_by_limit(&self, key: Key) -> Option<Refusal> {
        let exceeded = self.rare(key)?.exceeded?;
        let answers = self.rules.limits.peers().refuse == Refuse::Answer || exceeded.limit == Limit::Blocked;
        let turning = self.conns.get(key)?.admission.is_turning();
        (answers || turning).then(|| exceeded.refusal())
    }

    /// Counts a limit that a connection has hit.
    pub(crate) fn limited(&mut self, key: Key, kind: Kind) {
        let Some(conn) = self.conns.get(key) else { return };
        let peer = self.gate.peers().address(conn.admission.peer());
        self.note_limit(Some(peer), kind);
    }

    /// Counts a limit that was hit: by whom, unless it is the node's.
    pub(crate) fn note_limit(&mut self, peer: Option<IpAddr>, kind: Kind) {
        self.stats.limited[kind.place()].add(1);
        self.notices.add(peer, kind);
    }

    /// Tells the log once in a while. What finds no room in the outbox waits, and is added to.
    pub(crate) fn tell_limits(&mut self) {
        if self.notices.list.is_empty() || self.now < self.notices.due {
            return;
        }
        self.notices.due = self.now + NOTICE_TICKS;
        while self.outbox.has_room() {
            let Some(notice) = self.notices.list.pop() else { return };
            let pushed = self.outbox.push(self.now, Event::Limited(notice));
            debug_assert!(pushed.is_ok(), "asked for room before");
        }
    }

    /// Who was let in only to be told is told, now that it can hear it.
    pub(crate) fn show_limit(&mut self, key: Key) {
        let exceeded = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)?.exceeded.take());
        if let Some(Exceeded { limit, retry_ticks }) = exceeded {
            self.close_limited(key, limit, retry_ticks);
        }
    }

    /// A network was blocked: looks at everybody, from the start.
    pub(crate) fn start_eviction(&mut self) {
        self.eviction = Some(Eviction { cursor: 0, end: self.conns.end() });
    }

    /// One slice of that.
    pub(crate) fn evict_slice(&mut self) {
        let Some(eviction) = &mut self.eviction else { return };
        let slots = eviction.cursor..eviction.end.min(eviction.cursor + SLOTS_PER_TURN);
        eviction.cursor = slots.end;
        if slots.end >= eviction.end {
            self.eviction = None;
        }
        let (gate, now) = (&self.gate, self.now);
        let is_blocked = |key: &Key| {
            self.conns
                .get(*key)
                .is_some_and(|conn| gate.blocks().contain(gate.peers().key_at(conn.admission.peer()), now))
        };
        let keys: Vec<Key> = self.conns.keys_in(slots).filter(is_blocked).collect();
        for key in keys {
            match self.conns.get(key).map(|conn| conn.phase) {
                Some(Phase::Handshake) => self.turn_away(key, Turned::Blocked),
                Some(Phase::Open | Phase::PongWait) => {
                    let kind = Kind { limit: Limit::Blocked, action: Action::Close, dry_run: false };
                    self.limited(key, kind);
                    self.close_limited(key, Limit::Blocked, 0);
                }
                _ => {}
            }
        }
    }
}
