//! Deadlines. Each record has one timer whose meaning follows from its phase. Heartbeats are lazy: receiving only
//! notes the tick, and the timer finds out when it fires.

use bridge::EndReason;
use store::{Key, Phase};
use wire::error::Refusal;
use wire::ws::frame::{Opcode, push_frame};

use crate::ingest::Reading;
use crate::net::{Hangup, Net};
use crate::turn::{Shard, budget};

/// Timers per turn.
const TIMERS_PER_TURN: usize = 512;

impl<N: Net> Shard<N> {
    pub(crate) fn expire(&mut self) {
        self.timers_left = false;
        for _ in 0..TIMERS_PER_TURN {
            let Some(index) = self.wheel.pop_expired(&mut self.conns, self.now) else { return };
            if let Some(key) = self.conns.key_at(index) {
                self.expired(key);
            }
        }
        self.timers_left = true;
        self.stats.budget_hits[budget::TIMERS].add(1);
    }

    fn expired(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.phase {
            Phase::Handshake => self.head_deadline(key),
            Phase::Open => self.heartbeat(key),
            Phase::PongWait => self.pong_deadline(key),
            // The answer never came, or the peer does not hang up. Frames that did not leave cannot any more.
            Phase::Closing | Phase::Lingering => self.end(key, EndReason::Reset, Hangup::Gentle),
            Phase::Ended => {}
        }
    }

    /// Quiet for an interval: ping. Otherwise look again an interval after the last byte.
    fn heartbeat(&mut self, key: Key) {
        if self.is_stuck(key) {
            return;
        }
        let Some(conn) = self.conns.get(key) else { return };
        let quiet = self.now.saturating_sub(conn.last_received);
        if quiet < self.rules.ping_ticks {
            return self.arm(key, self.rules.ping_ticks - quiet);
        }
        self.arm(key, self.rules.pong_ticks);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.phase = Phase::PongWait;
        }
        let mut ping = Vec::new();
        push_frame(&mut ping, Opcode::Ping, &[]);
        self.stats.pings.add(1);
        self.reply(key, &ping, &[]);
    }

    /// No byte since the ping, it seems. Whoever is not read cannot be blamed for silence; whoever is, is read once
    /// more: after a stall of ours the pong lies in the socket.
    fn pong_deadline(&mut self, key: Key) {
        if self.is_stuck(key) {
            return;
        }
        match self.read_once(key) {
            Reading::Nothing => return self.end(key, EndReason::PongTimeout, Hangup::Reset),
            Reading::More => self.carry(key),
            // Read, and so alive; or it has ended meanwhile, or it is paused, and then its silence is our doing.
            Reading::Some | Reading::Over => {}
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.phase == Phase::PongWait {
            conn.phase = Phase::Open;
        }
        if conn.phase == Phase::Open {
            let quiet = self.now.saturating_sub(conn.last_received).min(self.rules.ping_ticks - 1);
            self.arm(key, self.rules.ping_ticks - quiet);
        }
    }

    /// The head did not come in time, unless a stall of ours kept us from reading it.
    fn head_deadline(&mut self, key: Key) {
        if self.read_once(key) == Reading::More {
            self.carry(key);
        }
        if self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Handshake) {
            self.refuse(key, Refusal::Timeout);
        }
    }

    /// A connection whose backlog has not moved for a pong deadline is a consumer that stopped; one whose backlog
    /// moves is alive, and a ping behind the backlog would prove nothing. Arms the timer in both cases. Before anybody
    /// is blamed the backlog is offered once more: after a stall of ours there may be room that we were not told of.
    fn is_stuck(&mut self, key: Key) -> bool {
        let pong_ticks = self.rules.pong_ticks;
        let mut has_tried = false;
        while let Some(wrote) = self.waits_since(key) {
            let still = self.now.saturating_sub(wrote);
            if still < pong_ticks {
                self.arm(key, pong_ticks - still);
                return true;
            }
            if std::mem::replace(&mut has_tried, true) {
                self.slow_consumer(key);
                return true;
            }
            self.flush(key);
        }
        // What left just now may have been the ping: its answer takes a while.
        if has_tried && self.conns.get(key).is_some_and(|conn| conn.phase != Phase::Ended) {
            self.arm(key, pong_ticks);
        }
        has_tried
    }

    /// The tick at which its backlog last got shorter, or began, if it has one.
    fn waits_since(&self, key: Key) -> Option<u32> {
        self.rare(key).filter(|rare| !rare.queue.is_empty()).map(|rare| rare.wrote)
    }
}
