//! Promise: who exceeds a limit gets what the configuration says, others notice nothing, and each time is counted.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use harness::{BINARY, Gateway, Raw, TEXT, eventually, frame, upgrade_request};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;

const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

fn limited(limit: &str, action: &str, dry_run: bool) -> String {
    format!("gateway_limited_total{{limit=\"{limit}\",action=\"{action}\",dry_run=\"{dry_run}\"}}")
}

fn text(number: usize) -> Vec<u8> {
    frame(0x80 | TEXT, format!("{number}").as_bytes())
}

/// Messages a second for a second, the first 20 at once.
const SLOW: &str = "messages_per_second = 20\nmessages_burst = 20";

#[test]
fn a_connection_that_is_paused_gets_all_its_echoes_and_no_sooner_than_its_rate() {
    let gateway = Gateway::start(&format!("[limits.connection]\n{SLOW}"));
    let (mut fast, mut calm) = (gateway.upgraded("/echo"), gateway.client("/echo"));
    let started = Instant::now();
    // One write each: what one read takes in is let through, and owed.
    for number in 0..50 {
        fast.send(&text(number));
        calm.echoes("still here");
    }
    for number in 0..50 {
        assert_eq!(fast.frame(), (0x80 | TEXT, number.to_string().into_bytes()));
    }
    fast.send(&text(50));
    assert_eq!(fast.frame(), (0x80 | TEXT, b"50".to_vec()));
    assert!(started.elapsed() >= Duration::from_millis(1300), "51 at 20 a second and 20 at once");
    let metrics = gateway.metrics();
    assert!(metrics.value(&limited("connection_messages", "pause", false)) >= 1.0);
    gateway.logged(&["limit enforced", "connection_messages", "127.0.0.1"]);
    gateway.until("nobody is paused", |m| m.value("gateway_connections_paused") == 0.0);
    gateway.stop();
}

#[test]
fn beyond_a_rate_messages_are_dropped_or_the_connection_is_closed_with_a_reason() {
    let gateway = Gateway::start(&format!("[limits.connection]\n{SLOW}\naction = 'drop'"));
    let mut raw = gateway.upgraded("/echo");
    raw.send(&(0..100).flat_map(text).collect::<Vec<u8>>());
    for number in 0..20 {
        assert_eq!(raw.frame(), (0x80 | TEXT, number.to_string().into_bytes()));
    }
    let dropped = limited("connection_messages", "drop", false);
    let metrics = gateway.until("each is counted as one or the other", |m| {
        m.value(&dropped) + m.value("gateway_messages_sent_total") == 100.0
    });
    assert!(metrics.value(&dropped) >= 70.0, "{metrics}");
    gateway.stop();

    let gateway = Gateway::start(&format!("[limits.connection]\n{SLOW}\naction = 'close'"));
    let mut raw = gateway.upgraded("/rooms/a");
    raw.send(&(0..100).flat_map(text).collect::<Vec<u8>>());
    let (code, reason) = raw.goodbye_after_messages();
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!((code, reason["reason"].as_str()), (1008, Some("message_rate")));
    assert!(reason["retry_ms"].as_u64().unwrap() > 0);
    drop(raw);
    gateway.until("counted", |m| m.ended("limited") == 1.0);
    gateway.stop();
}

trait Closed {
    fn goodbye_after_messages(&mut self) -> (u16, String);
}

impl Closed for Raw {
    fn goodbye_after_messages(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame();
            if first == 0x88 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
            }
        }
    }
}

#[test]
fn a_peer_has_so_many_connections_and_another_has_its_own() {
    let gateway = Gateway::start("[limits.peer]\nconnections = 2\ndry_run = false");
    let held = [gateway.client("/echo"), gateway.client("/echo")];
    let mut third = gateway.raw();
    third.send(upgrade_request("/echo").as_bytes());
    let head = third.head();
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("Retry-After: 5"), "{head}");
    let mut other = Raw::connect_from(OTHER, gateway.ws);
    other.upgrade("/echo");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value(&limited("peer_connections", "refuse", false)), 1.0);
    assert_eq!(metrics.turned("peer_limit"), 1.0);
    drop((held, third));
    gateway.until("they have left", |m| m.value("gateway_connections") == 1.0);
    gateway.client("/echo").echoes("again");
    gateway.stop();
}

#[test]
fn a_page_can_read_why_it_may_not_connect() {
    let gateway = Gateway::start(
        "[limits.peer]\nconnects_per_second = 1\nconnects_burst = 1\nrefuse = 'close'\ndry_run = false",
    );
    let started = Instant::now();
    let mut first = gateway.client("/echo");
    let (code, reason, early) = comes_too_soon(&gateway);
    assert_eq!(code, 1008);
    assert!(reason.contains(r#""reason":"connect_rate","retry_ms":"#), "{reason}");
    first.echoes("it stays");
    first.leave();
    let (code, _, late) = comes_too_soon(&gateway);
    assert_eq!(code, 1008);
    let seconds = (started.elapsed() + Duration::from_millis(200)).as_secs();
    assert!(early + late <= seconds, "coming back makes nobody new: {early} + {late} in {seconds} s");
    assert_eq!(gateway.metrics().value(&limited("peer_connects", "close", false)), 2.0);
    gateway.stop();
}

/// Comes until it is told to go: code and reason, and how many came in before, since time passes on a busy machine.
#[track_caller]
fn comes_too_soon(gateway: &Gateway) -> (u16, String, u64) {
    let mut let_in = 0;
    eventually("one comes too soon", || {
        let mut client = gateway.client("/echo");
        client.say("am I in?");
        match client.hear() {
            Message::Close(Some(CloseFrame { code, reason })) => {
                Some((code.into(), reason.as_str().to_owned(), let_in))
            }
            said => {
                assert_eq!(said, Message::text("am I in?"));
                let_in += 1;
                None
            }
        }
    })
}

#[test]
fn a_dry_run_counts_and_does_nothing() {
    let gateway = Gateway::start(&format!("[limits.peer]\nconnections = 1\n{SLOW}"));
    let (mut first, mut second) = (gateway.upgraded("/echo"), gateway.upgraded("/echo"));
    // More than the peer has for half a minute, so that it matters little how long all this takes.
    for raw in [&mut first, &mut second] {
        raw.send(&(0..300).flat_map(text).collect::<Vec<u8>>());
    }
    for raw in [&mut first, &mut second] {
        for number in 0..300 {
            assert_eq!(raw.frame(), (0x80 | TEXT, number.to_string().into_bytes()));
        }
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.value(&limited("peer_connections", "refuse", true)), 1.0);
    assert!(metrics.value(&limited("peer_messages", "pause", true)) >= 1.0);
    gateway.logged(&["limit would have been enforced", "peer_connections"]);
    gateway.stop();
}

#[test]
fn networks_have_a_factor_an_exemption_or_a_block() {
    let gateway = Gateway::start(
        "[limits.peer]\nconnections = 1\ndry_run = false
         [[limits.network]]\ncidr = '127.0.0.1/32'\nfactor = 2
         [[limits.network]]\ncidr = '127.0.0.2'\nexempt = true
         [[limits.network]]\ncidr = '127.0.0.3'\nblock = true",
    );
    let _two = [gateway.client("/echo"), gateway.client("/echo")];
    let mut third = gateway.raw();
    third.send(upgrade_request("/echo").as_bytes());
    assert!(third.head().starts_with("HTTP/1.1 429 "));
    let many: Vec<Raw> = (0..5).map(|_| Raw::connect_from(OTHER, gateway.ws)).collect();
    many.into_iter().for_each(|mut raw| drop(raw.upgrade("/echo")));
    drop(Raw::connect_from(IpAddr::from([127, 0, 0, 3]), gateway.ws));
    gateway.until("it was turned away", |m| m.turned("blocked") == 1.0);
    gateway.stop();
}

#[test]
fn without_memory_left_newcomers_are_refused_and_who_is_in_is_served_on() {
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    let mut stays = gateway.client("/echo");
    // Less than any process has.
    gateway.configure("[limits.node]\nmemory = '1MiB'\ndry_run = true");
    http.call("POST", "/v1/reload").good(200);
    gateway.logged(&["memory is at its limit: it is only counted"]);
    gateway.client("/echo").echoes("only counted");
    gateway.logged(&["limit would have been enforced", "node_memory"]);
    gateway.configure("[limits.node]\nmemory = '1MiB'");
    http.call("POST", "/v1/reload").good(200);
    gateway.logged(&["memory is at its limit: new connections are refused"]);
    let mut refused = gateway.raw();
    refused.send(upgrade_request("/echo").as_bytes());
    let head = refused.head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: "), "{head}");
    gateway.logged(&["limit enforced", "node_memory"]);
    stays.echoes("still served");
    let metrics = gateway.metrics();
    assert_eq!(metrics.turned("memory"), 1.0);
    assert_eq!(metrics.value(&limited("node_memory", "refuse", false)), 1.0);
    assert_eq!(metrics.value(&limited("node_memory", "refuse", true)), 1.0);
    assert_eq!(metrics.value("gateway_memory_limit_bytes"), f64::from(1 << 20));
    assert!(metrics.value("process_resident_memory_bytes") > f64::from(1 << 20));
    gateway.configure("[limits.node]\nmemory = '1GiB'");
    http.call("POST", "/v1/reload").good(200);
    gateway.logged(&["memory is below its limit"]);
    gateway.client("/echo").echoes("there is room again");
    gateway.stop();
}

#[test]
fn behind_a_peak_of_memory_newcomers_are_let_in_again() {
    const CONNECTIONS: usize = 3000;
    const HALF_BYTES: usize = 10_000;
    // So many take their time on a busy machine, and nobody answers pings meanwhile.
    let quiet = "[heartbeat]\ninterval = '10m'\n";
    let gateway = Gateway::start(quiet);
    let mut crowd: Vec<Option<Raw>> = (0..CONNECTIONS).map(|_| Some(gateway.upgraded("/echo"))).collect();
    let at_rest = gateway.metrics().value("process_resident_memory_bytes");
    let frame = frame(0x80 | BINARY, &[0; 2 * HALF_BYTES]);
    for raw in crowd.iter_mut().flatten() {
        raw.send(&frame[..HALF_BYTES]);
    }
    let limit = at_rest as usize + CONNECTIONS * HALF_BYTES * 2 / 3;
    let mut http = gateway.http();
    gateway.configure(&format!("{quiet}[limits.node]\nmemory = {limit}"));
    http.call("POST", "/v1/reload").good(200);
    gateway.logged(&["memory is at its limit: new connections are refused"]);
    // In any order, and a few stay, so that what was freed lies between what is in use.
    for place in (0..CONNECTIONS).filter(|place| place % 100 > 0) {
        crowd[place * 7 % CONNECTIONS] = None;
    }
    gateway.until("few are left", |m| m.value("gateway_connections") == (CONNECTIONS / 100) as f64);
    gateway.logged(&["memory is below its limit"]);
    gateway.client("/echo").echoes("there is room again");
    gateway.stop();
}

#[test]
fn a_blocked_network_is_shown_out_and_kept_out_until_the_block_is_lifted() {
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    let mut other = Raw::connect_from(OTHER, gateway.ws);
    other.upgrade("/echo");
    let mut stays = gateway.client("/echo");
    let block = http.call("PUT", "/v1/blocks/127.0.0.2%2F32?ttl=600").good(200).json();
    assert_eq!(block["cidr"], "127.0.0.2/32");
    let (code, reason) = other.goodbye();
    assert_eq!((code, reason.as_str()), (1008, r#"{"reason":"blocked"}"#));
    drop(Raw::connect_from(OTHER, gateway.ws));
    gateway.until("turned away", |m| m.turned("blocked") == 1.0 && m.ended("limited") == 1.0);
    stays.echoes("not concerned");
    let shown = http.call("GET", "/v1/blocks/127.0.0.2/32").good(200).json();
    assert!((1..=600).contains(&shown["expires_in_s"].as_u64().unwrap()));
    assert_eq!(http.call("GET", "/v1/blocks").good(200).json()["blocks"].as_array().unwrap().len(), 1);
    http.call("DELETE", "/v1/blocks/127.0.0.2/32").good(204);
    http.call("DELETE", "/v1/blocks/127.0.0.2/32").problem(404, "not_blocked");
    let mut again = Raw::connect_from(OTHER, gateway.ws);
    again.upgrade("/echo");
    for path in ["/v1/blocks/10.0.0.1%2F8", "/v1/blocks/nobody", "/v1/blocks/2001:db8::1/128"] {
        http.call("PUT", path).problem(400, "bad_network");
    }
    http.call("PUT", "/v1/blocks/10.0.0.0/8?ttl=0").problem(400, "bad_request");
    gateway.stop();
}
