//! Promise: a client that does not read what it is sent costs its bounded backlog and nobody else anything: it is
//! closed with 1013 when the bound is reached, and what it did get is whole.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::ErrorKind;

use harness::{BINARY, Bystander, CLOSE, Gateway, Http};
use tungstenite::Message;

const BOUNDED: &str = "
[websocket]
message_bytes = '64KiB'

[backlog]
bytes = '256KiB'

[timeouts]
linger = '300ms'
";
/// Bytes of one message; its first four are its number.
const MESSAGE_BYTES: usize = 60_000;
/// Far more than kernels hold for one connection.
const MESSAGES_MAX: u32 = 2000;

/// Publishes until somebody's backlog is full, and does this after each message. How many were published.
#[track_caller]
fn publish_until_dropped(http: &mut Http, mut after: impl FnMut(u32)) -> u32 {
    for number in 0..MESSAGES_MAX {
        let mut payload = vec![0; MESSAGE_BYTES];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let answer = http.post("/v1/channels/room.lobby/messages", "application/octet-stream", &payload);
        let dropped = answer.good(202).json()["dropped"] != 0;
        after(number);
        if dropped {
            return number + 1;
        }
    }
    panic!("the backlog has no bound");
}

#[test]
fn a_backlog_at_its_bound_closes_1013_behind_whole_messages_in_order() {
    let gateway = Gateway::start(BOUNDED);
    let bystander = Bystander::beside(&gateway);
    let mut raw = gateway.upgraded("/rooms/lobby");
    let published = publish_until_dropped(&mut gateway.http(), |_| {});
    let mut next = 0_u32;
    let close = loop {
        let (first, payload) = raw.frame();
        if first == 0x80 | CLOSE {
            break payload;
        }
        assert_eq!((first, payload.len()), (0x80 | BINARY, MESSAGE_BYTES));
        assert_eq!(payload[..4], next.to_be_bytes());
        next += 1;
    };
    assert_eq!(close[..2], 1013_u16.to_be_bytes());
    assert_eq!(close[2..], *b"{\"reason\":\"slow_consumer\"}");
    assert!(0 < next && next < published, "{next} of {published}");
    assert_eq!(raw.rest(), b"");
    let metrics = gateway.until_only(1);
    assert_eq!(metrics.ended("slow_consumer"), 1.0);
    assert_eq!(metrics.value("gateway_deliveries_total"), f64::from(published));
    assert_eq!(
        metrics.value("gateway_deliveries_dropped_total{policy=\"close\"}"),
        f64::from(published - next)
    );
    bystander.was_not_disturbed();
    gateway.until_only(0);
    gateway.stop();
}

#[test]
fn a_client_that_never_reads_is_cut_off_when_it_does_not_take_its_goodbye() {
    let gateway = Gateway::start(&format!("{BOUNDED}close = '300ms'"));
    let bystander = Bystander::beside(&gateway);
    let mut raw = gateway.upgraded("/rooms/lobby");
    publish_until_dropped(&mut gateway.http(), |_| {});
    gateway.until("it was ended", |m| m.ended("slow_consumer") == 1.0);
    gateway.until_only(1);
    // What was cut off ends in a reset: a plain end would say that this was all.
    let end = loop {
        match raw.next_frame() {
            Ok((first, _)) => assert_ne!(first, 0x80 | CLOSE),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, ErrorKind::ConnectionReset);
    bystander.was_not_disturbed();
    gateway.stop();
}

#[test]
fn one_deaf_member_holds_up_no_other() {
    let gateway = Gateway::start(BOUNDED);
    let _deaf = gateway.upgraded("/rooms/lobby");
    let mut member = gateway.client("/rooms/lobby");
    let mut http = gateway.http();
    // It listens as fast as is spoken, also on a busy machine: each message is heard before the next one is said.
    publish_until_dropped(&mut http, |number| match member.hear() {
        Message::Binary(payload) => assert_eq!(payload[..4], number.to_be_bytes()),
        other => panic!("the other member missed {number}: {other:?}"),
    });
    http.post("/v1/channels/room.lobby/messages", "text/plain", b"that was all").good(202);
    member.hears("that was all");
    gateway.stop();
}

/// Messages to a deaf member of a room on a route with this policy, and then what it hears when it listens again.
fn heard_under(policy: &str) -> (u32, Vec<u32>) {
    let route = format!(
        "[[route]]\nname = 'rooms'\npath = '/rooms/{{room}}'\nsubscribe = ['room.{{room}}']\ninbound = 'ignore'\n\
         slow_consumer = '{policy}'\n[[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n"
    );
    let gateway = Gateway::start(&format!("{BOUNDED}\n{route}"));
    let bystander = Bystander::beside(&gateway);
    let mut raw = gateway.upgraded("/rooms/lobby");
    raw.take_little();
    let mut http = gateway.http();
    let series = format!("gateway_deliveries_dropped_total{{policy=\"{policy}\"}}");
    let mut published: u32 = 0;
    loop {
        let mut payload = vec![0; MESSAGE_BYTES];
        payload[..4].copy_from_slice(&published.to_be_bytes());
        http.post("/v1/channels/room.lobby/messages", "application/octet-stream", &payload).good(202);
        published += 1;
        if gateway.metrics().value(&series) >= 5.0 {
            break;
        }
        assert!(published < MESSAGES_MAX, "nothing is ever dropped");
    }
    // Said to it alone, so it gives way to nothing, and stands behind all that waits.
    let id = http.call("GET", "/v1/connections").json()["connections"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["route"] == "rooms")
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .unwrap();
    http.post(&format!("/v1/connections/{id}/messages"), "text/plain", b"that was all").good(202);
    let mut heard = Vec::new();
    loop {
        let (first, payload) = raw.frame();
        if first == 0x80 | harness::TEXT {
            break;
        }
        assert_eq!((first, payload.len()), (0x80 | BINARY, MESSAGE_BYTES));
        heard.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
    }
    assert!(heard.is_sorted_by(|one, next| one < next), "{heard:?}");
    let dropped = gateway.metrics().value(&series);
    assert_eq!(heard.len() as f64 + dropped, f64::from(published), "{heard:?}");
    bystander.was_not_disturbed();
    gateway.stop();
    (published, heard)
}

#[test]
fn the_newest_give_way_where_the_route_says_so() {
    let (published, heard) = heard_under("drop_newest");
    let kept = heard.len() as u32;
    assert!(kept < published && heard == (0..kept).collect::<Vec<_>>(), "{heard:?} of {published}");
}

#[test]
fn the_oldest_give_way_where_the_route_says_so() {
    let (published, heard) = heard_under("drop_oldest");
    assert_eq!(heard.last(), Some(&(published - 1)), "{heard:?} of {published}");
    assert_eq!(heard[heard.len() - 3..], ((published - 3)..published).collect::<Vec<_>>()[..]);
}

#[test]
fn only_the_latest_waits_where_the_route_says_so() {
    let (published, heard) = heard_under("keep_latest");
    assert_eq!(heard.last(), Some(&(published - 1)), "{heard:?} of {published}");
    assert!(heard[heard.len() - 2] < published - 2, "{heard:?} of {published}");
}
