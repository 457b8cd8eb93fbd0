//! How the bus is as a whole: up when each of its connections is. Tells the shards when that changes, and whoever asks
//! from when to when it was away; keeps what is wrong.

use std::sync::{Arc, Mutex, PoisonError};

use bridge::Beyond;
use tokio::sync::watch;

use super::knock;
use super::link::Problem;
use super::streams::Gap;
use crate::bus::BusState;
use crate::bus_stats::BusStats;
use crate::trouble::Trouble;

/// A connection of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The one that is subscribed.
    Listening,
    /// The one that publishes.
    Publishing,
    /// The one that writes streams.
    Adding,
}

const PARTS: usize = 3;

/// How all parts together stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Each of them is connected.
    pub(crate) is_up: bool,
    /// How often that was lost.
    pub(crate) losses: u64,
}

/// The state of all parts.
pub(crate) struct Health {
    inner: Mutex<Inner>,
    standing: watch::Sender<Standing>,
    gaps: watch::Sender<u64>,
    beyond: Arc<Beyond>,
    stats: Arc<BusStats>,
    wall_ms: fn() -> u64,
}

struct Inner {
    problems: [Option<Problem>; PARTS],
    /// The refusal that was told last, until the bus is up again.
    refused: Option<Trouble>,
    is_up: bool,
    /// When it was lost; `None` before it was up for the first time.
    lost_at_ms: Option<u64>,
    /// What nobody has taken yet, several as one.
    untold: Option<Gap>,
}

impl Health {
    /// Nothing is connected yet. `wall_ms` tells milliseconds since 1970.
    pub(crate) fn new(beyond: Arc<Beyond>, stats: Arc<BusStats>, wall_ms: fn() -> u64) -> Self {
        beyond.cut_off(true);
        let problems = [const { Some(String::new()) }; PARTS];
        let inner =
            Mutex::new(Inner { problems, refused: None, is_up: false, lost_at_ms: None, untold: None });
        let standing = watch::Sender::new(Standing::default());
        Self { inner, standing, gaps: watch::Sender::new(0), beyond, stats, wall_ms }
    }

    /// A part is connected and has done what it does first.
    pub(crate) fn up(&self, part: Part) {
        let mut inner = self.lock();
        inner.problems[part as usize] = None;
        if inner.is_up || inner.problems.iter().any(Option::is_some) {
            return;
        }
        inner.is_up = true;
        inner.refused = None;
        self.standing.send_modify(|standing| standing.is_up = true);
        self.beyond.cut_off(false);
        let Some(from_ms) = inner.lost_at_ms else {
            tracing::info!("the bus is there: redis");
            return;
        };
        let to_ms = (self.wall_ms)();
        tracing::warn!(away_ms = to_ms.saturating_sub(from_ms), "the bus is back: redis");
        let from_ms = inner.untold.map_or(from_ms, |earlier| earlier.from_ms);
        inner.untold = Some(Gap { from_ms, to_ms });
        self.gaps.send_modify(|gaps| *gaps += 1);
    }

    /// A part lost its connection, or could not make one.
    pub(crate) fn lost(&self, part: Part, problem: Problem) {
        let mut inner = self.lock();
        let was_up = std::mem::replace(&mut inner.is_up, false);
        if was_up {
            inner.lost_at_ms = Some((self.wall_ms)());
            self.stats.losses.add(1);
            self.standing.send_modify(|standing| {
                *standing = Standing { is_up: false, losses: standing.losses + 1 };
            });
            self.beyond.cut_off(true);
            tracing::warn!(%problem, "the bus is away: redis");
        } else if inner.problems[part as usize].is_some() {
            // It was not connected; one that was is lost with the others, without an attempt.
            self.stats.connects_failed.add(1);
        }
        if !was_up && inner.lost_at_ms.is_none() && inner.problems.iter().flatten().all(String::is_empty) {
            tracing::warn!(%problem, "no Redis server answers; the bus is away until one does");
        }
        tell_of_refusal(&mut inner.refused, &problem);
        inner.problems[part as usize] = Some(problem);
    }

    /// What keeps it from being up; empty when nothing has been tried yet.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let inner = self.lock();
        let mut known = inner.problems.iter().flatten();
        known.clone().find(|problem| !problem.is_empty()).or_else(|| known.next()).cloned()
    }

    pub(crate) fn state(&self) -> BusState {
        if self.lock().is_up { BusState::Up } else { BusState::Away }
    }

    /// How it stands, at each change.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// How many gaps there have been, at each one.
    pub(crate) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// Takes the gap that is to be told, if there is one.
    pub(crate) fn take_gap(&self) -> Option<Gap> {
        self.lock().untold.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells once of a server that is there and refuses us, which does not pass by itself.
fn tell_of_refusal(told: &mut Option<Trouble>, problem: &str) {
    let trouble = Trouble::of(problem);
    if trouble != Trouble::Unreachable && *told != Some(trouble) {
        *told = Some(trouble);
        let advice = knock::advice(problem);
        tracing::error!(problem, advice, "the Redis server does not let us in; it is tried again");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::mailbox::mailbox;
    use bridge::{Channel, Interest, Wake};

    use super::*;

    struct Deaf;

    impl Wake for Deaf {
        fn wake(&self) {}
    }

    impl Interest for Deaf {
        fn changed(&self, _: &Channel) {}
    }

    pub(crate) fn health(stats: &Arc<BusStats>) -> Health {
        let (mailbox, _) = mailbox(1, 1, Arc::new(Deaf));
        Health::new(Arc::new(Beyond::new(Arc::new(Deaf), mailbox)), Arc::clone(stats), || 0)
    }

    pub(crate) const ALL: [Part; 3] = [Part::Listening, Part::Publishing, Part::Adding];

    #[test]
    fn a_loss_of_all_parts_is_one_loss_and_only_attempts_that_failed_are_counted_as_such() {
        let stats = Arc::<BusStats>::default();
        let health = health(&stats);
        let counts = || (stats.losses.value(), stats.connects_failed.value());
        let lose = || ALL.iter().for_each(|part| health.lost(*part, "away".to_owned()));
        lose();
        assert_eq!(counts(), (0, 3), "nobody answered at the start");
        ALL.iter().for_each(|part| health.up(*part));
        lose();
        assert_eq!(counts(), (1, 3));
        lose();
        assert_eq!(counts(), (1, 6));
    }
}
