//! Promise: app servers hear of connections over gRPC, each in its order and at least once, whatever happens to the
//! app servers; and what they order is done, or answered with what was wrong.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::backend::proto::command::{CloseOne, Join, Leave, Order, PublishTo, SetState};
use ::backend::proto::result::Status;
use ::backend::proto::{Ack, Event, Message, ack, event, message, to_gateway};
use harness::backend::{AppServer, Conduct, Seen, anywhere, echo, text};
use harness::{Bystander, Client, Gateway};

/// A gateway whose route `/app` tells these app servers, with further keys of the backend.
fn gateway(servers: &[SocketAddr], keys: &str) -> Gateway {
    let endpoints: Vec<String> = servers.iter().map(|address| format!("'http://{address}'")).collect();
    let endpoints = endpoints.join(", ");
    Gateway::start(&format!(
        "[[route]]\nname = 'app'\npath = '/app'\ninbound = {{ backend = 'chat' }}\n\
         [[route]]\nname = 'rooms'\npath = '/rooms'\nsubscribe = ['room']\ninbound = 'ignore'\n\
         [[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n\
         [[backend]]\nname = 'chat'\nendpoints = [{endpoints}]\nbackoff = {{ min = '20ms', max = '200ms' }}\n{keys}"
    ))
}

fn name(event: &Event) -> String {
    match &event.occurrence {
        Some(event::Occurrence::Opened(opened)) => format!("opened {}", opened.path),
        Some(event::Occurrence::Message(_)) => text(event).unwrap_or("binary").to_owned(),
        Some(event::Occurrence::Closed(closed)) => format!("closed {} {:?}", closed.reason, closed.code),
        None => "nothing".to_owned(),
    }
}

/// The events of a connection, each once, and whether none came before one that precedes it.
fn of(seen: &Seen, connection: &str) -> Vec<String> {
    let mut known: Vec<(u32, String)> = Vec::new();
    for event in seen.events.iter().filter(|event| event.connection == connection) {
        match known.last() {
            Some((last, _)) if event.sequence <= *last => {
                assert!(event.again, "{connection}: {} came back, and does not say so", event.sequence);
                assert!(known.iter().any(|(sequence, _)| *sequence == event.sequence));
            }
            last => {
                assert_eq!(
                    event.sequence,
                    last.map_or(1, |(last, _)| last + 1),
                    "{connection}: one is missing"
                );
                known.push((event.sequence, name(event)));
            }
        }
    }
    known.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn a_connection_is_told_from_its_opening_to_its_end_and_answered() {
    let server = AppServer::start(echo());
    let gateway = gateway(&[server.address], "");
    let mut client = gateway.client("/app");
    client.echoes("one");
    client.echoes("two");
    client.say_bytes(b"\x00\xff");
    let id = client.id.clone();
    client.leave();
    let events = server.until("the end", |seen| Some(of(seen, &id)).filter(|events| events.len() == 5));
    assert_eq!(events, ["opened /app", "one", "two", "binary", "closed client_close None"]);
    let first = server.look(|seen| seen.events[0].clone());
    assert_eq!((first.route.as_str(), first.position, first.sequence, first.again), ("app", 1, 1, false));
    gateway.until("all is acknowledged", |metrics| {
        metrics.value("gateway_backend_events_acknowledged_total{backend=\"chat\"}") == 5.0
            && metrics.value("gateway_inbound_events_unsettled") == 0.0
    });
    gateway.stop();
}

#[test]
fn whoever_came_while_the_app_server_was_away_is_served_when_it_is_back() {
    let server = AppServer::start(echo());
    let (address, seen) = server.kill();
    let gateway = gateway(&[address], "");
    let mut client = gateway.client("/app");
    client.say("early");
    let server = AppServer::start_at(address, echo(), seen);
    client.hears("early");
    drop(server);
    client.say("between");
    let server = AppServer::start_at(address, echo(), Arc::default());
    client.hears("between");
    client.leave();
    gateway.stop();
    drop(server);
}

/// Acknowledges and notes; answers nobody.
fn quiet() -> Conduct {
    Arc::new(|line, event| line.ack(&event))
}

/// Sends numbered messages on all clients, in turn.
fn talk(clients: &mut [Client], rounds: std::ops::Range<u32>) {
    for round in rounds {
        for client in clients.iter_mut() {
            client.say(&round.to_string());
        }
    }
}

/// Every client's numbers are there, in their order.
#[track_caller]
fn all_arrived(server: &AppServer, clients: &[Client], rounds: u32) {
    let expected: Vec<String> =
        std::iter::once("opened /app".to_owned()).chain((0..rounds).map(|round| round.to_string())).collect();
    for client in clients {
        server.until("every message", |seen| {
            (seen.events.iter().filter(|event| event.connection == client.id).count() > rounds as usize)
                .then(|| of(seen, &client.id))
                .filter(|events| *events == expected)
        });
    }
}

#[test]
fn a_kill_in_the_middle_loses_no_message_and_no_client() {
    let server = AppServer::start(quiet());
    let gateway = gateway(&[server.address], "");
    let mut clients: Vec<Client> = (0..40).map(|_| gateway.client("/app")).collect();
    talk(&mut clients, 0..10);
    server.until("some", |seen| (seen.events.len() > 150).then_some(()));
    let (address, seen) = server.kill();
    talk(&mut clients, 10..20);
    let server = AppServer::start_at(address, quiet(), seen);
    talk(&mut clients, 20..30);
    all_arrived(&server, &clients, 30);
    assert_eq!(gateway.metrics().value("gateway_connections"), 40.0);
    gateway.stop();
}

#[test]
fn a_rolling_restart_with_go_away_sends_nothing_into_the_void() {
    let seen = Arc::<Mutex<Seen>>::default();
    let mut servers: Vec<AppServer> =
        (0..3).map(|_| AppServer::start_at(anywhere(), echo(), Arc::clone(&seen))).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let gateway = gateway(&addresses, "partitions = 16");
    let up = |many: f64| {
        gateway.until("streams", |metrics| {
            metrics.value("gateway_backend_streams_up{backend=\"chat\"}") == many
        });
    };
    up(3.0);
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client("/app")).collect();
    let bystander = Bystander::beside(&gateway);
    let mut worst = Duration::ZERO;
    let mut round = |clients: &mut [Client]| {
        for client in clients {
            let started = Instant::now();
            client.echoes("still there?");
            worst = worst.max(started.elapsed());
        }
    };
    for _ in 0..3 {
        round(&mut clients);
        let old = servers.remove(0);
        let address = old.address;
        old.line().go_away();
        round(&mut clients);
        old.kill();
        round(&mut clients);
        servers.push(AppServer::start_at(address, echo(), Arc::clone(&seen)));
        up(3.0);
        round(&mut clients);
    }
    let machine = bystander.longest();
    assert!(worst < Duration::from_secs(1) + machine, "{worst:?}, and {machine:?} without an app server");
    for client in &clients {
        of(&seen.lock().unwrap(), &client.id);
    }
    gateway.stop();
}

#[test]
fn an_endpoint_that_accepts_and_never_answers_gets_nothing() {
    let server = AppServer::start(echo());
    let dead_end = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = gateway(&[dead_end.local_addr().unwrap(), server.address], "connect_timeout = '300ms'");
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client("/app")).collect();
    for client in &mut clients {
        client.echoes("hello");
    }
    gateway.until("it is given up", |metrics| {
        metrics.value("gateway_backend_streams_ended_total{backend=\"chat\",reason=\"unanswered\"}") >= 1.0
    });
    gateway.stop();
}

#[test]
fn a_name_with_an_address_where_nobody_listens_and_a_server_without_health_will_do() {
    let server = AppServer::start(echo());
    // `localhost` may stand for an IPv6 address, too, where this server does not listen.
    let named = format!("'http://localhost:{}'", server.address.port());
    let gateway = Gateway::start(&format!(
        "[[route]]\nname = 'app'\npath = '/app'\ninbound = {{ backend = 'chat' }}\n\
         [[backend]]\nname = 'chat'\nendpoints = [{named}]\nstreams = 3\nhealth = true"
    ));
    gateway.until("three streams", |metrics| {
        metrics.value("gateway_backend_streams_up{backend=\"chat\"}") == 3.0
            && metrics.value("gateway_backend_endpoints_up{backend=\"chat\"}") == 1.0
    });
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client("/app")).collect();
    for client in &mut clients {
        client.echoes("hello");
    }
    gateway.stop();
}

#[test]
fn nonsense_ends_the_stream_and_disturbs_nobody() {
    let server = AppServer::start(echo());
    let gateway = gateway(&[server.address], "");
    let mut client = gateway.client("/app");
    client.echoes("before");
    for through in [1_000_000, u64::MAX] {
        let sessions = server.look(|seen| seen.sessions);
        let nonsense = to_gateway::Content::Ack(Ack { through, ranges: Vec::new() });
        server.line().say(nonsense);
        server.until("a new stream", |seen| (seen.sessions > sessions).then_some(()));
        client.echoes("after");
    }
    let sessions = server.look(|seen| seen.sessions);
    let upside_down = vec![ack::Range { first: 2, last: 1 }];
    server.line().say(to_gateway::Content::Ack(Ack { through: 0, ranges: upside_down }));
    server.until("a new stream", |seen| (seen.sessions > sessions).then_some(()));
    client.echoes("after all");
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.value("gateway_backend_streams_ended_total{backend=\"chat\",reason=\"nonsense\"}"),
        3.0
    );
    gateway.stop();
}

#[test]
fn ids_of_an_earlier_life_are_gone() {
    let server = AppServer::start(echo());
    let first = gateway(&[server.address], "");
    let client = first.client("/app");
    let old = client.id.clone();
    server.until("it", |seen| seen.events.first().map(drop));
    drop(client);
    first.stop();
    let second = gateway(&[server.address], "");
    let mut stranger = second.client("/app");
    stranger.echoes("hello");
    let line = server.line();
    line.send(11, &old, "for another");
    line.order(12, Order::Close(CloseOne { connection: old, ..CloseOne::default() }));
    assert_eq!((server.result(11), server.result(12)), (Status::Gone, Status::Gone));
    stranger.echoes("nothing came");
    second.stop();
}

#[test]
fn a_handler_that_hangs_for_one_connection_does_not_hold_up_the_others() {
    let stuck = Arc::<Mutex<Option<String>>>::default();
    let knows = Arc::clone(&stuck);
    let server = AppServer::start(Arc::new(move |line, event| {
        if text(&event) == Some("hang") {
            *knows.lock().unwrap() = Some(event.connection.clone());
        }
        if knows.lock().unwrap().as_ref() != Some(&event.connection) {
            if let Some(text) = text(&event) {
                line.send(0, &event.connection, text);
            }
            line.ack(&event);
        }
    }));
    let gateway = gateway(&[server.address], "connection_window = 4");
    let mut slow = gateway.client("/app");
    let mut quick: Vec<Client> = (0..10).map(|_| gateway.client("/app")).collect();
    for _ in 0..40 {
        slow.say("hang");
    }
    for _ in 0..20 {
        for client in &mut quick {
            client.echoes("hello");
        }
    }
    gateway.until("it is held up", |m| {
        m.value("gateway_connections_paused_by_reason{reason=\"window\"}") == 1.0
    });
    /// Opened, and the window.
    const TOLD: usize = 1 + 4;
    let of_slow = |seen: &Seen| seen.events.iter().filter(|event| event.connection == slow.id).count();
    server.until("the window", |seen| (of_slow(seen) >= TOLD).then_some(()));
    // What came of others now came behind more of it, if there was more.
    quick.iter_mut().for_each(|client| client.echoes("hello again"));
    assert_eq!(server.look(of_slow), TOLD, "no more than the window");
    gateway.stop();
}

#[test]
fn an_app_server_is_told_the_window_that_a_connection_has() {
    let server = AppServer::start(Arc::new(|line, event| {
        if !matches!(&event.occurrence, Some(event::Occurrence::Message(_))) {
            line.ack(&event);
        }
    }));
    // Two shards feed 16 partitions, so that no lane has more than the 8 events that are the least.
    let gateway = gateway(&[server.address], "window = 64\npartitions = 16\nconnection_window = 32");
    let mut client = gateway.client("/app");
    for _ in 0..40 {
        client.say("hello");
    }
    gateway.until("it waits", |metrics| {
        metrics.value("gateway_connections_paused_by_reason{reason=\"window\"}") == 1.0
    });
    let (told, came) = server.look(|seen| {
        let messages = seen.events.iter().filter(|event| text(event).is_some()).count();
        (seen.hello.as_ref().map(|hello| hello.connection_window), messages)
    });
    assert_eq!((told, came), (Some(4), 4));
    gateway.stop();
}

#[test]
fn a_connection_that_is_not_answered_for_is_closed_and_its_end_is_told() {
    let server = AppServer::start(Arc::new(|line, event| {
        if text(&event) == Some("lost") {
            return;
        }
        if let Some(text) = text(&event) {
            line.send(0, &event.connection, text);
        }
        line.ack(&event);
    }));
    let gateway = gateway(&[server.address], "ack_timeout = '2s'");
    let (mut one, mut other) = (gateway.client("/app"), gateway.client("/app"));
    one.say("lost");
    let id = one.id.clone();
    let told = std::thread::spawn(move || one.told_to_go());
    while !told.is_finished() {
        other.echoes("hello");
    }
    let (code, reason) = told.join().unwrap();
    assert_eq!(code, 1013);
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!(reason["reason"], "upstream");
    assert!((1..5000).contains(&reason["retry_ms"].as_u64().unwrap()), "{reason}");
    let last = server
        .until("its end", |seen| of(seen, &id).last().filter(|last| last.starts_with("closed")).cloned());
    assert_eq!(last, "closed upstream Some(1013)");
    let metrics = gateway.metrics();
    assert_eq!((metrics.ended("upstream"), metrics.ended("api_close")), (1.0, 0.0));
    assert_eq!(
        metrics.value("gateway_backend_events_given_up_total{backend=\"chat\",reason=\"ack_timeout\"}"),
        1.0
    );
    gateway.stop();
}

fn message(text: &str) -> Option<Message> {
    Some(Message { payload: Some(message::Payload::Text(text.to_owned())) })
}

#[test]
fn orders_of_every_kind_are_obeyed_and_answered() {
    let server = AppServer::start(quiet());
    let gateway = gateway(&[server.address], "");
    let (mut client, mut member) = (gateway.client("/app"), gateway.client("/rooms"));
    client.say("ready");
    server.until("it", |seen| (seen.events.len() == 2).then_some(()));
    let line = server.line();
    let id = client.id.clone();
    let connection = || id.clone();
    line.send(1, &client.id, "sent");
    line.order(2, Order::Subscribe(Join { connection: connection(), channel: "room".to_owned() }));
    assert_eq!((server.result(1), server.result(2)), (Status::Ok, Status::Ok));
    let publish = |text: &str, exclude: Option<String>| {
        Order::Publish(PublishTo { channel: "room".to_owned(), message: message(text), exclude })
    };
    line.order(3, publish("to both", None));
    line.order(4, publish("to one", Some(connection())));
    assert_eq!((server.result(3), server.result(4)), (Status::Ok, Status::Ok));
    line.order(5, Order::Unsubscribe(Leave { connection: connection(), channel: "room".to_owned() }));
    line.order(6, Order::SetState(SetState { connection: connection(), state: b"seven".to_vec().into() }));
    assert_eq!((server.result(5), server.result(6)), (Status::Ok, Status::Ok));
    line.order(7, publish("to the room", None));
    assert_eq!(server.result(7), Status::Ok);
    for text in ["to both", "to one", "to the room"] {
        member.hears(text);
    }
    client.hears("sent");
    client.hears("to both");
    client.say("with state");
    let state = server.until("a state", |seen| {
        seen.events.iter().find(|event| text(event) == Some("with state")).map(|event| event.state.clone())
    });
    assert_eq!(state, &b"seven"[..]);
    line.send(1, &client.id, "again");
    line.send(8, &member.id, "not yours");
    line.send(9, "nonsense", "to nobody");
    line.order(10, Order::SetState(SetState { connection: connection(), state: vec![0; 257].into() }));
    line.order(11, Order::Close(CloseOne { connection: connection(), code: 1006, reason: String::new() }));
    line.order(12, publish(&"x".repeat((1 << 20) + 1), None));
    line.order(13, Order::Subscribe(Join { connection: connection(), channel: "user.bob".to_owned() }));
    line.order(
        14,
        Order::Close(CloseOne { connection: connection(), code: 4001, reason: "enough".to_owned() }),
    );
    for (id, status) in [
        (8, Status::FailedPrecondition),
        (9, Status::InvalidArgument),
        (10, Status::InvalidArgument),
        (11, Status::InvalidArgument),
        (12, Status::InvalidArgument),
        (13, Status::InvalidArgument),
        (14, Status::Ok),
    ] {
        assert_eq!(server.result(id), status, "{id}");
    }
    assert_eq!(server.result(1), Status::AlreadyExists, "the second of its id");
    assert_eq!(client.told_to_go(), (4001, "enough".to_owned()));
    line.send(15, &id, "too late");
    assert_eq!(server.result(15), Status::Gone);
    let outcomes = gateway.metrics();
    let outcome = |label: &str| {
        outcomes.value(&format!("gateway_backend_commands_total{{backend=\"chat\",outcome=\"{label}\"}}"))
    };
    assert_eq!((outcome("invalid_argument"), outcome("already_exists"), outcome("gone")), (5.0, 1.0, 1.0));
    gateway.stop();
}

#[test]
fn what_is_under_way_at_the_end_is_acknowledged_before_the_node_is_gone() {
    let server = AppServer::start(quiet());
    let gateway = gateway(&[server.address], "");
    let clients: Vec<Client> = (0..10).map(|_| gateway.client("/app")).collect();
    let ids: Vec<String> = clients.iter().map(|client| client.id.clone()).collect();
    server.until("all", |seen| (seen.events.len() == 10).then_some(()));
    let leaving: Vec<_> =
        clients.into_iter().map(|client| std::thread::spawn(move || client.told_to_go())).collect();
    gateway.stop();
    for thread in leaving {
        assert_eq!(thread.join().unwrap().0, 1001);
    }
    server.look(|seen| {
        let ends: HashMap<&str, String> =
            ids.iter().map(|id| (id.as_str(), of(seen, id).pop().unwrap())).collect();
        assert!(ends.values().all(|last| last.starts_with("closed going_away")), "{ends:?}");
    });
}
