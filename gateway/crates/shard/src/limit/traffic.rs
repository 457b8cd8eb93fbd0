//! Holding connections to the rates of messages and bytes: their own, in the record, and their peer's, in its slot.
//!
//! Who is to be *paused* owes: what was read counts even when it is too much, so nothing has to be held back in memory,
//! and the connection is not read until the debt is paid. Reads get small when a rate is nearly used up, so a debt is
//! small, too. Who is to be *dropped* or *closed*, or only counted, never owes: what did not fit is not counted.
//!
//! The paused are on a ring of lists, one a tick; each at most once, as the reason in its record says. A crowd that
//! waits for one peer's rate wakes a part at a time, each time beginning with another.

use std::collections::VecDeque;

use bridge::limited::{Action, Kind, Limit};
use bridge::{EndReason, Pause};
use store::{Flags, Key, Phase};
use wire::ws::close::code;

use super::gcra::{Rate, Room};
use super::peers::Traffic;
use crate::cold::Then;
use crate::net::Net;
use crate::turn::{SCRATCH_BYTES, Shard};

/// Lists of the ring. Who waits for longer looks again when the ring has come round.
const RING_TICKS: u32 = 64;
/// Bytes read at a time when a rate is nearly used up.
const SMALL_READ_BYTES: usize = 4096;
/// Of those that wait, about so many wake in a tick.
const WOKEN_PER_TICK: u32 = 4096;
/// Resumed per turn.
const RESUMED_PER_TURN: usize = 1024;

/// The connections that are paused for a rate.
#[derive(Debug)]
pub(crate) struct Paced {
    ring: Box<[Vec<Key>]>,
    /// The tick up to which lists have been taken.
    tick: u32,
    due: VecDeque<Key>,
    waiting: u32,
}

impl Paced {
    pub(crate) fn new(now: u32) -> Self {
        let ring = (0..RING_TICKS).map(|_| Vec::new()).collect();
        Self { ring, tick: now, due: VecDeque::new(), waiting: 0 }
    }

    /// Whether somebody may be resumed at once.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whoever waits, stale keys included.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.ring.iter().flatten().chain(&self.due).copied()
    }

    fn push(&mut self, key: Key, ticks: u32) {
        let at = self.tick.wrapping_add(ticks.clamp(1, RING_TICKS - 1)) % RING_TICKS;
        self.ring[at as usize].push(key);
        self.waiting += 1;
    }

    /// Makes those due whose tick has come; a list begins at a random place.
    fn advance(&mut self, now: u32, random: &mut fastrand::Rng) {
        let ticks = now.saturating_sub(self.tick).min(RING_TICKS);
        for tick in now - ticks..now {
            let list = &mut self.ring[((tick + 1) % RING_TICKS) as usize];
            if !list.is_empty() {
                let start = random.usize(..list.len());
                list.rotate_left(start);
                self.due.extend(list.drain(..));
                list.shrink_to(WOKEN_PER_TICK as usize);
            }
        }
        self.tick = now;
    }
}

impl<N: Net> Shard<N> {
    /// How many bytes may be read from a connection now. `None` when it has just been paused.
    pub(crate) fn allowance(&mut self, key: Key) -> Option<usize> {
        let phase = self.conns.get(key).map(|conn| conn.phase);
        if !matches!(phase, Some(Phase::Open | Phase::PongWait)) {
            return Some(SCRATCH_BYTES);
        }
        match self.room(key) {
            Ok(Room::Plenty) => Some(SCRATCH_BYTES),
            Ok(_) => Some(SMALL_READ_BYTES),
            Err((limit, ticks)) => {
                self.pace(key, limit, ticks);
                None
            }
        }
    }

    /// How much is left of the least of the rates that a connection can be paused for; of one that is used up, which it is
    /// and the ticks to wait.
    pub(crate) fn room(&mut self, key: Key) -> Result<Room, (Limit, u32)> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(Room::Plenty) };
        let (now, limits) = (self.now, &self.rules.limits);
        let mut least = Room::Plenty;
        if let Some(limit) = limits.connection().filter(|_| conn.limiter != 0) {
            let unseen = now.saturating_sub(conn.last_received);
            conn.limiter = limit.messages.settle(conn.limiter, now, unseen);
            if limit.action == Action::Pause && !limit.dry_run {
                least = limit.messages.room(conn.limiter, now);
                if least == Room::None {
                    return Err((Limit::ConnectionMessages, limit.messages.wait_ticks(conn.limiter, now)));
                }
            }
        }
        let peers = limits.peers();
        if peers.action == Action::Pause && !peers.dry_run {
            let slot = conn.admission.peer();
            let table = self.gate.peers();
            if let Some(limits) = limits.sending(|| table.key_at(slot)) {
                for (rate, of, limit) in [
                    (limits.messages, Traffic::Messages, Limit::PeerMessages),
                    (limits.bytes, Traffic::Bytes, Limit::PeerBytes),
                ] {
                    let Some(rate) = rate else { continue };
                    let (room, ticks) = table.room(slot, rate, of, now);
                    if room == Room::None {
                        return Err((limit, ticks));
                    }
                    least = least.min(room);
                }
            }
        }
        Ok(least)
    }

    /// Does not read a connection for so many ticks.
    fn pace(&mut self, key: Key, limit: Limit, ticks: u32) {
        let crowd = self.paced.waiting / WOKEN_PER_TICK;
        let ticks = ticks.saturating_add(self.random.u32(0..=crowd));
        self.paced.push(key, ticks);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.flags.insert(Flags::UNREAD);
        }
        self.pause(key, Pause::Limit);
        self.limited(key, Kind { limit, action: Action::Pause, dry_run: false });
    }

    /// Counts what was read, for the peers that are paused for their bytes.
    pub(crate) fn owe_bytes(&mut self, key: Key, bytes: usize) {
        let limits = &self.rules.limits;
        if limits.peers().action != Action::Pause || limits.peers().dry_run {
            return;
        }
        let Some(slot) = self.conns.get(key).map(|conn| conn.admission.peer()) else { return };
        let table = self.gate.peers();
        if let Some(rate) = limits.sending(|| table.key_at(slot)).and_then(|limits| limits.bytes) {
            table.owe(slot, rate, Traffic::Bytes, self.now, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Counts a message, or a ping. Whether it is to be taken; if not it has been dropped, or its sender closed.
    pub(crate) fn takes(&mut self, key: Key, bytes: usize) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let now = self.now;
        let slot = conn.admission.peer();
        let mut over = None;
        if let Some(limit) = self.rules.limits.connection() {
            if limit.action == Action::Pause && !limit.dry_run {
                conn.limiter = limit.messages.owe(conn.limiter, now, 1);
            } else if let Some(state) = limit.messages.take(conn.limiter, now, 1) {
                conn.limiter = state;
            } else {
                let ticks = limit.messages.wait_ticks(conn.limiter, now);
                let kind =
                    Kind { limit: Limit::ConnectionMessages, action: limit.action, dry_run: limit.dry_run };
                over = Some((kind, ticks));
            }
        }
        if let Some((kind, ticks)) = over
            && !self.goes_on(key, kind, ticks)
        {
            return false;
        }
        match self.over_peer_rate(slot, u32::try_from(bytes).unwrap_or(u32::MAX)) {
            Some((kind, ticks)) => self.goes_on(key, kind, ticks),
            None => true,
        }
    }

    /// Counts a message for the peer. What it has too much of, if anything is to follow from that here.
    fn over_peer_rate(&self, slot: u32, bytes: u32) -> Option<(Kind, u32)> {
        let table = self.gate.peers();
        let limits = self.rules.limits.sending(|| table.key_at(slot))?;
        let &super::rules::PeerRules { action, dry_run, .. } = self.rules.limits.peers();
        let owes = action == Action::Pause && !dry_run;
        let exceeds = |rate: Option<Rate>, of, amount| {
            rate.filter(|rate| !table.take(slot, *rate, of, self.now, amount))
                .map(|rate| table.room(slot, rate, of, self.now).1)
        };
        if owes {
            if let Some(rate) = limits.messages {
                table.owe(slot, rate, Traffic::Messages, self.now, 1);
            }
            return None;
        }
        let kind = |limit| Kind { limit, action, dry_run };
        if let Some(ticks) = exceeds(limits.messages, Traffic::Messages, 1) {
            return Some((kind(Limit::PeerMessages), ticks));
        }
        let ticks = exceeds(limits.bytes, Traffic::Bytes, bytes)?;
        Some((kind(Limit::PeerBytes), ticks))
    }

    /// Counts a limit that was hit and does what is to be done. Whether the message goes on nevertheless.
    fn goes_on(&mut self, key: Key, kind: Kind, ticks: u32) -> bool {
        self.limited(key, kind);
        if kind.action == Action::Close && !kind.dry_run {
            self.close_limited(key, kind.limit, ticks);
        }
        kind.dry_run
    }

    /// Says goodbye for a limit.
    pub(crate) fn close_limited(&mut self, key: Key, limit: Limit, ticks: u32) {
        let reason = limit.reason();
        let reason = if limit == Limit::Blocked {
            format!(r#"{{"reason":"{reason}"}}"#)
        } else {
            let wait_ms = ticks.saturating_mul(crate::TICK_MS);
            let retry_ms = wait_ms.saturating_add(self.random.u32(1..crate::RETRY_SPREAD_MS));
            format!(r#"{{"reason":"{reason}","retry_ms":{retry_ms}}}"#)
        };
        self.goodbye(key, code::POLICY, &reason, EndReason::Limited, Then::Linger);
    }

    /// Reads those again whose pause is over. They go through the carry-over list, like all who stopped early.
    pub(crate) fn resume_paced(&mut self) {
        if self.paced.tick != self.now {
            self.paced.advance(self.now, &mut self.random);
            self.gate.peers().sweep(self.rules.limits.peers(), self.now);
            self.tell_limits();
        }
        for _ in 0..RESUMED_PER_TURN {
            let Some(key) = self.paced.due.pop_front() else { return };
            self.paced.waiting -= 1;
            self.resume(key, Pause::Limit);
        }
    }
}
