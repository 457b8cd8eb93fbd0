//! Holds back what clients publish while the bus is away, and for a moment after: a message that leaves before the other
//! nodes have subscribed again is heard by none of them. Refuses to know what is held. Used by [`super::publish`].

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::health::Standing;

/// Whether it is time.
pub(crate) struct Hold {
    standing: watch::Receiver<Standing>,
    /// After a loss others are given so long.
    others_return_within: Duration,
    /// Losses that have been waited for.
    losses: u64,
    /// When the wait for the last one ends.
    until: Option<Instant>,
    is_released: bool,
}

impl Hold {
    pub(crate) const fn new(standing: watch::Receiver<Standing>, others_return_within: Duration) -> Self {
        Self { standing, others_return_within, losses: 0, until: None, is_released: false }
    }

    /// Waits until it is time. May be dropped and called again.
    pub(crate) async fn over(&mut self) {
        while !self.is_over() {
            match self.until {
                Some(until) if self.is_known() => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    // Perhaps it is lost once more.
                    _ = self.standing.changed() => {}
                },
                _ => {
                    let is_up = |standing: &Standing| standing.is_up;
                    let Ok(standing) = self.standing.wait_for(is_up).await.map(|standing| *standing) else {
                        // The bus has ended, and with it the program.
                        return std::future::pending().await;
                    };
                    let is_lost = standing.losses > self.losses;
                    self.until = is_lost.then(|| Instant::now() + self.others_return_within);
                    self.losses = standing.losses;
                    if !is_lost {
                        return;
                    }
                }
            }
        }
    }

    /// Whether it is time.
    pub(crate) fn is_over(&self) -> bool {
        self.is_released || (self.is_known() && self.until.is_none_or(|until| Instant::now() >= until))
    }

    /// Holds nothing any more, because the program ends.
    pub(crate) const fn release(&mut self) {
        self.is_released = true;
    }

    /// The bus is up, and each loss has been looked at.
    fn is_known(&self) -> bool {
        *self.standing.borrow() == Standing { is_up: true, losses: self.losses }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_bus_at_first_and_for_the_others_after_each_loss() {
        let standing = watch::Sender::new(Standing::default());
        let mut hold = Hold::new(standing.subscribe(), PAUSE);
        let tells = |is_up, losses| standing.send_replace(Standing { is_up, losses });
        assert!(!hold.is_over(), "it is not there yet");
        assert!(tokio::time::timeout(PAUSE, hold.over()).await.is_err());
        tells(true, 0);
        let began = Instant::now();
        hold.over().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody was there before");

        tells(false, 1);
        assert!(!hold.is_over());
        assert!(tokio::time::timeout(PAUSE * 3, hold.over()).await.is_err(), "it is away");
        tells(true, 1);
        let began = Instant::now();
        assert!(tokio::time::timeout(PAUSE / 2, hold.over()).await.is_err());
        assert!(!hold.is_over());
        hold.over().await;
        assert_eq!(began.elapsed(), PAUSE, "dropped half-way, it does not begin again");

        // Lost twice, the second time amid the wait for the first, and back before anybody looked.
        tells(true, 2);
        assert!(!hold.is_over());
        assert!(tokio::time::timeout(PAUSE / 2, hold.over()).await.is_err());
        tells(true, 3);
        let began = Instant::now();
        hold.over().await;
        assert_eq!(began.elapsed(), PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn released_it_holds_nothing() {
        let standing = watch::Sender::new(Standing::default());
        let mut hold = Hold::new(standing.subscribe(), PAUSE);
        hold.release();
        hold.over().await;
        standing.send_replace(Standing { is_up: true, losses: 1 });
        assert!(hold.is_over());
    }
}
