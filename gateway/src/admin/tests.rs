//! Tests of whole requests, from the guard to the answer, against shards that are scripted here.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use backend::Embedded;
use bridge::command::{ChannelRanking, NotDone, Ranking, Traffic};
use bridge::mailbox::mailbox;
use bridge::{Address, Channel, Command, ConnId, Delivered, Description, Inbox, Page, Wake};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};
use serde_json::Value;
use tokio::sync::Notify;

use super::auth::Tokens;
use super::dispatch::Endpoint;
use super::*;
use crate::in_force::InForce;
use crate::metrics::{Descriptors, Sources};

mod inspection;
pub(crate) mod peered;
mod users;

/// Wakes a scripted shard.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// A shard of connections 0 to `open`, with generation 1; each may be in one channel.
struct Scripted {
    shard: u16,
    open: BTreeSet<u32>,
    /// Subscribers that channels have which it does not name.
    floor: u64,
}

impl Scripted {
    async fn run(mut self, mut inbox: Inbox, bell: Arc<Bell>) {
        loop {
            inbox.look();
            while let Some(command) = inbox.take() {
                self.obey(command);
            }
            bell.0.notified().await;
        }
    }

    fn holds(&self, whom: Address) -> bool {
        whom.generation == 1 && self.open.contains(&whom.slot)
    }

    fn describe(&self, slot: u32) -> Description {
        Description {
            address: Address { shard: self.shard, slot, generation: 1 },
            peer: "127.0.0.1".to_owned(),
            route: 0,
            user: (slot == 2).then(|| bridge::User::parse("bob").unwrap()),
            state: bytes::Bytes::new(),
            unsettled: 0,
            age_ticks: 12,
            quiet_ticks: 3,
            channels: vec![Channel::parse("room.1").unwrap()],
            traffic: Traffic { messages_in: 1, messages_out: 2, bytes_in: 3, bytes_out: 4 },
            backlog_frames: 0,
            backlog_bytes: 0,
            partial_bytes: 0,
            phase: "open",
            closing: None,
            peer_connections: 1,
            limiter: Some(bridge::command::Limiter { messages: 5, burst: 5, wait_ticks: 2 }),
            paused: vec![bridge::Pause::Reply],
        }
    }

    fn obey(&mut self, command: Command) {
        let gone = NotDone::Gone;
        let answer = |reply: bridge::command::Reply, done| reply.unwrap().send(done).unwrap_or_default();
        // An asker that left does not matter to a shard.
        match command {
            Command::Publish(publish) => {
                let subscribers = self.open.len() as u64 - u64::from(publish.exclude.is_some());
                let text = publish.message.kind() == bridge::Kind::Text;
                let queued = u64::from(text);
                publish.receipt.unwrap().add(Delivered { subscribers, queued, dropped: 0 });
            }
            Command::Send { to, reply, .. } => {
                answer(reply, self.holds(to).then_some(()).ok_or(gone));
            }
            Command::Close { whom, reply, .. } => {
                let held = self.holds(whom) && self.open.remove(&whom.slot);
                answer(reply, held.then_some(()).ok_or(gone));
            }
            Command::Subscribe { whom, channel, reply, .. } => {
                let full = channel.as_str() == "full";
                let done = match (self.holds(whom), full) {
                    (false, _) => Err(NotDone::Gone),
                    (true, true) => Err(NotDone::Full),
                    (true, false) => Ok(()),
                };
                answer(reply, done);
            }
            Command::Unsubscribe { whom, reply, .. } => {
                answer(reply, self.holds(whom).then_some(()).ok_or(gone));
            }
            Command::Describe { whom, reply } => {
                let found = self.holds(whom).then(|| Box::new(self.describe(whom.slot)));
                let _ = reply.send(found);
            }
            Command::List { after, limit, reply } => {
                let start = after.map_or(0, |slot| slot + 1);
                let slots: Vec<u32> = self.open.range(start..).copied().take(limit).collect();
                let next = slots.last().copied().filter(|last| self.open.range(last + 1..).next().is_some());
                let connections = slots.into_iter().map(|slot| self.describe(slot)).collect();
                let _ = reply.send(Page { connections, next });
            }
            // Each slice is one slot; connection n has moved 10 n and as many more as its shard's number.
            Command::Rank { after, limit, reply, .. } => {
                let slot = after.map_or(0, |slot| slot + 1);
                let amount = u64::from(slot) * 10 + u64::from(self.shard);
                let address = Address { shard: self.shard, slot, generation: 1 };
                let top = self.open.contains(&slot).then_some((amount, address)).into_iter().take(limit);
                let _ = reply.send(Ranking { top: top.collect(), next: (slot < 2).then_some(slot) });
            }
            // Shard 0 names a and b in two slices, shard 1 names c; each has as many on the other, where it is not named.
            Command::RankChannels { after, reply, .. } => {
                let (top, next) = match (self.shard, after) {
                    (0, None) => ((7, "a"), Some(0)),
                    (0, Some(_)) => ((5, "b"), None),
                    (_, _) => ((6, "c"), None),
                };
                let top = vec![(top.0, Channel::parse(top.1).unwrap())];
                let _ = reply.send(ChannelRanking { top, floor: self.floor, next });
            }
            Command::CountSubscribers { channels, reply } => {
                let _ = reply.send(channels.iter().map(count).collect());
            }
            // Bob is there once on each shard, on the first connection.
            Command::CloseUser { user, reply, .. } => {
                let held = user.as_str() == "bob" && self.open.remove(&0);
                let _ = reply.send(u32::from(held));
            }
            Command::Shed { per_ten_thousand, reply, .. } => {
                let _ = reply.send((per_ten_thousand > 0).then_some(self.open.len() as u32));
            }
            _ => {}
        }
    }
}

/// Subscribers of a channel on each shard of those that are ranked.
fn count(channel: &Channel) -> u32 {
    match channel.as_str() {
        "a" => 7,
        "b" => 5,
        _ => 6,
    }
}

/// A node of two shards with three connections each, all of them subscribed to `room.1` and of the user bob.
pub(super) fn node(tokens: Tokens) -> Admin {
    node_with_floor(tokens, 0)
}

fn node_with_floor(tokens: Tokens, floor: u64) -> Admin {
    let mut mailboxes = Vec::new();
    for shard in 0..2 {
        let bell = Arc::new(Bell(Notify::new()));
        let (mailbox, inbox) = mailbox(8, 1 << 20, Arc::<Bell>::clone(&bell));
        mailboxes.push(mailbox);
        tokio::spawn(Scripted { shard, open: (0..3).collect(), floor }.run(inbox, bell));
    }
    admin(tokens, mailboxes)
}

/// A node with a shard for each mailbox.
pub(crate) fn node_with_mailboxes(mailboxes: Vec<bridge::Mailbox>) -> Admin {
    admin(Tokens::none(), mailboxes)
}

fn admin(tokens: Tokens, mailboxes: Vec<bridge::Mailbox>) -> Admin {
    let stats: Vec<_> = mailboxes.iter().map(|_| Arc::new(Stats::default())).collect();
    stats.iter().for_each(|stats| stats.listening.set(1));
    let switchboard = Arc::new(Switchboard::new(mailboxes));
    for shard in 0..stats.len() {
        for name in ["room.1", "user.bob"] {
            switchboard.join(shard as u16, &Channel::parse(name).unwrap());
        }
    }
    let publisher = backend::Publisher::new(Arc::clone(&switchboard), Arc::new(Embedded));
    let routes = vec![RouteInfo { name: "rooms".to_owned(), path: "/rooms/{room}".to_owned() }];
    let mut settings = config::Settings::default();
    settings.http.request_bytes = config::units::Bytes::new(100);
    let live = Arc::new(Live::new(InForce { number: 1, settings, tokens, routes }));
    Admin {
        gate: Arc::new(shard::limit::Gate::new(shard::limit::GateSizes {
            connections: 1000,
            handshakes: 100,
            recent_peers: 10,
            ipv6_prefix: 64,
        })),
        node: NodeName::parse("n-1").unwrap(),
        epoch: Epoch(7),
        publisher: publisher.clone(),
        nodes: Arc::default(),
        block_orders: Default::default(),
        switchboard: Arc::clone(&switchboard),
        stats: stats.clone(),
        live: Arc::clone(&live),
        recent: Arc::new(Recent::new(100)),
        walk: tokio::sync::Mutex::new(()),
        requests: Arc::default(),
        answers: Arc::default(),
        draining: Arc::default(),
        clock: Box::new(|| 1000),
        websocket_address: "127.0.0.1:8080".parse().unwrap(),
        metrics: Metrics::new(Sources {
            backends: Vec::new(),
            authorizers: Vec::new(),
            gate: Arc::new(shard::limit::Gate::new(shard::limit::GateSizes {
                connections: 1000,
                handshakes: 100,
                recent_peers: 10,
                ipv6_prefix: 64,
            })),
            stats,
            switchboard,
            publisher,
            nodes: Arc::default(),
            recent: Arc::new(Recent::new(1)),
            live,
            requests: Arc::default(),
            answers: Arc::default(),
            clock: Box::new(|| 1000),
            refusal_labels: &["origin"],
            descriptors: Descriptors::Shared,
        }),
        orders: mpsc::channel(1).0,
    }
}

/// Takes longer request bodies from now on; its tokens are gone.
fn allow_a_mebibyte(admin: &Admin) {
    let mut settings = admin.live.now().settings.clone();
    settings.http.request_bytes = config::units::Bytes::mib(1);
    admin.live.replace(InForce { number: 2, settings, tokens: Tokens::none(), routes: Vec::new() });
}

pub(super) fn endpoint(admin: Admin) -> Endpoint {
    Endpoint::new(Arc::new(admin), Role::ALL.into_iter().collect(), "127.0.0.1:8081".parse().unwrap())
}

async fn send(endpoint: &Endpoint, request: &str, body: &'static str) -> Response<Full<Bytes>> {
    let mut words = request.split(' ');
    let method = Method::try_from(words.next().unwrap()).unwrap();
    let mut builder =
        Request::builder().method(method).uri(words.next().unwrap()).header("host", "localhost");
    while let Some((name, value)) = words.next().map(|header| header.split_once(':').unwrap()) {
        builder = builder.header(name, value.replace('_', " "));
    }
    endpoint.answer(builder.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()).await
}

/// Status and JSON body; the status of a problem is checked against its body.
pub(super) async fn ask(endpoint: &Endpoint, request: &str, body: &'static str) -> (u16, Value) {
    let response = send(endpoint, request, body).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    if status >= 400 && body["reason"] != Value::Null && body["title"] != Value::Null {
        assert_eq!(body["status"], status);
    }
    (status, body)
}

pub(super) async fn refusal(endpoint: &Endpoint, request: &str, body: &'static str) -> (u16, String) {
    let (status, body) = ask(endpoint, request, body).await;
    (status, body["reason"].as_str().unwrap_or_default().to_owned())
}

fn id(shard: u16, slot: u32) -> String {
    let address = Address { shard, slot, generation: 1 };
    ConnId { node: NodeName::parse("n-1").unwrap(), epoch: Epoch(7), address }.to_string()
}

const TEXT: &str = "content-type:text/plain;charset=UTF-8";
const JSON: &str = "content-type:application/json";

#[tokio::test]
async fn a_published_body_is_answered_with_what_became_of_it_on_all_shards() {
    let endpoint = endpoint(node(Tokens::none()));
    let (status, body) = ask(&endpoint, &format!("POST /v1/channels/room.1/messages {TEXT}"), "hello").await;
    assert_eq!((status, &body), (202, &serde_json::json!({ "subscribers": 6, "queued": 2, "dropped": 0 })));
    let binary = "POST /v1/channels/room.1/messages content-type:application/octet-stream";
    assert_eq!(ask(&endpoint, binary, "\u{1}").await.1["queued"], 0);
    let (_, body) = ask(&endpoint, &format!("POST /v1/channels/empty/messages {JSON}"), "{}").await;
    assert_eq!(body["subscribers"], 0);
    let excluding = format!("POST /v1/channels/room.1/messages?exclude={} {TEXT}", id(1, 0));
    assert_eq!(ask(&endpoint, &excluding, "").await.1["subscribers"], 5);
    let elsewhere = format!("POST /v1/channels/room.1/messages?exclude=other-7-1-0-1 {TEXT}");
    assert_eq!(ask(&endpoint, &elsewhere, "").await.1["subscribers"], 6);
}

#[tokio::test]
async fn a_publish_that_cannot_be_meant_is_refused_with_its_reason() {
    let endpoint = endpoint(node(Tokens::none()));
    let path = "POST /v1/channels/room.1/messages";
    for (request, expected) in [
        (format!("POST /v1/channels/room.*/messages {TEXT}"), (400, "bad_channel")),
        (format!("{path}?exclude=x {TEXT}"), (400, "bad_connection_id")),
        (format!("{path}?exlude=x {TEXT}"), (400, "bad_request")),
        (path.to_owned(), (415, "unsupported_type")),
        (format!("{path} content-type:application/x-www-form-urlencoded"), (415, "unsupported_type")),
        (format!("{path} content-type:text/plain;charset=latin1"), (415, "unsupported_type")),
    ] {
        let (status, reason) = refusal(&endpoint, &request, "x").await;
        assert_eq!((status, reason.as_str()), expected, "{request}");
    }
    let long: &'static str = Box::leak("x".repeat(101).into_boxed_str());
    assert_eq!(refusal(&endpoint, &format!("{path} {TEXT}"), long).await, (413, "too_large".to_owned()));
    let request = Request::post("/v1/channels/room.1/messages")
        .header("host", "localhost")
        .header("content-type", "text/plain")
        .body(Full::new(Bytes::from_static(b"\xff")))
        .unwrap();
    assert_eq!(endpoint.answer(request).await.status(), 400);
}

#[tokio::test]
async fn entries_of_a_batch_have_their_own_outcomes() {
    let admin = node(Tokens::none());
    allow_a_mebibyte(&admin);
    let endpoint = endpoint(admin);
    let body = r#"{"messages": [
        {"channel": "room.1", "text": "a"}, {"channel": "room..1", "text": "a"},
        {"channel": "room.1", "base64": "AAE="}, {"channel": "room.1", "base64": "A"},
        {"channel": "room.1"}, {"channel": "room.1", "text": "a", "base64": ""}]}"#;
    let (status, body) = ask(&endpoint, &format!("POST /v1/publish {JSON}"), body).await;
    assert_eq!((status, &body["refused"]), (202, &4.into()));
    let outcome = |place: usize, key: &str| body["results"][place][key].clone();
    assert_eq!((outcome(0, "status"), outcome(0, "subscribers")), (202.into(), 6.into()));
    assert_eq!((outcome(1, "status"), outcome(1, "reason")), (400.into(), "bad_channel".into()));
    assert_eq!((outcome(2, "status"), outcome(2, "queued")), (202.into(), 0.into()));
    assert_eq!(outcome(3, "reason"), "bad_payload");
    assert_eq!((outcome(4, "reason"), outcome(5, "reason")), ("bad_request".into(), "bad_request".into()));
}

#[tokio::test]
async fn a_batch_of_another_form_is_refused_whole() {
    let admin = node(Tokens::none());
    allow_a_mebibyte(&admin);
    let endpoint = endpoint(admin);
    let request = format!("POST /v1/publish {JSON}");
    for body in ["", "[]", "{}", r#"{"messages": [{"chanel": "a"}]}"#, r#"{"messages": [], "x": 1}"#] {
        assert_eq!(refusal(&endpoint, &request, body).await, (400, "bad_request".to_owned()), "{body}");
    }
    assert_eq!(refusal(&endpoint, &format!("POST /v1/publish {TEXT}"), "{}").await.0, 415);
    let entries = vec![r#"{"channel":"empty","text":""}"#; 1001].join(",");
    let body: &'static str = Box::leak(format!("{{\"messages\":[{entries}]}}").into_boxed_str());
    assert_eq!(refusal(&endpoint, &request, body).await, (413, "too_large".to_owned()));
}

#[tokio::test]
async fn full_mailboxes_are_answered_with_when_to_come_back() {
    let (mailbox, _inbox) = mailbox(1, 100, Arc::new(Bell(Notify::new())));
    let endpoint = endpoint(admin(Tokens::none(), vec![mailbox.clone()]));
    mailbox.send(Command::Drain(bridge::DrainPlan::within(0, 0, 0))).unwrap();
    let publish = format!("POST /v1/channels/room.1/messages {TEXT}");
    for request in [publish, format!("GET /v1/connections/{}", id(0, 0)), "GET /v1/connections".to_owned()] {
        let response = send(&endpoint, &request, "x").await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_shard_that_does_not_answer_holds_nobody() {
    let (mailbox, inbox) = mailbox(8, 100, Arc::new(Bell(Notify::new())));
    let admin = admin(Tokens::none(), vec![mailbox]);
    let whom = Address { shard: 0, slot: 0, generation: 1 };
    let silent = admin.ask(0, std::time::Duration::ZERO, |reply| Command::Describe { whom, reply }).await;
    assert_eq!(silent.unwrap_err().reason.label(), "shard_silent");
    let within = std::time::Duration::from_secs(60);
    let (ended, ()) = tokio::join!(admin.ask(0, within, |reply| Command::Describe { whom, reply }), async {
        drop(inbox);
    });
    assert_eq!(ended.unwrap_err().reason.label(), "shard_silent");
}

#[tokio::test]
async fn a_connection_is_described_sent_to_and_closed_until_it_is_gone() {
    let endpoint = endpoint(node(Tokens::none()));
    let path = format!("/v1/connections/{}", id(1, 2));
    let (status, body) = ask(&endpoint, &format!("GET {path}"), "").await;
    assert_eq!((status, &body["id"], &body["route"]), (200, &id(1, 2).into(), &"rooms".into()));
    assert_eq!((&body["user"], &body["paused"]), (&"bob".into(), &serde_json::json!(["reply"])));
    assert_eq!((&body["limiter"]["wait_ms"], &body["peer_connections"]), (&200.into(), &1.into()));
    assert_eq!((&body["age_ms"], &body["channels"][0]), (&1200.into(), &"room.1".into()));
    assert_eq!(ask(&endpoint, &format!("POST {path}/messages {TEXT}"), "hi").await.0, 202);
    assert_eq!(ask(&endpoint, &format!("PUT {path}/channels/news"), "").await.0, 204);
    assert_eq!(refusal(&endpoint, &format!("PUT {path}/channels/full"), "").await.1, "channels_full");
    assert_eq!(ask(&endpoint, &format!("DELETE {path}/channels/news"), "").await.0, 204);
    assert_eq!(ask(&endpoint, &format!("DELETE {path}?code=4001&reason=bye"), "").await.0, 202);
    for request in [format!("GET {path}"), format!("DELETE {path}"), format!("PUT {path}/channels/news")] {
        assert_eq!(refusal(&endpoint, &request, "").await, (404, "gone".to_owned()), "{request}");
    }
    assert_eq!(refusal(&endpoint, &format!("POST {path}/messages {TEXT}"), "hi").await.1, "gone");
}

#[tokio::test]
async fn ids_of_other_nodes_lives_and_shards_are_gone() {
    let endpoint = endpoint(node(Tokens::none()));
    for other in ["n-2-00000007-1-2-1", "n-1-00000008-1-2-1", "n-1-00000007-2-2-1", "n-1-00000007-1-2-2"] {
        assert_eq!(
            refusal(&endpoint, &format!("GET /v1/connections/{other}"), "").await.1,
            "gone",
            "{other}"
        );
    }
    assert_eq!(refusal(&endpoint, "GET /v1/connections/x", "").await, (400, "bad_connection_id".to_owned()));
}

#[tokio::test]
async fn only_codes_and_reasons_that_may_be_sent_close() {
    let endpoint = endpoint(node(Tokens::none()));
    let path = format!("DELETE /v1/connections/{}", id(0, 0));
    let long = "a".repeat(124);
    for query in ["code=1005", "code=1006", "code=2999", &format!("reason={long}")] {
        assert_eq!(refusal(&endpoint, &format!("{path}?{query}"), "").await.1, "bad_close", "{query}");
    }
    for query in ["code=5000", "code=x", "cod=1000"] {
        assert_eq!(refusal(&endpoint, &format!("{path}?{query}"), "").await.1, "bad_request", "{query}");
    }
    assert_eq!(ask(&endpoint, &path, "").await.0, 202);
}

#[tokio::test]
async fn pages_show_every_connection_once_whatever_their_size() {
    let endpoint = endpoint(node(Tokens::none()));
    let everybody: Vec<Value> =
        (0..2).flat_map(|shard| (0..3).map(move |slot| id(shard, slot).into())).collect();
    for size in 1..=7 {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (status, body) =
                ask(&endpoint, &format!("GET /v1/connections?page_size={size}{token}"), "").await;
            assert_eq!(status, 200);
            let page = body["connections"].as_array().unwrap();
            assert!(page.len() <= size);
            seen.extend(page.iter().map(|connection| connection["id"].clone()));
            match body["next_page_token"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => break,
            }
        }
        assert_eq!(seen, everybody, "pages of {size}");
    }
    for query in ["page_size=0", "page_size=1001", "page_token=x", "page=1"] {
        assert_eq!(refusal(&endpoint, &format!("GET /v1/connections?{query}"), "").await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn health_turns_red_for_a_reason_it_names() {
    let mut admin = node(Tokens::none());
    admin.clock = Box::new(|| 7000);
    admin.stats[0].last_turn_ms.set(6990);
    let (stats, draining) = (admin.stats.clone(), Arc::clone(&admin.draining));
    let endpoint = endpoint(admin);
    let (status, body) = ask(&endpoint, "GET /livez", "").await;
    assert_eq!((status, &body["shards"][0]["shard"]), (503, &1.into()));
    stats[1].last_turn_ms.set(6990);
    assert_eq!(ask(&endpoint, "GET /livez", "").await.0, 200);
    assert_eq!(ask(&endpoint, "GET /readyz", "").await.0, 200);
    stats[1].listening.set(0);
    let (status, body) = ask(&endpoint, "GET /readyz", "").await;
    assert_eq!((status, &body["shards_not_listening"]), (503, &serde_json::json!([1])));
    stats[1].last_turn_ms.set(0);
    draining.store(true, Ordering::Release);
    assert_eq!(ask(&endpoint, "GET /readyz", "").await.1["reason"], "draining");
    assert_eq!(ask(&endpoint, "GET /livez", "").await.0, 200, "a drain ends shards one by one");
    let metrics = send(&endpoint, "GET /metrics", "").await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
}

#[tokio::test]
async fn the_node_tells_the_page_where_to_connect() {
    let admin = node(Tokens::none());
    let endpoint = endpoint(admin);
    let (_, body) = ask(&endpoint, "GET /v1/node", "").await;
    assert_eq!((&body["websocket"], &body["routes"][0]["name"]), (&"127.0.0.1:8080".into(), &"rooms".into()));
    assert_eq!(
        (&body["shards"], &body["channels"], &body["bus"]["up"]),
        (&2.into(), &2.into(), &true.into())
    );
    let page = send(&endpoint, "GET /", "").await;
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("connect-src 'self' ws://*:8080")
    );
}

#[tokio::test]
async fn strangers_are_stopped_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "0123456789abcdef read\n").unwrap();
    let endpoint = endpoint(node(Tokens::load(Some(&file), None).unwrap()));
    let publish = "POST /v1/channels/room.1/messages";
    for (request, expected) in [
        (format!("{publish} host:localhost"), (400, "bad_request")),
        (format!("{publish} origin:http://evil.example"), (403, "foreign_origin")),
        (publish.to_owned(), (401, "unauthorized")),
        (format!("{publish} authorization:Bearer_0123456789abcdef"), (403, "missing_scope")),
        ("GET /v1/publish".to_owned(), (405, "method_not_allowed")),
        ("GET /rooms/lobby".to_owned(), (404, "not_found")),
    ] {
        let (status, reason) = refusal(&endpoint, &request, "x").await;
        assert_eq!((status, reason.as_str()), expected, "{request}");
    }
    let response = send(&endpoint, "GET /v1/connections", "").await;
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    assert_eq!(send(&endpoint, "GET /v1/publish", "").await.headers()["allow"], "POST");
    let known = "GET /v1/connections authorization:Bearer_0123456789abcdef";
    assert_eq!(ask(&endpoint, known, "").await.0, 200);
    assert_eq!(ask(&endpoint, "GET /livez", "").await.0, 200, "health never asks for a token");
}

/// One request on a connection of its own kind; returns the head of the answer, up to the blank line.
fn talk(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_closes_the_listener() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let health = RoleSet::default().with(Role::Health);
    let serving = tokio::spawn(serve(listener, health, Arc::new(node(Tokens::none())), stopped));
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = talk(&mut stream, "HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let head = talk(&mut stream, "HEAD /v1/node HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 404 "), "the same connection, a role that is not here: {head}");
        stream
    });
    let mut idle = asked.await.unwrap();
    drop(stop);
    serving.await.unwrap();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the idle connection was ended");
    assert!(TcpStream::connect(address).is_err());
}
