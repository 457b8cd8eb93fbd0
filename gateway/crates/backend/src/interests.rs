//! Which channels the node began or ceased to care for since a bus last asked: filled by shards, emptied by the bus's
//! task every few milliseconds, so that a storm of joins is a few large rounds and who came and left in between is
//! none at all.
//!
//! Bounded: beyond its capacity it keeps only that anything may have changed. Refuses to say which way a change went:
//! the switchboard knows that.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bridge::{Channel, Interest, Switchboard};
use tokio::sync::{Notify, watch};

/// What is gathered before a bus hears of it. Long enough for a storm to become few rounds, and nobody feels it.
const GATHERING: Duration = Duration::from_millis(3);

/// The set of channels that may have changed.
pub struct Interests {
    dirty: Mutex<Dirty>,
    notify: Notify,
    capacity: usize,
    /// Of the changes ever noted, how many the bus has followed.
    followed: watch::Sender<u64>,
}

#[derive(Default)]
struct Dirty {
    channels: HashSet<Channel>,
    is_everything: bool,
    /// Changes ever.
    noted: u64,
    /// Of these, those that the bus was told of.
    told: u64,
}

/// What a bus has to look at.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These channels.
    Some(HashSet<Channel>),
    /// All of the switchboard, and all that the bus has subscribed to.
    Everything,
}

impl Interests {
    /// An empty set for so many channels.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { dirty: Mutex::default(), notify: Notify::new(), capacity, followed: watch::Sender::new(0) }
    }

    /// Waits for changes, and a little for more of them. Nothing is lost when it is dropped half-way.
    pub async fn changes(&self) -> Changes {
        loop {
            if self.is_dirty() {
                tokio::time::sleep(GATHERING).await;
                return self.take();
            }
            self.notify.notified().await;
        }
    }

    /// Makes the next round one over everything: the bus was away, or is new.
    pub fn look_at_everything(&self) {
        self.lock().is_everything = true;
        self.notify.notify_one();
    }

    /// The bus has done what the changes ask for which it was told last.
    pub fn has_followed(&self) {
        let told = self.lock().told;
        self.followed.send_replace(told);
    }

    /// Changes ever noted: who waits until so many are [followed](Self::followed) finds the bus subscribed.
    #[must_use]
    pub fn noted(&self) -> u64 {
        self.lock().noted
    }

    /// Of the changes ever noted, how many the bus has followed.
    #[must_use]
    pub fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    fn is_dirty(&self) -> bool {
        let dirty = self.lock();
        dirty.is_everything || !dirty.channels.is_empty()
    }

    fn take(&self) -> Changes {
        let mut dirty = self.lock();
        dirty.told = dirty.noted;
        let channels = std::mem::take(&mut dirty.channels);
        if std::mem::take(&mut dirty.is_everything) { Changes::Everything } else { Changes::Some(channels) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interest for Interests {
    fn changed(&self, channel: &Channel) {
        let mut dirty = self.lock();
        dirty.noted += 1;
        if dirty.is_everything {
            return;
        }
        let was_clean = dirty.channels.is_empty();
        if dirty.channels.len() >= self.capacity {
            (dirty.channels, dirty.is_everything) = (HashSet::new(), true);
        } else {
            dirty.channels.insert(channel.clone());
        }
        drop(dirty);
        if was_clean {
            self.notify.notify_one();
        }
    }
}

/// What to do so that a bus is subscribed to just what the node cares for: channels to begin, and channels to end.
/// `subscribed` are those that the bus has.
#[must_use]
pub fn reconcile(
    switchboard: &Switchboard,
    changes: Changes,
    is_subscribed: impl Fn(&Channel) -> bool,
    subscribed: impl Iterator<Item = Channel>,
) -> (Vec<Channel>, Vec<Channel>) {
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    match changes {
        Changes::Some(channels) => {
            for channel in channels {
                match (switchboard.shards(&channel).is_empty(), is_subscribed(&channel)) {
                    (false, false) => begin.push(channel),
                    (true, true) => end.push(channel),
                    _ => {}
                }
            }
        }
        Changes::Everything => {
            end.extend(subscribed.filter(|channel| switchboard.shards(channel).is_empty()));
            switchboard.each_channel(|channel| {
                if !is_subscribed(&channel) {
                    begin.push(channel);
                }
            });
        }
    }
    (begin, end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bridge::mailbox::{Wake, mailbox};

    use super::*;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    fn board() -> Switchboard {
        Switchboard::new((0..2).map(|_| mailbox(1, 1, Arc::new(Deaf)).0).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_and_leaves_within_a_round_costs_no_operation() {
        let (interests, board) = (Interests::new(10), board());
        board.join(0, &channel("stays"));
        for name in ["stays", "passes", "passes"] {
            interests.changed(&channel(name));
        }
        let changes = interests.changes().await;
        let (begin, end) = reconcile(&board, changes, |_| false, std::iter::empty());
        assert_eq!((begin, end), (vec![channel("stays")], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_its_bound_everything_is_looked_at() {
        let (interests, board) = (Interests::new(2), board());
        board.join(1, &channel("here"));
        (0..9).for_each(|n| interests.changed(&channel(&format!("c.{n}"))));
        let changes = interests.changes().await;
        assert_eq!(changes, Changes::Everything);
        let had = ["gone", "kept"].map(channel);
        board.join(0, &channel("kept"));
        let (begin, end) = reconcile(&board, changes, |one| had.contains(one), had.iter().cloned());
        assert_eq!((begin, end), (vec![channel("here")], vec![channel("gone")]));
    }
}
