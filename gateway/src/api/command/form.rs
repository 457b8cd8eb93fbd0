//! The two forms of a command, `gateway.v1.Command` as Protobuf and as JSON, and those of its answer. Which form it is,
//! its first bytes tell: JSON begins with a brace, after white space perhaps, and no field of the message can. What is
//! neither is answered in JSON. Pure; refuses to know what is obeyed. Bytes from outside never panic here.
//!
//! JSON is that of Protobuf, with names as they stand in the proto or in camel case; a message may be shortened to `text`
//! or `base64`. Answers in JSON show connections as HTTP does.

use backend::proto;
use backend::proto::answer::Outcome;
use backend::proto::command::{self as wire, Order};
use backend::proto::message::Payload;
use bridge::{Epoch, NodeName};
use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use prost::Message as _;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Done;
use crate::api::protobuf::shown;
use crate::api::{Error, Reason};

/// A command that was read.
#[derive(Debug)]
pub(super) struct Question {
    /// How it wants to be answered.
    pub(super) manner: Manner,
    /// Where it wants that; empty when it does not say.
    pub(super) reply_to: String,
    /// What it wants, or in words why that is not known.
    pub(super) order: Result<Order, String>,
}

/// How a command is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    is_json: bool,
    /// Comes back; zero when it has none.
    id: u64,
}

/// Reads a command.
pub(super) fn read(said: &Bytes) -> Question {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    if said.iter().find(|byte| !is_space(byte)) == Some(&b'{') {
        return read_json(said);
    }
    match proto::Command::decode(said.clone()) {
        Ok(proto::Command { id, order, reply_to }) if !said.is_empty() => Question {
            manner: Manner { is_json: false, id },
            reply_to,
            order: order.ok_or_else(|| "it has no order, or one that this gateway does not know".to_owned()),
        },
        _ => Question {
            manner: Manner { is_json: true, id: 0 },
            reply_to: String::new(),
            order: Err("it is neither JSON nor a gateway.v1.Command".to_owned()),
        },
    }
}

fn read_json(said: &[u8]) -> Question {
    let (id, reply_to, order) = match serde_json::from_slice::<Said>(said) {
        Ok(said) => {
            let (id, reply_to) = (said.id, said.reply_to.clone());
            (id, reply_to, said.order())
        }
        Err(mistake) => {
            // Whoever made a mistake may have said where to be told of it.
            let said: Value = serde_json::from_slice(said).unwrap_or_default();
            let id = number(&said["id"]).unwrap_or_default();
            let reply_to = said["reply_to"].as_str().or(said["replyTo"].as_str()).unwrap_or_default();
            (id, reply_to.to_owned(), Err(mistake.to_string()))
        }
    };
    Question { manner: Manner { is_json: true, id }, reply_to, order }
}

impl Manner {
    /// What a node answers.
    pub(super) fn answer(self, node: &NodeName, epoch: Epoch, outcome: Result<Done, Error>) -> Bytes {
        if self.is_json { self.json(node, epoch, outcome) } else { self.protobuf(node, epoch, outcome) }
    }

    fn json(self, node: &NodeName, epoch: Epoch, outcome: Result<Done, Error>) -> Bytes {
        let mut answer = json!({ "node": node.as_str(), "epoch": epoch.to_string() });
        if self.id > 0 {
            answer["id"] = self.id.to_string().into();
        }
        match outcome.and_then(done_in_json) {
            Ok(done) => answer["done"] = done,
            Err(Error { reason, detail, retry_after_s }) => {
                answer["error"] = json!({ "reason": reason.label(), "detail": detail });
                if let Some(seconds) = retry_after_s {
                    answer["error"]["retry_after_s"] = seconds.into();
                }
            }
        }
        answer.to_string().into()
    }

    fn protobuf(self, node: &NodeName, epoch: Epoch, outcome: Result<Done, Error>) -> Bytes {
        let mut retry_after_s = 0;
        let outcome = match outcome {
            Ok(Done::Nothing) => Outcome::Done(proto::answer::Done {}),
            Ok(Done::Connection(connection)) => Outcome::Connection(shown(*connection)),
            Ok(Done::Page(part)) => Outcome::Page(proto::answer::Page {
                connections: part.connections.into_iter().map(shown).collect(),
                next: part.next.map(Into::into),
            }),
            Ok(Done::Closed(connections)) => Outcome::Closed(connections),
            Ok(Done::WasBlocked(was_blocked)) => Outcome::WasBlocked(was_blocked),
            Err(error) => {
                retry_after_s = error.retry_after_s.map_or(0, u32::from);
                let reason = error.reason.label().to_owned();
                Outcome::Error(proto::Failure { reason, detail: error.detail.into_owned() })
            }
        };
        let (node, epoch) = (node.to_string(), epoch.0);
        let answer = proto::Answer { id: self.id, node, epoch, outcome: Some(outcome), retry_after_s };
        answer.encode_to_vec().into()
    }
}

fn done_in_json(done: Done) -> Result<Value, Error> {
    let value = match done {
        Done::Nothing => Ok(json!({})),
        Done::Connection(connection) => serde_json::to_value(connection),
        Done::Page(part) => serde_json::to_value(part),
        Done::Closed(connections) => Ok(json!({ "connections": connections })),
        Done::WasBlocked(was_blocked) => Ok(json!({ "was_blocked": was_blocked })),
    };
    value.map_err(|_| Error::new(Reason::Internal, "The answer could not be written; please report this."))
}

/// A command in JSON: one of the orders, and what stands around it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default, deserialize_with = "number")]
    id: u64,
    #[serde(default, alias = "replyTo")]
    reply_to: String,
    send: Option<Send>,
    publish: Option<IgnoredAny>,
    subscribe: Option<InChannel>,
    unsubscribe: Option<InChannel>,
    close: Option<Close>,
    #[serde(alias = "setState")]
    set_state: Option<SetState>,
    describe: Option<Describe>,
    list: Option<List>,
    #[serde(alias = "closeUser")]
    close_user: Option<CloseUser>,
    block: Option<Block>,
    unblock: Option<Unblock>,
    blocks: Option<Blocks>,
}

impl Said {
    fn order(self) -> Result<Order, String> {
        let orders = [
            self.send.map(Send::order).transpose()?,
            self.publish.map(|_| Order::Publish(wire::PublishTo::default())),
            self.subscribe.map(|InChannel { connection, channel }| {
                Order::Subscribe(wire::Join { connection, channel })
            }),
            self.unsubscribe.map(|InChannel { connection, channel }| {
                Order::Unsubscribe(wire::Leave { connection, channel })
            }),
            self.close.map(|Close { connection, code, reason }| {
                Order::Close(wire::CloseOne { connection, code, reason })
            }),
            self.set_state.map(|SetState { connection, state }| {
                Order::SetState(wire::SetState { connection, state: state.0 })
            }),
            self.describe.map(|Describe { connection }| Order::Describe(wire::Describe { connection })),
            self.list.map(List::order),
            self.close_user.map(|CloseUser { user, code, reason }| {
                Order::CloseUser(wire::CloseUser { user, code, reason })
            }),
            self.block.map(|block| Order::Block(block.into())),
            self.unblock.map(|unblock| Order::Unblock(unblock.into())),
            self.blocks.map(|Blocks { set, lifted }| {
                let set = set.into_iter().map(Into::into).collect();
                Order::Blocks(wire::Blocks { set, lifted: lifted.into_iter().map(Into::into).collect() })
            }),
        ];
        let mut orders = orders.into_iter().flatten();
        match (orders.next(), orders.next()) {
            (Some(order), None) => Ok(order),
            (None, _) => Err("it has no order".to_owned()),
            (Some(_), Some(_)) => Err("it has more than one order".to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    connection: String,
    message: Option<Content>,
    text: Option<String>,
    base64: Option<Base64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Text(String),
    Binary(Base64),
}

impl Send {
    fn order(self) -> Result<Order, String> {
        let short = (self.text.map(Content::Text), self.base64.map(Content::Binary));
        let content = match (self.message, short.0, short.1) {
            (Some(content), None, None) | (None, Some(content), None) | (None, None, Some(content)) => {
                content
            }
            _ => return Err("set one of message, text and base64".to_owned()),
        };
        let payload = Some(match content {
            Content::Text(text) => Payload::Text(text),
            Content::Binary(bytes) => Payload::Binary(bytes.0),
        });
        let message = Some(proto::Message { payload });
        Ok(Order::Send(wire::Send { connection: self.connection, message }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InChannel {
    connection: String,
    channel: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    connection: String,
    #[serde(default)]
    code: u32,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetState {
    connection: String,
    #[serde(default)]
    state: Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Describe {
    connection: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    epoch: Option<u32>,
    from: Option<Place>,
    limit: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    #[serde(default)]
    shard: u32,
    after: Option<u32>,
}

impl List {
    fn order(self) -> Order {
        let from = self.from.map(|Place { shard, after }| proto::Place { shard, after });
        Order::List(wire::List { epoch: self.epoch, from, limit: self.limit })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseUser {
    user: String,
    #[serde(default)]
    code: u32,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    cidr: String,
    #[serde(alias = "ttlS")]
    ttl_s: u32,
    #[serde(default, alias = "atMs", deserialize_with = "number")]
    at_ms: u64,
}

impl From<Block> for wire::Block {
    fn from(Block { cidr, ttl_s, at_ms }: Block) -> Self {
        Self { cidr, ttl_s, at_ms }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unblock {
    cidr: String,
    #[serde(default, alias = "atMs", deserialize_with = "number")]
    at_ms: u64,
}

impl From<Unblock> for wire::Unblock {
    fn from(Unblock { cidr, at_ms }: Unblock) -> Self {
        Self { cidr, at_ms }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Blocks {
    #[serde(default)]
    set: Vec<Block>,
    #[serde(default)]
    lifted: Vec<Unblock>,
}

/// Bytes, in either alphabet and with or without padding, as Protobuf's JSON has them.
#[derive(Default)]
struct Base64(Bytes);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let plain = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let bytes = BASE64_NOPAD.decode(plain.as_bytes());
        bytes.map(|bytes| Self(bytes.into())).map_err(|error| D::Error::custom(format!("base64: {error}")))
    }
}

/// A number of 64 bits, which Protobuf's JSON has as a text.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(u64),
        Text(String),
    }
    match Number::deserialize(from)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests;
