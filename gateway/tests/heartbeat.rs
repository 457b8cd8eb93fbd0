//! Promise: a quiet client is asked whether it is there; one that answers stays, one that is dead is ended in time,
//! and one that talks is not asked at all.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Gateway, PING, PONG, Raw, TEXT, frame};

const INTERVAL: Duration = Duration::from_millis(400);
const PONG_DEADLINE: Duration = Duration::from_millis(600);
const BEATING: &str = "
[heartbeat]
interval = '400ms'
pong_deadline = '600ms'
";
/// The gateway's unit of time.
const TICK: Duration = Duration::from_millis(100);

#[test]
fn a_silent_client_is_pinged_and_then_ended_not_early_and_not_late() {
    let gateway = Gateway::start(BEATING);
    // One after the other, so that a machine that was busy for a moment was so for one of them.
    let mut silent: Vec<Raw> = Vec::new();
    for count in 1..=3 {
        silent.push(gateway.upgraded("/echo"));
        gateway.until("pinged", |m| m.value("gateway_pings_sent_total") == f64::from(count));
    }
    for raw in &mut silent {
        assert_eq!(raw.frame(), (0x80 | PING, Vec::new()));
        assert_eq!(raw.rest(), b"", "the dead get no goodbye");
    }
    let metrics = gateway.until_only(0);
    assert_eq!((metrics.ended("pong_timeout"), metrics.value("gateway_pings_sent_total")), (3.0, 3.0));
    let ages = harness::eventually("three lines about endings", || {
        let log = gateway.log();
        let ages: Vec<_> = log.lines().filter(|line| line.contains("pong_timeout")).map(age).collect();
        (ages.len() == 3).then_some(ages)
    });
    let due = INTERVAL + PONG_DEADLINE;
    assert!(ages.iter().all(|age| *age + TICK >= due), "early: {ages:?}");
    assert!(ages.iter().any(|age| *age <= due + 2 * TICK), "late: {ages:?}");
    gateway.stop();
}

fn age(line: &str) -> Duration {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    Duration::from_secs_f64(line["age_seconds"].as_f64().unwrap())
}

#[test]
fn a_client_that_only_answers_pings_lives() {
    let gateway = Gateway::start(BEATING);
    let mut raw = gateway.upgraded("/echo");
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(raw.frame(), (0x80 | PING, Vec::new()));
        raw.send(&frame(0x80 | PONG, b""));
    }
    assert!(started.elapsed() > INTERVAL + PONG_DEADLINE + 2 * TICK, "it was pinged too often");
    raw.send(&frame(0x80 | TEXT, b"alive"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"alive".to_vec()));
    let metrics = gateway.until_only(1);
    assert_eq!(metrics.value("gateway_pongs_received_total"), 3.0);
    gateway.stop();
}

#[test]
fn a_client_that_talks_is_not_pinged() {
    let gateway = Gateway::start("[heartbeat]\ninterval = '800ms'\npong_deadline = '300ms'");
    let mut raw = gateway.upgraded("/echo");
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1700) {
        raw.send(&frame(0x80 | TEXT, b"bla"));
        // A ping would be another frame than the one that is due.
        assert_eq!(raw.frame(), (0x80 | TEXT, b"bla".to_vec()));
        assert!(raw.is_quiet_for(Duration::from_millis(50)));
    }
    gateway.stop();
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let gateway = Gateway::start(BEATING);
    let mut raw = gateway.upgraded("/echo");
    assert_eq!(raw.frame(), (0x80 | PING, Vec::new()));
    raw.send(&frame(TEXT, b"the beginning of "));
    assert_eq!(raw.frame(), (0x80 | PING, Vec::new()), "the next one, so the first was survived");
    raw.send(&frame(0x80, b"a story"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"the beginning of a story".to_vec()));
    gateway.stop();
}
