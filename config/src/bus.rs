//! Owns `[bus]`, `[bus.nats]`, `[ready]` and what a route says about a bus that is away: what joins this node to others and
//! to app servers. Refuses passwords in addresses, where logs would show them: they are in files. Read by the program.

use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::forms::{Count, FilePath, Flag, List, OneOf, Optional, Pattern, Size, Word, quoted};
use crate::inbound::Inbound;
use crate::names::{is_host, split_port};
use crate::reader::Reader;
use crate::schema::section;
use crate::sections::{Settings, count};
use crate::units::Bytes;

/// Most servers of a bus.
pub const BUS_SERVERS_MAX: usize = 16;
/// Longest first token of subjects, in bytes.
pub const BUS_PREFIX_BYTES_MAX: usize = 32;

/// What joins nodes and app servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// Nothing: this node is the only one.
    Embedded,
    /// NATS.
    Nats,
    /// Redis.
    Redis,
}

const KINDS: OneOf<BusKind> =
    OneOf(&[("embedded", BusKind::Embedded), ("nats", BusKind::Nats), ("redis", BusKind::Redis)]);

/// First token of subjects: `[A-Za-z0-9_-]{1,32}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusPrefix(String);

impl BusPrefix {
    /// The prefix, when it fits the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        ((1..=BUS_PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits))
            .then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for BusPrefix {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

section! {
    /// `[bus]`
    Bus ["bus"]
    /// Which it is.
    kind: BusKind = BusKind::Embedded, KINDS;
    /// First token of all subjects: whoever shares a server must not share it by accident.
    prefix: BusPrefix = BusPrefix("gateway".to_owned()), Word {
        expected: "a name of [A-Za-z0-9_-]{1,32}, such as \"gateway\"",
        parse: BusPrefix::parse,
    };
    /// Inbound events are spread over so many subjects by connection; each is in order.
    partitions: NonZeroU32 = count(16), Count { min: 1, max: 1024 };
    /// Inbound events of the node that the bus has not taken. Full: their connections are not read.
    window: NonZeroU32 = count(16_384), Count { min: 1, max: 1_000_000 };
    /// Their payload bytes.
    window_bytes: Bytes = Bytes::mib(32), Size { min: Bytes::kib(64), max: Bytes::gib(1) };
    /// Messages of one connection among them.
    connection_window: NonZeroU32 = count(32), Count { min: 1, max: 65_535 };
    /// Publishes of clients that may wait for the bus. Full: their publishers are not read.
    queue: NonZeroU32 = count(16_384), Count { min: 16, max: 1_000_000 };
}

/// Where a NATS server is: `nats://host:port`, or `tls://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsServer(String);

impl NatsServer {
    const EXPECTED: &str = "nats://host:port, or tls://host:port for TLS, such as \"nats://127.0.0.1:4222\"";

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
        match rest.and_then(split_port) {
            Some((host, Some(_))) if is_host(host) => Ok(Self(text.to_owned())),
            _ => Err(Self::EXPECTED.to_owned()),
        }
    }

    /// Whether it asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("tls:")
    }
}

impl std::fmt::Display for NatsServer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

const SERVER: Pattern<NatsServer> = Pattern { expected: NatsServer::EXPECTED, parse: NatsServer::parse };

section! {
    /// `[bus.nats]`
    BusNats ["bus.nats"]
    /// Servers of one cluster; any of them will do.
    servers: Vec<NatsServer> = vec![NatsServer("nats://127.0.0.1:4222".to_owned())],
        List { each: SERVER, max: BUS_SERVERS_MAX };
    /// Whether inbound events go into JetStream, which keeps them until an app server has acknowledged them.
    jetstream: bool = false, Flag;
    /// A credentials file, as `nsc` makes them.
    credentials_file: Option<PathBuf> = None, Optional(FilePath);
    /// A file with the token.
    token_file: Option<PathBuf> = None, Optional(FilePath);
    /// A file with user and password, joined by a colon.
    user_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of the authorities that are believed. `None`: those of the system.
    ca_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of the certificate that we show.
    certificate_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of its key.
    key_file: Option<PathBuf> = None, Optional(FilePath);
}

/// What may be asked of a node before it calls itself ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Its bus.
    Bus,
}

section! {
    /// `[ready]`
    Ready ["ready"]
    /// What has to be there beside the node itself.
    requires: Vec<Requirement> = Vec::new(), List { each: OneOf(&[("bus", Requirement::Bus)]), max: 1 };
}

/// What becomes of what clients of a route send while the bus is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBusLoss {
    /// It waits, and then they do.
    Pause,
    /// It goes no farther than this node.
    Drop,
    /// Whoever sends something is closed.
    Close,
}

pub(crate) const ON_BUS_LOSS: OneOf<OnBusLoss> =
    OneOf(&[("pause", OnBusLoss::Pause), ("drop", OnBusLoss::Drop), ("close", OnBusLoss::Close)]);

/// What becomes of the connections of a route when the bus is back, because they may have missed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Nothing.
    Ignore,
    /// They are closed, one after the other, so that clients fetch what they missed.
    Close,
}

pub(crate) const ON_GAP: OneOf<OnGap> = OneOf(&[("ignore", OnGap::Ignore), ("close", OnGap::Close)]);

/// What must hold between these keys and others.
pub(crate) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    routes_find_app_servers(settings, reader);
    let nats = &settings.bus_nats;
    if nats.servers.is_empty() && settings.bus.kind == BusKind::Nats {
        let key = "bus.nats.servers";
        reader.contradiction(&[key, "bus.kind"], key, "[]".to_owned(), "at least one server".to_owned());
    }
    let ways = [
        ("bus.nats.credentials_file", &nats.credentials_file),
        ("bus.nats.token_file", &nats.token_file),
        ("bus.nats.user_file", &nats.user_file),
    ];
    let set: Vec<_> = ways.into_iter().filter(|(_, file)| file.is_some()).collect();
    if let [(first, _), (second, Some(file)), ..] = set[..] {
        let expected = format!("nothing, because {first} is set: one way to say who we are is enough");
        reader.contradiction(&[first, second], second, quoted(&file.to_string_lossy()), expected);
    }
    if nats.certificate_file.is_some() != nats.key_file.is_some() {
        let (there, missing) = if nats.key_file.is_some() {
            ("bus.nats.key_file", "bus.nats.certificate_file")
        } else {
            ("bus.nats.certificate_file", "bus.nats.key_file")
        };
        let expected = format!("the path of a file, because {there} is set, which is of no use alone");
        reader.contradiction(&[there, missing], missing, "nothing".to_owned(), expected);
    }
}

fn routes_find_app_servers(settings: &Settings, reader: &mut Reader<'_>) {
    if settings.bus.kind != BusKind::Embedded {
        return;
    }
    for (position, route) in settings.routes.iter().enumerate() {
        if route.inbound == Inbound::Bus {
            let key = format!("route[{position}].inbound");
            let expected = "something else, because no app server can listen on the embedded bus: set bus.kind, or tell \
                one over gRPC, as in { backend = \"chat\" }";
            reader.contradiction(&[&key, "bus.kind"], &key, quoted("bus"), expected.to_owned());
        }
    }
}
