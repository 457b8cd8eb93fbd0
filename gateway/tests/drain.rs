//! Promise: a gateway that is told to go says so to its clients, each with a time of its own to come back, takes no
//! new ones, and is gone by its deadline.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::Instant;

use harness::{CLOSE, Client, Gateway, PATIENCE, frame};
use nix::sys::signal::Signal;

const PATIENT: &str = "[drain]\ndeadline = '1m'\n[timeouts]\nclose = '1m'";

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
    let gateway = Gateway::start(PATIENT);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/rooms/lobby")).collect();
    gateway.signal(Signal::SIGTERM);
    let retries: BTreeSet<u64> = clients.into_iter().map(|client| retry_ms(&client.told_to_go())).collect();
    assert!(retries.len() > CLIENTS / 2, "they would all come back at once: {retries:?}");
    assert!(retries.iter().all(|retry| *retry < 10_000), "{retries:?}");
    let (code, log) = gateway.wait();
    assert_eq!(code, Some(0), "{log}");
    let endings = log.lines().filter(|line| line.contains("going_away")).count();
    assert_eq!(endings, CLIENTS, "{log}");
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
    let gateway = Gateway::start(PATIENT);
    let mut stays = gateway.upgraded("/rooms/lobby");
    let mut half = gateway.raw();
    half.send(b"GET /echo HTTP/1.1\r\n");
    gateway.until("both are in", |m| {
        m.value("gateway_connections") == 2.0 && m.value("gateway_handshakes") == 1.0
    });
    let mut http = gateway.http();
    gateway.signal(Signal::SIGTERM);
    retry_ms(&stays.goodbye());
    assert_eq!(half.rest(), b"", "who was not in yet is hung up on");
    harness::eventually("the listeners are closed", || TcpStream::connect(gateway.ws).is_err().then_some(()));
    let ready = http.call("GET", "/readyz").good(503).json();
    assert_eq!((&ready["ready"], &ready["reason"]), (&false.into(), &"draining".into()));
    http.call("GET", "/livez").good(200);
    assert_eq!(http.call("GET", "/v1/node").good(200).json()["draining"], true);
    // One of the attempts to connect may have come in just before the last listener closed.
    let metrics = gateway.until("the half one was counted", |m| m.turned("going_away") >= 1.0);
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
