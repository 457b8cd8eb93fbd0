//! Notices that a server has fallen silent: one whose network is cut, or that stands still, closes nothing. Asks it when nothing
//! else comes. Refuses to judge by the clock, which goes on while this process stands still: it counts looks, and what came
//! meanwhile is read between two of them. Run by [`super::link`] beside each connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::presence::{DEAF_AFTER, LOST_AFTER};

/// Between two looks at whether something came.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks without anything the server is asked, and has at least two seconds to answer.
const LOOKS_UNTIL_ASKED: u32 = 3;
const _: () = assert!(LOOK_EVERY.as_millis() * (LOOKS_UNTIL_ASKED as u128 + 1) < DEAF_AFTER.as_millis());
/// After so many it is gone: 4.5 s at most after it was last heard, well before [`LOST_AFTER`]. Whoever
/// noticed later would take all other nodes for lost, instead of itself for cut off.
const LOOKS_UNTIL_GONE: u32 = 8;
const _: () = assert!(LOOK_EVERY.as_millis() * (LOOKS_UNTIL_GONE as u128 + 1) < LOST_AFTER.as_millis());

/// When a server was last heard. Whoever reads notes it, any number of times.
pub(crate) struct LastHeard {
    since: Instant,
    at_ms: AtomicU64,
}

impl LastHeard {
    /// Just now.
    pub(crate) fn now() -> Self {
        Self { since: Instant::now(), at_ms: AtomicU64::new(0) }
    }

    /// Something came.
    pub(crate) fn note(&self) {
        self.at_ms.store(self.clock_ms(), Ordering::Relaxed);
    }

    /// How long ago something came last, in milliseconds.
    pub(crate) fn ago_ms(&self) -> u64 {
        self.clock_ms().saturating_sub(self.at_ms())
    }

    fn at_ms(&self) -> u64 {
        self.at_ms.load(Ordering::Relaxed)
    }

    fn clock_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Waits until the server is silent for good. `ask` asks it, and says whether an answer came.
pub(crate) async fn silence<A: Future<Output = bool>>(heard: &LastHeard, mut ask: impl FnMut() -> A) {
    let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looked, mut known_ms, mut silent) = (Instant::now(), heard.at_ms(), 0);
    let mut asked: Option<Pin<Box<A>>> = None;
    loop {
        tokio::select! {
            is_heard = answer(&mut asked) => {
                asked = None;
                if is_heard {
                    heard.note();
                }
            }
            _ = looks.tick() => {
                let stood_still = looked.elapsed() > LOOK_EVERY * 2;
                looked = Instant::now();
                let at_ms = heard.at_ms();
                if at_ms != known_ms {
                    (known_ms, silent) = (at_ms, 0);
                } else if !stood_still {
                    silent += 1;
                }
                if silent >= LOOKS_UNTIL_GONE {
                    return;
                }
                if silent >= LOOKS_UNTIL_ASKED && asked.is_none() {
                    asked = Some(Box::pin(ask()));
                }
            }
        }
    }
}

/// The answer to what was asked; never comes when nothing was.
async fn answer<A: Future<Output = bool>>(asked: &mut Option<Pin<Box<A>>>) -> bool {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use tokio::time::{advance, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn passes(ms: u64) {
        let _ = timeout(Duration::from_millis(ms), pending::<()>()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_or_says_something_is_there_and_is_asked_only_when_it_is_quiet() {
        let (heard, asked) = (LastHeard::now(), Cell::new(0));
        let ask = || {
            asked.set(asked.get() + 1);
            ready(true)
        };
        assert!(timeout(LONG, silence(&heard, ask)).await.is_err());
        let quiet = asked.replace(0);
        assert!((25..=40).contains(&quiet), "{quiet} times in a minute");

        let speaks = async {
            loop {
                passes(1_000).await;
                heard.note();
            }
        };
        let both = async { tokio::join!(speaks, silence(&heard, ask)) };
        assert!(timeout(LONG, both).await.is_err());
        assert_eq!(asked.get(), 0, "nobody has to ask");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_is_gone_before_others_would_seem_lost_and_not_at_once() {
        for before_ms in [0, 1, 499, 500, 7_300, 9_999] {
            let (heard, began) = (LastHeard::now(), Instant::now());
            let last_word = async {
                passes(before_ms).await;
                heard.note();
                pending::<()>().await;
            };
            // It answers for as long as it is there.
            let ask = || {
                let is_there = began.elapsed() < Duration::from_millis(before_ms);
                async move {
                    if !is_there {
                        pending::<()>().await;
                    }
                    true
                }
            };
            tokio::select! {
                () = last_word => {}
                () = silence(&heard, ask) => {}
            }
            let silent_for = began.elapsed().saturating_sub(Duration::from_millis(before_ms));
            assert!(silent_for >= Duration::from_secs(4), "{before_ms}: {silent_for:?}");
            // A beat may have come two seconds before the last thing that did.
            assert!(silent_for < LOST_AFTER - crate::presence::BEAT_EVERY, "{before_ms}: {silent_for:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stood_still_looks_again_before_it_judges() {
        let heard = LastHeard::now();
        let watching = silence(&heard, pending::<bool>);
        tokio::pin!(watching);
        assert!(timeout(Duration::from_millis(3_900), &mut watching).await.is_err());
        // All is in the socket, and nobody has had the time to read it.
        advance(LONG).await;
        assert!(timeout(LOOK_EVERY / 2, &mut watching).await.is_err());
        heard.note();
        assert!(timeout(Duration::from_millis(3_900), &mut watching).await.is_err());
        assert!(timeout(LONG, &mut watching).await.is_ok());
    }
}
