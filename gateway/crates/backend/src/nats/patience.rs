//! Who of a partition may ask again when events were refused: one at a time, in turn. A stream that takes nothing is asked
//! by one event and not by all; and an event that is refused for its own sake does not keep the others from their turn.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Pauses between attempts, from the first to the longest.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(20);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(1);

/// The right to ask again, and the pause after the next refusal.
pub(super) struct Patience(Mutex<Duration>);

/// It is one's turn to ask again.
pub(super) struct Turn<'p>(MutexGuard<'p, Duration>);

impl Patience {
    pub(super) fn new() -> Self {
        Self(Mutex::new(RETRY_MIN))
    }

    /// Waits for one's turn, behind all who wait already.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn(self.0.lock().await)
    }

    /// An attempt was refused, made in turn or without one. Comes back when one may wait for a turn: whoever had one, or
    /// finds nobody else asking, keeps the others waiting for a pause that grows.
    pub(super) async fn refused(&self, turn: Option<Turn<'_>>) {
        if let Some(mut turn) = turn.or_else(|| self.0.try_lock().ok().map(Turn)) {
            tokio::time::sleep(*turn.0).await;
            *turn.0 = (*turn.0 * 2).min(RETRY_MAX);
        }
    }
}

impl Turn<'_> {
    /// The attempt was a success: whoever is next asks at once.
    pub(super) fn succeeded(mut self) {
        *self.0 = RETRY_MIN;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_for_ever_does_not_keep_the_others_from_their_turn() {
        let patience = Patience::new();
        let never = async {
            let mut turn = None;
            loop {
                patience.refused(turn).await;
                turn = Some(patience.turn().await);
            }
        };
        let others = async {
            // So long that the pauses have grown.
            for _ in 0..20 {
                let turn = patience.turn().await;
                patience.refused(Some(turn)).await;
            }
            let began = Instant::now();
            for _ in 0..10 {
                patience.refused(None).await;
                patience.turn().await.succeeded();
            }
            began.elapsed()
        };
        let took = tokio::select! {
            () = never => Duration::MAX,
            took = others => took,
        };
        assert!(took <= 11 * RETRY_MAX, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_nothing_is_asked_by_one_at_a_time_with_growing_pauses() {
        let patience = Patience::new();
        let asked = std::cell::Cell::new(0);
        let ask = async || {
            let mut turn = None;
            while asked.get() < 10_000 {
                asked.set(asked.get() + 1);
                patience.refused(turn).await;
                turn = Some(patience.turn().await);
            }
        };
        let all = futures_util::future::join_all((0..64).map(|_| ask()));
        assert!(tokio::time::timeout(Duration::from_secs(60), all).await.is_err(), "{}", asked.get());
        assert!(asked.get() < 64 + 70, "{}", asked.get());
    }
}
