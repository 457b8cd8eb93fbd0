//! What comes from the bus, on its way into the shards: messages to channels and to one connection.
//!
//! A mailbox that is full is waited for, but not for ever: whoever reads a bus must not stop, or the bus would cut the
//! node off for all its channels. A shard that does not take anything costs the others little: they hear what it misses,
//! and for a while nobody waits for it. What found no room in time is counted, and so is what was not ours to begin with.

use std::sync::Arc;
use std::time::Duration;

use bridge::command::{NotDone, Reply};
use bridge::{Channel, Command, ConnId, Epoch, Kind, Message, NodeName, ShardSet, Switchboard};
use tokio::time::Instant;

use crate::bus_stats::BusStats;

/// So long a message waits for room in the shards' mailboxes.
const PATIENCE: Duration = Duration::from_millis(250);
/// So long a shard is not waited for that had no room for all of the patience, whatever it takes meanwhile: what is for
/// others stands behind what waits, and waits a fifth of the time at most.
const HOPELESS: Duration = Duration::from_secs(1);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// The way from a bus into the shards of this node. Each task that reads a bus has one.
#[derive(Clone)]
pub struct Incoming {
    node: NodeName,
    epoch: Epoch,
    switchboard: Arc<Switchboard>,
    stats: Arc<BusStats>,
    /// Until then a shard is not waited for, by shard.
    hopeless_until: Vec<Option<Instant>>,
}

impl Incoming {
    /// The way into the shards behind this switchboard, of this node.
    #[must_use]
    pub fn new(node: NodeName, epoch: Epoch, switchboard: Arc<Switchboard>, stats: Arc<BusStats>) -> Self {
        let hopeless_until = vec![None; switchboard.mailboxes().len()];
        Self { node, epoch, switchboard, stats, hopeless_until }
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
        let offer = |shards| board.publish_where_room(shards, channel, message, exclude);
        let full = offer(board.shards(channel));
        let missed = if full.is_empty() { full } else { self.patiently(full, offer).await };
        let count = if missed.is_empty() { &self.stats.received } else { &self.stats.undelivered };
        count.add(1);
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
        let mut place = mailbox.reserve(bytes).ok();
        if place.is_none() {
            let mut full = ShardSet::default();
            full.insert(to.address.shard);
            let again = |full| {
                place = mailbox.reserve(bytes).ok();
                if place.is_some() { ShardSet::default() } else { full }
            };
            let _ = self.patiently(full, again).await;
        }
        let Some(place) = place else {
            self.stats.undelivered.add(1);
            return Err((NotDone::Full, reply));
        };
        self.stats.received.add(1);
        place.send(Command::Send { to: to.address, message: message.clone(), by: None, reply });
        Ok(())
    }

    /// Tries these shards, which have no room, until they have or the patience is over; not those for which there is no
    /// hope. `attempt` says which of those it is given still have none. Those that have none in the end.
    async fn patiently(&mut self, full: ShardSet, mut attempt: impl FnMut(ShardSet) -> ShardSet) -> ShardSet {
        let now = Instant::now();
        let (mut hopeful, mut missed) = (ShardSet::default(), ShardSet::default());
        for shard in full.iter() {
            let until = self.hopeless_until.get(usize::from(shard)).copied().flatten();
            let is_hopeless = until.is_some_and(|until| now < until);
            if is_hopeless { &mut missed } else { &mut hopeful }.insert(shard);
        }
        while !hopeful.is_empty() && now.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
            hopeful = attempt(hopeful);
        }
        for shard in hopeful.iter() {
            missed.insert(shard);
            if let Some(until) = self.hopeless_until.get_mut(usize::from(shard)) {
                *until = Some(Instant::now() + HOPELESS);
            }
        }
        missed
    }
}

/// Text or binary, of a message that does not say: text when it is UTF-8.
#[must_use]
pub fn undeclared_kind(payload: &[u8]) -> Kind {
    if std::str::from_utf8(payload).is_ok() { Kind::Text } else { Kind::Binary }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::mailbox::{Wake, mailbox};
    use bridge::{Address, Inbox};

    use super::*;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    /// A node of two shards: the first takes one command, the second as many as come here.
    fn node() -> (Incoming, Vec<Inbox>) {
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
            [1, 10_000].into_iter().map(|commands| mailbox(commands, 1 << 30, Arc::new(Deaf))).unzip();
        let board = Arc::new(Switchboard::new(mailboxes));
        board.join(0, &channel("full"));
        board.join(1, &channel("free"));
        board.join(0, &channel("both"));
        board.join(1, &channel("both"));
        let name = NodeName::parse("here").unwrap();
        (Incoming::new(name, Epoch(1), board, Arc::default()), inboxes)
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    fn message() -> Message {
        Message::copy_from(Kind::Text, b"x")
    }

    fn heard(inbox: &mut Inbox) -> usize {
        std::iter::from_fn(|| inbox.take()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_stays_full_holds_up_others_no_longer_than_it_may() {
        let (mut incoming, mut inboxes) = node();
        incoming.publish(&channel("full"), &message(), None).await;
        let started = Instant::now();
        let to = |shard| ConnId {
            node: NodeName::parse("here").unwrap(),
            epoch: Epoch(1),
            address: Address { shard, slot: 0, generation: 1 },
        };
        for _ in 0..500 {
            incoming.publish(&channel("full"), &message(), None).await;
            incoming.send(&to(0), &message(), None).await;
            incoming.publish(&channel("free"), &message(), None).await;
            incoming.send(&to(1), &message(), None).await;
        }
        assert!(started.elapsed() < 2 * PATIENCE, "{:?}", started.elapsed());
        assert_eq!((heard(&mut inboxes[0]), heard(&mut inboxes[1])), (1, 1000));
        assert_eq!((incoming.stats.undelivered.value(), incoming.stats.received.value()), (1000, 1001));
        // One that has room again hears at once, whatever was thought of it.
        incoming.publish(&channel("full"), &message(), None).await;
        assert_eq!(heard(&mut inboxes[0]), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_room_hears_what_others_miss() {
        let (mut incoming, mut inboxes) = node();
        for _ in 0..3 {
            incoming.publish(&channel("both"), &message(), None).await;
        }
        assert_eq!((heard(&mut inboxes[0]), heard(&mut inboxes[1])), (1, 3));
        assert_eq!(incoming.stats.undelivered.value(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_has_room_in_time_misses_nothing_and_hears_nothing_twice() {
        let (mut incoming, mut inboxes) = node();
        incoming.publish(&channel("both"), &message(), None).await;
        // Looked at when the message has found no room.
        let taken = async { heard(&mut inboxes[0]) };
        let (both, wanted) = (channel("both"), message());
        let ((), taken) = tokio::join!(incoming.publish(&both, &wanted, None), taken);
        assert_eq!((taken, heard(&mut inboxes[0]), heard(&mut inboxes[1])), (1, 1, 2));
        assert_eq!((incoming.stats.undelivered.value(), incoming.stats.received.value()), (0, 2));
    }
}
