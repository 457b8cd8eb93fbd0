//! Ending gracefully: no more accepts, a goodbye to everybody in slices, and a deadline for those who do not leave.

use bridge::EndReason;
use bridge::ending::Turned;
use store::{Key, Phase};
use wire::ws::close::code;

use crate::cold::Then;
use crate::net::{Hangup, Net};
use crate::turn::Shard;

/// Slots looked at per turn.
const SLOTS_PER_TURN: u32 = 512;
/// Clients are asked to come back within this, each at its own moment.
const RETRY_SPREAD_MS: u32 = 5_000;

/// A drain in progress.
pub(crate) struct Drain {
    /// Everybody below this slot has been spoken to.
    cursor: u32,
    end: u32,
    deadline: u32,
    overdue: bool,
}

impl Drain {
    /// Whether a turn would get something done.
    pub(crate) const fn has_work(&self) -> bool {
        self.cursor < self.end
    }
}

impl<N: Net> Shard<N> {
    /// Begins to drain, or brings the deadline of the drain forward.
    pub(crate) fn start_drain(&mut self, ticks: u32) {
        let deadline = self.now.saturating_add(ticks);
        if let Some(drain) = &mut self.drain {
            drain.deadline = drain.deadline.min(deadline);
            return;
        }
        self.net.stop_listening();
        self.accepting = false;
        self.stats.listening.set(0);
        self.drain = Some(Drain { cursor: 0, end: self.conns.end(), deadline, overdue: false });
    }

    /// Nobody is left, and everything has been told.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_some()
            && self.conns.is_empty()
            && self.unreported.is_empty()
            && self.outbox.is_empty()
            && self.unplaced.is_empty()
    }

    pub(crate) fn drain_slice(&mut self) {
        let end = self.conns.end();
        let Some(drain) = &mut self.drain else { return };
        if !drain.overdue && self.now >= drain.deadline {
            (drain.overdue, drain.cursor, drain.end) = (true, 0, end);
        }
        let slots = drain.cursor..drain.end.min(drain.cursor + SLOTS_PER_TURN);
        drain.cursor = slots.end;
        let overdue = drain.overdue;
        let keys: Vec<Key> = self.conns.keys_in(slots).collect();
        for key in keys {
            self.send_off(key, overdue);
        }
    }

    fn send_off(&mut self, key: Key, overdue: bool) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.phase {
            Phase::Handshake => self.turn_away(key, Turned::GoingAway),
            _ if overdue => self.end(key, EndReason::GoingAway, Hangup::Gentle),
            Phase::Open | Phase::PongWait => {
                let retry_ms = self.random.u32(0..RETRY_SPREAD_MS);
                let reason = format!(r#"{{"reason":"going_away","retry_ms":{retry_ms}}}"#);
                self.goodbye(key, code::GOING_AWAY, &reason, EndReason::GoingAway, Then::Await);
            }
            Phase::Closing | Phase::Lingering | Phase::Ended => {}
        }
    }
}
