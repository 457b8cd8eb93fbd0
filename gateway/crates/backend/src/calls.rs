//! Who waits for which answer, by a number that the answer brings back. Refuses more calls than it has room for, and keeps
//! nothing of one that nobody waits for any more: a call is given up by dropping it. Used by buses that have to
//! find the one who asked by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All that wait for a `T`.
pub(crate) struct Calls<T> {
    waiting: Mutex<HashMap<u64, oneshot::Sender<T>>>,
    most: usize,
}

impl<T> Calls<T> {
    /// Nobody waits yet, and never more than so many.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), most })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; `None` when there are as many as may be.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Call<T>> {
        let mut waiting = self.lock();
        if waiting.len() >= self.most {
            return None;
        }
        // At random, so that nobody who only heard an earlier answer can guess it.
        let id = std::iter::repeat_with(|| fastrand::u64(1..)).find(|id| !waiting.contains_key(id))?;
        let (answer, answered) = oneshot::channel();
        waiting.insert(id, answer);
        drop(waiting);
        Some(Call { id, answered, calls: Arc::clone(self) })
    }

    /// The answer to a call came. A late one finds nobody.
    pub(crate) fn end(&self, id: u64, answer: T) {
        let waiting = self.lock().remove(&id);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }
}

/// A call that waits; given up when it is dropped.
pub(crate) struct Call<T> {
    id: u64,
    answered: oneshot::Receiver<T>,
    calls: Arc<Calls<T>>,
}

impl<T> Call<T> {
    /// By which the answer finds it.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the answer; the deadline is the caller's.
    pub(crate) async fn answer(mut self) -> Option<T> {
        (&mut self.answered).await.ok()
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_answer_finds_who_waits_for_it_and_a_late_one_nobody() {
        let calls = Calls::new(2);
        let (first, second) = (calls.begin().unwrap(), calls.begin().unwrap());
        let given_up = second.id();
        drop(second);
        calls.end(given_up, "late");
        calls.end(first.id(), "b");
        assert_eq!(first.answer().await, Some("b"));
        assert!(calls.lock().is_empty());
    }

    #[test]
    fn no_more_calls_wait_than_the_bound_and_one_that_is_given_up_makes_room() {
        let calls = Calls::<()>::new(3);
        let mut waiting: Vec<_> = (0..3).map(|_| calls.begin().unwrap()).collect();
        assert!(calls.begin().is_none());
        waiting.pop();
        assert!(calls.begin().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_of_calls_that_nobody_answered() {
        let calls = Calls::<()>::new(10);
        for _ in 0..10_000 {
            let call = calls.begin().expect("those before were given up");
            assert!(tokio::time::timeout(Duration::from_secs(3), call.answer()).await.is_err());
        }
        assert!(calls.lock().is_empty());
    }
}
