//! The codec of one frame (RFC 6455 section 5.2): client headers are read, server frames are written.
//!
//! Owns what a header alone can tell. Refuses to judge sequences of frames and limits (`Assembly` does) and
//! to write masked or fragmented frames: a server needs neither. Headers are read here and not by
//! tungstenite's codec, because that one accepts reserved bits and long-winded lengths, and is several times
//! slower; tests hold the two together.

use crate::error::Violation;

/// The longest header of a server frame, bytes.
pub const HEADER_MAX: usize = 10;

/// The longest header of a client frame, bytes.
pub const CLIENT_HEADER_MAX: usize = 14;

/// The longest payload of a control frame, bytes (section 5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame is for (section 11.8). The value is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment.
    Continuation = 0,
    /// The start of a text message.
    Text = 1,
    /// The start of a binary message.
    Binary = 2,
    /// The start of the end.
    Close = 8,
    /// Are you there?
    Ping = 9,
    /// I am.
    Pong = 10,
}

impl Opcode {
    /// Whether it is a control frame: never fragmented, at most [`CONTROL_MAX`] bytes.
    #[inline]
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    #[inline]
    const fn from_low_bits(first: u8) -> Option<Self> {
        match first & 0x0f {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// The header of a client frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether it ends its message.
    pub is_final: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// Payload bytes; below 2^63.
    pub payload_bytes: u64,
    /// The client's mask.
    pub mask: [u8; 4],
    /// Bytes of the header itself, 6 to [`CLIENT_HEADER_MAX`].
    pub size: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when it is not all there.
    ///
    /// # Errors
    /// A violation is told at the first byte that proves it, whether or not the rest of the header has come:
    /// the outcome depends on the bytes alone, not on how they were split.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        let Some(opcode) = Opcode::from_low_bits(first) else { return Err(Violation::ReservedOpcode) };
        let is_final = first & 0x80 != 0;
        if opcode.is_control() && !is_final {
            return Err(Violation::ControlFragmented);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_MAX {
            return Err(Violation::ControlTooLong);
        }
        let Some((payload_bytes, mask_at)) = length(bytes, short)? else { return Ok(None) };
        let Some(&mask) = bytes.get(mask_at..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        Ok(Some(Self { is_final, opcode, payload_bytes, mask, size: mask_at + 4 }))
    }
}

/// The payload length and where the mask begins; `None` when the length is not all there.
#[inline]
fn length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, Violation> {
    match short {
        126 => {
            let Some(&field) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            let len = u16::from_be_bytes(field);
            if len < 126 { Err(Violation::NonMinimalLength) } else { Ok(Some((len.into(), 4))) }
        }
        127 => {
            let Some(&field) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            let len = u64::from_be_bytes(field);
            if len >> 63 != 0 {
                Err(Violation::LengthTopBit)
            } else if len <= u16::MAX.into() {
                Err(Violation::NonMinimalLength)
            } else {
                Ok(Some((len, 10)))
            }
        }
        _ => Ok(Some((short.into(), 2))),
    }
}

/// The header of a final, unmasked frame with `len` bytes of payload: the bytes and how many of them count.
#[inline]
#[must_use]
pub const fn header(opcode: Opcode, len: usize) -> ([u8; HEADER_MAX], usize) {
    let mut bytes = [0; HEADER_MAX];
    bytes[0] = 0x80 | opcode as u8;
    if len < 126 {
        bytes[1] = len as u8;
        (bytes, 2)
    } else if len <= u16::MAX as usize {
        let field = (len as u16).to_be_bytes();
        bytes[1] = 126;
        bytes[2] = field[0];
        bytes[3] = field[1];
        (bytes, 4)
    } else {
        let field = (len as u64).to_be_bytes();
        bytes[1] = 127;
        let mut at = 0;
        while at < 8 {
            bytes[2 + at] = field[at];
            at += 1;
        }
        (bytes, 10)
    }
}

/// Appends a final, unmasked frame. The caller bounds `out`.
#[inline]
pub fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    debug_assert!(
        !opcode.is_control() || payload.len() <= CONTROL_MAX,
        "a control frame of {}",
        payload.len()
    );
    let (head, len) = header(opcode, payload.len());
    out.reserve(len + payload.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(payload);
}

/// Appends a close frame. A reason of more than 123 bytes is cut at a character (section 5.5).
pub fn push_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    debug_assert!(super::may_be_sent(code), "close code {code}");
    let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - 2)];
    let (head, len) = header(Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}
