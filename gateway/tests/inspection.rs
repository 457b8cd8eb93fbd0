//! Promise: an operator who is asked "why was I cut off?", "what is this connection doing?" and "who is it that costs so
//! much?" finds the answer by asking the node.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::{BINARY, Gateway, Http, eventually, frame};
use serde_json::Value;

/// The endings that this query finds.
#[track_caller]
fn endings(http: &mut Http, query: &str) -> Vec<Value> {
    let found = http.call("GET", &format!("/v1/endings?{query}")).good(200).json();
    found["endings"].as_array().unwrap().clone()
}

#[test]
fn an_ending_is_found_by_its_reason_and_agrees_with_the_log() {
    let gateway = Gateway::start("");
    let (mut closed, left) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut stays = gateway.client("/echo");
    let (closed_id, left_id) = (closed.id.clone(), left.id.clone());
    closed.say("hello");
    closed.hears("hello");
    left.leave();
    let mut http = gateway.http();
    http.call("DELETE", &format!("/v1/connections/{closed_id}?code=4001")).good(202);
    closed.told_to_go();
    let ending = eventually("the ending is told", || endings(&mut http, "reason=api_close").pop());
    assert_eq!(
        (&ending["id"], &ending["peer"], &ending["route"], &ending["user"]),
        (&closed_id.as_str().into(), &"127.0.0.1".into(), &"rooms".into(), &Value::Null)
    );
    assert_eq!((&ending["sent_code"], &ending["received_code"]), (&4001.into(), &4001.into()));
    assert_eq!((&ending["messages_in"], &ending["bytes_out"]), (&1.into(), &5.into()));
    let line: Value = serde_json::from_str(&gateway.logged(&["connection ended", "api_close"])).unwrap();
    for (in_log, in_answer) in [
        ("connection", "id"),
        ("peer", "peer"),
        ("route", "route"),
        ("reason", "reason"),
        ("messages_received", "messages_in"),
        ("messages_sent", "messages_out"),
        ("bytes_received", "bytes_in"),
        ("bytes_sent", "bytes_out"),
        ("sent_code", "sent_code"),
        ("received_code", "received_code"),
    ] {
        assert_eq!(line[in_log], ending[in_answer], "{in_log}: {line}");
    }
    let since = ending["ended_ms"].as_u64().unwrap();
    let of_lobby = eventually("both are told", || {
        let found = endings(&mut http, "route=rooms&peer=127.0.0.0/8&since=1h");
        let ids: Vec<String> = found.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        (ids.contains(&left_id) && ids.contains(&closed_id)).then_some(found)
    });
    assert!(of_lobby.windows(2).all(|two| two[0]["ended_ms"].as_u64() >= two[1]["ended_ms"].as_u64()));
    assert!(endings(&mut http, "peer=192.0.2.1").is_empty());
    assert!(endings(&mut http, &format!("since={}", since + 3_600_000)).is_empty());
    stays.echoes("nobody else is concerned");
    gateway.stop();
}

#[test]
fn the_memory_of_endings_is_as_long_as_configured() {
    let gateway = Gateway::start("[inspection]\nendings = 3\n[shards]\ncount = 1");
    let ids: Vec<String> = (0..5)
        .map(|_| {
            let client = gateway.client("/echo");
            let id = client.id.clone();
            client.leave();
            id
        })
        .collect();
    let mut http = gateway.http();
    let kept = eventually("the last one is told", || {
        let kept = endings(&mut http, "");
        kept.first().is_some_and(|newest| newest["id"] == ids[4]).then_some(kept)
    });
    let kept: Vec<&str> = kept.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(kept, [&ids[4], &ids[3], &ids[2]]);
    gateway.stop();
}

/// What a description says of a connection that is being looked for.
#[track_caller]
fn described(http: &mut Http, id: &str) -> Value {
    http.call("GET", &format!("/v1/connections/{id}")).good(200).json()
}

#[test]
fn a_connection_is_described_by_what_it_holds_and_what_holds_it_up() {
    let gateway = Gateway::start("[shards]\ncount = 1");
    let mut http = gateway.http();
    let mut raw = gateway.upgraded("/echo");
    let page = http.call("GET", "/v1/connections").good(200).json();
    let id = page["connections"][0]["id"].as_str().unwrap().to_owned();
    let quiet = described(&mut http, &id);
    assert_eq!((&quiet["phase"], &quiet["user"]), (&"open".into(), &Value::Null));
    assert_eq!((&quiet["paused"], &quiet["closing"]), (&serde_json::json!([]), &Value::Null));
    assert_eq!((&quiet["partial_bytes"], &quiet["peer_connections"]), (&0.into(), &1.into()));
    assert_eq!((&quiet["limiter"]["messages"], &quiet["limiter"]["wait_ms"]), (&0.into(), &0.into()));
    // Half a message is held.
    let whole = frame(0x80 | BINARY, &[7; 1000]);
    raw.send(&whole[..600]);
    eventually("half a message is shown", || {
        (described(&mut http, &id)["partial_bytes"].as_u64()? >= 500).then_some(())
    });
    raw.send(&whole[600..]);
    assert_eq!(raw.frame(), (0x80 | BINARY, vec![7; 1000]));
    // It asks for echoes and does not listen: the replies wait, and so does it.
    raw.take_little();
    let (bytes, mut taken) = (frame(0x80 | BINARY, &[1; 60_000]), 0);
    let stuck = eventually("it is paused", || {
        // A busy machine may take its time between two reads: only the gateway knows when it has stopped.
        taken = raw.send_until_stuck(&bytes, taken, Duration::from_millis(100));
        let seen = described(&mut http, &id);
        (seen["paused"] == serde_json::json!(["reply"])).then_some(seen)
    });
    assert!(stuck["backlog_bytes"].as_u64().unwrap() > 0, "{stuck}");
    let reason = "gateway_connections_paused_by_reason{reason=\"reply\"}";
    assert_eq!(gateway.metrics().value(reason), 1.0);
    gateway.stop();
}

#[test]
fn the_largest_and_the_busiest_are_found_over_all_shards() {
    let gateway = Gateway::start("");
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/large");
    let _alone = gateway.client("/rooms/small");
    let mut loud = gateway.client("/echo");
    for number in 0..20 {
        loud.echoes(&format!("{number} {}", "x".repeat(500)));
    }
    near.say("to both");
    near.hears("to both");
    far.hears("to both");
    let mut http = gateway.http();
    let mut top = |query: &str| http.call("GET", &format!("/v1/top?{query}")).good(200).json();
    let channels = top("by=channel");
    let expected = serde_json::json!([
        { "amount": 2, "channel": "room.large" },
        { "amount": 1, "channel": "room.small" },
    ]);
    assert_eq!((&channels["top"], &channels["exact"]), (&expected, &true.into()));
    let peers = top("by=peer")["top"].clone();
    assert_eq!(peers, serde_json::json!([{ "amount": 4, "peer": "127.0.0.1" }]));
    assert_eq!(top("by=channel&limit=1")["top"].as_array().unwrap().len(), 1);
    for (query, amount) in [("by=bytes&limit=1", 2 * (10 * 502 + 10 * 503)), ("by=messages&limit=1", 40)] {
        let busiest = &top(query)["top"][0];
        assert_eq!(
            (&busiest["connection"]["id"], &busiest["amount"]),
            (&loud.id.as_str().into(), &amount.into())
        );
        assert_eq!(busiest["connection"]["route"], "echo");
    }
    assert_eq!(
        top("by=messages")["top"].as_array().unwrap().len(),
        3,
        "who has said and heard nothing is not busy"
    );
    gateway.http().call("GET", "/v1/top").problem(400, "bad_request");
    gateway.http().call("GET", "/v1/top?by=user").problem(400, "bad_request");
    gateway.stop();
}
