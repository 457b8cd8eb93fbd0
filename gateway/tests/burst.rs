//! Promise: whoever listens is not slow because much comes at once. A backlog is for what a socket does not take, and
//! nobody is closed, and nothing left out, for what merely came in the same moment. And what the kernel does not take of
//! a burst of small messages is not much: whoever looks away for as long as that takes hears it all.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fmt::Write as _;

use harness::{Client, Gateway, TEXT, frame};
use serde_json::json;

/// Said at once in each of two rooms. All of it together is less than kernels take for anybody.
const MESSAGES: usize = 1000;
/// Said at once to somebody who looks away: more than kernels hold of them, and fewer than may wait beside that.
const UNSEEN: usize = 550;
/// Far fewer may wait.
const FRAMES: usize = 32;

/// A gateway with little room behind a socket, whose listeners in a room and to the news have this policy.
fn gateway(policy: &str) -> Gateway {
    let mut text = format!("[backlog]\nframes = {FRAMES}\n");
    for (name, path, rest) in [
        ("hear", "/hear/{room}", "subscribe = ['room.{room}', 'news']\ninbound = 'ignore'"),
        ("say", "/say/{room}", "inbound = { publish = 'room.{room}' }"),
        ("tell", "/tell", "inbound = { publish = 'news' }"),
    ] {
        writeln!(text, "[[route]]\nname = '{name}'\npath = '{path}'\n{rest}").unwrap();
        writeln!(text, "slow_consumer = '{policy}'").unwrap();
    }
    Gateway::start(&text)
}

/// It hears all of two streams, each in its order.
#[track_caller]
fn hears_all(client: &mut Client, streams: [&str; 2]) {
    let mut next = [0; 2];
    for _ in 0..2 * MESSAGES {
        let text = client.hear_text();
        let (name, number) = text.split_once(' ').unwrap();
        let stream = streams.iter().position(|stream| *stream == name).unwrap();
        assert_eq!(number.parse::<usize>().unwrap(), next[stream], "{name}");
        next[stream] += 1;
    }
    assert_eq!(next, [MESSAGES; 2]);
}

/// So many messages in one segment, each with its number.
fn burst(count: usize, name: &str, padding: &str) -> Vec<u8> {
    let one = |number| frame(0x80 | TEXT, format!("{name} {number}{padding}").as_bytes());
    (0..count).flat_map(one).collect()
}

fn nothing_was_lost(gateway: &Gateway) {
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("gateway_deliveries_dropped_total"), 0.0);
    assert_eq!(metrics.ended("slow_consumer"), 0.0);
}

#[test]
fn a_thousand_messages_in_one_segment_close_nobody_and_push_out_nothing() {
    for policy in ["close", "drop_newest", "drop_oldest", "keep_latest"] {
        let gateway = gateway(policy);
        let (mut near, mut far) = gateway.clients_on_two_shards("/hear/lobby");
        let (mut sayer, mut teller) = (gateway.upgraded("/say/lobby"), gateway.upgraded("/tell"));
        // Both lie in their sockets when the shards look, so that two rooms are busy in the same turn.
        gateway.freeze();
        sayer.send(&burst(MESSAGES, "a", ""));
        teller.send(&burst(MESSAGES, "b", ""));
        gateway.thaw();
        hears_all(&mut near, ["a", "b"]);
        hears_all(&mut far, ["a", "b"]);
        nothing_was_lost(&gateway);
        gateway.stop();
    }
}

#[test]
fn a_whole_batch_of_the_api_closes_nobody_and_pushes_out_nothing() {
    for policy in ["close", "drop_newest", "drop_oldest", "keep_latest"] {
        let gateway = gateway(policy);
        let (mut near, mut far) = gateway.clients_on_two_shards("/hear/lobby");
        let mut http = gateway.http();
        for half in 0..2 {
            let numbers = half * MESSAGES / 2..(half + 1) * MESSAGES / 2;
            let messages: Vec<_> = numbers
                .flat_map(|number| {
                    [("room.lobby", "a"), ("news", "b")].map(
                        |(channel, name)| json!({ "channel": channel, "text": format!("{name} {number}") }),
                    )
                })
                .collect();
            let batch = json!({ "messages": messages }).to_string();
            http.post("/v1/publish", "application/json", batch.as_bytes()).good(202);
        }
        hears_all(&mut near, ["a", "b"]);
        hears_all(&mut far, ["a", "b"]);
        nothing_was_lost(&gateway);
        gateway.stop();
    }
}

#[test]
fn who_looks_away_while_a_burst_of_small_messages_comes_hears_all_of_it() {
    let padding = " ".repeat(250);
    let gateway = Gateway::start("");
    let mut listener = gateway.upgraded("/rooms/lobby");
    // So that the kernels of both sides hold some of them, and the others wait here.
    listener.take_little();
    let mut sayer = gateway.upgraded("/rooms/lobby");
    sayer.send(&burst(UNSEEN, "a", &padding));
    gateway.until("all have been said, and not few wait", |metrics| {
        metrics.value("gateway_deliveries_total") == (2 * UNSEEN) as f64
            && metrics.value("gateway_backlog_entries") > 256.0
    });
    for number in 0..UNSEEN {
        let (first, payload) = listener.frame();
        assert_eq!((first, payload), (0x80 | TEXT, format!("a {number}{padding}").into_bytes()));
    }
    nothing_was_lost(&gateway);
    gateway.stop();
}
