//! Why a bus does not take what connections do, on its way to the log: no stream, one that is full, a server out of memory, a
//! right that is missing. Their connections are not read meanwhile, and nothing else would say why. The bus is asked again
//! and again, so it is told once in a while, with how much was left out. Knows nothing of what follows from a refusal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::lines::Lines;

/// Between two lines.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Of what a server says; whatever answers on its subject may say more.
const PROBLEM_CHARS_MAX: usize = 300;

/// What the tasks that hand events to a bus share.
#[derive(Debug)]
pub(crate) struct Complaints(Mutex<Lines>);

impl Default for Complaints {
    fn default() -> Self {
        Self(Mutex::new(Lines::one_in(TELL_EVERY)))
    }
}

impl Complaints {
    /// The bus has not taken something, for this reason.
    pub(crate) fn hear(&self, problem: &str) {
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        if let Some(left_out) = due {
            let problem: String = problem.chars().take(PROBLEM_CHARS_MAX).collect();
            tracing::warn!(
                problem,
                left_out,
                "the bus does not take what connections do; until it does, they are not read"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_is_told_at_once_and_those_of_a_minute_are_one_line() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let mut told = complaints.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<u64> =
            (0..130).filter_map(|second| told.next(start + Duration::from_secs(second))).collect();
        assert_eq!(lines, [0, 59, 59]);
    }
}
