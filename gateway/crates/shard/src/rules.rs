//! What a shard obeys: routes, intervals and bounds, built once from the configuration and swapped whole.
//!
//! Owns the match of a request path to a route and the rendering of channel names; refuses to know TOML. A path
//! variable is one percent-decoded segment of `[A-Za-z0-9_-]{1,64}`: anything else matches no route, so that no path
//! can name a channel its operator did not mean.

use std::borrow::Cow;

use bridge::message::Kind;
use bridge::{Channel, Upstream};
use store::QueueLimit;
use wire::ws::Limits;
use wire::ws::handshake::OriginPattern;

use crate::limit::rules::LimitRules;
use crate::trust::Trust;

/// Most bytes of a path variable.
pub const VARIABLE_BYTES_MAX: usize = 64;
/// Most variables of one path.
pub const VARIABLES_MAX: usize = 8;

/// Everything that may change while running. Times are ticks of 100 ms.
#[derive(Clone, Debug)]
pub struct Rules {
    /// In the order of the configuration; their place is their number.
    pub routes: Vec<Route>,
    /// The request head must be complete within this.
    pub handshake_ticks: u32,
    /// Our close frame must be answered within this.
    pub close_ticks: u32,
    /// After the last byte the peer may take this long to hang up.
    pub linger_ticks: u32,
    /// Most bytes of a request head.
    pub head_bytes: usize,
    /// Most channels of one connection.
    pub subscriptions: u32,
    /// Bound of one connection's backlog.
    pub backlog: QueueLimit,
    /// Which proxies are believed when they name a peer. A connection keeps to what held when it was accepted.
    pub trust: Trust,
    /// How much connections and peers may do.
    pub limits: LimitRules,
}

/// A path pattern and what happens behind it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Metric label, log field.
    pub name: Box<str>,
    /// The pattern, without the leading slash.
    pub path: Vec<Segment>,
    /// Channels a connection is in from the start.
    pub subscribe: Vec<Template>,
    /// What happens to what it sends.
    pub inbound: Inbound,
    /// Who decides who comes in, if anybody does.
    pub authorize: Option<Authorizer>,
    /// Whether a publisher does not hear itself.
    pub exclude_self: bool,
    /// Who may connect from a browser.
    pub origins: Vec<OriginPattern>,
    /// Subprotocols it speaks.
    pub protocols: Vec<Box<str>>,
    /// Bounds of what it accepts.
    pub limits: Limits,
    /// What silence, idleness and age lead to.
    pub life: Life,
    /// Messages that are answered at once. Few: each message is compared with all of them.
    pub auto_replies: Vec<AutoReply>,
    /// What gives way when one of its connections is slow.
    pub slow_consumer: SlowConsumer,
    /// What becomes of its publishes while the bus is away. Nothing on the embedded bus, which never is.
    pub on_bus_loss: OnBusLoss,
    /// What a message from the bus is to its clients when it does not say so itself. `None`: what it looks like.
    pub kind: Option<Kind>,
}

/// What becomes of a publish that cannot leave the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBusLoss {
    /// It waits for the bus, and then its publisher does.
    #[default]
    Pause,
    /// Subscribers of this node get it, others do not.
    Drop,
    /// Its publisher is closed, 1013.
    Close,
}

/// Who is asked whether a request may come in, and what it is shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// Who.
    pub upstream: Upstream,
    /// Header fields, in lower case.
    pub headers: Box<[Box<str>]>,
}

/// What gives way when the backlog of a connection is at its bound. Only frames of channels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlowConsumer {
    /// The connection, closed 1013.
    Close,
    /// The frame that comes.
    DropNewest,
    /// The frames that have waited longest.
    DropOldest,
    /// What waits of a channel, as soon as there is something newer of it; at the bound also what waits longest.
    KeepLatest,
}

/// How long a connection may be silent, unused, and alive. In ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// A connection that was quiet this long is pinged.
    pub ping_ticks: u32,
    /// A ping must be answered, by any bytes, within this.
    pub pong_ticks: u32,
    /// Without a message either way for this long it is closed.
    pub idle_ticks: Option<u32>,
    /// At this age it is closed.
    pub age_ticks: Option<u32>,
    /// Up to so much is added to that, for each connection its own part.
    pub jitter_ticks: u32,
}

impl Life {
    /// For nobody, and for a route that is not there, which would be a mistake of ours: nobody lives for ever by it.
    pub(crate) const SHORT: Self =
        Self { ping_ticks: 10, pong_ticks: 10, idle_ticks: None, age_ticks: None, jitter_ticks: 0 };
}

/// A message and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoReply {
    /// The whole payload, text or binary.
    pub question: Box<[u8]>,
    /// What is sent back, in the same form.
    pub answer: Box<[u8]>,
}

impl Route {
    /// The variables of a path, if it leads here.
    pub(crate) fn variables<'a>(&self, path: &'a str) -> Option<Variables<'a>> {
        matches(&self.path, path)
    }

    /// The answer to this message, if it is one that is answered at once.
    #[must_use]
    pub fn auto_reply(&self, payload: &[u8]) -> Option<&[u8]> {
        self.auto_replies.iter().find(|reply| *reply.question == *payload).map(|reply| &*reply.answer)
    }
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this, percent-decoded.
    Literal(Box<str>),
    /// A variable, numbered in the order of the path.
    Variable,
}

/// A channel name with variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// One piece of a channel template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Literal(Box<str>),
    /// The path variable with this number.
    Variable(usize),
}

/// What happens to messages of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Published to a channel.
    Publish(Template),
    /// Sent back.
    Echo,
    /// Counted and dropped.
    Ignore,
    /// Told to an upstream, as are opening and ending.
    Upstream(Upstream),
}

/// Values of the variables of a path that matched.
#[derive(Clone, Debug, Default)]
pub struct Variables<'a> {
    values: [Cow<'a, str>; VARIABLES_MAX],
    count: usize,
}

impl<'a> Variables<'a> {
    /// The value with this number; empty when there is none.
    #[must_use]
    pub fn value(&self, number: usize) -> &str {
        self.values[..self.count].get(number).map_or("", AsRef::as_ref)
    }
}

impl Template {
    /// The channel. `None` when the result breaks the grammar of channels, which the configuration rules out, and when
    /// variables make it one that begins as those of users do.
    #[must_use]
    pub fn render(&self, variables: &Variables<'_>) -> Option<Channel> {
        let mut name = String::with_capacity(48);
        for piece in &self.0 {
            name.push_str(match piece {
                Piece::Literal(text) => text,
                Piece::Variable(number) => variables.value(*number),
            });
        }
        Channel::parse(&name).ok().filter(|channel| !channel.is_reserved())
    }
}

impl Rules {
    /// The route a path leads to. A literal segment beats a variable, segment by segment from the left.
    #[must_use]
    pub fn route<'a>(&self, path: &'a str) -> Option<(u16, Variables<'a>)> {
        let mut best: Option<(usize, Variables<'a>)> = None;
        for (number, route) in self.routes.iter().enumerate() {
            if let Some(variables) = matches(&route.path, path) {
                let wins =
                    best.as_ref().is_none_or(|(other, _)| beats(&route.path, &self.routes[*other].path));
                if wins {
                    best = Some((number, variables));
                }
            }
        }
        best.map(|(number, variables)| (number as u16, variables))
    }
}

fn beats(one: &[Segment], other: &[Segment]) -> bool {
    for (a, b) in one.iter().zip(other) {
        match (a, b) {
            (Segment::Literal(_), Segment::Variable) => return true,
            (Segment::Variable, Segment::Literal(_)) => return false,
            _ => {}
        }
    }
    false
}

fn matches<'a>(pattern: &[Segment], path: &'a str) -> Option<Variables<'a>> {
    let mut variables = Variables::default();
    let mut segments = path.strip_prefix('/')?.split('/');
    for wanted in pattern {
        let found = segments.next()?;
        match wanted {
            Segment::Literal(text) => {
                if !decodes_to(found, text) {
                    return None;
                }
            }
            Segment::Variable => {
                let value = variable(found)?;
                *variables.values.get_mut(variables.count)? = value;
                variables.count += 1;
            }
        }
    }
    // The pattern of `/` is one empty literal.
    segments.next().is_none().then_some(variables)
}

/// The value of a variable: a segment that, percent-decoded once, is `[A-Za-z0-9_-]{1,64}`.
fn variable(raw: &str) -> Option<Cow<'_, str>> {
    // Only escapes need a copy, and no sound client escapes what may stand in a variable.
    let value = if raw.contains('%') {
        let bytes = Decoded(raw.bytes()).collect::<Option<Vec<u8>>>()?;
        Cow::Owned(String::from_utf8(bytes).ok()?)
    } else {
        Cow::Borrowed(raw)
    };
    let fits = (1..=VARIABLE_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    fits.then_some(value)
}

/// Whether a raw path segment, percent-decoded once, is this text.
fn decodes_to(raw: &str, text: &str) -> bool {
    Decoded(raw.bytes()).eq(text.bytes().map(Some))
}

/// The bytes of a percent-encoded text; `None` for an escape that is none.
struct Decoded<'a>(std::str::Bytes<'a>);

impl Iterator for Decoded<'_> {
    type Item = Option<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        let byte = self.0.next()?;
        if byte != b'%' {
            return Some(Some(byte));
        }
        let mut digit = || char::from(self.0.next()?).to_digit(16);
        Some(digit().zip(digit()).map(|(high, low)| (high * 16 + low) as u8))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn segments(pattern: &str) -> Vec<Segment> {
        let parts = pattern[1..].split('/');
        parts
            .map(|s| if s.starts_with('{') { Segment::Variable } else { Segment::Literal(s.into()) })
            .collect()
    }

    fn rules(patterns: &[&str]) -> Rules {
        let route = |path: &&str| Route {
            name: (*path).into(),
            path: segments(path),
            subscribe: Vec::new(),
            inbound: Inbound::Ignore,
            authorize: None,
            exclude_self: false,
            origins: Vec::new(),
            protocols: Vec::new(),
            limits: Limits { message_bytes: 1, frame_bytes: 1, fragments: 1 },
            life: Life { ping_ticks: 1, pong_ticks: 1, idle_ticks: None, age_ticks: None, jitter_ticks: 0 },
            auto_replies: Vec::new(),
            slow_consumer: SlowConsumer::Close,
            on_bus_loss: OnBusLoss::default(),
            kind: None,
        };
        Rules {
            routes: patterns.iter().map(route).collect(),
            handshake_ticks: 1,
            close_ticks: 1,
            linger_ticks: 1,
            head_bytes: 1,
            subscriptions: 1,
            backlog: QueueLimit { entries: 1, bytes: 1 },
            trust: Trust::default(),
            limits: LimitRules::default(),
        }
    }

    #[test]
    fn a_literal_beats_a_variable_whatever_the_order() {
        let rules = rules(&["/rooms/{room}", "/rooms/lobby", "/"]);
        assert_eq!(rules.route("/rooms/lobby").unwrap().0, 1);
        let (route, variables) = rules.route("/rooms/l-1_2").unwrap();
        assert_eq!((route, variables.value(0), variables.value(1)), (0, "l-1_2", ""));
        assert_eq!(rules.route("/").unwrap().0, 2);
    }

    #[test]
    fn a_variable_holds_nothing_that_a_bus_could_take_for_a_wildcard() {
        let rules = rules(&["/rooms/{room}"]);
        for path in [
            "/rooms/*",
            "/rooms/%2A",
            "/rooms/>",
            "/rooms/a.b",
            "/rooms/",
            "/rooms/a%2Fb",
            "/rooms/a/b",
            "rooms/a",
            "",
        ] {
            assert!(rules.route(path).is_none(), "{path}");
        }
        assert!(rules.route(&format!("/rooms/{}", "x".repeat(65))).is_none());
    }

    #[test]
    fn a_literal_matches_its_escaped_form() {
        let rules = rules(&["/é/b"]);
        assert!(rules.route("/%C3%A9/%62").is_some());
        assert!(rules.route("/%C3/b").is_none());
        assert!(rules.route("/%C3%A9/%6").is_none());
    }

    #[test]
    fn a_template_renders_a_checked_channel() {
        let rules = rules(&["/a/{x}/{y}"]);
        let (_, variables) = rules.route("/a/one/two").unwrap();
        let template = Template(vec![
            Piece::Literal("room.".into()),
            Piece::Variable(1),
            Piece::Literal("-".into()),
            Piece::Variable(0),
        ]);
        assert_eq!(template.render(&variables).unwrap().as_str(), "room.two-one");
    }

    #[test]
    fn no_path_leads_into_a_channel_of_a_user() {
        let rules = rules(&["/a/{x}/{y}"]);
        let template = Template(vec![Piece::Variable(0), Piece::Literal(".".into()), Piece::Variable(1)]);
        let render = |path| template.render(&rules.route(path).unwrap().1);
        assert_eq!(render("/a/user/bob"), None);
        assert_eq!(render("/a/users/bob").unwrap().as_str(), "users.bob");
    }
}
