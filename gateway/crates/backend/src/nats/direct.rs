//! Inbound events in core mode, by one task: handed to the socket, in order.
//!
//! Whatever happens, the feed is read on: the pump must not wait, or nothing else of the node would be carried. What waits
//! here while the bus is away, or a stream has our subjects, or may have them, is bounded by the shards' quota. A route that does not want to
//! wait says so; its events are given up then, also those behind events of routes that do.

use std::collections::VecDeque;
use std::sync::Arc;

use bridge::Inbound;
use bridge::inbound::Settled;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::inbound::{SETTLE_EVERY, Teller};
use super::link::Standing;
use crate::upstream::{Feed, Settler};

/// Events that are handed over before they are settled together.
const ROUND_EVENTS_MAX: usize = 1024;

/// What became of some events.
struct Round {
    settled: Vec<Settled>,
    /// The bus was lost before these.
    left: VecDeque<Inbound>,
}

/// Runs until there are no more events and none waits.
pub(super) async fn run(teller: Arc<Teller>, mut feed: Feed, mut settler: Settler) {
    let (mut standing, mut is_clear) = (teller.link.watch(), teller.is_clear.clone());
    let mut tick = tokio::time::interval(SETTLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waiting = VecDeque::new();
    // One round, or none.
    let mut under_way = FuturesUnordered::new();
    // The loss at which was given up what waited.
    let mut given_up = None;
    let (mut is_open, mut is_all_told) = (true, true);
    while is_open || !waiting.is_empty() || !under_way.is_empty() {
        let Standing { is_up, losses, .. } = *standing.borrow_and_update();
        if under_way.is_empty() && !is_up && given_up != Some(losses) {
            given_up = Some(losses);
            waiting.retain(|inbound| !gives_up(&teller, inbound, &mut settler));
            is_all_told = settler.flush();
        }
        if under_way.is_empty() && is_up && !waiting.is_empty() && *is_clear.borrow_and_update() {
            let events = waiting.drain(..waiting.len().min(ROUND_EVENTS_MAX)).collect();
            under_way.push(hand_over(&teller, events));
        }
        tokio::select! {
            batch = feed.recv(), if is_open => match batch {
                Some(batch) => {
                    let is_away = !teller.link.standing().is_up;
                    for inbound in batch {
                        if is_away && gives_up(&teller, &inbound, &mut settler) {
                            is_all_told = false;
                        } else {
                            waiting.push_back(inbound);
                        }
                    }
                }
                None => is_open = false,
            },
            Some(Round { settled, left }) = under_way.next(), if !under_way.is_empty() => {
                settled.into_iter().for_each(|settled| settler.settle(settled));
                left.into_iter().rev().for_each(|inbound| waiting.push_front(inbound));
                is_all_told = settler.flush();
            }
            // Nobody looks after the link any more: the program ends.
            changed = standing.changed() => if changed.is_err() { return },
            Ok(()) = is_clear.changed() => {}
            _ = tick.tick(), if !is_all_told => is_all_told = settler.flush(),
        }
    }
}

/// The bus is away: whether the event is given up, and thereby settled.
fn gives_up(teller: &Teller, inbound: &Inbound, settler: &mut Settler) -> bool {
    let gives_up = teller.gives_up(inbound);
    if gives_up {
        settler.settle(inbound.settled());
    }
    gives_up
}

/// Hands events to the socket until the bus is lost.
async fn hand_over(teller: &Teller, mut events: VecDeque<Inbound>) -> Round {
    let mut settled = Vec::with_capacity(events.len());
    while let Some(inbound) = events.front() {
        if !teller.publish(inbound).await {
            break;
        }
        settled.push(inbound.settled());
        events.pop_front();
    }
    // What is in the socket is off our hands: core NATS promises no more. While the bus is away nothing gets there, and what
    // was said last is lost with it.
    let _ = teller.link.unless_lost(teller.link.client.flush()).await;
    Round { settled, left: events }
}
