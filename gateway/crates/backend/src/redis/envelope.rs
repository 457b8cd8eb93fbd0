//! What goes over Redis publish/subscribe, which has no headers: plain UTF-8 text as it is, and everything else as the
//! byte 0x00 followed by a `gateway.v1.Envelope`. Pure functions over bytes; refuses to know channels. What is not ours
//! is an error that the caller counts, never a panic.

use std::fmt;

use bridge::message::Bytes;
use bridge::{ConnId, Epoch, Kind, Message};
use prost::Message as _;

use crate::proto;

/// The first byte of everything that is not plain text.
const MARK: u8 = 0;

/// A message, and what is said of it.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The gateway that sent it, by name and epoch; `None` when an app server did.
    pub origin: Option<(String, Epoch)>,
    /// On the way to one connection: which.
    pub connection: Option<ConnId>,
    /// On the way to a channel: who must not hear it.
    pub exclude: Option<ConnId>,
    /// The message.
    pub message: Message,
}

/// Why a payload is none of ours. Always the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It begins like text and is not UTF-8.
    Text,
    /// What follows the mark is no `Envelope`.
    Envelope,
    /// The envelope has no message.
    Empty,
    /// The connection, or the excluded one, is no id.
    Connection,
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "a payload that does not begin with 0x00 has to be UTF-8",
            Self::Envelope => "0x00 is not followed by a gateway.v1.Envelope",
            Self::Empty => "the envelope has no message",
            Self::Connection => "the connection of the envelope, or the excluded one, is no connection id",
        })
    }
}

impl std::error::Error for Malformed {}

/// Reads a payload.
///
/// # Errors
/// Says in which way it is not ours.
pub fn decode(payload: Bytes) -> Result<Envelope, Malformed> {
    if payload.first() != Some(&MARK) {
        std::str::from_utf8(&payload).map_err(|_| Malformed::Text)?;
        let message = Message::undeclared(Kind::Text, payload);
        return Ok(Envelope { origin: None, connection: None, exclude: None, message });
    }
    let read = proto::Envelope::decode(payload.slice(1..)).map_err(|_| Malformed::Envelope)?;
    let message = match read.message.and_then(|message| message.payload).ok_or(Malformed::Empty)? {
        proto::message::Payload::Text(text) => Message::new(Kind::Text, Bytes::from(text)),
        proto::message::Payload::Binary(binary) => Message::new(Kind::Binary, binary),
    };
    let id_of = |id: &str| match id {
        "" => Ok(None),
        id => id.parse().map(Some).map_err(|_| Malformed::Connection),
    };
    let (connection, exclude) = (id_of(&read.connection)?, id_of(&read.exclude)?);
    let origin = (!read.node.is_empty()).then_some((read.node, Epoch(read.epoch)));
    Ok(Envelope { origin, connection, exclude, message })
}

/// Writes a payload, always with an envelope.
#[must_use]
pub fn encode(
    origin: Option<(&str, Epoch)>,
    connection: Option<&ConnId>,
    exclude: Option<&ConnId>,
    message: &Message,
) -> Vec<u8> {
    let payload = match message.kind() {
        Kind::Text => proto::message::Payload::Text(String::from_utf8_lossy(message.payload()).into_owned()),
        Kind::Binary => proto::message::Payload::Binary(message.payload().clone()),
    };
    let (node, epoch) = origin.map_or((String::new(), 0), |(node, Epoch(epoch))| (node.to_owned(), epoch));
    let envelope = proto::Envelope {
        node,
        epoch,
        connection: connection.map(ToString::to_string).unwrap_or_default(),
        message: Some(proto::Message { payload: Some(payload) }),
        exclude: exclude.map(ToString::to_string).unwrap_or_default(),
    };
    let mut bytes = Vec::with_capacity(1 + envelope.encoded_len());
    bytes.push(MARK);
    // A vector grows, so there is no error to have.
    let _ = envelope.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(payload: &[u8]) -> Result<Envelope, Malformed> {
        decode(Bytes::copy_from_slice(payload))
    }

    #[test]
    fn plain_text_needs_no_envelope() {
        for text in ["", "hello", "\u{1}", "ü"] {
            let envelope = read(text.as_bytes()).unwrap();
            assert_eq!(
                (envelope.message.kind(), &envelope.message.payload()[..]),
                (Kind::Text, text.as_bytes())
            );
            assert!(envelope.origin.is_none() && envelope.connection.is_none() && envelope.exclude.is_none());
            assert!(!envelope.message.is_declared(), "a route may want it as binary");
        }
        assert_eq!(read(b"\xff").unwrap_err(), Malformed::Text);
    }

    #[test]
    fn an_envelope_keeps_what_it_is_given() {
        let id: ConnId = "node-1-0000abcd-1-2-3".parse().unwrap();
        for (kind, payload) in [
            (Kind::Text, &b""[..]),
            (Kind::Text, "\0text that begins like an envelope".as_bytes()),
            (Kind::Binary, &b""[..]),
            (Kind::Binary, &b"\0\xff\0"[..]),
            (Kind::Binary, &[7; 100_000][..]),
        ] {
            for (connection, exclude) in [(None, None), (Some(&id), None), (None, Some(&id))] {
                let message = Message::copy_from(kind, payload);
                let bytes = encode(Some(("node-1", Epoch(9))), connection, exclude, &message);
                assert_eq!(bytes[0], 0);
                let envelope = read(&bytes).unwrap();
                assert_eq!(envelope.origin, Some(("node-1".to_owned(), Epoch(9))));
                assert_eq!((envelope.connection.as_ref(), envelope.exclude.as_ref()), (connection, exclude));
                assert_eq!(envelope.message.kind(), kind);
                assert!(envelope.message.is_declared());
                assert_eq!(&envelope.message.payload()[..], payload);
            }
        }
        let message = Message::copy_from(Kind::Binary, b"x");
        assert_eq!(read(&encode(None, None, None, &message)).unwrap().origin, None);
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        for (payload, why) in [
            (&b"\0"[..], Malformed::Empty),
            (b"\0\x22\x00", Malformed::Empty),
            (b"\0garbage", Malformed::Envelope),
            (b"\0\x22\x7f", Malformed::Envelope),
            (b"\0\x22\x03\x0a\x01\xff", Malformed::Envelope),
            (b"\0\x1a\x03abc\x22\x02\x0a\x00", Malformed::Connection),
            (b"\0\x22\x02\x0a\x00\x2a\x03abc", Malformed::Connection),
        ] {
            assert_eq!(read(payload).unwrap_err(), why, "{payload:?}");
        }
    }

    #[test]
    fn no_cut_and_no_flipped_bit_does_more_than_be_refused() {
        let id: ConnId = "node-1-0000abcd-1-2-3".parse().unwrap();
        let message = Message::copy_from(Kind::Text, "grüße".as_bytes());
        let bytes = encode(Some(("node-1", Epoch(9))), Some(&id), Some(&id), &message);
        for end in 0..bytes.len() {
            let _ = read(&bytes[..end]);
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[end] ^= 1 << bit;
                let _ = read(&flipped);
            }
        }
    }
}
