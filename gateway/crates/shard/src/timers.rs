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
            Phase::Handshake => self.refuse(key, Refusal::Timeout),
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

    /// No pong in time, it seems. Whoever is not read cannot be blamed for silence; whoever is, is read once more:
    /// after a stall of ours the pong lies in the socket.
    fn pong_deadline(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let pinged = self.now.saturating_sub(self.rules.pong_ticks);
        let mut alive = conn.last_received >= pinged && conn.last_received > conn.opened;
        if !alive {
            if self.is_stuck(key) {
                return;
            }
            match self.read_once(key) {
                Reading::Nothing => {}
                Reading::More => {
                    alive = true;
                    self.carry(key);
                }
                Reading::Some => alive = true,
                // Ended meanwhile, or paused: then its silence is our doing.
                Reading::Over => {
                    alive = self.conns.get(key).is_some_and(|conn| conn.phase == Phase::PongWait)
                }
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.phase != Phase::PongWait {
            return;
        }
        if alive {
            conn.phase = Phase::Open;
            let quiet = self.now.saturating_sub(conn.last_received).min(self.rules.ping_ticks - 1);
            self.arm(key, self.rules.ping_ticks - quiet);
        } else {
            self.end(key, EndReason::PongTimeout, Hangup::Reset);
        }
    }

    /// A connection whose backlog has not moved for a pong deadline is a consumer that stopped; one whose backlog
    /// moves is alive, and a ping behind the backlog would prove nothing. Arms the timer in both cases.
    fn is_stuck(&mut self, key: Key) -> bool {
        let Some(rare) = self.rare(key) else { return false };
        if rare.queue.is_empty() {
            return false;
        }
        let still = self.now.saturating_sub(rare.wrote);
        if still >= self.rules.pong_ticks {
            self.slow_consumer(key);
        } else {
            self.arm(key, self.rules.pong_ticks - still);
        }
        true
    }
}
