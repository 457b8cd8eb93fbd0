//! Which shards have a subscriber of which channel, and the way to publish to just those.
//!
//! One of the two tables that threads share. A shard writes here when its first subscriber of a channel comes and
//! when its last one goes, never per connection. Striped by name, so that joins on many shards rarely meet.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use crate::beyond::Beyond;
use crate::channel::Channel;
use crate::command::{Command, Publish, Receipt};
use crate::id::Address;
use crate::mailbox::{Mailbox, MailboxFull, Place};
use crate::message::Message;

/// Most shards in a node: the width of a [`ShardSet`].
pub const SHARDS_MAX: usize = 128;
const STRIPES: usize = 64;

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet([u64; SHARDS_MAX / 64]);

impl ShardSet {
    /// Adds a shard; says whether the set was empty before.
    pub fn insert(&mut self, shard: u16) -> bool {
        let was_empty = self.is_empty();
        self.0[usize::from(shard) / 64] |= 1 << (shard % 64);
        was_empty
    }

    /// Removes a shard; says whether the set is empty now.
    pub fn remove(&mut self, shard: u16) -> bool {
        self.0[usize::from(shard) / 64] &= !(1 << (shard % 64));
        self.is_empty()
    }

    /// Whether no shard is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The shards, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.0.into_iter().zip(0u16..).flat_map(|(mut word, place)| {
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros() as u16;
                word &= word - 1;
                Some(place * 64 + bit)
            })
        })
    }
}

/// The table and the mailboxes of all shards.
pub struct Switchboard {
    stripes: Box<[RwLock<HashMap<Channel, ShardSet>>]>,
    hasher: RandomState,
    mailboxes: Box<[Mailbox]>,
    beyond: Option<Arc<Beyond>>,
}

impl Switchboard {
    /// A switchboard in front of these mailboxes, number by shard.
    ///
    /// # Panics
    /// With more than [`SHARDS_MAX`] mailboxes: the configuration refuses that earlier.
    #[must_use]
    pub fn new(mailboxes: Vec<Mailbox>) -> Self {
        assert!(mailboxes.len() <= SHARDS_MAX, "at most {SHARDS_MAX} shards");
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            mailboxes: mailboxes.into(),
            beyond: None,
        }
    }

    /// The same with other nodes beyond this one.
    #[must_use]
    pub fn with_beyond(mut self, beyond: Arc<Beyond>) -> Self {
        self.beyond = Some(beyond);
        self
    }

    /// What joins this node to others; `None` when nothing does.
    #[must_use]
    pub fn beyond(&self) -> Option<&Beyond> {
        self.beyond.as_deref()
    }

    /// All mailboxes, by shard.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    fn stripe(&self, channel: &Channel) -> &RwLock<HashMap<Channel, ShardSet>> {
        &self.stripes[self.hasher.hash_one(channel) as usize % STRIPES]
    }

    /// A shard has its first subscriber. Returns whether it is the node's first.
    pub fn join(&self, shard: u16, channel: &Channel) -> bool {
        let first = {
            let mut stripe = self.stripe(channel).write().unwrap_or_else(PoisonError::into_inner);
            stripe.entry(channel.clone()).or_default().insert(shard)
        };
        if first {
            self.tell_beyond(channel);
        }
        first
    }

    fn tell_beyond(&self, channel: &Channel) {
        if let Some(beyond) = &self.beyond {
            beyond.interest.changed(channel);
        }
    }

    /// A shard's last subscriber left. Returns whether it was the node's last.
    pub fn leave(&self, shard: u16, channel: &Channel) -> bool {
        let last = self.remove(shard, channel);
        if last {
            self.tell_beyond(channel);
        }
        last
    }

    fn remove(&self, shard: u16, channel: &Channel) -> bool {
        let mut stripe = self.stripe(channel).write().unwrap_or_else(PoisonError::into_inner);
        let Some(shards) = stripe.get_mut(channel) else { return false };
        let last = shards.remove(shard);
        if last {
            stripe.remove(channel);
            // A storm of departures gives its memory back.
            if stripe.capacity() > 1024 && stripe.len() < stripe.capacity() / 8 {
                stripe.shrink_to_fit();
            }
        }
        last
    }

    /// The shards that care about a channel.
    #[must_use]
    pub fn shards(&self, channel: &Channel) -> ShardSet {
        let stripe = self.stripe(channel).read().unwrap_or_else(PoisonError::into_inner);
        stripe.get(channel).copied().unwrap_or_default()
    }

    /// Channels with a subscriber on this node.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.stripes.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// The same channels, a stripe at a time: `each` gets some thousands at most, and no lock is held meanwhile.
    pub fn each_channel(&self, mut each: impl FnMut(Channel)) {
        for stripe in &self.stripes {
            let channels: Vec<Channel> =
                stripe.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            channels.into_iter().for_each(&mut each);
        }
    }

    /// Puts a message into the mailbox of every shard of this node that has a subscriber, or of none. `from` is the shard that
    /// calls, if one does: it looks into its own mailbox before it sleeps and needs no wake.
    ///
    /// # Errors
    /// [`MailboxFull`] when one of them has no room; nothing was sent then.
    pub fn publish(
        &self,
        from: Option<u16>,
        channel: &Channel,
        message: &Message,
        exclude: Option<Address>,
        receipt: Option<&Receipt>,
    ) -> Result<(), MailboxFull> {
        let places = self.reserve(channel, message)?;
        fill(places, from, channel, message, exclude, receipt);
        Ok(())
    }

    /// The same for a message that whoever has it cannot keep: each of these shards hears it that has room. Those that have
    /// none, to be tried again.
    #[must_use]
    pub fn publish_where_room(
        &self,
        shards: ShardSet,
        channel: &Channel,
        message: &Message,
        exclude: Option<Address>,
    ) -> ShardSet {
        let bytes = message.payload().len();
        let mut full = ShardSet::default();
        for shard in shards.iter() {
            match self.mailboxes[usize::from(shard)].reserve(bytes) {
                Ok(place) => place.send(for_shard(shard, channel, message, exclude, None)),
                Err(MailboxFull) => {
                    full.insert(shard);
                }
            }
        }
        full
    }

    /// [`Switchboard::publish`] for what a client of a shard publishes: a place in the mailbox of what lies beyond this node counts like
    /// those of the shards. Where nothing does, it is [`Switchboard::publish`].
    ///
    /// # Errors
    /// [`MailboxFull`] when one of them has no room; nothing was sent then.
    pub fn publish_everywhere(
        &self,
        from: u16,
        channel: &Channel,
        message: &Message,
        exclude: Option<Address>,
    ) -> Result<(), MailboxFull> {
        let places = self.reserve(channel, message)?;
        if let Some(beyond) = &self.beyond {
            beyond.mailbox.reserve(message.payload().len())?.send(Command::Publish(Publish {
                channel: channel.clone(),
                message: message.clone(),
                exclude: None,
                receipt: None,
            }));
        }
        fill(places, Some(from), channel, message, exclude, None);
        Ok(())
    }

    /// A place in the mailbox of every shard that cares, or in none.
    fn reserve(&self, channel: &Channel, message: &Message) -> Result<Vec<(u16, Place<'_>)>, MailboxFull> {
        let shards = self.shards(channel);
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = message.payload().len();
        let mut places = Vec::with_capacity(8);
        for shard in shards.iter() {
            places.push((shard, self.mailboxes[usize::from(shard)].reserve(bytes)?));
        }
        Ok(places)
    }
}

fn fill(
    places: Vec<(u16, Place<'_>)>,
    from: Option<u16>,
    channel: &Channel,
    message: &Message,
    exclude: Option<Address>,
    receipt: Option<&Receipt>,
) {
    for (shard, place) in places {
        let command = for_shard(shard, channel, message, exclude, receipt);
        if from == Some(shard) { place.send_quietly(command) } else { place.send(command) }
    }
}

fn for_shard(
    shard: u16,
    channel: &Channel,
    message: &Message,
    exclude: Option<Address>,
    receipt: Option<&Receipt>,
) -> Command {
    Command::Publish(Publish {
        channel: channel.clone(),
        message: message.clone(),
        exclude: exclude.filter(|address| address.shard == shard),
        receipt: receipt.cloned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::mailbox::{Inbox, Wake, mailbox};
    use crate::message::Kind;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    fn board(shards: usize, commands: usize) -> (Switchboard, Vec<Inbox>) {
        let (mailboxes, inboxes) = (0..shards).map(|_| mailbox(commands, 1 << 20, Arc::new(Deaf))).unzip();
        (Switchboard::new(mailboxes), inboxes)
    }

    fn message() -> Message {
        Message::copy_from(Kind::Text, b"x")
    }

    #[test]
    fn a_set_of_shards_knows_its_first_and_last() {
        let mut set = ShardSet::default();
        assert!(set.insert(127));
        assert!(!set.insert(0));
        assert!(!set.insert(64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 127]);
        assert!(!set.remove(0));
        assert!(!set.remove(127));
        assert!(set.remove(64));
    }

    #[test]
    fn only_shards_with_a_subscriber_hear_a_publish() {
        let (board, mut inboxes) = board(3, 4);
        let channel = Channel::parse("room.1").unwrap();
        assert!(board.join(1, &channel));
        board.publish(None, &channel, &message(), None, None).unwrap();
        assert_eq!(inboxes.iter_mut().map(|i| i.take().is_some()).collect::<Vec<_>>(), [false, true, false]);
        assert!(board.leave(1, &channel));
        assert_eq!(board.channels(), 0);
        board.publish(None, &channel, &message(), None, None).unwrap();
        assert!(inboxes[1].take().is_none());
    }

    #[test]
    fn a_publish_reaches_all_mailboxes_or_none() {
        let (board, mut inboxes) = board(2, 1);
        let (both, one) = (Channel::parse("both").unwrap(), Channel::parse("one").unwrap());
        board.join(0, &both);
        board.join(1, &both);
        board.join(1, &one);
        board.publish(None, &one, &message(), None, None).unwrap();
        assert_eq!(board.publish(None, &both, &message(), None, None), Err(MailboxFull));
        assert!(inboxes[0].is_empty(), "the place taken in the first mailbox was given back");
        inboxes[1].take().unwrap();
        board.publish(None, &both, &message(), None, None).unwrap();
        assert!(inboxes.iter_mut().all(|inbox| inbox.take().is_some()));
    }

    #[derive(Default)]
    struct Heard(std::sync::Mutex<Vec<String>>);
    impl crate::beyond::Interest for Heard {
        fn changed(&self, channel: &Channel) {
            self.0.lock().unwrap().push(channel.to_string());
        }
    }

    #[test]
    fn what_lies_beyond_hears_of_first_and_last_subscribers_and_of_publishes_of_clients() {
        let (board, mut inboxes) = board(2, 4);
        let heard = Arc::new(Heard::default());
        let (to_bus, mut bus) = mailbox(1, 1 << 20, Arc::new(Deaf));
        let board = board.with_beyond(Arc::new(Beyond::new(Arc::<Heard>::clone(&heard), to_bus)));
        let room = Channel::parse("room").unwrap();
        board.join(0, &room);
        board.join(1, &room);
        board.leave(0, &room);
        assert_eq!(heard.0.lock().unwrap().len(), 1);
        board.publish(None, &room, &message(), None, None).unwrap();
        assert!(bus.is_empty(), "what came from there, or goes another way, does not go back");
        board.publish_everywhere(0, &room, &message(), None).unwrap();
        assert_eq!(board.publish_everywhere(0, &room, &message(), None), Err(MailboxFull));
        assert_eq!(inboxes[1].depth(), 2, "what found no place beyond the node found none here");
        assert!(matches!(bus.take(), Some(Command::Publish(Publish { exclude: None, .. }))));
        let mut all = Vec::new();
        board.each_channel(|channel| all.push(channel));
        assert_eq!(all.as_slice(), std::slice::from_ref(&room));
        board.leave(1, &room);
        assert_eq!(heard.0.lock().unwrap().len(), 2);
        assert!(inboxes[0].take().is_none());
    }
}
