//! Promise: every way that NATS has to know its clients lets the gateway in: TLS and certificates of its own, credentials,
//! a token, user and password. Who is not let in says why and what to do, does not run hot over it, and gets in when it
//! is mended. Of several servers any one will do, and when the one in use dies another is.
#![allow(clippy::unwrap_used)]

mod harness;

use std::path::{Path, PathBuf};
use std::time::Instant;

use harness::{Authority, Finished, Gateway, NatsServer};
use nkeys::KeyPair;
use tempfile::TempDir;

const ROUTES: &str = "[[route]]
name = 'rooms'
path = '/rooms/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }
";

/// Attempts within which the pauses between them have become long enough to be told from those of a server that is gone.
const ATTEMPTS: f64 = 4.0;
/// At least what that many attempts take where the first may have been the very first after a loss, milliseconds.
const ATTEMPTS_TAKE_MS: u128 = 1_000;

fn configuration(node: &str, servers: &[String], of_nats: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("'{server}'")).collect();
    let servers = servers.join(", ");
    format!(
        "[node]\nname = '{node}'\n[bus]\nkind = 'nats'\n[ready]\nrequires = ['bus']\n\
         [bus.nats]\nservers = [{servers}]\n{of_nats}\n{ROUTES}"
    )
}

fn node(name: &str, servers: &[String], of_nats: &str) -> Gateway {
    let gateway = Gateway::start(&configuration(name, servers, of_nats));
    is_up(&gateway);
    gateway
}

fn is_up(gateway: &Gateway) {
    gateway.until("the bus is there", |m| m.value("gateway_bus_up{bus=\"nats\"}") == 1.0);
}

/// Two nodes get in, and a message goes from one to the other.
fn lets_in(servers: &[String], of_nats: &str) {
    let (a, b) = (node("a", servers, of_nats), node("b", servers, of_nats));
    let (mut here, mut there) = (a.client("/rooms/x"), b.client("/rooms/x"));
    for gateway in [&a, &b] {
        gateway.until("it is subscribed", |m| m.value("gateway_bus_subscriptions") == 1.0);
    }
    // That one node is subscribed the other does not know: it speaks until it is answered.
    harness::eventually("one hears the other", || {
        here.echoes("hello");
        (b.metrics().value("gateway_bus_received_total") > 0.0).then_some(())
    });
    there.hears("hello");
    assert_eq!(a.http().call("GET", "/readyz").status, 200);
    a.stop();
    b.stop();
}

/// A start that is refused says these things.
#[track_caller]
fn refuses(servers: &[String], of_nats: &str, says: &[&str]) {
    let refused = Finished::refused(&configuration("a", servers, of_nats));
    for word in says {
        assert!(refused.complained.contains(word), "{word}: {refused:?}");
    }
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn key(name: &str, file: &Path) -> String {
    format!("{name} = '{}'\n", file.display())
}

/// A server that speaks TLS by a certificate for this host, with further arguments.
fn secure_server(authority: &Authority, host: &str, folder: &TempDir, more: &[&str]) -> NatsServer {
    let (certificate, own_key) = authority.certify(host, folder.path(), "server");
    let (certificate, own_key) = (certificate.display().to_string(), own_key.display().to_string());
    let mut arguments = vec!["--tls", "--tlscert", &certificate, "--tlskey", &own_key];
    arguments.extend_from_slice(more);
    NatsServer::start_with(&arguments)
}

fn over_tls(server: &NatsServer) -> Vec<String> {
    vec![format!("tls://127.0.0.1:{}", server.port)]
}

#[test]
fn over_tls_a_server_is_believed_by_its_authority_and_its_name() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let believed = key("ca_file", &ours.write(folder.path(), "ours.pem"));
    let stranger = key("ca_file", &theirs.write(folder.path(), "theirs.pem"));
    let server = secure_server(&ours, "127.0.0.1", &folder, &[]);
    lets_in(&over_tls(&server), &believed);
    // The server asks for TLS, so the scheme does not have to.
    lets_in(&[server.url()], &believed);
    refuses(&over_tls(&server), &stranger, &["bus.nats", "UnknownIssuer", "set bus.nats.ca_file"]);
    refuses(&[server.url()], "", &["bus.nats", "ca_file"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let misnamed = secure_server(&ours, "nats.internal", &elsewhere, &[]);
    refuses(&over_tls(&misnamed), &believed, &["certificate", "another name", "bus.nats.servers"]);
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_a_must() {
    let folder = tempfile::tempdir().unwrap();
    let believed = key("ca_file", &Authority::new("ours").write(folder.path(), "ours.pem"));
    let server = NatsServer::start();
    for servers in [over_tls(&server), vec![server.url()]] {
        refuses(&servers, &believed, &["does not speak TLS", "bus.nats.ca_file"]);
    }
}

#[test]
fn a_server_that_wants_a_certificate_of_ours_gets_it() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let ca = ours.write(folder.path(), "ours.pem");
    let ca_text = ca.display().to_string();
    let server = secure_server(&ours, "127.0.0.1", &folder, &["--tlsverify", "--tlscacert", &ca_text]);
    let certificate = |authority: &Authority, name: &str| {
        let (certificate, own_key) = authority.certify("gateway", folder.path(), name);
        key("certificate_file", &certificate) + &key("key_file", &own_key)
    };
    let believed = key("ca_file", &ca);
    let (good, bad) = (certificate(&ours, "good"), certificate(&theirs, "bad"));
    lets_in(&over_tls(&server), &format!("{believed}{good}"));
    for shown in ["", &bad] {
        refuses(&over_tls(&server), &format!("{believed}{shown}"), &["bus.nats.certificate_file"]);
    }
}

#[test]
fn a_token_or_a_user_with_a_password_and_no_more_rights_than_needed_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&["--auth", "s3cret"]);
    let token = file(&folder, "token", "s3cret\n");
    lets_in(&[server.url()], &key("token_file", &token));
    std::fs::write(&token, "other\n").unwrap();
    refuses(&[server.url()], &key("token_file", &token), &["authorization violation", "token_file"]);

    // What the README says that it needs.
    let server = NatsServer::configured(
        "authorization { users = [ { user: edge, password: s3cret, permissions: {
           publish: [\"gateway.>\", \"_INBOX.>\", \"$JS.API.STREAM.NAMES\"]
           subscribe: [\"gateway.>\", \"_INBOX.>\"] } } ] }",
    );
    let user = file(&folder, "user", "edge:s3cret\n");
    lets_in(&[server.url()], &key("user_file", &user));
    for wrong in ["edge:wrong", "stranger:s3cret"] {
        std::fs::write(&user, wrong).unwrap();
        refuses(&[server.url()], &key("user_file", &user), &["authorization violation", "user_file"]);
    }
    refuses(&[server.url()], "", &["authorization violation"]);
}

/// A JSON web token as NATS has them: claims of `subject` of this type, signed by `issuer`.
fn token(issuer: &KeyPair, subject: &KeyPair, of_nats: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let claims = serde_json::json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": of_nats,
    });
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    format!("{signed}.{}", encode(&issuer.sign(signed.as_bytes()).unwrap()))
}

/// A credentials file, as `nsc` writes them.
fn credentials(issuer: &KeyPair, user: &KeyPair) -> String {
    let claims = serde_json::json!({
        "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
    });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        token(issuer, user, &claims),
        user.seed().unwrap()
    )
}

#[test]
fn credentials_of_an_account_get_in_and_those_of_another_do_not() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let folder = tempfile::tempdir().unwrap();
    let of_operator = token(&operator, &operator, &serde_json::json!({ "type": "operator", "version": 2 }));
    let operator_file = file(&folder, "operator.jwt", &of_operator);
    let of_account = token(
        &operator,
        &account,
        &serde_json::json!({
            "type": "account", "version": 2, "limits": {
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1,
            },
        }),
    );
    let server = NatsServer::configured(&format!(
        "operator: '{}'\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}\n",
        operator_file.display(),
        account.public_key(),
    ));
    let good = file(&folder, "good.creds", &credentials(&account, &KeyPair::new_user()));
    lets_in(&[server.url()], &key("credentials_file", &good));
    let stranger = credentials(&KeyPair::new_account(), &KeyPair::new_user());
    let bad = file(&folder, "bad.creds", &stranger);
    let says = ["authorization violation", "credentials_file"];
    refuses(&[server.url()], &key("credentials_file", &bad), &says);
    let broken = file(&folder, "broken.creds", "no credentials");
    refuses(
        &[server.url()],
        &key("credentials_file", &broken),
        &["bus.nats.credentials_file", "broken.creds"],
    );
}

#[test]
fn who_is_not_let_in_any_more_says_why_and_asks_ever_more_rarely() {
    let rights = |password: &str| format!("authorization {{ user: edge, password: {password} }}");
    let mut server = NatsServer::configured(&rights("s3cret"));
    let folder = tempfile::tempdir().unwrap();
    let user = file(&folder, "user", "edge:s3cret");
    let a = node("a", &[server.url()], &key("user_file", &user));
    let mut client = a.client("/rooms/x");
    a.until("it is subscribed", |m| m.value("gateway_bus_subscriptions") == 1.0);
    server.kill();
    a.until("the bus is away", |m| m.value("gateway_bus_trouble{reason=\"unreachable\"}") == 1.0);
    server.configure(&rights("another"));
    server.run();
    let line = a.logged(&["a NATS server does not let us in", "authorization violation"]);
    assert!(line.contains("user_file") && line.contains(&server.port.to_string()), "{line}");
    let login = |trouble: f64| {
        move |m: &harness::Metrics| m.value("gateway_bus_trouble{reason=\"login\"}") == trouble
    };
    a.until("it is a login that fails", login(1.0));
    let ready = a.http().call("GET", "/readyz");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &"bus_away".into()));
    assert_eq!(ready.json()["bus_trouble"], "login");
    // Time begins before it is counted: who looks late on a busy machine finds more attempts, and waits for later ones.
    let started = Instant::now();
    let failed = a.metrics().value("gateway_bus_connects_failed_total");
    a.until("it has tried a few times", |m| {
        m.value("gateway_bus_connects_failed_total") >= failed + ATTEMPTS
    });
    assert!(started.elapsed().as_millis() >= ATTEMPTS_TAKE_MS, "{:?}", started.elapsed());
    let log = a.log();
    assert_eq!(log.matches("does not let us in").count(), 1, "told once\n{log}");
    assert_eq!(a.metrics().value("gateway_bus_up{bus=\"nats\"}"), 0.0);

    // The new password counts without a restart.
    std::fs::write(&user, "edge:another").unwrap();
    is_up(&a);
    a.until("nothing is wrong any more", login(0.0));
    client.echoes("here still");
    let mut nats = harness::Nats::connect_as(server.port, "edge", "another");
    nats.publish("gateway.channel.room.x", b"subscribed again");
    client.hears("subscribed again");
    a.stop();
}

#[test]
fn of_several_servers_any_one_will_do_and_when_it_dies_another_one_does() {
    let (mut one, mut other, mut never) = (NatsServer::start(), NatsServer::start(), NatsServer::start());
    never.kill();
    other.kill();
    let servers = [never.url(), one.url(), other.url()];
    let (a, b) = (node("a", &servers, ""), node("b", &servers, ""));
    let (mut here, mut there) = (a.client("/rooms/x"), b.client("/rooms/x"));
    for gateway in [&a, &b] {
        gateway.until("it is subscribed", |m| m.value("gateway_bus_subscriptions") == 1.0);
    }
    other.run();
    one.kill();
    for gateway in [&a, &b] {
        gateway.until("the loss is noticed", |m| m.value("gateway_bus_losses_total") == 1.0);
        is_up(gateway);
    }
    // What is said now leaves when the other node had the time to come back.
    here.echoes("over the other one");
    there.hears("over the other one");
    there.echoes("and back");
    here.hears("and back");
    let mut nats = harness::Nats::connect(other.port);
    nats.publish("gateway.channel.room.x", b"subscribed there");
    here.hears("subscribed there");
    there.hears("subscribed there");
    assert_eq!(a.metrics().value("gateway_connections"), 1.0);
    a.stop();
    b.stop();
}
