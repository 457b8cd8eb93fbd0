//! Promise: a gateway that is told to go says so to its clients, each with a time of its own to come back, takes no
//! new ones, and is gone by its deadline.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::{CLOSE, Client, Gateway, PATIENCE, frame};
use nix::sys::signal::Signal;

const PATIENT: &str = "[drain]\ndeadline = '1m'\n[timeouts]\nclose = '1m'";
/// Most of it goes to goodbyes.
const BRISK: &str = "[drain]\ndeadline = '4s'\n[timeouts]\nclose = '1m'";

/// The gateway's goodbye: `retry_ms` out of a reason in JSON.
#[track_caller]
fn retry_ms(goodbye: &(u16, String)) -> u64 {
    assert_eq!(goodbye.0, 1001);
    let reason: serde_json::Value = serde_json::from_str(&goodbye.1).unwrap();
    assert_eq!(reason["reason"], "going_away");
    reason["retry_ms"].as_u64().unwrap()
}

#[test]
fn everybody_is_told_1001_with_a_time_of_their_own_and_the_gateway_ends_well() {
    const CLIENTS: usize = 40;
    let gateway = Gateway::start(BRISK);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/rooms/lobby")).collect();
    let started = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let told: Vec<_> = clients
        .into_iter()
        .map(|client| {
            std::thread::spawn(move || {
                let goodbye = client.told_to_go();
                (started.elapsed(), retry_ms(&goodbye))
            })
        })
        .collect();
    let mut told: Vec<_> = told.into_iter().map(|client| client.join().unwrap()).collect();
    let retries: BTreeSet<u64> = told.iter().map(|(_, retry)| *retry).collect();
    assert!(retries.len() > CLIENTS / 2, "they would all come back at once: {retries:?}");
    assert!(retries.iter().all(|retry| *retry < 10_000), "{retries:?}");
    // Three of the four seconds are for goodbyes, which are spread over them.
    told.sort();
    assert!(told[CLIENTS / 4].0 > Duration::from_millis(300), "{told:?}");
    assert!(told[CLIENTS - 1].0 > Duration::from_millis(2000), "{told:?}");
    let (code, log) = gateway.wait();
    assert_eq!(code, Some(0), "{log}");
    let endings = log.lines().filter(|line| line.contains("connection ended") && line.contains("going_away"));
    assert_eq!(endings.count(), CLIENTS, "{log}");
    let farewell = log.lines().find(|line| line.contains("nobody left")).unwrap();
    assert!(farewell.contains("going_away=40") && farewell.contains("\"cut\":0"), "{farewell}");
}

#[test]
fn while_balancers_are_late_new_clients_are_served_and_health_is_red() {
    let gateway = Gateway::start("[drain]\ndeadline = '6s'\naccept_seconds = 2");
    let early = gateway.client("/rooms/lobby");
    gateway.http().call("POST", "/v1/drain").good(202);
    gateway.http().call("GET", "/readyz").good(503);
    let late = gateway.client("/rooms/lobby");
    assert_eq!(gateway.metrics().sum("gateway_shard_listening"), 2.0);
    retry_ms(&early.told_to_go());
    retry_ms(&late.told_to_go());
    assert_eq!(gateway.wait().0, Some(0));
}

#[test]
fn a_drain_by_request_takes_the_time_it_was_given() {
    let gateway = Gateway::start(PATIENT);
    let mut deaf = gateway.upgraded("/rooms/lobby");
    gateway.http().call("POST", "/v1/drain?seconds=1").good(202);
    assert!(!deaf.rest().is_empty(), "it was told");
    let (code, log) = gateway.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"cut\":1"), "{log}");
}

#[test]
fn a_shed_tells_a_share_to_go_and_the_gateway_serves_on() {
    const CLIENTS: usize = 40;
    let gateway = Gateway::start("");
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/rooms/lobby")).collect();
    let answer = gateway.http().call("POST", "/v1/shed?fraction=0.5&seconds=1").good(202).json();
    let told = answer["connections"].as_u64().unwrap();
    assert!((19..=21).contains(&told), "half of each shard, rounded: {told}");
    gateway.until("the share was told", |m| m.value("gateway_goodbyes_total") == told as f64);
    let listening = gateway.http().call("GET", "/readyz").good(200).json();
    assert_eq!(listening["ready"], true);
    let new = gateway.client("/rooms/lobby");
    drop((clients, new));
    gateway.stop();
}

#[test]
fn a_gateway_that_holds_nobody_ends_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let gateway = Gateway::start(PATIENT);
        let started = Instant::now();
        gateway.signal(signal);
        assert_eq!(gateway.wait().0, Some(0));
        assert!(started.elapsed() < PATIENCE / 3, "{:?}", started.elapsed());
    }
}

#[test]
fn while_it_drains_nobody_new_comes_in_and_health_says_why() {
    // Time enough to look at everything before its deadline.
    let gateway = Gateway::start(&BRISK.replace("4s", "8s"));
    let mut stays = gateway.upgraded("/rooms/lobby");
    let mut half = gateway.raw();
    half.send(b"GET /echo HTTP/1.1\r\n");
    gateway.until("both are in", |m| {
        m.value("gateway_connections") == 2.0 && m.value("gateway_handshakes") == 1.0
    });
    let mut http = gateway.http();
    gateway.signal(Signal::SIGTERM);
    retry_ms(&stays.goodbye());
    let told = String::from_utf8(half.rest()).unwrap();
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("Retry-After: "), "{told}");
    harness::eventually("the listeners are closed", || TcpStream::connect(gateway.ws).is_err().then_some(()));
    let ready = http.call("GET", "/readyz").good(503).json();
    assert_eq!((&ready["ready"], &ready["reason"]), (&false.into(), &"draining".into()));
    http.call("GET", "/livez").good(200);
    assert_eq!(http.call("GET", "/v1/node").good(200).json()["draining"], true);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("gateway_shard_listening"), 0.0);
    stays.send(&frame(0x80 | CLOSE, &1001_u16.to_be_bytes()));
    assert_eq!(stays.rest(), b"");
    assert_eq!(gateway.wait().0, Some(0));
}

#[test]
fn who_does_not_leave_is_ended_at_the_deadline() {
    let gateway = Gateway::start("[drain]\ndeadline = '400ms'\n[timeouts]\nclose = '1m'");
    let mut deaf = gateway.upgraded("/rooms/lobby");
    let started = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert!(!deaf.rest().is_empty(), "it was told");
    // Deadlines are kept by the tick of 100 ms.
    assert!(started.elapsed().as_millis() >= 300, "{:?}", started.elapsed());
    assert_eq!(gateway.wait().0, Some(0));
}

#[test]
fn told_twice_it_ends_at_once_and_says_that_it_did_not_end_well() {
    let gateway = Gateway::start(PATIENT);
    let mut deaf = gateway.upgraded("/rooms/lobby");
    gateway.signal(Signal::SIGTERM);
    retry_ms(&deaf.goodbye());
    gateway.signal(Signal::SIGINT);
    let (code, log) = gateway.wait();
    assert_eq!(code, Some(1), "{log}");
}

#[test]
fn a_drain_by_request_is_the_same_and_the_first_signal_behind_it_does_not_cut_it_short() {
    let gateway = Gateway::start(PATIENT);
    let mut stays = gateway.upgraded("/rooms/lobby");
    let mut http = gateway.http();
    http.call("POST", "/v1/drain").good(202);
    retry_ms(&stays.goodbye());
    http.call("POST", "/v1/drain").good(202);
    // A cluster asks for a drain first and sends the signal then.
    gateway.signal(Signal::SIGTERM);
    gateway.logged(&["draining", "SIGTERM"]);
    http.call("GET", "/readyz").good(503);
    stays.send(&frame(0x80 | CLOSE, &1001_u16.to_be_bytes()));
    assert_eq!(stays.rest(), b"");
    let (code, log) = gateway.wait();
    assert_eq!(code, Some(0), "{log}");
}
