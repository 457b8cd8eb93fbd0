//! Every kind of mistake in a text, with its key, line and words; and all of them at once.

#![allow(clippy::unwrap_used)]

use config::{Mistake, Source, load};

fn mistakes(text: &str) -> Vec<Mistake> {
    load(text, []).expect_err(text)
}

/// The one mistake of a text: key, line, found, expected.
fn only(text: &str) -> (String, u32, String, String) {
    let mut all = mistakes(text);
    assert_eq!(all.len(), 1, "{text}: {all:#?}");
    let Mistake { key, line, source, found, expected } = all.remove(0);
    assert_eq!(source, Source::File);
    (key, line.unwrap(), found, expected)
}

/// Asserts that each text has one mistake, with this key, line, found, and this among what was expected.
fn each(cases: &[(&str, &str, u32, &str, &str)]) {
    for (text, key, line, found, expected) in cases {
        let mistake = only(text);
        assert_eq!((&*mistake.0, mistake.1, &*mistake.2), (*key, *line, *found), "{text}");
        assert!(mistake.3.contains(expected), "{text}: {}", mistake.3);
    }
}

/// A route that is right but for one line, which is the fifth of the text.
fn route(line: &str) -> String {
    format!(
        "[[route]]\nname = 'a'\npath = '/a/{{x}}'\n\n{line}\n{}",
        if line.contains("inbound") { "" } else { "inbound = 'echo'" }
    )
}

#[test]
fn a_value_of_the_wrong_type_or_beyond_its_range_is_named_as_it_was_written() {
    each(&[
        (
            "[limits]\nconnections = 0",
            "limits.connections",
            2,
            "0",
            "an integer from 1 to 100000000, or \"auto\"",
        ),
        ("[limits]\nconnections = 'all'", "limits.connections", 2, "'all'", "or \"auto\""),
        ("[limits]\nchannels = -1", "limits.channels", 2, "-1", "from 1 to"),
        (
            "[limits]\nchannels = 99999999999999999999",
            "limits.channels",
            2,
            "99999999999999999999",
            "from 1 to",
        ),
        ("[shards]\ncount = 129", "shards.count", 2, "129", "from 1 to 128"),
        ("[shards]\nown_descriptors = 'yes'", "shards.own_descriptors", 2, "'yes'", "true or false"),
        ("[log]\nendings_per_second = 1.5", "log.endings_per_second", 2, "1.5", "an integer from 0"),
        ("[log]\nformat = 'xml'", "log.format", 2, "'xml'", "one of \"auto\", \"text\", \"json\""),
        ("[log]\nfilter = 'loud'", "log.filter", 2, "'loud'", "such as \"info,shard=debug\""),
        ("[node]\nname = 'röm'", "node.name", 2, "'röm'", "or \"auto\""),
        (
            "[listen]\naddress = 'localhost:80'",
            "listen.address",
            2,
            "'localhost:80'",
            "such as \"127.0.0.1:8080\"",
        ),
        ("[api]\ntokens_file = ''", "api.tokens_file", 2, "''", "such as \"/etc/gateway/tokens\""),
        ("[heartbeat]\ninterval = 25", "heartbeat.interval", 2, "25", "a duration in ms, s, m or h"),
        ("[heartbeat]\ninterval = '2h'", "heartbeat.interval", 2, "'2h'", "to \"1h\""),
        ("[websocket]\nmessage_bytes = '2GB'", "websocket.message_bytes", 2, "'2GB'", "KiB, MiB or GiB"),
        (
            "[limits.node]\nmemory = 0",
            "limits.node.memory",
            2,
            "0",
            "from \"1MiB\" to \"1024GiB\", or \"off\"",
        ),
        ("[limits.peer]\nrecent = -1", "limits.peer.recent", 2, "-1", "an integer from 0 to"),
        ("[limits.peer]\nipv6_prefix = 65", "limits.peer.ipv6_prefix", 2, "65", "from 16 to 64"),
        ("[heartbeat]\npong_deadline = '-1s'", "heartbeat.pong_deadline", 2, "'-1s'", "a duration in"),
        ("[heartbeat]\ninterval = '0s'", "heartbeat.interval", 2, "'0s'", "from \"100ms\""),
        ("[backlog]\nframes = 0", "backlog.frames", 2, "0", "an integer from 1 to"),
        ("[drain]\ndeadline = '61m'", "drain.deadline", 2, "'61m'", "from \"0s\" to \"1h\""),
        ("[drain]\naccept_seconds = -1", "drain.accept_seconds", 2, "-1", "from 0 to 3600"),
        ("[limits]\nhead_bytes = 255", "limits.head_bytes", 2, "255", "from \"256\" to \"64KiB\""),
        ("limits = 5", "limits", 1, "5", "written [limits]"),
        ("\n[[limits]]\nchannels = 1", "limits", 2, "a list of tables", "written [limits]"),
    ]);
}

#[test]
fn an_unknown_key_is_answered_with_the_one_that_was_meant() {
    each(&[
        ("[limits]\n\nconections = 5", "limits.conections", 3, "an unknown key", "did you mean connections?"),
        (
            "[websocket]\ninterval = '5s'",
            "websocket.interval",
            2,
            "an unknown key",
            "did you mean heartbeat.interval?",
        ),
        ("connections = 5", "connections", 1, "an unknown key", "did you mean limits.connections?"),
        ("\n[limit]\nx = 1", "limit", 2, "an unknown key", "did you mean [limits]?"),
        ("[[routes]]\nname = 'a'", "routes", 1, "an unknown key", "did you mean [[route]]?"),
        (
            "[limits.pear]\nconnections = 5",
            "limits.pear",
            1,
            "an unknown key",
            "one of connections, handshakes",
        ),
        ("[listen]\nx.y = 5", "listen.x", 2, "an unknown key", "one of address, backlog"),
    ]);
    assert!(!only("[listen]\ncolour = 5").3.contains("did you mean"));
}

#[test]
fn a_route_is_checked_to_its_last_leaf() {
    let long =
        format!("subscribe = [{}]", (0..257).map(|n| format!("'c{n}'")).collect::<Vec<_>>().join(", "));
    let cases = [
        ("exclude_self = 1", "exclude_self", "1", "true or false"),
        ("exclude_self = true", "exclude_self", "true", "inbound = { publish ="),
        ("colour = 1", "colour", "an unknown key", "one of name, path"),
        ("message_bytes = 0", "message_bytes", "0", "from \"1\" to \"1GiB\""),
        ("frame_bytes = 'x'", "frame_bytes", "'x'", "from \"1\" to \"1GiB\""),
        ("fragments = 0", "fragments", "0", "from 1 to 1000000"),
        ("subscribe = 'room.{x}'", "subscribe", "'room.{x}'", "a list in brackets"),
        (
            "subscribe = ['ok', 'room.{y}']",
            "subscribe[1]",
            "'room.{y}'",
            "of the path /a/{x}, which has no {y}",
        ),
        ("subscribe = ['a..b']", "subscribe[0]", "'a..b'", "such as \"room.{room}\""),
        ("subscribe = ['a', 'a']", "subscribe[1]", "'a'", "each value once"),
        (
            "inbound = 'buz'",
            "inbound",
            "'buz'",
            "\"echo\", \"ignore\", \"bus\", { publish = \"room.{room}\" }",
        ),
        ("inbound = 'bus'", "inbound", "\"bus\"", "no app server can listen on the embedded bus"),
        ("inbound = { publish = 'room.{y}' }", "inbound.publish", "'room.{y}'", "which has no {y}"),
        ("inbound = { publish = 5 }", "inbound.publish", "5", "1 to 8 tokens"),
        ("inbound = {}", "inbound", "{}", "or { backend = \"chat\" }"),
        ("inbound = { publish = 'a', backend = 'b' }", "inbound", "{ publish = 'a', backend = 'b' }", "or {"),
        ("inbound = { to = 'a' }", "inbound.to", "an unknown key", "one of publish, backend"),
        ("inbound = { backend = 'B' }", "inbound.backend", "'B'", "the name of a [[backend]]"),
        ("inbound = { backend = 'b' }", "inbound.backend", "\"b\"", "of which there is none"),
        (
            "inbound = { publish = 'user.{x}' }",
            "inbound.publish",
            "'user.{x}'",
            "kept for the channels of users",
        ),
        ("subscribe = ['a', 'user']", "subscribe[1]", "'user'", "another first token than \"user\""),
        ("authorize = 'b'", "authorize", "\"b\"", "of which there is none"),
        ("authorize = true", "authorize", "true", "the name of a [[backend]]"),
        ("origins = ['*', 'https://a.org']", "origins[0]", "'*'", "\"*\" alone"),
        (
            "origins = ['https://a.org/x']",
            "origins[0]",
            "'https://a.org/x'",
            "such as \"https://example.org\"",
        ),
        ("origins = ['http://a', 'HTTP://A:80']", "origins[1]", "'HTTP://A:80'", "each value once"),
        ("origins = '*'", "origins", "'*'", "a list in brackets"),
        ("subprotocols = ['a b']", "subprotocols[0]", "'a b'", "a token"),
    ];
    for (line, key, found, expected) in cases {
        each(&[(&route(line), &format!("route[0].{key}"), 5, found, expected)]);
    }
    assert_eq!(only(&route(&long)).0, "route[0].subscribe");
}

#[test]
fn what_a_route_needs_is_missed_at_its_first_line() {
    let missed: Vec<_> = mistakes("\n[[route]]\n").into_iter().map(|m| (m.key, m.line, m.found)).collect();
    let expected =
        ["inbound", "name", "path"].map(|key| (format!("route[0].{key}"), Some(2), "nothing".to_owned()));
    assert_eq!(missed, expected);
}

#[test]
fn routes_are_written_as_a_list_of_tables() {
    each(&[
        ("[route]\nname = 'a'", "route", 1, "a table", "[[route]] in double brackets"),
        ("route = []", "route", 1, "[]", "1 to 1024 tables"),
        ("route = [1]", "route[0]", 1, "1", "written [[route]]"),
    ]);
    let many = "[[route]]\n".repeat(1025);
    assert_eq!(only(&many).0, "route");
}

/// A backend that is right but for one line, which is the fourth of the text.
fn backend(line: &str) -> String {
    format!("[[backend]]\nname = 'a'\nendpoints = ['https://a:1', 'http://b:1']\n{line}\n")
}

#[test]
fn a_backend_is_checked_to_its_last_leaf() {
    let long = "x".repeat(4097);
    let long = format!("metadata = {{ a = '{long}' }}");
    for (line, key, found, expected) in [
        ("colour = 1", "colour", "an unknown key", "one of name, endpoints"),
        ("streams = 0", "streams", "0", "from 1 to 64"),
        ("partitions = 1025", "partitions", "1025", "from 1 to 1024"),
        ("window = 0", "window", "0", "from 1 to 1000000"),
        ("window_bytes = '1KiB'", "window_bytes", "'1KiB'", "from \"64KiB\""),
        ("connection_window = 65536", "connection_window", "65536", "from 1 to 65535"),
        ("connection_window = 5000", "connection_window", "5000", "at most window, which is 4096"),
        ("patience = 60", "patience", "60", "a duration"),
        ("keep_alive = '6m'", "keep_alive", "'6m'", "{ interval = \"6m\""),
        ("keep_alive = { every = '6m' }", "keep_alive.every", "an unknown key", "interval, timeout"),
        ("backoff = { min = '0s' }", "backoff.min", "'0s'", "from \"10ms\""),
        ("backoff = { min = '6s' }", "backoff.min", "\"6s\"", "at most backoff.max, which is \"5s\""),
        ("resolve = '1ms'", "resolve", "'1ms'", "from \"1s\""),
        ("health = 'on'", "health", "'on'", "true or false"),
        ("metadata = { grpc-x = 'a' }", "metadata", "{ grpc-x = 'a' }", "names of [a-z0-9_.-]"),
        ("metadata = { a = 'ä' }", "metadata.a", "'ä'", "printable ASCII"),
        ("metadata = { a = { path = 'x' } }", "metadata.a", "{ path = 'x' }", "{ file ="),
        ("tls = { ca = '/ca' }", "endpoints", "\"http://b:1\"", "https:// everywhere"),
        ("tls = { server_name = 'a/b' }", "tls.server_name", "'a/b'", "a host name"),
        ("authorize = { queue = -1 }", "authorize.queue", "-1", "from 0 to 1000000"),
        ("authorize = { headers = ['Cookie'] }", "authorize.headers[0]", "'Cookie'", "lower-case name"),
    ] {
        let (at, _, what, instead) = only(&backend(line));
        assert_eq!((at, what.as_str()), (format!("backend[0].{key}"), found), "{line}");
        assert!(instead.contains(expected), "{line}: {instead}");
    }
    assert_eq!(only(&backend(&long)).0, "backend[0].metadata.a");
    let secure = |line: &str| backend(line).replace("http://", "https://");
    each(&[(&secure("tls = { key = '/k' }"), "backend[0].tls.certificate", 4, "nothing", "tls.key is set")]);
}

#[test]
fn a_backend_that_nobody_finds_is_told_with_those_that_are_there() {
    let route = "[[route]]\nname = 'a'\npath = '/a'\n";
    each(&[
        ("[[backend]]\nname = 'a'", "backend[0].endpoints", 1, "nothing", "1 to 64 values"),
        ("[[backend]]\nname = 'a'\nendpoints = []", "backend[0].endpoints", 3, "[]", "1 to 64 values"),
        (
            "[[backend]]\nname = 'a'\nendpoints = ['a:1']",
            "backend[0].endpoints[0]",
            3,
            "'a:1'",
            "such as \"http://chat:50051\"",
        ),
        ("[backend]\nname = 'a'", "backend", 1, "a table", "[[backend]] in double brackets"),
        ("[[backends]]\nname = 'a'", "backends", 1, "an unknown key", "did you mean [[backend]]?"),
        (
            &format!("{}{}", backend(""), backend("")),
            "backend[1].name",
            6,
            "'a'",
            "another backend is called so",
        ),
        (
            &format!("{}{route}inbound = {{ backend = 'b' }}", backend("")),
            "route[0].inbound.backend",
            8,
            "\"b\"",
            "a [[backend]]: \"a\"",
        ),
        (
            &format!(
                "{}{route}inbound = 'echo'\nauthorize = 'a'",
                backend("authorize = { timeout = '10s' }")
            ),
            "backend[0].authorize.timeout",
            4,
            "\"10s\"",
            "less than timeouts.handshake, which is \"10s\"",
        ),
    ]);
    let fine = format!("{}{route}inbound = {{ backend = 'a' }}\nauthorize = 'a'", backend(""));
    assert!(load(&fine, []).is_ok());
}

#[test]
fn two_routes_never_share_a_name_or_their_paths() {
    let pair = |name: &str, path: &str| {
        format!(
            "[[route]]\nname = 'a'\npath = '/a/{{x}}'\ninbound = 'echo'\n[[route]]\nname = '{name}'\npath = '{path}'\ninbound = 'echo'"
        )
    };
    each(&[
        (&pair("a", "/b"), "route[1].name", 6, "'a'", "route[0].name on line 2"),
        (&pair("b", "/a/{y}"), "route[1].path", 7, "'/a/{y}'", "route[0].path on line 3"),
    ]);
    for path in ["/a/x", "/a", "/a/{x}/b", "/{a}/{x}", "/"] {
        assert!(load(&pair("b", path), []).is_ok(), "{path}");
    }
    // The earlier one is wrong in something else, and its name is taken all the same.
    let wrong = pair("a", "/b").replacen("inbound = 'echo'", "inbound = 5", 1);
    assert_eq!(mistakes(&wrong).len(), 2);
}

#[test]
fn keys_that_contradict_each_other_are_found() {
    let route = "[[route]]\nname = 'a'\npath = '/a'\ninbound = 'echo'\n";
    each(&[
        ("[limits]\nconnections = 3\n[shards]\ncount = 4", "limits.connections", 2, "3", "shards.count is 4"),
        (
            "[backlog]\nbytes = '512MiB'",
            "backlog.bytes",
            2,
            "\"512MiB\"",
            "at most backlog.node_bytes, which is \"256MiB\"",
        ),
        (
            &format!("{route}message_bytes = '2MiB'"),
            "route[0].message_bytes",
            5,
            "\"2MiB\"",
            "at most backlog.bytes, which is \"1MiB\"",
        ),
        (
            &format!("{route}subscribe = ['b', 'c']\n[limits]\nsubscriptions_per_connection = 1"),
            "route[0].subscribe",
            5,
            "2 channels",
            "subscriptions_per_connection, which is 1",
        ),
        (
            "[api]\naddress = '[::]:9000'",
            "api.tokens_file",
            2,
            "nothing",
            "because [::]:9000 is not loopback",
        ),
        (
            "[admin]\n\naddress = '10.0.0.1:9000'",
            "admin.token_file",
            3,
            "nothing",
            "because 10.0.0.1:9000 is not loopback",
        ),
        (
            "[listen]\naddress = '0.0.0.0:8081'",
            "http.address",
            2,
            "\"127.0.0.1:8081\"",
            "another port than listen.address, which is \"0.0.0.0:8081\"",
        ),
        (
            "[health]\naddress = '0.0.0.0:8081'",
            "health.address",
            2,
            "\"0.0.0.0:8081\"",
            "another port than http.address",
        ),
        (
            "[listen]\nproxy_protocol = 'on'",
            "trust.networks",
            2,
            "[]",
            "because listen.proxy_protocol is set",
        ),
        ("[trust]\nheader = 'forwarded'", "trust.networks", 2, "[]", "because trust.header is set"),
        (
            "[trust]\nnetworks = ['10.0.0.1']",
            "trust.networks",
            2,
            "networks that tell the peer in no way",
            "a trust.header other than",
        ),
    ]);
}

#[test]
fn a_bound_that_another_one_meets_first_is_found() {
    let route = "[[route]]\nname = 'a'\npath = '/a'\ninbound = 'echo'\n";
    each(&[
        (
            "[limits]\nconnections = 100\nhandshakes = 101",
            "limits.handshakes",
            3,
            "101",
            "at most limits.connections, which is 100",
        ),
        (
            "[limits]\nsubscriptions_per_connection = 11\nchannels = 10",
            "limits.subscriptions_per_connection",
            2,
            "11",
            "at most limits.channels, which is 10",
        ),
        (
            "[drain]\naccept_seconds = 6",
            "drain.accept_seconds",
            2,
            "6",
            "at most half of drain.deadline, which is \"10s\"",
        ),
        ("[drain]\naccept_seconds = 1\ndeadline = '0s'", "drain.accept_seconds", 2, "1", "is \"0s\""),
        (
            &format!("{route}message_bytes = 4\nauto_reply = {{ 'ping' = 'pong', 'are you there' = 'yes' }}"),
            "route[0].auto_reply.\"are you there\"",
            6,
            "a message of 13 bytes",
            "at most message_bytes of the route, which is \"4\"",
        ),
    ]);
}

#[test]
fn a_network_that_is_none_is_found_by_its_place_in_the_list() {
    let text = "[trust]\nheader = 'forwarded'\nnetworks = ['10.0.0.0/8', '10.0.0.1/8']";
    each(&[(
        text,
        "trust.networks",
        3,
        "['10.0.0.0/8', '10.0.0.1/8']",
        "value 2 of the list to be no bits behind the prefix",
    )]);
    let many: Vec<String> = (0..257).map(|n| format!("'10.0.{}.{}'", n / 256, n % 256)).collect();
    let text = format!("[trust]\nheader = 'forwarded'\nnetworks = [{}]", many.join(", "));
    assert!(only(&text).3.contains("at most 256 values"));
    each(&[("[trust]\nnetworks = '10.0.0.0/8'", "trust.networks", 2, "'10.0.0.0/8'", "a list in brackets")]);
}

#[test]
fn the_listener_of_grpc_is_guarded_and_alone() {
    each(&[
        (
            "[grpc]\naddress = '[::]:9000'",
            "api.tokens_file",
            2,
            "nothing",
            "because [::]:9000 is not loopback",
        ),
        (
            "[grpc]\naddress = '127.0.0.1:8081'",
            "grpc.address",
            2,
            "\"127.0.0.1:8081\"",
            "another port than http.address",
        ),
        (
            "[grpc]\naddress = '127.0.0.1:8080'",
            "grpc.address",
            2,
            "\"127.0.0.1:8080\"",
            "another port than listen.address",
        ),
    ]);
}

#[test]
fn what_only_looks_like_a_contradiction_is_let_through() {
    for text in [
        "[listen]\naddress = '127.0.0.1:0'\n[http]\naddress = '127.0.0.1:0'",
        "[health]\naddress = '0.0.0.0:9000'\n[api]\naddress = '[::1]:8081'",
        "[api]\naddress = '[::ffff:127.0.0.1]:9000'",
        "[health]\naddress = '0.0.0.0:9000'\n[api]\naddress = '0.0.0.0:9000'\ntokens_file = 'a'",
        "[grpc]\naddress = '[::]:9000'\n[api]\ntokens_file = 'a'",
        "[grpc]\naddress = '[::1]:8081'",
        "[listen]\naddress = '[::1]:9000'\n[health]\naddress = '0.0.0.0:9000'",
        "[limits]\nconnections = 4\n[shards]\ncount = 4",
        "[backlog]\nbytes = '2MiB'\nnode_bytes = '2MiB'",
        "[limits]\nsubscriptions_per_connection = 1",
        "[limits]\nconnections = 100\nchannels = 10\n[limits.peer]\nconnections = 100",
        "[limits]\nconnections = 100\nhandshakes = 100",
        "[drain]\naccept_seconds = 5",
        "[drain]\ndeadline = '0s'",
        "[http]\naddress = '0.0.0.0:9000'\n[api]\ntokens_file = 'a'\n[admin]\ntoken_file = 'b'",
        "[[route]]\nname = 'a'\npath = '/a'\ninbound = 'ignore'\nmessage_bytes = '1GiB'",
        "[backlog]\nbytes = '2MiB'\n[websocket]\nmessage_bytes = '2MiB'",
        "[listen]\nproxy_protocol = 'on'\n[trust]\nnetworks = ['10.0.0.0/8', '10.1.0.0/16', '::1']",
        "[trust]\nnetworks = ['0.0.0.0/0', '::/0']\nheader = 'x-forwarded-for'",
    ] {
        let loaded = load(text, []);
        assert!(loaded.is_ok(), "{text}: {loaded:?}");
    }
}

#[test]
fn a_refused_value_takes_part_in_no_contradiction() {
    each(&[
        (
            "[backlog]\nnode_bytes = '2GB'\nbytes = '512MiB'",
            "backlog.node_bytes",
            2,
            "'2GB'",
            "from \"1MiB\"",
        ),
        (
            "[http]\naddress = 'x'\n[listen]\naddress = '127.0.0.1:8081'",
            "http.address",
            2,
            "'x'",
            "an IP address",
        ),
    ]);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_text() {
    let text = "\
nodes = 3
[limits]
connections = 0
head_bytes = '1GiB'
hanshakes = 5
[timeouts]
close = 5
[[route]]
name = 'rooms'
path = '/rooms/{room}'
inbound = { publish = 'room.{rom}' }
[[route]]
name = 'rooms'
path = '/rooms/{id}'
subscribe = [
  'a b',
  'room.{id}',
  7,
]
inbound = 'echo'
message_bytes = '16MiB'
";
    let told: Vec<_> = mistakes(text).into_iter().map(|m| (m.line.unwrap(), m.key)).collect();
    let expected = [
        (1, "nodes"),
        (3, "limits.connections"),
        (4, "limits.head_bytes"),
        (5, "limits.hanshakes"),
        (7, "timeouts.close"),
        (11, "route[0].inbound.publish"),
        (13, "route[1].name"),
        (14, "route[1].path"),
        (16, "route[1].subscribe[0]"),
        (18, "route[1].subscribe[2]"),
        (21, "route[1].message_bytes"),
    ];
    assert_eq!(told, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn what_is_not_toml_is_told_with_its_line_beside_the_other_mistakes() {
    let text = "[limits]\nconnections =\nhead_bytes = \"8KiB\nchannels = 0\n[listen\nbacklog = 0\n[node]\nname = 'a'\nname = 'b'\n";
    let told = mistakes(text);
    let lines: Vec<_> = told.iter().map(|m| (m.line.unwrap(), m.key.as_str())).collect();
    for expected in [(2, ""), (3, ""), (4, "limits.channels"), (5, ""), (9, "")] {
        assert!(lines.contains(&expected), "{expected:?} is not in {told:#?}");
    }
    assert!(told[0].to_string().starts_with("line 2: found text that is not TOML ("), "{}", told[0]);
    // A second mistake on such a line would be about what the parser made of it.
    assert!(lines.iter().all(|(line, key)| key.is_empty() || ![2, 3, 5, 9].contains(line)), "{lines:?}");
}

#[test]
fn a_long_or_many_lined_value_is_repeated_in_short() {
    let (_, _, found, _) = only(&format!("[node]\nname = '''a\n{}'''", "x".repeat(1000)));
    assert_eq!(found.chars().count(), 61);
    assert!(found.starts_with("'''a x") && found.ends_with('…'));
}

#[test]
fn a_text_beyond_its_bound_is_not_parsed() {
    let mistakes = mistakes(&" ".repeat(config::TEXT_BYTES_MAX + 1));
    assert_eq!(mistakes.len(), 1);
    assert_eq!(
        mistakes[0].to_string(),
        "found 1048577 bytes, expected a configuration of at most 1048576 bytes"
    );
}
