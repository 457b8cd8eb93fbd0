//! Settings printed and read again are the same settings, and no text whatever makes `load` panic.

#![allow(clippy::unwrap_used)]

use config::units::Bytes;
use config::{Inbound, Origins, Settings, load, reference};
use fastrand::Rng;

/// Differs from the default in every key.
const OTHER: &str = r#"
[node]
name = "node-7"
[listen]
address = "[::]:80"
backlog = 128
notsent_lowat = "64KiB"
proxy_protocol = "on"
[trust]
networks = ["10.0.0.0/8", "2001:db8::1"]
header = "forwarded"
[shards]
count = 4
own_descriptors = true
[limits]
connections = 1_000_000
handshakes = 500
head_bytes = "16KiB"
subscriptions_per_connection = 8
channels = 2000
[limits.node]
memory = "3GiB"
dry_run = true
[limits.connection]
messages_per_second = "off"
messages_burst = 7
action = "drop"
dry_run = true
[limits.peer]
connections = "off"
connects_per_second = 7
connects_burst = 8
messages_per_second = 9
messages_burst = 11
bytes_per_second = "10KiB"
bytes_burst = "1GiB"
refuse = "close"
action = "close"
dry_run = false
recent = 0
ipv6_prefix = 48
[[limits.network]]
cidr = "10.0.0.0/8"
factor = 2.5
[[limits.network]]
cidr = "2001:db8::/32"
exempt = true
[[limits.network]]
cidr = "192.0.2.7/32"
block = true
[websocket]
message_bytes = "64KiB"
frame_bytes = 1000
fragments = 16
[heartbeat]
interval = "30s"
pong_deadline = "1500ms"
[timeouts]
handshake = "3s"
close = "1s"
linger = "500ms"
[backlog]
frames = 64
bytes = "2MiB"
node_bytes = "1GiB"
[mailbox]
commands = 1024
[http]
address = "0.0.0.0:9000"
request_bytes = "2MiB"
[health]
address = "0.0.0.0:9001"
[api]
address = "10.1.2.3:9002"
tokens_file = 'C:\odd "path"'
[admin]
address = "127.0.0.1:9003"
token_file = "/etc/t"
[grpc]
address = "127.0.0.1:9004"
[inspection]
endings = 50
[log]
format = "json"
filter = "warn,shard=trace"
endings_per_second = 0
[drain]
deadline = "8s"
accept_seconds = 3
[bus]
kind = "nats"
prefix = "edge"
partitions = 4
window = 100
window_bytes = "1MiB"
connection_window = 4
queue = 99
[bus.nats]
servers = ["nats://a:4222", "tls://[::1]:4223"]
jetstream = true
credentials_file = "/creds"
ca_file = "/ca"
certificate_file = "/c"
key_file = "/k"
[bus.redis]
server = "rediss://[::1]:6380"
database = 3
user = "edge"
password_file = "/p"
ca_file = "/ca"
certificate_file = "/c"
key_file = "/k"
stream_entries = 500
[ready]
requires = ["bus"]
[[backend]]
name = "chat"
endpoints = ["https://chat.example.org:443", "https://[::1]:50051"]
streams = 2
partitions = 16
window = 500
window_bytes = "1MiB"
connection_window = 8
patience = "30s"
ack_timeout = "10s"
connect_timeout = "1s"
keep_alive = { interval = "10s", timeout = "5s" }
backoff = { min = "50ms", max = "2s" }
resolve = "1m"
health = true
metadata = { x-team = 'a "b" \c', authorization = { file = "/etc/gateway/token" } }
tls = { ca = "/ca", certificate = "/c", key = "/k", server_name = "Chat.example.org" }
authorize = { timeout = "500ms", concurrency = 3, queue = 0, headers = [] }
[[backend]]
name = "game"
endpoints = ["http://game:50051"]
keep_alive = { timeout = "5s" }
tls = {}
authorize = { timeout = "2s" }
[[route]]
name = "lobby"
path = "/rooms/lobby"
subscribe = ["room.lobby", "news"]
inbound = { backend = "chat" }
authorize = "game"
origins = ["https://example.org", "http://localhost:3000"]
subprotocols = ["v2.chat", "v1.chat"]
message_bytes = "1MiB"
heartbeat = { interval = "5s" }
idle_timeout = "1h"
max_age = "24h"
max_age_jitter = "1h"
auto_reply = { "ping" = "pong", 'a "b"\' = "", "c\u0000" = "d\n" }
slow_consumer = "keep_latest"
on_bus_loss = "drop"
on_gap = "close"
kind = "text"
[[route]]
name = "rooms"
path = "/rooms/{room}/{side}"
subscribe = ["room.{room}.{side}"]
inbound = { publish = "room.{room}.all" }
exclude_self = true
origins = []
frame_bytes = 999
fragments = 1
heartbeat = { interval = "30s", pong_deadline = "1s" }
max_age = "1s"
auto_reply = {}
slow_consumer = "drop_oldest"
kind = "binary"
"#;

#[test]
fn the_defaults_are_what_an_empty_text_means_and_what_they_print() {
    let defaults = Settings::default();
    assert_eq!(load("", []), Ok(defaults.clone()));
    assert_eq!(load(&defaults.to_toml(), []), Ok(defaults));
}

#[test]
fn settings_that_differ_in_every_key_are_printed_and_read_back() {
    let settings = load(OTHER, []).unwrap();
    let printed = settings.to_toml();
    assert_eq!(load(&printed, []).unwrap(), settings, "{printed}");
    let defaults = keys(&Settings::default().to_toml());
    for (section, line) in keys(&printed) {
        let same = defaults.contains(&(section.clone(), line.clone()));
        assert!(!same, "{section} {line} is the default, so this test does not show that it is read");
    }
}

/// The settings in front of backends and routes, each with its section.
fn keys(printed: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in printed.lines().take_while(|line| *line != "[[backend]]") {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if line.contains(" = ") {
            keys.push((section.clone(), line.to_owned()));
        }
    }
    keys
}

#[test]
fn a_route_inherits_what_it_does_not_say() {
    let settings = load(OTHER, []).unwrap();
    let [lobby, rooms] = &settings.routes[..] else { panic!("two routes are in the text") };
    assert_eq!((lobby.message_bytes, rooms.message_bytes), (Bytes::mib(1), Bytes::kib(64)));
    assert_eq!((lobby.frame_bytes, rooms.frame_bytes), (Bytes::new(1000), Bytes::new(999)));
    assert_eq!((lobby.fragments.get(), rooms.fragments.get()), (16, 1));
    let Inbound::Backend(chat) = &lobby.inbound else { panic!("{:?}", lobby.inbound) };
    assert_eq!((chat.as_str(), &rooms.origins), ("chat", &Origins::Only(Vec::new())));
    // Printed, it still inherits: only what it said itself is there.
    let printed = settings.to_toml();
    let rooms = printed.rsplit("[[route]]").next().unwrap();
    assert!(!rooms.contains("message_bytes") && rooms.contains("frame_bytes = \"999\""), "{rooms}");
}

#[test]
fn a_backend_has_every_default_that_it_does_not_override() {
    let one = |text: &str| load(text, []).unwrap().backends.remove(0);
    let bare = one("[[backend]]\nname = 'a'\nendpoints = ['http://a:1']");
    let other = load(OTHER, []).unwrap().backends.remove(0);
    let printed = |backend| Settings { backends: vec![backend], ..Settings::default() }.to_toml();
    let (bare, other) = (printed(bare), printed(other));
    let section =
        |text: &str| text.split_once("[[backend]]").unwrap().1.split_once("\n\n").unwrap().0.to_owned();
    let (bare, other) = (section(&bare), section(&other));
    for line in bare.lines().filter(|line| line.contains(" = ")) {
        assert!(!other.contains(line), "{line} is the default, so this test does not show that it is read");
    }
    // Tables under headers of their own are the same.
    let inline = one("[[backend]]\nname = 'a'\nendpoints = ['http://a:1']\nbackoff = { min = '1s' }");
    assert_eq!(
        inline,
        one("[[backend]]\nname = 'a'\nendpoints = ['http://a:1']\n[backend.backoff]\nmin = '1s'")
    );
}

#[test]
fn a_file_with_a_route_has_only_its_own() {
    let settings = load("[[route]]\nname = 'a'\npath = '/'\ninbound = 'ignore'", []).unwrap();
    assert_eq!(settings.routes.len(), 1);
    assert_eq!(settings.routes[0].path.to_string(), "/");
    let names: Vec<_> = Settings::default().routes.iter().map(|route| route.name.to_string()).collect();
    assert_eq!(names, ["rooms", "echo"]);
}

#[test]
fn roles_without_an_address_share_the_one_of_http() {
    let settings =
        load("[http]\naddress = '127.0.0.1:9000'\n[health]\naddress = '0.0.0.0:9001'", []).unwrap();
    let addresses = [settings.health_address(), settings.api_address(), settings.admin_address()];
    assert_eq!(addresses.map(|address| address.port()), [9001, 9000, 9000]);
}

#[test]
fn a_reference_damaged_at_random_is_read_back_or_refused() {
    const PIECES: &[&str] = &[
        "0",
        "-1",
        "\"\"",
        "'auto'",
        "[",
        "]",
        "[[route]]\n",
        "[limits]\n",
        "{",
        "}",
        "=",
        "\n",
        "#",
        "\"25s\"",
        "1e9",
        "true",
        ".",
        "{x}",
        "/",
        "é",
        "\u{feff}",
        "\0",
        "'''",
        "name = 'b'\n",
        "[[",
        "2024-01-01",
        "0x10",
        "route = ",
    ];
    let mut read = 0;
    for seed in 0..1500 {
        let mut rng = Rng::with_seed(seed);
        let mut text = if rng.bool() { reference() } else { OTHER }.to_owned();
        for _ in 0..rng.usize(1..4) {
            let mut cut =
                || (0..).map(|_| rng.usize(..=text.len())).find(|at| text.is_char_boundary(*at)).unwrap();
            let from = cut();
            // Mostly small wounds, so that what follows is still judged.
            let to = cut().min(from + 8);
            let to = if text.is_char_boundary(to) { to.max(from) } else { from };
            text.replace_range(from..to, rng.choice(PIECES).unwrap());
        }
        match load(&text, []) {
            Ok(settings) => {
                read += 1;
                assert_eq!(load(&settings.to_toml(), []), Ok(settings), "seed {seed}");
            }
            Err(mistakes) => {
                assert!(!mistakes.is_empty(), "seed {seed}");
                let lines = u32::try_from(text.lines().count()).unwrap() + 1;
                for mistake in mistakes {
                    assert!(
                        mistake.line.is_none_or(|line| (1..=lines).contains(&line)),
                        "seed {seed}: {mistake}"
                    );
                    assert!(!mistake.to_string().contains('\n'), "seed {seed}: {mistake}");
                }
            }
        }
    }
    assert!(
        (100..1400).contains(&read),
        "{read} of 1500 were read: damage is too rare or too bad to show anything"
    );
}

#[test]
fn random_letters_never_panic() {
    const LETTERS: &[char] = &[
        'a', 'n', '[', ']', '{', '}', '=', '.', ',', '"', '\'', '\n', '\r', ' ', '#', '\\', '0', '-', '_',
        'é', '\0', '\u{2028}',
    ];
    for seed in 0..5000 {
        let mut rng = Rng::with_seed(seed);
        let length = rng.usize(..60);
        let text: String = (0..length).map(|_| LETTERS[rng.usize(..LETTERS.len())]).collect();
        let variable = format!("GATEWAY__{}", text.replace('n', "LIMITS__CHANNELS"));
        let _ = load(&text, [(variable, text.clone()), ("GATEWAY__NODE__NAME".to_owned(), text.clone())]);
    }
}

#[test]
fn deep_nesting_is_refused_and_overflows_nothing() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("route = {}{}", open.repeat(100_000), close.repeat(100_000));
        assert!(load(&text, []).is_err());
        assert!(load("", [("GATEWAY__NODE__NAME".to_owned(), open.repeat(100_000))]).is_err());
    }
    assert!(load(&format!("{} = 1", vec!["a"; 100_000].join(".")), []).is_err());
}
