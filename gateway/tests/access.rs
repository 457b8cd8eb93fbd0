//! Promise: the API does what it is told by those who may: tokens have scopes, web pages of others are kept out, and
//! health needs no token.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Answer, Gateway, Http};

const APP: &str = "app-server-0123456789abcdef";
const EYES: &str = "dashboard-0123456789abcdef";
const ROOT: &str = "operator-0123456789abcdef";
const LOBBY: &str = "/v1/channels/room.lobby/messages";

fn with(http: &mut Http, method: &str, path: &str, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Content-Type", "text/plain")];
    if let Some(bearer) = &bearer {
        headers.push(("Authorization", bearer));
    }
    http.send(method, path, &headers, b"hello")
}

#[test]
fn a_token_opens_what_its_scopes_say() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let api = write("api", format!("# the app\n{APP} publish,close\n{EYES} read\n"));
    let admin = write("admin", format!("{ROOT}\n"));
    let gateway = Gateway::start(&format!("[api]\ntokens_file = '{api}'\n[admin]\ntoken_file = '{admin}'\n"));
    let mut client = gateway.client("/rooms/lobby");
    let path = format!("/v1/connections/{}", client.id);
    let mut http = gateway.http();

    let refused = with(&mut http, "POST", LOBBY, None);
    refused.problem(401, "unauthorized");
    assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"));
    with(&mut http, "POST", LOBBY, Some("app-server-0123456789abcdeX")).problem(401, "unauthorized");
    with(&mut http, "POST", LOBBY, Some(ROOT)).problem(401, "unauthorized");
    with(&mut http, "POST", LOBBY, Some(EYES)).problem(403, "missing_scope");
    with(&mut http, "GET", &path, Some(APP)).problem(403, "missing_scope");
    with(&mut http, "DELETE", &path, Some(EYES)).problem(403, "missing_scope");
    with(&mut http, "GET", "/v1/node", Some(APP)).problem(401, "unauthorized");
    with(&mut http, "POST", "/v1/drain", None).problem(401, "unauthorized");
    client.echoes("none of that reached anybody");

    with(&mut http, "GET", &path, Some(EYES)).good(200);
    with(&mut http, "POST", LOBBY, Some(APP)).good(202);
    client.hears("hello");
    with(&mut http, "GET", "/v1/node", Some(ROOT)).good(200);
    for open in ["/livez", "/readyz", "/metrics", "/"] {
        http.call("GET", open).good(200);
    }
    with(&mut http, "DELETE", &path, Some(APP)).good(202);
    assert_eq!(client.told_to_go().0, 1000);
    assert!(!gateway.log().contains(APP), "a token was logged");
    gateway.stop();
}

#[test]
fn web_pages_of_others_reach_nothing_on_loopback() {
    let gateway = Gateway::start("");
    let mut client = gateway.client("/rooms/lobby");
    let mut http = gateway.http();
    let own = format!("http://{}", gateway.http);
    let mut ask = |name: &str, value: &str| {
        http.send("POST", LOBBY, &[(name, value), ("Content-Type", "text/plain")], b"hi")
    };
    ask("Origin", "https://evil.example").problem(403, "foreign_origin");
    ask("Origin", "null").problem(403, "foreign_origin");
    ask("Host", "evil.example").problem(403, "foreign_host");
    ask("Host", "gateway.evil.example:8081").problem(403, "foreign_host");
    ask("Origin", &own).good(202);
    client.hears("hi");
    client.echoes("and nothing else came");
    gateway.stop();
}

#[test]
fn each_role_may_have_a_listener_of_its_own() {
    let gateway = Gateway::start("[api]\naddress = '127.0.0.2:0'\n");
    assert_eq!(gateway.http.ip().to_string(), "127.0.0.2");
    let mut api = gateway.http();
    api.post(LOBBY, "text/plain", b"hi").good(202);
    for other in ["/livez", "/metrics", "/v1/node", "/"] {
        let detail = api.call("GET", other).problem(404, "not_found");
        assert!(detail.contains("a listener of its own"), "{detail}");
    }
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(gateway.wait().0, Some(0));
}
