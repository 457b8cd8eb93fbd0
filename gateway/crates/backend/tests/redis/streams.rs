//! What clients do, in streams.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use backend::joint::OnLoss;
use backend::redis::Server;
use backend::{Bus as _, BusState};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::node::{Node, wall_ms};
use crate::server::{PATIENCE, PAUSE, Redis};

/// An entry, field by field.
type Entry = HashMap<String, Vec<u8>>;

fn stream(partition: u16) -> String {
    format!("gateway:inbound:app:{partition}")
}

fn text(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        other => panic!("{other:?}"),
    }
}

fn entries(answer: Value) -> Vec<(String, Entry)> {
    let Value::Array(entries) = answer else { panic!("{answer:?}") };
    let entry = |value: Value| {
        let Value::Array(mut pair) = value else { panic!("{value:?}") };
        let (Some(Value::Array(fields)), Some(id)) = (pair.pop(), pair.pop()) else { panic!("{pair:?}") };
        let mut fields = fields.into_iter();
        let mut entry = Entry::new();
        while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
            entry.insert(String::from_utf8(text(field)).unwrap(), text(value));
        }
        (String::from_utf8(text(id)).unwrap(), entry)
    };
    entries.into_iter().map(entry).collect()
}

/// All of a stream.
async fn all(redis: &mut MultiplexedConnection, partition: u16) -> Vec<(String, Entry)> {
    let name = stream(partition);
    entries(redis::cmd("XRANGE").arg(name).arg("-").arg("+").query_async(redis).await.unwrap())
}

/// From when to when, of a gap that is the first entry of its stream, or will be.
pub(crate) async fn gap(redis: &mut MultiplexedConnection, partition: u16) -> (u64, u64) {
    let started = Instant::now();
    let mut looks = tokio::time::interval(PAUSE);
    loop {
        looks.tick().await;
        if let [(_, gap), ..] = &all(redis, partition).await[..] {
            assert_eq!(gap["event"], b"gap");
            let ms = |field: &str| String::from_utf8(gap[field].clone()).unwrap().parse().unwrap();
            return (ms("from-ms"), ms("to-ms"));
        }
        assert!(started.elapsed() < PATIENCE, "no gap is told");
    }
}

/// What a worker of a group is given next.
async fn read_group(redis: &mut MultiplexedConnection, partition: u16, count: u32) -> Vec<(String, Entry)> {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg("workers").arg("one").arg("COUNT").arg(count).arg("STREAMS");
    let answer: Value = command.arg(stream(partition)).arg(">").query_async(redis).await.unwrap();
    match answer {
        Value::Nil => Vec::new(),
        Value::Map(mut streams) => entries(streams.pop().unwrap().1),
        other => panic!("{other:?}"),
    }
}

async fn group(redis: &mut MultiplexedConnection) {
    for partition in 0..4 {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(stream(partition)).arg("workers").arg("0").arg("MKSTREAM");
        command.exec_async(redis).await.unwrap();
    }
}

async fn ack(redis: &mut MultiplexedConnection, partition: u16, ids: &[String]) {
    if !ids.is_empty() {
        let mut command = redis::cmd("XACK");
        command.arg(stream(partition)).arg("workers").arg(ids).exec_async(redis).await.unwrap();
    }
}

/// By connection, the sequence numbers in the order in which they came.
fn sequences<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::<String, Vec<u32>>::new();
    for entry in entries.filter(|entry| entry["event"] != b"gap") {
        let word = |field: &str| String::from_utf8(entry[field].clone()).unwrap();
        all.entry(word("connection")).or_default().push(word("sequence").parse().unwrap());
    }
    all
}

/// Without what came before, it is 1, 2, 3 up to `last`.
fn is_complete(sequences: &[u32], last: u32) -> bool {
    let mut next = 1;
    for sequence in sequences {
        if *sequence > next {
            return false;
        }
        next = next.max(sequence + 1);
    }
    next == last + 1
}

#[tokio::test]
async fn each_connection_is_in_order_in_the_stream_of_its_partition() {
    let server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    for round in 0..50 {
        for slot in 0..20 {
            node.until("room", |node| node.may_say(slot)).await;
            node.say(slot, format!("\0{slot} {round}").as_bytes()).await;
        }
    }
    node.until("all is settled", |node| node.unsettled() == 0).await;
    let mut redis = server.connection().await;
    let mut connections = 0;
    for partition in 0..4 {
        let entries = all(&mut redis, partition).await;
        for (connection, sequences) in sequences(entries.iter().map(|(_, entry)| entry)) {
            assert!(sequences.iter().copied().eq(1..=50), "{connection}: {sequences:?}");
            connections += 1;
        }
        let (_, first) = &entries[0];
        assert_eq!(first["event"], b"message");
        assert_eq!(first["content-type"], b"application/octet-stream");
        assert_eq!(first["route"], b"app");
        assert_eq!(first["node"], b"one");
        assert!(first["payload"].starts_with(b"\0") && !first.contains_key("again"));
    }
    assert_eq!(connections, 20);
    node.stop().await;
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_was_settled_and_gets_the_rest_when_it_is_back() {
    let mut server = Redis::start(&["--appendonly", "yes"]);
    // Nobody takes entries here, and a quick machine makes more of them than the usual bound holds.
    let mut node = Node::start_with("one", server.server(), 10_000_000, OnLoss::Pause).await;
    node.is_up().await;
    let mut last = [0u32; 50];
    for life in 0..3u32 {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            for slot in 0..50 {
                if node.may_say(slot) {
                    node.say(slot, &[7; 100]).await;
                    last[slot as usize] += 1;
                }
            }
            node.look();
            tokio::task::yield_now().await;
        }
        if life < 2 {
            server.kill();
            node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
            for slot in 0..50 {
                while node.may_say(slot) {
                    node.say(slot, &[7; 100]).await;
                    last[slot as usize] += 1;
                }
            }
            assert!(node.unsettled() > 0, "nobody takes it");
            server.restart();
        }
    }
    node.until("all is settled", |node| node.unsettled() == 0).await;
    let mut redis = server.connection().await;
    let mut found = BTreeMap::new();
    for partition in 0..4 {
        let entries = all(&mut redis, partition).await;
        found.extend(sequences(entries.iter().map(|(_, entry)| entry)));
    }
    assert_eq!(found.len(), 50);
    for (slot, last) in (0..50u32).zip(last) {
        let id = format!("one-{}-0-{slot:x}-1", node.epoch);
        assert!(is_complete(&found[&id], last), "{id} up to {last}: {:?}", found[&id]);
    }
    assert_eq!(node.bus.stats().unwrap().losses.value(), 2);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_at_its_bound_holds_its_connections_and_nothing_unacknowledged_is_trimmed() {
    let server = Redis::start(&[]);
    let mut redis = server.connection().await;
    group(&mut redis).await;
    let mut node = Node::start_with("one", server.server(), 40, OnLoss::Pause).await;
    // Slot and partition of two connections that do not share a stream.
    let partition = |slot| bridge::Address { shard: 0, slot, generation: 1 }.partition(4);
    let other = (1..).find(|slot| partition(*slot) != partition(0)).unwrap();
    let mut said = 0;
    let started = Instant::now();
    // As many as fit, and as many as may be unsettled.
    while said < 48 {
        node.look();
        if node.may_say(0) {
            node.say(0, b"x").await;
            said += 1;
        }
        tokio::task::yield_now().await;
        assert!(started.elapsed() < PATIENCE, "the stream is never full");
    }
    node.until("the stream is full", |node| node.bus.stats().unwrap().inbound.value() == 40).await;
    assert!(!node.may_say(0), "the rest waits");
    node.say(other, b"y").await;
    node.until("the other goes on", |node| node.bus.stats().unwrap().inbound.value() == 41).await;
    assert_eq!(node.bus.state(), BusState::Up, "full is not away");

    // A worker takes and acknowledges by and by: all of it comes, once, in order, and there is never more than the bound.
    let mut seen = Vec::new();
    let mut looks = tokio::time::interval(PAUSE);
    let started = Instant::now();
    while seen.len() < 400 {
        node.look();
        while said < 400 && node.may_say(0) {
            node.say(0, b"x").await;
            said += 1;
        }
        let batch = read_group(&mut redis, partition(0), 7).await;
        let length: u64 = redis::cmd("XLEN").arg(stream(partition(0))).query_async(&mut redis).await.unwrap();
        assert!(length <= 40, "{length}");
        let ids: Vec<String> = batch.iter().map(|(id, _)| id.clone()).collect();
        ack(&mut redis, partition(0), &ids).await;
        seen.extend(batch.into_iter().map(|(_, entry)| entry));
        looks.tick().await;
        assert!(started.elapsed() < PATIENCE, "{} of 400", seen.len());
    }
    let all = sequences(seen.iter());
    assert_eq!(all.len(), 1);
    assert!(all.values().next().unwrap().iter().copied().eq(1..=400));
    node.stop().await;
}

#[tokio::test]
async fn a_key_that_is_no_stream_holds_its_own_partition_only() {
    let server = Redis::start(&[]);
    let mut redis = server.connection().await;
    let partition = |slot| bridge::Address { shard: 0, slot, generation: 1 }.partition(4);
    redis::cmd("SET").arg(stream(partition(0))).arg("x").exec_async(&mut redis).await.unwrap();
    let mut node = Node::start("one", server.server()).await;
    node.say(0, b"x").await;
    let other = (1..).find(|slot| partition(*slot) != partition(0)).unwrap();
    for _ in 0..5 {
        node.say(other, b"y").await;
    }
    node.until("the other goes on", |node| node.unsettled() == 1).await;
    redis::cmd("DEL").arg(stream(partition(0))).exec_async(&mut redis).await.unwrap();
    node.until("it goes on", |node| node.unsettled() == 0).await;
    assert_eq!(all(&mut redis, partition(0)).await.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_server_without_memory_gets_everything_in_order_when_it_has_some() {
    let server = Redis::start(&["--maxmemory", "1mb"]);
    let mut redis = server.connection().await;
    let mut node = Node::start("one", server.server()).await;
    for _ in 0..5 {
        node.say(0, b"x").await;
    }
    node.until("it is tried", |node| node.bus.stats().unwrap().inbound_retries.value() > 0).await;
    assert_eq!(node.unsettled(), 5);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec_async(&mut redis).await.unwrap();
    node.until("it goes on", |node| node.unsettled() == 0).await;
    let partition = bridge::Address { shard: 0, slot: 0, generation: 1 }.partition(4);
    let all = sequences(all(&mut redis, partition).await.iter().map(|(_, entry)| entry));
    assert_eq!(all.into_values().next().unwrap(), [1, 2, 3, 4, 5]);
    node.stop().await;
}

#[tokio::test]
async fn a_route_that_does_not_wait_gives_up_while_the_server_is_away() {
    let mut server = Redis::start(&[]);
    for (on_loss, closed) in [(OnLoss::Drop, vec![]), (OnLoss::Close, vec![3])] {
        let mut node = Node::start_with("one", server.server(), 1000, on_loss).await;
        node.is_up().await;
        server.kill();
        node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
        node.say(3, b"x").await;
        node.until("it is given up", |node| node.unsettled() == 0).await;
        assert_eq!(node.closed, closed);
        assert_eq!(node.bus.stats().unwrap().inbound_left_out.value(), 1);
        node.stop().await;
        server.restart();
    }
}

#[tokio::test]
async fn a_gap_that_waits_is_told_though_the_bus_is_lost_again_and_the_route_does_not_wait() {
    let server = Redis::start(&[]);
    let mut redis = server.connection().await;
    let mut node = Node::start_with("one", server.server(), 4, OnLoss::Drop).await;
    node.is_up().await;
    for _ in 0..4 {
        node.say(0, b"x").await;
    }
    node.until("its stream is full", |node| node.bus.stats().unwrap().inbound.value() == 4).await;
    let mut noticed = Vec::new();
    for losses in 1..=2 {
        server.cut(&mut redis).await;
        node.until("the loss is noticed", |node| node.bus.stats().unwrap().losses.value() == losses).await;
        noticed.push(wall_ms());
        node.is_up().await;
    }
    let partition = bridge::Address { shard: 0, slot: 0, generation: 1 }.partition(4);
    redis::cmd("DEL").arg(stream(partition)).exec_async(&mut redis).await.unwrap();
    let (from_ms, to_ms) = gap(&mut redis, partition).await;
    assert!(from_ms <= noticed[0], "{from_ms} and {noticed:?}: the first gap is forgotten");
    assert!(to_ms >= noticed[1], "{to_ms} and {noticed:?}: the second one is");
    node.stop().await;
}

#[tokio::test]
async fn who_is_to_be_closed_is_closed_though_the_mailbox_had_no_room() {
    const FILLER: u32 = 1;
    let mut server = Redis::start(&[]);
    let mut node = Node::start_with("one", server.server(), 1000, OnLoss::Close).await;
    node.is_up().await;
    server.kill();
    node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
    let left_out = |node: &Node| node.bus.stats().unwrap().inbound_left_out.value();
    let started = Instant::now();
    let mut looks = tokio::time::interval(PAUSE);
    // The order is repeated for a while and not for ever, and this process may not get its turn meanwhile.
    for slot in 2.. {
        let already = left_out(&node);
        node.fill_mailbox(FILLER);
        node.say(slot, b"x").await;
        node.say(FILLER, b"y").await;
        // One is given up after the other, so the order about the first has found no room.
        while left_out(&node) < already + 2 {
            looks.tick().await;
            assert!(started.elapsed() < PATIENCE, "nothing is given up");
        }
        node.until("both are settled", |node| node.unsettled() == 0).await;
        let is_closed = |node: &mut Node| node.closed.contains(&slot);
        let waited = async { node.until("its order comes", is_closed).await };
        if tokio::time::timeout(Duration::from_secs(2), waited).await.is_ok() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the order is lost");
    }
    node.stop().await;
}

#[tokio::test]
async fn nothing_is_in_a_stream_before_an_answer_would_be_heard() {
    let server = Redis::start(&[]);
    let password = server.folder.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let mut redis = server.connection().await;
    let login = Server { user: Some("edge".to_owned()), password_file: Some(password), ..server.server() };
    let rights = ["SETUSER", "edge", "on", ">secret", "~gateway:*", "&gateway:*", "+@all"];
    redis::cmd("ACL").arg(&rights).exec_async(&mut redis).await.unwrap();
    let mut node = Node::start("one", login).await;
    node.is_up().await;
    let mut acl = redis::pipe();
    acl.cmd("ACL").arg(&["SETUSER", "edge", "-subscribe"]).ignore();
    acl.cmd("CLIENT").arg(&["KILL", "USER", "edge"]).ignore();
    acl.exec_async(&mut redis).await.unwrap();
    node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
    node.say(0, b"hello").await;
    // Both other connections have been there for so long without anything to do that they asked whether Redis is.
    let started = Instant::now();
    let mut looks = tokio::time::interval(PAUSE);
    loop {
        looks.tick().await;
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await.unwrap();
        let idle = clients.lines().filter(|line| line.contains(" user=edge ") && line.contains(" cmd=ping "));
        if idle.count() >= 2 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{clients}");
    }
    node.look();
    let stream = stream(bridge::Address { shard: 0, slot: 0, generation: 1 }.partition(4));
    let length: u64 = redis::cmd("XLEN").arg(&stream).query_async(&mut redis).await.unwrap();
    assert_eq!((length, node.unsettled()), (0, 1));
    redis::cmd("ACL").arg(&["SETUSER", "edge", "+subscribe"]).exec_async(&mut redis).await.unwrap();
    node.is_up().await;
    node.until("it is settled", |node| node.unsettled() == 0).await;
    let length: u64 = redis::cmd("XLEN").arg(&stream).query_async(&mut redis).await.unwrap();
    assert_eq!(length, 2, "and the gap");
    node.stop().await;
}
