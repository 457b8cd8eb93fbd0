//! What clients of this node publish, on its way to the bus: the other end of the mailbox that the switchboard fills.
//!
//! Bounded as any mailbox, by commands and by bytes; full, its publishers are paused. Who reads it decides what becomes
//! of it while the bus is away.

use std::sync::Arc;
use std::time::Duration;

use bridge::mailbox::{Wake, mailbox};
use bridge::{Command, Inbox, Mailbox, Publish};
use tokio::sync::Notify;

/// After a loss other nodes are given so long before they are told what waited: the longest pause between their attempts to
/// connect, and as much again for their subscriptions.
pub(crate) const OTHERS_RETURN_WITHIN: Duration = Duration::from_secs(2);

/// The end that a bus reads.
pub struct Outgoing {
    inbox: Inbox,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl Outgoing {
    /// Both ends, for so many messages and payload bytes.
    ///
    /// # Panics
    /// If `messages_max` is zero.
    #[must_use]
    pub fn new(messages_max: usize, bytes_max: usize) -> (Mailbox, Self) {
        let bell = Arc::<Bell>::default();
        let (mailbox, inbox) = mailbox(messages_max, bytes_max, Arc::clone(&bell) as Arc<dyn Wake>);
        (mailbox, Self { inbox, bell })
    }

    /// The next publish. Nothing is lost when it is dropped half-way.
    pub async fn next(&mut self) -> Publish {
        loop {
            self.inbox.look();
            if let Some(publish) = self.take() {
                return publish;
            }
            self.bell.0.notified().await;
        }
    }

    /// The next one, if one is there.
    pub fn take(&mut self) -> Option<Publish> {
        loop {
            match self.inbox.take()? {
                Command::Publish(publish) => return Some(publish),
                other => debug_assert!(false, "only publishes go beyond the node: {other:?}"),
            }
        }
    }

    /// How many wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.inbox.depth()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use bridge::{Beyond, Channel, Interest, Kind, Message, Switchboard};

    use super::*;

    struct Nobody(Mutex<u32>);
    impl Interest for Nobody {
        fn changed(&self, _: &Channel) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[tokio::test]
    async fn what_a_client_publishes_arrives_in_order_and_wakes_whoever_waits() {
        let (mailbox, mut outgoing) = Outgoing::new(8, 1000);
        let beyond = Arc::new(Beyond::new(Arc::new(Nobody(Mutex::default())), mailbox));
        let board = Switchboard::new(Vec::new()).with_beyond(beyond);
        let channel = Channel::parse("a").unwrap();
        let reader = tokio::spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < 20 {
                heard.push(outgoing.next().await.message.payload()[0]);
            }
            heard
        });
        for number in 0..20 {
            let message = Message::copy_from(Kind::Binary, &[number]);
            while board.publish_everywhere(0, &channel, &message, None).is_err() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(reader.await.unwrap(), (0..20).collect::<Vec<u8>>());
    }
}
