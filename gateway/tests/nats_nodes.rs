//! Promise: gateways on one NATS act as one. What is published anywhere reaches every subscriber once; app servers hear
//! what connections do, in order, and answer them; while the bus is away a node goes on by itself, and afterwards all is
//! as before.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Gateway, Nats, NatsServer};
use tungstenite::Message;

const ROUTES: &str = "
[[route]]
name = 'rooms'
path = '/rooms/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }

[[route]]
name = 'near'
path = '/near/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }
on_bus_loss = 'drop'

[[route]]
name = 'strict'
path = '/strict/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }
on_bus_loss = 'close'

[[route]]
name = 'careful'
path = '/careful/{room}'
subscribe = ['room.{room}']
inbound = 'ignore'
on_gap = 'close'

[[route]]
name = 'texts'
path = '/texts/{room}'
subscribe = ['room.{room}']
inbound = 'bus'
kind = 'text'

[[route]]
name = 'bytes'
path = '/bytes/{room}'
subscribe = ['room.{room}']
inbound = 'bus'
kind = 'binary'

[[route]]
name = 'app'
path = '/app'
inbound = 'bus'
";

fn configuration(node: &str, server: &NatsServer, more: &str) -> String {
    let url = server.url();
    format!(
        "[node]\nname = '{node}'\n[bus]\nkind = 'nats'\npartitions = 4\n[bus.nats]\nservers = ['{url}']\n{more}\n{ROUTES}"
    )
}

fn node(name: &str, server: &NatsServer) -> Gateway {
    Gateway::start(&configuration(name, server, ""))
}

/// Waits until the node's subscriptions stand.
fn subscribed(gateway: &Gateway, channels: u64) {
    gateway.until("subscriptions stand", |metrics| {
        metrics.value("gateway_bus_subscriptions") == channels as f64
    });
}

#[test]
fn a_room_spans_nodes_and_everybody_hears_everything_once() {
    let server = NatsServer::start();
    let (a, b) = (node("a", &server), node("b", &server));
    let (mut on_a, mut on_b) = (a.client("/rooms/lobby"), b.client("/rooms/lobby"));
    let mut elsewhere = b.client("/rooms/kitchen");
    subscribed(&a, 1);
    subscribed(&b, 2);
    for number in 0..50 {
        on_a.say(&format!("a {number}"));
    }
    for number in 0..50 {
        on_a.hears(&format!("a {number}"));
        on_b.hears(&format!("a {number}"));
    }
    on_b.say_bytes(&[0xff, 0]);
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.hear(), Message::binary(vec![0xff, 0]));
    }
    let published =
        b.http().post("/v1/channels/room.lobby/messages", "text/plain", b"from the API").good(202);
    assert_eq!(published.json()["subscribers"], 1, "this node's only");
    on_a.hears("from the API");
    on_b.hears("from the API");
    elsewhere.echoes("nothing but this");
    assert_eq!(a.metrics().value("gateway_bus_undelivered_total"), 0.0);
    on_a.leave();
    subscribed(&a, 0);
    a.stop();
    b.stop();
}

#[test]
fn anybody_on_the_bus_reaches_a_channel_and_what_is_not_ours_is_counted() {
    let server = NatsServer::start();
    let a = node("a", &server);
    let mut client = a.client("/rooms/lobby");
    subscribed(&a, 1);
    let mut nats = Nats::connect(server.port);
    nats.publish("gateway.channel.room.lobby", "ünï".as_bytes());
    client.hears("ünï");
    nats.publish("gateway.channel.room.lobby", b"\xff");
    assert_eq!(client.hear(), Message::binary(vec![0xff]));
    let binary = [("Content-Type", "application/octet-stream")];
    nats.publish_with("gateway.channel.room.lobby", "", &binary, b"bytes");
    assert_eq!(client.hear(), Message::binary(b"bytes".to_vec()));
    // Claims to be text, and is not.
    nats.publish_with("gateway.channel.room.lobby", "", &[("Content-Type", "text/plain")], b"\xff");
    a.until("malformed ones are counted", |m| m.value("gateway_bus_malformed_total") == 1.0);
    nats.publish("gateway.channel.room.lobby", b"the end");
    client.hears("the end");
    a.stop();
}

#[test]
fn what_does_not_say_what_it_is_goes_out_as_each_route_wants_it() {
    let server = NatsServer::start();
    let a = node("a", &server);
    let (mut auto, mut texts, mut bytes) =
        (a.client("/rooms/lobby"), a.client("/texts/lobby"), a.client("/bytes/lobby"));
    subscribed(&a, 1);
    let mut nats = Nats::connect(server.port);
    let room = "gateway.channel.room.lobby";
    nats.publish(room, b"plain");
    nats.publish(room, b"\xff");
    nats.publish_with(room, "", &[("Content-Type", "text/plain")], b"text");
    nats.publish_with(room, "", &[("Content-Type", "application/octet-stream")], b"binary");
    let (text, binary) = (Message::text, |said: &'static [u8]| Message::binary(said));
    for expected in [text("plain"), binary(b"\xff"), text("text"), binary(b"binary")] {
        assert_eq!(auto.hear(), expected);
    }
    for expected in [text("plain"), text("text"), binary(b"binary")] {
        assert_eq!(texts.hear(), expected, "what is no text is left out");
    }
    for expected in [binary(b"plain"), binary(b"\xff"), text("text"), binary(b"binary")] {
        assert_eq!(bytes.hear(), expected);
    }
    assert_eq!(a.metrics().value("gateway_deliveries_not_text_total"), 1.0);
    // To one connection it is the same, and whoever asks is told.
    let to = |id: &str| format!("gateway.connection.a.{id}");
    nats.publish(&to(&bytes.id), b"for you");
    assert_eq!(bytes.hear(), binary(b"for you"));
    let mut asks = Nats::connect(server.port);
    assert_eq!(asks.ask(&to(&texts.id), "for you").header("Gateway-Status"), "done");
    texts.hears("for you");
    nats.subscribe("_INBOX.answers");
    nats.publish_with(&to(&texts.id), "_INBOX.answers", &[], b"\xff");
    assert_eq!(nats.hear().header("Gateway-Status"), "not_text");
    nats.publish(&to(&texts.id), b"the end");
    texts.hears("the end");
    a.stop();
}

#[test]
fn an_app_server_hears_what_a_connection_does_and_answers_it() {
    let server = NatsServer::start();
    let a = node("a", &server);
    let mut app = Nats::connect(server.port);
    app.subscribe("gateway.inbound.app.*");
    let mut client = a.client("/app");
    let opened = app.hear();
    assert_eq!((opened.header("Gateway-Event"), opened.header("Gateway-Sequence")), ("opened", "1"));
    assert_eq!(opened.header("Gateway-Connection"), client.id);
    client.say("hello");
    client.say_bytes(&[1, 2]);
    let hello = app.hear();
    assert_eq!((hello.text(), hello.header("Content-Type")), ("hello", "text/plain"));
    assert_eq!(hello.header("Nats-Msg-Id"), format!("{}.2", client.id));
    assert_eq!(app.hear().payload, [1, 2]);
    let address = hello.reply.clone().unwrap();
    assert_eq!(hello.header("Gateway-Reply-To"), address);
    app.publish(&address, b"welcome");
    client.hears("welcome");
    // Whoever wants to know asks.
    assert_eq!(app.ask(&address, "and again").header("Gateway-Status"), "done");
    client.hears("and again");
    let id = client.id.clone();
    client.leave();
    let closed = app.hear();
    assert_eq!((closed.header("Gateway-Event"), closed.header("Gateway-Sequence")), ("closed", "4"));
    assert_eq!(app.ask(&address, "too late").header("Gateway-Status"), "gone");
    let stranger = address.replace(&id, &id.replace("a-", "a-0"));
    assert_ne!(app.ask(&stranger, "?").header("Gateway-Status"), "done");
    assert_eq!(app.ask("gateway.connection.a.nonsense", "?").header("Gateway-Status"), "malformed");
    a.stop();
}

#[test]
fn what_an_app_server_says_at_once_into_a_channel_reaches_whoever_it_was_just_told_of() {
    let server = NatsServer::start();
    let a = node("a", &server);
    let mut app = Nats::connect(server.port);
    app.subscribe("gateway.inbound.texts.*");
    for number in 0..10 {
        let mut client = a.client(&format!("/texts/{number}"));
        assert_eq!(app.hear().header("Gateway-Event"), "opened");
        app.publish(&format!("gateway.channel.room.{number}"), b"welcome");
        client.hears("welcome");
        client.leave();
        assert_eq!(app.hear().header("Gateway-Event"), "closed");
    }
    a.stop();
}

#[test]
fn nobody_listening_is_counted_and_never_delivered() {
    let server = NatsServer::start();
    let a = node("a", &server);
    let mut client = a.client("/app");
    client.say("is anybody there?");
    a.until("both events met nobody", |m| m.value("gateway_bus_no_responders_total") == 2.0);
    client.socket.send(Message::Ping(Default::default())).unwrap();
    assert!(matches!(client.socket.read(), Ok(Message::Pong(_))), "nothing came before the pong");
    a.stop();
}

#[test]
fn a_stream_that_nobody_asked_for_keeps_core_mode_from_starting() {
    let server = NatsServer::start_with_jetstream();
    let mut nats = Nats::connect(server.port);
    let stream = r#"{"name":"EVENTS","subjects":["gateway.inbound.>"],"storage":"memory"}"#;
    let made = nats.ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
    let refused = harness::Finished::refused(&configuration("a", &server, ""));
    assert!(
        refused.complained.contains("EVENTS") && refused.complained.contains("jetstream = true"),
        "{refused:?}"
    );
}

#[test]
fn while_the_bus_is_away_each_route_does_what_it_says_and_afterwards_all_is_as_before() {
    let mut server = NatsServer::start();
    let (a, b) = (node("a", &server), node("b", &server));
    let (mut waits, mut near, mut far) = (a.client("/rooms/x"), a.client("/near/x"), b.client("/rooms/x"));
    let strict = a.client("/strict/x");
    subscribed(&a, 1);
    subscribed(&b, 1);
    server.kill();
    for gateway in [&a, &b] {
        gateway.until("the bus is away", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 0.0);
        assert_eq!(gateway.http().call("GET", "/readyz").status, 200);
    }
    near.say("near");
    waits.hears("near");
    near.hears("near");
    waits.say("waits");
    waits.hears("waits");
    near.hears("waits");
    a.http().post("/v1/channels/room.x/messages", "text/plain", b"api").problem(503, "bus_away");
    waits.hears("api");
    let mut strict = strict;
    for text in ["near", "waits", "api"] {
        strict.hears(text);
    }
    strict.say("strict");
    assert_eq!(strict.told_to_go().0, 1013);
    server.run();
    far.hears("waits");
    a.until("the bus is back", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 1.0);
    far.say("back");
    waits.hears("back");
    assert_eq!(a.metrics().value("gateway_bus_left_out_total"), 1.0);
    assert_eq!(a.metrics().value("gateway_bus_losses_total"), 1.0);
    a.stop();
    b.stop();
}

#[test]
fn after_a_gap_app_servers_are_told_and_clients_that_may_have_missed_something_are_sent_to_look() {
    let mut server = NatsServer::start();
    let a = node("a", &server);
    let (careful, mut patient) = (a.client("/careful/x"), a.client("/rooms/x"));
    subscribed(&a, 1);
    server.kill();
    a.until("the bus is away", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 0.0);
    // Over core NATS only who listens hears of it: it must not be back before.
    a.freeze();
    server.run();
    let mut app = Nats::connect(server.port);
    app.subscribe("gateway.inbound.app.*");
    a.thaw();
    let gap = app.hear();
    assert_eq!((gap.header("Gateway-Event"), gap.header("Gateway-Node")), ("gap", "a"));
    let told: serde_json::Value = serde_json::from_str(gap.text()).unwrap();
    assert!(
        told["from_ms"].as_u64() <= told["to_ms"].as_u64() && told["from_ms"].as_u64() > Some(0),
        "{told}"
    );
    let (code, reason) = careful.told_to_go();
    assert_eq!(code, 1013);
    assert!(reason.contains("\"gap\"") && reason.contains("retry_ms"), "{reason}");
    let later = a.client("/careful/x");
    patient.echoes("still here");
    a.until("one was closed", |m| m.ended("gap") == 1.0);
    later.leave();
    a.stop();
}

#[test]
fn a_node_that_requires_its_bus_is_unready_without_it_and_starts_all_the_same() {
    let mut server = NatsServer::start();
    server.kill();
    let a = Gateway::start(&configuration("a", &server, "[ready]\nrequires = ['bus']"));
    let mut client = a.client("/near/x");
    client.echoes("alone");
    let answer = a.http().call("GET", "/readyz");
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &"bus_away".into()));
    server.run();
    a.until("the bus is there", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 1.0);
    assert_eq!(a.http().call("GET", "/readyz").status, 200);
    subscribed(&a, 1);
    Nats::connect(server.port).publish("gateway.channel.room.x", b"joined");
    client.hears("joined");
    a.stop();
}

#[test]
fn nobody_has_a_node_speak_with_its_own_rights_by_asking_for_an_answer() {
    const MALFORMED: &str = "gateway_bus_malformed_total";
    let server = NatsServer::start();
    let a = node("a", &server);
    let mut client = a.client("/rooms/x");
    subscribed(&a, 1);
    let mut nats = Nats::connect(server.port);
    nats.subscribe("gateway.channel.>");
    nats.subscribe("$JS.API.STREAM.DELETE.*");
    let command = serde_json::json!({ "send": { "connection": client.id, "text": "obeyed" } }).to_string();
    let connection = format!("gateway.connection.a.{}", client.id);
    for (number, reply) in ["gateway.channel.room.x", "$JS.API.STREAM.DELETE.EVENTS"].into_iter().enumerate()
    {
        nats.publish_with("gateway.command.a", reply, &[], command.as_bytes());
        nats.publish_with(&connection, reply, &[], b"delivered");
        a.until("neither is obeyed", |m| m.value(MALFORMED) == 2.0 * (number + 1) as f64);
    }
    // An inbox is anything else; and what the node had said before would have come before.
    let answer = nats.ask("gateway.command.a", &command);
    assert!(answer.subject.starts_with("_INBOX.") && answer.text().contains("done"), "{answer:?}");
    client.hears("obeyed");
    a.stop();
}
