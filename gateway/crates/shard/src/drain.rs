//! Ending gracefully: accepting for a while, closing the listener without losing anybody, a goodbye to everybody at an
//! even pace, and a deadline for those who do not leave. Shedding is the pace alone, for a share of the table.
//!
//! ```text
//! Open ─ accept_ticks ─▶ Barred ─ quiet ─▶ Closed        the listener
//!                           └▶ a round of goodbyes ─▶ sweeps for those who came late ─ deadline ─▶ the rest is cut
//! ```

use std::sync::Arc;

use bridge::EndReason;
use bridge::command::DrainPlan;
use bridge::ending::Turned;
use store::{Conn, Key, Phase};
use wire::error::Refusal;
use wire::ws::close::code;

use crate::cold::Then;
use crate::net::{Hangup, Net};
use crate::round::{Round, WHOLE};
use crate::turn::Shard;

/// After the deadline closed events wait so long for their upstream.
const LAST_EVENTS_TICKS: u32 = 10;
/// Slots looked at per turn.
const SLOTS_PER_TURN: u32 = 512;
/// A barred listener from whose queue nobody came for so long has nobody on the way: a round trip is shorter.
const QUIET_TICKS: u32 = 3;
/// A listener is not kept barred for longer, whoever dawdles.
const BARRED_TICKS_MAX: u32 = 20;
/// Behind the round the table is looked through every so often.
const SWEEP_TICKS: u32 = 5;
/// Goodbyes wait so long for messages that were accepted before them to reach their subscribers.
const DELIVERY_TICKS: u32 = 5;
/// Whoever was accepted last has so long to finish its request before it is answered 503.
const HEAD_TICKS: u32 = 10;

/// The listener of a shard that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// Nobody new can knock; who has knocked is let in.
    Barred {
        since: u32,
        quiet_since: u32,
        accepted: u64,
    },
    Closed {
        at: u32,
    },
}

/// A drain in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    door: Door,
    accept_until: u32,
    spread_ticks: u32,
    deadline: u32,
    /// Begins when the door is barred.
    goodbyes: Option<Round>,
    /// Where the sweep behind it is, and when it began.
    sweep: Round,
    sweep_began: u32,
}

/// Who has to go because the bus was away, and how far that is.
#[derive(Debug)]
pub(crate) struct Gap {
    round: Round,
    routes: Arc<[u16]>,
    since: u32,
}

impl Gap {
    /// Whether a connection may have missed something: those that came since know nothing else.
    fn concerns<S, A>(&self, conn: &Conn<S, A>) -> bool {
        conn.opened <= self.since && self.routes.contains(&conn.route)
    }
}

impl Drain {
    /// Whether the listener takes connections.
    pub(crate) const fn is_listening(&self) -> bool {
        !matches!(self.door, Door::Closed { .. })
    }
}

impl<N: Net> Shard<N> {
    /// Begins to drain, or makes the drain that is under way a shorter one.
    pub(crate) fn start_drain(&mut self, plan: DrainPlan) {
        let now = self.now;
        let (deadline, accept_until) =
            (now.saturating_add(plan.deadline_ticks), now.saturating_add(plan.accept_ticks));
        (self.shed, self.gap) = (None, None);
        let Some(drain) = &mut self.drain else {
            self.drain = Some(Drain {
                door: Door::Open,
                accept_until,
                spread_ticks: plan.spread_ticks,
                deadline,
                goodbyes: None,
                sweep: Round::new(now, 0, u32::MAX, WHOLE),
                sweep_began: now,
            });
            return;
        };
        drain.deadline = drain.deadline.min(deadline);
        drain.accept_until = drain.accept_until.min(accept_until);
        drain.spread_ticks = drain.spread_ticks.min(plan.spread_ticks);
        if let Some(goodbyes) = &mut drain.goodbyes {
            goodbyes.hurry(now, plan.spread_ticks);
        }
    }

    /// Begins to tell a share of the table to go, and says how many that are.
    pub(crate) fn start_shed(&mut self, per_ten_thousand: u16, ticks: u32) -> Option<u32> {
        if self.drain.is_some() {
            return None;
        }
        let round = Round::new(self.now, ticks, self.conns.len(), per_ten_thousand);
        self.shed = Some(round);
        Some(round.tells())
    }

    /// Begins to close the connections of these routes. One that is under way goes on with the routes of both.
    pub(crate) fn start_gap(&mut self, routes: &[u16], ticks: u32) {
        if self.drain.is_some() {
            return;
        }
        let earlier = self.gap.take().map(|gap| gap.routes);
        let routes = earlier.iter().flat_map(|routes| routes.iter()).chain(routes).copied().collect();
        let round = Round::new(self.now, ticks, self.conns.len(), WHOLE);
        self.gap = Some(Gap { round, routes, since: self.now });
    }

    /// Nobody is left, and everything has been told.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_some_and(|drain| !drain.is_listening())
            && self.conns.is_empty()
            && self.unreported.is_empty()
            && self.outbox.is_empty()
            && self.unplaced.is_empty()
    }

    /// A slice of the goodbyes that are due.
    pub(crate) fn drain_slice(&mut self) {
        self.goodbyes_left = false;
        if let Some(mut round) = self.shed {
            self.tell_slice(&mut round, EndReason::Shed, None);
            self.shed = (!round.is_over(self.conns.end())).then_some(round);
        }
        if let Some(mut gap) = self.gap.take() {
            let mut round = gap.round;
            self.tell_slice(&mut round, EndReason::Gap, Some(&gap));
            gap.round = round;
            self.gap = (!round.is_over(self.conns.end())).then_some(gap);
        }
        let Some(mut drain) = self.drain else { return };
        self.mind_the_door(&mut drain);
        if self.now >= drain.deadline {
            self.sweep_slice(&mut drain);
            if self.now >= drain.deadline.saturating_add(LAST_EVENTS_TICKS) {
                self.give_up_closed();
                self.give_up_unplaced();
            }
        } else if let Some(goodbyes) = &mut drain.goodbyes {
            if goodbyes.is_over(self.conns.end()) {
                self.sweep_slice(&mut drain);
            } else {
                self.tell_slice(goodbyes, EndReason::GoingAway, None);
            }
        }
        self.drain = Some(drain);
    }

    /// Bars the listener when its time has come, and closes it when nobody comes any more.
    fn mind_the_door(&mut self, drain: &mut Drain) {
        let (now, accepted) = (self.now, self.stats.accepted.value());
        match &mut drain.door {
            Door::Open if now >= drain.accept_until || now >= drain.deadline => {
                self.net.bar();
                // Whoever came before is in the queue, or will be when its handshake with the kernel is complete.
                self.accepting = true;
                drain.door = Door::Barred { since: now, quiet_since: now, accepted };
                drain.goodbyes = Some(Round::new(now, drain.spread_ticks, self.conns.len(), WHOLE));
            }
            Door::Barred { since, quiet_since, accepted: before } => {
                if accepted != *before {
                    (*quiet_since, *before) = (now, accepted);
                }
                let quiet = !self.accepting && now.saturating_sub(*quiet_since) >= QUIET_TICKS;
                let enough = now.saturating_sub(*since) >= BARRED_TICKS_MAX || now >= drain.deadline;
                if enough && self.exhausted_at.is_some() {
                    // A descriptor may have come free since this tick's last attempt.
                    self.exhausted_at = None;
                    self.accept();
                }
                // At the deadline, too, whoever has got into the queue is taken out of it first.
                if quiet || (enough && (!self.accepting || self.exhausted_at.is_some())) {
                    self.net.stop_listening();
                    self.accepting = false;
                    self.stats.listening.set(0);
                    drain.door = Door::Closed { at: now };
                }
            }
            Door::Open | Door::Closed { .. } => {}
        }
    }

    /// Visits those who are due, and tells those that the round takes.
    fn tell_slice(&mut self, round: &mut Round, why: EndReason, only: Option<&Gap>) {
        let due = round.due(self.now);
        if due == 0 {
            return;
        }
        // Messages that were accepted before are delivered before. Under a load that never pauses, the pace counts.
        let delivers = !self.inbox.is_empty() || !self.fanout.is_empty() || !self.unplaced.is_empty();
        let since = *self.goodbyes_due_since.get_or_insert(self.now);
        if delivers && self.now.saturating_sub(since) < DELIVERY_TICKS {
            return;
        }
        self.goodbyes_due_since = None;
        let slots = round.cursor..self.conns.end().min(round.cursor.saturating_add(SLOTS_PER_TURN));
        round.cursor = slots.end;
        let mut told: Vec<Key> = Vec::new();
        for key in self.conns.keys_in(slots) {
            let phase = self.conns.get(key).map(|conn| conn.phase);
            if !matches!(phase, Some(Phase::Open | Phase::PongWait)) {
                continue;
            }
            if round.due(self.now) == 0 {
                round.cursor = key.index();
                break;
            }
            let concerns = |gap: &Gap| self.conns.get(key).is_some_and(|conn| gap.concerns(conn));
            if round.takes() && only.is_none_or(concerns) {
                told.push(key);
            }
        }
        for key in told {
            self.tell_to_go(key, why);
        }
        self.goodbyes_left |= round.due(self.now) > 0 && !round.is_over(self.conns.end());
    }

    /// Those who came in behind the round are told as soon as they are seen; at the deadline everybody is cut.
    fn sweep_slice(&mut self, drain: &mut Drain) {
        let end = self.conns.end();
        if drain.sweep.cursor >= end {
            let overdue = self.now >= drain.deadline && drain.sweep_began < drain.deadline;
            if !overdue && self.now.saturating_sub(drain.sweep_began) < SWEEP_TICKS {
                return;
            }
            (drain.sweep.cursor, drain.sweep_began) = (0, self.now);
        }
        let slots = drain.sweep.cursor..end.min(drain.sweep.cursor.saturating_add(SLOTS_PER_TURN));
        drain.sweep.cursor = slots.end;
        self.goodbyes_left |= slots.end < end;
        let keys: Vec<Key> = self.conns.keys_in(slots).collect();
        for key in keys {
            self.send_off(key, drain);
        }
    }

    fn send_off(&mut self, key: Key, drain: &Drain) {
        let Some(conn) = self.conns.get(key) else { return };
        let overdue = self.now >= drain.deadline;
        let late = matches!(drain.door, Door::Closed { at } if self.now.saturating_sub(at) >= HEAD_TICKS);
        match conn.phase {
            Phase::Handshake if overdue => self.turn_away(key, Turned::GoingAway),
            Phase::Handshake if late => self.refuse(key, Refusal::ShuttingDown { retry_after_s: 1 }),
            Phase::Open | Phase::PongWait | Phase::Closing | Phase::Lingering if overdue => {
                self.stats.cut.add(1);
                self.end(key, EndReason::GoingAway, Hangup::Gentle);
            }
            Phase::Open | Phase::PongWait => self.tell_to_go(key, EndReason::GoingAway),
            Phase::Handshake | Phase::Closing | Phase::Lingering | Phase::Ended => {}
        }
    }

    /// 1001, and when to come back: another time for everybody, or they would all come at once.
    fn tell_to_go(&mut self, key: Key, why: EndReason) {
        let retry_ms = self.random.u32(0..crate::RETRY_SPREAD_MS);
        let reason = format!(r#"{{"reason":"{}","retry_ms":{retry_ms}}}"#, why.label());
        self.stats.goodbyes.add(1);
        let code = if why == EndReason::Gap { code::TRY_AGAIN } else { code::GOING_AWAY };
        self.goodbye(key, code, &reason, why, Then::Deliver);
    }
}
