//! One connection of the floor: its socket, and which of two things its messages do.
//!
//! It owns the upgrade and the taking apart of frames. It refuses anything that does not come in one piece.
//! Used by `floor`.

use std::io::{Cursor, Write};

use mio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::Mode;

/// Where a connection is, which decides what becomes of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Not upgraded yet.
    Nowhere,
    /// Its messages go back to it, or nowhere.
    Alone,
    /// Its messages go to everybody in the one room.
    Room,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: TcpStream,
    pub(super) place: Place,
}

impl Link {
    /// Accepted, not upgraded.
    pub(super) fn new(socket: TcpStream) -> Link {
        Link { socket, place: Place::Nowhere }
    }

    /// The socket, for reading.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Answers an upgrade that came in one piece.
    pub(super) fn upgrade(&mut self, head: &[u8], mode: Mode, out: &mut Vec<u8>) -> bool {
        let name = b"Sec-WebSocket-Key: ";
        let Some(start) = head.windows(name.len()).position(|window| window == name) else { return false };
        let key = head[start + name.len()..].split(|&byte| byte == b'\r').next().unwrap_or_default();
        out.clear();
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.extend_from_slice(derive_accept_key(key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        self.place = match mode {
            Mode::Fanout => Place::Room,
            Mode::Paths if !head.starts_with(b"GET /echo ") => Place::Room,
            Mode::Echo | Mode::Handshake | Mode::Paths => Place::Alone,
        };
        self.write(out)
    }

    /// One write; what does not fit is a failure.
    pub(super) fn write(&self, bytes: &[u8]) -> bool {
        bytes.is_empty() || (&self.socket).write(bytes).is_ok_and(|count| count == bytes.len())
    }
}

/// Turns every data frame in `bytes` (unless nobody wants them) and every close frame into one of a server,
/// into `out`. Whether the connection goes on; `None` for what is not whole frames.
pub(super) fn frames(bytes: &mut [u8], wanted: bool, out: &mut Vec<u8>) -> Option<bool> {
    let mut at = 0;
    while at < bytes.len() {
        let mut cursor = Cursor::new(&bytes[at..]);
        let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
        let start = at + usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let payload = bytes.get_mut(start..end)?;
        unmask(payload, header.mask.unwrap_or_default());
        at = end;
        match header.opcode {
            OpCode::Data(_) if wanted => push(out, header.opcode, payload),
            OpCode::Control(Control::Close) => {
                push(out, header.opcode, payload);
                return Some(false);
            }
            _ => {}
        }
    }
    Some(true)
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

fn push(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let written = header.format(payload.len() as u64, out);
    debug_assert!(written.is_ok(), "a vector takes every header");
    out.extend_from_slice(payload);
}
