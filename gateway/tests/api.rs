//! Promise: an app server speaks to rooms and to single connections over HTTP, learns what became of it, and an id
//! that is no longer anybody's reaches nobody.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;

use harness::Gateway;
use serde_json::{Value, json};
use tungstenite::Message;

const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";
const LOBBY: &str = "/v1/channels/room.lobby/messages";

#[test]
fn a_publish_reaches_every_shard_and_says_how_many_heard() {
    let gateway = Gateway::start("");
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut http = gateway.http();
    let receipt = http.post(LOBBY, TEXT, "grüße".as_bytes()).good(202).json();
    assert_eq!((&receipt["subscribers"], &receipt["dropped"]), (&2.into(), &0.into()), "{receipt}");
    http.post(LOBBY, "application/json", b"{\"a\":1}").good(202);
    http.post(LOBBY, BYTES, &[0, 255]).good(202);
    for client in [&mut near, &mut far] {
        client.hears("grüße");
        client.hears("{\"a\":1}");
        assert_eq!(client.hear(), Message::binary(vec![0, 255]));
    }
    let receipt = http.post("/v1/channels/room.empty/messages", TEXT, b"hello?").good(202).json();
    assert_eq!(receipt["subscribers"], 0);
    gateway.stop();
}

#[test]
fn a_publish_leaves_out_whom_it_excludes() {
    let gateway = Gateway::start("");
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut http = gateway.http();
    http.post(&format!("{LOBBY}?exclude={}", near.id), TEXT, b"about near").good(202);
    http.post(&format!("{LOBBY}?exclude={}", far.id), TEXT, b"about far").good(202);
    near.hears("about far");
    far.hears("about near");
    gateway.stop();
}

#[test]
fn a_batch_is_published_in_order_and_each_entry_has_its_own_outcome() {
    let gateway = Gateway::start("");
    let mut client = gateway.client("/rooms/lobby");
    let batch = json!({ "messages": [
        { "channel": "room.lobby", "text": "one" },
        { "channel": "not a channel", "text": "two" },
        { "channel": "room.lobby", "base64": "AAEC" },
        { "channel": "room.lobby", "text": "both", "base64": "AAEC" },
        { "channel": "room.lobby", "text": "three" },
    ]});
    let outcome = gateway.http().post("/v1/publish", "application/json", batch.to_string().as_bytes());
    let outcome = outcome.good(202).json();
    let statuses: Vec<&Value> = outcome["results"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [202, 400, 202, 400, 202]);
    assert_eq!(outcome["refused"], 2);
    client.hears("one");
    assert_eq!(client.hear(), Message::binary(vec![0, 1, 2]));
    client.hears("three");
    gateway.stop();
}

#[test]
fn a_connection_is_sent_to_described_and_closed_by_its_id() {
    let gateway = Gateway::start("");
    let (mut whom, mut other) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut http = gateway.http();
    let path = format!("/v1/connections/{}", whom.id);
    http.post(&format!("{path}/messages"), TEXT, b"only you").good(202);
    whom.hears("only you");
    whom.say("thanks");
    whom.hears("thanks");
    let seen = http.call("GET", &path).good(200).json();
    assert_eq!(seen["id"], whom.id);
    assert_eq!(
        (&seen["route"], &seen["phase"], &seen["peer"]),
        (&"rooms".into(), &"open".into(), &"127.0.0.1".into())
    );
    assert_eq!(seen["channels"], json!(["room.lobby"]));
    assert_eq!((&seen["messages_in"], &seen["messages_out"]), (&1.into(), &2.into()), "{seen}");
    assert_eq!((&seen["bytes_in"], &seen["bytes_out"]), (&6.into(), &14.into()), "{seen}");
    http.call("DELETE", &format!("{path}?code=4001&reason=moved+away")).good(202);
    assert_eq!(whom.told_to_go(), (4001, "moved away".to_owned()));
    gateway.until("it was counted", |m| m.ended("api_close") == 1.0);
    let line = gateway.logged(&["connection ended", "api_close"]);
    assert!(line.contains("\"sent_code\":4001") && line.contains("\"received_code\":4001"), "{line}");
    other.hears("thanks");
    other.echoes("the other one stays");
    gateway.stop();
}

#[test]
fn subscriptions_come_and_go_while_the_connection_stays() {
    let gateway = Gateway::start("[limits]\nsubscriptions_per_connection = 2");
    let mut client = gateway.client("/rooms/lobby");
    let mut http = gateway.http();
    let news = format!("/v1/connections/{}/channels/news", client.id);
    http.call("PUT", &news).good(204);
    http.call("PUT", &news).good(204);
    let publish = |http: &mut harness::Http, text: &str| {
        let receipt = http.post("/v1/channels/news/messages", TEXT, text.as_bytes()).good(202).json();
        receipt["subscribers"].as_u64().unwrap()
    };
    assert_eq!(publish(&mut http, "extra"), 1, "subscribed twice is subscribed once");
    client.hears("extra");
    http.call("PUT", &news.replace("news", "weather")).problem(409, "channels_full");
    http.call("DELETE", &news).good(204);
    http.call("DELETE", &news).good(204);
    assert_eq!(publish(&mut http, "unheard"), 0);
    client.echoes("still in the lobby");
    gateway.stop();
}

#[test]
fn a_list_shows_every_connection_once_page_by_page() {
    const CLIENTS: usize = 50;
    let gateway = Gateway::start("");
    let clients: Vec<_> = (0..CLIENTS).map(|_| gateway.client("/echo")).collect();
    let ids: BTreeSet<&str> = clients.iter().map(|client| client.id.as_str()).collect();
    let _in_its_handshake = gateway.raw();
    let mut http = gateway.http();
    for page_size in [1, 7, 50, 1000] {
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let after = token.map_or_else(String::new, |token| format!("&page_token={token}"));
            let path = format!("/v1/connections?page_size={page_size}{after}");
            let page = http.call("GET", &path).good(200).json();
            let connections = page["connections"].as_array().unwrap();
            assert!(connections.len() <= page_size);
            seen.extend(connections.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            token = page["next_page_token"].as_str().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), CLIENTS, "pages of {page_size}");
        assert_eq!(seen.iter().map(String::as_str).collect::<BTreeSet<_>>(), ids);
    }
    http.call("GET", "/v1/connections?page_size=0").problem(400, "bad_request");
    http.call("GET", "/v1/connections?page_token=made-up").problem(400, "bad_request");
    gateway.stop();
}

#[test]
fn an_id_whose_connection_has_ended_is_gone_though_its_slot_has_a_new_tenant() {
    let gateway = Gateway::start("[shards]\ncount = 1");
    let first = gateway.client("/echo");
    let stale = first.id.clone();
    first.leave();
    gateway.until_only(0);
    let mut second = gateway.client("/echo");
    let slot = |id: &str| id.rsplit_once('-').unwrap().0.to_owned();
    assert_eq!(slot(&second.id), slot(&stale), "the slot is used again");
    gone(&gateway, &stale);
    second.echoes("nothing came before this");
    gateway.stop();
}

#[test]
fn an_id_of_an_earlier_life_of_the_node_is_gone() {
    let before = Gateway::start("[shards]\ncount = 1");
    let stale = before.client("/echo").id;
    before.stop();
    let gateway = Gateway::start("[shards]\ncount = 1");
    let mut tenant = gateway.client("/echo");
    let without_epoch = |id: &str| {
        let parts: Vec<&str> = id.split('-').collect();
        (parts[0].to_owned(), parts[2..].join("-"))
    };
    assert_eq!(without_epoch(&tenant.id), without_epoch(&stale), "the same place of a node of the same name");
    gone(&gateway, &stale);
    gone(&gateway, &tenant.id.replacen("test", "another", 1));
    tenant.echoes("nothing came before this");
    gateway.http().call("GET", "/v1/connections/nonsense").problem(400, "bad_connection_id");
    gateway.stop();
}

/// Every call about this id says that it is gone.
#[track_caller]
fn gone(gateway: &Gateway, id: &str) {
    let mut http = gateway.http();
    let path = format!("/v1/connections/{id}");
    http.post(&format!("{path}/messages"), TEXT, b"for a stranger").problem(404, "gone");
    for (method, below) in [("GET", ""), ("DELETE", ""), ("PUT", "/channels/a"), ("DELETE", "/channels/a")] {
        http.call(method, &format!("{path}{below}")).problem(404, "gone");
    }
}

#[test]
fn a_wrong_request_is_told_what_is_wrong_and_does_nothing() {
    let gateway = Gateway::start("[http]\nrequest_bytes = '1KiB'\naddress = '127.0.0.1:0'");
    let mut client = gateway.client("/rooms/lobby");
    let path = format!("/v1/connections/{}", client.id);
    let mut http = gateway.http();
    http.post("/v1/channels/room..lobby/messages", TEXT, b"x").problem(400, "bad_channel");
    http.post(LOBBY, TEXT, &[0xff]).problem(400, "bad_payload");
    http.post(LOBBY, "image/png", b"x").problem(415, "unsupported_type");
    http.post(&format!("{LOBBY}?exlude=x"), TEXT, b"x").problem(400, "bad_request");
    http.post(&format!("{LOBBY}?exclude=x"), TEXT, b"x").problem(400, "bad_connection_id");
    http.post("/v1/publish", "application/json", b"{}").problem(400, "bad_request");
    http.call("DELETE", &format!("{path}?code=1005")).problem(400, "bad_close");
    http.call("DELETE", &format!("{path}?reason={}", "x".repeat(124))).problem(400, "bad_close");
    http.call("GET", "/v1/nothing").problem(404, "not_found");
    let wrong = http.call("DELETE", LOBBY);
    wrong.problem(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("POST"));
    // The last one: its body is not read, and the connection is no longer of use.
    http.post(LOBBY, TEXT, &[b'x'; 1025]).problem(413, "too_large");
    client.echoes("nothing came before this");
    gateway.stop();
}
