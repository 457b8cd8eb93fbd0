//! WebSocket, RFC 6455, the server's side.
//!
//! Owns the vocabulary that reading and writing share. The parts: [`handshake`] opens, [`frame`] is the codec
//! of one frame, [`mask`] the XOR, [`utf8`] the incremental check, [`Assembly`] turns bytes into [`Item`]s,
//! [`close`] ends. Refuses extensions (reserved bits are a violation) and the client's side. Called by the
//! shard's WebSocket transport.

mod assembly;
pub mod close;
pub mod frame;
pub mod handshake;
pub mod mask;
mod origin;
pub mod utf8;

pub use assembly::Assembly;
pub use close::{Close, code, may_be_sent};
pub use frame::{HEADER_MAX, Opcode, header, push_close, push_frame};

/// What a message says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// The opcode of a message's first frame.
    #[inline]
    #[must_use]
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Text => Opcode::Text,
            Self::Binary => Opcode::Binary,
        }
    }
}

/// Bounds on what a client may send. They are checked against the header, before the payload has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes of one message, all its fragments together.
    pub message_bytes: usize,
    /// Payload bytes of one data frame.
    pub frame_bytes: usize,
    /// Frames of one message; 0 counts as 1, so an unfragmented message always passes.
    pub fragments: u32,
}

/// What a client said, borrowed from the input or from the [`Assembly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole message. A text payload has been checked: it is UTF-8.
    Message {
        /// Text or binary.
        kind: Kind,
        /// Unmasked payload.
        payload: &'a [u8],
    },
    /// A ping; the same payload goes back in a pong (section 5.5.2).
    Ping(&'a [u8]),
    /// A pong, asked for or not (section 5.5.3).
    Pong(&'a [u8]),
    /// The client's close. What follows it is to be ignored (section 5.5.1): stop calling [`Assembly::next`].
    Close(Option<Close<'a>>),
}
