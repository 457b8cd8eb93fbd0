//! Owns commands over the bus: their JSON form, obeying one on this node by the same functions that HTTP and gRPC call, and
//! asking other nodes. Whoever may publish on the bus may command; there are no tokens.
//!
//! A command is an object with one key, as in `{"send": {"connection": "…", "text": "hello"}}`. The answer names node and
//! epoch, and has either `done` or `error`, with a reason of the closed set.

use std::borrow::Cow;
use std::time::Duration;

use backend::peers::{CallError, call_all};
use bridge::{ConnId, Kind, Message, NodeName};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connections::{self, Goodbye};
use super::list::{self, Place};
use super::{Error, Reason, blocks, users};
use crate::admin::Admin;

/// How long another node may take: longer than its shards have.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(3);

/// What can be asked of a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    /// A message to one connection: `text` or `base64`.
    Send { connection: String, text: Option<String>, base64: Option<String> },
    /// Closes one.
    Close {
        connection: String,
        code: Option<u16>,
        #[serde(default)]
        reason: String,
    },
    /// Puts one into a channel.
    Subscribe { connection: String, channel: String },
    /// Takes one out of a channel.
    Unsubscribe { connection: String, channel: String },
    /// Describes one.
    Describe { connection: String },
    /// Lists those of this node, if it still lives the life of this epoch, where one is given.
    List {
        epoch: Option<u32>,
        #[serde(default)]
        from: Place,
        limit: u16,
    },
    /// Closes all of a user on this node.
    CloseUser {
        user: String,
        code: Option<u16>,
        #[serde(default)]
        reason: String,
    },
    /// Keeps a network out.
    Block { cidr: String, ttl_s: u32 },
    /// Lets it in again.
    Unblock { cidr: String },
}

impl Command {
    /// A message to a connection.
    pub(super) fn send(connection: &ConnId, message: &Message) -> Self {
        let (mut text, mut base64) = (None, None);
        match (message.kind(), std::str::from_utf8(message.payload())) {
            (Kind::Text, Ok(payload)) => text = Some(payload.to_owned()),
            _ => base64 = Some(BASE64.encode(message.payload())),
        }
        Self::Send { connection: connection.to_string(), text, base64 }
    }

    /// The connection that it is about, where it is about one.
    fn connection(&self) -> Option<&str> {
        match self {
            Self::Send { connection, .. }
            | Self::Close { connection, .. }
            | Self::Subscribe { connection, .. }
            | Self::Unsubscribe { connection, .. }
            | Self::Describe { connection } => Some(connection),
            Self::List { .. } | Self::CloseUser { .. } | Self::Block { .. } | Self::Unblock { .. } => None,
        }
    }
}

/// What a node answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    node: String,
    epoch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refused>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    reason: String,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u16>,
}

/// Obeys a command from the bus. The answer; `None` when it went to all nodes and is about a connection of another.
pub(crate) async fn obey(admin: &Admin, command: &[u8], to_all: bool) -> Option<Bytes> {
    if let Some(stats) = admin.publisher.bus().stats() {
        stats.commands.add(1);
    }
    let command: Result<Command, _> = serde_json::from_slice(command);
    let outcome = match command {
        Ok(command) => match command.connection().map(|id| admin.hold(id)) {
            Some(Err(error)) if error.reason == Reason::Gone && to_all => return None,
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => perform(admin, command).await,
        },
        Err(mistake) => {
            if let Some(stats) = admin.publisher.bus().stats() {
                stats.malformed.add(1);
            }
            Err(Error::new(Reason::BadRequest, format!("This is no command: {mistake}.")))
        }
    };
    let answer = written(admin, outcome);
    let bytes_max = admin.publisher.bus().peers().map_or(usize::MAX, |peers| peers.answer_bytes_max());
    if answer.len() <= bytes_max {
        return Some(answer);
    }
    let detail =
        format!("The answer has {} bytes, and the bus takes {bytes_max}; ask for less.", answer.len());
    Some(written(admin, Err(Error::new(Reason::TooLarge, detail))))
}

/// The answer to a command for which there is no room.
pub(crate) fn refuse_busy(admin: &Admin) -> Bytes {
    written(admin, Err(Error::busy()))
}

fn written(admin: &Admin, outcome: Result<Value, Error>) -> Bytes {
    let (done, error) = match outcome {
        Ok(done) => (Some(done), None),
        Err(Error { reason, detail, retry_after_s }) => {
            let (reason, detail) = (reason.label().to_owned(), detail.into_owned());
            (None, Some(Refused { reason, detail, retry_after_s }))
        }
    };
    let answer = Answer { node: admin.node.to_string(), epoch: admin.epoch.to_string(), done, error };
    serde_json::to_vec(&answer).unwrap_or_default().into()
}

/// Does it here; whose connection it is was looked at.
async fn perform(admin: &Admin, command: Command) -> Result<Value, Error> {
    match command {
        Command::Send { connection, text, base64 } => {
            connections::send(admin, &connection, message(text, base64)?).await?;
        }
        Command::Close { connection, code, reason } => {
            connections::close(admin, &connection, Goodbye { code, reason: &reason }).await?;
        }
        Command::Subscribe { connection, channel } => {
            connections::subscribe(admin, &connection, &channel).await?;
        }
        Command::Unsubscribe { connection, channel } => {
            connections::unsubscribe(admin, &connection, &channel).await?;
        }
        Command::Describe { connection } => {
            return value(connections::describe(admin, &connection).await?);
        }
        Command::List { epoch, from, limit } => {
            return value(list::list_here(admin, epoch, from, limit).await?);
        }
        Command::CloseUser { user, code, reason } => {
            let connections = users::close_here(admin, &user, Goodbye { code, reason: &reason }).await?;
            return Ok(json!({ "connections": connections }));
        }
        Command::Block { cidr, ttl_s } => {
            blocks::put_here(admin, blocks::network(admin, &cidr)?, ttl_s).await?;
        }
        Command::Unblock { cidr } => {
            let was_blocked = blocks::lift_here(admin, blocks::network(admin, &cidr)?);
            return Ok(json!({ "was_blocked": was_blocked }));
        }
    }
    Ok(json!({}))
}

fn value(answer: impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(answer)
        .map_err(|_| Error::new(Reason::Internal, "The answer could not be written; please report this."))
}

fn message(text: Option<String>, base64: Option<String>) -> Result<Message, Error> {
    match (text, base64) {
        (Some(text), None) => Ok(Message::copy_from(Kind::Text, text.as_bytes())),
        (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
            Ok(bytes) => Ok(Message::copy_from(Kind::Binary, &bytes)),
            Err(error) => Err(Error::new(Reason::BadPayload, format!("base64: {error}."))),
        },
        _ => Err(Error::new(Reason::BadRequest, "Set text or base64, and not both.")),
    }
}

/// Has another node do something.
///
/// # Errors
/// `bus_away`, `too_large`; `node_silent` when the node is there and does not answer, `gone` when it is not there; and
/// whatever the node says.
pub(super) async fn call<T: DeserializeOwned>(
    admin: &Admin,
    node: &NodeName,
    command: &Command,
) -> Result<T, Error> {
    let peers = admin.publisher.bus().peers().ok_or_else(Error::gone)?;
    let answer = peers.call(node, encoded(command)?, CALL_WITHIN).await;
    read(admin, node, answer)
}

/// Has all other nodes do something; what each says.
pub(super) async fn call_others<T: DeserializeOwned>(
    admin: &Admin,
    command: &Command,
) -> Result<Vec<(NodeName, Result<T, Error>)>, Error> {
    let Some(peers) = admin.publisher.bus().peers() else { return Ok(Vec::new()) };
    let others = admin.nodes.others(&admin.node);
    let answers = call_all(peers, &others, &encoded(command)?, CALL_WITHIN).await;
    let read = |(node, answer)| {
        let answer = read(admin, &node, answer);
        (node, answer)
    };
    Ok(others.into_iter().zip(answers).map(read).collect())
}

fn encoded(command: &Command) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(command);
    bytes.map(Bytes::from).map_err(|_| Error::new(Reason::Internal, "The command could not be written."))
}

fn read<T: DeserializeOwned>(
    admin: &Admin,
    node: &NodeName,
    answer: Result<Bytes, CallError>,
) -> Result<T, Error> {
    let answer = answer.map_err(|error| match error {
        CallError::Away => Error::new(
            Reason::BusAway,
            format!("Node {node} cannot be asked while the bus is away; nothing was done."),
        )
        .retry_after(5),
        CallError::TooLarge => {
            Error::new(Reason::TooLarge, "The bus takes no message of this size; send it to the node itself.")
        }
        CallError::Silent if admin.nodes.knows(node) => Error::new(
            Reason::NodeSilent,
            format!("Node {node} did not answer in time, and may still do what was asked."),
        )
        .retry_after(5),
        CallError::Silent => Error::gone(),
    })?;
    let unknown = || {
        let detail = format!("Node {node} gave an answer of an unknown form; does it run another version?");
        Error::new(Reason::Internal, detail)
    };
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| unknown())?;
    match (answer.done, answer.error) {
        (Some(done), None) => serde_json::from_value(done).map_err(|_| unknown()),
        (None, Some(Refused { reason, detail, retry_after_s })) => Err(Error {
            reason: Reason::of(&reason).ok_or_else(unknown)?,
            detail: Cow::Owned(detail),
            retry_after_s,
        }),
        _ => Err(unknown()),
    }
}

/// The names of those who did not do as they were told.
pub(super) fn silent<T>(answers: &[(NodeName, Result<T, Error>)]) -> Vec<String> {
    answers.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| node.to_string()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_survives_the_way_to_another_node() {
        let id: ConnId = "a-00000007-1-2-3".parse().unwrap();
        for sent in [
            Message::copy_from(Kind::Text, "grüße \0 \"".as_bytes()),
            Message::copy_from(Kind::Binary, b"\xff\0"),
            Message::copy_from(Kind::Binary, b"text as bytes"),
            Message::copy_from(Kind::Text, b""),
        ] {
            let bytes = encoded(&Command::send(&id, &sent)).unwrap();
            let command = serde_json::from_slice(&bytes).unwrap();
            let Command::Send { connection, text, base64 } = command else { panic!("{command:?}") };
            let came = message(text, base64).unwrap();
            assert_eq!(connection, id.to_string());
            assert_eq!((came.kind(), came.payload()), (sent.kind(), sent.payload()));
        }
    }

    #[test]
    fn a_command_is_what_a_person_can_type() {
        let read = |text: &str| serde_json::from_str::<Command>(text);
        assert!(matches!(read(r#"{"close":{"connection":"x"}}"#), Ok(Command::Close { code: None, .. })));
        assert!(matches!(read(r#"{"list":{"limit":5}}"#), Ok(Command::List { epoch: None, limit: 5, .. })));
        for bad in
            ["", "{}", "[]", r#"{"close":{}}"#, r#"{"stop":{}}"#, r#"{"close":{"connection":"x","c":1}}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(message(None, None).is_err() && message(None, Some("?".to_owned())).is_err());
    }
}
