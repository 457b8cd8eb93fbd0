//! Telling upstreams what their connections do: opened, message, closed, in one order for each connection.
//!
//! Owns the *lanes*, one for each partition of each upstream: how much of it is under way, and who waits for room. An
//! upstream settles what it is done with ([`bridge::Command::Settle`]), and in that measure the lane takes more. Who has something
//! to say and finds no room is not read and stands in the lane's line; whoever is called has its place before those who
//! only come. What a read has brought beyond the room is kept unparsed. Refuses to know what an upstream is.

use std::collections::VecDeque;
use std::sync::Arc;

use bridge::event::Ending;
use bridge::inbound::{Occurrence, Opened, Settled};
use bridge::message::{Bytes, Kind};
use bridge::{EndReason, Event, Inbound, Pause, Principal, Quota, Upstream};
use store::{Flags, Key, Phase};
use wire::ws::close::code;

use crate::cold::{Partial, Then};
use crate::net::Net;
use crate::rules;
use crate::turn::Shard;

/// Of those that wait, so many are called, told of or shown out in a turn.
const CALLED_PER_TURN: u32 = 1024;

/// The lanes of all upstreams.
pub(crate) struct Lanes {
    /// By number of the upstream.
    upstreams: Box<[(Quota, Box<[Lane]>)]>,
    /// Where somebody waits, each once.
    crowded: Vec<(Upstream, u16)>,
    /// Over all of them.
    unsettled: u64,
}

/// One partition of one upstream on this shard.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Events that are not settled.
    pub(crate) events: u32,
    /// Their payload bytes.
    pub(crate) bytes: u32,
    /// Connections that wait for room, and since when.
    pub(crate) waiting: VecDeque<(Key, u32)>,
    /// Of those that waited, those that were called and have not been read yet.
    pub(crate) called: u32,
    /// Closed events that wait for room; their records stay until then.
    pub(crate) closed: VecDeque<Closed>,
    is_crowded: bool,
}

/// A closed event that waits.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) key: Key,
    route: u16,
    reason: EndReason,
    code: Option<u16>,
    principal: Option<Arc<Principal>>,
}

impl Lanes {
    pub(crate) fn new(quotas: &[Quota]) -> Self {
        let lanes = |quota: &Quota| (*quota, (0..quota.partitions).map(|_| Lane::default()).collect());
        Self { upstreams: quotas.iter().map(lanes).collect(), crowded: Vec::new(), unsettled: 0 }
    }

    fn quota(&self, upstream: Upstream) -> Option<Quota> {
        self.upstreams.get(usize::from(upstream.0)).map(|(quota, _)| *quota)
    }

    fn lane(&mut self, upstream: Upstream, partition: u16) -> Option<(Quota, &mut Lane)> {
        let (quota, lanes) = self.upstreams.get_mut(usize::from(upstream.0))?;
        Some((*quota, lanes.get_mut(usize::from(partition))?))
    }

    /// Every lane.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.upstreams.iter().flat_map(|(_, lanes)| lanes)
    }

    /// Events that are not settled.
    pub(crate) const fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Notes that somebody waits there.
    fn crowd(&mut self, upstream: Upstream, partition: u16) {
        if let Some((_, lane)) = self.lane(upstream, partition)
            && !std::mem::replace(&mut lane.is_crowded, true)
        {
            self.crowded.push((upstream, partition));
        }
    }
}

impl Lane {
    /// Events that it takes now.
    fn room(&self, quota: &Quota) -> u32 {
        if self.events > 0 && self.bytes >= quota.bytes {
            0
        } else {
            quota.events.saturating_sub(self.events)
        }
    }

    /// The same for whoever was not called: those who were go first, and those who wait before that.
    fn room_for_comers(&self, quota: &Quota) -> u32 {
        if self.waiting.is_empty() { self.room(quota).saturating_sub(self.called) } else { 0 }
    }
}

impl<N: Net> Shard<N> {
    /// Whom a route tells its events.
    pub(crate) fn upstream_of(&self, route: u16) -> Option<Upstream> {
        match self.rules.routes.get(usize::from(route))?.inbound {
            rules::Inbound::Upstream(upstream) => Some(upstream),
            _ => None,
        }
    }

    /// The connection has been opened: if its route has an upstream that is told, now or when there is room.
    pub(crate) fn tell_opened(&mut self, key: Key, path: &str, protocol: Option<&str>) {
        let Some(conn) = self.conns.get(key) else { return };
        let Some(upstream) = self.upstream_of(conn.route) else { return };
        let Some(quota) = self.lanes.quota(upstream) else { return };
        let peer = self.gate.peers().address(conn.admission.peer());
        let partition = self.address(key).partition(quota.partitions);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.partition = partition;
        }
        let opened = Box::new(Opened { peer, path: path.into(), protocol: protocol.map(Into::into) });
        if self.has_room(key, upstream) {
            self.tell_upstream(key, upstream, Occurrence::Opened(opened));
        } else {
            if let Some(rare) = self.rare_mut(key) {
                rare.told.opened = Some(opened);
            }
            self.stand_in_line(key, upstream);
        }
    }

    /// Whether the upstream takes another event of this connection, the connection's own window left out.
    fn has_room(&mut self, key: Key, upstream: Upstream) -> bool {
        if !self.outbox.has_room() {
            return false;
        }
        let Some(conn) = self.conns.get(key) else { return false };
        let is_called = self.cold.get(conn.cold).is_some_and(|rare| rare.told.called);
        let Some((quota, lane)) = self.lanes.lane(upstream, conn.partition) else { return false };
        let room = if is_called { lane.room(&quota) } else { lane.room_for_comers(&quota) };
        room > 0
    }

    /// Whether a message of this connection may be parsed, and so told. Pauses it when not; `UNREAD` is the caller's affair.
    pub(crate) fn may_tell(&mut self, key: Key, upstream: Upstream) -> bool {
        let window = self.lanes.quota(upstream).map_or(0, |quota| quota.connection_events);
        let unsettled = self.rare(key).map_or(0, |rare| rare.told.unsettled);
        if unsettled >= window {
            self.pause(key, Pause::Window);
            return false;
        }
        let has_room = self.has_room(key, upstream);
        if !has_room {
            self.stand_in_line(key, upstream);
        }
        has_room
    }

    /// Whether a message that came behind our goodbye may be told: it waits for nothing, and nothing is told of a
    /// connection before its opening.
    pub(crate) fn may_tell_late(&mut self, key: Key, upstream: Upstream) -> bool {
        let window = self.lanes.quota(upstream).map_or(0, |quota| quota.connection_events);
        let is_known = self.conns.get(key).is_some_and(|conn| conn.sequence > 0);
        let unsettled = self.rare(key).map_or(0, |rare| rare.told.unsettled);
        is_known && unsettled < window && self.has_room(key, upstream)
    }

    /// Whether a connection on its way to being read has to wait, because nothing of it could be told.
    pub(crate) fn waits_for_upstream(&mut self, key: Key) -> bool {
        if self.lanes.upstreams.is_empty() {
            return false;
        }
        let Some(conn) = self.conns.get(key) else { return false };
        if !matches!(conn.phase, Phase::Open | Phase::PongWait) {
            return false;
        }
        let Some(upstream) = self.upstream_of(conn.route) else { return false };
        let waits = !self.may_tell(key, upstream);
        if waits && let Some(conn) = self.conns.get_mut(key) {
            conn.flags.insert(Flags::UNREAD);
        }
        waits
    }

    /// A message for the upstream, for which [`Shard::may_tell`] has found room.
    pub(crate) fn tell_message(&mut self, key: Key, upstream: Upstream, kind: Kind, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        if let Some(rare) = self.rare_mut(key) {
            rare.told.unsettled += 1;
        }
        self.tell_upstream(key, upstream, Occurrence::Message { kind, payload });
    }

    fn tell_upstream(&mut self, key: Key, upstream: Upstream, occurrence: Occurrence) {
        let address = self.address(key);
        let principal = self.principal(key).cloned();
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.sequence = conn.sequence.wrapping_add(1);
        let (partition, route, sequence) = (conn.partition, conn.route, conn.sequence);
        self.hand_over(Inbound { upstream, partition, address, route, sequence, principal, occurrence });
    }

    /// Puts an event into the outbox, which has room, and counts it until it is settled.
    fn hand_over(&mut self, inbound: Inbound) {
        if let Some((_, lane)) = self.lanes.lane(inbound.upstream, inbound.partition) {
            lane.events += 1;
            lane.bytes = lane.bytes.saturating_add(inbound.payload_bytes());
        }
        self.lanes.unsettled += 1;
        self.stats.inbound.add(1);
        let pushed = self.outbox.push(self.now, Event::Inbound(inbound));
        debug_assert!(pushed.is_ok(), "asked for room before");
    }

    /// Waits for room, once.
    fn stand_in_line(&mut self, key: Key, upstream: Upstream) {
        self.pause(key, Pause::Upstream);
        let Some(partition) = self.conns.get(key).map(|conn| conn.partition) else { return };
        let now = self.now;
        let stands = self.rare_mut(key).is_none_or(|rare| std::mem::replace(&mut rare.told.waits, true));
        if stands {
            return;
        }
        if let Some((_, lane)) = self.lanes.lane(upstream, partition) {
            lane.waiting.push_back((key, now));
        }
        self.lanes.crowd(upstream, partition);
    }

    /// The connection that was called has been read: its place is free again, or taken by what it said.
    pub(crate) fn has_had_its_call(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let (route, partition) = (conn.route, conn.partition);
        let Some(rare) = self.cold.get_mut(conn.cold) else { return };
        if !std::mem::take(&mut rare.told.called) {
            return;
        }
        let upstream = self.upstream_of(route);
        if let Some((_, lane)) = upstream.and_then(|upstream| self.lanes.lane(upstream, partition)) {
            lane.called -= 1;
        }
        self.settle(key);
    }

    /// What of a connection's bytes was not parsed waits for room. The caller has put nothing else aside.
    pub(crate) fn put_aside(&mut self, key: Key, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.flags.insert(Flags::UNREAD);
        }
        self.keep_partial(key, Partial::Unparsed(bytes.to_vec()));
    }

    /// Takes what was put aside, to be received as if it had just been read.
    pub(crate) fn take_aside(&mut self, key: Key) -> Option<Vec<u8>> {
        let is_there = matches!(self.rare(key)?.partial, Partial::Unparsed(_));
        match is_there.then(|| self.take_partial(key)) {
            Some(Partial::Unparsed(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The ending of a connection is known to the log; the record goes when the upstream has been told, too. Whether it
    /// may go now.
    pub(crate) fn tell_closed(&mut self, key: Key, ending: Ending) -> bool {
        let Some(conn) = self.conns.get(key) else { return true };
        let (route, partition) = (conn.route, conn.partition);
        // Nobody was told that it came, so nobody needs to know that it went.
        let was_told = conn.sequence > 0;
        let Some(upstream) = self.upstream_of(route).filter(|_| was_told) else { return true };
        let code = ending.received_code.or(ending.sent_code);
        let closed = Closed { key, route, reason: ending.reason, code, principal: ending.principal };
        let has_outbox = self.outbox.has_room();
        let Some((quota, lane)) = self.lanes.lane(upstream, partition) else { return true };
        if has_outbox && lane.closed.is_empty() && lane.room(&quota) > 0 {
            self.hand_over_closed(upstream, closed);
            return true;
        }
        lane.closed.push_back(closed);
        self.lanes.crowd(upstream, partition);
        false
    }

    fn hand_over_closed(&mut self, upstream: Upstream, closed: Closed) {
        let Closed { key, route, reason, code, principal } = closed;
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.sequence = conn.sequence.wrapping_add(1);
        let (partition, sequence) = (conn.partition, conn.sequence);
        let (address, occurrence) = (self.address(key), Occurrence::Closed { reason, code });
        self.hand_over(Inbound { upstream, partition, address, route, sequence, principal, occurrence });
    }

    /// Something is off an upstream's hands.
    pub(crate) fn settle_upstream(&mut self, upstream: Upstream, settled: &[Settled]) {
        for settled in settled {
            let Some((quota, lane)) = self.lanes.lane(upstream, settled.partition) else {
                debug_assert!(false, "only what was handed over is settled");
                continue;
            };
            lane.events = lane.events.saturating_sub(u32::from(settled.events));
            lane.bytes = lane.bytes.saturating_sub(settled.bytes);
            self.lanes.unsettled = self.lanes.unsettled.saturating_sub(u64::from(settled.events));
            let Some(key) = self.key(settled.address) else { continue };
            let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) else {
                continue;
            };
            rare.told.unsettled = rare.told.unsettled.saturating_sub(settled.messages);
            if rare.told.unsettled < quota.connection_events {
                self.resume(key, Pause::Window);
            }
            self.settle(key);
        }
    }

    /// Calls those who wait where there is room again, and shows out who has waited too long.
    pub(crate) fn serve_lanes(&mut self) {
        let mut budget = CALLED_PER_TURN;
        let mut crowded = std::mem::take(&mut self.lanes.crowded);
        // Another one is the first in each turn, so that the budget and the outbox's room go round.
        if !crowded.is_empty() {
            let first = self.random.usize(..crowded.len());
            crowded.rotate_left(first);
        }
        crowded.retain(|(upstream, partition)| {
            self.serve_lane(*upstream, *partition, &mut budget);
            let Some((_, lane)) = self.lanes.lane(*upstream, *partition) else { return false };
            lane.is_crowded = !lane.waiting.is_empty() || !lane.closed.is_empty();
            lane.is_crowded
        });
        // Nobody joins a line while the lines are served; should that change, nobody is lost.
        crowded.append(&mut self.lanes.crowded);
        self.lanes.crowded = crowded;
    }

    fn serve_lane(&mut self, upstream: Upstream, partition: u16, budget: &mut u32) {
        while *budget > 0 && self.outbox.has_room() {
            let Some((quota, lane)) = self.lanes.lane(upstream, partition) else { return };
            if lane.room(&quota) == 0 {
                break;
            }
            let Some(closed) = lane.closed.pop_front() else { break };
            *budget -= 1;
            let key = closed.key;
            self.hand_over_closed(upstream, closed);
            self.remove(key);
        }
        while *budget > 0 && self.outbox.has_room() {
            let Some((quota, lane)) = self.lanes.lane(upstream, partition) else { return };
            if lane.room(&quota) <= lane.called {
                break;
            }
            let Some((key, _)) = lane.waiting.pop_front() else { return };
            *budget -= 1;
            self.call(key, upstream, partition);
        }
        self.show_out_the_tired(upstream, partition, budget);
    }

    /// Somebody's turn has come.
    fn call(&mut self, key: Key, upstream: Upstream, partition: u16) {
        let Some(conn) = self.conns.get(key) else { return };
        let is_open = matches!(conn.phase, Phase::Open | Phase::PongWait);
        let Some(rare) = self.cold.get_mut(conn.cold) else { return };
        rare.told.waits = false;
        if !is_open {
            // It leaves, and was never told of or has nothing more to say.
            rare.told.opened = None;
            return self.settle(key);
        }
        if let Some(opened) = rare.told.opened.take() {
            self.tell_upstream(key, upstream, Occurrence::Opened(opened));
            self.resume(key, Pause::Upstream);
            return self.settle(key);
        }
        self.resume(key, Pause::Upstream);
        // A place is kept for whoever will be read soon, which is not the case of one that is paused for another reason.
        let is_next = self.conns.get(key).is_some_and(|conn| conn.flags.contains(Flags::CARRIED));
        if is_next
            && let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold))
            && let Some((_, lane)) = self.lanes.lane(upstream, partition)
        {
            rare.told.called = true;
            lane.called += 1;
        }
        self.settle(key);
    }

    /// Whoever has waited longer than the upstream's patience is asked to come again.
    fn show_out_the_tired(&mut self, upstream: Upstream, partition: u16, budget: &mut u32) {
        while *budget > 0 {
            let now = self.now;
            let Some((quota, lane)) = self.lanes.lane(upstream, partition) else { return };
            let is_tired = |(_, since): &(Key, u32)| now.saturating_sub(*since) >= quota.patience_ticks;
            if !lane.waiting.front().is_some_and(is_tired) {
                return;
            }
            let Some((key, _)) = lane.waiting.pop_front() else { return };
            let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) else {
                continue;
            };
            *budget -= 1;
            rare.told.waits = false;
            self.give_up(key);
        }
    }

    /// What it says is not taken by whoever it is for: 1013, and when to come again, which is another time for everybody.
    pub(crate) fn give_up(&mut self, key: Key) {
        let retry_ms = self.random.u32(1..crate::RETRY_SPREAD_MS);
        let reason = format!(r#"{{"reason":"upstream","retry_ms":{retry_ms}}}"#);
        self.goodbye(key, code::TRY_AGAIN, &reason, EndReason::Upstream, Then::Linger);
    }

    /// The drain's time is up: closed events that no upstream takes are given up, and the epoch ends with the node.
    pub(crate) fn give_up_closed(&mut self) {
        let mut given_up = Vec::new();
        for (_, lanes) in &mut self.lanes.upstreams {
            given_up.extend(lanes.iter_mut().flat_map(|lane| lane.closed.drain(..)));
        }
        self.stats.inbound_given_up.add(given_up.len() as u64);
        for closed in given_up {
            self.remove(closed.key);
        }
    }

    /// What app servers have said of a connection.
    pub(crate) fn principal(&self, key: Key) -> Option<&Arc<Principal>> {
        self.profile(key)?.principal.as_ref()
    }
}
