//! A server that stands still: its connections stay open, and nobody answers.

use std::sync::Arc;

use backend::joint::OnLoss;
use backend::presence::LOST_AFTER;
use backend::{Bus as _, BusState};
use bridge::{Kind, Message};
use tokio::time::Instant;

use crate::node::{Node, channel, wall_ms};
use crate::server::{PATIENCE, Redis};
use crate::streams::gap;

/// What waits for it does so in each of the bus's connections.
#[tokio::test]
async fn it_is_away_before_other_nodes_would_seem_lost_and_whoever_waits_is_told() {
    let server = Redis::start(&[]);
    let mut node = Node::start_with("one", server.server(), 1000, OnLoss::Pause).await;
    node.is_up().await;
    server.freeze(true);
    let frozen = Instant::now();
    node.say(0, b"an event").await;
    node.switchboard.join(0, &channel("a.subscription"));
    let (bus, message) = (Arc::clone(&node.bus), Message::copy_from(Kind::Text, b"x"));
    let waits = tokio::spawn(async move { bus.forward(&channel("room"), &message, None).await });
    node.until("the silence is noticed", |node| node.bus.state() == BusState::Away).await;
    assert!(waits.await.unwrap().is_err());
    assert!(frozen.elapsed() < LOST_AFTER, "{:?}", frozen.elapsed());
    server.freeze(false);
    node.is_up().await;
    node.until("the event is in", |node| node.unsettled() == 0).await;
    let stats = node.bus.stats().unwrap();
    assert_eq!((stats.losses.value(), stats.left_out.value()), (1, 1));
    assert_eq!(stats.subscriptions.value(), 1);
    node.stop().await;
}

#[tokio::test]
async fn its_gap_begins_before_it_stood_still_and_ends_when_it_goes_on() {
    let server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    node.is_up().await;
    server.freeze(true);
    let frozen_ms = wall_ms();
    node.until("the silence is noticed", |node| node.bus.state() == BusState::Away).await;
    let thawed_ms = wall_ms();
    server.freeze(false);
    node.is_up().await;
    let back_ms = wall_ms();
    let (from_ms, to_ms) = gap(&mut server.connection().await, 0).await;
    // It is asked after two seconds of quiet at most.
    let heard_ms = frozen_ms - LOST_AFTER.as_millis() as u64;
    assert!((heard_ms..=frozen_ms).contains(&from_ms), "{from_ms}, and it stood still at {frozen_ms}");
    assert!((thawed_ms..=back_ms).contains(&to_ms), "{to_ms}, and it went on at {thawed_ms}");
    node.stop().await;
}

#[tokio::test]
async fn nobody_is_judged_by_its_silence_though_it_is_not_given_up_yet() {
    let server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    node.is_up().await;
    assert!(!node.bus.is_deaf());
    let started = Instant::now();
    loop {
        server.freeze(true);
        node.until("it is deaf", |node| node.bus.is_deaf()).await;
        let is_up = node.bus.state() == BusState::Up;
        server.freeze(false);
        node.until("it hears again", |node| !node.bus.is_deaf()).await;
        if is_up {
            break;
        }
        // On a machine that is busy enough a second passes unseen.
        assert!(started.elapsed() < PATIENCE, "it is deaf only when it is away");
    }
    node.stop().await;
}
