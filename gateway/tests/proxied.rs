//! Promise: behind a proxy that is trusted, the peer is the client, in the API, the log and the counts; and nobody who
//! is not trusted passes for somebody else. HAProxy is the proxy where a real one is asked for.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Bystander, Gateway, Raw, TEXT, eventually, frame, upgrade_request};
use tempfile::TempDir;

/// Where clients of these tests connect from, and where proxies do.
const CLIENT: [u8; 4] = [127, 0, 0, 9];
const PROXY: [u8; 4] = [127, 0, 0, 1];
/// Whom raw bytes name.
const NAMED: &str = "203.0.113.9";

fn config(proxy_protocol: bool, header: &str) -> String {
    let proxy_protocol = if proxy_protocol { "on" } else { "off" };
    format!(
        "[listen]\naddress = '127.0.0.1:0'\nproxy_protocol = '{proxy_protocol}'\n\
         [trust]\nnetworks = ['127.0.0.1', '198.51.100.0/24']\nheader = '{header}'\n\
         [limits]\nhead_bytes = '64KiB'\n[timeouts]\nhandshake = '2s'\nlinger = '200ms'\n"
    )
}

/// Whom the gateway takes the connection for that its 101 named.
#[track_caller]
fn peer(gateway: &Gateway, head: &str) -> String {
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let id = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("gateway-connection").then_some(value)
    });
    let answer = gateway.http().call("GET", &format!("/v1/connections/{}", id.unwrap())).good(200);
    answer.json()["peer"].as_str().unwrap().to_owned()
}

/// A PROXY header of version 2 that names [`NAMED`], with a TLV.
fn binary_header() -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f"[..], &[203, 0, 113, 9, 127, 0, 0, 1, 1, 2, 3, 4, 4, 0, 0]]
        .concat()
}

fn text_header() -> Vec<u8> {
    format!("PROXY TCP4 {NAMED} 127.0.0.1 1 2\r\n").into_bytes()
}

fn with_field(field: &str) -> String {
    upgrade_request("/echo").replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

/// Sends this from an address. The connection, and the head of the answer.
#[track_caller]
fn ask(gateway: &Gateway, from: [u8; 4], bytes: &[u8]) -> (Raw, String) {
    let mut raw = Raw::connect_from(IpAddr::from(from), gateway.ws);
    raw.send(bytes);
    let head = raw.head();
    (raw, head)
}

#[test]
fn the_peer_that_a_trusted_proxy_names_is_in_the_api_the_counts_and_the_log() {
    for header in [text_header(), binary_header()] {
        let gateway = Gateway::start(&config(true, "none"));
        let mut raw = gateway.raw();
        raw.send(&header[..10]);
        gateway.until("counted at the proxy", |m| {
            m.value("gateway_peers") == 1.0 && m.value("gateway_assembly_bytes") > 0.0
        });
        raw.send(&[&header[10..], upgrade_request("/echo").as_bytes()].concat());
        assert_eq!(peer(&gateway, &raw.head()), NAMED);
        raw.send(&frame(0x80 | TEXT, b"as ever"));
        assert_eq!(raw.frame(), (0x80 | TEXT, b"as ever".to_vec()));
        let metrics = gateway.until_only(1);
        assert_eq!(metrics.value("gateway_peers"), 1.0);
        assert_eq!(metrics.value("gateway_peers_told_total{by=\"proxy_protocol\"}"), 1.0);
        drop(raw);
        let line = gateway.logged(&["connection ended"]);
        assert!(line.contains(NAMED) && !line.contains("127.0.0.1"), "{line}");
        gateway.until("nobody is left", |m| m.value("gateway_peers") == 0.0);
        gateway.stop();
    }
}

#[test]
fn what_a_client_wrote_itself_is_not_believed() {
    for (header, forged, honest) in [
        ("x-forwarded-for", "X-Forwarded-For: 6.6.6.6", format!("X-Forwarded-For: 6.6.6.6, {NAMED}")),
        ("forwarded", "Forwarded: for=6.6.6.6", format!("Forwarded: for=\"6.6.6.6, for=\"{NAMED}:80\"")),
    ] {
        let gateway = Gateway::start(&config(false, header));
        // From an address that is not trusted, whatever it says.
        let (_raw, head) = ask(&gateway, CLIENT, with_field(forged).as_bytes());
        assert_eq!(peer(&gateway, &head), "127.0.0.9");
        // Through a proxy, left of what the proxy wrote.
        let (_raw, head) = ask(&gateway, PROXY, with_field(&honest).as_bytes());
        assert_eq!(peer(&gateway, &head), NAMED);
        // By a proxy that writes the other field, and hands on this one's twin.
        let other = if header == "forwarded" { "X-Forwarded-For: 6.6.6.6" } else { "Forwarded: for=6.6.6.6" };
        let (_raw, head) = ask(&gateway, PROXY, with_field(other).as_bytes());
        assert_eq!(peer(&gateway, &head), "127.0.0.1");
        let metrics = gateway.metrics();
        assert_eq!(metrics.value("gateway_peers_told_total{by=\"header\"}"), 1.0);
        assert_eq!(metrics.value("gateway_peers_told_total{by=\"nobody\"}"), 1.0);
        gateway.stop();
    }
}

#[test]
fn a_list_of_ten_thousand_is_answered_like_any_other() {
    let gateway = Gateway::start(&config(false, "x-forwarded-for"));
    let bystander = Bystander::beside(&gateway);
    let many = "::1,".repeat(10_000);
    for (list, expected) in [
        (format!("{many} {NAMED}"), NAMED),
        (format!("{many} {NAMED}, 198.51.100.7, 127.0.0.1"), NAMED),
        (many.clone(), "127.0.0.1"),
        (format!("{many} 6.6.6.6, unknown"), "127.0.0.1"),
        ("\"".repeat(40_000), "127.0.0.1"),
        (",".repeat(40_000), "127.0.0.1"),
        ("198.51.100.7,".repeat(4_000) + "198.51.100.8", "198.51.100.7"),
    ] {
        let (_raw, head) = ask(&gateway, PROXY, with_field(&format!("X-Forwarded-For: {list}")).as_bytes());
        assert_eq!(peer(&gateway, &head), expected);
    }
    bystander.was_not_disturbed();
    gateway.stop();
}

#[test]
fn who_has_to_send_a_header_and_does_not_is_refused_and_so_is_who_lies() {
    let gateway = Gateway::start(&config(true, "none"));
    let request = upgrade_request("/echo").into_bytes();
    let long = [&binary_header()[..14], &[0xff, 0xff]].concat();
    let cases: [(&str, [u8; 4], Vec<u8>); 7] = [
        ("none", PROXY, request.clone()),
        ("garbage", PROXY, (0u8..=255).rev().collect()),
        ("one that is none", PROXY, [b"PROXY TCP4 1.2.3.4\r\n", &request[..]].concat()),
        ("one beyond the bound", PROXY, long),
        ("two", PROXY, [text_header(), binary_header(), request.clone()].concat()),
        ("text by a stranger", CLIENT, [text_header(), request.clone()].concat()),
        ("binary by a stranger", CLIENT, [binary_header(), request.clone()].concat()),
    ];
    for (number, (what, from, bytes)) in cases.iter().enumerate() {
        let mut raw = Raw::connect_from(IpAddr::from(*from), gateway.ws);
        raw.send(bytes);
        let (status, answer) = raw.refusal();
        assert_eq!(status, 400, "{what}: {answer}");
        assert!(answer.contains("\"reason\":\"proxy_protocol\""), "{what}: {answer}");
        gateway.until(what, |m| m.refused("proxy_protocol") == (number + 1) as f64);
    }
    // Who says nothing has the time of a handshake.
    assert_eq!(gateway.raw().refusal().0, 408);
    // A health check is no client, and a stranger is let in as himself.
    let (_raw, head) = ask(&gateway, CLIENT, &request);
    assert_eq!(peer(&gateway, &head), "127.0.0.9");
    let mut check = gateway.raw();
    check.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    drop(check);
    let metrics = gateway.until("the health check has gone", |m| m.turned("left") == 1.0);
    assert_eq!(metrics.value("gateway_peers_told_total{by=\"nobody\"}"), 1.0);
    gateway.until_only(1);
    gateway.stop();
}

#[test]
fn limits_are_held_against_the_peer_that_is_named_and_not_against_the_proxy() {
    let limits = "[limits.peer]\nconnections = 1\nconnects_per_second = 1000\ndry_run = false\n\
                  [[limits.network]]\ncidr = '203.0.113.66'\nblock = true\n";
    for proxy_protocol in [true, false] {
        let header = if proxy_protocol { "none" } else { "x-forwarded-for" };
        let gateway = Gateway::start(&(config(proxy_protocol, header) + limits));
        let come = |named: &str| {
            let mut raw = Raw::connect_from(IpAddr::from(PROXY), gateway.ws);
            raw.send(&if proxy_protocol {
                format!("PROXY TCP4 {named} 127.0.0.1 1 2\r\n{}", upgrade_request("/echo")).into_bytes()
            } else {
                with_field(&format!("X-Forwarded-For: {named}")).into_bytes()
            });
            raw
        };
        // While some have not said who they are, which is the proxy's affair and not over its limit.
        let silent: Vec<Raw> = (0..3).map(|_| gateway.raw()).collect();
        let mut crowd: Vec<Raw> = (1..=5).map(|number| come(&format!("203.0.113.{number}"))).collect();
        for raw in &mut crowd {
            assert!(raw.head().starts_with("HTTP/1.1 101 "));
        }
        let (status, answer) = come("203.0.113.1").refusal();
        assert_eq!(status, 429, "{answer}");
        assert!(!come("203.0.113.66").rest().starts_with(b"HTTP/1.1 101 "));
        // Whoever has left makes room for himself, and nobody else was held to his limit.
        drop(crowd.remove(0));
        drop(silent);
        gateway.until_only(4);
        assert!(come("203.0.113.1").head().starts_with("HTTP/1.1 101 "));
        gateway.stop();
    }
}

/// HAProxy with one way in for each way of telling the peer; ended with the test.
struct Haproxy {
    child: Child,
    ways_in: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Haproxy {
    /// A proxy in front of each gateway, with the lines of a front end and what follows the address of its server.
    #[track_caller]
    fn before(ways: &[(&Gateway, &str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text =
            "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n"
                .to_owned();
        let mut ways_in = Vec::new();
        for (number, (gateway, lines, server)) in ways.iter().enumerate() {
            // Nobody else uses this address, so the port stays free until it is bound again.
            let probe = TcpListener::bind("127.0.0.77:0").unwrap();
            let way_in = probe.local_addr().unwrap();
            let gateway = gateway.ws;
            write!(
                text,
                "listen way{number}\n  bind {way_in}\n  {lines}\n  server gateway {gateway} {server} \
                 source 127.0.0.1\n"
            )
            .unwrap();
            ways_in.push(way_in);
        }
        let file: PathBuf = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        // Debian puts it where only root looks.
        let program = ["/usr/sbin/haproxy", "haproxy"];
        let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("haproxy");
        let mut command = Command::new(program);
        command.arg("-db").arg("-q").arg("-f").arg(&file).stdin(Stdio::null());
        let child = command.spawn().expect("haproxy is needed: `make tools` installs what tests need");
        for way_in in &ways_in {
            eventually("the proxy listens", || std::net::TcpStream::connect(way_in).ok());
        }
        Self { child, ways_in, _folder: folder }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn behind_haproxy_clients_have_their_own_addresses() {
    let by_protocol = Gateway::start(&config(true, "none"));
    let by_field = Gateway::start(&config(false, "x-forwarded-for"));
    let by_rfc = Gateway::start(&config(false, "forwarded"));
    let by_both = Gateway::start(&config(true, "x-forwarded-for"));
    let forwarded = "mode http\n  http-request add-header Forwarded for=\\\"%[src]:%[src_port]\\\"";
    let ways = [
        (&by_protocol, "mode tcp", "send-proxy"),
        (&by_protocol, "mode tcp", "send-proxy-v2"),
        (&by_protocol, "mode tcp", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
        (&by_field, "mode http\n  option forwardfor", ""),
        (&by_rfc, forwarded, ""),
        // The header names the client, who is a stranger, so his own field is not looked at.
        (&by_both, "mode http", "send-proxy-v2"),
    ];
    let proxy = Haproxy::before(&ways);
    let lies = with_field("X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6;by=\"");
    for (number, (way_in, (gateway, ..))) in proxy.ways_in.iter().zip(ways).enumerate() {
        let mut raw = Raw::connect_from(IpAddr::from(CLIENT), *way_in);
        raw.send(lies.as_bytes());
        assert_eq!(peer(gateway, &raw.head()), "127.0.0.9", "way {number}");
        raw.send(&frame(0x80 | TEXT, b"through"));
        assert_eq!(raw.frame(), (0x80 | TEXT, b"through".to_vec()));
    }
    drop(proxy);
    for gateway in [by_protocol, by_field, by_rfc, by_both] {
        gateway.until_only(0);
        gateway.stop();
    }
}
