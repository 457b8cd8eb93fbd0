//! The events of each connection, in their order: first those under way on a stream, then those that wait. Owns the
//! queues and their memory; refuses to know streams. An event is here until it is acknowledged or given up.
//!
//! Bounded by the shards' quotas: they hand out no more until something is settled.

use std::collections::{HashMap, VecDeque};

use bridge::inbound::{Occurrence, Settled};
use bridge::{Address, Inbound};

/// Queues of lanes that are empty keep room for so many events.
const KEPT_ROOM: usize = 4;

/// One connection's events.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) address: Address,
    pub(super) partition: u16,
    /// In the order of their sequence. The first `in_flight` are under way.
    items: VecDeque<Item>,
    pub(super) in_flight: u16,
    /// Whether it stands in its partition's line.
    pub(super) is_ready: bool,
    /// When it last moved: something was acknowledged, or sent when nothing was under way.
    pub(super) moved_ms: u64,
    /// Streams that ended in silence while it waited.
    pub(super) strikes: u8,
}

#[derive(Debug)]
struct Item {
    inbound: Inbound,
    /// On its stream; meaningful while under way.
    position: u64,
    was_sent: bool,
}

/// All lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    slots: Vec<Lane>,
    free: Vec<u32>,
    by_address: HashMap<Address, u32>,
    events: usize,
}

/// An event about to be sent.
pub(super) struct Departure<'a> {
    pub(super) inbound: &'a Inbound,
    pub(super) again: bool,
}

impl Lanes {
    /// Events held.
    pub(super) const fn events(&self) -> usize {
        self.events
    }

    /// Lanes with events.
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Adds an event to its connection's lane, which it returns.
    pub(super) fn push(&mut self, inbound: Inbound) -> u32 {
        let (address, partition) = (inbound.address, inbound.partition);
        let item = Item { inbound, position: 0, was_sent: false };
        self.events += 1;
        if let Some(number) = self.by_address.get(&address) {
            self.slots[*number as usize].items.push_back(item);
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Lane::vacant(address));
            (self.slots.len() - 1) as u32
        });
        let lane = &mut self.slots[number as usize];
        debug_assert!(lane.items.is_empty() && lane.in_flight == 0 && !lane.is_ready);
        (lane.address, lane.partition, lane.strikes) = (address, partition, 0);
        lane.items.push_back(item);
        self.by_address.insert(address, number);
        number
    }

    pub(super) fn lane(&self, number: u32) -> &Lane {
        &self.slots[number as usize]
    }

    pub(super) fn lane_mut(&mut self, number: u32) -> &mut Lane {
        &mut self.slots[number as usize]
    }

    /// Numbers of all lanes with events.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.slots).filter(|(_, lane)| !lane.items.is_empty()).map(|(number, _)| number)
    }

    /// The event at this position of its stream is done. The number may be another connection's from now on.
    pub(super) fn acknowledge(&mut self, number: u32, position: u64, now_ms: u64) -> Option<Settled> {
        let lane = &mut self.slots[number as usize];
        let place =
            lane.items.range(..usize::from(lane.in_flight)).position(|item| item.position == position)?;
        let item = lane.items.remove(place)?;
        lane.in_flight -= 1;
        lane.moved_ms = now_ms;
        lane.strikes = 0;
        self.events -= 1;
        self.release_if_empty(number);
        Some(item.inbound.settled())
    }

    /// Gives up what is under way, and messages that wait behind it; a closed event that waits stays. Returns what is
    /// settled thereby. The caller has taken its positions off the stream.
    pub(super) fn give_up(&mut self, number: u32, mut settle: impl FnMut(Settled)) {
        let lane = &mut self.slots[number as usize];
        let in_flight = usize::from(std::mem::take(&mut lane.in_flight));
        let before = lane.items.len();
        let mut place = 0;
        lane.items.retain(|item| {
            place += 1;
            let stays = place > in_flight && matches!(item.inbound.occurrence, Occurrence::Closed { .. });
            if !stays {
                settle(item.inbound.settled());
            }
            stays
        });
        self.events -= before - lane.items.len();
        lane.strikes = 0;
        self.release_if_empty(number);
    }

    /// What has to hold of the slots.
    pub(super) fn audit(&self) -> Result<(), String> {
        let events: usize = self.slots.iter().map(|lane| lane.items.len()).sum();
        if events != self.events {
            return Err(format!("{events} events, {} counted", self.events));
        }
        if self.by_address.len() + self.free.len() != self.slots.len() {
            return Err(format!(
                "{} lanes, {} named, {} free",
                self.slots.len(),
                self.by_address.len(),
                self.free.len()
            ));
        }
        let is_lost = |(address, number): (&Address, &u32)| {
            let lane = &self.slots[*number as usize];
            lane.address != *address || (lane.items.is_empty() && !lane.is_ready)
        };
        match self.by_address.iter().find(|entry| is_lost(*entry)) {
            Some((address, _)) => Err(format!("the lane of {address:?} is not its own")),
            None => Ok(()),
        }
    }

    fn release_if_empty(&mut self, number: u32) {
        let lane = &mut self.slots[number as usize];
        // One that stands in a line is released by whoever calls it.
        if !lane.items.is_empty() || lane.is_ready {
            return;
        }
        if lane.items.capacity() > KEPT_ROOM {
            lane.items = VecDeque::new();
        }
        if self.by_address.remove(&lane.address).is_some() {
            self.free.push(number);
        }
    }

    /// The lane was called and no longer stands in a line.
    pub(super) fn called(&mut self, number: u32) {
        self.slots[number as usize].is_ready = false;
        self.release_if_empty(number);
    }
}

impl Lane {
    const fn vacant(address: Address) -> Self {
        Self {
            address,
            partition: 0,
            items: VecDeque::new(),
            in_flight: 0,
            is_ready: false,
            moved_ms: 0,
            strikes: 0,
        }
    }

    /// Whether something waits to be sent, and the connection's window has room for it.
    pub(super) fn can_send(&self, window: u16) -> bool {
        self.in_flight < window && usize::from(self.in_flight) < self.items.len()
    }

    /// Payload bytes of the next event to be sent.
    pub(super) fn next_bytes(&self) -> u32 {
        self.items.get(usize::from(self.in_flight)).map_or(0, |item| item.inbound.payload_bytes())
    }

    /// Sends the next event at this position.
    pub(super) fn depart(&mut self, position: u64, now_ms: u64) -> Option<Departure<'_>> {
        if self.in_flight == 0 {
            self.moved_ms = now_ms;
        }
        let item = self.items.get_mut(usize::from(self.in_flight))?;
        item.position = position;
        let again = std::mem::replace(&mut item.was_sent, true);
        self.in_flight += 1;
        Some(Departure { inbound: &item.inbound, again })
    }

    /// What was under way is not any more: the stream is gone.
    pub(super) fn recall(&mut self) {
        self.in_flight = 0;
    }

    /// Payload bytes under way.
    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.items
            .range(..usize::from(self.in_flight))
            .map(|item| u64::from(item.inbound.payload_bytes()))
            .sum()
    }
}
