//! Promise: a redis-server that stands still under load, its sockets open and nobody reading them, disturbs no client and
//! nobody on the same node. It is noticed before any node is taken for lost, app servers are told from when to when, and
//! afterwards everybody hears everybody, and every event is in its stream.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use harness::{Bystander, Client, Entry, Gateway, Redis, RedisServer};

const UP: &str = "gateway_bus_up{bus=\"redis\"}";
const STREAM: &str = "gateway:inbound:app:0";
/// How long it stands still at least: longer than it takes to hold a silent node for lost.
const FROZEN: Duration = Duration::from_secs(10);
/// Between two messages of a client in a room.
const PACE: Duration = Duration::from_millis(20);
/// Clients who tell app servers something once in so many of those.
const TELLERS: usize = 20;
const TELL_EVERY: u32 = 10;
/// Before it stood still it was heard, on a machine however busy, within so many milliseconds.
const SLACK_MS: u64 = 7_000;

fn node(name: &str, server: &RedisServer) -> Gateway {
    let url = server.url();
    Gateway::start(&format!(
        "[node]\nname = '{name}'\n[bus]\nkind = 'redis'\npartitions = 1\n\
         [bus.redis]\nserver = '{url}'\nstream_entries = 1000000\n\
         [[route]]\nname = 'room'\npath = '/room'\nsubscribe = ['room']\ninbound = {{ publish = 'room' }}\n\
         [[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n\
         [[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n"
    ))
}

fn wall_ms() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

/// Waits until both are there and each hears the other's client.
#[track_caller]
fn acquaint(here: &mut Client, there: &mut Client, gateways: [&Gateway; 2]) {
    for gateway in gateways {
        gateway.until("all are there", |m| {
            (m.value(UP), m.value("gateway_nodes"), m.value("gateway_bus_subscriptions")) == (1.0, 2.0, 1.0)
        });
    }
    here.say("hello");
    for client in [&mut *here, &mut *there] {
        client.hears("hello");
    }
    there.say("and back");
    for client in [here, there] {
        client.hears("and back");
    }
}

/// What a client hears of one that counts, until this.
#[track_caller]
fn numbers_until(client: &mut Client, sender: &str, last: u32) -> Vec<u32> {
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        let text = client.hear_text();
        heard.extend(text.strip_prefix(sender).and_then(|number| number.trim().parse::<u32>().ok()));
    }
    heard
}

/// By connection, what it said: each number from 0 is there, for the first time in order. How many there are.
#[track_caller]
fn told(entries: &[Entry]) -> BTreeMap<&str, u32> {
    let mut next = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.field("event") == "message") {
        let number: u32 = std::str::from_utf8(entry.payload()).unwrap().parse().unwrap();
        let next = next.entry(entry.field("connection")).or_default();
        assert!(number <= *next, "{number} comes before {next}: {entry:?}");
        *next += u32::from(number == *next);
    }
    next
}

#[test]
fn a_server_that_stands_still_disturbs_nobody_and_afterwards_everything_is_there() {
    let server = RedisServer::start();
    let (a, b) = (node("a", &server), node("b", &server));
    let mut watcher = Redis::connect(server.port);
    watcher.subscribe("gateway:node");
    let (mut on_a, mut on_b) = (a.client("/room"), b.client("/room"));
    let mut tellers: Vec<Client> = (0..TELLERS).map(|_| a.client("/app")).collect();
    acquaint(&mut on_a, &mut on_b, [&a, &b]);
    let beside = [Bystander::beside(&a), Bystander::beside(&b)];

    server.freeze();
    let frozen_ms = wall_ms();
    let (frozen, mut number, mut told_of, mut noticed_at) = (Instant::now(), 0, 0, None);
    while frozen.elapsed() < FROZEN {
        on_a.echoes(&format!("a {number}"));
        on_b.echoes(&format!("b {number}"));
        if number % TELL_EVERY == 0 {
            tellers.iter_mut().for_each(|teller| teller.say(&told_of.to_string()));
            told_of += 1;
        }
        number += 1;
        let shown = [&a, &b].map(Gateway::metrics);
        for metrics in &shown {
            assert_eq!(metrics.value("gateway_nodes"), 2.0, "after {:?}", frozen.elapsed());
        }
        if noticed_at.is_none() && shown.iter().all(|metrics| metrics.value(UP) == 0.0) {
            noticed_at = Some(number);
        }
        std::thread::park_timeout(PACE);
    }
    let noticed_at = noticed_at.expect("both notice");
    a.http().post("/v1/channels/room/messages", "text/plain", b"api").problem(503, "bus_away");
    on_a.hears("api");

    let thawed_ms = wall_ms();
    server.thaw();
    for gateway in [&a, &b] {
        let back = gateway.until("the bus is back", |m| m.value(UP) == 1.0);
        assert_eq!((back.value("gateway_nodes"), back.value("gateway_bus_losses_total")), (2.0, 1.0));
    }
    let back_ms = wall_ms();
    // What was under way when it stood still may be lost; nothing else is, nor comes twice or in disorder.
    for (hears, sender) in [(&mut on_a, "b"), (&mut on_b, "a")] {
        let heard = numbers_until(hears, sender, number - 1);
        assert!(heard.is_sorted_by(|one, next| one < next), "{sender}: {heard:?}");
        let later: Vec<u32> = heard.into_iter().filter(|heard| *heard >= noticed_at).collect();
        assert_eq!(later, (noticed_at..number).collect::<Vec<u32>>(), "{sender}");
    }
    acquaint(&mut on_a, &mut on_b, [&a, &b]);

    a.until("all is told", |m| m.value("gateway_inbound_events_unsettled") == 0.0);
    let mut redis = Redis::connect(server.port);
    let gaps_of = |entries: &[Entry]| -> Vec<Entry> {
        entries.iter().filter(|entry| entry.field("event") == "gap").cloned().collect()
    };
    let entries = harness::eventually("both tell of their gap", || {
        let entries = redis.entries(STREAM);
        (gaps_of(&entries).len() == 2).then_some(entries)
    });
    assert_eq!(told(&entries).into_values().collect::<Vec<u32>>(), [told_of; TELLERS]);
    let gaps = gaps_of(&entries);
    assert_ne!(gaps[0].field("node"), gaps[1].field("node"));
    for gap in gaps {
        let ms = |field| gap.field(field).parse::<u64>().unwrap();
        let (from_ms, to_ms) = (ms("from-ms"), ms("to-ms"));
        assert!((frozen_ms - SLACK_MS..=frozen_ms).contains(&from_ms), "{from_ms}: frozen at {frozen_ms}");
        assert!((thawed_ms..=back_ms).contains(&to_ms), "{to_ms}: thawed at {thawed_ms}, back by {back_ms}");
    }
    redis.publish("gateway:node", b"the end");
    assert_eq!(watcher.hear(), b"the end", "nobody was told of as lost");
    beside.into_iter().for_each(Bystander::was_not_disturbed);
    a.stop();
    b.stop();
}
