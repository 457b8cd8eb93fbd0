//! One partition of inbound events on its way into JetStream: of each connection one event at a time, and of many
//! connections at once.
//!
//! A publish can fail where a later one succeeds, so a second event of a connection leaves only when the first is in the
//! stream; between connections there is no order to keep. Whose publish was refused tries again alone
//! (`patience`). Refuses to know how an event gets there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bridge::inbound::Settled;
use bridge::{Address, Inbound};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::inbound::Teller;
use super::patience::Patience;

/// Events that a partition takes out of its channel, under way or behind one that is.
const HELD_MAX: usize = 64;

/// Events that all partitions together have under way, at most.
pub(super) fn under_way_max(partitions: u16) -> usize {
    usize::from(partitions.max(1)) * HELD_MAX
}

/// Who has an event under way, and what waits behind it.
#[derive(Default)]
struct Turns {
    behind: HashMap<Address, VecDeque<Inbound>>,
    held: usize,
}

impl Turns {
    /// Takes an event in, and gives it back if it may leave at once.
    fn take_in(&mut self, inbound: Inbound) -> Option<Inbound> {
        self.held += 1;
        if let Some(behind) = self.behind.get_mut(&inbound.address) {
            behind.push_back(inbound);
            return None;
        }
        self.behind.insert(inbound.address, VecDeque::new());
        Some(inbound)
    }

    /// The event of this connection that was under way is off our hands. The next one.
    fn next(&mut self, of: Address) -> Option<Inbound> {
        self.held -= 1;
        let next = self.behind.get_mut(&of)?.pop_front();
        if next.is_none() {
            self.behind.remove(&of);
        }
        next
    }

    const fn has_room(&self) -> bool {
        self.held < HELD_MAX
    }
}

/// Runs until there are no more events and none is under way.
pub(super) async fn run(
    teller: Arc<Teller>,
    mut events: mpsc::Receiver<Inbound>,
    done: mpsc::Sender<Settled>,
) {
    let patience = Patience::new();
    let deliver = |inbound: Inbound| {
        let (teller, patience) = (&teller, &patience);
        async move {
            teller.until_stored(&inbound, patience).await;
            inbound
        }
    };
    let mut turns = Turns::default();
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !under_way.is_empty() {
        tokio::select! {
            inbound = events.recv(), if is_open && turns.has_room() => match inbound {
                Some(inbound) => under_way.extend(turns.take_in(inbound).map(deliver)),
                None => is_open = false,
            },
            Some(inbound) = under_way.next(), if !under_way.is_empty() => {
                under_way.extend(turns.next(inbound.address).map(deliver));
                if done.send(inbound.settled()).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use bridge::Kind;
    use bridge::inbound::Occurrence;
    use bridge::message::Bytes;

    use super::*;

    fn event(slot: u32, sequence: u32) -> Inbound {
        Inbound {
            upstream: crate::joint::BUS,
            partition: 0,
            address: Address { shard: 0, slot, generation: 1 },
            route: 0,
            sequence,
            principal: None,
            occurrence: Occurrence::Message { kind: Kind::Binary, payload: Bytes::new() },
        }
    }

    #[test]
    fn each_connection_has_one_event_under_way_and_all_leave_in_order_whoever_is_done_first() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut turns = Turns::default();
            let mut under_way: Vec<Inbound> = Vec::new();
            let (mut made, mut left) = ([0; 5], [0; 5]);
            for _ in 0..500 {
                let slot = random.usize(..5);
                if turns.has_room() && random.bool() {
                    made[slot] += 1;
                    under_way.extend(turns.take_in(event(slot as u32, made[slot])));
                } else if !under_way.is_empty() {
                    let done = under_way.swap_remove(random.usize(..under_way.len()));
                    under_way.extend(turns.next(done.address));
                    left[done.address.slot as usize] += 1;
                    assert_eq!(done.sequence, left[done.address.slot as usize], "seed {seed}");
                }
                let whose: HashSet<Address> = under_way.iter().map(|event| event.address).collect();
                assert_eq!(whose.len(), under_way.len(), "seed {seed}: one at a time");
                assert_eq!(
                    turns.behind.len(),
                    under_way.len(),
                    "seed {seed}: nobody is forgotten, nobody stays"
                );
                assert!(turns.held <= HELD_MAX);
            }
            while let Some(done) = under_way.pop() {
                under_way.extend(turns.next(done.address));
                left[done.address.slot as usize] += 1;
            }
            assert_eq!((left, turns.held, turns.behind.len()), (made, 0, 0), "seed {seed}");
        }
    }
}
