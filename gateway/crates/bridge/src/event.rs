//! What a shard tells the rest of the program: a bounded outbox, emptied in batches.
//!
//! At the bound the shard keeps what it has and stops making more: a record stays in its table until the outbox
//! has taken its ending, so an ending is never lost.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::authorize::Authorize;
use crate::command::Traffic;
use crate::ending::EndReason;
use crate::id::Address;
use crate::inbound::Inbound;
use crate::limited::Limited;
use crate::principal::Principal;

/// Something that happened to a connection.
#[derive(Debug)]
pub enum Event {
    /// It had been opened and has ended.
    Ended(Ending),
    /// A peer hit a limit, so often in about a second.
    Limited(Limited),
    /// Something for app servers.
    Inbound(Inbound),
    /// Somebody asks to come in; [`crate::Command::Authorized`] is the answer.
    Authorize(Box<Authorize>),
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Which connection.
    pub address: Address,
    /// Whose: the address that limits see (an IPv6 one is the first address of its /64).
    pub peer: IpAddr,
    /// Number of its route.
    pub route: u16,
    /// What app servers have said of it.
    pub principal: Option<Arc<Principal>>,
    /// Why.
    pub reason: EndReason,
    /// Ticks of 100 ms from accept to end.
    pub age_ticks: u32,
    /// What it moved.
    pub traffic: Traffic,
    /// The close code we sent.
    pub sent_code: Option<u16>,
    /// The close code we received.
    pub received_code: Option<u16>,
}

/// Some events of one shard.
#[derive(Debug)]
pub struct Batch {
    /// Which shard.
    pub shard: u16,
    /// In the order they happened.
    pub events: Vec<Event>,
}

/// No room until the next flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

/// A batch of so many events does not wait for the next tick.
const RIPE_EVENTS: usize = 256;

/// What a shard sends out, gathered over a turn or, when nothing in it is urgent, over a tick.
pub struct Outbox {
    shard: u16,
    events: Vec<Event>,
    events_max: usize,
    sender: mpsc::Sender<Batch>,
    /// Somebody waits for one of them.
    urgent: bool,
    /// Tick at which the oldest of them was pushed.
    since: u32,
}

impl Outbox {
    /// An outbox that gathers at most `events_max` events between two batches taken by `sender`'s other end.
    #[must_use]
    pub const fn new(shard: u16, events_max: usize, sender: mpsc::Sender<Batch>) -> Self {
        Self { shard, events: Vec::new(), events_max, sender, urgent: false, since: 0 }
    }

    /// Adds an event at this tick.
    ///
    /// # Errors
    /// [`OutboxFull`]; try again after a flush that succeeded.
    pub fn push(&mut self, now: u32, event: Event) -> Result<(), OutboxFull> {
        if !self.has_room() {
            return Err(OutboxFull);
        }
        if self.events.is_empty() {
            self.since = now;
        }
        self.urgent |= matches!(event, Event::Inbound(_) | Event::Authorize(_));
        self.events.push(event);
        Ok(())
    }

    /// Whether an event fits.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.events.len() < self.events_max
    }

    /// Events that nobody has taken.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing waits for a flush.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether the batch should go now: somebody waits for it, or it has waited a tick, or is large. An ending is news for
    /// a log, and waking its reader for each one would cost more than the ending did.
    #[must_use]
    pub const fn is_ripe(&self, now: u32) -> bool {
        !self.events.is_empty() && (self.urgent || now != self.since || self.events.len() >= RIPE_EVENTS)
    }

    /// Hands the batch over. Returns `false` when the other end has no room; the events stay.
    pub fn flush(&mut self) -> bool {
        if self.events.is_empty() {
            return true;
        }
        match self.sender.try_reserve() {
            Ok(place) => {
                self.urgent = false;
                place.send(Batch { shard: self.shard, events: std::mem::take(&mut self.events) });
                true
            }
            Err(mpsc::error::TrySendError::Full(())) => false,
            // Nobody is left to tell: the program is ending, and events must not hold that up.
            Err(mpsc::error::TrySendError::Closed(())) => {
                self.urgent = false;
                self.events.clear();
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event() -> Event {
        Event::Ended(Ending {
            address: Address { shard: 0, slot: 0, generation: 1 },
            peer: IpAddr::from([127, 0, 0, 1]),
            route: 0,
            principal: None,
            reason: EndReason::ClientClose,
            age_ticks: 0,
            traffic: Traffic::default(),
            sent_code: None,
            received_code: None,
        })
    }

    #[test]
    fn a_full_outbox_keeps_what_it_has() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outbox = Outbox::new(0, 2, sender);
        outbox.push(1, event()).unwrap();
        assert!(outbox.flush(), "the first batch is taken");
        outbox.push(1, event()).unwrap();
        outbox.push(1, event()).unwrap();
        assert_eq!(outbox.push(1, event()), Err(OutboxFull));
        assert!(!outbox.flush(), "the other end has not taken the first");
        assert_eq!(receiver.try_recv().unwrap().events.len(), 1);
        assert!(outbox.flush());
        assert_eq!(receiver.try_recv().unwrap().events.len(), 2);
    }
}
