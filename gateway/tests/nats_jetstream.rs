//! Promise: with JetStream nothing that a client sent is lost, whatever becomes of the server: every event arrives at
//! least once and in order, clients stay connected, memory is bounded, and whoever cannot be heard is not read. Prints
//! what it measured.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use harness::{Client, Gateway, Metrics, Nats, NatsServer};

const MESSAGES: usize = 60;
/// What each connection may add to the gateway while nobody takes what it says, bytes.
const HELD_MAX: f64 = 40_000.0;
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
fn a_gap_that_no_stream_takes_at_first_is_told_once_there_is_one() {
    let mut server = NatsServer::start_with_jetstream();
    let gateway = gateway(&server);
    gateway.until("the bus is there", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 1.0);
    server.kill();
    gateway.until("the bus is away", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 0.0);
    server.run();
    gateway.until("nobody takes it", |m| m.value("gateway_bus_inbound_retries_total") >= PARTITIONS as f64);
    make_stream(&server);
    let mut stream = replay(&server);
    let mut subjects = BTreeSet::new();
    for _ in 0..PARTITIONS {
        let gap = stream.hear();
        assert_eq!((gap.header("Gateway-Event"), gap.header("Gateway-Node")), ("gap", "a"));
        assert!(gap.header("Nats-Msg-Id").starts_with("a."), "a repetition is known");
        assert!(subjects.insert(gap.subject.clone()), "{subjects:?}");
    }
    assert_eq!(gateway.metrics().value("gateway_bus_inbound_left_out_total"), 0.0);
    gateway.stop();
}

#[test]
fn a_killed_server_costs_nobody_a_message_nor_a_connection() {
    kill_under(200);
}

#[test]
#[ignore = "a thousand connections: see the bars in loadtest/README.md"]
fn a_killed_server_costs_none_of_a_thousand_a_message_nor_a_connection() {
    kill_under(1_000);
}

#[track_caller]
fn kill_under(connections: usize) {
    let mut server = NatsServer::start_with_jetstream();
    make_stream(&server);
    let gateway = gateway(&server);
    let mut clients: Vec<Client> = (0..connections).map(|_| gateway.client("/app")).collect();
    let before = gateway.metrics().value("process_resident_memory_bytes");
    for number in 0..MESSAGES {
        if number == MESSAGES / 3 {
            server.kill();
        }
        for client in &mut clients {
            client.say(&number.to_string());
        }
    }
    let away = gateway.until("clients wait, because nobody takes what they say", |m| {
        m.value("gateway_connections_paused") == connections as f64
    });
    let held = away.value("process_resident_memory_bytes") - before;
    eprintln!(
        "{connections} connections: {:.1} MB, and {:.1} MB more while NATS is away",
        before / 1e6,
        held / 1e6
    );
    assert!(held < 8e6 + HELD_MAX * connections as f64, "{held} bytes more");
    // A moment that the server is gone for, as the promise has it; nothing is waited for.
    std::thread::park_timeout(Duration::from_secs(3));
    server.run();
    let back = Instant::now();
    let all = connections * (MESSAGES + 1);
    let mut reached = 0.0;
    while reached < all as f64 {
        let more = |m: &Metrics| m.value("gateway_bus_inbound_total") > reached;
        reached = gateway.until("the stream has more", more).value("gateway_bus_inbound_total");
    }
    gateway.until("everything is settled", |m| m.value("gateway_inbound_events_unsettled") == 0.0);
    eprintln!(
        "{all} events are in the stream {:.1} s after the server is back",
        back.elapsed().as_secs_f64()
    );

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
    assert_eq!(seen.len(), connections);

    let reply_to = format!("gateway.connection.a.{}", clients[0].id);
    Nats::connect(server.port).publish(&reply_to, b"heard you");
    clients[0].hears("heard you");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("gateway_connections"), connections as f64);
    assert_eq!(metrics.sum("gateway_connections_ended_total"), 0.0);
    gateway.stop();
}

#[test]
#[ignore = "measures: run it alone, on a machine that does nothing else"]
fn how_many_events_a_second_go_into_a_stream() {
    const CONNECTIONS: usize = 100;
    const EACH: usize = 200;
    let server = NatsServer::start_with_jetstream();
    make_stream(&server);
    let gateway = gateway(&server);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| gateway.client("/app")).collect();
    let has = |events: usize| move |m: &Metrics| m.value("gateway_bus_inbound_total") >= events as f64;
    gateway.until("openings are there", has(CONNECTIONS));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for share in clients.chunks_mut(CONNECTIONS / 4) {
            scope.spawn(move || {
                for number in 0..EACH {
                    share.iter_mut().for_each(|client| client.say(&number.to_string()));
                }
            });
        }
    });
    gateway.until("everything is there", has(CONNECTIONS * (EACH + 1)));
    let seconds = began.elapsed().as_secs_f64();
    let events = CONNECTIONS * EACH;
    eprintln!(
        "{events} events of {CONNECTIONS} connections over {PARTITIONS} partitions: {:.0} a second",
        events as f64 / seconds
    );
    gateway.stop();
}

#[test]
fn a_stream_that_comes_late_gets_everything_in_order() {
    const CONNECTIONS: usize = 40;
    const EACH: usize = 10;
    let server = NatsServer::start_with_jetstream();
    let gateway = gateway(&server);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| gateway.client("/app")).collect();
    for number in 0..EACH {
        clients.iter_mut().for_each(|client| client.say(&number.to_string()));
    }
    // Each is refused once; then one of a partition tries again, ever more rarely, and not all of them.
    let retries =
        |most: usize| move |m: &Metrics| m.value("gateway_bus_inbound_retries_total") >= most as f64;
    gateway.until("each was refused", retries(CONNECTIONS));
    // Counted from what there is when time begins: who looks late on a busy machine finds more of them.
    let began = Instant::now();
    let before = gateway.metrics().value("gateway_bus_inbound_retries_total") as usize;
    gateway.until("each partition has tried a few times", retries(before + 5 * PARTITIONS));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    make_stream(&server);
    let all = (CONNECTIONS * (EACH + 1)) as f64;
    gateway.until("the stream has all", |m| m.value("gateway_bus_inbound_total") == all);
    let mut stream = replay(&server);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..CONNECTIONS * (EACH + 1) {
        let event = stream.hear();
        let last = seen.entry(event.header("Gateway-Connection").to_owned()).or_default();
        *last += 1;
        assert_eq!(event.header("Gateway-Sequence"), last.to_string());
    }
    assert_eq!(seen.len(), CONNECTIONS);
    gateway.stop();
}

#[test]
fn what_is_larger_than_the_stream_takes_closes_its_sender_and_holds_nobody_up() {
    let server = NatsServer::start_with_jetstream();
    let stream =
        r#"{"name":"EVENTS","subjects":["gateway.inbound.>"],"storage":"memory","max_msg_size":2048}"#;
    let made = Nats::connect(server.port).ask("$JS.API.STREAM.CREATE.EVENTS", stream);
    assert!(made.text().contains("\"created\""), "{}", made.text());
    let gateway = gateway(&server);
    let (mut large, mut small) = (gateway.client("/app"), gateway.client("/app"));
    large.say(&"x".repeat(4096));
    assert_eq!(large.told_to_go(), (1009, r#"{"reason":"message_too_big"}"#.to_owned()));
    small.say("small");
    let settled = |m: &Metrics| m.value("gateway_inbound_events_unsettled") == 0.0;
    let all = |m: &Metrics| m.value("gateway_bus_inbound_total") == 4.0 && settled(m);
    let metrics = gateway.until("two openings, an end and a message are there", all);
    assert_eq!(metrics.value("gateway_bus_inbound_left_out_total"), 1.0);
    assert_eq!(metrics.ended("message_too_big"), 1.0);
    gateway.stop();
}

#[test]
fn without_a_stream_events_wait_until_there_is_one() {
    let server = NatsServer::start_with_jetstream();
    let gateway = gateway(&server);
    let mut client = gateway.client("/app");
    client.say("early");
    gateway.until("nobody takes it", |m| m.value("gateway_bus_no_responders_total") > 0.0);
    gateway.logged(&["the bus does not take", "no stream has the subject"]);
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

#[test]
fn a_stream_that_says_nothing_is_asked_by_one_event_of_a_partition() {
    const CLIENTS: usize = 30;
    let server = NatsServer::start();
    // It takes every event, and says nothing: so does a stream without a leader.
    let mut silent = Nats::connect(server.port);
    silent.subscribe("gateway.inbound.>");
    let url = server.url();
    let gateway = Gateway::start(&format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'nats'\npartitions = 1\n[bus.nats]\nservers = ['{url}']\n\
         jetstream = true\n[[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n"
    ));
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/app")).collect();
    for _ in 0..CLIENTS {
        assert_eq!(silent.hear().header("Gateway-Sequence"), "1");
    }
    silent.hear();
    let again = Instant::now();
    silent.hear();
    assert!(again.elapsed() > Duration::from_secs(3), "{:?}", again.elapsed());
    drop(clients);
}
