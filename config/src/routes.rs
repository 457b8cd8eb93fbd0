//! Owns the routes of the configuration: path, channels, what happens to what clients send, and their own bounds.
//! Refuses two routes that answer to the same paths. Read by the program, which makes rules for the shards of them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use toml::de::DeValue;

use crate::bus::{ON_BUS_LOSS, ON_GAP, OnBusLoss, OnGap};
use crate::forms::{Flag, Form, OneOf, Pattern, Time, Word, quoted};
use crate::inbound::{self, Inbound};
use crate::names::{BackendName, Origin, Origins, RouteName, Subprotocol};
use crate::patience;
use crate::reader::{Field, Reader, Spot};
use crate::schema::write_key;
use crate::sections::{FRAGMENTS, Heartbeat, PAYLOAD, WebSocket};
use crate::template::{ChannelTemplate, Part, PathPattern, Segment};
use crate::units::Bytes;

/// Most routes. A connection remembers its route in two bytes, and each route is a metric label.
pub const ROUTES_MAX: usize = 1024;
/// Most origins, subprotocols or channels in one route's list.
pub const ROUTE_LIST_MAX: usize = 256;

/// The sections whose keys hold for a route that does not say otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Inherited<'s> {
    pub(crate) websocket: &'s WebSocket,
    pub(crate) heartbeat: &'s Heartbeat,
}

/// A path pattern and what happens behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Different for every route.
    pub name: RouteName,
    /// The paths that lead here; no other route has the same.
    pub path: PathPattern,
    /// Channels a connection is in from the start.
    pub subscribe: Vec<ChannelTemplate>,
    /// What happens to what a client sends.
    pub inbound: Inbound,
    /// The backend that decides who comes in. `None`: everybody who asks rightly.
    pub authorize: Option<BackendName>,
    /// Whether a publisher that is in the channel does not hear itself.
    pub exclude_self: bool,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Subprotocols the route speaks. A client gets the first of its own list that is here; none here, none chosen.
    pub subprotocols: Vec<Subprotocol>,
    /// Longest message from a client; where the route is silent, that of `[websocket]`.
    pub message_bytes: Bytes,
    /// Longest payload of one data frame from a client; where the route is silent, that of `[websocket]`.
    pub frame_bytes: Bytes,
    /// Most data frames in one message from a client; where the route is silent, that of `[websocket]`.
    pub fragments: NonZeroU32,
    /// How silence is told from death; where the route is silent, as in `[heartbeat]`.
    pub heartbeat: Heartbeat,
    /// Without a message either way for so long, a connection is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection this old is asked to come again. `None`: never.
    pub max_age: Option<Duration>,
    /// Up to so much is added to the maximum age, for each connection its own part; a tenth where the route is silent.
    pub max_age_jitter: Duration,
    /// Messages that are answered at once and go nowhere, each with its answer.
    pub auto_reply: Vec<AutoReply>,
    /// What gives way when a client takes its channels' messages too slowly.
    pub slow_consumer: SlowConsumer,
    /// What becomes of what its clients send while the bus is away.
    pub on_bus_loss: OnBusLoss,
    /// What becomes of its connections after that.
    pub on_gap: OnGap,
    /// What messages from the bus are to its clients that do not say so themselves.
    pub kind: PayloadKind,
}

/// A message and what is answered to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoReply {
    /// The whole message.
    pub question: String,
    /// The whole answer; text to text, binary to binary.
    pub answer: String,
}

/// What gives way when the backlog of a connection is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// The connection.
    Close,
    /// The message that comes.
    DropNewest,
    /// The messages that have waited longest.
    DropOldest,
    /// What waits of a channel, as soon as there is something newer of it.
    KeepLatest,
}

/// What a message is that does not say so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Text when it is UTF-8, else binary.
    Auto,
    /// Text; what is not UTF-8 is not delivered.
    Text,
    /// Binary.
    Binary,
}

pub(crate) const KEYS: &[&str] = &[
    "name",
    "path",
    "subscribe",
    "inbound",
    "authorize",
    "exclude_self",
    "origins",
    "subprotocols",
    "message_bytes",
    "frame_bytes",
    "fragments",
    "heartbeat",
    "idle_timeout",
    "max_age",
    "max_age_jitter",
    "auto_reply",
    "slow_consumer",
    "on_bus_loss",
    "on_gap",
    "kind",
];

const NAME: Word<RouteName> =
    Word { expected: "a name of [a-z0-9_-]{1,63}, such as \"rooms\"", parse: RouteName::parse };

pub(crate) const BACKEND_NAME: Word<BackendName> =
    Word { expected: "the name of a [[backend]], such as \"chat\"", parse: BackendName::parse };

const PATH: Pattern<PathPattern> = Pattern {
    expected: "a path of literal segments and {variables}, such as \"/rooms/{room}\"",
    parse: PathPattern::parse,
};

const ORIGIN: Word<Origin> = Word {
    expected: "\"*\" alone, or origins such as \"https://example.org\" and \"https://*.example.org\"",
    parse: Origin::parse,
};

const SUBPROTOCOL: Word<Subprotocol> = Word {
    expected: "a token of at most 64 letters, digits and !#$%&'*+-.^_`|~, such as \"v1.chat\"",
    parse: Subprotocol::parse,
};

const SLOW_CONSUMER: OneOf<SlowConsumer> = OneOf(&[
    ("close", SlowConsumer::Close),
    ("drop_newest", SlowConsumer::DropNewest),
    ("drop_oldest", SlowConsumer::DropOldest),
    ("keep_latest", SlowConsumer::KeepLatest),
]);

const KIND: OneOf<PayloadKind> =
    OneOf(&[("auto", PayloadKind::Auto), ("text", PayloadKind::Text), ("binary", PayloadKind::Binary)]);

/// Longest idle time and age: from one tick to a month.
const LIFE: Time = Time { min: Duration::from_millis(100), max: Duration::from_secs(720 * 3600) };
const JITTER: Time = Time { min: Duration::ZERO, max: Duration::from_secs(720 * 3600) };

const RESERVED: &str = "another first token than \"user\", which is kept for the channels of users";

/// A template whose variables are those of a path. Without a path, which then is a mistake already, any will do.
pub(crate) struct Template<'p> {
    path: Option<&'p PathPattern>,
}

impl Form<ChannelTemplate> for Template<'_> {
    fn expected(&self) -> String {
        ChannelTemplate::EXPECTED.to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<ChannelTemplate, String> {
        let text = value.as_str().ok_or_else(|| self.expected())?;
        let template = ChannelTemplate::parse(text)?;
        if template.is_reserved() {
            return Err(RESERVED.to_owned());
        }
        match self.path.and_then(|path| template.stranger(path).zip(Some(path))) {
            Some((name, path)) => Err(format!("only variables of the path {path}, which has no {{{name}}}")),
            None => Ok(template),
        }
    }

    fn write(&self, value: &ChannelTemplate) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// The routes of the text, or the built-in ones where it has none.
pub(crate) fn read(reader: &mut Reader<'_>, from: Inherited<'_>) -> Vec<Route> {
    let Some(value) = reader.root_value("route") else { return built_in(from) };
    let tables = match value.get_ref().as_array() {
        Some(tables) if (1..=ROUTES_MAX).contains(&tables.len()) => tables,
        _ => {
            let expected = format!("1 to {ROUTES_MAX} tables, each written [[route]] in double brackets");
            reader.refuse::<()>("route", value, expected);
            return Vec::new();
        }
    };
    let mut routes = Vec::with_capacity(tables.len());
    // Noted apart from the routes: one that is otherwise refused must still not hide that its name is taken.
    let mut taken = BTreeMap::new();
    for (position, value) in tables.iter().enumerate() {
        let prefix = format!("route[{position}]");
        match reader.table(prefix.clone(), value, KEYS) {
            Some(spot) => routes.push(read_route(reader, &spot, from, &mut taken)),
            None => {
                reader.refuse::<()>(&prefix, value, "a table, written [[route]]".to_owned());
                routes.push(bare(from));
            }
        }
    }
    routes
}

/// Reads one route. Like a section's key, what is missing or refused takes a harmless value: the mistake is noted, so
/// nobody sees these settings, and the checks between keys still find each route at its position.
fn read_route<'t>(
    reader: &mut Reader<'t>,
    spot: &Spot<'t>,
    from: Inherited<'_>,
    taken: &mut BTreeMap<String, String>,
) -> Route {
    let name = reader.required(spot, "name", &NAME);
    let path = reader.required(spot, "path", &PATH);
    if let Some(name) = &name {
        unshared(reader, spot, "name", name.to_string(), taken);
    }
    if let Some(path) = &path {
        // The shape of a path begins with a slash, or is empty: no route is called so.
        unshared(reader, spot, "path", path.shape(), taken);
    }
    let template = Template { path: path.as_ref() };
    let bare = bare(from);
    let max_age = reader.field(spot, "max_age", &LIFE).read();
    Route {
        subscribe: reader.list(spot, "subscribe", &template, ROUTE_LIST_MAX).or(bare.subscribe),
        inbound: inbound::read(reader, spot, &template).unwrap_or(bare.inbound),
        authorize: reader.field(spot, "authorize", &BACKEND_NAME).read(),
        exclude_self: reader.field(spot, "exclude_self", &Flag).or(bare.exclude_self),
        origins: read_origins(reader, spot),
        subprotocols: reader.list(spot, "subprotocols", &SUBPROTOCOL, ROUTE_LIST_MAX).or(bare.subprotocols),
        message_bytes: reader.field(spot, "message_bytes", &PAYLOAD).or(bare.message_bytes),
        frame_bytes: reader.field(spot, "frame_bytes", &PAYLOAD).or(bare.frame_bytes),
        fragments: reader.field(spot, "fragments", &FRAGMENTS).or(bare.fragments),
        heartbeat: patience::read(reader, spot, from.heartbeat),
        idle_timeout: reader.field(spot, "idle_timeout", &LIFE).read(),
        max_age,
        max_age_jitter: reader.field(spot, "max_age_jitter", &JITTER).or(tenth(max_age)),
        auto_reply: patience::read_auto_reply(reader, spot),
        slow_consumer: reader.field(spot, "slow_consumer", &SLOW_CONSUMER).or(bare.slow_consumer),
        on_bus_loss: reader.field(spot, "on_bus_loss", &ON_BUS_LOSS).or(bare.on_bus_loss),
        on_gap: reader.field(spot, "on_gap", &ON_GAP).or(bare.on_gap),
        kind: reader.field(spot, "kind", &KIND).or(bare.kind),
        name: name.unwrap_or(bare.name),
        path: path.unwrap_or(bare.path),
    }
}

/// The jitter of a maximum age that says nothing of it. In whole milliseconds, as settings are written.
fn tenth(max_age: Option<Duration>) -> Duration {
    max_age.map_or(Duration::ZERO, |age| Duration::from_millis(age.as_millis() as u64 / 10))
}

/// A route of which nothing is said.
fn bare(from: Inherited<'_>) -> Route {
    let websocket = from.websocket;
    Route {
        name: RouteName::built_in("route"),
        path: PathPattern { segments: Vec::new() },
        subscribe: Vec::new(),
        inbound: Inbound::Ignore,
        authorize: None,
        exclude_self: false,
        origins: Origins::Any,
        subprotocols: Vec::new(),
        message_bytes: websocket.message_bytes,
        frame_bytes: websocket.frame_bytes,
        fragments: websocket.fragments,
        heartbeat: from.heartbeat.clone(),
        idle_timeout: None,
        max_age: None,
        max_age_jitter: Duration::ZERO,
        auto_reply: Vec::new(),
        slow_consumer: SlowConsumer::Close,
        on_bus_loss: OnBusLoss::Pause,
        on_gap: OnGap::Ignore,
        kind: PayloadKind::Auto,
    }
}

/// Notes a name or a shape of path that an earlier route has.
fn unshared<'t>(
    reader: &mut Reader<'t>,
    spot: &Spot<'t>,
    key: &str,
    identity: String,
    taken: &mut BTreeMap<String, String>,
) {
    let here = spot.path(key);
    let Some(earlier) = taken.get(&identity) else {
        taken.insert(identity, here);
        return;
    };
    let line = reader.line_of(earlier).unwrap_or_default();
    let expected = match key {
        "name" => format!("a name of its own: {earlier} on line {line} is the same"),
        _ => format!("paths of its own: {earlier} on line {line} matches the same"),
    };
    if let Some(value) = reader.value(spot, key) {
        reader.refuse::<()>(&here, value, expected);
    }
}

fn read_origins<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Origins {
    let list = reader.value(spot, "origins").and_then(|value| value.get_ref().as_array());
    if list.is_some_and(|list| list.len() == 1 && list[0].get_ref().as_str() == Some("*")) {
        return Origins::Any;
    }
    match reader.list(spot, "origins", &ORIGIN, ROUTE_LIST_MAX) {
        Field::Read(origins) => Origins::Only(origins),
        Field::Absent | Field::Refused => Origins::Any,
    }
}

/// What a gateway without a file offers: rooms to talk in, and an echo to try a client with.
fn built_in(from: Inherited<'_>) -> Vec<Route> {
    let literal = |text: &str| Segment::Literal(text.to_owned());
    let room = || ChannelTemplate {
        parts: vec![Part::Literal("room".to_owned()), Part::Variable("room".to_owned())],
    };
    let route = |name, segments, subscribe, inbound| Route {
        name: RouteName::built_in(name),
        path: PathPattern { segments },
        subscribe,
        inbound,
        ..bare(from)
    };
    let rooms = vec![literal("rooms"), Segment::Variable("room".to_owned())];
    vec![
        route("rooms", rooms, vec![room()], Inbound::Publish(room())),
        route("echo", vec![literal("echo")], Vec::new(), Inbound::Echo),
    ]
}

/// Appends one route as TOML. What it inherits stays inherited: a reader of the result may change `[websocket]`.
pub(crate) fn write(route: &Route, from: Inherited<'_>, out: &mut String) {
    let websocket = from.websocket;
    let template = Template { path: Some(&route.path) };
    let origins = match &route.origins {
        Origins::Any => "[\"*\"]".to_owned(),
        Origins::Only(origins) => write_list(origins, &ORIGIN),
    };
    out.push_str("\n[[route]]\n");
    write_key(out, "name", NAME.write(&route.name));
    write_key(out, "path", PATH.write(&route.path));
    write_key(out, "subscribe", Some(write_list(&route.subscribe, &template)));
    write_key(out, "inbound", Some(inbound::write(&route.inbound)));
    write_key(out, "authorize", route.authorize.as_ref().and_then(|name| BACKEND_NAME.write(name)));
    write_key(out, "exclude_self", Flag.write(&route.exclude_self));
    write_key(out, "origins", Some(origins));
    write_key(out, "subprotocols", Some(write_list(&route.subprotocols, &SUBPROTOCOL)));
    let own = |differs: bool, value: Option<String>| value.filter(|_| differs);
    let (message, frame) = (&route.message_bytes, &route.frame_bytes);
    write_key(out, "message_bytes", own(*message != websocket.message_bytes, PAYLOAD.write(message)));
    write_key(out, "frame_bytes", own(*frame != websocket.frame_bytes, PAYLOAD.write(frame)));
    write_key(
        out,
        "fragments",
        own(route.fragments != websocket.fragments, FRAGMENTS.write(&route.fragments)),
    );
    write_key(out, "heartbeat", patience::write(&route.heartbeat, from.heartbeat));
    write_key(out, "idle_timeout", route.idle_timeout.and_then(|time| LIFE.write(&time)));
    write_key(out, "max_age", route.max_age.and_then(|time| LIFE.write(&time)));
    let jitter = &route.max_age_jitter;
    write_key(out, "max_age_jitter", own(*jitter != tenth(route.max_age), JITTER.write(jitter)));
    write_key(out, "auto_reply", patience::write_auto_reply(&route.auto_reply));
    write_key(out, "slow_consumer", SLOW_CONSUMER.write(&route.slow_consumer));
    write_key(out, "on_bus_loss", ON_BUS_LOSS.write(&route.on_bus_loss));
    write_key(out, "on_gap", ON_GAP.write(&route.on_gap));
    write_key(out, "kind", KIND.write(&route.kind));
}

fn write_list<T>(values: &[T], form: &impl Form<T>) -> String {
    let values: Vec<String> = values.iter().filter_map(|value| form.write(value)).collect();
    format!("[{}]", values.join(", "))
}

/// What each key expects.
#[cfg(test)]
pub(crate) fn expectations() -> Vec<(&'static str, String)> {
    vec![
        ("name", NAME.expected()),
        ("path", PATH.expected()),
        ("subscribe", ChannelTemplate::EXPECTED.to_owned()),
        ("inbound", inbound::EXPECTED.to_owned()),
        ("authorize", BACKEND_NAME.expected()),
        ("exclude_self", Flag.expected()),
        ("origins", ORIGIN.expected()),
        ("subprotocols", SUBPROTOCOL.expected()),
        ("message_bytes", PAYLOAD.expected()),
        ("frame_bytes", PAYLOAD.expected()),
        ("fragments", FRAGMENTS.expected()),
        ("heartbeat", patience::HEARTBEAT.to_owned()),
        ("idle_timeout", LIFE.expected()),
        ("max_age", LIFE.expected()),
        ("max_age_jitter", JITTER.expected()),
        ("auto_reply", patience::expected_auto_reply()),
        ("slow_consumer", SLOW_CONSUMER.expected()),
        ("on_bus_loss", ON_BUS_LOSS.expected()),
        ("on_gap", ON_GAP.expected()),
        ("kind", KIND.expected()),
    ]
}
