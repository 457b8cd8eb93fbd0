//! Promise: whichever node of a NATS is asked, the answer is the same: for any connection, for lists, users and blocks. A
//! node that is silent is named, one that dies is announced, and commands may come over the bus.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;

use backend::proto::gateway_client::GatewayClient;
use backend::proto::message::Payload;
use backend::proto::{Allow, ListConnectionsRequest, Message, SendRequest};
use harness::decider::allow;
use harness::{Decider, Gateway, Nats, NatsServer};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

fn node(name: &str, server: &NatsServer, more: &str) -> Gateway {
    let url = server.url();
    Gateway::start(&format!(
        "[node]\nname = '{name}'\n[grpc]\naddress = '127.0.0.1:0'\n[bus]\nkind = 'nats'\n\
         [bus.nats]\nservers = ['{url}']\n{more}"
    ))
}

/// Waits until each of them knows all of them.
fn acquainted(nodes: &[&Gateway]) {
    for gateway in nodes {
        gateway.until("all nodes are known", |m| m.value("gateway_nodes") == nodes.len() as f64);
    }
}

#[test]
fn any_node_does_for_any_connection_what_its_own_would() {
    let server = NatsServer::start();
    let (a, b) = (node("a", &server, ""), node("b", &server, ""));
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

#[test]
fn a_list_gathers_all_nodes_and_names_the_one_that_is_silent() {
    let server = NatsServer::start();
    let nodes = ["a", "b", "c"].map(|name| node(name, &server, ""));
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

#[test]
fn a_node_that_dies_is_announced_with_its_epoch_and_one_that_leaves_is_not() {
    let server = NatsServer::start();
    let (a, b, c) = (node("a", &server, ""), node("b", &server, ""), node("c", &server, ""));
    acquainted(&[&a, &b, &c]);
    let mut app = Nats::connect(server.port);
    app.subscribe("gateway.node");
    let id = b.client("/echo").id;
    let shown = a.http().call("GET", "/v1/node").json()["nodes"].clone();
    let names: Vec<_> = shown.as_array().unwrap().iter().map(|node| node["node"].clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let epoch = shown[1]["epoch"].as_str().unwrap().to_owned();
    assert!(id.starts_with(&format!("b-{epoch}-")), "{id} {epoch}");
    c.stop();
    acquainted(&[&a, &b]);
    b.signal(Signal::SIGKILL);
    let lost = app.hear();
    assert_eq!((lost.header("Gateway-Event"), lost.header("Gateway-Node")), ("lost", "b"));
    assert_eq!(lost.header("Gateway-Epoch"), epoch);
    assert!(lost.header("Nats-Msg-Id").starts_with(&format!("b.{epoch}.")), "{lost:?}");
    let body: Value = serde_json::from_slice(&lost.payload).unwrap();
    assert_eq!(body, json!({ "event": "lost", "node": "b", "epoch": epoch }));
    acquainted(&[&a]);
    a.http().call("GET", &format!("/v1/connections/{id}")).problem(404, "gone");

    // Its next life has its name, and knows nothing of what was before.
    let b = node("b", &server, "");
    acquainted(&[&a, &b]);
    a.http().call("GET", &format!("/v1/connections/{id}")).problem(404, "gone");
    a.stop();
    b.stop();
}

#[test]
fn users_are_told_to_go_and_networks_are_kept_out_on_all_nodes() {
    let server = NatsServer::start();
    let decider = Decider::start(|_| {
        let user = Some("bob".to_owned());
        (std::time::Duration::ZERO, allow(Allow { user, ..Allow::default() }))
    });
    let more = format!(
        "[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\n[[route]]\nname = 'members'\npath = '/members'\n\
         inbound = 'echo'\nauthorize = 'auth'\n",
        decider.address
    );
    let (a, b) = (node("a", &server, &more), node("b", &server, &more));
    acquainted(&[&a, &b]);
    let (near, far) = (a.client("/members"), b.client("/members"));
    let mut http = a.http();
    let closed = http.call("DELETE", "/v1/users/bob/connections?code=4002&reason=out").good(202).json();
    assert_eq!(closed, json!({ "connections": 2, "silent": [] }));
    for client in [near, far] {
        assert_eq!(client.told_to_go(), (4002, "out".to_owned()));
    }
    let blocked = |gateway: &Gateway| {
        let list = gateway.http().call("GET", "/v1/blocks").good(200).json();
        list["blocks"].as_array().unwrap().iter().map(|block| block["cidr"].clone()).collect::<Vec<_>>()
    };
    let put = http.call("PUT", "/v1/blocks/10.1.0.0%2F16?ttl=60").good(200).json();
    assert_eq!(put["silent"], json!([]));
    assert_eq!((blocked(&a), blocked(&b)), (vec![json!("10.1.0.0/16")], vec![json!("10.1.0.0/16")]));
    b.http().call("DELETE", "/v1/blocks/10.1.0.0%2F16").good(204);
    assert_eq!((blocked(&a), blocked(&b)), (vec![], vec![]));
    http.call("DELETE", "/v1/blocks/10.1.0.0%2F16").problem(404, "not_blocked");
    a.stop();
    b.stop();
}

#[test]
fn commands_over_the_bus_are_obeyed_and_what_is_none_is_answered_and_counted() {
    let server = NatsServer::start();
    let (a, b) = (node("a", &server, ""), node("b", &server, ""));
    acquainted(&[&a, &b]);
    let mut client = b.client("/echo");
    let mut app = Nats::connect(server.port);
    let mut ask = |subject: &str, command: &str| -> Value {
        serde_json::from_slice(&app.ask(subject, command).payload).unwrap()
    };
    let send = json!({ "send": { "connection": client.id, "text": "by the bus" } }).to_string();
    for subject in ["gateway.command.b", "gateway.command"] {
        let answer = ask(subject, &send);
        assert_eq!((&answer["node"], &answer["done"]), (&json!("b"), &json!({})), "{answer}");
        client.hears("by the bus");
    }
    assert_eq!(ask("gateway.command.a", &send)["error"]["reason"], "gone");
    for bad in ["", "nonsense", "{}", "{\"send\":{}}", "{\"stop\":{}}", "\u{0}"] {
        assert_eq!(ask("gateway.command.b", bad)["error"]["reason"], "bad_request", "{bad}");
    }
    let nobody = json!({ "describe": { "connection": "x" } }).to_string();
    assert_eq!(ask("gateway.command.b", &nobody)["error"]["reason"], "bad_connection_id");
    assert_eq!(b.metrics().value("gateway_bus_malformed_total"), 6.0);
    app.publish("gateway.presence", b"who is this?");
    app.publish("gateway.node", b"who is this?");
    b.until("both are counted", |m| m.value("gateway_bus_malformed_total") == 8.0);
    client.echoes("nothing else was disturbed");
    a.stop();
    b.stop();
}

#[test]
fn while_the_bus_is_away_other_nodes_cannot_be_asked_and_nobody_is_lost() {
    let mut server = NatsServer::start();
    let (a, b) = (node("a", &server, ""), node("b", &server, ""));
    acquainted(&[&a, &b]);
    let (mut near, far) = (a.client("/echo"), b.client("/echo"));
    server.kill();
    a.until("the bus is away", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 0.0);
    let mut http = a.http();
    http.call("GET", &format!("/v1/connections/{}", far.id)).problem(503, "bus_away");
    http.call("GET", &format!("/v1/connections/{}", near.id)).good(200);
    assert_eq!(walk(&a, 100), (vec![near.id.clone()], BTreeSet::from(["b".to_owned()])));
    near.echoes("still here");
    server.run();
    for gateway in [&a, &b] {
        gateway.until("the bus is back", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 1.0);
    }
    http.call("GET", &format!("/v1/connections/{}", far.id)).good(200);
    assert_eq!(a.metrics().value("gateway_nodes"), 2.0);
    a.stop();
    b.stop();
}
