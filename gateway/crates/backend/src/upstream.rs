//! What an upstream's task works with: the feed of events, and the way to tell shards what is off its hands.
//!
//! Owns no policy: what may be under way is the shards' quota, so a feed that is read holds no more than that, and what
//! waits to be settled is bounded by it, too. Called by the tasks of backends and buses.

use bridge::inbound::Settled;
use bridge::{Authorize, Command, Inbound, Mailbox, Upstream};
use tokio::sync::mpsc;

/// Batches that may wait for an upstream's task. A task that does not read stops the pump, and with it the shards.
const BATCHES_MAX: usize = 64;
/// Connections in one command; the rest goes in the next.
const SETTLED_PER_COMMAND: usize = 1024;

/// Events of one shard for one upstream, in the order they happened.
pub type Feed = mpsc::Receiver<Vec<Inbound>>;
/// Requests that wait for a decision. The shards' bound of handshakes bounds what is under way.
pub type Questions = mpsc::Receiver<Box<Authorize>>;

/// The pump's ends of one upstream.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Takes its events.
    pub events: mpsc::Sender<Vec<Inbound>>,
    /// Takes requests that it decides on.
    pub questions: mpsc::Sender<Box<Authorize>>,
}

impl Intake {
    /// An intake and the two ends that an upstream's tasks read.
    #[must_use]
    pub fn new() -> (Self, Feed, Questions) {
        let (events, feed) = mpsc::channel(BATCHES_MAX);
        let (ask, questions) = mpsc::channel(BATCHES_MAX);
        (Self { events, questions: ask }, feed, questions)
    }
}

/// Gathers what is settled, and tells the shards.
pub struct Settler {
    upstream: Upstream,
    mailboxes: Vec<Mailbox>,
    /// By shard. What came in a row of one connection is one entry.
    waiting: Vec<Vec<Settled>>,
}

impl Settler {
    /// A settler of this upstream, with the mailboxes by shard.
    #[must_use]
    pub fn new(upstream: Upstream, mailboxes: &[Mailbox]) -> Self {
        let waiting = mailboxes.iter().map(|_| Vec::new()).collect();
        Self { upstream, mailboxes: mailboxes.to_vec(), waiting }
    }

    /// Notes that so much is off the upstream's hands.
    pub fn settle(&mut self, settled: Settled) {
        let Some(waiting) = self.waiting.get_mut(usize::from(settled.address.shard)) else {
            debug_assert!(false, "only what a shard handed out is settled");
            return;
        };
        if let Some(last) = waiting.last_mut()
            && last.address == settled.address
            && let (Some(events), Some(messages)) =
                (last.events.checked_add(settled.events), last.messages.checked_add(settled.messages))
        {
            (last.events, last.messages) = (events, messages);
            last.bytes = last.bytes.saturating_add(settled.bytes);
        } else {
            waiting.push(settled);
        }
    }

    /// Tells the shards, as far as their mailboxes have room. Whether all is told; if not, call again in a few
    /// milliseconds.
    pub fn flush(&mut self) -> bool {
        let mut is_all_told = true;
        for (mailbox, waiting) in self.mailboxes.iter().zip(&mut self.waiting) {
            while !waiting.is_empty() {
                let Ok(place) = mailbox.reserve(0) else {
                    is_all_told = false;
                    break;
                };
                let settled = if waiting.len() <= SETTLED_PER_COMMAND {
                    std::mem::take(waiting)
                } else {
                    waiting.drain(..SETTLED_PER_COMMAND).collect()
                };
                place.send(Command::Settle { upstream: self.upstream, settled });
            }
        }
        is_all_told
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bridge::mailbox::{Wake, mailbox};
    use bridge::{Address, Inbox};

    use super::*;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    fn settled(shard: u16, slot: u32) -> Settled {
        let address = Address { shard, slot, generation: 1 };
        Settled { address, partition: 0, events: 1, messages: 1, bytes: 10 }
    }

    fn take(inbox: &mut Inbox) -> Vec<Settled> {
        match inbox.take() {
            Some(Command::Settle { upstream: Upstream(3), settled }) => settled,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_full_mailbox_does_not_take_is_told_later() {
        let (mailboxes, mut inboxes): (Vec<_>, Vec<_>) =
            (0..2).map(|_| mailbox(1, 1000, Arc::new(Deaf))).unzip();
        let mut settler = Settler::new(Upstream(3), &mailboxes);
        settler.settle(settled(0, 1));
        settler.settle(settled(0, 1));
        settler.settle(settled(1, 7));
        assert!(settler.flush());
        settler.settle(settled(0, 2));
        assert!(!settler.flush(), "nobody has looked into the mailbox");
        settler.settle(settled(0, 3));
        let first = take(&mut inboxes[0]);
        assert_eq!((first.len(), first[0].events, first[0].messages, first[0].bytes), (1, 2, 2, 20));
        assert!(settler.flush());
        assert_eq!(take(&mut inboxes[0]).iter().map(|one| one.address.slot).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(take(&mut inboxes[1]).len(), 1);
    }

    #[test]
    fn a_crowd_is_told_in_commands_of_a_size() {
        let (mailbox, mut inbox) = mailbox(8, 1000, Arc::new(Deaf));
        let mut settler = Settler::new(Upstream(3), &[mailbox]);
        (0..3000).for_each(|slot| settler.settle(settled(0, slot)));
        assert!(settler.flush());
        let sizes: Vec<usize> = (0..3).map(|_| take(&mut inbox).len()).collect();
        assert_eq!(sizes, [1024, 1024, 952]);
    }
}
