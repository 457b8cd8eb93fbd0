//! How the bus is as a whole: up when each of its connections is. Tells the shards when that changes, and keeps what is
//! wrong for whoever asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bridge::Beyond;

use super::link::Problem;
use crate::bus::BusState;
use crate::bus_stats::BusStats;

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

/// The state of all parts.
pub(crate) struct Health {
    problems: Mutex<[Option<Problem>; PARTS]>,
    is_up: AtomicBool,
    beyond: Arc<Beyond>,
    stats: Arc<BusStats>,
}

impl Health {
    /// Nothing is connected yet.
    pub(crate) fn new(beyond: Arc<Beyond>, stats: Arc<BusStats>) -> Self {
        beyond.cut_off(true);
        let problems = Mutex::new([const { Some(String::new()) }; PARTS]);
        Self { problems, is_up: AtomicBool::new(false), beyond, stats }
    }

    /// A part is connected and has done what it does first.
    pub(crate) fn up(&self, part: Part) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems[part as usize] = None;
        if problems.iter().all(Option::is_none) && !self.is_up.swap(true, Ordering::Relaxed) {
            self.beyond.cut_off(false);
        }
    }

    /// A part lost its connection, or could not make one.
    pub(crate) fn lost(&self, part: Part, problem: Problem) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems[part as usize] = Some(problem);
        if self.is_up.swap(false, Ordering::Relaxed) {
            self.stats.losses.add(1);
            self.beyond.cut_off(true);
        }
    }

    /// What keeps it from being up; empty when nothing has been tried yet.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = problems.iter().flatten();
        known.clone().find(|problem| !problem.is_empty()).or_else(|| known.next()).cloned()
    }

    pub(crate) fn state(&self) -> BusState {
        if self.is_up.load(Ordering::Relaxed) { BusState::Up } else { BusState::Away }
    }
}
