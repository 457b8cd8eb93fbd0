//! Promise: an operator who is asked "why was I cut off?", "what is this connection doing?" and "who is it that costs so
//! much?" finds the answer by asking the node.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Gateway, Http, eventually};
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
