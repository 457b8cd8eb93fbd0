//! Names on NATS: subjects, header fields, and what a message of others says of itself. Pure; refuses what is not ours
//! instead of guessing.

use std::fmt::Write as _;
use std::sync::Arc;

use async_nats::{HeaderMap, Message as Incoming};
use bridge::{Channel, ConnId, Kind, Message, NodeName};

use crate::incoming::undeclared_kind;
use crate::joint::Node;

/// What an inbound message is: `opened`, `message`, `closed` or `gap`.
pub(super) const EVENT: &str = "Gateway-Event";
/// The id of the connection.
pub(super) const CONNECTION: &str = "Gateway-Connection";
/// The node that sent it.
pub(super) const NODE: &str = "Gateway-Node";
/// That node's epoch.
pub(super) const EPOCH: &str = "Gateway-Epoch";
/// Counts the events of the connection.
pub(super) const SEQUENCE: &str = "Gateway-Sequence";
/// The connection's user as in the user's channel.
pub(super) const USER: &str = "Gateway-User";
/// The name of the connection's route.
pub(super) const ROUTE: &str = "Gateway-Route";
/// Where a message to the connection goes.
pub(super) const REPLY_TO: &str = "Gateway-Reply-To";
/// On a message to a channel: the id of a connection that must not hear it.
pub(super) const EXCLUDE: &str = "Gateway-Exclude";
/// What became of a message to a connection: `done`, or why not.
pub(super) const STATUS: &str = "Gateway-Status";
/// Text or binary.
pub(super) const CONTENT_TYPE: &str = "Content-Type";
/// By which JetStream knows a repetition.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The subjects of one prefix, as this node uses them.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    prefix: Arc<str>,
    node: Arc<str>,
    channels: Arc<str>,
    connections: Arc<str>,
}

impl Subjects {
    pub(super) fn new(node: &Node) -> Self {
        let prefix = &node.prefix;
        Self {
            prefix: Arc::clone(prefix),
            node: node.name.as_str().into(),
            channels: format!("{prefix}.channel.").into(),
            connections: format!("{prefix}.connection.{}.", node.name).into(),
        }
    }

    /// A channel's.
    pub(super) fn channel(&self, channel: &Channel) -> String {
        format!("{}{channel}", self.channels)
    }

    /// The channel of a subject.
    pub(super) fn channel_of(&self, subject: &str) -> Option<Channel> {
        Channel::parse(subject.strip_prefix(&*self.channels)?).ok()
    }

    /// All connections of this node.
    pub(super) fn connections(&self) -> String {
        format!("{}*", self.connections)
    }

    /// One connection of this node.
    pub(super) fn connection(&self, id: &ConnId) -> String {
        format!("{}{id}", self.connections)
    }

    /// The connection of a subject. Whether it is of this node's epoch is not looked at.
    pub(super) fn connection_of(&self, subject: &str) -> Option<ConnId> {
        subject
            .strip_prefix(&*self.connections)?
            .parse()
            .ok()
            .filter(|id: &ConnId| *id.node.as_str() == *self.node)
    }

    /// Commands to this node.
    pub(super) fn command(&self) -> String {
        format!("{}.command.{}", self.prefix, self.node)
    }

    /// Commands to another node.
    pub(super) fn command_of(&self, node: &NodeName) -> String {
        format!("{}.command.{node}", self.prefix)
    }

    /// Commands to all nodes.
    pub(super) fn command_of_all(&self) -> String {
        format!("{}.command", self.prefix)
    }

    /// Beats of nodes, which nodes listen to.
    pub(super) fn presence(&self) -> String {
        format!("{}.presence", self.prefix)
    }

    /// What becomes of nodes, which app servers listen to.
    pub(super) fn nodes(&self) -> String {
        format!("{}.node", self.prefix)
    }

    /// Whether an answer may go where a message says. We publish with rights of our own: whoever may only command must not
    /// have us speak to clients and nodes, or to the server itself.
    pub(super) fn may_answer(&self, reply_to: &str) -> bool {
        let below = reply_to.strip_prefix(&*self.prefix);
        !reply_to.starts_with('$') && !below.is_some_and(|rest| rest.starts_with('.'))
    }

    /// Events of one partition of a route.
    pub(super) fn inbound(&self, route: &str, partition: u16) -> String {
        let mut subject = String::with_capacity(self.prefix.len() + route.len() + 16);
        let _ = write!(subject, "{}.inbound.{route}.{partition}", self.prefix);
        subject
    }

    /// Events of all partitions of a route.
    pub(super) fn inbound_of_all(&self, route: &str) -> String {
        format!("{}.inbound.{route}.*", self.prefix)
    }
}

/// `Content-Type` of a kind.
pub(super) const fn content_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text/plain",
        Kind::Binary => "application/octet-stream",
    }
}

/// What to deliver. `None` when it claims to be text and is not.
pub(super) fn message_of(incoming: &Incoming) -> Option<Message> {
    let said = header(incoming.headers.as_ref(), CONTENT_TYPE);
    let essence = said.map(|said| said.split(';').next().unwrap_or(said).trim());
    let payload = incoming.payload.clone();
    Some(match essence {
        Some("application/octet-stream") => Message::new(Kind::Binary, payload),
        Some(text) if text.starts_with("text/") || text == "application/json" => {
            std::str::from_utf8(&payload).ok()?;
            Message::new(Kind::Text, payload)
        }
        _ => Message::undeclared(undeclared_kind(&payload), payload),
    })
}

/// A header field.
pub(super) fn header<'h>(headers: Option<&'h HeaderMap>, name: &str) -> Option<&'h str> {
    headers?.get(name).map(|value| value.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::{Address, Epoch};

    use super::*;

    fn node() -> Node {
        let name = NodeName::parse("edge-1").unwrap();
        Node { name, epoch: Epoch(7), prefix: "gateway".into(), partitions: 4, wall_ms: || 0 }
    }

    fn incoming(payload: &'static [u8], content_type: Option<&str>) -> Incoming {
        let headers = content_type.map(|said| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, said);
            headers
        });
        Incoming {
            subject: "x".into(),
            reply: None,
            payload: payload.into(),
            headers,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn subjects_are_those_of_the_contract_and_can_be_read_back() {
        let subjects = Subjects::new(&node());
        let channel = Channel::parse("room.1").unwrap();
        assert_eq!(subjects.channel(&channel), "gateway.channel.room.1");
        assert_eq!(subjects.channel_of("gateway.channel.room.1"), Some(channel));
        assert_eq!(subjects.connections(), "gateway.connection.edge-1.*");
        let address = Address { shard: 1, slot: 2, generation: 3 };
        let id = ConnId { node: node().name, epoch: Epoch(7), address };
        assert_eq!(subjects.connection(&id), "gateway.connection.edge-1.edge-1-00000007-1-2-3");
        assert_eq!(subjects.connection_of(&subjects.connection(&id)), Some(id));
        assert_eq!(subjects.command(), subjects.command_of(&node().name));
        assert_eq!(subjects.command(), "gateway.command.edge-1");
        assert_eq!(subjects.inbound("app", 15), "gateway.inbound.app.15");
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let subjects = Subjects::new(&node());
        for subject in ["gateway.channel.a b", "gateway.channel.", "other.channel.a", "gateway.channel.a..b"]
        {
            assert_eq!(subjects.channel_of(subject), None, "{subject}");
        }
        for subject in ["gateway.connection.edge-1.x", "gateway.connection.edge-1.other-00000007-1-2-3"] {
            assert_eq!(subjects.connection_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn answers_go_neither_to_the_server_nor_below_our_prefix() {
        let subjects = Subjects::new(&node());
        for inbox in ["_INBOX.x.1", "app.answers", "gateways.x", "gateway", "gateway-2.x"] {
            assert!(subjects.may_answer(inbox), "{inbox}");
        }
        for other in
            ["gateway.channel.room", "gateway.command.b", "gateway.", "$JS.API.STREAM.DELETE.EVENTS", "$SYS"]
        {
            assert!(!subjects.may_answer(other), "{other}");
        }
    }

    #[test]
    fn a_message_that_does_not_say_is_text_when_it_can_be() {
        let kind = |payload, said| message_of(&incoming(payload, said)).map(|message| message.kind());
        assert_eq!(kind("grüße".as_bytes(), None), Some(Kind::Text));
        assert_eq!(kind(b"\xff", None), Some(Kind::Binary));
        assert_eq!(kind(b"", None), Some(Kind::Text));
        assert_eq!(kind(b"a", Some("application/octet-stream")), Some(Kind::Binary));
        assert_eq!(kind(b"{}", Some("application/json; charset=utf-8")), Some(Kind::Text));
        assert_eq!(kind(b"\xff", Some("text/plain")), None);
        let says = |said| message_of(&incoming(b"a", said)).unwrap().is_declared();
        assert!(says(Some("text/plain")) && says(Some("application/octet-stream")));
        assert!(!says(None) && !says(Some("image/png")), "a type that is neither says nothing to us");
    }
}
