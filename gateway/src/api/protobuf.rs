//! What `gateway.v1` and the calls have in common, for gRPC and for commands over a bus alike: messages, goodbyes and
//! connections, from Protobuf and to it. It decides nothing.

use std::borrow::Cow;

use backend::proto;
use backend::proto::message::Payload;
use bridge::{Kind, Message};

use super::connections::{Closing, Connection, Goodbye, Limiter};
use super::{Error, Reason};

/// Reads a message.
///
/// # Errors
/// `bad_request` when there is none.
pub(crate) fn message(message: Option<&proto::Message>) -> Result<Message, Error> {
    match message.and_then(|message| message.payload.as_ref()) {
        Some(Payload::Text(text)) => Ok(Message::copy_from(Kind::Text, text.as_bytes())),
        // A copy of its own: what arrived is a piece of a larger buffer, which would live as long as the message.
        Some(Payload::Binary(bytes)) => Ok(Message::copy_from(Kind::Binary, bytes)),
        None => {
            Err(Error::new(Reason::BadRequest, "Set message.text, or message.binary; an empty one is fine."))
        }
    }
}

/// Writes one.
pub(super) fn written(message: &Message) -> proto::Message {
    let payload = match (message.kind(), std::str::from_utf8(message.payload())) {
        (Kind::Text, Ok(text)) => Payload::Text(text.to_owned()),
        _ => Payload::Binary(message.payload().clone()),
    };
    proto::Message { payload: Some(payload) }
}

/// Reads how to close; the code 0 says nothing.
///
/// # Errors
/// `bad_close`.
pub(crate) fn goodbye(code: u32, reason: &str) -> Result<Goodbye<'_>, Error> {
    let code = u16::try_from(code).map_err(|_| {
        Error::new(Reason::BadClose, format!("{code} is no close code; use 1000, or one from 4000 to 4999."))
    })?;
    Ok(Goodbye { code: (code > 0).then_some(code), reason })
}

/// Writes a connection.
pub(crate) fn shown(connection: Connection) -> proto::Connection {
    proto::Connection {
        id: connection.id,
        user: connection.user,
        route: connection.route.unwrap_or_default(),
        peer: connection.peer,
        phase: connection.phase.into_owned(),
        age_ms: connection.age_ms,
        quiet_ms: connection.quiet_ms,
        channels: connection.channels,
        messages_in: connection.messages_in,
        messages_out: connection.messages_out,
        bytes_in: connection.bytes_in,
        bytes_out: connection.bytes_out,
        backlog_frames: connection.backlog_frames,
        backlog_bytes: u64::from(connection.backlog_bytes),
        partial_bytes: connection.partial_bytes,
        paused: connection.paused.into_iter().map(Cow::into_owned).collect(),
        closing: connection.closing.map(|closing| proto::Closing {
            reason: closing.reason.into_owned(),
            sent_code: closing.sent_code.map(u32::from),
        }),
        peer_connections: connection.peer_connections,
        limiter: connection.limiter.map(|limiter| proto::Limiter {
            messages: limiter.messages,
            burst: limiter.burst,
            wait_ms: limiter.wait_ms,
        }),
    }
}

/// Reads a connection that another node shows.
pub(super) fn seen(connection: proto::Connection) -> Connection {
    Connection {
        id: connection.id,
        user: connection.user,
        route: (!connection.route.is_empty()).then_some(connection.route),
        peer: connection.peer,
        phase: connection.phase.into(),
        age_ms: connection.age_ms,
        quiet_ms: connection.quiet_ms,
        channels: connection.channels,
        messages_in: connection.messages_in,
        messages_out: connection.messages_out,
        bytes_in: connection.bytes_in,
        bytes_out: connection.bytes_out,
        backlog_frames: connection.backlog_frames,
        backlog_bytes: u32::try_from(connection.backlog_bytes).unwrap_or(u32::MAX),
        partial_bytes: connection.partial_bytes,
        paused: connection.paused.into_iter().map(Cow::Owned).collect(),
        closing: connection.closing.map(|closing| Closing {
            reason: closing.reason.into(),
            sent_code: closing.sent_code.and_then(|code| u16::try_from(code).ok()),
        }),
        peer_connections: connection.peer_connections,
        limiter: connection.limiter.map(|limiter| Limiter {
            messages: limiter.messages,
            burst: limiter.burst,
            wait_ms: limiter.wait_ms,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_connection_and_a_message_survive_the_way_to_another_node() {
        let all = proto::Connection {
            id: "a-00000007-1-2-3".to_owned(),
            user: Some("bob".to_owned()),
            route: "app".to_owned(),
            peer: "10.0.0.1".to_owned(),
            phase: "closing".to_owned(),
            age_ms: 1,
            quiet_ms: 2,
            channels: vec!["room.1".to_owned()],
            messages_in: 3,
            messages_out: 4,
            bytes_in: 5,
            bytes_out: 6,
            backlog_frames: 7,
            backlog_bytes: 8,
            partial_bytes: 9,
            paused: vec!["rate".to_owned()],
            closing: Some(proto::Closing { reason: "client_close".to_owned(), sent_code: Some(1000) }),
            peer_connections: 10,
            limiter: Some(proto::Limiter { messages: 11, burst: 12, wait_ms: 13 }),
        };
        assert_eq!(shown(seen(all.clone())), all);
        assert_eq!(shown(seen(proto::Connection::default())), proto::Connection::default());
        for sent in [
            Message::copy_from(Kind::Text, "grüße \0 \"".as_bytes()),
            Message::copy_from(Kind::Binary, b"\xff\0"),
            Message::copy_from(Kind::Binary, b"text as bytes"),
            Message::copy_from(Kind::Text, b""),
        ] {
            let came = message(Some(&written(&sent))).unwrap();
            assert_eq!((came.kind(), came.payload()), (sent.kind(), sent.payload()));
        }
        assert!(message(None).is_err() && message(Some(&proto::Message::default())).is_err());
    }
}
