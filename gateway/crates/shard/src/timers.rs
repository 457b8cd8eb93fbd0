//! Deadlines. Each record has one timer whose meaning follows from its phase. Heartbeats are lazy: receiving only
//! notes the tick, and the timer finds out when it fires.

use bridge::EndReason;
use store::{Key, Phase};
use wire::ws::close::code;
use wire::ws::frame::{Opcode, push_frame};

use crate::cold::Then;
use crate::ingest::Reading;
use crate::net::{Hangup, Net};
use crate::rules::Life;
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
        let Some(phase) = self.conns.get(key).map(|conn| conn.phase) else { return };
        match phase {
            Phase::Handshake => self.head_deadline(key),
            Phase::Open | Phase::PongWait if self.outlived(key) => {}
            Phase::Open => self.heartbeat(key),
            Phase::PongWait => self.pong_deadline(key),
            // The answer never came, or the peer does not hang up. Frames that did not leave cannot any more.
            Phase::Closing | Phase::Lingering => self.end(key, EndReason::Reset, Hangup::Gentle),
            Phase::Ended => {}
        }
    }

    /// Quiet for an interval: ping. Otherwise look again an interval after the last byte.
    fn heartbeat(&mut self, key: Key) {
        // Frames that merely wait for the end of this turn are no backlog, and the ping leaves with them.
        if self.is_full(key) && self.is_stuck(key) {
            return;
        }
        let life = self.life(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let quiet = self.now.saturating_sub(conn.last_received);
        if quiet < life.ping_ticks {
            return self.arm_alive(key, life.ping_ticks - quiet);
        }
        conn.phase = Phase::PongWait;
        self.arm_alive(key, life.pong_ticks);
        let mut ping = Vec::new();
        // The peer sends our clock back: a round trip costs no memory here.
        push_frame(&mut ping, Opcode::Ping, &self.stamp().to_be_bytes());
        self.stats.pings.add(1);
        self.reply(key, &ping, &[]);
    }

    /// No byte since the ping, it seems. Whoever is not read cannot be blamed for silence; whoever is, is read once
    /// more: after a stall of ours the pong lies in the socket.
    fn pong_deadline(&mut self, key: Key) {
        if self.is_stuck(key) {
            return;
        }
        // The timer may have been armed for an age that is another one since a reload.
        let life = self.life(key);
        let silent = self.conns.get(key).map_or(0, |conn| self.now.saturating_sub(conn.last_received));
        let due = life.ping_ticks.saturating_add(life.pong_ticks);
        if silent < due {
            return self.arm_alive(key, due - silent);
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
            let quiet = self.now.saturating_sub(conn.last_received);
            let ping_ticks = self.life(key).ping_ticks;
            self.arm_alive(key, ping_ticks.saturating_sub(quiet));
        }
    }

    /// The head, or the decision, did not come in time, unless a stall of ours kept us from reading it.
    fn head_deadline(&mut self, key: Key) {
        if self.read_once(key) == Reading::More {
            self.carry(key);
        }
        if self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Handshake) {
            self.refuse_late(key);
        }
    }

    /// A connection whose backlog has not moved for a pong deadline is a consumer that stopped; one whose backlog
    /// moves is alive, and a ping behind the backlog would prove nothing. Arms the timer in both cases. Before anybody
    /// is blamed the backlog is offered once more: after a stall of ours there may be room that we were not told of.
    fn is_stuck(&mut self, key: Key) -> bool {
        let pong_ticks = self.life(key).pong_ticks;
        let mut has_tried = false;
        while let Some(wrote) = self.waits_since(key) {
            let still = self.now.saturating_sub(wrote);
            if still < pong_ticks {
                self.arm_alive(key, pong_ticks - still);
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
            self.arm_alive(key, pong_ticks);
        }
        has_tried
    }

    /// The tick at which its backlog last got shorter, or began, if it has one.
    fn waits_since(&self, key: Key) -> Option<u32> {
        self.rare(key).filter(|rare| !rare.queue.is_empty()).map(|rare| rare.wrote)
    }

    /// What its route allows it.
    pub(crate) fn life(&self, key: Key) -> Life {
        // A stale key is nobody's, and what it would be allowed is not used.
        let route = self.conns.get(key).and_then(|conn| self.rules.routes.get(usize::from(conn.route)));
        route.map_or(Life::SHORT, |route| route.life)
    }

    /// Arms the one timer of a connection that is open: for this, or for the end of its time when that comes first.
    pub(crate) fn arm_alive(&mut self, key: Key, ticks: u32) {
        let life = self.life(key);
        let left = [self.age_left(key, &life), self.idle_left(key, &life), self.expiry_left(key)];
        let first = left.into_iter().flatten().fold(ticks, u32::min);
        self.arm(key, first);
    }

    /// The peer has answered a ping, and its timer stands for a pong deadline that means nothing any more. It may, for most
    /// routes: it then fires before the next heartbeat is due, and finds that out. Where it would fire later than that, or
    /// later than an idle timeout, it is armed for what comes first.
    pub(crate) fn is_heard_again(&mut self, key: Key) {
        let is_open = self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Open);
        let life = self.life(key);
        if is_open && (life.idle_ticks.is_some() || life.pong_ticks > life.ping_ticks) {
            self.arm_alive(key, life.ping_ticks);
        }
    }

    /// Ticks until it is no longer authorised.
    pub(crate) fn expiry_left(&self, key: Key) -> Option<u32> {
        Some(self.profile(key)?.expires?.saturating_sub(self.now))
    }

    /// Ends a connection that is as old as it may be, that is no longer authorised, or that nobody uses. A message that lies in the socket after a
    /// stall of ours is a use.
    fn outlived(&mut self, key: Key) -> bool {
        let life = self.life(key);
        if self.expiry_left(key) == Some(0) {
            self.goodbye(key, code::POLICY, r#"{"reason":"expired"}"#, EndReason::Expired, Then::Await);
            return true;
        }
        if self.age_left(key, &life) == Some(0) {
            let retry_ms = self.random.u32(0..crate::RETRY_SPREAD_MS);
            let reason = format!(r#"{{"reason":"max_age","retry_ms":{retry_ms}}}"#);
            self.goodbye(key, code::GOING_AWAY, &reason, EndReason::MaxAge, Then::Deliver);
            return true;
        }
        if self.idle_left(key, &life) != Some(0) {
            return false;
        }
        if self.read_once(key) == Reading::More {
            self.carry(key);
        }
        let is_idle = self.idle_left(key, &life) == Some(0);
        if is_idle {
            self.goodbye(key, code::NORMAL, r#"{"reason":"idle"}"#, EndReason::Idle, Then::Deliver);
        }
        // Whoever ended while being read has no timer to be set either.
        is_idle || !self.is_open(key)
    }

    /// Whether messages go both ways.
    pub(crate) fn is_open(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| matches!(conn.phase, Phase::Open | Phase::PongWait))
    }

    /// Ticks until it is too old.
    fn age_left(&self, key: Key, life: &Life) -> Option<u32> {
        life.age_ticks?;
        Some(self.oldest(key, life).saturating_sub(self.now))
    }

    /// The tick that it does not outlive.
    pub(crate) fn oldest(&self, key: Key, life: &Life) -> u32 {
        let opened = self.conns.get(key).map_or(self.now, |conn| conn.opened);
        let age_ticks =
            life.age_ticks.map_or(u32::MAX, |age| age.saturating_add(self.own_part(key, life.jitter_ticks)));
        opened.saturating_add(age_ticks)
    }

    /// Ticks until nobody has used it for too long. Who is pinged is judged when it has answered, and who is not read
    /// cannot be blamed.
    fn idle_left(&self, key: Key, life: &Life) -> Option<u32> {
        let idle_ticks = life.idle_ticks?;
        let conn = self.conns.get(key).filter(|conn| conn.phase == Phase::Open && conn.pauses.is_empty())?;
        let used = self.conns.tally(key).last_message.max(conn.opened);
        Some(idle_ticks.saturating_sub(self.now.saturating_sub(used)))
    }

    /// A number up to `most` that is this connection's own and always the same, so that it needs no place in a record.
    fn own_part(&self, key: Key, most: u32) -> u32 {
        let bits = fastrand::Rng::with_seed(key.to_bits() ^ self.salt).u64(..);
        (bits % (u64::from(most) + 1)) as u32
    }

    /// Our clock as pings carry it.
    const fn stamp(&self) -> u32 {
        self.micros.wrapping_add(self.salt as u32)
    }

    /// A pong. One that carries another stamp than a ping of late did tells nothing but life.
    pub(crate) fn ponged(&self, key: Key, payload: &[u8]) {
        self.stats.pongs.add(1);
        let Ok(stamp) = <[u8; 4]>::try_from(payload) else { return };
        let micros = self.stamp().wrapping_sub(u32::from_be_bytes(stamp));
        // A turn of ours may come on top of what the peer had.
        let longest = (u64::from(self.life(key).pong_ticks) + 10) * u64::from(crate::TICK_MS) * 1000;
        if u64::from(micros) <= longest {
            self.stats.ping_us.record(micros.into());
        }
    }
}
