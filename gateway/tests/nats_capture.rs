//! Promise: in core mode no acknowledgement of a stream ever reaches a client. What connections do is told only when it is
//! known that no stream captures it: who starts beside one is refused, and where it cannot be found out, or is found out
//! late, events wait.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Client, Finished, Gateway, Nats, NatsServer, eventually};
use tungstenite::Message;

const INBOUND: &str = "gateway_bus_inbound_total";

fn configuration(server: &NatsServer, of_nats: &str) -> String {
    let url = server.url();
    format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'nats'\npartitions = 4\n[bus.nats]\nservers = ['{url}']\n{of_nats}\n\
         [[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n"
    )
}

/// Makes a stream over this subject.
#[track_caller]
fn capture(nats: &mut Nats, subject: &str) {
    let stream =
        serde_json::json!({ "name": "EVENTS", "subjects": [subject], "storage": "file" }).to_string();
    let made = nats.ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
}

#[track_caller]
fn release(nats: &mut Nats) {
    let gone = nats.ask("$JS.API.STREAM.DELETE.EVENTS", "");
    assert!(gone.text().contains("\"success\":true"), "{}", gone.text());
}

/// Nothing has come before the answer to a ping.
#[track_caller]
fn has_heard_nothing(client: &mut Client) {
    client.socket.send(Message::Ping(Default::default())).unwrap();
    let first = client.socket.read();
    assert!(matches!(first, Ok(Message::Pong(_))), "{first:?}");
}

/// Events wait for as long as the stream is there, and no longer.
#[track_caller]
fn are_told_when_it_is_gone(gateway: &Gateway, client: &mut Client, app: &mut Nats) {
    has_heard_nothing(client);
    assert_eq!(gateway.metrics().value(INBOUND), 0.0);
    app.subscribe("gateway.inbound.app.*");
    release(app);
    let events: Vec<String> = (0..2).map(|_| app.hear().header("Gateway-Event").to_owned()).collect();
    assert_eq!(events, ["opened", "message"]);
    has_heard_nothing(client);
}

#[test]
fn a_stream_over_a_single_partition_keeps_core_mode_from_starting_too() {
    let server = NatsServer::start_with_jetstream();
    for subject in ["gateway.inbound.app.0", "gateway.inbound.app.3", "*.inbound.*.2"] {
        let mut nats = Nats::connect(server.port);
        capture(&mut nats, subject);
        let refused = Finished::refused(&configuration(&server, ""));
        assert!(refused.complained.contains("EVENTS"), "{subject}: {refused:?}");
        release(&mut nats);
    }
    let other = "gateway.inbound.other.*";
    capture(&mut Nats::connect(server.port), other);
    Gateway::start(&configuration(&server, "")).stop();
}

#[test]
fn where_nats_comes_later_than_the_gateway_nothing_is_told_before_it_is_known_what_streams_there_are() {
    let mut server = NatsServer::start_with_jetstream();
    capture(&mut Nats::connect(server.port), "gateway.inbound.>");
    server.kill();
    let a = Gateway::start(&configuration(&server, ""));
    let mut client = a.client("/app");
    client.say("hello");
    a.until("both events wait", |m| m.value("gateway_inbound_events_unsettled") == 2.0);
    server.run();
    a.logged(&["inbound events wait", "EVENTS", "jetstream = true"]);
    are_told_when_it_is_gone(&a, &mut client, &mut Nats::connect(server.port));
    a.stop();
}

#[test]
fn where_it_may_not_be_asked_for_streams_events_wait_and_the_log_says_what_is_missing() {
    let users = |denied: &str| {
        format!(
            "jetstream: enabled\nauthorization {{ users = [ {{ user: app, password: app }}, {{ user: edge, password: edge, \
             permissions: {{ publish: {{ deny: [\"{denied}\"] }} }} }} ] }}"
        )
    };
    let mut server = NatsServer::configured(&users("$JS.API.>"));
    let app = || Nats::connect_as(server.port, "app", "app");
    capture(&mut app(), "gateway.inbound.>");
    let folder = tempfile::tempdir().unwrap();
    let user = folder.path().join("user");
    std::fs::write(&user, "edge:edge").unwrap();
    let a = Gateway::start(&configuration(&server, &format!("user_file = '{}'", user.display())));
    let mut client = a.client("/app");
    client.say("hello");
    a.logged(&["inbound events wait", "not known", "$JS.API.STREAM.NAMES"]);
    a.until("both events wait", |m| m.value("gateway_inbound_events_unsettled") == 2.0);
    has_heard_nothing(&mut client);

    server.configure(&users("nothing"));
    server.kill();
    server.run();
    a.logged(&["inbound events wait", "EVENTS"]);
    let mut app = eventually("the server is back", || Some(Nats::connect_as(server.port, "app", "app")));
    are_told_when_it_is_gone(&a, &mut client, &mut app);
    a.stop();
}
