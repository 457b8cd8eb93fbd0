//! Promise: an app server decides who comes in, as whom, into which channels and for how long; it is never asked more
//! than was configured; and when nobody decides, clients are told when to come again.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use backend::proto::{Allow, AuthorizeRequest, AuthorizeResponse};
use bytes::Bytes;
use harness::decider::{Verdict, allow, refuse};
use harness::{Client, Decider, Gateway, eventually, upgrade_request};
use nix::sched::{CloneFlags, unshare};
use tonic::Status;
use tungstenite::Error;

const AT_ONCE: Duration = Duration::ZERO;

/// A gateway whose route /members asks this app server.
fn gateway(server: &Decider, authorize: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\n[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\nauthorize = {{ {authorize} }}\n\
         backoff = {{ max = '200ms' }}\n\
         [[route]]\nname = 'members'\npath = '/members/{{room}}'\nsubscribe = ['room.{{room}}']\n\
         inbound = {{ publish = 'room.{{room}}' }}\nauthorize = 'auth'\nsubprotocols = ['v1', 'v2']\n",
        server.address
    ))
}

/// How a client was refused: status, `Retry-After`, body.
#[track_caller]
fn refused(gateway: &Gateway, path: &str) -> (u16, Option<u32>, String) {
    match Client::connect(gateway.ws, path, &[]) {
        Err(Error::Http(response)) => {
            let retry = response.headers().get("retry-after");
            let retry = retry.map(|value| value.to_str().unwrap().parse().unwrap());
            let body = response.body().as_deref().unwrap_or_default();
            (response.status().as_u16(), retry, String::from_utf8_lossy(body).into_owned())
        }
        Err(other) => panic!("{path}: {other}"),
        Ok(client) => panic!("{path}: {} is in", client.id),
    }
}

fn outcome(gateway: &Gateway, outcome: &str) -> f64 {
    let series = format!("gateway_authorize_total{{backend=\"auth\",outcome=\"{outcome}\"}}");
    gateway.metrics().value(&series)
}

#[test]
fn whoever_is_let_in_is_who_the_app_server_says() {
    let server = Decider::start(|request| {
        let expires_seconds = if request.path == "/members/short" { 1 } else { 0 };
        let user = Some("bob@example.org".to_owned());
        let channels = vec!["news".to_owned()];
        let (state, subprotocol) = (Bytes::from_static(b"state"), Some("v2".to_owned()));
        (AT_ONCE, allow(Allow { user, channels, state, expires_seconds, subprotocol }))
    });
    let gateway = gateway(&server, "headers = ['cookie']", "");
    let headers = [("Sec-WebSocket-Protocol", "v1, v2"), ("Cookie", "id=7"), ("X-Secret", "s")];
    let mut client = Client::connect(gateway.ws, "/members/a?token=t", &headers).unwrap();
    assert_eq!(client.protocol.as_deref(), Some("v2"));
    let asked = server.asked().remove(0);
    assert_eq!((asked.connection.as_str(), asked.route.as_str()), (client.id.as_str(), "members"));
    assert_eq!((asked.path.as_str(), asked.query.as_deref()), ("/members/a", Some("token=t")));
    assert_eq!((asked.peer.as_str(), asked.subprotocols.join(" ")), ("127.0.0.1", "v1 v2".to_owned()));
    let shown: Vec<_> =
        asked.headers.iter().map(|header| (header.name.as_str(), &header.value[..])).collect();
    assert_eq!(shown, [("cookie", &b"id=7"[..])]);

    let mut http = gateway.http();
    let body = http.call("GET", &format!("/v1/connections/{}", client.id)).good(200).json();
    assert_eq!(body["user"], "bob@example.org");
    let mut channels: Vec<_> =
        body["channels"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    channels.sort_unstable();
    assert_eq!(channels, ["news", "room.a", "user.bob=40example=2Eorg"]);
    for (method, channel) in [("PUT", "user.eve"), ("DELETE", "user.bob=40example=2Eorg")] {
        http.call(method, &format!("/v1/connections/{}/channels/{channel}", client.id))
            .problem(400, "bad_channel");
    }
    client.echoes("to the room, and back");

    // All connections of the user, and what became of one whose time was up.
    let short = Client::connect(gateway.ws, "/members/short", &headers).unwrap();
    assert_eq!(short.told_to_go(), (1008, r#"{"reason":"expired"}"#.to_owned()));
    let closed =
        http.call("DELETE", "/v1/users/bob%40example.org/connections?code=4001&reason=bye").good(202).json();
    assert_eq!(closed["connections"], 1);
    assert_eq!(client.told_to_go(), (4001, "bye".to_owned()));
    gateway.until_only(0);
    gateway.logged(&["connection ended", "bob@example.org", "expired"]);
    gateway.logged(&["connection ended", "bob@example.org", "api_close"]);
    let endings = http.call("GET", "/v1/endings?user=bob%40example.org").good(200).json();
    let endings = endings["endings"].as_array().unwrap();
    // Two shards tell of theirs in the same tick, and either may be heard first.
    let mut reasons: Vec<_> = endings.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["api_close", "expired"]);
    assert_eq!(outcome(&gateway, "allowed"), 2.0);
    gateway.stop();
}

#[test]
fn a_refusal_reaches_the_client_as_it_was_said() {
    let server = Decider::start(|request| match request.query.as_deref() {
        Some("paid") => (AT_ONCE, refuse(402, "pay first", 30)),
        _ => (AT_ONCE, refuse(0, "", 0)),
    });
    let gateway = gateway(&server, "", "");
    assert_eq!(refused(&gateway, "/members/a?paid"), (402, Some(30), "pay first".to_owned()));
    assert_eq!(refused(&gateway, "/members/a"), (403, None, String::new()));
    // What is wrong in itself is nobody's question.
    assert_eq!(refused(&gateway, "/nowhere").0, 404);
    assert_eq!(server.asked().len(), 2);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("gateway_handshakes_refused_total{reason=\"unauthorized\"}"), 2.0);
    assert_eq!(outcome(&gateway, "refused"), 2.0);
    gateway.stop();
}

/// An answer for each query that breaks the rules.
fn nonsense(request: &AuthorizeRequest) -> Verdict {
    let mut sane = Allow::default();
    match request.query.as_deref() {
        Some("state") => sane.state = Bytes::from(vec![0; 257]),
        Some("user") => sane.user = Some("x".repeat(65)),
        Some("channel") => sane.channels = vec!["a b".to_owned()],
        Some("reserved") => sane.channels = vec!["user.root".to_owned()],
        Some("subprotocol") => sane.subprotocol = Some("v9".to_owned()),
        Some("nothing") => return (AT_ONCE, Ok(AuthorizeResponse { decision: None })),
        Some("redirect") => return (AT_ONCE, refuse(302, "", 0)),
        Some("status") => return (AT_ONCE, Err(Status::permission_denied("no"))),
        Some("slow") => return (Duration::from_secs(60), allow(sane)),
        _ => {}
    }
    (AT_ONCE, allow(sane))
}

#[test]
fn an_answer_that_is_none_is_503_and_nothing_else_is_disturbed() {
    let server = Decider::start(nonsense);
    // Long enough for every answer but the one that takes a minute.
    let gateway = gateway(&server, "timeout = '2s'", "");
    let mut bystander = gateway.client("/members/a");
    let queries =
        ["state", "user", "channel", "reserved", "subprotocol", "nothing", "redirect", "status", "slow"];
    for query in queries {
        let (status, retry, body) = refused(&gateway, &format!("/members/a?{query}"));
        assert_eq!(status, 503, "{query}");
        assert!(retry.is_some_and(|seconds| (1..=5).contains(&seconds)), "{query}: {retry:?}");
        assert!(body.contains("\"reason\":\"authorizer\""), "{query}: {body}");
    }
    bystander.echoes("still here");
    let counted = ["nonsense", "status", "timeout"].map(|name| outcome(&gateway, name));
    assert_eq!(counted, [7.0, 1.0, 1.0]);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("gateway_handshakes_refused_total{reason=\"authorizer\"}"), 9.0);
    gateway.stop();
}

#[test]
fn while_the_app_server_is_away_clients_wait_a_little_and_are_told_to_come_again() {
    let decide = |_: &AuthorizeRequest| (AT_ONCE, allow(Allow::default()));
    let server = Decider::start(decide);
    // Two, so that one has patience enough for a busy machine.
    let brief = gateway(&server, "timeout = '1s'", "");
    let gateway = gateway(&server, "timeout = '9s'", "");
    let mut before = brief.client("/members/a");
    let address = server.address;
    drop(server);
    let started = Instant::now();
    let (status, retry, _) = refused(&brief, "/members/a");
    assert_eq!((status, retry.is_some()), (503, true));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    before.echoes("who is in stays in");
    brief.stop();
    // It comes back while somebody waits.
    let waits = std::thread::spawn({
        let ws = gateway.ws;
        move || Client::connect(ws, "/members/a", &[]).map(|client| client.id)
    });
    gateway.until("somebody waits", |metrics| {
        metrics.value("gateway_connections_paused_by_reason{reason=\"authorize\"}") > 0.0
    });
    let server = Decider::start_at(address, decide);
    assert!(waits.join().unwrap().is_ok(), "whoever waits is let in as soon as somebody decides");
    assert_eq!(server.asked().len(), 1);
    gateway.stop();
}

#[test]
fn calls_go_round_the_servers_and_past_one_that_is_gone() {
    let decide = |_: &AuthorizeRequest| (AT_ONCE, allow(Allow::default()));
    let (one, other) = (Decider::start(decide), Decider::start(decide));
    let gateway = Gateway::start(&format!(
        "[[backend]]\nname = 'auth'\nendpoints = ['http://{}', 'http://{}']\n\
         [[route]]\nname = 'members'\npath = '/members'\ninbound = 'echo'\nauthorize = 'auth'\n",
        one.address, other.address
    ));
    gateway.client("/members").leave();
    gateway.until("both are up", |metrics| {
        metrics.value("gateway_authorize_servers_up{backend=\"auth\"}") == 2.0
    });
    (0..10).for_each(|_| gateway.client("/members").leave());
    assert!(one.asked().len() >= 5 && other.asked().len() >= 5, "they take turns");
    drop(one);
    (0..10).for_each(|_| gateway.client("/members").leave());
    assert_eq!(outcome(&gateway, "allowed"), 21.0);
    gateway.stop();
}

#[test]
fn calls_carry_metadata_and_a_server_without_a_health_service_counts_as_serving() {
    let server = Decider::start(|_| (AT_ONCE, allow(Allow::default())));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "Bearer secret\n").unwrap();
    let gateway = Gateway::start(&format!(
        "[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\nhealth = true\n\
         metadata = {{ x-team = 'chat', authorization = {{ file = '{}' }} }}\n\
         [[route]]\nname = 'members'\npath = '/members'\ninbound = 'echo'\nauthorize = 'auth'\n",
        server.address,
        file.display()
    ));
    gateway.client("/members").echoes("in");
    assert_eq!(server.metadata("x-team").as_deref(), Some("chat"));
    assert_eq!(server.metadata("authorization").as_deref(), Some("Bearer secret"));
    gateway.stop();
}

#[test]
fn a_route_begins_and_ceases_to_ask_by_a_reload_and_who_is_in_stays() {
    let server = Decider::start(|request| match request.query.as_deref() {
        Some("bob") => {
            let (user, channels) = (Some("bob".to_owned()), vec!["news".to_owned()]);
            (AT_ONCE, allow(Allow { user, channels, ..Allow::default() }))
        }
        _ => (AT_ONCE, refuse(403, "not you", 0)),
    });
    let text = |authorize: &str| {
        format!(
            "[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\n\
             [[route]]\nname = 'members'\npath = '/members/{{room}}'\nsubscribe = ['room.{{room}}']\n\
             inbound = {{ publish = 'room.{{room}}' }}\n{authorize}\n",
            server.address
        )
    };
    let gateway = Gateway::start(&text(""));
    let mut http = gateway.http();
    let mut reload = |authorize: &str| {
        gateway.configure(&text(authorize));
        let answer = http.call("POST", "/v1/reload").good(200).json();
        assert_eq!(answer["changed"][0]["key"], "route.members.authorize", "{answer}");
        assert_eq!(answer["shards"], serde_json::json!([answer["number"], answer["number"]]));
    };
    // Its handshake begins while nobody is asked, and ends when somebody is.
    let mut slow = gateway.raw();
    let request = upgrade_request("/members/a");
    let (begin, end) = request.split_at(20);
    slow.send(begin.as_bytes());
    let mut before = gateway.client("/members/a");
    before.echoes("nobody asked");
    assert!(server.asked().is_empty());

    reload("authorize = 'auth'");
    slow.send(end.as_bytes());
    assert_eq!(slow.refusal().0, 403, "what counts is when the request is whole");
    assert_eq!(refused(&gateway, "/members/a"), (403, None, "not you".to_owned()));
    let mut bob = gateway.client("/members/a?bob");
    assert_eq!(server.asked().len(), 3);
    let body = gateway.http().call("GET", &format!("/v1/connections/{}", bob.id)).good(200).json();
    assert_eq!(body["user"], "bob");
    before.say("who is in stays in");
    bob.hears("who is in stays in");
    before.hears("who is in stays in");

    reload("");
    let mut after = gateway.client("/members/a");
    assert_eq!(server.asked().len(), 3, "nobody is asked any more");
    bob.say("and bob is bob still");
    after.hears("and bob is bob still");
    let users = gateway.http().post("/v1/users/bob/messages", "text/plain", b"to bob").good(202).json();
    assert_eq!(users["subscribers"], 1);
    bob.hears("and bob is bob still");
    bob.hears("to bob");
    gateway.stop();
}

/// Clients of one thread, which has a descriptor table of its own.
const CLIENTS_PER_THREAD: usize = 10_000;

/// What so many clients at once came to: how many were let in, how many were told when to come again.
fn storm(gateway: &Gateway, clients: usize) -> (usize, usize) {
    std::thread::scope(|scope| {
        let counts = (0..clients.div_ceil(CLIENTS_PER_THREAD))
            .map(|thread| CLIENTS_PER_THREAD.min(clients - thread * CLIENTS_PER_THREAD));
        let part = |count| {
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_FILES).unwrap();
                part_of_storm(gateway, count)
            })
        };
        let parts: Vec<_> = counts.map(part).collect();
        parts
            .into_iter()
            .map(|part| part.join().unwrap())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    })
}

fn part_of_storm(gateway: &Gateway, clients: usize) -> (usize, usize) {
    let request = upgrade_request("/members/storm");
    let mut streams: Vec<(TcpStream, Vec<u8>)> = (0..clients)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.ws).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, Vec::new())
        })
        .collect();
    let (mut allowed, mut sent_away) = (Vec::new(), 0);
    let started = Instant::now();
    while !streams.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "{} were never answered", streams.len());
        let mut waiting = Vec::with_capacity(streams.len());
        for (mut stream, mut answer) in streams {
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes) {
                Ok(0) => panic!("hung up on: {}", String::from_utf8_lossy(&answer)),
                Ok(count) => answer.extend_from_slice(&bytes[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            let text = String::from_utf8_lossy(&answer);
            match text.split_once("\r\n\r\n") {
                None => waiting.push((stream, answer)),
                Some((head, _)) if head.starts_with("HTTP/1.1 101 ") => allowed.push(stream),
                Some((head, _)) => {
                    assert!(
                        head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "),
                        "{head}"
                    );
                    sent_away += 1;
                }
            }
        }
        streams = waiting;
        std::thread::park_timeout(Duration::from_millis(5));
    }
    (allowed.len(), sent_away)
}

/// The app server answers from the first one on.
fn at_once(_: &Gateway, server: &Decider) {
    server.hold(false);
}

/// A storm upon an app server that takes 50 ms for each, and answers when `meanwhile` lets it. How many came in and how many
/// were sent away, how many were asked about at a time, and how long it took.
fn slow_storm(
    clients: usize,
    authorize: &str,
    concurrency: usize,
    meanwhile: impl FnOnce(&Gateway, &Decider),
) -> (usize, usize, usize, Duration) {
    let server = Decider::start(|_| (Duration::from_millis(50), allow(Allow::default())));
    let limits =
        "[limits.peer]\nconnections = 'off'\nconnects_per_second = 'off'\n[timeouts]\nhandshake = '2m'";
    let gateway = gateway(&server, authorize, limits);
    server.hold(true);
    let started = Instant::now();
    let (allowed, sent_away) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(&gateway, clients));
        meanwhile(&gateway, &server);
        storm.join().unwrap()
    });
    let took = started.elapsed();
    assert_eq!(allowed + sent_away, clients);
    let most = server.most_at_a_time();
    assert!(most <= concurrency, "{most} at a time");
    assert_eq!(outcome(&gateway, "allowed") as usize, allowed);
    assert_eq!(server.asked().len(), allowed, "nobody is asked about in vain");
    gateway.stop();
    (allowed, sent_away, most, took)
}

#[test]
fn a_storm_of_clients_never_asks_more_than_was_configured_and_everybody_is_answered() {
    const CLIENTS: usize = 2000;
    let all_have_come = |gateway: &Gateway, server: &Decider| {
        // However long that takes: all have come, and as many are asked about as may be.
        gateway.until("who does not fit is sent away", |metrics| {
            metrics.value("gateway_authorize_total{backend=\"auth\",outcome=\"queue_full\"}")
                >= (CLIENTS - 540) as f64
        });
        eventually("as many are asked about as may be", || (server.most_at_a_time() == 40).then_some(()));
        server.hold(false);
    };
    let (allowed, sent_away, ..) =
        slow_storm(CLIENTS, "concurrency = 40, queue = 500, timeout = '1m'", 40, all_have_come);
    // Before the server is known only the queue has room.
    assert!((500..=540).contains(&allowed), "{allowed} in, {sent_away} sent away");
    // With room for all in the queue, all come in.
    let (allowed, ..) = slow_storm(1000, "concurrency = 100, queue = 1000, timeout = '1m'", 100, at_once);
    assert_eq!(allowed, 1000);
}

/// The figure of the issue, printed.
#[test]
#[ignore = "measures: cargo test -p gateway --test authorize -- --ignored --nocapture"]
fn twenty_thousand_clients_at_once_with_authorize_at_50_ms() {
    for queue in [1024, 20_000] {
        let authorize = format!("concurrency = 64, queue = {queue}, timeout = '9s'");
        let (allowed, sent_away, most, took) = slow_storm(20_000, &authorize, 64, at_once);
        println!(
            "queue {queue}: {allowed} in, {sent_away} told 503, at most {most} calls at a time, {took:?}"
        );
    }
}
