//! The one way out. Every connection ends in [`Shard::end`], which gives back all it had; its record goes when the
//! outbox has taken the ending. Nothing but a close frame is sent once a goodbye has begun.

use std::collections::VecDeque;
use std::io::IoSlice;

use bridge::event::Ending;
use bridge::message::Bytes;
use bridge::{Channel, EndReason, Event, Pause};
use store::{Flags, Key, Left, NONE, Phase, QueueLimit};
use wire::ws::close::code;
use wire::ws::frame::push_close;

use crate::cold::{Goodbye, Then};
use crate::egress;
use crate::net::{Hangup, Net};
use crate::rules::SlowConsumer;
use crate::turn::Shard;

/// A close frame is queued whatever else waits: there is one per connection.
const LAST_WORDS: QueueLimit = QueueLimit { entries: u32::MAX, bytes: u32::MAX };

/// Endings that the outbox had no room for. One per record at most: the record stays until it is taken.
#[derive(Default)]
pub(crate) struct Unreported(VecDeque<(Key, Ending)>);

impl Unreported {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<N: Net> Shard<N> {
    /// Says goodbye with this code: joins no more, hears no more, and ends when the peer has answered or time is up.
    pub(crate) fn goodbye(&mut self, key: Key, code: u16, reason: &str, why: EndReason, then: Then) {
        let mut frame = Vec::with_capacity(64);
        push_close(&mut frame, code, reason);
        self.close_with(key, &frame, Some(code), None, why, then);
    }

    /// Its backlog is at its bound, or does not move: what has not begun to leave never will.
    pub(crate) fn slow_consumer(&mut self, key: Key) {
        if let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) {
            let dropped = self.backlog.keep_started(&mut rare.queue);
            self.count_dropped(SlowConsumer::Close, dropped);
        }
        self.goodbye(
            key,
            code::TRY_AGAIN,
            r#"{"reason":"slow_consumer"}"#,
            EndReason::SlowConsumer,
            Then::Linger,
        );
    }

    /// A frame did not fit into its backlog. When a part of it has left, no close frame can follow.
    pub(crate) fn overflowed(&mut self, key: Key, written: usize) {
        if written > 0 {
            self.end(key, EndReason::SlowConsumer, Hangup::Reset);
        } else {
            self.slow_consumer(key);
        }
    }

    pub(crate) fn close_with(
        &mut self,
        key: Key,
        frame: &[u8],
        sent: Option<u16>,
        received: Option<u16>,
        why: EndReason,
        then: Then,
    ) {
        let Some(conn) = self.conns.get(key) else { return };
        if !matches!(conn.phase, Phase::Open | Phase::PongWait) {
            return;
        }
        self.leave_channels(key);
        if !then.awaits() {
            drop(self.take_partial(key));
        }
        if let Some(rare) = self.rare_mut(key) {
            rare.goodbye = Some(Goodbye { why, sent, received, then });
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.phase = Phase::Closing;
        }
        self.arm(key, self.rules.close_ticks);
        self.unpause(key);
        self.last_words(key, frame);
    }

    /// Whoever is on the way out is read again: the answer to the close frame is among what was not read.
    fn unpause(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let pauses = std::mem::take(&mut conn.pauses);
        if !pauses.is_empty() {
            self.paused -= 1;
            for why in Pause::ALL {
                self.paused_by[why as usize] -= u32::from(pauses.contains(why as u8));
            }
            if conn.flags.contains(Flags::UNREAD) {
                self.carry(key);
            }
        }
    }

    fn last_words(&mut self, key: Key, frame: &[u8]) {
        let written = match self.write_through(key, &[IoSlice::new(frame)]) {
            egress::Left::Nothing => return self.said(key),
            egress::Left::Gone => return,
            egress::Left::Behind(written) => written,
        };
        let frame = self.backlog.hold(Bytes::copy_from_slice(frame), NONE);
        let mut queued = Ok(());
        if let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) {
            // Borrowed apart, as in `queue`.
            let mut queue = std::mem::take(&mut rare.queue);
            queued = self.push_within_budget(&mut queue, frame, &LAST_WORDS);
            if queued.is_ok() && written > 0 {
                self.backlog.consume(&mut queue, written);
            }
            if let Some(rare) = self.conns.get(key).and_then(|conn| self.cold.get_mut(conn.cold)) {
                rare.queue = queue;
            }
        }
        self.backlog.release(frame);
        if queued.is_err() {
            // Not even this fits into the node's backlog: the connection ends without a word.
            self.end(key, EndReason::SlowConsumer, Hangup::Reset);
        } else if let Some(conn) = self.conns.get_mut(key)
            && !conn.flags.contains(Flags::UNWRITABLE)
            && !conn.flags.contains(Flags::DIRTY)
        {
            // Frames that became due in this turn stand before it.
            conn.flags.insert(Flags::DIRTY);
            self.dirty.push(key);
        }
    }

    /// All that was to be said has left.
    pub(crate) fn said(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let phase = conn.phase;
        let goodbye = self.rare(key).and_then(|rare| rare.goodbye);
        match (phase, goodbye.map(|goodbye| goodbye.then)) {
            (Phase::Closing, Some(Then::HangUp)) => self.end(key, EndReason::ClientClose, Hangup::Gentle),
            (Phase::Closing, Some(Then::Linger)) => {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.phase = Phase::Lingering;
                }
                self.arm(key, self.rules.linger_ticks);
                self.say_no_more(key);
            }
            (Phase::Lingering, _) => self.say_no_more(key),
            _ => {}
        }
    }

    /// Closes our half once everything has left, and discards what still comes.
    pub(crate) fn say_no_more(&mut self, key: Key) {
        let waits = self.rare(key).is_some_and(|rare| !rare.queue.is_empty());
        let Some(conn) = self.conns.get_mut(key) else { return };
        if waits {
            return;
        }
        if let Some(socket) = conn.socket.as_mut() {
            self.net.finish(socket);
        }
        self.unpause(key);
    }

    /// Takes a connection out of all its channels.
    pub(crate) fn leave_channels(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        while let Some(left) = self.channels.leave_one(key.index(), &mut conn.first_subscription) {
            if let Left::Last(name) = left {
                self.switchboard.leave(self.shard, &Channel::from_checked(name));
            }
        }
    }

    /// Ends a connection: closes its socket and gives back everything it held. A goodbye that has begun says why;
    /// otherwise `why` does.
    pub(crate) fn end(&mut self, key: Key, why: EndReason, how: Hangup) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(socket) = conn.socket.take() else { return };
        let unsent = self.cold.get(conn.cold).is_some_and(|rare| !rare.queue.is_empty());
        if conn.phase == Phase::Handshake {
            self.handshake_over(key);
        }
        // What the kernel has not taken cannot be delivered: a reset says so, a FIN would say that it was all.
        self.net.close(socket, if unsent { Hangup::Reset } else { how });
        self.unpause(key);
        self.leave_channels(key);
        drop(self.take_partial(key));
        let goodbye = self.rare(key).and_then(|rare| rare.goodbye);
        let ending = self.opened(key).then(|| self.ending(key, why, goodbye));
        self.has_had_its_call(key);
        self.forget_profile(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.phase = Phase::Ended;
        if let Some(mut rare) = self.cold.remove(conn.cold) {
            self.backlog.clear(&mut rare.queue);
        }
        conn.cold = NONE;
        self.wheel.disarm(&mut self.conns, key.index());
        if let Some(ending) = ending {
            self.stats.ended[ending.reason as usize].add(1);
            self.tell(key, ending);
        } else {
            self.remove(key);
        }
    }

    fn ending(&self, key: Key, why: EndReason, goodbye: Option<Goodbye>) -> Ending {
        let traffic = self.traffic(key);
        let (mut route, mut age_ticks, mut peer) = (0, 0, std::net::IpAddr::from([0, 0, 0, 0]));
        if let Some(conn) = self.conns.get(key) {
            route = conn.route;
            age_ticks = self.now.saturating_sub(conn.opened);
            peer = self.gate.peers().address(conn.admission.peer());
        }
        Ending {
            address: self.address(key),
            peer,
            route,
            principal: self.principal(key).cloned(),
            reason: goodbye.map_or(why, |goodbye| goodbye.why),
            age_ticks,
            traffic,
            sent_code: goodbye.and_then(|goodbye| goodbye.sent),
            received_code: goodbye.and_then(|goodbye| goodbye.received),
        }
    }

    /// Puts an ending into the outbox, or behind those that wait for room in it.
    fn tell(&mut self, key: Key, ending: Ending) {
        // A crowd that leaves at once goes in batches of a size, not in one as large as the crowd.
        if self.outbox.is_ripe(self.now) {
            self.outbox.flush();
        }
        if self.unreported.is_empty() && self.outbox.has_room() {
            self.told(key, ending);
        } else {
            self.unreported.0.push_back((key, ending));
        }
    }

    /// Puts an ending into the outbox, which has room, and lets the record go once its upstream is told, too.
    fn told(&mut self, key: Key, ending: Ending) {
        let pushed = self.outbox.push(self.now, Event::Ended(ending.clone()));
        debug_assert!(pushed.is_ok(), "asked for room before");
        if self.tell_closed(key, ending) {
            self.remove(key);
        }
    }

    /// Hands the outbox to its reader when it is due, and tells the endings that waited.
    pub(crate) fn report(&mut self) {
        let due = self.outbox.is_ripe(self.now) || self.drain.is_some() || !self.unreported.is_empty();
        self.outbox_blocked = due && !self.outbox.flush();
        while self.outbox.has_room() {
            let Some((key, ending)) = self.unreported.0.pop_front() else { return };
            self.told(key, ending);
        }
    }

    /// The only caller of [`store::Conns::remove`].
    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(conn) = self.conns.remove(key) {
            self.gate.release(conn.admission, self.rules.limits.peers(), self.now);
        }
    }
}
