//! Orders to shards to close whose event was given up, for each bus. Whoever gives one up must not wait, so an order that finds
//! no room is repeated beside it, a bounded number of times; of those that wait there are only so many.

use std::sync::Arc;
use std::time::Duration;

use bridge::{Address, Command, Mailbox};
use tokio::sync::Semaphore;

/// Orders that may wait for room. Beyond that, and when there is none in time, whoever it is about stays, and is closed for
/// what it says next.
const WAITING_MAX: usize = 1024;
/// Attempts, and the pause between two of them.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The way to the shards.
pub(crate) struct Closing {
    mailboxes: Vec<Mailbox>,
    waiting: Arc<Semaphore>,
}

impl Closing {
    /// With the mailboxes by shard.
    pub(crate) fn new(mailboxes: Vec<Mailbox>) -> Self {
        Self { mailboxes, waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Sends an order about a connection, if not at once, then soon.
    pub(crate) fn send(&self, whom: Address, order: fn(Address) -> Command) {
        let Some(mailbox) = self.mailboxes.get(usize::from(whom.shard)) else { return };
        if mailbox.send(order(whom)).is_ok() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let mailbox = mailbox.clone();
        tokio::spawn(async move {
            for _ in 0..ATTEMPTS {
                tokio::time::sleep(PAUSE).await;
                if mailbox.send(order(whom)).is_ok() {
                    break;
                }
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::mailbox::{Wake, mailbox};

    use super::*;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_finds_no_room_is_there_when_there_is_some_and_not_for_ever() {
        let (to, mut inbox) = mailbox(1, 1000, Arc::new(Deaf));
        let closing = Closing::new(vec![to.clone()]);
        let order = |whom| Command::GiveUp { whom };
        let address = |slot| Address { shard: 0, slot, generation: 1 };
        closing.send(address(1), order);
        closing.send(address(2), order);
        assert!(matches!(inbox.take(), Some(Command::GiveUp { whom }) if whom == address(1)));
        assert!(inbox.take().is_none());
        drop(closing.waiting.acquire_many(WAITING_MAX as u32).await.unwrap());
        assert!(matches!(inbox.take(), Some(Command::GiveUp { whom }) if whom == address(2)));

        to.send(order(address(3))).unwrap();
        closing.send(address(4), order);
        drop(closing.waiting.acquire_many(WAITING_MAX as u32).await.unwrap());
        inbox.take().unwrap();
        assert!(inbox.take().is_none(), "its time is over");
    }
}
