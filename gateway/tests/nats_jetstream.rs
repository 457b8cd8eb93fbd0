//! Promise: with JetStream nothing that a client sent is lost, whatever becomes of the server: every event arrives at
//! least once and in order, clients stay connected, and whoever cannot be heard is not read.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Client, Gateway, Nats, NatsServer};

const CLIENTS: usize = 200;
const MESSAGES: usize = 60;
const PARTITIONS: usize = 4;

fn gateway(server: &NatsServer) -> Gateway {
    let url = server.url();
    Gateway::start(&format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'nats'\npartitions = {PARTITIONS}\n[bus.nats]\nservers = ['{url}']\n\
         jetstream = true\n[[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n"
    ))
}

fn make_stream(server: &NatsServer) {
    let stream = r#"{"name":"EVENTS","subjects":["gateway.inbound.>"],"storage":"file"}"#;
    let made = Nats::connect(server.port).ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
}

/// Everything that the stream holds, in its order, beginning now.
fn replay(server: &NatsServer) -> Nats {
    let mut nats = Nats::connect(server.port);
    let consumer = r#"{"stream_name":"EVENTS","config":{"deliver_subject":"replay","deliver_policy":"all","ack_policy":"none"}}"#;
    let made = Nats::connect(server.port).ask("$JS.API.CONSUMER.CREATE.EVENTS", consumer);
    nats.subscribe("replay");
    assert!(!made.text().contains("\"error\""), "{}", made.text());
    nats
}

#[test]
fn a_killed_server_costs_nobody_a_message_nor_a_connection() {
    let mut server = NatsServer::start_with_jetstream();
    make_stream(&server);
    let gateway = gateway(&server);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/app")).collect();
    for number in 0..MESSAGES {
        if number == MESSAGES / 3 {
            server.kill();
        }
        for client in &mut clients {
            client.say(&number.to_string());
        }
    }
    gateway.until("clients wait, because nobody takes what they say", |m| {
        m.value("gateway_connections_paused") == CLIENTS as f64
    });
    // A moment that the server is gone for, as the promise has it; nothing is waited for.
    std::thread::park_timeout(Duration::from_secs(3));
    server.run();
    let all = CLIENTS * (MESSAGES + 1);
    gateway.until("the stream has everything", |m| {
        m.value("gateway_bus_inbound_total") == all as f64
            && m.value("gateway_inbound_events_unsettled") == 0.0
    });

    let mut stream = replay(&server);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut partitions: BTreeMap<String, String> = BTreeMap::new();
    let (mut distinct, mut gaps) = (0, 0);
    while distinct < all || gaps < PARTITIONS {
        let event = stream.hear();
        if event.header("Gateway-Event") == "gap" {
            gaps += 1;
            continue;
        }
        let connection = event.header("Gateway-Connection").to_owned();
        let sequence: usize = event.header("Gateway-Sequence").parse().unwrap();
        let last = seen.entry(connection.clone()).or_default();
        assert!(sequence <= *last + 1, "{connection}: {sequence} after {last}");
        if sequence == *last + 1 {
            (*last, distinct) = (sequence, distinct + 1);
            if sequence > 1 {
                assert_eq!(event.text(), (sequence - 2).to_string());
            }
        }
        let partition = partitions.entry(connection).or_insert_with(|| event.subject.clone());
        assert_eq!(*partition, event.subject, "one partition for each connection");
    }
    assert_eq!(seen.len(), CLIENTS);

    let reply_to = format!("gateway.connection.a.{}", clients[0].id);
    Nats::connect(server.port).publish(&reply_to, b"heard you");
    clients[0].hears("heard you");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("gateway_connections"), CLIENTS as f64);
    assert_eq!(metrics.sum("gateway_connections_ended_total"), 0.0);
    gateway.stop();
}

#[test]
fn without_a_stream_events_wait_until_there_is_one() {
    let server = NatsServer::start_with_jetstream();
    let gateway = gateway(&server);
    let mut client = gateway.client("/app");
    client.say("early");
    gateway.until("nobody takes it", |m| m.value("gateway_bus_no_responders_total") > 0.0);
    make_stream(&server);
    gateway.until("the stream has it", |m| m.value("gateway_bus_inbound_total") == 2.0);
    let mut stream = replay(&server);
    assert_eq!(stream.hear().header("Gateway-Event"), "opened");
    let early = stream.hear();
    assert_eq!(
        (early.text(), early.reply.as_deref().is_some_and(|to| to.contains("connection"))),
        ("early", false)
    );
    gateway.stop();
}
