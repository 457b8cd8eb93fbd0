//! Promise: while NATS is away, what clients say to app servers is dropped and counted, or whoever says something is told to
//! go, as the route has it; everybody else stays, and afterwards events go on with a number that tells what is missing.
//! Whoever waits for the bus does not keep the others waiting, neither for their close nor for anything else, nor the program
//! from its end. And: a message that is larger than the server takes is refused to its sender, instead of reaching some and not others.
#![allow(clippy::unwrap_used)]

mod harness;

use backend::proto::Allow;
use harness::decider::allow;
use harness::{Decider, Gateway, Nats, NatsMessage, NatsServer, eventually};

const UP: &str = "gateway_bus_up{bus=\"nats\"}";
const LEFT_OUT: &str = "gateway_bus_inbound_left_out_total";

fn gateway(server: &NatsServer, jetstream: bool) -> Gateway {
    let url = server.url();
    let gateway = Gateway::start(&format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'nats'\npartitions = 2\n\
         [bus.nats]\nservers = ['{url}']\njetstream = {jetstream}\n\
         [[route]]\nname = 'drop'\npath = '/drop'\ninbound = 'bus'\non_bus_loss = 'drop'\n\
         [[route]]\nname = 'close'\npath = '/close'\ninbound = 'bus'\non_bus_loss = 'close'\n"
    ));
    gateway.until("the bus is there", |m| m.value(UP) == 1.0);
    gateway
}

/// The next event that is no gap.
#[track_caller]
fn event(app: &mut Nats) -> NatsMessage {
    loop {
        let event = app.hear();
        if event.header("Gateway-Event") != "gap" {
            return event;
        }
    }
}

/// Loses the server under a route that drops and one that closes; `listen` begins to hear events when it is back.
fn lose(mut server: NatsServer, jetstream: bool, listen: impl FnOnce(&NatsServer) -> Nats) {
    let a = gateway(&server, jetstream);
    let (mut drops, mut stays, mut closes) = (a.client("/drop"), a.client("/close"), a.client("/close"));
    a.until("openings are told", |m| m.value("gateway_bus_inbound_total") == 3.0);
    server.kill();
    a.until("the bus is away", |m| m.value(UP) == 0.0);
    for number in 0..3 {
        drops.say(&format!("lost {number}"));
    }
    a.until("they are dropped", |m| m.value(LEFT_OUT) == 3.0);
    closes.say("lost");
    let (code, reason) = closes.told_to_go();
    assert_eq!(code, 1013);
    assert!(reason.contains("\"upstream\"") && reason.contains("retry_ms"), "{reason}");
    let metrics = a.until("its message and its end are dropped", |m| m.value(LEFT_OUT) == 5.0);
    assert_eq!(metrics.ended("upstream"), 1.0);
    a.until("nothing waits", |m| m.value("gateway_inbound_events_unsettled") == 0.0);
    assert_eq!(
        a.metrics().value("gateway_connections"),
        2.0,
        "who says nothing stays, and whose messages are dropped"
    );

    server.run();
    a.until("the bus is back", |m| m.value(UP) == 1.0);
    let mut app = listen(&server);
    drops.say("back");
    stays.say("here");
    let ids = [drops.id.clone(), stays.id.clone()];
    let mut found = [None, None];
    while found.iter().any(Option::is_none) {
        let event = event(&mut app);
        if event.header("Gateway-Event") == "message" {
            let place = ids.iter().position(|id| id == event.header("Gateway-Connection")).unwrap();
            found[place] = Some((event.text().to_owned(), event.header("Gateway-Sequence").to_owned()));
        }
    }
    // The opening was 1; three are missing, and whoever counts sees it.
    assert_eq!(found[0], Some(("back".to_owned(), "5".to_owned())));
    assert_eq!(found[1], Some(("here".to_owned(), "2".to_owned())));
    assert_eq!(a.metrics().value(LEFT_OUT), 5.0);
    a.stop();
}

#[test]
fn over_core_nats_a_route_drops_or_closes_while_it_is_away() {
    lose(NatsServer::start(), false, |server| {
        let mut app = Nats::connect(server.port);
        app.subscribe("gateway.inbound.*.*");
        app
    });
}

#[test]
fn over_jetstream_a_route_drops_or_closes_while_it_is_away() {
    let server = NatsServer::start_with_jetstream();
    let stream = r#"{"name":"EVENTS","subjects":["gateway.inbound.>"],"storage":"file"}"#;
    let made = Nats::connect(server.port).ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
    lose(server, true, |server| {
        let mut app = Nats::connect(server.port);
        app.subscribe("replay");
        let consumer = r#"{"stream_name":"EVENTS","config":{"deliver_subject":"replay","deliver_policy":"all","ack_policy":"none"}}"#;
        let made = Nats::connect(server.port).ask("$JS.API.CONSUMER.CREATE.EVENTS", consumer);
        assert!(!made.text().contains("\"error\""), "{}", made.text());
        app
    });
}

/// What clients of a route say that waits, over and over, must keep nobody else waiting.
fn wait_alone(mut server: NatsServer, jetstream: bool) {
    let url = server.url();
    let decider = Decider::start(|_| (std::time::Duration::ZERO, allow(Allow::default())));
    let a = Gateway::start(&format!(
        "[node]\nname = 'a'\n[shards]\ncount = 1\n[drain]\ndeadline = '1s'\n\
         [bus]\nkind = 'nats'\npartitions = 1\n[bus.nats]\nservers = ['{url}']\njetstream = {jetstream}\n\
         [[backend]]\nname = 'auth'\nendpoints = ['http://{}']\n\
         [[route]]\nname = 'waits'\npath = '/waits'\ninbound = 'bus'\n\
         [[route]]\nname = 'close'\npath = '/close'\ninbound = 'bus'\non_bus_loss = 'close'\n\
         [[route]]\nname = 'members'\npath = '/members'\ninbound = 'echo'\nauthorize = 'auth'\n",
        decider.address
    ));
    a.until("the bus is there", |m| m.value(UP) == 1.0);
    let (mut echo, mut closes) = (a.client("/members"), a.client("/close"));
    let mut clients: Vec<_> = (0..200).map(|_| a.client("/waits")).collect();
    a.until("openings are told", |m| m.value("gateway_bus_inbound_total") == 201.0);
    server.kill();
    a.until("the bus is away", |m| m.value(UP) == 0.0);
    for client in &mut clients {
        client.say("waits");
        // So each is of a turn of its own.
        echo.echoes("next");
    }
    let waiting = |m: &harness::Metrics| m.value("gateway_inbound_events_unsettled") == 200.0;
    a.until("all of them wait", waiting);

    closes.say("does not wait");
    assert_eq!(closes.told_to_go().0, 1013);
    a.client("/members").echoes("an app server let me in");
    let id = echo.id.clone();
    echo.leave();
    eventually("the ending is told", || {
        let found = a.http().call("GET", "/v1/endings?route=members").good(200).json();
        found["endings"].as_array().unwrap().iter().any(|ending| ending["id"] == id.as_str()).then_some(())
    });
    a.until("nobody else was given up", waiting);
    a.stop();
}

#[test]
fn over_core_nats_whoever_waits_for_it_keeps_nobody_else_waiting() {
    wait_alone(NatsServer::start(), false);
}

#[test]
fn over_jetstream_whoever_waits_for_it_keeps_nobody_else_waiting() {
    let server = NatsServer::start_with_jetstream();
    let stream = r#"{"name":"EVENTS","subjects":["gateway.inbound.>"],"storage":"file"}"#;
    let made = Nats::connect(server.port).ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
    wait_alone(server, true);
}

#[test]
fn what_clients_published_while_it_was_away_is_said_before_a_node_that_is_stopped_ends() {
    let mut server = NatsServer::start_with_jetstream();
    let stream = r#"{"name":"SAID","subjects":["gateway.channel.>"],"storage":"file"}"#;
    let made = Nats::connect(server.port).ask("$JS.API.STREAM.CREATE.SAID", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
    let url = server.url();
    let a = Gateway::start(&format!(
        "[node]\nname = 'a'\n[drain]\naccept_seconds = 0\n[bus]\nkind = 'nats'\n[bus.nats]\nservers = ['{url}']\n\
         [[route]]\nname = 'room'\npath = '/room'\nsubscribe = ['room']\ninbound = {{ publish = 'room' }}\n"
    ));
    a.until("the bus is there", |m| m.value(UP) == 1.0);
    let mut client = a.client("/room");
    server.kill();
    a.until("the bus is away", |m| m.value(UP) == 0.0);
    for number in 0..3 {
        client.echoes(&format!("waits {number}"));
    }
    client.leave();
    a.until_only(0);
    server.run();
    a.until("the bus is back", |m| m.value(UP) == 1.0);
    a.stop();
    let info = Nats::connect(server.port).ask("$JS.API.STREAM.INFO.SAID", "");
    let info: serde_json::Value = serde_json::from_str(info.text()).unwrap();
    assert_eq!(info["state"]["messages"], 3, "{info}");
}

/// What a server takes that is told to take little, and what of it is left beside headers.
const SERVER_TAKES: usize = 4096;
const CARRIED: usize = SERVER_TAKES - 1024;

#[test]
fn what_is_larger_than_the_server_takes_is_refused_to_its_sender() {
    let mut server = NatsServer::configured(&format!("max_payload: {SERVER_TAKES}"));
    let url = server.url();
    let a = Gateway::start(&format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'nats'\n[bus.nats]\nservers = ['{url}']\n\
         [[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n\
         [[route]]\nname = 'rooms'\npath = '/rooms/{{room}}'\nsubscribe = ['room.{{room}}']\n\
         inbound = {{ publish = 'room.{{room}}' }}\n\
         [[route]]\nname = 'small'\npath = '/small'\ninbound = 'bus'\nmessage_bytes = '1KiB'\n\
         [[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n"
    ));
    let line = a.logged(&["max_payload", "1009", "app, rooms"]);
    assert!(line.contains(&CARRIED.to_string()) && !line.contains("small"), "{line}");
    let mut app = Nats::connect(server.port);
    app.subscribe("gateway.inbound.app.*");
    app.subscribe("gateway.channel.room.*");
    let (most, more) = ("x".repeat(CARRIED), "x".repeat(CARRIED + 1));

    let mut client = a.client("/app");
    assert_eq!(app.hear().header("Gateway-Event"), "opened");
    client.say(&most);
    assert_eq!(app.hear().text(), most);
    client.say(&more);
    assert_eq!(client.told_to_go(), (1009, r#"{"reason":"message_too_big"}"#.to_owned()));
    let closed = app.hear();
    assert_eq!((closed.header("Gateway-Event"), closed.header("Gateway-Sequence")), ("closed", "3"));

    let (mut speaks, mut hears) = (a.client("/rooms/x"), a.client("/rooms/x"));
    speaks.echoes(&most);
    assert_eq!(app.hear().text(), most);
    hears.hears(&most);
    speaks.say(&more);
    assert_eq!(speaks.told_to_go().0, 1009);
    a.http().post("/v1/channels/room.x/messages", "text/plain", more.as_bytes()).problem(413, "too_large");
    a.http().post("/v1/channels/room.x/messages", "text/plain", b"small").good(202);
    hears.hears("small");
    assert_eq!(app.hear().text(), "small");
    a.client("/echo").echoes(&more);
    let metrics = a.until("all were counted", |m| m.ended("message_too_big") == 2.0);
    assert_eq!(metrics.value("gateway_bus_forwards_left_out_total"), 0.0);
    assert_eq!(metrics.value(LEFT_OUT), 0.0);

    // A server that takes more is believed, too.
    server.kill();
    a.until("the bus is away", |m| m.value(UP) == 0.0);
    server.configure("max_payload: 65536");
    server.run();
    a.until("the bus is back", |m| m.value(UP) == 1.0);
    a.logged(&["max_payload", "65536"]);
    let mut speaks = a.client("/rooms/x");
    speaks.echoes(&more);
    hears.hears(&more);
    a.stop();
}

#[test]
fn before_a_server_has_said_what_it_takes_nothing_is_taken_that_most_would_refuse() {
    let mut server = NatsServer::configured("max_payload: 2097152");
    server.kill();
    let url = server.url();
    let a = Gateway::start(&format!(
        "[node]\nname = 'a'\n[http]\naddress = '127.0.0.1:0'\nrequest_bytes = '2MiB'\n[backlog]\nbytes = '2MiB'\n[bus]\nkind = 'nats'\n[bus.nats]\nservers = ['{url}']\n\
         [[route]]\nname = 'room'\npath = '/room'\nsubscribe = ['room']\nmessage_bytes = '2MiB'\n\
         inbound = {{ publish = 'room' }}\n"
    ));
    let (most, more) = ("x".repeat((1 << 20) - 1024), "x".repeat((1 << 20) - 1023));
    let (mut speaks, mut hears) = (a.client("/room"), a.client("/room"));
    speaks.echoes(&most);
    hears.hears(&most);
    speaks.say(&more);
    assert_eq!(speaks.told_to_go().0, 1009);
    a.http().post("/v1/channels/room/messages", "text/plain", more.as_bytes()).problem(413, "too_large");
    server.run();
    a.until("the bus is there", |m| m.value(UP) == 1.0);
    hears.echoes(&more);
    a.stop();
}
