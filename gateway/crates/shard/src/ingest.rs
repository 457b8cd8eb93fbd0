//! Reading: the only place that reads sockets, under a budget, into the shared scratch.
//!
//! Edge triggering: a read that filled less than the scratch has emptied the socket, and an event follows what comes
//! later, unless the peer has hung up, for then none ever does (data and FIN arrive as one edge). Whoever is not read
//! to that point is either on the carry-over list or paused, with a note that something is left.

use bridge::ending::Turned;
use bridge::{EndReason, Pause};
use store::{Flags, Key, NONE, Phase};

use crate::net::{Hangup, Net, Read};
use crate::turn::Shard;

/// Scratches read from one connection before others have their turn.
const READS_PER_CALL: usize = 4;

/// How a reading went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There may be more.
    More,
    /// Some bytes, and no more for now.
    Some,
    /// No byte: only this proves silence.
    Nothing,
    /// The connection is no longer read: it ended, or is paused.
    Over,
}

impl<N: Net> Shard<N> {
    /// An event says that there is something to read.
    pub(crate) fn readable(&mut self, key: Key, hung_up: bool) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if hung_up {
            conn.flags.insert(Flags::HUNG_UP);
            if self.left_while_asked(key) {
                return;
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        // Who is on the carry-over list waits for its turn there.
        if conn.flags.contains(Flags::CARRIED) {
            return;
        }
        self.ingest(key);
    }

    /// Reads until the socket is empty or the budget is, and then carries the connection over.
    pub(crate) fn ingest(&mut self, key: Key) {
        for _ in 0..READS_PER_CALL {
            if self.read_once(key) != Reading::More {
                return;
            }
        }
        self.carry(key);
    }

    /// One read and all that follows from it.
    pub(crate) fn read_once(&mut self, key: Key) -> Reading {
        let Some(conn) = self.conns.get_mut(key) else { return Reading::Over };
        if !conn.pauses.is_empty() {
            conn.flags.insert(Flags::UNREAD);
            return Reading::Over;
        }
        if conn.identity != NONE && self.starve(key) {
            return Reading::Over;
        }
        if self.waits_for_upstream(key) {
            self.has_had_its_call(key);
            return Reading::Over;
        }
        let reading = self.read_on(key);
        self.has_had_its_call(key);
        reading
    }

    /// What was put aside, or one read.
    fn read_on(&mut self, key: Key) -> Reading {
        let Some(window) = self.allowance(key) else { return Reading::Over };
        if let Some(mut bytes) = self.take_aside(key) {
            self.received(key, &mut bytes);
            return self.after_reading(key, true);
        }
        let Some(conn) = self.conns.get_mut(key) else { return Reading::Over };
        let Some(socket) = conn.socket.as_mut() else { return Reading::Over };
        let bytes = match self.net.read(socket, &mut self.scratch[..window]) {
            Read::Bytes(bytes) => bytes,
            Read::WouldBlock => {
                conn.flags.remove(Flags::UNREAD);
                return Reading::Nothing;
            }
            Read::Closed => {
                self.hung_up(key, EndReason::ClientGone);
                return Reading::Over;
            }
            Read::Reset => {
                self.hung_up(key, EndReason::Reset);
                return Reading::Over;
            }
        };
        conn.last_received = self.now;
        let was_awaited = conn.phase == Phase::PongWait;
        if was_awaited {
            // Noted here and not when the timer fires: after a stall of ours that is too late to know what came first.
            // The timer stays, and is a heartbeat from now on.
            conn.phase = Phase::Open;
        }
        let full = bytes == window;
        let more = full || conn.flags.contains(Flags::HUNG_UP);
        if more {
            conn.flags.insert(Flags::UNREAD)
        } else {
            conn.flags.remove(Flags::UNREAD)
        }
        self.owe_bytes(key, bytes);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.received(key, &mut scratch[..bytes]);
        self.scratch = scratch;
        if was_awaited {
            self.is_heard_again(key);
        }
        self.after_reading(key, more)
    }

    /// How it stands after bytes were taken in.
    fn after_reading(&self, key: Key, more: bool) -> Reading {
        match self.conns.get(key) {
            Some(conn) if conn.socket.is_none() || !conn.pauses.is_empty() => Reading::Over,
            Some(_) if more => Reading::More,
            Some(_) => Reading::Some,
            None => Reading::Over,
        }
    }

    fn received(&mut self, key: Key, bytes: &mut [u8]) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.phase {
            Phase::Handshake => self.head(key, bytes),
            Phase::Closing if !self.is_listened_to(key) => {}
            Phase::Open | Phase::PongWait | Phase::Closing => self.transport_received(key, bytes),
            // The peer may say what it likes; it is waited for to hang up, and for no longer than the linger.
            Phase::Lingering | Phase::Ended => {}
        }
    }

    /// The peer sends no more.
    fn hung_up(&mut self, key: Key, why: EndReason) {
        let Some(conn) = self.conns.get(key) else { return };
        if conn.phase == Phase::Handshake {
            self.turn_away(key, Turned::Left);
        } else {
            self.end(key, why, Hangup::Gentle);
        }
    }

    /// Puts a connection that stopped early on the list of those that go on next turn, once.
    pub(crate) fn carry(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.flags.insert(Flags::UNREAD);
        if !conn.flags.contains(Flags::CARRIED) {
            conn.flags.insert(Flags::CARRIED);
            self.carry.push_back(key);
        }
    }

    /// Stops reading a connection, so that TCP carries the pressure back to its sender.
    pub(crate) fn pause(&mut self, key: Key, why: Pause) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        self.paused += u32::from(conn.pauses.is_empty());
        self.paused_by[why as usize] += u32::from(conn.pauses.insert(why as u8));
    }

    /// One reason not to read a connection is gone. It is read again, in its turn, when that was the last one.
    pub(crate) fn resume(&mut self, key: Key, why: Pause) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.pauses.remove(why as u8) {
            return;
        }
        self.paused_by[why as usize] -= 1;
        if !conn.pauses.is_empty() {
            return;
        }
        self.paused -= 1;
        let (awaits_pong, is_unread) = (conn.phase == Phase::PongWait, conn.flags.contains(Flags::UNREAD));
        if awaits_pong {
            // It could not be heard meanwhile, or the ping itself has only left now.
            self.arm_alive(key, self.life(key).pong_ticks);
        }
        if is_unread {
            self.carry(key);
        }
    }
}
