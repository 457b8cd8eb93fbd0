//! WebSocket frames from the client's side: building masked ones, taking apart what a server sends.
//!
//! It owns the strictness of the harness: a masked, reserved, fragmented or oversized frame is a fault.
//! Headers are tungstenite's codec; its `WebSocket` is not used, as it would cost a read buffer per
//! connection. It refuses fragmented messages: no server under test needs them for what is sent here. Called
//! by `client`.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::fault::Fault;

/// Longest payload accepted from a server, bytes. What is sent is bounded by the same figure.
pub(crate) const LONGEST_PAYLOAD: usize = 1 << 20;

/// Longest frame: payload and the longest unmasked header (RFC 6455 section 5.2).
pub(crate) const LONGEST_FRAME: usize = LONGEST_PAYLOAD + 10;

/// Whether a message is sent as text or as binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MessageKind {
    /// Text: servers check it to be UTF-8.
    Text,
    /// Binary: bytes as they are.
    Binary,
}

/// One frame a server sent; the payload lies in the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A whole text or binary message.
    Message(&'a [u8]),
    /// A ping to answer with the same payload.
    Ping(&'a [u8]),
    /// A pong nobody asked for.
    Pong,
    /// The server closes, with this code (1005: none given) and this reason.
    Close(u16, &'a [u8]),
}

/// Takes the first frame from `bytes`; `None` while it is incomplete. Returns the frame and the bytes it
/// took.
///
/// # Errors
/// [`Fault::Frame`] for anything that RFC 6455 section 5 forbids a server, or that this harness refuses.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Fault> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) =
        FrameHeader::parse(&mut cursor).map_err(|_| Fault::Frame("reserved opcode"))?
    else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err(Fault::Frame("masked by the server"));
    }
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(Fault::Frame("reserved bits set"));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LONGEST_PAYLOAD {
        return Err(Fault::Frame("longer than asked for"));
    }
    if !header.is_final || header.opcode == OpCode::Data(Data::Continue) {
        return Err(Fault::Frame("fragmented"));
    }
    if matches!(header.opcode, OpCode::Control(_)) && length > 125 {
        return Err(Fault::Frame("control frame too long"));
    }
    let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let Some(payload) = bytes.get(start..start.saturating_add(length)) else { return Ok(None) };
    let frame = match header.opcode {
        OpCode::Data(_) => Incoming::Message(payload),
        OpCode::Control(Control::Ping) => Incoming::Ping(payload),
        OpCode::Control(Control::Pong) => Incoming::Pong,
        OpCode::Control(_) => match payload {
            [] => Incoming::Close(1005, &[]),
            [high, low, reason @ ..] => Incoming::Close(u16::from_be_bytes([*high, *low]), reason),
            [_] => return Err(Fault::Frame("close code of one byte")),
        },
    };
    Ok(Some((frame, start + length)))
}

/// Appends a masked data frame to `out`.
pub(crate) fn push_message(out: &mut Vec<u8>, kind: MessageKind, payload: &[u8]) {
    let data = match kind {
        MessageKind::Text => Data::Text,
        MessageKind::Binary => Data::Binary,
    };
    push_masked(out, OpCode::Data(data), payload);
}

/// Appends a masked pong carrying the ping's payload (RFC 6455 section 5.5.3).
pub(crate) fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
    push_masked(out, OpCode::Control(Control::Pong), payload);
}

/// Appends a masked close frame with a code.
pub(crate) fn push_close(out: &mut Vec<u8>, code: u16) {
    push_masked(out, OpCode::Control(Control::Close), &code.to_be_bytes());
}

fn push_masked(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let mask = fastrand::u32(..).to_ne_bytes();
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    let written = header.format(payload.len() as u64, out);
    debug_assert!(written.is_ok(), "a vector takes every header");
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn unmask(frame: &[u8]) -> (FrameHeader, Vec<u8>) {
        let mut cursor = Cursor::new(frame);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let start = usize::try_from(cursor.position()).unwrap();
        assert_eq!(frame.len(), start + usize::try_from(length).unwrap());
        let mask = header.mask.unwrap();
        (header, frame[start..].iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
    }

    #[test]
    fn a_built_message_unmasks_to_its_payload() {
        for size in [0, 1, 3, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'a'; size];
            let mut out = Vec::new();
            push_message(&mut out, MessageKind::Text, &payload);
            let (header, back) = unmask(&out);
            assert_eq!(header.opcode, OpCode::Data(Data::Text));
            assert!(header.is_final);
            assert_eq!(back, payload);
        }
    }

    #[test]
    fn a_frame_in_pieces_is_incomplete_until_its_last_byte() {
        let frame = [0x82, 0x7e, 0x00, 0x7e].into_iter().chain([7; 126]).collect::<Vec<u8>>();
        for end in 0..frame.len() {
            assert_eq!(parse(&frame[..end]), Ok(None));
        }
        assert_eq!(parse(&frame), Ok(Some((Incoming::Message(&[7; 126]), 130))));
    }

    #[test]
    fn what_a_server_must_not_send_is_a_fault() {
        for (bytes, why) in [
            (&[0x81, 0x80, 0, 0, 0, 0][..], "masked by the server"),
            (&[0xc1, 0x00], "reserved bits set"),
            (&[0x83, 0x00], "reserved opcode"),
            (&[0x01, 0x00], "fragmented"),
            (&[0x80, 0x00], "fragmented"),
            (&[0x88, 0x01, 0x03], "close code of one byte"),
            (&[0x89, 0x7e, 0x00, 0x7e], "control frame too long"),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 0x20, 0, 0], "longer than asked for"),
        ] {
            assert_eq!(parse(bytes), Err(Fault::Frame(why)), "{bytes:x?}");
        }
    }

    #[test]
    fn control_frames_are_recognised() {
        assert_eq!(parse(&[0x89, 0x02, 1, 2]), Ok(Some((Incoming::Ping(&[1, 2]), 4))));
        assert_eq!(parse(&[0x8a, 0x00, 9]), Ok(Some((Incoming::Pong, 2))));
        assert_eq!(parse(&[0x88, 0x03, 0x03, 0xe9, b'x']), Ok(Some((Incoming::Close(1001, b"x"), 5))));
        assert_eq!(parse(&[0x88, 0x00]), Ok(Some((Incoming::Close(1005, b""), 2))));
    }
}
