//! One row per way to be refused before the upgrade, and the oddities that must pass.

use wire::error::Refusal;
use wire::http::{Fields, Head};
use wire::ws::handshake::{Request, choose_protocol};

const GOOD: [&str; 6] = [
    "GET /rooms/lobby?as=ada HTTP/1.1",
    "Host: gateway.example",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// The good request, with the line that starts like `at` replaced (no lines: removed).
fn with(at: &str, lines: &[&str]) -> String {
    let mut head: Vec<&str> = Vec::new();
    for line in GOOD {
        if line.starts_with(at) { head.extend(lines) } else { head.push(line) }
    }
    assert_ne!(head, GOOD, "{at} names no line");
    head.join("\r\n") + "\r\n\r\n"
}

/// The good request with further lines.
fn plus(lines: &[&str]) -> String {
    [&GOOD, lines].concat().join("\r\n") + "\r\n\r\n"
}

fn check(text: &str) -> Result<(), Refusal> {
    let mut fields = Fields::new();
    let head = Head::parse(text.as_bytes(), 8192, &mut fields)?.expect("the head is whole");
    Request::check(head).map(|_| ())
}

#[test]
fn a_good_request_passes() {
    let text = plus(&[
        "Origin: https://example.com",
        "Sec-WebSocket-Protocol: v1, v2",
        "Sec-WebSocket-Protocol: v3",
    ]);
    let mut fields = Fields::new();
    let request = Request::check(Head::parse(text.as_bytes(), 8192, &mut fields).unwrap().unwrap()).unwrap();
    assert_eq!((request.path, request.query), ("/rooms/lobby", Some("as=ada")));
    assert_eq!((request.host, request.origin), ("gateway.example", Some("https://example.com")));
    assert_eq!(request.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(request.protocols().collect::<Vec<_>>(), ["v1", "v2", "v3"]);
}

#[test]
fn oddities_that_the_grammar_allows_pass() {
    for text in [
        with("Connection", &["connection: keep-alive, UPGRADE"]),
        with("Connection", &["Connection: keep-alive", "Connection: ,upgrade ,"]),
        with("Connection", &["Connection: Upgrade", "Connection: keep-alive"]),
        with("Upgrade", &["Upgrade: websocket", "Upgrade: h2c"]),
        with("Upgrade", &["UPGRADE: WebSocket"]),
        with("Upgrade", &["Upgrade: h2c, websocket"]),
        with("Host", &["Host:gateway.example:8080   "]),
        with("Host", &["Host: [2001:db8::1]:8080"]),
        with("GET", &["GET http://other.example:81/rooms/lobby HTTP/1.1"]),
        with("GET", &["", "GET / HTTP/1.1"]),
        with("Sec-WebSocket-Key", &["Sec-WebSocket-Key:\tAAAAAAAAAAAAAAAAAAAA+/==\t"]),
        plus(&["Content-Length: 0"]),
        plus(&["Origin: null"]),
        plus(&["Sec-WebSocket-Extensions: permessage-deflate", "Cookie: a=\u{e9}"]),
        plus(&[]).replace("\r\n", "\n"),
    ] {
        assert_eq!(check(&text), Ok(()), "{text}");
    }
}

#[test]
fn the_absolute_form_overrides_the_host() {
    let text = with("GET", &["GET WS://other.example:81?x HTTP/1.1"]);
    let mut fields = Fields::new();
    let request = Request::check(Head::parse(text.as_bytes(), 8192, &mut fields).unwrap().unwrap()).unwrap();
    assert_eq!((request.host, request.path, request.query), ("other.example:81", "/", Some("x")));
}

#[test]
fn every_fault_has_its_refusal() {
    let cases = [
        (with("GET", &["GET  / HTTP/1.1"]), Refusal::BadHead),
        (with("GET", &["GET /a#b HTTP/1.1"]), Refusal::BadHead),
        (with("GET", &["GET /\u{e9} HTTP/1.1"]), Refusal::BadHead),
        (with("GET", &["GET * HTTP/1.1"]), Refusal::BadHead),
        (with("GET", &["GET rooms HTTP/1.1"]), Refusal::BadHead),
        (with("GET", &["GET ftp://gateway.example/ HTTP/1.1"]), Refusal::BadHead),
        (plus(&["no colon"]), Refusal::BadHead),
        (plus(&["Name : space before the colon"]), Refusal::BadHead),
        (plus(&["X: a\0b"]), Refusal::BadHead),
        (plus(&["X: folded", "  over two lines"]), Refusal::BadHead),
        (with("GET", &["", "", "GET / HTTP/1.1"]), Refusal::BadHead),
        (plus(&["Cookie: 0123456789"; 60]), Refusal::TooManyHeaders),
        (plus(&[&format!("Cookie: {}", "c".repeat(9000))]), Refusal::HeadTooLarge),
        (with("GET", &["POST / HTTP/1.1"]), Refusal::Method),
        (with("GET", &["get / HTTP/1.1"]), Refusal::Method),
        (with("GET", &["OPTIONS * HTTP/1.1"]), Refusal::Method),
        (with("GET", &["GET / HTTP/2.0"]), Refusal::HttpVersion),
        (with("GET", &["GET / HTTP/1.0"]), Refusal::HttpVersion),
        (with("Host", &[]), Refusal::Host),
        (with("Host", &["Host:"]), Refusal::Host),
        (with("Host", &["Host: a", "Host: a"]), Refusal::Host),
        (with("Host", &["Host: user@gateway.example"]), Refusal::Host),
        (with("Host", &["Host: gateway.example/path"]), Refusal::Host),
        (with("Host", &["Host: gateway.example:80a"]), Refusal::Host),
        (with("Host", &["Host: [::1"]), Refusal::Host),
        (with("Host", &["Host: [gateway]"]), Refusal::Host),
        (with("Host", &["Host: caf\u{e9}.example"]), Refusal::Host),
        (with("GET", &["GET http:///rooms HTTP/1.1"]), Refusal::Host),
        (with("GET", &["GET http://user@gateway.example/ HTTP/1.1"]), Refusal::Host),
        (plus(&["Content-Length: 5"]), Refusal::Body),
        (plus(&["Content-Length: 0", "Content-Length: 1"]), Refusal::Body),
        (plus(&["Content-Length: 1", "Content-Length: 0"]), Refusal::Body),
        (plus(&["Transfer-Encoding: chunked"]), Refusal::Body),
        (with("Connection", &[]), Refusal::NotUpgrade),
        (with("Connection", &["Connection: keep-alive, not-upgrade"]), Refusal::NotUpgrade),
        (with("Upgrade", &[]), Refusal::NotUpgrade),
        (with("Upgrade", &["Upgrade: h2c"]), Refusal::NotUpgrade),
        (with("Upgrade", &["Upgrade: websockets"]), Refusal::NotUpgrade),
        (with("Sec-WebSocket-Version", &[]), Refusal::Version),
        (with("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 8"]), Refusal::Version),
        (with("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 13, 8"]), Refusal::Version),
        (plus(&["Sec-WebSocket-Version: 13"]), Refusal::Version),
        (with("Sec-WebSocket-Key", &[]), Refusal::Key),
        (with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: "]), Refusal::Key),
        (with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ=="]), Refusal::Key),
        (with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="]), Refusal::Key),
        (with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==="]), Refusal::Key),
        (with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j_Q=="]), Refusal::Key),
        (plus(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), Refusal::Key),
        (plus(&["Origin: https://a.example", "Origin: https://b.example"]), Refusal::Origin),
    ];
    for (text, refusal) in cases {
        assert_eq!(check(&text), Err(refusal), "{text}");
    }
}

#[test]
fn a_value_that_is_no_text_is_refused_where_text_is_needed() {
    for (name, refusal) in
        [("Origin", Refusal::Origin), ("Host", Refusal::Host), ("Upgrade", Refusal::NotUpgrade)]
    {
        let mut bytes =
            if name == "Origin" { plus(&["Origin: ~"]) } else { with(name, &[&format!("{name}: ~")]) }
                .into_bytes();
        let at = bytes.iter().position(|byte| *byte == b'~').unwrap();
        bytes[at] = 0xff;
        let mut fields = Fields::new();
        let head = Head::parse(&bytes, 8192, &mut fields).unwrap().unwrap();
        assert_eq!(Request::check(head).map(|_| ()), Err(refusal));
    }
}

#[test]
fn offers_that_are_no_tokens_are_left_out() {
    let text = plus(&["Sec-WebSocket-Protocol: a b, , v1, \"q\", v2"]);
    let mut fields = Fields::new();
    let request = Request::check(Head::parse(text.as_bytes(), 8192, &mut fields).unwrap().unwrap()).unwrap();
    assert_eq!(request.protocols().collect::<Vec<_>>(), ["v1", "v2"]);
}

#[test]
fn the_clients_favourite_subprotocol_wins() {
    let supported = ["v1", "v2"].map(Box::from);
    assert_eq!(choose_protocol(["v3", "v2", "v1"].into_iter(), &supported), Some("v2"));
    assert_eq!(choose_protocol(["V1"].into_iter(), &supported), None);
    assert_eq!(choose_protocol(["v1"].into_iter(), &[]), None);
}
