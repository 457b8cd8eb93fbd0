//! Reading one connection: bytes in, [`Item`]s out.
//!
//! Owns what is partial between two reads: half a header, half a frame, the fragments of a message, half a
//! character. Refuses to copy what arrived whole: such a payload is unmasked where it lies and lent from
//! there. What it holds never exceeds what has really arrived (doubling apart) nor the message limit plus one
//! control frame. Called by the shard's WebSocket transport, which makes one when a connection has something
//! partial and drops it when [`Assembly::is_idle`].
//!
//! ```text
//!             header whole, payload cut              payload whole, frame final
//!   Header ────────────────────────────► Payload ─────────────────────────────► Header + Item
//!     ▲  ╰── header and payload whole ──► Item       │ frame not final
//!     ╰──────────────────────────────────────────────╯
//! ```

use std::ops::Range;

use super::close::Close;
use super::frame::{CLIENT_HEADER_MAX, CONTROL_MAX, Header, Opcode};
use super::mask::unmask;
use super::utf8::Utf8;
use super::{Item, Kind, Limits};
use crate::error::Violation;

/// The first allocation for something partial, bytes: less would only be grown again.
const FIRST_CAPACITY: usize = 128;

/// The reading state of one connection. `Default` is idle: nothing is held.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The payload of the open message so far, and behind it that of a control frame in progress.
    buffer: Vec<u8>,
    /// Payload bytes of the current frame that have not come yet.
    missing: usize,
    /// Frames of the open message so far.
    fragments: u32,
    /// The mask of the current frame, turned so that its first byte is for the next byte of payload.
    mask: [u8; 4],
    utf8: Utf8,
    /// The part of a header that has come.
    header: [u8; CLIENT_HEADER_MAX],
    header_len: u8,
    /// How many bytes at the end of `buffer` belong to a control frame.
    control_len: u8,
    stage: Stage,
    /// The message that is open, between its first and its last frame.
    open: Option<Kind>,
    /// The last item was lent from `buffer`: it has been read when the next call comes.
    is_lent: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Header,
    /// Payload of the open message.
    Fragment { is_final: bool },
    /// Payload of a control frame.
    Control(Opcode),
}

/// Where an item's payload lies.
enum Place {
    Input(Range<usize>),
    /// From here to the end of the buffer.
    Buffer(usize),
}

/// An item before its payload is borrowed.
struct Found {
    what: What,
    place: Place,
}

enum What {
    Message(Kind),
    Control(Opcode),
}

impl Assembly {
    /// Idle: nothing is held.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            missing: 0,
            fragments: 0,
            mask: [0; 4],
            utf8: Utf8::new(),
            header: [0; CLIENT_HEADER_MAX],
            header_len: 0,
            control_len: 0,
            stage: Stage::Header,
            open: None,
            is_lent: false,
        }
    }

    /// The next item out of `input[*at..]`; moves `*at` behind what it took. `None`: all of the input was
    /// taken, and what was partial is kept inside. Call it until then.
    ///
    /// The payload of a whole, unfragmented frame is unmasked within `input` and borrowed from there. Control
    /// frames come out at once, also between the fragments of a message. Text is checked as it arrives: the
    /// call that brings the first wrong byte fails. `limits` may change between calls; they are checked at
    /// each header.
    ///
    /// # Errors
    /// The first violation in the stream, the same however the stream was split. The connection is to be
    /// failed with its code; do not call this again afterwards.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        at: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Item<'a>>, Violation> {
        let Some(found) = self.find(input, at, limits)? else { return Ok(None) };
        let payload: &'a [u8] = match found.place {
            Place::Input(range) => &input[range],
            Place::Buffer(from) => &self.buffer[from..],
        };
        Ok(Some(match found.what {
            What::Message(kind) => Item::Message { kind, payload },
            What::Control(Opcode::Ping) => Item::Ping(payload),
            What::Control(Opcode::Pong) => Item::Pong(payload),
            What::Control(_) => Item::Close(Close::parse(payload)?),
        }))
    }

    /// Whether nothing partial is left, so that the caller may drop it (and with it a buffer whose message
    /// was read).
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Header && self.header_len == 0 && self.open.is_none()
    }

    /// Bytes of memory held beyond its own size.
    #[inline]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    #[inline]
    fn find(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Found>, Violation> {
        debug_assert!(*at <= input.len(), "{at} is behind the input");
        if self.is_lent {
            self.release();
        }
        loop {
            if self.stage == Stage::Header {
                let Some(header) = self.read_header(input, at)? else { return Ok(None) };
                self.admit(&header, limits)?;
                if let Some(found) = self.take_whole(&header, input, at)? {
                    return Ok(Some(found));
                }
                self.begin(&header);
            }
            let is_frame_over = self.take_part(input, at, limits)?;
            if !is_frame_over {
                return Ok(None);
            }
            if let Some(found) = self.end_frame()? {
                return Ok(Some(found));
            }
        }
    }

    /// A whole header; when there is less, it is kept for the next input.
    #[inline]
    fn read_header(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Header>, Violation> {
        let rest = input.get(*at..).unwrap_or_default();
        if self.header_len > 0 {
            return self.join_header(rest, at);
        }
        if let Some(header) = Header::parse(rest)? {
            *at += header.size;
            return Ok(Some(header));
        }
        debug_assert!(rest.len() < CLIENT_HEADER_MAX, "a header of {} bytes is whole", rest.len());
        self.header[..rest.len()].copy_from_slice(rest);
        self.header_len = rest.len() as u8;
        *at = input.len();
        Ok(None)
    }

    /// Continues a header whose first bytes came with an earlier input.
    fn join_header(&mut self, rest: &[u8], at: &mut usize) -> Result<Option<Header>, Violation> {
        let had = usize::from(self.header_len);
        let taken = rest.len().min(CLIENT_HEADER_MAX - had);
        self.header[had..had + taken].copy_from_slice(&rest[..taken]);
        if let Some(header) = Header::parse(&self.header[..had + taken])? {
            self.header_len = 0;
            *at += header.size - had;
            return Ok(Some(header));
        }
        self.header_len = (had + taken) as u8;
        *at += taken;
        Ok(None)
    }

    /// What a header may not say at this point of the stream, or under these limits.
    #[inline]
    fn admit(&self, header: &Header, limits: &Limits) -> Result<(), Violation> {
        match (header.opcode, self.open) {
            (Opcode::Continuation, None) => return Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::ExpectedContinuation),
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation | Opcode::Text | Opcode::Binary, _) => {}
        }
        if header.payload_bytes > limits.frame_bytes as u64 {
            return Err(Violation::FrameTooBig);
        }
        // Neither can overflow: the payload is below 2^63 and the buffer is memory.
        if self.buffer.len() as u64 + header.payload_bytes > limits.message_bytes as u64 {
            return Err(Violation::MessageTooBig);
        }
        if self.open.is_some() && self.fragments >= limits.fragments {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    /// The item, when the frame is all there and needs nothing that is held.
    #[inline]
    fn take_whole(
        &self,
        header: &Header,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Found>, Violation> {
        let what = match header.opcode {
            Opcode::Text if header.is_final => What::Message(Kind::Text),
            Opcode::Binary if header.is_final => What::Message(Kind::Binary),
            Opcode::Close | Opcode::Ping | Opcode::Pong => What::Control(header.opcode),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => return Ok(None),
        };
        // Admitted, so it fits into usize.
        let range = *at..*at + header.payload_bytes as usize;
        let Some(payload) = input.get_mut(range.clone()) else { return Ok(None) };
        unmask(payload, header.mask, 0);
        if matches!(what, What::Message(Kind::Text)) && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(Violation::InvalidUtf8);
        }
        *at = range.end;
        Ok(Some(Found { what, place: Place::Input(range) }))
    }

    /// Enters a frame whose payload will be held.
    fn begin(&mut self, header: &Header) {
        self.missing = header.payload_bytes as usize;
        self.mask = header.mask;
        if header.opcode.is_control() {
            self.stage = Stage::Control(header.opcode);
            return;
        }
        self.stage = Stage::Fragment { is_final: header.is_final };
        if header.opcode == Opcode::Continuation {
            self.fragments += 1;
            return;
        }
        self.open = Some(if header.opcode == Opcode::Text { Kind::Text } else { Kind::Binary });
        self.fragments = 1;
        debug_assert!(self.utf8.is_boundary(), "the last text ended inside a character");
    }

    /// Takes what has come of the current frame's payload; whether that was all of it.
    fn take_part(&mut self, input: &mut [u8], at: &mut usize, limits: &Limits) -> Result<bool, Violation> {
        let rest = input.get_mut(*at..).unwrap_or_default();
        let taken = self.missing.min(rest.len());
        let part = &mut rest[..taken];
        unmask(part, self.mask, 0);
        match self.stage {
            Stage::Control(_) => self.control_len += taken as u8,
            Stage::Fragment { .. } if self.open == Some(Kind::Text) => {
                self.utf8.feed(part).map_err(|_| Violation::InvalidUtf8)?;
            }
            Stage::Fragment { .. } | Stage::Header => {}
        }
        self.make_room(taken, limits);
        self.buffer.extend_from_slice(part);
        self.mask.rotate_left(taken % 4);
        self.missing -= taken;
        *at += taken;
        Ok(self.missing == 0)
    }

    /// Doubles, but never past what this frame (when it is the last) or the limit can still fill.
    fn make_room(&mut self, additional: usize, limits: &Limits) {
        let needed = self.buffer.len() + additional;
        if needed <= self.buffer.capacity() {
            return;
        }
        let ceiling = match self.stage {
            Stage::Fragment { is_final: false } => limits.message_bytes,
            // A control frame is short, and the message behind it may go on; the doubling is bounded all the
            // same.
            Stage::Control(_) if self.open.is_some() => limits.message_bytes.saturating_add(CONTROL_MAX),
            Stage::Control(_) | Stage::Fragment { is_final: true } | Stage::Header => {
                self.buffer.len().saturating_add(self.missing)
            }
        };
        let capacity = (self.buffer.capacity() * 2).max(FIRST_CAPACITY).min(ceiling).max(needed);
        self.buffer.reserve_exact(capacity - self.buffer.len());
    }

    /// The item that ends with the current frame, if one does.
    fn end_frame(&mut self) -> Result<Option<Found>, Violation> {
        let found = match self.stage {
            Stage::Control(opcode) => {
                let from = self.buffer.len() - usize::from(self.control_len);
                Some(Found { what: What::Control(opcode), place: Place::Buffer(from) })
            }
            Stage::Fragment { is_final: true } => {
                self.utf8.finish().map_err(|_| Violation::InvalidUtf8)?;
                self.open.take().map(|kind| Found { what: What::Message(kind), place: Place::Buffer(0) })
            }
            Stage::Fragment { is_final: false } | Stage::Header => None,
        };
        self.stage = Stage::Header;
        self.is_lent = found.is_some();
        Ok(found)
    }

    /// Lets go of what the last item was lent from.
    #[cold]
    fn release(&mut self) {
        self.is_lent = false;
        if self.open.is_none() {
            self.buffer = Vec::new();
        } else {
            self.buffer.truncate(self.buffer.len() - usize::from(self.control_len));
        }
        self.control_len = 0;
    }
}
