//! Between the pump and a bus: holds an opened event back until the bus hears what the connection subscribes to, so that an
//! app server which answers at once into a channel is heard by whoever it answers.
//!
//! A bus subscribes in rounds, and events go another way, so an event would be there first. The feed is read on,
//! whatever happens: the pump must not wait. What is held is bounded by the shards' quota, and nothing is held for longer
//! than [`HELD_AT_MOST`]: while the bus is away, or takes its time with a storm of joins, events go on as routes want it.
//! Keeps the order of events. Refuses to know who is in which channel. Built with the joint of a bus.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bridge::Inbound;
use bridge::inbound::Occurrence;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::interests::Interests;
use crate::upstream::Feed;

/// Many rounds of subscribing, and less than anybody notices.
const HELD_AT_MOST: Duration = Duration::from_millis(100);
/// Batches that may wait for the bus's task, which takes them without waiting for anybody.
const BATCHES_MAX: usize = 64;

/// The same events, none of a connection before the bus hears for it. Spawns a task, which ends with the feed.
pub(crate) fn heard_first(feed: Feed, interests: Arc<Interests>) -> Feed {
    let (onward, heard) = mpsc::channel(BATCHES_MAX);
    tokio::spawn(run(feed, interests, onward));
    heard
}

struct Held {
    batch: Vec<Inbound>,
    /// It goes when the bus has followed so many changes.
    change: u64,
    at_latest: Instant,
}

async fn run(mut feed: Feed, interests: Arc<Interests>, onward: mpsc::Sender<Vec<Inbound>>) {
    let mut followed = interests.followed();
    let mut held: VecDeque<Held> = VecDeque::new();
    let mut is_open = true;
    loop {
        let change = *followed.borrow_and_update();
        while held
            .front()
            .is_some_and(|first| !is_open || first.change <= change || first.at_latest <= Instant::now())
        {
            let Some(Held { batch, .. }) = held.pop_front() else { break };
            if onward.send(batch).await.is_err() {
                return;
            }
        }
        if !is_open {
            return;
        }
        let at_latest = held.front().map(|first| first.at_latest);
        tokio::select! {
            batch = feed.recv() => match batch {
                Some(batch) => {
                    // The shard subscribed before it said so.
                    let opens = batch.iter().any(|event| matches!(event.occurrence, Occurrence::Opened(_)));
                    let change = if opens { interests.noted() } else { 0 };
                    held.push_back(Held { batch, change, at_latest: Instant::now() + HELD_AT_MOST });
                }
                None => is_open = false,
            },
            // Who followed is gone with the bus; then there is nobody to wait for but the clock.
            Ok(()) = followed.changed(), if at_latest.is_some() => {}
            () = until(at_latest) => {}
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::inbound::Opened;
    use bridge::{Address, Channel, Interest as _};

    use super::*;

    fn event(slot: u32, occurrence: Occurrence) -> Inbound {
        let address = Address { shard: 0, slot, generation: 1 };
        let upstream = crate::joint::BUS;
        Inbound { upstream, partition: 0, address, route: 0, sequence: 1, principal: None, occurrence }
    }

    fn opened(slot: u32) -> Vec<Inbound> {
        let peer = [127, 0, 0, 1].into();
        vec![event(slot, Occurrence::Opened(Box::new(Opened { peer, path: "/".into(), protocol: None })))]
    }

    fn said(slot: u32) -> Vec<Inbound> {
        let payload = bridge::message::Bytes::new();
        vec![event(slot, Occurrence::Message { kind: bridge::Kind::Text, payload })]
    }

    fn slot(batch: Option<Vec<Inbound>>) -> u32 {
        batch.unwrap()[0].address.slot
    }

    fn between() -> (Arc<Interests>, mpsc::Sender<Vec<Inbound>>, Feed) {
        let interests = Arc::new(Interests::new(10));
        let (events, feed) = mpsc::channel(8);
        let heard = heard_first(feed, Arc::clone(&interests));
        (interests, events, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_is_told_of_when_the_bus_hears_and_the_others_keep_their_place() {
        let (interests, events, mut heard) = between();
        let start = Instant::now();
        events.send(said(1)).await.unwrap();
        assert_eq!(slot(heard.recv().await), 1);
        interests.changed(&Channel::parse("room.x").unwrap());
        events.send(said(2)).await.unwrap();
        assert_eq!(slot(heard.recv().await), 2, "nobody came by it");
        for batch in [opened(3), said(3)] {
            events.send(batch).await.unwrap();
        }
        let _ = interests.changes().await;
        // One that came later is of the next round.
        interests.changed(&Channel::parse("room.y").unwrap());
        events.send(opened(4)).await.unwrap();
        tokio::task::yield_now().await;
        assert!(heard.try_recv().is_err(), "it has changes to follow and has not");
        interests.has_followed();
        assert_eq!((slot(heard.recv().await), slot(heard.recv().await)), (3, 3));
        assert!(start.elapsed() < HELD_AT_MOST && heard.try_recv().is_err());
        let _ = interests.changes().await;
        interests.has_followed();
        assert_eq!(slot(heard.recv().await), 4);
        assert!(start.elapsed() < HELD_AT_MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_held_for_long_and_at_the_end_nobody_at_all() {
        let (interests, events, mut heard) = between();
        interests.changed(&Channel::parse("room.x").unwrap());
        let start = Instant::now();
        // More than there is room for anywhere but here: it reads on.
        for number in 0..500 {
            events.send(opened(number)).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(slot(heard.recv().await), 0);
        assert!((HELD_AT_MOST..HELD_AT_MOST * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
        for number in 1..500 {
            assert_eq!(slot(heard.recv().await), number);
        }
        events.send(opened(500)).await.unwrap();
        let end = Instant::now();
        drop(events);
        assert_eq!(slot(heard.recv().await), 500);
        assert!(heard.recv().await.is_none());
        assert_eq!(end.elapsed(), Duration::ZERO);
    }
}
