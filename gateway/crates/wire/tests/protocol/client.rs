//! The client's side for tests: it builds masked frames, makes random traffic from a seed, and writes down
//! what the reader said. Refuses to share code with the crate under test where that would hide a mistake.

use fastrand::Rng;
use wire::error::Violation;
use wire::ws::{Assembly, Item, Kind, Limits};

/// Wide enough that no limit is met.
pub(crate) const WIDE: Limits = Limits { message_bytes: 1 << 24, frame_bytes: 1 << 24, fragments: u32::MAX };

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// An item that outlives the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Item<'_>> for Said {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Message { kind, payload } => Self::Message(kind, payload.to_vec()),
            Item::Ping(payload) => Self::Ping(payload.to_vec()),
            Item::Pong(payload) => Self::Pong(payload.to_vec()),
            Item::Close(close) => Self::Close(close.map(|close| (close.code, close.reason.to_owned()))),
        }
    }
}

/// What came out of a stream, up to its close.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) items: Vec<Said>,
    pub(crate) violation: Option<Violation>,
}

/// A masked client frame, final unless `first` lacks the top bit; `first` is the whole first byte.
pub(crate) fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    bytes
}

/// A final frame with a mask that is easy to spot in a dump.
pub(crate) fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, [1, 2, 3, 4], payload)
}

/// A frame that is not the last of its message.
pub(crate) fn part(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, [0xa5, 0, 0xff, 0x5a], payload)
}

/// Reads a stream that arrives in these pieces, as a shard does: drops the assembly whenever it is idle.
/// Checks what must hold after each piece.
pub(crate) fn read(pieces: &[&[u8]], limits: &Limits) -> Heard {
    let mut heard = Heard::default();
    let mut assembly = Assembly::new();
    let mut arrived = 0;
    for piece in pieces {
        arrived += piece.len();
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            match assembly.next(&mut input, &mut at, limits) {
                Ok(Some(item)) => heard.items.push(item.into()),
                Ok(None) => break,
                Err(violation) => {
                    heard.violation = Some(violation);
                    return heard;
                }
            }
            if matches!(heard.items.last(), Some(Said::Close(_))) {
                return heard;
            }
        }
        assert_eq!(at, input.len(), "None means that all input was taken");
        assert!(assembly.held_bytes() <= limits.message_bytes + 125, "held more than the limits allow");
        assert!(assembly.held_bytes() <= (2 * arrived).max(128), "held more than twice what arrived");
        if assembly.is_idle() {
            assert_eq!(assembly.held_bytes(), 0, "idle means that nothing is held");
            assembly = Assembly::new();
        }
    }
    heard
}

/// Cuts a stream at random places; most pieces are short, some empty.
pub(crate) fn cut<'b>(rng: &mut Rng, mut stream: &'b [u8]) -> Vec<&'b [u8]> {
    let longest = [1, 3, 20, 300, 5000, 100_000][rng.usize(..6)];
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(rng.usize(..=longest).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// Random valid traffic: the bytes, and what a reader is to make of them. Sometimes it ends with a close.
pub(crate) fn traffic(rng: &mut Rng, messages: usize, longest: usize) -> (Vec<u8>, Vec<Said>) {
    let mut bytes = Vec::new();
    let mut said = Vec::new();
    for _ in 0..messages {
        control(rng, &mut bytes, &mut said);
        message(rng, longest, &mut bytes, &mut said);
    }
    if rng.bool() {
        let close = rng.bool().then(|| (4000 + rng.u16(..1000), "bye".repeat(rng.usize(..20))));
        let payload =
            close.as_ref().map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat());
        bytes.extend(frame(0x80 | CLOSE, mask(rng), &payload.unwrap_or_default()));
        said.push(Said::Close(close));
    }
    (bytes, said)
}

/// One message, often in fragments (some of them empty) with control frames in between.
fn message(rng: &mut Rng, longest: usize, bytes: &mut Vec<u8>, said: &mut Vec<Said>) {
    let len =
        [0, 1, 125, 126, 127, 128, rng.usize(..=longest), rng.usize(..=longest)][rng.usize(..8)].min(longest);
    let is_text = rng.bool();
    let payload = if is_text { text(rng, len) } else { (0..len).map(|_| rng.u8(..)).collect() };
    let mut opcode = if is_text { TEXT } else { BINARY };
    let mut rest = &payload[..];
    for _ in 0..rng.usize(..4) {
        let (fragment, after) = rest.split_at(rng.usize(..=rest.len()));
        bytes.extend(frame(opcode, mask(rng), fragment));
        control(rng, bytes, said);
        opcode = CONTINUATION;
        rest = after;
    }
    bytes.extend(frame(0x80 | opcode, mask(rng), rest));
    said.push(Said::Message(if is_text { Kind::Text } else { Kind::Binary }, payload));
}

fn control(rng: &mut Rng, bytes: &mut Vec<u8>, said: &mut Vec<Said>) {
    if rng.u8(..3) > 0 {
        return;
    }
    let payload: Vec<u8> = (0..rng.usize(..=125)).map(|_| rng.u8(..)).collect();
    let is_ping = rng.bool();
    bytes.extend(frame(0x80 | if is_ping { PING } else { PONG }, mask(rng), &payload));
    said.push(if is_ping { Said::Ping(payload) } else { Said::Pong(payload) });
}

fn text(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < len {
        let widest = [0x7f, 0x7ff, 0xffff, 0x10_ffff][rng.usize(..4)];
        text.push(rng.char('\0'..=char::from_u32(widest).unwrap()));
    }
    text.into_bytes()
}

fn mask(rng: &mut Rng) -> [u8; 4] {
    rng.u32(..).to_ne_bytes()
}

/// Runs a test for many seeds. When one fails, its seed is printed: `WIRE_SEED=<seed>` runs that one alone.
pub(crate) fn for_seeds(cases: usize, mut case: impl FnMut(&mut Rng)) {
    if let Ok(seed) = std::env::var("WIRE_SEED") {
        return case(&mut Rng::with_seed(seed.parse().unwrap()));
    }
    let mut seeds = Rng::new();
    for _ in 0..cases {
        let seed = TellSeed(seeds.u64(..));
        case(&mut Rng::with_seed(seed.0));
    }
}

struct TellSeed(u64);

impl Drop for TellSeed {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WIRE_SEED={}", self.0);
        }
    }
}
