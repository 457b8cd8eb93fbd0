//! A server that stands still: its connections stay open, and nobody answers.

use std::sync::Arc;

use backend::joint::OnLoss;
use backend::presence::LOST_AFTER;
use backend::{Bus as _, BusState};
use bridge::{Kind, Message};
use tokio::time::Instant;

use crate::node::{Node, channel};
use crate::server::Redis;

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
