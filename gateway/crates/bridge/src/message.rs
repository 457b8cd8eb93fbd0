//! A message and its encodings. Each encoding is made at most once, whoever asks first, and shared by all shards.

use std::sync::{Arc, OnceLock};

pub use bytes::Bytes;
use bytes::BytesMut;
pub use wire::ws::Kind;
use wire::ws::frame;

/// Application payload on its way to any number of connections; a clone shares everything.
#[derive(Clone, Debug)]
pub struct Message(Arc<Encodings>);

#[derive(Debug)]
struct Encodings {
    kind: Kind,
    /// Whether the sender said so, rather than that the bytes look like it.
    is_declared: bool,
    payload: Bytes,
    websocket: OnceLock<Bytes>,
    /// The frame of the other kind, for routes that ask for it. In a box: most messages have none.
    otherwise: OnceLock<Box<Bytes>>,
}

impl Message {
    /// Copies a payload out of a buffer that will be used again. The WebSocket frame is built in the same
    /// allocation, because a copy is made anyway.
    #[must_use]
    pub fn copy_from(kind: Kind, payload: &[u8]) -> Self {
        let frame = websocket_frame(kind, payload);
        let payload = frame.slice(frame.len() - payload.len()..);
        Self::of(kind, true, payload, OnceLock::from(frame))
    }

    /// Takes a payload that is already shared; encodings are made when somebody needs them.
    #[must_use]
    pub fn new(kind: Kind, payload: Bytes) -> Self {
        Self::of(kind, true, payload, OnceLock::new())
    }

    /// The same of a sender who did not say what it is: `kind` is what it looks like, and holds where a route does not ask
    /// for another one.
    #[must_use]
    pub fn undeclared(kind: Kind, payload: Bytes) -> Self {
        Self::of(kind, false, payload, OnceLock::new())
    }

    fn of(kind: Kind, is_declared: bool, payload: Bytes, websocket: OnceLock<Bytes>) -> Self {
        Self(Arc::new(Encodings { kind, is_declared, payload, websocket, otherwise: OnceLock::new() }))
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether its sender said what it is. If not, a route may have its own mind.
    #[must_use]
    pub fn is_declared(&self) -> bool {
        self.0.is_declared
    }

    /// The application's bytes.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// The message as one unmasked WebSocket frame (RFC 6455, section 5.2).
    #[must_use]
    pub fn websocket(&self) -> &Bytes {
        self.0.websocket.get_or_init(|| websocket_frame(self.0.kind, &self.0.payload))
    }

    /// The frame for a route that wants `kind` of what does not say what it is. As long as any other frame of the message.
    /// `None` when it wants text, and this is none.
    #[must_use]
    pub fn websocket_as(&self, kind: Kind) -> Option<&Bytes> {
        match (self.0.is_declared || self.0.kind == kind, kind) {
            (true, _) => Some(self.websocket()),
            (false, Kind::Text) => None,
            (false, Kind::Binary) => {
                Some(self.0.otherwise.get_or_init(|| Box::new(websocket_frame(kind, &self.0.payload))))
            }
        }
    }
}

fn websocket_frame(kind: Kind, payload: &[u8]) -> Bytes {
    let (header, header_bytes) = frame::header(kind.opcode(), payload.len());
    let mut frame = BytesMut::with_capacity(header_bytes + payload.len());
    frame.extend_from_slice(&header[..header_bytes]);
    frame.extend_from_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_encoding_is_made_once_and_shared() {
        let message = Message::new(Kind::Text, Bytes::from_static(b"hello"));
        let first = message.websocket().as_ptr();
        assert_eq!(first, message.clone().websocket().as_ptr());
        assert_eq!(&message.websocket()[..], b"\x81\x05hello");
    }

    #[test]
    fn what_does_not_say_what_it_is_goes_out_as_a_route_asks_and_never_as_text_that_is_none() {
        let text = Message::undeclared(Kind::Text, Bytes::from_static(b"hi"));
        assert_eq!(&text.websocket()[..], b"\x81\x02hi");
        assert_eq!(&text.websocket_as(Kind::Text).unwrap()[..], b"\x81\x02hi");
        let binary = text.websocket_as(Kind::Binary).unwrap();
        assert_eq!(&binary[..], b"\x82\x02hi");
        assert_eq!(binary.as_ptr(), text.clone().websocket_as(Kind::Binary).unwrap().as_ptr(), "made once");
        let bytes = Message::undeclared(Kind::Binary, Bytes::from_static(b"\xff"));
        assert_eq!(&bytes.websocket_as(Kind::Binary).unwrap()[..], b"\x82\x01\xff");
        assert_eq!(bytes.websocket_as(Kind::Text), None);
    }

    #[test]
    fn what_says_what_it_is_stays_that() {
        for (kind, frame) in [(Kind::Text, b"\x81\x01a"), (Kind::Binary, b"\x82\x01a")] {
            let message = Message::new(kind, Bytes::from_static(b"a"));
            for asked in [Kind::Text, Kind::Binary] {
                assert_eq!(&message.websocket_as(asked).unwrap()[..], frame);
            }
        }
    }

    #[test]
    fn a_copied_payload_lives_inside_its_frame() {
        let message = Message::copy_from(Kind::Binary, b"abc");
        assert_eq!(&message.payload()[..], b"abc");
        assert_eq!(message.payload().as_ptr(), message.websocket()[2..].as_ptr());
    }
}
