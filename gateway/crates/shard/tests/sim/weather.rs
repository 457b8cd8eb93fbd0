//! The circumstances of a run: routes, intervals and bounds, roomy or tight, and how kind the kernel is.

use bridge::{Kind, Quota, Upstream};
use fastrand::Rng;
use shard::limit::rules::{Action, ConnectionLimit, LimitRules, PeerLimits, PeerRules, Refuse};
use shard::limit::{GateSizes, Network, Networks, Rate};
use shard::rules::{Authorizer, Inbound, Life, OnBusLoss, Piece, Route, Segment, SlowConsumer, Template};
use shard::trust::Trust;
use shard::{Rules, Sizes};
use store::QueueLimit;
use wire::ws::Limits;

use crate::proxied::Proxies;

/// Rooms of the random run.
pub(crate) const ROOMS: [&str; 4] = ["a", "b", "c", "d"];
/// Payload bytes of a message to a room; its frames may hold half.
pub(crate) const ROOM_MESSAGE_BYTES: usize = 8192;

/// The circumstances.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) rules: Rules,
    /// What a shard may hand to each upstream.
    pub(crate) upstreams: Vec<Quota>,
    pub(crate) gate_connections: u32,
    pub(crate) handshakes: u32,
    pub(crate) connections: u32,
    pub(crate) channels: u32,
    pub(crate) backlog_entries: u32,
    pub(crate) backlog_bytes: u64,
    pub(crate) mailbox_commands: usize,
    pub(crate) mailbox_bytes: usize,
    /// There is a bus beyond the node, which carries payloads of so many bytes.
    pub(crate) bus_carries: Option<usize>,
    pub(crate) outbox_events: usize,
    pub(crate) events_per_poll: usize,
    pub(crate) talkative: bool,
    pub(crate) stutters: bool,
    /// Which proxies are believed.
    pub(crate) proxies: Proxies,
    /// Even a client that reads may be closed for its backlog.
    pub(crate) is_tight: bool,
    /// What clients send may be dropped for a rate.
    pub(crate) drops: bool,
    /// Networks are blocked now and then.
    pub(crate) blocks: bool,
    /// Clients may be refused or closed for limits of theirs, or of their peer.
    pub(crate) is_strict: bool,
}

/// How long connections live that may live for ever.
pub(crate) const LIFE: Life =
    Life { ping_ticks: 30, pong_ticks: 20, idle_ticks: None, age_ticks: None, jitter_ticks: 0 };

/// An upstream that takes all there is.
pub(crate) const GENEROUS: Quota =
    Quota { partitions: 4, events: 1000, bytes: 1 << 20, connection_events: 32, patience_ticks: 600 };

fn guard() -> Option<Authorizer> {
    Some(Authorizer { upstream: Upstream(0), headers: ["cookie".into()].into() })
}

fn room() -> Template {
    Template(vec![Piece::Literal("room.".into()), Piece::Variable(0)])
}

fn route(path: &[&str], subscribes: bool, inbound: Inbound, limits: Limits) -> Route {
    let segment = |part: &&str| match *part {
        "*" => Segment::Variable,
        text => Segment::Literal(text.into()),
    };
    Route {
        name: path[0].into(),
        path: path.iter().map(segment).collect(),
        subscribe: if subscribes { vec![room()] } else { Vec::new() },
        exclude_self: path[0] == "quiet",
        inbound,
        authorize: None,
        origins: Vec::new(),
        protocols: Vec::new(),
        limits,
        life: LIFE,
        auto_replies: Vec::new(),
        slow_consumer: SlowConsumer::Close,
        on_bus_loss: OnBusLoss::default(),
        kind: None,
    }
}

/// `/room/*` talks and listens, `/quiet/*` does not hear itself, `/say/*` only talks, `/hear/*` only listens, `/door/*` is
/// a room that one has to be let into, `/app/*` tells app servers, `/member/*` does when one was let in.
pub(crate) fn rules() -> Rules {
    let small =
        Limits { message_bytes: ROOM_MESSAGE_BYTES, frame_bytes: ROOM_MESSAGE_BYTES / 2, fragments: 6 };
    let large = Limits { message_bytes: 200_000, frame_bytes: 150_000, fragments: 6 };
    Rules {
        routes: vec![
            route(&["room", "*"], true, Inbound::Publish(room()), small),
            route(&["quiet", "*"], true, Inbound::Publish(room()), small),
            route(&["say", "*"], false, Inbound::Publish(room()), small),
            route(&["hear", "*"], true, Inbound::Ignore, small),
            route(&["echo"], false, Inbound::Echo, large),
            route(&["app", "*"], false, Inbound::Upstream(Upstream(0)), small),
            Route { authorize: guard(), ..route(&["door", "*"], true, Inbound::Publish(room()), small) },
            Route {
                authorize: guard(),
                ..route(&["member", "*"], false, Inbound::Upstream(Upstream(0)), small)
            },
        ],
        handshake_ticks: 30,
        close_ticks: 20,
        linger_ticks: 10,
        head_bytes: 1024,
        subscriptions: 4,
        backlog: QueueLimit { entries: 100_000, bytes: 64 << 20 },
        trust: Trust::default(),
        limits: LimitRules::default(),
    }
}

/// The channel that messages of clients on this path go to.
pub(crate) fn publishes_to(path: &str) -> Option<String> {
    let talks = ["/room/", "/quiet/", "/say/", "/door/"];
    talks.iter().find_map(|start| path.strip_prefix(start)).map(|room| format!("room.{room}"))
}

/// The channel that clients on this path are in from the start.
pub(crate) fn subscribed_by(path: &str) -> Option<String> {
    let listens = ["/room/", "/quiet/", "/hear/", "/door/"];
    listens.iter().find_map(|start| path.strip_prefix(start)).map(|room| format!("room.{room}"))
}

impl Weather {
    /// How big the tables of a shard are.
    pub(crate) const fn sizes(&self) -> Sizes {
        Sizes {
            connections: self.connections,
            channels: self.channels,
            subscriptions: 1000,
            backlog_entries: self.backlog_entries,
        }
    }
}

/// Limits that a lively client exceeds, and whether something is dropped for them.
fn limits(rng: &mut Rng) -> (LimitRules, bool) {
    let action = |rng: &mut Rng| match rng.u8(..8) {
        0 => Action::Close,
        1..5 => Action::Drop,
        _ => Action::Pause,
    };
    // Now and then so low that a few words at once are too much, and high enough for the rest at the end to suffice.
    let is_low = rng.bool();
    let mut rate = |least: u32| match is_low {
        true => Rate::new(rng.u32(20..40), rng.u32(4..8)),
        false => Rate::new(rng.u32(least..300), rng.u32(least..100)),
    };
    let (own, connects, messages, bytes) = (rate(20), rate(5), rate(40), rate(40));
    let bytes = rng.bool().then(|| Rate::new(20_000, 30_000)).filter(|_| bytes != own);
    let connection = ConnectionLimit { messages: own, action: action(rng), dry_run: rng.bool() };
    let peers_action = action(rng);
    let everybody = PeerLimits {
        connections: rng.bool().then(|| rng.u32(2..8)),
        connects: rng.bool().then_some(connects),
        messages: (peers_action == Action::Drop || rng.bool()).then_some(messages),
        bytes,
        is_blocked: false,
    };
    let network = Network::new([10, 0, 0, 2].into(), 31).unwrap();
    let peers = PeerRules {
        classes: vec![everybody, PeerLimits::default()],
        networks: Networks::new(&[(network, 1)]),
        refuse: if rng.bool() { Refuse::Answer } else { Refuse::Close },
        action: peers_action,
        dry_run: rng.u8(..4) == 0,
    };
    let connection = rng.bool().then_some(connection);
    let drops = (peers.action == Action::Drop && !peers.dry_run)
        || connection.is_some_and(|limit| limit.action == Action::Drop && !limit.dry_run);
    (LimitRules::new(connection, peers), drops)
}

impl Weather {
    /// Room for everything.
    pub(crate) fn fair() -> Self {
        Self {
            rules: rules(),
            upstreams: vec![GENEROUS],
            gate_connections: 1000,
            handshakes: 1000,
            connections: 1000,
            channels: 100,
            backlog_entries: 100_000,
            backlog_bytes: 64 << 20,
            mailbox_commands: 1000,
            mailbox_bytes: 64 << 20,
            bus_carries: None,
            outbox_events: 100,
            events_per_poll: 1024,
            talkative: false,
            stutters: false,
            proxies: Proxies::default(),
            is_tight: false,
            drops: false,
            blocks: false,
            is_strict: false,
        }
    }

    pub(crate) fn gate_sizes(&self) -> GateSizes {
        let (connections, handshakes) = (self.gate_connections, self.handshakes);
        GateSizes { connections, handshakes, recent_peers: 20, ipv6_prefix: 64 }
    }

    /// What gives way for a client on this path.
    pub(crate) fn policy(&self, path: &str) -> SlowConsumer {
        let route = self.rules.route(path);
        route.map_or(SlowConsumer::Close, |(route, _)| self.rules.routes[usize::from(route)].slow_consumer)
    }

    /// What messages are to a client on this path that do not say so themselves.
    pub(crate) fn kind(&self, path: &str) -> Option<Kind> {
        self.rules.route(path).and_then(|(route, _)| self.rules.routes[usize::from(route)].kind)
    }

    /// Whether some route has a mind of its own about that.
    pub(crate) fn has_kinds(&self) -> bool {
        self.rules.routes.iter().any(|route| route.kind.is_some())
    }

    /// How long a client on this path may live.
    pub(crate) fn life(&self, path: &str) -> Life {
        self.rules.route(path).map_or(LIFE, |(route, _)| self.rules.routes[usize::from(route)].life)
    }

    /// Any.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut weather = Self::fair();
        weather.is_tight = rng.bool();
        if weather.is_tight {
            weather.rules.backlog = QueueLimit { entries: rng.u32(2..40), bytes: rng.u32(1000..40_000) };
            weather.backlog_entries = rng.u32(4..200);
            weather.backlog_bytes = rng.u64(2000..100_000);
        }
        for route in &mut weather.rules.routes {
            if rng.bool() {
                let policies = [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::KeepLatest];
                route.slow_consumer = policies[rng.usize(..3)];
            }
            if rng.u8(..4) == 0 {
                route.kind = Some([Kind::Text, Kind::Binary][rng.usize(..2)]);
            }
            if rng.u8(..4) > 0 {
                continue;
            }
            route.life = Life {
                ping_ticks: rng.u32(5..40),
                pong_ticks: rng.u32(10..30),
                idle_ticks: rng.bool().then(|| rng.u32(10..100)),
                age_ticks: rng.bool().then(|| rng.u32(20..300)),
                jitter_ticks: rng.u32(..100),
            };
        }
        if rng.bool() {
            weather.gate_connections = rng.u32(4..30);
            weather.handshakes = rng.u32(2..10);
        }
        if rng.bool() {
            weather.connections = rng.u32(3..20);
            weather.channels = rng.u32(1..8);
        }
        if rng.bool() {
            weather.mailbox_commands = rng.usize(1..12);
            weather.mailbox_bytes = rng.usize(100..20_000);
        }
        weather.proxies = Proxies::random(rng);
        weather.rules.trust = weather.proxies.trust();
        if rng.bool() {
            (weather.rules.limits, weather.drops) = limits(rng);
            weather.is_strict = true;
        }
        if rng.bool() {
            weather.upstreams = vec![Quota {
                partitions: rng.u16(1..4),
                events: rng.u32(1..10),
                bytes: rng.u32(1..20_000),
                connection_events: rng.u16(1..5),
                patience_ticks: rng.u32(20..300),
            }];
        }
        weather.blocks = rng.u8(..3) == 0;
        weather.outbox_events = rng.usize(1..20);
        weather.events_per_poll = if rng.bool() { 1024 } else { rng.usize(1..6) };
        (weather.talkative, weather.stutters) = (rng.bool(), rng.bool());
        weather
    }
}
