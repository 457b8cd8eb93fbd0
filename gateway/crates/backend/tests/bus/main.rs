//! Every bus behaves alike: what one node publishes reaches the subscribers of another once, in order, whole, and nobody
//! else. The embedded bus, which has one node, is held to the same. Against real servers.
#![allow(clippy::unwrap_used)]

mod node;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use backend::peers::Beat;
use backend::presence::BEAT_EVERY;
use backend::{BusState, Excluded, PublishError};
use bridge::message::Bytes;
use bridge::{Address, Channel, ConnId, Epoch, Kind, Message, NodeName};
use tokio::time::Instant;

use self::node::{Node, Pair, Which};

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

/// The same promise for each bus, under a name of its own.
macro_rules! on_every_bus {
    ($($(#[$doc:meta])* $promise:ident)*) => {
        mod embedded { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::Which::Embedded).await; })* }
        mod nats { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::Which::Nats).await; })* }
        mod redis { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::Which::Redis).await; })* }
    };
}

on_every_bus! {
    a_publisher_is_heard_in_order_once_and_by_nobody_else
    every_payload_arrives_as_it_was
    every_good_name_is_a_channel_of_its_own
    what_is_no_name_reaches_nobody_and_is_counted_where_it_is_heard
    after_a_race_of_joins_and_leaves_just_those_hear_who_are_there
    what_the_api_publishes_reaches_both_nodes
    who_is_excluded_is_left_out_where_it_is
    what_an_app_server_says_without_a_kind_is_left_to_routes
}

/// As for Redis in `tests/redis`, whose batches make fewer operations of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_joins_is_one_operation_a_channel_on_nats_and_comes_back_after_a_restart() {
    const CHANNELS: u64 = 50_000;
    /// So many are published at a time.
    const PART: usize = 1_000;
    let mut pair = Pair::start(Which::Nats).await;
    let channels: Vec<Channel> = (0..CHANNELS).map(|number| channel(&format!("room.{number}"))).collect();
    let board = Arc::clone(&pair.there().switchboard);
    let bus = Arc::clone(&pair.there().bus);
    let stats = bus.stats().unwrap();
    let started = Instant::now();
    for channel in &channels {
        board.join(0, channel);
        // Somebody on the other shard only looks in.
        board.join(1, channel);
        board.leave(1, channel);
    }
    pair.there().until("all are subscribed", |_| stats.subscriptions.value() == CHANNELS).await;
    let took = started.elapsed();
    assert_eq!(stats.subscription_operations.value(), CHANNELS);

    pair.kill_server();
    pair.there().until("the loss is noticed", |_| bus.state() == BusState::Away).await;
    let started = Instant::now();
    pair.restart_server();
    let nats = pair.nats().await;
    // All are subscribed again in one go, and nobody knows in which order.
    let mut missing: HashSet<Channel> = channels.iter().cloned().collect();
    while !missing.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "{} are not back", missing.len());
        let part: Vec<Channel> = missing.iter().take(PART).cloned().collect();
        for channel in &part {
            nats.publish(format!("gateway.channel.{channel}"), Bytes::new()).await.unwrap();
        }
        nats.flush().await.unwrap();
        let heard = |node: &mut Node| {
            for (channel, ..) in node.heard.drain(..) {
                missing.remove(&channel);
            }
            part.iter().all(|channel| !missing.contains(channel))
        };
        // What was published before its subscription was back is not heard, and published again.
        pair.there().within(Duration::from_millis(500), heard).await;
    }
    println!("{CHANNELS} channels: subscribed in {took:?}, back in {:?}", started.elapsed());
    for channel in &channels {
        board.leave(0, channel);
    }
    pair.there().until("all are ended", |_| stats.subscriptions.value() == 0).await;
    assert_eq!(stats.subscription_operations.value(), 2 * CHANNELS, "the restart made none");
    assert_eq!((stats.undelivered.value(), stats.overrun.value()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_those_that_may_wait_for_an_answer_are_delivered_and_counted() {
    // As in `nats::replies`.
    const ANSWERS_MAX: u64 = 4096;
    const MORE: u64 = 10;
    const AT_ONCE: u64 = 100;
    let mut pair = Pair::start(Which::Nats).await;
    let to = pair.there().id(Address { shard: 0, slot: 7, generation: 1 });
    let nats = pair.nats().await;
    let bus = Arc::clone(&pair.there().bus);
    let stats = bus.stats().unwrap();
    let (started, mut looks) = (Instant::now(), tokio::time::interval(Duration::from_millis(2)));
    // Nobody takes them, and so none is answered meanwhile. What comes too quickly would be lost before.
    for asked in 1..=ANSWERS_MAX + MORE {
        let subject = format!("gateway.connection.b.{to}");
        nats.publish_with_reply(subject, nats.new_inbox(), Bytes::new()).await.unwrap();
        while stats.received.value() + AT_ONCE < asked
            || asked == ANSWERS_MAX + MORE && stats.received.value() < asked
        {
            assert!(started.elapsed() < Duration::from_secs(20), "{} of {asked}", stats.received.value());
            looks.tick().await;
        }
    }
    assert_eq!(stats.answers_left_out.value(), MORE);
}

/// On one thread, where nobody else runs while the library reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_burst_of_small_messages_on_one_channel_of_nats_is_heard_whole() {
    const MESSAGES: u64 = 12_000;
    let mut pair = Pair::start(Which::Nats).await;
    let room = channel("room.1");
    pair.there().join(&room);
    pair.settled(1).await;
    let nats = pair.nats().await;
    for number in 0..MESSAGES {
        nats.publish("gateway.channel.room.1", number.to_string().into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    pair.there().until("all are heard", |node| node.heard.len() as u64 == MESSAGES).await;
    assert_eq!(pair.there().bus.stats().unwrap().overrun.value(), 0);
}

async fn a_publisher_is_heard_in_order_once_and_by_nobody_else(which: Which) {
    const MESSAGES: u32 = 500;
    let mut pair = Pair::start(which).await;
    let (room, other) = (channel("room.1"), channel("room.1.deeper"));
    pair.there().join(&room);
    pair.there().join(&other);
    pair.settled(2).await;
    for number in 0..MESSAGES {
        pair.here().client_publishes(&room, Kind::Text, number.to_string().as_bytes()).await;
    }
    pair.here().client_publishes(&other, Kind::Text, b"the end").await;
    pair.nothing_more(&[room.clone(), other.clone()]).await;
    let heard = pair.there().heard_on(&room);
    let expected: Vec<Bytes> = (0..MESSAGES).map(|number| number.to_string().into()).collect();
    assert_eq!(heard, expected);
    assert_eq!(pair.there().heard_on(&other), [Bytes::from("the end")]);
}

async fn every_payload_arrives_as_it_was(which: Which) {
    let mut pair = Pair::start(which).await;
    let room = channel("room.1");
    pair.there().join(&room);
    pair.settled(1).await;
    let mut sent = Vec::new();
    // The largest leaves room for the headers within the megabyte that a NATS server takes unless it is told otherwise.
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        for kind in [Kind::Text, Kind::Binary] {
            let payload = match kind {
                Kind::Text => Bytes::from("ä".repeat(size / 2) + &"x".repeat(size % 2)),
                Kind::Binary => (0..size).map(|place| place as u8).collect(),
            };
            pair.here().client_publishes(&room, kind, &payload).await;
            sent.push((kind, payload));
        }
    }
    // What looks like an envelope, and what looks like text, are neither.
    for (kind, payload) in [(Kind::Text, &b"\0text"[..]), (Kind::Binary, b"plain"), (Kind::Binary, b"\0\x0a")]
    {
        pair.here().client_publishes(&room, kind, payload).await;
        sent.push((kind, Bytes::copy_from_slice(payload)));
    }
    pair.nothing_more(&[room]).await;
    let heard: Vec<_> = pair.there().heard.drain(..).map(|(_, kind, payload)| (kind, payload)).collect();
    assert!(heard == sent, "something arrived otherwise than it was sent");
}

async fn every_good_name_is_a_channel_of_its_own(which: Which) {
    let mut pair = Pair::start(which).await;
    let longest = ["x".repeat(31), "y".repeat(31)].join(".");
    let names = ["a", "A", "a.a", "a=20b", "-", "_", "0.1.2.3.4.5.6.7", "user.a=40b=2Ec", &longest];
    let channels = names.map(channel);
    channels.iter().for_each(|channel| pair.there().join(channel));
    pair.settled(names.len()).await;
    for name in names {
        pair.here().client_publishes(&channel(name), Kind::Text, name.as_bytes()).await;
    }
    pair.nothing_more(&channels).await;
    for (name, channel) in names.into_iter().zip(&channels) {
        assert_eq!(pair.there().heard_on(channel), [Bytes::copy_from_slice(name.as_bytes())]);
    }
    assert_eq!(pair.there().heard.len(), names.len());
}

async fn what_is_no_name_reaches_nobody_and_is_counted_where_it_is_heard(which: Which) {
    let mut pair = Pair::start(which).await;
    let channels = ["a", "a.b", "room.1"].map(channel);
    channels.iter().for_each(|channel| pair.there().join(channel));
    pair.settled(channels.len()).await;
    for bad in
        ["", "a b", "a*", "a.>", "*", ">", "a..b", ".a", "a.", "ä", "a\0b", "a\r\nb", "a.b.c.d.e.f.g.h.i"]
    {
        assert!(Channel::parse(bad).is_err(), "{bad:?}");
        pair.app_server_publishes_to(bad, b"to whom?").await;
    }
    // Nobody hears those on the bus. What is for connections, their node does.
    let no_ids = ["x", "b", "b-00000001-0-1", "b-00000001-0-1-g"];
    for bad in no_ids {
        pair.app_server_sends_to(bad).await;
    }
    let bus = Arc::clone(&pair.there().bus);
    if let Some(stats) = bus.stats() {
        let all = |_: &mut _| stats.malformed.value() >= no_ids.len() as u64;
        pair.there().until("those are counted", all).await;
        pair.nothing_more(&channels).await;
        assert_eq!(stats.malformed.value(), no_ids.len() as u64);
    }
    assert_eq!(pair.there().heard, []);
}

async fn after_a_race_of_joins_and_leaves_just_those_hear_who_are_there(which: Which) {
    const CHANNELS: u32 = 200;
    let mut pair = Pair::start(which).await;
    let all: Vec<Channel> = (0..CHANNELS).map(|number| channel(&format!("race.{number}"))).collect();
    let board = Arc::clone(&pair.there().switchboard);
    let racers: Vec<_> = (0..2u16)
        .map(|shard| {
            let (board, all) = (Arc::clone(&board), all.clone());
            tokio::task::spawn_blocking(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(shard));
                for _ in 0..20_000 {
                    let channel = &all[random.usize(..all.len())];
                    if random.bool() {
                        board.join(shard, channel)
                    } else {
                        board.leave(shard, channel)
                    };
                }
                // In the end every other channel has somebody.
                for (number, channel) in all.iter().enumerate() {
                    if number % 2 == 0 {
                        board.join(shard, channel)
                    } else {
                        board.leave(shard, channel)
                    };
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    let stay = all.len() / 2;
    pair.settled(stay).await;
    for channel in &all {
        pair.here().client_publishes(channel, Kind::Text, channel.as_str().as_bytes()).await;
    }
    let there: Vec<Channel> = all.iter().step_by(2).cloned().collect();
    pair.nothing_more(&there).await;
    let mut heard: Vec<_> = pair.there().heard.drain(..).map(|(channel, ..)| channel).collect();
    heard.sort();
    // Once for each of the two shards.
    let mut expected = [there.clone(), there].concat();
    expected.sort();
    assert_eq!(heard, expected);
}

async fn what_the_api_publishes_reaches_both_nodes(which: Which) {
    let mut pair = Pair::start(which).await;
    let room = channel("room.1");
    pair.here().join(&room);
    pair.there().join(&room);
    pair.settled(1).await;
    let publisher = pair.here().publisher();
    let message = Message::copy_from(Kind::Text, b"hello");
    let published = publisher.publish(&room, &message, None, None).await;
    assert_eq!(published, Ok::<(), PublishError>(()));
    pair.nothing_more(std::slice::from_ref(&room)).await;
    for node in pair.nodes() {
        assert_eq!(node.heard_on(&room), [Bytes::from("hello")]);
    }
}

async fn who_is_excluded_is_left_out_where_it_is(which: Which) {
    let mut pair = Pair::start(which).await;
    let room = channel("room.1");
    pair.there().join(&room);
    pair.settled(1).await;
    let publisher = pair.here().publisher();
    let member = Address { shard: 0, slot: 7, generation: 1 };
    let stranger = ConnId { epoch: Epoch(!pair.there().epoch.0), ..pair.there().id(member) };
    let member = pair.there().id(member);
    for id in [member.clone(), stranger] {
        let exclude = match which {
            Which::Embedded => Excluded::Here(member.address),
            _ => Excluded::There(id),
        };
        let message = Message::copy_from(Kind::Text, b"hello");
        publisher.publish(&room, &message, Some(&exclude), None).await.unwrap();
    }
    pair.nothing_more(std::slice::from_ref(&room)).await;
    assert_eq!(pair.there().heard_on(&room).len(), 2);
    let of_another_life = if which == Which::Embedded { Some(member.address) } else { None };
    assert_eq!(pair.there().excluded, [Some(member.address), of_another_life]);
}

async fn what_an_app_server_says_without_a_kind_is_left_to_routes(which: Which) {
    let mut pair = Pair::start(which).await;
    let room = channel("room.1");
    pair.there().join(&room);
    pair.settled(1).await;
    pair.app_server_publishes(&room, "grüße".as_bytes()).await;
    pair.there().until("it is heard", |node| node.heard.len() == 1).await;
    assert_eq!(pair.there().heard[0], (room.clone(), Kind::Text, Bytes::from("grüße")));
    assert_eq!(pair.there().undeclared, 1);
    // A node knows what its clients said.
    for kind in [Kind::Text, Kind::Binary] {
        pair.here().client_publishes(&room, kind, b"said").await;
    }
    pair.nothing_more(&[room]).await;
    assert_eq!((pair.there().heard.len(), pair.there().undeclared), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_node_is_deaf_when_its_server_says_nothing_and_before_it_gives_the_link_up() {
    let mut pair = Pair::start(Which::Nats).await;
    assert!(!pair.here().bus.is_deaf());
    pair.freeze(true);
    pair.here().until("it is deaf", |node| node.bus.is_deaf()).await;
    assert_eq!(pair.here().bus.state(), BusState::Up);
    pair.freeze(false);
    pair.here().until("it hears again", |node| !node.bus.is_deaf()).await;
    assert_eq!(pair.here().bus.stats().unwrap().losses.value(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_takes_nothing_does_not_keep_a_node_from_its_next_beat() {
    let mut pair = Pair::start(Which::Nats).await;
    pair.freeze(true);
    let bus = Arc::clone(&pair.here().bus);
    let (room, large) = (channel("room.1"), Message::copy_from(Kind::Binary, &[0; 100_000]));
    // Until the socket, the library's buffer and its queue of commands are full.
    while tokio::time::timeout(Duration::from_millis(300), bus.forward(&room, &large, None)).await.is_ok() {
        assert_eq!(bus.state(), BusState::Up, "it is full before the link is given up");
    }
    let beat = Beat {
        node: NodeName::parse("a").unwrap(),
        epoch: Epoch(1),
        number: 1,
        leaves: false,
        kept_out: None,
    };
    let said = tokio::time::timeout(BEAT_EVERY, bus.peers().unwrap().beat(beat)).await;
    assert!(said.is_ok(), "it keeps the node from its next beat");
    assert_eq!(bus.state(), BusState::Up, "it is not for the loss that it waits no more");
    pair.freeze(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_nats_server_does_not_take_is_not_called_published() {
    let mut pair = Pair::start(Which::Nats).await;
    // Whoever asks first is refused before; the server may have changed since.
    let large = Message::copy_from(Kind::Binary, &vec![0; 2 << 20]);
    let bus = Arc::clone(&pair.here().bus);
    assert_eq!(bus.forward(&channel("room.1"), &large, None).await, Err(PublishError::TooLarge));
    assert_eq!(bus.stats().unwrap().left_out.value(), 1);
}
