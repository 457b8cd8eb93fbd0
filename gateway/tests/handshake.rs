//! Promise: whoever asks rightly is upgraded, whoever does not is told why with a status, and both are counted.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Client, Gateway, TEXT, frame, upgrade_request};
use tungstenite::Error;

const ROUTES: &str = "
[limits]
head_bytes = '1KiB'

[[route]]
name = 'echo'
path = '/echo'
inbound = 'echo'

[[route]]
name = 'rooms'
path = '/rooms/{room}'
inbound = 'ignore'

[[route]]
name = 'chat'
path = '/chat'
inbound = 'echo'
subprotocols = ['v1.chat', 'v2.chat']
origins = ['https://example.org', 'https://*.example.net']
";

/// What is wrong with a request, the status, the reason.
fn refusals() -> Vec<(String, u16, &'static str)> {
    let good = upgrade_request("/echo");
    let with = |old: &str, new: &str| {
        assert!(good.contains(old), "{old}");
        good.replacen(old, new, 1)
    };
    vec![
        ("NONSENSE\r\n\r\n".to_owned(), 400, "bad_head"),
        (with("\r\nHost", "\r\nBad Header\r\nHost"), 400, "bad_head"),
        (with("\r\nHost", &format!("\r\nX: {}\r\nHost", "x".repeat(1024))), 431, "head_too_large"),
        (with("\r\nHost", &format!("{}\r\nHost", "\r\nA: b".repeat(120))), 431, "too_many_headers"),
        (with("GET", "POST"), 405, "method"),
        (with("HTTP/1.1", "HTTP/1.0"), 505, "http_version"),
        (with("Host: gateway.example\r\n", ""), 400, "host"),
        (with("Host: gateway.example", "Host: a\r\nHost: b"), 400, "host"),
        (with("Upgrade: websocket\r\n", ""), 426, "not_upgrade"),
        (with("Version: 13", "Version: 8"), 426, "version"),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400, "key"),
        (with("Host", "Content-Length: 3\r\nHost"), 400, "body"),
        (with("/echo", "/nowhere"), 404, "not_found"),
        (with("/echo", "/rooms/"), 404, "not_found"),
        (with("/echo", "/rooms/a.b"), 404, "not_found"),
        (with("/echo", "/rooms/%2A"), 404, "not_found"),
        (with("/echo", "/rooms/a/b"), 404, "not_found"),
        (
            with("GET /echo", "GET /chat").replace("Host", "Origin: https://evil.example\r\nHost"),
            403,
            "origin",
        ),
    ]
}

#[test]
fn every_refusal_has_its_status_its_reason_and_its_count() {
    let gateway = Gateway::start(ROUTES);
    let bystander = harness::Bystander::beside(&gateway);
    for (request, status, reason) in refusals() {
        let before = gateway.metrics().refused(reason);
        let mut raw = gateway.raw();
        raw.send(request.as_bytes());
        let (got, answer) = raw.refusal();
        assert_eq!(got, status, "{reason}: {answer}");
        assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{answer}");
        assert!(answer.contains("\r\nConnection: ") && answer.contains("close\r\n"), "{answer}");
        gateway.until(reason, |m| m.refused(reason) == before + 1.0);
    }
    bystander.was_not_disturbed();
    let metrics = gateway.until_only(0);
    assert_eq!(metrics.sum("gateway_handshakes_refused_total"), refusals().len() as f64);
    assert_eq!(metrics.value("gateway_connections_opened_total"), 1.0);
    gateway.stop();
}

#[test]
fn a_browser_that_was_lost_is_told_about_the_upgrade() {
    let gateway = Gateway::start(ROUTES);
    let mut raw = gateway.raw();
    raw.send(b"GET /echo HTTP/1.1\r\nHost: gateway.example\r\n\r\n");
    let (status, answer) = raw.refusal();
    assert_eq!(status, 426);
    assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
    gateway.stop();
}

#[test]
fn the_accept_key_is_that_of_the_rfc() {
    let gateway = Gateway::start(ROUTES);
    let head = gateway.raw().upgrade("/echo");
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    gateway.stop();
}

#[test]
fn a_head_that_comes_by_the_byte_is_read_like_any_other() {
    let gateway = Gateway::start(ROUTES);
    let mut raw = gateway.raw();
    for byte in upgrade_request("/echo").bytes() {
        raw.send(&[byte]);
    }
    assert!(raw.head().starts_with("HTTP/1.1 101 "));
    raw.send(&frame(0x80 | TEXT, b"at last"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"at last".to_vec()));
    gateway.until_only(1);
    gateway.stop();
}

#[test]
fn frames_that_come_with_the_request_are_not_lost() {
    let gateway = Gateway::start(ROUTES);
    let mut raw = gateway.raw();
    let eager = [upgrade_request("/echo").into_bytes(), frame(0x80 | TEXT, b"eager")].concat();
    raw.send(&eager);
    assert!(raw.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"eager".to_vec()));
    // Half of it with the request, half of it later.
    let mut raw = gateway.raw();
    raw.send(&eager[..eager.len() - 3]);
    assert!(raw.head().starts_with("HTTP/1.1 101 "));
    raw.send(&eager[eager.len() - 3..]);
    assert_eq!(raw.frame(), (0x80 | TEXT, b"eager".to_vec()));
    gateway.stop();
}

#[test]
fn a_client_gets_the_first_of_its_subprotocols_that_the_route_speaks() {
    let gateway = Gateway::start(ROUTES);
    let chosen = |offer: &str| {
        let client = Client::connect(gateway.ws, "/chat", &[("Sec-WebSocket-Protocol", offer)]);
        client.unwrap().protocol
    };
    assert_eq!(chosen("v2.chat, v1.chat").as_deref(), Some("v2.chat"));
    assert_eq!(chosen("v9.chat, v1.chat").as_deref(), Some("v1.chat"));
    // A client that offers none of ours is let in without; tungstenite would leave, so these are plain bytes.
    let mut raw = gateway.raw();
    raw.send(upgrade_request("/chat").replace("Host", "Sec-WebSocket-Protocol: v9.chat\r\nHost").as_bytes());
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Sec-WebSocket-Protocol"), "{head}");
    gateway.stop();
}

#[test]
fn pages_of_listed_origins_connect_and_no_others() {
    let gateway = Gateway::start(ROUTES);
    let connect = |origin: &str| match Client::connect(gateway.ws, "/chat", &[("Origin", origin)]) {
        Ok(mut client) => {
            client.echoes("in");
            101
        }
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{origin}: {error}"),
    };
    for good in ["https://example.org", "https://a.example.net", "https://a.b.example.net"] {
        assert_eq!(connect(good), 101, "{good}");
    }
    for foreign in [
        "http://example.org",
        "https://evilexample.org",
        "https://example.org.evil.example",
        "https://example.org:8443",
        "https://example.net",
        "https://evilexample.net",
        "null",
    ] {
        assert_eq!(connect(foreign), 403, "{foreign}");
    }
    // Programs that are no browsers send none.
    gateway.client("/chat").echoes("in");
    gateway.stop();
}

#[test]
fn the_answer_names_the_connection_for_the_api() {
    let gateway = Gateway::start(ROUTES);
    let client = gateway.client("/rooms/lobby");
    assert!(client.id.starts_with("test-"), "{}", client.id);
    let seen = gateway.http().call("GET", &format!("/v1/connections/{}", client.id)).good(200).json();
    assert_eq!((&seen["id"], &seen["route"]), (&client.id.as_str().into(), &"rooms".into()));
    gateway.stop();
}
