//! Promise: a quiet client is asked whether it is there; one that answers stays, one that is dead is ended in time,
//! and one that talks is not asked at all.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{CLOSE, Gateway, PATIENCE, PING, PONG, Raw, TEXT, frame};

const INTERVAL: Duration = Duration::from_millis(400);
const PONG_DEADLINE: Duration = Duration::from_millis(600);
const BEATING: &str = "
[heartbeat]
interval = '400ms'
pong_deadline = '600ms'
";
/// The same for clients that answer as soon as a busy machine lets them.
const PATIENT: &str = "
[heartbeat]
interval = '400ms'
pong_deadline = '10s'
";
/// The gateway's unit of time.
const TICK: Duration = Duration::from_millis(100);

#[test]
fn a_silent_client_is_pinged_and_then_ended_not_early_and_not_late() {
    const TRIES: usize = 12;
    let gateway = Gateway::start(BEATING);
    let due = INTERVAL + PONG_DEADLINE;
    // A machine that was busy for a moment was so for one of them, and a gateway that is late is so for each.
    let mut ages: Vec<Duration> = Vec::new();
    while ages.len() < 3 || ages.iter().all(|age| *age > due + 2 * TICK) {
        assert!(ages.len() < TRIES, "late: {ages:?}");
        let mut raw = gateway.upgraded("/echo");
        is_pinged(&mut raw);
        assert_eq!(raw.rest(), b"", "the dead get no goodbye");
        let last = ages.len();
        ages.push(harness::eventually("a line about its ending", || {
            gateway.log().lines().filter(|line| line.contains("pong_timeout")).nth(last).map(age)
        }));
    }
    assert!(ages.iter().all(|age| *age + TICK >= due), "early: {ages:?}");
    let (metrics, all) = (gateway.until_only(0), ages.len() as f64);
    assert_eq!((metrics.ended("pong_timeout"), metrics.value("gateway_pings_sent_total")), (all, all));
    gateway.stop();
}

fn age(line: &str) -> Duration {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    Duration::from_secs_f64(line["age_seconds"].as_f64().unwrap())
}

#[test]
fn a_client_that_only_answers_pings_lives() {
    let gateway = Gateway::start(PATIENT);
    let mut raw = gateway.upgraded("/echo");
    let started = Instant::now();
    // Each is the answer to a pong: nobody is asked again before he has answered.
    for _ in 0..5 {
        let stamp = is_pinged(&mut raw);
        raw.send(&frame(0x80 | PONG, &stamp));
    }
    assert!(started.elapsed() > 3 * INTERVAL, "it was pinged too often");
    raw.send(&frame(0x80 | TEXT, b"alive"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"alive".to_vec()));
    let metrics = gateway.until_only(1);
    assert_eq!(metrics.value("gateway_pongs_received_total"), 5.0);
    assert_eq!(metrics.value("gateway_ping_round_trip_seconds_count"), 5.0);
    assert!(metrics.value("gateway_ping_round_trip_seconds_sum") < started.elapsed().as_secs_f64());
    gateway.stop();
}

/// Expects a ping. What it carries is to be sent back.
#[track_caller]
fn is_pinged(raw: &mut Raw) -> Vec<u8> {
    let (first, stamp) = raw.frame();
    assert_eq!((first, stamp.len()), (0x80 | PING, 4));
    stamp
}

#[test]
fn a_client_that_talks_is_not_pinged() {
    let gateway = Gateway::start("[heartbeat]\ninterval = '800ms'\npong_deadline = '10s'");
    let mut raw = gateway.upgraded("/echo");
    let began = Instant::now();
    let (mut last, mut since) = (began, began);
    while since.elapsed() < Duration::from_millis(1700) {
        assert!(began.elapsed() < PATIENCE, "it never gets to talk");
        let said = Instant::now();
        raw.send(&frame(0x80 | TEXT, b"bla"));
        while raw.frame() != (0x80 | TEXT, b"bla".to_vec()) {
            // It is a ping, and right if this machine kept us from talking for an interval.
            assert!(last.elapsed() > Duration::from_millis(800) - 2 * TICK, "{:?}", last.elapsed());
            since = said;
        }
        last = said;
        raw.is_quiet_for(Duration::from_millis(50));
    }
    gateway.stop();
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let gateway = Gateway::start(PATIENT);
    let mut raw = gateway.upgraded("/echo");
    is_pinged(&mut raw);
    raw.send(&frame(TEXT, b"the beginning of "));
    // The next one, so the first was survived.
    is_pinged(&mut raw);
    raw.send(&frame(0x80, b"a story"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"the beginning of a story".to_vec()));
    gateway.stop();
}

#[test]
fn routes_have_heartbeats_idle_timeouts_and_ages_of_their_own() {
    let route = |name: &str, keys: &str| {
        format!("[[route]]\nname = '{name}'\npath = '/{name}'\ninbound = 'echo'\n{keys}\n")
    };
    let text = [
        route("beating", "heartbeat = { interval = '200ms', pong_deadline = '300ms' }"),
        route("idle", "idle_timeout = '500ms'\nauto_reply = { ping = 'pong' }"),
        route("aged", "max_age = '300ms'\nmax_age_jitter = '100ms'"),
        route("plain", ""),
    ];
    let gateway = Gateway::start(&text.concat());
    let mut plain = gateway.upgraded("/plain");
    let mut beating = gateway.upgraded("/beating");
    is_pinged(&mut beating);
    assert_eq!(beating.rest(), b"");
    let mut aged = gateway.upgraded("/aged");
    let (code, reason) = aged.goodbye();
    assert!(code == 1001 && reason.starts_with("{\"reason\":\"max_age\",\"retry_ms\":"), "{code} {reason}");
    let mut idle = gateway.upgraded("/idle");
    // Its app asks whether we are there, again and again, which is no use of the connection.
    let (began, mut answered) = (Instant::now(), 0);
    let goodbye = loop {
        idle.send(&frame(0x80 | TEXT, b"ping"));
        match idle.frame() {
            (first, payload) if first == 0x80 | CLOSE => break payload,
            other => assert_eq!(other, (0x80 | TEXT, b"pong".to_vec())),
        }
        answered += 1;
        assert!(began.elapsed() < PATIENCE, "it is never idle");
        idle.is_quiet_for(Duration::from_millis(50));
    };
    assert_eq!(goodbye, [&1000_u16.to_be_bytes()[..], b"{\"reason\":\"idle\"}"].concat());
    plain.send(&frame(0x80 | TEXT, b"still here"));
    assert_eq!(plain.frame(), (0x80 | TEXT, b"still here".to_vec()));
    let metrics =
        gateway.until("all ended", |m| m.ended("idle") + m.ended("max_age") + m.ended("pong_timeout") == 3.0);
    assert_eq!(metrics.value("gateway_auto_replies_total"), f64::from(answered));
    gateway.stop();
}
