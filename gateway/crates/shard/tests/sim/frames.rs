//! The client's codec: masked frames out, and a strict reader of what a server may send.
//!
//! Written apart from the code under test on purpose, so that a mistake there is not mirrored here.

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const MASK: [u8; 4] = [0x1f, 0xc3, 0x5a, 0x80];

/// A masked frame; `first` is its whole first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A final frame.
pub(crate) fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, payload)
}

/// A close frame with a code and no reason.
pub(crate) fn close(code: u16) -> Vec<u8> {
    whole(CLOSE, &code.to_be_bytes())
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message { opcode: u8, payload: Vec<u8> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// The reader. Everything that a server must not do is an error.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
    closed: bool,
}

impl Decoder {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<Option<Said>, String> {
        if self.closed && !self.held.is_empty() {
            return Err(format!("{} bytes behind the close frame", self.held.len()));
        }
        let Some((header, length)) = self.header()? else { return Ok(None) };
        if self.held.len() < header + length {
            return Ok(None);
        }
        let opcode = self.held[0] & 0x0f;
        let payload = self.held[header..header + length].to_vec();
        self.held.drain(..header + length);
        let said = match opcode {
            TEXT if str::from_utf8(&payload).is_err() => return Err("text that is not UTF-8".into()),
            TEXT | BINARY => Said::Message { opcode, payload },
            PING => Said::Ping(payload),
            PONG => Said::Pong(payload),
            CLOSE => {
                self.closed = true;
                Said::Close(close_code(&payload)?)
            }
            other => return Err(format!("opcode {other}")),
        };
        Ok(Some(said))
    }

    /// Bytes of the header, and of the payload.
    fn header(&self) -> Result<Option<(usize, usize)>, String> {
        let [first, second, rest @ ..] = &self.held[..] else { return Ok(None) };
        if first & 0xf0 != 0x80 {
            return Err(format!(
                "first byte {first:#04x}: a server sends final frames without reserved bits"
            ));
        }
        if second & 0x80 != 0 {
            return Err("a masked frame from a server".into());
        }
        if first & 0x08 != 0 && *second > 125 {
            return Err("a long control frame".into());
        }
        let (header, length, least) = match (second, rest) {
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b])), 126),
            (127, rest) if rest.len() >= 8 => (10, u64::from_be_bytes(*rest.first_chunk().unwrap()), 65_536),
            (126 | 127, _) => return Ok(None),
            (short, _) => (2, u64::from(*short), 0),
        };
        if length < least || length > 1 << 24 {
            return Err(format!("a length of {length} in a header of {header} bytes"));
        }
        Ok(Some((header, length as usize)))
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, String> {
    match payload {
        [] => Ok(None),
        [_] => Err("a close frame with one byte".into()),
        [high, low, reason @ ..] => {
            str::from_utf8(reason).map_err(|_| "a close reason that is not UTF-8")?;
            Ok(Some(u16::from_be_bytes([*high, *low])))
        }
    }
}
