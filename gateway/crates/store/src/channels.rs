//! Who listens to what, from both ends: the subscribers of a channel, and the channels of a connection.
//!
//! A subscription is one 20-byte slot that sits in two lists: its channel's, linked both ways so that leaving costs the same
//! in a crowd, and its connection's, linked one way because that one is short and has to be searched for repeats anyway.
//! A channel exists while it has subscribers. Owns lists, names and the cursor of each channel's fan-out; refuses to know what
//! a name may look like, what is sent and who may join. Called by the shard: transports and mail join and leave, `close`
//! leaves everything, fan-out walks.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use crate::arena::{Arena, Vacancy};
use crate::conns::NONE;
use crate::generation::Generations;

/// Parts of the name table, each growing by itself: growth stalls the shard for a 64th of the names at a time.
const PARTS: usize = 64;

/// Names one channel for as long as it has subscribers, and none afterwards.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct ChannelIndex {
    index: u32,
    generation: NonZeroU32,
}

impl ChannelIndex {
    /// A number that is this channel's alone, for the frames that wait in backlogs; never [`NONE`].
    pub fn tag(self) -> u32 {
        self.generation.get()
    }
}

/// How a subscription went well.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Joined {
    /// The channel came into being: somebody outside may have to be told.
    First(ChannelIndex),
    /// One more subscriber of a channel that exists.
    Another(ChannelIndex),
    /// It was subscribed; nothing changed.
    Already,
}

/// Why a subscription failed; nothing has changed then.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Refused {
    /// The connection has as many as it may have.
    TooMany,
    /// The channel would be one too many.
    ChannelsFull,
    /// No subscription is left.
    SubscriptionsFull,
}

/// What leaving a channel came to.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Left {
    /// It was the last subscriber: the channel of this name is gone.
    Last(Arc<str>),
    /// Others are still there.
    Still,
    /// It was not subscribed; nothing changed.
    NotSubscribed,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    generation: NonZeroU32,
    /// First of its list. Never [`NONE`] between calls.
    head: u32,
    /// The subscription that the walk comes to next; [`NONE`] when no walk is on.
    cursor: u32,
    subscribers: u32,
}

#[derive(Copy, Clone, Debug)]
struct Subscription {
    channel: u32,
    conn: u32,
    channel_prev: u32,
    channel_next: u32,
    conn_next: u32,
}

impl Vacancy for Subscription {
    fn vacant(next: u32) -> Self {
        Subscription { channel: NONE, conn: NONE, channel_prev: NONE, channel_next: NONE, conn_next: next }
    }

    fn next_vacant(&self) -> u32 {
        self.conn_next
    }
}

/// All channels and subscriptions of one shard.
///
/// A connection keeps the head of its list in its record (`first_subscription`, [`NONE`] at first) and lends it to every call.
#[derive(Debug)]
pub struct Channels {
    channels: Slab<Channel>,
    subscriptions: Arena<Subscription>,
    /// Slots of channels by name. Bare indices: the names are in the slots.
    names: Box<[HashTable<u32>]>,
    hasher: RandomState,
    generations: Generations,
    capacity: u32,
    /// One past the highest slot ever used by a channel.
    end: u32,
}

/// Joining and leaving.
impl Channels {
    /// Reserves address space for so many channels and subscriptions; the name table grows in small steps.
    ///
    /// # Panics
    /// When a capacity is [`NONE`].
    pub fn new(capacity_channels: u32, capacity_subscriptions: u32) -> Self {
        assert!(capacity_channels < NONE, "an index must differ from NONE");
        Channels {
            channels: Slab::with_capacity(capacity_channels as usize),
            subscriptions: Arena::new(capacity_subscriptions),
            names: (0..PARTS).map(|_| HashTable::new()).collect(),
            hasher: RandomState::new(),
            generations: Generations::default(),
            capacity: capacity_channels,
            end: 0,
        }
    }

    /// Subscribes the connection at slot `conn`, whose list starts at `first`, unless it has `most` subscriptions already.
    /// Costs a look at each of those. Who joins during a walk is not met by it.
    ///
    /// # Errors
    /// The bound in the way; nothing has changed then.
    pub fn subscribe(
        &mut self,
        name: &Arc<str>,
        conn: u32,
        first: &mut u32,
        most: u32,
    ) -> Result<Joined, Refused> {
        let found = self.slot_of(name);
        let mut count = 0;
        for (_, subscription) in self.list_of(*first) {
            debug_assert_eq!(subscription.conn, conn);
            if Some(subscription.channel) == found {
                return Ok(Joined::Already);
            }
            count += 1;
        }
        if count >= most {
            return Err(Refused::TooMany);
        }
        if self.subscriptions.is_full() {
            return Err(Refused::SubscriptionsFull);
        }
        let slot = match found {
            Some(slot) => slot,
            None => self.create(name).ok_or(Refused::ChannelsFull)?,
        };
        self.link(slot, conn, first)?;
        let channel = self.index_of(slot);
        Ok(if found.is_some() { Joined::Another(channel) } else { Joined::First(channel) })
    }

    /// Ends one subscription of a connection. Costs a look at each it has.
    pub fn unsubscribe(&mut self, name: &str, conn: u32, first: &mut u32) -> Left {
        let Some(slot) = self.slot_of(name) else { return Left::NotSubscribed };
        let mut before = NONE;
        let found = self.list_of(*first).find(|(index, subscription)| {
            let found = subscription.channel == slot;
            if !found {
                before = *index;
            }
            found
        });
        let Some((index, subscription)) = found else { return Left::NotSubscribed };
        debug_assert_eq!(subscription.conn, conn);
        if before == NONE {
            *first = subscription.conn_next;
        } else {
            self.subscriptions[before].conn_next = subscription.conn_next;
        }
        self.unlink(index)
    }

    /// Ends the first subscription in a connection's list, or says `None` when there is none. Called until then when a
    /// connection ends, under a budget if it has many.
    pub fn leave_one(&mut self, conn: u32, first: &mut u32) -> Option<Left> {
        let index = *first;
        if index == NONE {
            return None;
        }
        debug_assert_eq!(self.subscriptions[index].conn, conn);
        *first = self.subscriptions[index].conn_next;
        Some(self.unlink(index))
    }
}

/// Walking a channel for fan-out: one walk per channel at a time, in as many steps as the caller likes.
///
/// Everybody who is subscribed from its start to its end is met exactly once, whoever joins or leaves meanwhile.
impl Channels {
    /// Starts at the newest subscriber and says how many there are; 0 if the channel is gone.
    pub fn start_walk(&mut self, channel: ChannelIndex) -> u32 {
        let Some(channel) = self.channel_mut(channel) else { return 0 };
        debug_assert!(channel.cursor == NONE, "one walk at a time");
        channel.cursor = channel.head;
        channel.subscribers
    }

    /// The next subscriber's slot; `None` when the walk is over, was never started, or lost its channel.
    pub fn walk(&mut self, channel: ChannelIndex) -> Option<u32> {
        let slot = self.channels.get_mut(channel.index as usize)?;
        if slot.generation != channel.generation || slot.cursor == NONE {
            return None;
        }
        let subscription = &self.subscriptions[slot.cursor];
        slot.cursor = subscription.channel_next;
        Some(subscription.conn)
    }

    /// Whether the walk has somebody left to meet.
    pub fn walking(&self, channel: ChannelIndex) -> bool {
        self.channel(channel).is_some_and(|channel| channel.cursor != NONE)
    }
}

/// Looking things up.
impl Channels {
    /// The channel of this name, if anybody is subscribed to it.
    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        self.slot_of(name).map(|slot| self.index_of(slot))
    }

    /// How many are subscribed; 0 if the channel is gone.
    pub fn subscribers(&self, channel: ChannelIndex) -> u32 {
        self.channel(channel).map_or(0, |channel| channel.subscribers)
    }

    /// The channel's name, unless it is gone.
    pub fn name(&self, channel: ChannelIndex) -> Option<&Arc<str>> {
        self.channel(channel).map(|channel| &channel.name)
    }

    /// The slots of a channel's subscribers, newest first, without touching its walk. Not for fan-out, which has to stop and
    /// go on; for tests and for looking.
    pub fn members(&self, channel: ChannelIndex) -> impl Iterator<Item = u32> {
        let mut index = self.channel(channel).map_or(NONE, |channel| channel.head);
        std::iter::from_fn(move || {
            let subscription = (index != NONE).then(|| self.subscriptions[index])?;
            index = subscription.channel_next;
            Some(subscription.conn)
        })
    }

    /// The channels of a connection whose list starts at `first`, newest first.
    pub fn of(&self, first: u32) -> impl Iterator<Item = ChannelIndex> {
        self.list_of(first).map(|(_, subscription)| self.index_of(subscription.channel))
    }

    /// Whether a connection whose list starts at `first` is subscribed to this name.
    pub fn is_subscribed(&self, name: &str, first: u32) -> bool {
        self.slot_of(name)
            .is_some_and(|slot| self.list_of(first).any(|(_, subscription)| subscription.channel == slot))
    }

    /// The names of all channels, to subscribe again where that was lost.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.channels.iter().map(|(_, channel)| &channel.name)
    }

    /// Slot, name and subscribers of the channels in a range of slots: a slice of a walk over all of them, which is over at
    /// [`Channels::end`].
    pub fn slots(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = (u32, &Arc<str>, u32)> {
        (slots.start..slots.end.min(self.end)).filter_map(|slot| {
            self.channels.get(slot as usize).map(|channel| (slot, &channel.name, channel.subscribers))
        })
    }

    /// One past the highest slot ever used by a channel.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Channels with subscribers.
    pub fn len(&self) -> u32 {
        self.channels.len() as u32
    }

    /// Whether nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Subscriptions in all.
    pub fn subscriptions(&self) -> u32 {
        self.subscriptions.len()
    }
}

impl Channels {
    fn channel(&self, channel: ChannelIndex) -> Option<&Channel> {
        self.channels.get(channel.index as usize).filter(|found| found.generation == channel.generation)
    }

    fn channel_mut(&mut self, channel: ChannelIndex) -> Option<&mut Channel> {
        self.channels.get_mut(channel.index as usize).filter(|found| found.generation == channel.generation)
    }

    fn index_of(&self, slot: u32) -> ChannelIndex {
        ChannelIndex { index: slot, generation: self.channels[slot as usize].generation }
    }

    fn list_of(&self, first: u32) -> impl Iterator<Item = (u32, Subscription)> {
        let mut index = first;
        std::iter::from_fn(move || {
            let found = (index != NONE).then(|| (index, self.subscriptions[index]))?;
            index = found.1.conn_next;
            Some(found)
        })
    }

    fn slot_of(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let is_named = |&slot: &u32| *self.channels[slot as usize].name == *name;
        self.names[part_of(hash)].find(hash, is_named).copied()
    }

    /// A channel without subscribers, which the caller must give one; `None` when there are too many.
    fn create(&mut self, name: &Arc<str>) -> Option<u32> {
        if self.len() >= self.capacity {
            return None;
        }
        let slot = self.channels.insert(Channel {
            name: Arc::clone(name),
            generation: self.generations.next(),
            head: NONE,
            cursor: NONE,
            subscribers: 0,
        }) as u32;
        self.end = self.end.max(slot + 1);
        let (channels, hasher) = (&self.channels, &self.hasher);
        let hash_of = |&slot: &u32| hasher.hash_one(&*channels[slot as usize].name);
        let hash = hash_of(&slot);
        self.names[part_of(hash)].insert_unique(hash, slot, hash_of);
        Some(slot)
    }

    /// Puts a new subscription in front of both lists: behind the cursor, wherever that is.
    fn link(&mut self, slot: u32, conn: u32, first: &mut u32) -> Result<(), Refused> {
        let channel = &mut self.channels[slot as usize];
        let subscription = Subscription {
            channel: slot,
            conn,
            channel_prev: NONE,
            channel_next: channel.head,
            conn_next: *first,
        };
        let index = self.subscriptions.insert(subscription).ok_or(Refused::SubscriptionsFull)?;
        if channel.head != NONE {
            self.subscriptions[channel.head].channel_prev = index;
        }
        channel.head = index;
        channel.subscribers += 1;
        *first = index;
        Ok(())
    }

    /// Takes a subscription that has left its connection's list out of its channel's, and the channel away with the last.
    fn unlink(&mut self, index: u32) -> Left {
        let Subscription { channel: slot, channel_prev, channel_next, .. } = self.subscriptions.remove(index);
        let channel = &mut self.channels[slot as usize];
        if channel_prev == NONE {
            channel.head = channel_next;
        } else {
            self.subscriptions[channel_prev].channel_next = channel_next;
        }
        if channel_next != NONE {
            self.subscriptions[channel_next].channel_prev = channel_prev;
        }
        if channel.cursor == index {
            channel.cursor = channel_next;
        }
        channel.subscribers -= 1;
        if channel.head != NONE {
            return Left::Still;
        }
        Left::Last(self.destroy(slot))
    }

    fn destroy(&mut self, slot: u32) -> Arc<str> {
        let name = self.channels.remove(slot as usize).name;
        let hash = self.hasher.hash_one(&*name);
        match self.names[part_of(hash)].find_entry(hash, |&found| found == slot) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => debug_assert!(false, "a channel without a name"),
        }
        name
    }
}

/// By the middle of the hash: the table itself goes by both ends.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subscription_is_20_bytes_and_a_channel_slot_32() {
        let mut channels = Channels::new(2, 2);
        let mut first = NONE;
        channels.subscribe(&"a".into(), 0, &mut first, 2).unwrap();
        channels.subscribe(&"b".into(), 0, &mut first, 2).unwrap();
        let channel_stride =
            &raw const channels.channels[1] as usize - &raw const channels.channels[0] as usize;
        let subscription_stride =
            &raw const channels.subscriptions[1] as usize - &raw const channels.subscriptions[0] as usize;
        assert_eq!((channel_stride, subscription_stride), (32, 20));
    }
}
