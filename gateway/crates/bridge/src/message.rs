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
    payload: Bytes,
    websocket: OnceLock<Bytes>,
}

impl Message {
    /// Copies a payload out of a buffer that will be used again. The WebSocket frame is built in the same
    /// allocation, because a copy is made anyway.
    #[must_use]
    pub fn copy_from(kind: Kind, payload: &[u8]) -> Self {
        let frame = websocket_frame(kind, payload);
        let payload = frame.slice(frame.len() - payload.len()..);
        Self(Arc::new(Encodings { kind, payload, websocket: OnceLock::from(frame) }))
    }

    /// Takes a payload that is already shared; encodings are made when somebody needs them.
    #[must_use]
    pub fn new(kind: Kind, payload: Bytes) -> Self {
        Self(Arc::new(Encodings { kind, payload, websocket: OnceLock::new() }))
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
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
    use super::*;

    #[test]
    fn an_encoding_is_made_once_and_shared() {
        let message = Message::new(Kind::Text, Bytes::from_static(b"hello"));
        let first = message.websocket().as_ptr();
        assert_eq!(first, message.clone().websocket().as_ptr());
        assert_eq!(&message.websocket()[..], b"\x81\x05hello");
    }

    #[test]
    fn a_copied_payload_lives_inside_its_frame() {
        let message = Message::copy_from(Kind::Binary, b"abc");
        assert_eq!(&message.payload()[..], b"abc");
        assert_eq!(message.payload().as_ptr(), message.websocket()[2..].as_ptr());
    }
}
