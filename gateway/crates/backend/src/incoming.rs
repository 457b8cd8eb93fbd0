//! What comes from the bus, on its way into the shards: messages to channels and to one connection.
//!
//! A mailbox that is full is waited for, but not for ever: whoever reads a bus must not stop, or the bus would cut the
//! node off for all its channels. What found no room in time is counted, and so is what was not ours to begin with.

use std::sync::Arc;
use std::time::Duration;

use bridge::command::{NotDone, Reply};
use bridge::{Channel, Command, ConnId, Epoch, Kind, Message, NodeName, Switchboard};
use tokio::time::Instant;

use crate::bus_stats::BusStats;

/// So long a message waits for room in the shards' mailboxes.
const PATIENCE: Duration = Duration::from_millis(250);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// The way from a bus into the shards of this node. Each task that reads a bus has one.
#[derive(Clone)]
pub struct Incoming {
    node: NodeName,
    epoch: Epoch,
    switchboard: Arc<Switchboard>,
    stats: Arc<BusStats>,
    /// Until then, nothing is waited for: the mailboxes were full for all of the patience.
    hopeless_until: Option<Instant>,
}

impl Incoming {
    /// The way into the shards behind this switchboard, of this node.
    #[must_use]
    pub const fn new(
        node: NodeName,
        epoch: Epoch,
        switchboard: Arc<Switchboard>,
        stats: Arc<BusStats>,
    ) -> Self {
        Self { node, epoch, switchboard, stats, hopeless_until: None }
    }

    /// Whether a message of this origin is our own copy coming back.
    #[must_use]
    pub fn is_own(&self, node: &str, epoch: &str) -> bool {
        node == self.node.as_str() && epoch == self.epoch.to_string()
    }

    /// A message to a channel, for this node's subscribers but the excluded one. What is our own copy must not come here.
    pub async fn publish(&mut self, channel: &Channel, message: &Message, exclude: Option<&ConnId>) {
        let exclude = exclude.filter(|id| self.is_ours(id)).map(|id| id.address);
        let board = Arc::clone(&self.switchboard);
        let delivered = self.patiently(|| board.publish(None, channel, message, exclude, None).ok()).await;
        match delivered {
            Some(()) => self.stats.received.add(1),
            None => self.stats.undelivered.add(1),
        }
    }

    /// A message to one connection of this node. `reply` hears what its shard says, [`NotDone::Gone`] for an id that is not
    /// of this node and epoch, and [`NotDone::Full`] when its shard had no room in time.
    pub async fn send(&mut self, to: &ConnId, message: &Message, reply: Reply) {
        if let Err((why, reply)) = self.try_send(to, message, reply).await
            && let Some(reply) = reply
        {
            let _ = reply.send(Err(why));
        }
    }

    /// Whether a connection is of this node and this life of it.
    fn is_ours(&self, id: &ConnId) -> bool {
        id.node == self.node && id.epoch == self.epoch
    }

    async fn try_send(
        &mut self,
        to: &ConnId,
        message: &Message,
        reply: Reply,
    ) -> Result<(), (NotDone, Reply)> {
        let board = Arc::clone(&self.switchboard);
        let is_ours = self.is_ours(to);
        let mailbox = board.mailboxes().get(usize::from(to.address.shard)).filter(|_| is_ours);
        let Some(mailbox) = mailbox else {
            self.stats.stale.add(1);
            return Err((NotDone::Gone, reply));
        };
        let bytes = message.payload().len();
        let Some(place) = self.patiently(|| mailbox.reserve(bytes).ok()).await else {
            self.stats.undelivered.add(1);
            return Err((NotDone::Full, reply));
        };
        self.stats.received.add(1);
        place.send(Command::Send { to: to.address, message: message.clone(), by: None, reply });
        Ok(())
    }

    /// Tries until it succeeds or the patience is over; one attempt while there is no hope.
    async fn patiently<T>(&mut self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let first = attempt();
        if first.is_some() {
            self.hopeless_until = None;
            return first;
        }
        let now = Instant::now();
        if self.hopeless_until.is_some_and(|until| now < until) {
            return None;
        }
        while now.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
            let again = attempt();
            if again.is_some() {
                self.hopeless_until = None;
                return again;
            }
        }
        self.hopeless_until = Some(Instant::now() + PATIENCE);
        None
    }
}

/// Text or binary, of a message that does not say: text when it is UTF-8.
#[must_use]
pub fn undeclared_kind(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Binary }
}
