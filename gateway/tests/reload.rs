//! Promise: what may change while the gateway runs is changed without touching a connection, what may not is refused by
//! its key, and then nothing changes.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Gateway, Http, TEXT, frame};
use nix::sys::signal::Signal;
use serde_json::Value;

const ECHO: &str = "[[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n";

fn rooms(policy: &str) -> String {
    let route = "[[route]]\nname = 'rooms'\npath = '/rooms/{room}'\nsubscribe = ['room.{room}']";
    format!("{route}\ninbound = {{ publish = 'room.{{room}}' }}\n{policy}\n")
}

/// The keys that a reload says it changed.
#[track_caller]
fn reload(http: &mut Http) -> Vec<String> {
    let answer = http.call("POST", "/v1/reload").good(200).json();
    let number = &answer["number"];
    assert!(answer["shards"].as_array().unwrap().iter().all(|shard| shard == number), "{answer}");
    answer["changed"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect()
}

fn rules(http: &mut Http) -> Value {
    http.call("GET", "/v1/node").good(200).json()["rules"].take()
}

#[test]
fn policies_of_routes_change_under_their_connections() {
    let gateway = Gateway::start(&format!("{}{ECHO}", rooms("")));
    let mut http = gateway.http();
    let mut talker = gateway.upgraded("/echo");
    let mut stays = gateway.client("/rooms/lobby");
    let text =
        format!("{ECHO}message_bytes = '4'\n{}{}", rooms("exclude_self = true"), ECHO.replace("echo", "new"));
    gateway.configure(&text.replace("inbound = 'new'", "inbound = 'echo'"));
    assert_eq!(reload(&mut http), ["route.echo.message_bytes", "route.new", "route.rooms.exclude_self"]);
    assert_eq!(rules(&mut http), serde_json::json!({ "number": 2, "shards": [2, 2] }));
    gateway.client("/new").echoes("a route that came");
    // The connection is the one it was, and what it sends from now on is judged by the new rules.
    talker.send(&frame(0x80 | TEXT, b"four"));
    talker.send(&frame(0x80 | TEXT, b"more than four"));
    let rest = talker.rest();
    assert!(rest.windows(4).any(|window| window == b"four"), "{rest:?}");
    assert!(rest.windows(2).any(|window| window == 1009_u16.to_be_bytes()), "{rest:?}");
    let names = http.call("GET", "/v1/node").good(200).json()["routes"].take();
    assert_eq!(
        (&names[0]["name"], &names[1]["name"], &names[2]["name"]),
        (&"rooms".into(), &"echo".into(), &"new".into())
    );
    let mut other = gateway.client("/rooms/lobby");
    stays.say("unheard by myself");
    other.hears("unheard by myself");
    other.say("heard by the other");
    stays.hears("heard by the other");
    gateway.stop();
}

#[test]
fn a_key_that_takes_a_restart_is_named_and_nothing_changes() {
    let gateway = Gateway::start(&format!("{}{ECHO}", rooms("")));
    let mut http = gateway.http();
    gateway.configure(&format!("[mailbox]\ncommands = 99\n[heartbeat]\ninterval = '7s'\n{ECHO}"));
    let refusal = http.call("POST", "/v1/reload").good(409).json();
    assert_eq!(refusal["reason"], "cannot_change");
    let detail = refusal["detail"].as_str().unwrap();
    assert!(detail.contains("mailbox.commands (4096 to 99)") && detail.contains("route.rooms"), "{detail}");
    assert!(!detail.contains("heartbeat"), "only what is in the way: {detail}");
    gateway.configure("[heartbeat]\ninterval = 7\npong = '1s'\n");
    let refusal = http.call("POST", "/v1/reload").good(422).json();
    let detail = refusal["detail"].as_str().unwrap();
    assert!(detail.contains("heartbeat.interval") && detail.contains("heartbeat.pong"), "{detail}");
    assert_eq!(rules(&mut http)["number"], 1);
    gateway.client("/rooms/lobby").echoes("still there");
    gateway.stop();
}

#[test]
fn tokens_and_bounds_of_the_api_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (file, old, new) =
        (folder.path().join("tokens"), "the-first-token-of-all", "the-second-token-of-all");
    std::fs::write(&file, format!("{old} publish,read\n")).unwrap();
    let text = format!("[api]\ntokens_file = '{}'\n", file.display());
    let gateway = Gateway::start(&text);
    let mut http = gateway.http();
    let status = |http: &mut Http, token: &str| {
        http.send("GET", "/v1/connections", &[("Authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!((status(&mut http, old), status(&mut http, new)), (200, 401));
    std::fs::write(&file, format!("{new} publish,read\n")).unwrap();
    assert_eq!(
        (status(&mut http, old), status(&mut http, new)),
        (200, 401),
        "a file that changes is not yet read"
    );
    assert_eq!(reload(&mut http), Vec::<String>::new());
    assert_eq!((status(&mut http, old), status(&mut http, new)), (401, 200));
    gateway.stop();
}

#[test]
fn sighup_reloads_again_and_again_and_closes_nobody() {
    let gateway = Gateway::start(&format!("{}{ECHO}", rooms("")));
    let mut http = gateway.http();
    let mut stays = gateway.client("/echo");
    for round in 2..12 {
        gateway.configure(&format!("[heartbeat]\ninterval = '{round}s'\n{}{ECHO}", rooms("")));
        gateway.signal(Signal::SIGHUP);
        gateway.until("the rules are obeyed", |m| m.sum("gateway_shard_rules") == f64::from(2 * round));
        stays.echoes("still here");
    }
    assert_eq!(rules(&mut http), serde_json::json!({ "number": 11, "shards": [11, 11] }));
    gateway.logged(&["reloaded", "heartbeat.interval"]);
    gateway.stop();
}
