//! Owns the sections of the configuration: every key once, with its type, default and allowed range.
//! Refuses keys for what is not built. Read by the whole program; the same keys are explained in `gateway.toml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::backends;
use crate::bus::{Bus, BusNats, Ready};
use crate::forms::{
    Address, AutoOr, Count, FilePath, Flag, List, Number, OneOf, Optional, OrAuto, Pattern, Size, Time, Word,
};
use crate::limits::{ConnectionLimits, NodeLimits, PeerLimits};
use crate::names::{LogFilter, NodeName};
use crate::network_limits;
use crate::networks::{self, NETWORKS_MAX, Network};
use crate::reader::Reader;
use crate::redis::BusRedis;
use crate::routes::{self, Inherited};
use crate::schema::{section, settings};
use crate::units::Bytes;

settings! {
    /// Everything an operator can choose, checked and typed. Made by [`crate::load`] or by `default`.
    Settings {
        /// Who this node is.
        node: Node,
        /// Where WebSocket clients connect.
        listen: Listen,
        /// Whose word is taken for who the peer is.
        trust: Trust,
        /// How many shards there are, and how they hold descriptors.
        shards: Shards,
        /// Bounds of the node and of one connection.
        limits: Limits,
        /// What the node as a whole may hold, counts apart.
        node_limits: NodeLimits,
        /// What one connection may send.
        connection_limits: ConnectionLimits,
        /// What one peer may do.
        peer_limits: PeerLimits,
        /// Bounds of what one client may send; each route may have its own.
        websocket: WebSocket,
        /// How silence is told from death.
        heartbeat: Heartbeat,
        /// How long each step of a connection may take.
        timeouts: Timeouts,
        /// Frames that wait for slow sockets.
        backlog: Backlog,
        /// The queue into a shard.
        mailbox: Mailbox,
        /// The listener shared by the health, api and admin roles.
        http: Http,
        /// The health role.
        health: Health,
        /// The api role.
        api: Api,
        /// The admin role.
        admin: Admin,
        /// What app servers ask over gRPC.
        grpc: Grpc,
        /// What is kept for whoever asks later.
        inspection: Inspection,
        /// What is logged, and how.
        log: Log,
        /// Ending gracefully.
        drain: Drain,
        /// What joins this node to others and to app servers.
        bus: Bus,
        /// How NATS is reached.
        bus_nats: BusNats,
        /// How Redis is reached.
        bus_redis: BusRedis,
        /// What the node asks for before it calls itself ready.
        ready: Ready,
    }
}

section! {
    /// `[node]`
    Node ["node"]
    /// Unique among nodes that share a bus. Auto: the host name, made fit by [`NodeName::fit`].
    name: AutoOr<NodeName> = AutoOr::Auto,
        OrAuto(Word { expected: "a name of [A-Za-z0-9_-]{1,32}, such as \"node-1\"", parse: NodeName::parse });
}

section! {
    /// `[listen]`
    Listen ["listen"]
    /// Every shard listens here; the kernel spreads connections among them. Port 0: the kernel picks one.
    address: SocketAddr = loopback(8080), Address;
    /// Connections the kernel holds for each shard until it accepts them. The kernel cuts it to `somaxconn`.
    backlog: NonZeroU32 = count(4096), Count { min: 1, max: 1_000_000 };
    /// What the kernel takes of a connection's bytes before it has sent them; the rest waits in the backlog.
    notsent_lowat: Bytes = Bytes::kib(16), Size { min: Bytes::kib(1), max: Bytes::gib(1) };
    /// Whether connections from [`Trust::networks`] begin with a PROXY header (version 1 or 2), and no others.
    proxy_protocol: bool = false, SWITCH;
}

const SWITCH: OneOf<bool> = OneOf(&[("off", false), ("on", true)]);

/// Which header field a trusted proxy tells the peer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHeader {
    /// None.
    None,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

const PEER_HEADERS: OneOf<PeerHeader> = OneOf(&[
    ("none", PeerHeader::None),
    ("forwarded", PeerHeader::Forwarded),
    ("x-forwarded-for", PeerHeader::XForwardedFor),
]);

section! {
    /// `[trust]`
    Trust ["trust"]
    /// Proxies that are believed when they say whom a connection comes from. Empty: nobody is.
    networks: Vec<Network> = Vec::new(), List { each: NETWORK, max: NETWORKS_MAX };
    /// The header field they say it in.
    header: PeerHeader = PeerHeader::None, PEER_HEADERS;
}

const NETWORK: Pattern<Network> = Pattern { expected: networks::EXPECTED, parse: Network::parse };

/// Most shards in a node. Who must tell a message's shards from the others keeps one bit for each of so many.
pub const SHARDS_MAX: u32 = 128;

section! {
    /// `[shards]`
    Shards ["shards"]
    /// Threads that serve connections. Auto: one for each core, at most [`SHARDS_MAX`].
    count: AutoOr<NonZeroU32> = AutoOr::Auto, OrAuto(Count { min: 1, max: SHARDS_MAX });
    /// Whether each shard has a descriptor table of its own, so that the descriptor limit counts for each shard.
    own_descriptors: bool = false, Flag;
}

section! {
    /// `[limits]`
    Limits ["limits"]
    /// Connections of the whole node. Auto: what the descriptor limit allows.
    connections: AutoOr<NonZeroU32> = AutoOr::Auto, OrAuto(Count { min: 1, max: 100_000_000 });
    /// Connections of the whole node that have not finished their handshake; one more is refused with 503.
    handshakes: NonZeroU32 = count(20_000), Count { min: 1, max: 100_000_000 };
    /// Longest head of a handshake request, request line and headers together.
    head_bytes: Bytes = Bytes::kib(8), Size { min: Bytes::new(256), max: Bytes::kib(64) };
    /// Channels one connection may be in.
    subscriptions_per_connection: NonZeroU32 = count(64), Count { min: 1, max: 65_535 };
    /// Channels of one shard that have a subscriber.
    channels: NonZeroU32 = count(1_000_000), Count { min: 1, max: 100_000_000 };
}

/// What `message_bytes` and `frame_bytes` may be, here and in a route.
pub(crate) const PAYLOAD: Size = Size { min: Bytes::new(1), max: Bytes::gib(1) };
/// What `fragments` may be, here and in a route.
pub(crate) const FRAGMENTS: Count = Count { min: 1, max: 1_000_000 };

section! {
    /// `[websocket]`
    WebSocket ["websocket"]
    /// Longest message from a client, all fragments together; a longer one closes 1009.
    message_bytes: Bytes = Bytes::mib(1), PAYLOAD;
    /// Longest payload of one data frame from a client; a longer one closes 1009.
    frame_bytes: Bytes = Bytes::mib(1), PAYLOAD;
    /// Most data frames in one message from a client; one more closes 1009.
    fragments: NonZeroU32 = count(1024), FRAGMENTS;
}

/// From one tick of the shards' clock to what their timer wheel holds with room to spare.
pub(crate) const TIMER: Time = Time { min: Duration::from_millis(100), max: Duration::from_secs(3600) };

section! {
    /// `[heartbeat]`
    Heartbeat ["heartbeat"]
    /// Silence after which a connection is sent a ping.
    interval: Duration = Duration::from_secs(25), TIMER;
    /// Silence after the ping that ends the connection.
    pong_deadline: Duration = Duration::from_secs(20), TIMER;
}

section! {
    /// `[timeouts]`
    Timeouts ["timeouts"]
    /// From accept to the end of the handshake.
    handshake: Duration = Duration::from_secs(10), TIMER;
    /// From our close frame to the client's.
    close: Duration = Duration::from_secs(5), TIMER;
    /// From the end of the conversation to the client's end of the stream.
    linger: Duration = Duration::from_secs(2), TIMER;
}

section! {
    /// `[backlog]`
    Backlog ["backlog"]
    /// Frames that may wait for one connection; one more closes 1013.
    frames: NonZeroU32 = count(512), Count { min: 1, max: 1_000_000 };
    /// Bytes that may wait for one connection; more closes 1013. At least the longest message it may be sent.
    bytes: Bytes = Bytes::mib(1), Size { min: Bytes::kib(1), max: Bytes::gib(2) };
    /// Bytes that may wait in the whole node, each frame counted once for each shard that holds it.
    node_bytes: Bytes = Bytes::mib(256), Size { min: Bytes::mib(1), max: Bytes::gib(1024) };
}

section! {
    /// `[mailbox]`
    Mailbox ["mailbox"]
    /// Commands that may wait for one shard. Full: a publishing connection pauses, the API answers 503.
    commands: NonZeroU32 = count(4096), Count { min: 16, max: 1_000_000 };
}

section! {
    /// `[http]`
    Http ["http"]
    /// Where each role is served that has no address of its own.
    address: SocketAddr = loopback(8081), Address;
    /// Longest body of a request; a longer one is answered 413.
    request_bytes: Bytes = Bytes::mib(1), Size { min: Bytes::kib(1), max: Bytes::gib(1) };
}

section! {
    /// `[health]`
    Health ["health"]
    /// `None`: [`Http::address`]. See [`Settings::health_address`].
    address: Option<SocketAddr> = None, Optional(Address);
}

section! {
    /// `[api]`
    Api ["api"]
    /// `None`: [`Http::address`]. See [`Settings::api_address`].
    address: Option<SocketAddr> = None, Optional(Address);
    /// Lines of `token scope,scope`. `None`: no token is asked for, which only loopback allows.
    tokens_file: Option<PathBuf> = None, Optional(FilePath);
}

section! {
    /// `[admin]`
    Admin ["admin"]
    /// `None`: [`Http::address`]. See [`Settings::admin_address`].
    address: Option<SocketAddr> = None, Optional(Address);
    /// A file with the token. `None`: no token is asked for, which only loopback allows.
    token_file: Option<PathBuf> = None, Optional(FilePath);
}

section! {
    /// `[grpc]`
    Grpc ["grpc"]
    /// Where the gRPC service is. `None`: nowhere.
    address: Option<SocketAddr> = None, Optional(Address);
}

section! {
    /// `[inspection]`
    Inspection ["inspection"]
    /// Endings of connections that are kept in memory, the newest. 0: none.
    endings: u32 = 10_000, Number { min: 0, max: 1_000_000 };
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For human eyes.
    Text,
    /// One object per line.
    Json,
}

const LOG_FORMATS: OneOf<LogFormat> =
    OneOf(&[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)]);

section! {
    /// `[log]`
    Log ["log"]
    /// How lines look.
    format: LogFormat = LogFormat::Auto, LOG_FORMATS;
    /// Which lines there are.
    filter: LogFilter = LogFilter::default(), Word {
        expected: "comma-separated levels (off, error, warn, info, debug, trace) or target=level, \
            such as \"info,shard=debug\"",
        parse: LogFilter::parse,
    };
    /// Most lines about ended connections in one second; the others are only counted. 0: none.
    endings_per_second: u32 = 50, Number { min: 0, max: 1_000_000 };
}

section! {
    /// `[drain]`
    Drain ["drain"]
    /// From SIGTERM to the end of the process. Zero: at once.
    deadline: Duration = Duration::from_secs(10), Time { min: Duration::ZERO, max: Duration::from_secs(3600) };
    /// Of that, seconds in which the listeners go on accepting: balancers are late. At most half of it is used.
    accept_seconds: u32 = 0, Number { min: 0, max: 3600 };
}

impl Default for Settings {
    fn default() -> Self {
        Self::read(&mut Reader::empty())
    }
}

impl Settings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Self::read_sections(reader);
        settings.networks = network_limits::read(reader);
        settings.backends = backends::read(reader);
        let from = Inherited { websocket: &settings.websocket, heartbeat: &settings.heartbeat };
        settings.routes = routes::read(reader, from);
        settings
    }

    /// Where the health role is served.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health.address.unwrap_or(self.http.address)
    }

    /// Where the api role is served.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.api.address.unwrap_or(self.http.address)
    }

    /// Where the admin role is served.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address.unwrap_or(self.http.address)
    }

    /// The settings in force as TOML. [`crate::load`] makes equal settings of it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        self.write_sections(&mut out);
        for network in &self.networks {
            network_limits::write(network, &mut out);
        }
        for backend in &self.backends {
            backends::write(backend, &mut out);
        }
        let from = Inherited { websocket: &self.websocket, heartbeat: &self.heartbeat };
        for route in &self.routes {
            routes::write(route, from, &mut out);
        }
        out.trim_start().to_owned()
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Defaults are constants of this file, so zero is a mistake of ours.
pub(crate) fn count(number: u32) -> NonZeroU32 {
    debug_assert!(number > 0, "a default count is never zero");
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
