//! How the bus is as a whole: up when each of its connections is. Tells the shards when that changes, and whoever asks
//! from when to when it was away; keeps what is wrong.

use std::sync::{Arc, Mutex, PoisonError};

use bridge::Beyond;
use tokio::sync::watch;

use super::knock;
use super::link::Problem;
use super::silence::LastHeard;
use super::streams::Gap;
use crate::bus::BusState;
use crate::bus_stats::BusStats;
use crate::presence::DEAF_AFTER;
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
    began_ms: u64,
}

struct Inner {
    problems: [Option<Problem>; PARTS],
    /// The refusal that was told last, until the bus is up again.
    refused: Option<Trouble>,
    is_up: bool,
    /// Each part that is connected.
    heard: [Option<Arc<LastHeard>>; PARTS],
    /// When it was last heard before it was lost, and of its parts the one that fell silent first: what came later reached
    /// nobody. When it was begun, for one that could not be reached at first; `None` before all that.
    lost_at_ms: Option<u64>,
    /// What nobody has taken yet, several as one.
    untold: Option<Gap>,
}

impl Health {
    /// Nothing is connected yet. `wall_ms` tells milliseconds since 1970; `is_there`: the server answered a moment ago.
    pub(crate) fn new(
        beyond: Arc<Beyond>,
        stats: Arc<BusStats>,
        wall_ms: fn() -> u64,
        is_there: bool,
    ) -> Self {
        beyond.cut_off(true);
        let began_ms = wall_ms();
        let inner = Mutex::new(Inner {
            problems: [const { Some(String::new()) }; PARTS],
            refused: None,
            is_up: false,
            heard: [const { None }; PARTS],
            lost_at_ms: (!is_there).then_some(began_ms),
            untold: None,
        });
        let (standing, gaps) = (watch::Sender::new(Standing::default()), watch::Sender::new(0));
        Self { inner, standing, gaps, beyond, stats, wall_ms, began_ms }
    }

    /// A part is connected and has done what it does first. `heard` goes on telling when it was last heard.
    pub(crate) fn up(&self, part: Part, heard: Arc<LastHeard>) {
        let mut inner = self.lock();
        inner.problems[part as usize] = None;
        inner.heard[part as usize] = Some(heard);
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
        let silent_ms = inner.heard[part as usize].take().map_or(0, |heard| heard.ago_ms());
        let heard_ms = (self.wall_ms)().saturating_sub(silent_ms);
        if let Some(lost_at_ms) = &mut inner.lost_at_ms {
            *lost_at_ms = heard_ms.min(*lost_at_ms);
        }
        if was_up {
            inner.lost_at_ms = Some(heard_ms);
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
        inner.lost_at_ms.get_or_insert(self.began_ms);
        let is_first = inner.problems.iter().flatten().all(String::is_empty);
        if !was_up && is_first && self.standing.borrow().losses == 0 {
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

    /// Whether nothing of other nodes can have been heard lately: it is away, or will turn out to be.
    pub(crate) fn is_deaf(&self) -> bool {
        let inner = self.lock();
        let listening = inner.heard[Part::Listening as usize].as_ref();
        !inner.is_up || listening.is_none_or(|heard| u128::from(heard.ago_ms()) > DEAF_AFTER.as_millis())
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
    use std::time::Duration;

    use bridge::mailbox::mailbox;
    use bridge::{Channel, Interest, Wake};
    use tokio::time::advance;

    use super::*;

    struct Deaf;

    impl Wake for Deaf {
        fn wake(&self) {}
    }

    impl Interest for Deaf {
        fn changed(&self, _: &Channel) {}
    }

    const NOW_MS: u64 = 1_000_000;

    pub(crate) fn health(stats: &Arc<BusStats>) -> Health {
        let (mailbox, _) = mailbox(1, 1, Arc::new(Deaf));
        Health::new(Arc::new(Beyond::new(Arc::new(Deaf), mailbox)), Arc::clone(stats), || NOW_MS, true)
    }

    const ALL: [Part; 3] = [Part::Listening, Part::Publishing, Part::Adding];

    pub(crate) fn is_up(health: &Health) {
        ALL.iter().for_each(|part| health.up(*part, Arc::new(LastHeard::now())));
    }

    #[test]
    fn a_loss_of_all_parts_is_one_loss_and_only_attempts_that_failed_are_counted_as_such() {
        let stats = Arc::<BusStats>::default();
        let health = health(&stats);
        let counts = || (stats.losses.value(), stats.connects_failed.value());
        let lose = || ALL.iter().for_each(|part| health.lost(*part, "away".to_owned()));
        lose();
        assert_eq!(counts(), (0, 3), "nobody answered at the start");
        is_up(&health);
        lose();
        assert_eq!(counts(), (1, 3));
        lose();
        assert_eq!(counts(), (1, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_begins_when_the_first_part_fell_silent_and_those_that_nobody_took_are_one() {
        let health = health(&Arc::default());
        let lose = |part| health.lost(part, "away".to_owned());
        is_up(&health);
        assert_eq!(health.take_gap(), None, "it was not missed before");

        let heard = Arc::new(LastHeard::now());
        health.up(Part::Adding, Arc::clone(&heard));
        advance(Duration::from_secs(2)).await;
        heard.note();
        advance(Duration::from_secs(3)).await;
        lose(Part::Adding);
        lose(Part::Listening);
        health.up(Part::Adding, Arc::new(LastHeard::now()));
        advance(Duration::from_secs(4)).await;
        lose(Part::Adding);
        is_up(&health);
        assert_eq!(health.take_gap(), Some(Gap { from_ms: NOW_MS - 5_000, to_ms: NOW_MS }));
        assert_eq!(health.take_gap(), None);

        advance(Duration::from_secs(1)).await;
        lose(Part::Listening);
        is_up(&health);
        lose(Part::Listening);
        is_up(&health);
        assert_eq!(health.take_gap(), Some(Gap { from_ms: NOW_MS - 1_000, to_ms: NOW_MS }));
    }

    #[test]
    fn a_server_that_could_not_be_reached_at_first_leaves_a_gap_from_the_beginning() {
        let health = health(&Arc::default());
        health.lost(Part::Adding, "away".to_owned());
        is_up(&health);
        assert_eq!(health.take_gap(), Some(Gap { from_ms: NOW_MS, to_ms: NOW_MS }));
    }
}
