//! Owns `[[backend]]`: app servers that are told of events and asked who may come in, over gRPC. One entry is one
//! upstream, at one or more endpoints. Refuses two of one name, and to know which routes use it. Read by the program.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::endpoints::{self, Endpoint, Metadata};
use crate::forms::{Count, FilePath, Flag, Form, Number, Size, Time, Word, quoted};
use crate::names::{BackendName, HeaderName, HostName};
use crate::reader::{Field, Reader, Spot};
use crate::schema::write_key;
use crate::sections::{TIMER, count};
use crate::units::{Bytes, print_duration};

/// Most backends.
pub const BACKENDS_MAX: usize = 64;
/// Most endpoints of one backend.
pub const ENDPOINTS_MAX: usize = 64;
/// Most header fields that an authorizer is shown.
pub const AUTHORIZE_HEADERS_MAX: usize = 32;

/// App servers behind one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Different for every backend.
    pub name: BackendName,
    /// Where its servers are; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Streams to each endpoint.
    pub streams: NonZeroU32,
    /// Connections are spread over so many partitions: the unit of order, of ownership and of sending again.
    pub partitions: NonZeroU32,
    /// Events under way on one stream.
    pub window: NonZeroU32,
    /// Their payload bytes.
    pub window_bytes: Bytes,
    /// Messages under way of one connection.
    pub connection_window: NonZeroU32,
    /// Whoever has something to say and could not for so long is closed 1013.
    pub patience: Duration,
    /// A connection, or a whole stream, of which nothing is acknowledged for so long is given up.
    pub ack_timeout: Duration,
    /// From the first packet to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// When an endpoint that says nothing is asked whether it lives.
    pub keep_alive: KeepAlive,
    /// Between two attempts to connect.
    pub backoff: Backoff,
    /// How often names are resolved again.
    pub resolve: Duration,
    /// Whether endpoints are asked for their health (`grpc.health.v1`).
    pub health: bool,
    /// What goes with every call.
    pub metadata: Vec<Metadata>,
    /// How TLS is spoken, where endpoints say `https`.
    pub tls: Tls,
    /// How it is asked who may come in.
    pub authorize: AuthorizeCalls,
}

/// HTTP/2 pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// From one ping to the next.
    pub interval: Duration,
    /// Without an answer for so long, the connection is given up.
    pub timeout: Duration,
}

/// The pauses between attempts, which double from the least to the most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// How TLS is spoken to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the authorities that are believed. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of the chain that we show.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The name that an endpoint's certificate has to have. `None`: its host.
    pub server_name: Option<HostName>,
}

/// How a backend is asked who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizeCalls {
    /// From the call to the decision.
    pub timeout: Duration,
    /// Calls under way.
    pub concurrency: NonZeroU32,
    /// Requests that wait for one of those. 0: none.
    pub queue: u32,
    /// Header fields that are passed on.
    pub headers: Vec<HeaderName>,
}

pub(crate) const KEYS: &[&str] = &[
    "name",
    "endpoints",
    "streams",
    "partitions",
    "window",
    "window_bytes",
    "connection_window",
    "patience",
    "ack_timeout",
    "connect_timeout",
    "keep_alive",
    "backoff",
    "resolve",
    "health",
    "metadata",
    "tls",
    "authorize",
];

const NAME: Word<BackendName> =
    Word { expected: "a name of [a-z0-9_-]{1,63}, such as \"chat\"", parse: BackendName::parse };
const ENDPOINT: Word<Endpoint> = Word {
    expected: "http://host:port, or https://host:port for TLS, such as \"http://chat:50051\"",
    parse: Endpoint::parse,
};
const STREAMS: Count = Count { min: 1, max: 64 };
const PARTITIONS: Count = Count { min: 1, max: 1024 };
const WINDOW: Count = Count { min: 1, max: 1_000_000 };
const WINDOW_BYTES: Size = Size { min: Bytes::kib(64), max: Bytes::gib(1) };
const CONNECTION_WINDOW: Count = Count { min: 1, max: 65_535 };
const RESOLVE: Time = Time { min: Duration::from_secs(1), max: Duration::from_secs(3600) };
const CONCURRENCY: Count = Count { min: 1, max: 65_535 };
const QUEUE: Number = Number { min: 0, max: 1_000_000 };
const HEADER: Word<HeaderName> = Word {
    expected: "the lower-case name of a header field, such as \"authorization\"",
    parse: HeaderName::parse,
};
const SERVER_NAME: Word<HostName> =
    Word { expected: "a host name, such as \"chat.example.org\"", parse: HostName::parse };

const KEEP_ALIVE: &str = "{ interval = \"6m\", timeout = \"20s\" }, or one of the two, from \"1s\" to \"1h\"";
const KEEP_ALIVE_TIME: Time = Time { min: Duration::from_secs(1), max: Duration::from_secs(3600) };
const BACKOFF: &str = "{ min = \"100ms\", max = \"5s\" }, or one of the two, from \"10ms\" to \"1h\"";
const BACKOFF_TIME: Time = Time { min: Duration::from_millis(10), max: Duration::from_secs(3600) };
const TLS: &str = "{ ca = \"/etc/gateway/ca.pem\", certificate = \"/etc/gateway/client.pem\", key = \"/etc/gateway/client.key\", \
     server_name = \"chat.example.org\" }, or some of them";
const AUTHORIZE: &str = "{ timeout = \"3s\", concurrency = 64, queue = 1024, \
     headers = [\"authorization\", \"cookie\", \"origin\"] }, or some of them";

/// A backend of which nothing is said.
fn bare() -> Backend {
    Backend {
        name: BackendName::nameless(),
        endpoints: Vec::new(),
        streams: count(1),
        partitions: count(64),
        window: count(4096),
        window_bytes: Bytes::mib(16),
        connection_window: count(32),
        patience: Duration::from_secs(60),
        ack_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(5),
        keep_alive: KeepAlive { interval: Duration::from_secs(360), timeout: Duration::from_secs(20) },
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) },
        resolve: Duration::from_secs(30),
        health: false,
        metadata: Vec::new(),
        tls: Tls::default(),
        authorize: AuthorizeCalls {
            timeout: Duration::from_secs(3),
            concurrency: count(64),
            queue: 1024,
            headers: ["authorization", "cookie", "origin"]
                .iter()
                .filter_map(|name| HeaderName::parse(name))
                .collect(),
        },
    }
}

/// The backends of the text.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<Backend> {
    let Some(value) = reader.root_value("backend") else { return Vec::new() };
    let tables = match value.get_ref().as_array() {
        Some(tables) if (1..=BACKENDS_MAX).contains(&tables.len()) => tables,
        _ => {
            let expected = format!("1 to {BACKENDS_MAX} tables, each written [[backend]] in double brackets");
            reader.refuse::<()>("backend", value, expected);
            return Vec::new();
        }
    };
    let mut backends: Vec<Backend> = Vec::with_capacity(tables.len());
    for (position, value) in tables.iter().enumerate() {
        let prefix = format!("backend[{position}]");
        match reader.table(prefix.clone(), value, KEYS) {
            Some(spot) => {
                let backend = read_backend(reader, &spot, &backends);
                backends.push(backend);
            }
            None => {
                reader.refuse::<()>(&prefix, value, "a table, written [[backend]]".to_owned());
                backends.push(bare());
            }
        }
    }
    backends
}

fn read_backend<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, earlier: &[Backend]) -> Backend {
    let bare = bare();
    let name = reader.required(spot, "name", &NAME);
    if let Some(value) = reader.value(spot, "name")
        && earlier.iter().any(|other| Some(&other.name) == name.as_ref())
    {
        let expected = "a name of its own: another backend is called so".to_owned();
        reader.refuse::<()>(&spot.path("name"), value, expected);
    }
    Backend {
        name: name.unwrap_or(bare.name),
        endpoints: read_endpoints(reader, spot),
        streams: reader.field(spot, "streams", &STREAMS).or(bare.streams),
        partitions: reader.field(spot, "partitions", &PARTITIONS).or(bare.partitions),
        window: reader.field(spot, "window", &WINDOW).or(bare.window),
        window_bytes: reader.field(spot, "window_bytes", &WINDOW_BYTES).or(bare.window_bytes),
        connection_window: reader
            .field(spot, "connection_window", &CONNECTION_WINDOW)
            .or(bare.connection_window),
        patience: reader.field(spot, "patience", &TIMER).or(bare.patience),
        ack_timeout: reader.field(spot, "ack_timeout", &TIMER).or(bare.ack_timeout),
        connect_timeout: reader.field(spot, "connect_timeout", &TIMER).or(bare.connect_timeout),
        keep_alive: read_keep_alive(reader, spot, bare.keep_alive),
        backoff: read_backoff(reader, spot, bare.backoff),
        resolve: reader.field(spot, "resolve", &RESOLVE).or(bare.resolve),
        health: reader.field(spot, "health", &Flag).or(bare.health),
        metadata: endpoints::read_metadata(reader, spot),
        tls: read_tls(reader, spot),
        authorize: read_authorize(reader, spot, bare.authorize),
    }
}

fn read_endpoints<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Vec<Endpoint> {
    let expected =
        || format!("a list in brackets, 1 to {ENDPOINTS_MAX} values, each {}", ENDPOINT.expected());
    match reader.list(spot, "endpoints", &ENDPOINT, ENDPOINTS_MAX) {
        Field::Absent => {
            reader.missing(spot, "endpoints", expected());
            Vec::new()
        }
        Field::Refused => Vec::new(),
        Field::Read(endpoints) => {
            if let (true, Some(value)) = (endpoints.is_empty(), reader.value(spot, "endpoints")) {
                reader.refuse::<()>(&spot.path("endpoints"), value, expected());
            }
            endpoints
        }
    }
}

/// A table inside a line, or under a header of its own.
fn inner<'t>(
    reader: &mut Reader<'t>,
    spot: &Spot<'t>,
    key: &str,
    keys: &[&str],
    expected: &str,
) -> Option<Spot<'t>> {
    let value = reader.value(spot, key)?;
    let path = spot.path(key);
    let table = reader.table(path.clone(), value, keys);
    if table.is_none() {
        reader.refuse::<()>(&path, value, expected.to_owned());
    }
    table
}

fn read_keep_alive<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, bare: KeepAlive) -> KeepAlive {
    let Some(table) = inner(reader, spot, "keep_alive", &["interval", "timeout"], KEEP_ALIVE) else {
        return bare;
    };
    KeepAlive {
        interval: reader.field(&table, "interval", &KEEP_ALIVE_TIME).or(bare.interval),
        timeout: reader.field(&table, "timeout", &KEEP_ALIVE_TIME).or(bare.timeout),
    }
}

fn read_backoff<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, bare: Backoff) -> Backoff {
    let Some(table) = inner(reader, spot, "backoff", &["min", "max"], BACKOFF) else { return bare };
    Backoff {
        min: reader.field(&table, "min", &BACKOFF_TIME).or(bare.min),
        max: reader.field(&table, "max", &BACKOFF_TIME).or(bare.max),
    }
}

fn read_tls<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Tls {
    let keys = ["ca", "certificate", "key", "server_name"];
    let Some(table) = inner(reader, spot, "tls", &keys, TLS) else { return Tls::default() };
    Tls {
        ca: reader.field(&table, "ca", &FilePath).read(),
        certificate: reader.field(&table, "certificate", &FilePath).read(),
        key: reader.field(&table, "key", &FilePath).read(),
        server_name: reader.field(&table, "server_name", &SERVER_NAME).read(),
    }
}

fn read_authorize<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, bare: AuthorizeCalls) -> AuthorizeCalls {
    let keys = ["timeout", "concurrency", "queue", "headers"];
    let Some(table) = inner(reader, spot, "authorize", &keys, AUTHORIZE) else { return bare };
    AuthorizeCalls {
        timeout: reader.field(&table, "timeout", &TIMER).or(bare.timeout),
        concurrency: reader.field(&table, "concurrency", &CONCURRENCY).or(bare.concurrency),
        queue: reader.field(&table, "queue", &QUEUE).or(bare.queue),
        headers: reader.list(&table, "headers", &HEADER, AUTHORIZE_HEADERS_MAX).or(bare.headers),
    }
}

/// Notes what contradicts itself inside of a backend.
pub(crate) fn check(backends: &[Backend], reader: &mut Reader<'_>) {
    for (position, backend) in backends.iter().enumerate() {
        let at = |key: &str| format!("backend[{position}].{key}");
        let Backoff { min, max } = backend.backoff;
        if min > max {
            let (min_at, max_at) = (at("backoff.min"), at("backoff.max"));
            let expected = format!("at most backoff.max, which is \"{}\"", print_duration(max));
            reader.contradiction(&[&min_at, &max_at], &min_at, quoted(&print_duration(min)), expected);
        }
        if backend.connection_window > backend.window {
            let (one, all) = (at("connection_window"), at("window"));
            let expected = format!("at most window, which is {}", backend.window);
            reader.contradiction(&[&one, &all], &one, backend.connection_window.to_string(), expected);
        }
        let Tls { ca, certificate, key, server_name } = &backend.tls;
        for (one, is_set, other, is_other_set) in [
            ("tls.certificate", certificate.is_some(), "tls.key", key.is_some()),
            ("tls.key", key.is_some(), "tls.certificate", certificate.is_some()),
        ] {
            if is_set && !is_other_set {
                let (one, other) = (at(one), at(other));
                reader.contradiction(
                    &[&one, &other],
                    &other,
                    "nothing".to_owned(),
                    format!("a file, because {one} is set"),
                );
            }
        }
        let speaks = ca.is_some() || certificate.is_some() || key.is_some() || server_name.is_some();
        let plain = backend.endpoints.iter().find(|endpoint| !endpoint.tls);
        if let (true, Some(plain)) = (speaks, plain) {
            let expected = "https:// everywhere, because tls is set".to_owned();
            let key = at("endpoints");
            reader.contradiction(&[&key], &key, quoted(&plain.to_string()), expected);
        }
    }
}

/// Appends one backend as TOML.
pub(crate) fn write(backend: &Backend, out: &mut String) {
    let list = |values: Vec<Option<String>>| {
        let values: Vec<String> = values.into_iter().flatten().collect();
        format!("[{}]", values.join(", "))
    };
    out.push_str("\n[[backend]]\n");
    write_key(out, "name", NAME.write(&backend.name));
    let endpoints = backend.endpoints.iter().map(|endpoint| ENDPOINT.write(endpoint)).collect();
    write_key(out, "endpoints", Some(list(endpoints)));
    write_key(out, "streams", STREAMS.write(&backend.streams));
    write_key(out, "partitions", PARTITIONS.write(&backend.partitions));
    write_key(out, "window", WINDOW.write(&backend.window));
    write_key(out, "window_bytes", WINDOW_BYTES.write(&backend.window_bytes));
    write_key(out, "connection_window", CONNECTION_WINDOW.write(&backend.connection_window));
    write_key(out, "patience", TIMER.write(&backend.patience));
    write_key(out, "ack_timeout", TIMER.write(&backend.ack_timeout));
    write_key(out, "connect_timeout", TIMER.write(&backend.connect_timeout));
    let KeepAlive { interval, timeout } = &backend.keep_alive;
    let pairs = [("interval", KEEP_ALIVE_TIME.write(interval)), ("timeout", KEEP_ALIVE_TIME.write(timeout))];
    write_key(out, "keep_alive", write_table(pairs));
    let Backoff { min, max } = &backend.backoff;
    write_key(
        out,
        "backoff",
        write_table([("min", BACKOFF_TIME.write(min)), ("max", BACKOFF_TIME.write(max))]),
    );
    write_key(out, "resolve", RESOLVE.write(&backend.resolve));
    write_key(out, "health", Flag.write(&backend.health));
    write_key(out, "metadata", endpoints::write_metadata(&backend.metadata));
    let Tls { ca, certificate, key, server_name } = &backend.tls;
    let file = |file: &Option<PathBuf>| file.as_ref().and_then(|file| FilePath.write(file));
    let pairs = [
        ("ca", file(ca)),
        ("certificate", file(certificate)),
        ("key", file(key)),
        ("server_name", server_name.as_ref().and_then(|name| SERVER_NAME.write(name))),
    ];
    write_key(out, "tls", write_table(pairs));
    let AuthorizeCalls { timeout, concurrency, queue, headers } = &backend.authorize;
    let pairs = [
        ("timeout", TIMER.write(timeout)),
        ("concurrency", CONCURRENCY.write(concurrency)),
        ("queue", QUEUE.write(queue)),
        ("headers", Some(list(headers.iter().map(|name| HEADER.write(name)).collect()))),
    ];
    write_key(out, "authorize", write_table(pairs));
}

/// A table inside a line, of those keys that have a value.
fn write_table<const N: usize>(pairs: [(&str, Option<String>); N]) -> Option<String> {
    let pair = |(key, value): (&str, Option<String>)| Some(format!("{key} = {}", value?));
    let pairs: Vec<String> = pairs.into_iter().filter_map(pair).collect();
    (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
}

/// What each key expects.
#[cfg(test)]
pub(crate) fn expectations() -> Vec<(&'static str, String)> {
    vec![
        ("name", NAME.expected()),
        ("endpoints", ENDPOINT.expected()),
        ("streams", STREAMS.expected()),
        ("partitions", PARTITIONS.expected()),
        ("window", WINDOW.expected()),
        ("window_bytes", WINDOW_BYTES.expected()),
        ("connection_window", CONNECTION_WINDOW.expected()),
        ("patience", TIMER.expected()),
        ("ack_timeout", TIMER.expected()),
        ("connect_timeout", TIMER.expected()),
        ("keep_alive", KEEP_ALIVE.to_owned()),
        ("backoff", BACKOFF.to_owned()),
        ("resolve", RESOLVE.expected()),
        ("health", Flag.expected()),
        ("metadata", endpoints::expected_metadata()),
        ("tls", TLS.to_owned()),
        ("authorize", AUTHORIZE.to_owned()),
    ]
}
