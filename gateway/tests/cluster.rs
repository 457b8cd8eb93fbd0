//! Promise: whichever node of a NATS or a Redis is asked, the answer is the same: for any connection, for lists, users and
//! blocks. A node that is silent is named, one that dies is announced, one that comes late is told what it has missed, and
//! commands may come over the bus, in either form.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;

use backend::proto::command::{Describe, Order, Send};
use backend::proto::gateway_client::GatewayClient;
use backend::proto::message::Payload;
use backend::proto::{self, Allow, ListConnectionsRequest, Message, SendRequest, answer};
use harness::decider::allow;
use harness::{BusApp, BusKind, BusServer, Cable, Decider, Gateway, NatsServer, eventually, free_port};
use nix::sys::signal::Signal;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

/// Each promise is kept over each bus.
macro_rules! over_each_bus {
    ($($promise:ident,)*) => {
        mod nats {
            $(#[test] fn $promise() { super::$promise(super::BusKind::Nats); })*
        }
        mod redis {
            $(#[test] fn $promise() { super::$promise(super::BusKind::Redis); })*
        }
    };
}

over_each_bus! {
    any_node_does_for_any_connection_what_its_own_would,
    whom_a_publish_excludes_hears_it_on_no_node,
    many_calls_that_a_node_does_not_answer_are_each_told_so_and_disturb_nothing_afterwards,
    a_list_gathers_all_nodes_and_names_the_one_that_is_silent,
    a_node_that_dies_is_announced_with_its_epoch_and_one_that_leaves_is_not,
    users_are_told_to_go_and_networks_are_kept_out_on_all_nodes,
    commands_over_the_bus_are_obeyed_in_either_form,
    what_is_no_command_is_answered_and_counted_and_disturbs_nothing,
    who_makes_up_nodes_neither_fills_the_log_nor_has_each_of_them_greeted,
    while_the_bus_is_away_other_nodes_cannot_be_asked_and_nobody_is_lost,
    a_node_that_comes_late_learns_which_networks_are_blocked,
    what_is_blocked_or_lifted_while_the_bus_is_away_is_so_everywhere_afterwards,
    what_is_told_to_all_at_once_reaches_a_node_that_was_away_for_a_moment,
}

/// Calls at once to a node that does not answer.
const CALLS: u32 = 50;

/// Waits until each of them knows all of them.
fn acquainted(nodes: &[&Gateway]) {
    for gateway in nodes {
        gateway.until("all nodes are known", |m| m.value("gateway_nodes") == nodes.len() as f64);
    }
}

fn any_node_does_for_any_connection_what_its_own_would(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let mut client = b.client("/rooms/x");
    let (mut http, path) = (a.http(), format!("/v1/connections/{}", client.id));
    http.post(&format!("{path}/messages"), "text/plain", "grüße".as_bytes()).good(202);
    http.post(&format!("{path}/messages"), "application/octet-stream", b"\xff\0").good(202);
    client.hears("grüße");
    assert_eq!(client.hear(), tungstenite::Message::binary(vec![0xff, 0]));
    http.call("PUT", &format!("{path}/channels/extra")).good(204);
    let shown = http.call("GET", &path).good(200).json();
    assert_eq!(shown["id"], client.id);
    let channels: BTreeSet<_> =
        shown["channels"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(channels, BTreeSet::from(["extra", "room.x"]));
    let keys = |shown: &Value| shown.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&shown), keys(&b.http().call("GET", &path).good(200).json()));
    http.call("DELETE", &format!("{path}/channels/extra")).good(204);
    assert_eq!(http.call("GET", &path).good(200).json()["channels"], json!(["room.x"]));
    http.call("PUT", &format!("{path}/channels/user.bob")).problem(400, "bad_channel");
    http.call("DELETE", &format!("{path}?code=1005")).problem(400, "bad_close");

    for stranger in ["b-00000001-0-1-1", "nobody-00000001-0-1-1", &format!("{}1", client.id)] {
        http.call("GET", &format!("/v1/connections/{stranger}")).problem(404, "gone");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let address = format!("http://{}", a.grpc.unwrap());
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut api = GatewayClient::new(channel);
        let message = Some(Message { payload: Some(Payload::Text("by gRPC".to_owned())) });
        let connection = client.id.clone();
        api.send(SendRequest { connection, message }).await.unwrap();
        let page = api.list_connections(ListConnectionsRequest::default()).await.unwrap().into_inner();
        assert_eq!((page.connections[0].id.as_str(), page.silent.len()), (client.id.as_str(), 0));
    });
    client.hears("by gRPC");
    http.call("DELETE", &format!("{path}?code=4001&reason=bye")).good(202);
    assert_eq!(client.told_to_go(), (4001, "bye".to_owned()));
    b.until_only(0);
    http.call("DELETE", &path).problem(404, "gone");
    assert_eq!(a.metrics().value("gateway_bus_malformed_total"), 0.0);
    a.stop();
    b.stop();
}

fn whom_a_publish_excludes_hears_it_on_no_node(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let (mut near, mut one, mut other) = (a.client("/rooms/x"), b.client("/rooms/x"), b.client("/rooms/x"));
    let (mut http, path) = (a.http(), "/v1/channels/room.x/messages");
    let mut publish = |to: &str, text: &str| {
        http.post(&format!("{path}{to}"), "text/plain", text.as_bytes()).good(202);
    };
    b.until("what one publishes reaches the other", |metrics| {
        publish("", "there?");
        metrics.value("gateway_bus_received_total") > 0.0
    });
    publish(&format!("?exclude={}", one.id), "not to one");
    publish(&format!("?exclude={}", near.id), "not near");
    publish("?exclude=b-00000001-0-1-1", "to all");
    for (client, expected) in [
        (&mut near, &["not to one", "to all"][..]),
        (&mut one, &["not near", "to all"]),
        (&mut other, &["not to one", "not near", "to all"]),
    ] {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "to all") {
            heard.push(client.hear_text());
        }
        heard.retain(|text| text != "there?");
        assert_eq!(heard, expected, "{}", client.id);
    }
    a.stop();
    b.stop();
}

fn many_calls_that_a_node_does_not_answer_are_each_told_so_and_disturb_nothing_afterwards(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let client = b.client("/echo");
    let path = format!("/v1/connections/{}", client.id);
    b.freeze();
    std::thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| a.http().call("GET", &path).problem(503, "node_silent"));
        }
    });
    b.thaw();
    // Their answers come late, beside those of others.
    for _ in 0..CALLS {
        a.http().call("GET", &path).good(200);
    }
    let metrics = a.metrics();
    let calls =
        ["gateway_bus_calls_total", "gateway_bus_calls_unanswered_total"].map(|name| metrics.value(name));
    assert_eq!(calls, [2.0 * f64::from(CALLS), f64::from(CALLS)]);
    assert_eq!(metrics.value("gateway_bus_calls_left_out_total"), 0.0);
    assert_eq!(metrics.value("gateway_bus_malformed_total"), 0.0);
    a.stop();
    b.stop();
}

/// Walks through all pages of this size: the ids, and who was silent.
fn walk(gateway: &Gateway, size: u32) -> (Vec<String>, BTreeSet<String>) {
    let (mut ids, mut silent, mut token) = (Vec::new(), BTreeSet::new(), String::new());
    let mut http = gateway.http();
    loop {
        let page = http.call("GET", &format!("/v1/connections?page_size={size}{token}")).good(200).json();
        let shown = page["connections"].as_array().unwrap();
        assert!(shown.len() <= size as usize);
        ids.extend(shown.iter().map(|shown| shown["id"].as_str().unwrap().to_owned()));
        silent
            .extend(page["silent"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return (ids, silent),
        }
    }
}

fn a_list_gathers_all_nodes_and_names_the_one_that_is_silent(kind: BusKind) {
    let server = BusServer::start(kind);
    let nodes = ["a", "b", "c"].map(|name| server.node(name, ""));
    let [a, b, c] = &nodes;
    acquainted(&[a, b, c]);
    let clients: Vec<_> = nodes.iter().flat_map(|node| (0..5).map(|_| node.client("/echo"))).collect();
    let all: BTreeSet<String> = clients.iter().map(|client| client.id.clone()).collect();
    for (gateway, size) in [(a, 1), (b, 4), (c, 100)] {
        let (ids, silent) = walk(gateway, size);
        assert_eq!((ids.len(), ids.into_iter().collect(), silent), (15, all.clone(), BTreeSet::new()));
    }
    let of_b = clients.iter().find(|client| client.id.starts_with("b-")).unwrap();
    b.freeze();
    std::thread::scope(|scope| {
        let path = format!("/v1/connections/{}", of_b.id);
        scope.spawn(move || c.http().call("GET", &path).problem(503, "node_silent"));
        let (ids, silent) = walk(a, 100);
        assert_eq!(silent, BTreeSet::from(["b".to_owned()]));
        assert_eq!(ids.len(), 10, "{ids:?}");
        assert!(ids.iter().all(|id| !id.starts_with("b-")), "{ids:?}");
    });
    b.thaw();
    assert_eq!(walk(a, 100).0.len(), 15);
    let [a, b, c] = nodes;
    a.stop();
    b.stop();
    c.stop();
}

fn a_node_that_dies_is_announced_with_its_epoch_and_one_that_leaves_is_not(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b, c) = (server.node("a", ""), server.node("b", ""), server.node("c", ""));
    acquainted(&[&a, &b, &c]);
    let mut app = server.app();
    app.listen_to_nodes();
    let id = b.client("/echo").id;
    let shown = a.http().call("GET", "/v1/node").json()["nodes"].clone();
    let names: Vec<_> = shown.as_array().unwrap().iter().map(|node| node["node"].clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let epoch = shown[1]["epoch"].as_str().unwrap().to_owned();
    assert!(id.starts_with(&format!("b-{epoch}-")), "{id} {epoch}");
    c.stop();
    acquainted(&[&a, &b]);
    b.signal(Signal::SIGKILL);
    if let BusApp::Nats(app) = &mut app {
        let lost = app.hear();
        assert_eq!((lost.header("Gateway-Event"), lost.header("Gateway-Node")), ("lost", "b"));
        assert_eq!(lost.header("Gateway-Epoch"), epoch);
        assert!(lost.header("Nats-Msg-Id").starts_with(&format!("b.{epoch}.")), "{lost:?}");
        told_of(&lost.payload, &epoch);
    } else {
        told_of(&app.hear(), &epoch);
    }
    acquainted(&[&a]);
    a.http().call("GET", &format!("/v1/connections/{id}")).problem(404, "gone");

    // Its next life has its name, and knows nothing of what was before.
    let b = server.node("b", "");
    acquainted(&[&a, &b]);
    a.http().call("GET", &format!("/v1/connections/{id}")).problem(404, "gone");
    a.stop();
    b.stop();
}

fn told_of(news: &[u8], epoch: &str) {
    let news: Value = serde_json::from_slice(news).unwrap();
    assert_eq!((&news["event"], &news["node"], &news["epoch"]), (&json!("lost"), &json!("b"), &json!(epoch)));
    assert!(news["id"].as_str().unwrap().starts_with(&format!("b.{epoch}.")), "{news}");
}

/// The networks that a node keeps out.
fn blocked(gateway: &Gateway) -> BTreeSet<String> {
    let list = gateway.http().call("GET", "/v1/blocks").good(200).json();
    let blocks = list["blocks"].as_array().unwrap().iter();
    blocks.map(|block| block["cidr"].as_str().unwrap().to_owned()).collect()
}

fn networks<const N: usize>(networks: [&str; N]) -> BTreeSet<String> {
    networks.map(str::to_owned).into()
}

fn users_are_told_to_go_and_networks_are_kept_out_on_all_nodes(kind: BusKind) {
    let server = BusServer::start(kind);
    let decider = Decider::start(|_| {
        let user = Some("bob".to_owned());
        (std::time::Duration::ZERO, allow(Allow { user, ..Allow::default() }))
    });
    let more = format!(
        "[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\n[[route]]\nname = 'members'\npath = '/members'\n\
         inbound = 'echo'\nauthorize = 'auth'\n",
        decider.address
    );
    let (a, b) = (server.node("a", &more), server.node("b", &more));
    acquainted(&[&a, &b]);
    let (near, far) = (a.client("/members"), b.client("/members"));
    let mut http = a.http();
    let closed = http.call("DELETE", "/v1/users/bob/connections?code=4002&reason=out").good(202).json();
    assert_eq!(closed, json!({ "connections": 2, "silent": [] }));
    for client in [near, far] {
        assert_eq!(client.told_to_go(), (4002, "out".to_owned()));
    }
    let put = http.call("PUT", "/v1/blocks/10.1.0.0%2F16?ttl=60").good(200).json();
    assert_eq!(put["silent"], json!([]));
    assert_eq!((blocked(&a), blocked(&b)), (networks(["10.1.0.0/16"]), networks(["10.1.0.0/16"])));
    b.http().call("DELETE", "/v1/blocks/10.1.0.0%2F16").good(204);
    assert_eq!((blocked(&a), blocked(&b)), (networks([]), networks([])));
    http.call("DELETE", "/v1/blocks/10.1.0.0%2F16").problem(404, "not_blocked");
    a.stop();
    b.stop();
}

fn commands_over_the_bus_are_obeyed_in_either_form(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let mut client = b.client("/echo");
    let mut app = server.app();
    let in_json = json!({ "id": 7, "send": { "connection": client.id, "text": "in JSON" } });
    let message = Some(Message { payload: Some(Payload::Text("in Protobuf".to_owned())) });
    let send = Order::Send(Send { connection: client.id.clone(), message });
    let in_protobuf = proto::Command { id: 8, order: Some(send), ..proto::Command::default() };
    for place in [&["command", "b"][..], &["command"]] {
        let answer = app.ask(place, in_json.clone());
        assert_eq!((&answer["id"], &answer["node"], &answer["done"]), (&json!("7"), &json!("b"), &json!({})));
        client.hears("in JSON");
        let answer = app.ask_protobuf(place, in_protobuf.clone());
        assert_eq!((answer.id, &*answer.node), (8, "b"));
        assert_eq!(answer.outcome, Some(answer::Outcome::Done(answer::Done {})));
        client.hears("in Protobuf");
    }
    // What does not ask for an answer is obeyed as well.
    app.say(&["command"], in_json.to_string().as_bytes());
    client.hears("in JSON");

    let connection = client.id.clone();
    let state = json!({ "connection": connection, "state": "c3RhdGU=" });
    assert_eq!(app.ask(&["command"], json!({ "set_state": state }))["done"], json!({}));
    let describe = json!({ "describe": { "connection": connection } });
    assert_eq!(app.ask(&["command"], describe)["done"]["id"], connection);
    let order = Some(Order::Describe(Describe { connection: connection.clone() }));
    let described =
        app.ask_protobuf(&["command", "b"], proto::Command { order, ..proto::Command::default() });
    let Some(answer::Outcome::Connection(described)) = described.outcome else { panic!("{described:?}") };
    assert_eq!((described.id, &*described.phase), (connection, "open"));
    let listed = app.ask(&["command", "b"], json!({ "list": { "limit": 5 } }));
    assert_eq!(listed["done"]["connections"].as_array().unwrap().len(), 1, "{listed}");

    assert_eq!(app.ask(&["command", "a"], in_json)["error"]["reason"], "gone");
    let refused = app.ask_protobuf(&["command", "a"], in_protobuf);
    let Some(answer::Outcome::Error(why)) = refused.outcome else { panic!("{refused:?}") };
    assert_eq!(why.reason, "gone");
    // A connection that no node has: one of them says so, and each command is counted once.
    let stale = |gateway: &Gateway| gateway.metrics().value("gateway_bus_stale_total");
    assert_eq!((stale(&a), stale(&b)), (2.0, 0.0));
    for (id, answers) in [("b-00000001-0-0-1", "b"), ("a-00000001-0-0-1", "a"), ("z-00000001-0-0-1", "a")] {
        let answer = app.ask(&["command"], json!({ "send": { "connection": id, "text": "?" } }));
        assert_eq!((&answer["error"]["reason"], &answer["node"]), (&json!("gone"), &json!(answers)), "{id}");
    }
    assert_eq!((stale(&a), stale(&b)), (4.0, 1.0));
    let publish = json!({ "publish": { "channel": "room.x", "message": { "text": "?" } } });
    assert_eq!(app.ask(&["command", "a"], publish)["error"]["reason"], "bad_request");
    let nobody = json!({ "describe": { "connection": "x" } });
    assert_eq!(app.ask(&["command", "b"], nobody)["error"]["reason"], "bad_connection_id");
    for gateway in [&a, &b] {
        assert_eq!(gateway.metrics().value("gateway_bus_malformed_total"), 0.0);
    }
    a.stop();
    b.stop();
}

fn what_is_no_command_is_answered_and_counted_and_disturbs_nothing(kind: BusKind) {
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let mut client = b.client("/echo");
    let mut app = server.app();
    let mut malformed = 0.0;
    for bad in [json!({}), json!({ "send": {} }), json!({ "stop": {} }), json!({ "id": "x" })] {
        let answer = app.ask(&["command", "b"], bad);
        assert_eq!(answer["error"]["reason"], "bad_request", "{answer}");
        malformed += 1.0;
    }
    let nothing = proto::Command { id: 9, ..proto::Command::default() };
    let answer = app.ask_protobuf(&["command", "b"], nothing);
    assert!(matches!(answer.outcome, Some(answer::Outcome::Error(why)) if why.reason == "bad_request"));
    malformed += 1.0;
    let cut = proto::Command { id: 9, reply_to: "cut off".to_owned(), order: None }.encode_to_vec();
    for bad in [&b""[..], b"nonsense", b"{", b"\0", b"\xff\xfe", &cut[..5]] {
        match &mut app {
            BusApp::Nats(nats) => {
                let answer: Value =
                    serde_json::from_slice(&nats.ask("gateway.command.b", bad).payload).unwrap();
                assert_eq!(answer["error"]["reason"], "bad_request", "{bad:?}");
            }
            BusApp::Redis { .. } => app.say(&["command", "b"], bad),
        }
        malformed += 1.0;
    }
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..5 {
        for _ in 0..100 {
            let bytes: Vec<u8> = (0..random.usize(..100)).map(|_| random.u8(..)).collect();
            app.say(&["command", "b"], &bytes);
            // One that happens to be an order is about no connection.
            let is_order = proto::Command::decode(&bytes[..]).is_ok_and(|command| command.order.is_some());
            malformed += f64::from(u8::from(!is_order));
        }
        b.until("all are counted", |m| m.value("gateway_bus_malformed_total") == malformed);
    }
    assert!(malformed > 400.0, "{malformed}");
    app.say(&["presence"], b"who is this?");
    app.say(&["node"], b"who is this?");
    // An answer may not go where it would mean something else.
    let elsewhere =
        json!({ "reply_to": "gateway:channel:room", "send": { "connection": client.id, "text": "?" } });
    app.say(&["command", "b"], elsewhere.to_string().as_bytes());
    malformed += 3.0;
    if kind == BusKind::Redis {
        let of_b = b.http().call("GET", "/v1/node").json()["epoch"].as_str().unwrap().to_owned();
        app.say(&["answer", "b", &of_b], b"\xff");
        malformed += 1.0;
    }
    b.until("they are counted", |m| m.value("gateway_bus_malformed_total") == malformed);
    client.echoes("nothing else was disturbed");
    assert_eq!(b.metrics().value("gateway_nodes"), 2.0);
    a.stop();
    b.stop();
}

fn who_makes_up_nodes_neither_fills_the_log_nor_has_each_of_them_greeted(kind: BusKind) {
    const MADE_UP: usize = 1_200;
    let server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let mut app = server.app();
    let lines = |about: &str| a.log().lines().filter(|line| line.contains(about)).count() as u64;
    let started = std::time::Instant::now();
    // As many as may be, and this one; what comes too quickly is not heard.
    a.until("all are seen that may be, and others are not", |metrics| {
        for epoch in 0..MADE_UP {
            let epoch = format!("{epoch:08x}");
            let beat = json!({ "event": "present", "node": "made-up", "epoch": epoch, "beat": 1 });
            app.say(&["presence"], beat.to_string().as_bytes());
        }
        metrics.value("gateway_nodes") == 1025.0 && lines("this one is not seen") > 0
    });
    app.listen_to_beats();
    let number = loop {
        let beat: Value = serde_json::from_slice(&app.hear()).unwrap();
        if beat["node"] == "a" {
            break beat["beat"].as_u64().unwrap();
        }
    };
    let fives = started.elapsed().as_secs() / 5 + 1;
    assert!(number < 20 + 30 * fives, "greeted {number} times");
    let (came, unseen) = (lines("a node is there"), lines("this one is not seen"));
    assert!((2..=32 * (fives + 1)).contains(&came), "{came} lines in {fives} times 5 s");
    assert!((1..=fives + 1).contains(&unseen), "{unseen} lines in {fives} times 5 s");
    a.stop();
    b.stop();
}

fn while_the_bus_is_away_other_nodes_cannot_be_asked_and_nobody_is_lost(kind: BusKind) {
    let mut server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let (mut near, far) = (a.client("/echo"), b.client("/echo"));
    server.kill();
    server.is_up(&a, false);
    let mut http = a.http();
    http.call("GET", &format!("/v1/connections/{}", far.id)).problem(503, "bus_away");
    http.call("GET", &format!("/v1/connections/{}", near.id)).good(200);
    assert_eq!(walk(&a, 100), (vec![near.id.clone()], BTreeSet::from(["b".to_owned()])));
    near.echoes("still here");
    server.run();
    for gateway in [&a, &b] {
        server.is_up(gateway, true);
    }
    http.call("GET", &format!("/v1/connections/{}", far.id)).good(200);
    assert_eq!(a.metrics().value("gateway_nodes"), 2.0);
    a.stop();
    b.stop();
}

fn a_node_that_comes_late_learns_which_networks_are_blocked(kind: BusKind) {
    let server = BusServer::start(kind);
    let a = server.node("a", "");
    server.is_up(&a, true);
    let mut http = a.http();
    for network in ["10.1.0.0%2F16", "10.2.0.0%2F16", "fd00::%2F48"] {
        http.call("PUT", &format!("/v1/blocks/{network}?ttl=600")).good(200);
    }
    http.call("DELETE", "/v1/blocks/10.2.0.0%2F16").good(204);
    let expected = networks(["10.1.0.0/16", "fd00::/48"]);
    let (b, c) = (server.node("b", ""), server.node("c", ""));
    acquainted(&[&a, &b, &c]);
    for late in [&b, &c] {
        eventually("it knows", || (blocked(late) == expected).then_some(()));
        let shown = late.http().call("GET", "/v1/blocks/10.1.0.0%2F16").good(200).json();
        assert!((500..=600).contains(&shown["expires_in_s"].as_u64().unwrap()), "{shown}");
    }
    // From now on it is as if it had always been there.
    b.http().call("DELETE", "/v1/blocks/10.1.0.0%2F16").good(204);
    for gateway in [&a, &b, &c] {
        assert_eq!(blocked(gateway), networks(["fd00::/48"]));
    }
    b.stop();
    let b = server.node("b", "");
    eventually("its next life knows, too", || (blocked(&b) == networks(["fd00::/48"])).then_some(()));
    a.stop();
    b.stop();
    c.stop();
}

fn what_is_blocked_or_lifted_while_the_bus_is_away_is_so_everywhere_afterwards(kind: BusKind) {
    let mut server = BusServer::start(kind);
    let (a, b) = (server.node("a", ""), server.node("b", ""));
    acquainted(&[&a, &b]);
    let mut http = a.http();
    http.call("PUT", "/v1/blocks/10.1.0.0%2F16?ttl=600").good(200);
    let client = b.client("/echo");
    server.kill();
    server.is_up(&a, false);
    server.is_up(&b, false);
    http.call("DELETE", "/v1/blocks/10.1.0.0%2F16").problem(503, "node_silent");
    let put = http.call("PUT", "/v1/blocks/127.0.0.0%2F8?ttl=600").good(200).json();
    assert_eq!(put["silent"], json!(["b"]));
    assert_eq!(blocked(&b), networks(["10.1.0.0/16"]));
    server.run();
    assert_eq!(client.told_to_go().0, 1008);
    let agrees = |gateway: &Gateway| (blocked(gateway) == networks(["127.0.0.0/8"])).then_some(());
    eventually("b has lifted what a has", || agrees(&b));
    agrees(&a).unwrap();
    a.stop();
    b.stop();
}

/// Nobody sees that it was away: for the others it is no time, and who commands by the bus does not hear who obeyed.
fn what_is_told_to_all_at_once_reaches_a_node_that_was_away_for_a_moment(kind: BusKind) {
    let server = BusServer::start(kind);
    let cable = Cable::to(server.port());
    let (a, b) = (server.node("a", ""), server.node_at(cable.port, "b", ""));
    acquainted(&[&a, &b]);
    let mut app = server.app();
    let client = b.client("/echo");
    let mut while_away = |order: Value, kept_out: &BTreeSet<String>| {
        let before = blocked(&b);
        cable.cut();
        server.is_up(&b, false);
        app.say(&["command"], order.to_string().as_bytes());
        eventually("a has heard it", || (blocked(&a) == *kept_out).then_some(()));
        assert_eq!(blocked(&b), before, "b has not");
        cable.mend();
        server.is_up(&b, true);
        eventually("b has heard of it", || (blocked(&b) == *kept_out).then_some(()));
    };
    let (all, few) = (networks(["10.1.0.0/16", "127.0.0.0/8"]), networks(["127.0.0.0/8"]));
    while_away(json!({ "block": { "cidr": "127.0.0.0/8", "ttl_s": 600 } }), &few);
    assert_eq!(client.told_to_go().0, 1008);
    while_away(json!({ "block": { "cidr": "10.1.0.0/16", "ttl_s": 600 } }), &all);
    while_away(json!({ "unblock": { "cidr": "10.1.0.0/16" } }), &few);
    assert_eq!(blocked(&a), few);
    for gateway in [&a, &b] {
        assert_eq!(gateway.log().matches("a node is lost").count(), 0, "{}", gateway.log());
    }
    a.stop();
    b.stop();
}

/// The node's own server of a cluster restarts, sooner than a node is lost: the others go on, and see nothing.
#[test]
fn a_node_that_is_away_for_a_moment_learns_what_was_blocked_and_lifted_then() {
    let (near, far) = (free_port(), free_port());
    let member = |own: u16, other: u16| {
        let (own, other) = (format!("nats://127.0.0.1:{own}"), format!("nats://127.0.0.1:{other}"));
        // Or the node would go to the other server.
        let arguments = ["--cluster_name", "pair", "--cluster", &own, "--routes", &other, "--no_advertise"];
        BusServer::Nats(NatsServer::start_with(&arguments))
    };
    let (of_a, mut of_c) = (member(near, far), member(far, near));
    let (a, c) = (of_a.node("a", ""), of_c.node("c", ""));
    acquainted(&[&a, &c]);
    let mut http = a.http();
    http.call("PUT", "/v1/blocks/10.1.0.0%2F16?ttl=600").good(200);
    assert_eq!(blocked(&c), networks(["10.1.0.0/16"]));
    of_c.kill();
    of_c.is_up(&c, false);
    let put = http.call("PUT", "/v1/blocks/10.2.0.0%2F16?ttl=600").good(200).json();
    assert_eq!(put["silent"], json!(["c"]));
    http.call("DELETE", "/v1/blocks/10.1.0.0%2F16").problem(503, "node_silent");
    of_c.run();
    let agrees = || (blocked(&c) == networks(["10.2.0.0/16"])).then_some(());
    eventually("it knows", agrees);
    a.stop();
    c.stop();
}
