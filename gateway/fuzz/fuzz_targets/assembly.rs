//! Fuzzes the reading of a connection: whole and in pieces, the same bytes say the same things and break in
//! the same way, and what is held stays within the limits.
//!
//! The first bytes of the input choose limits, pieces and whether the rest is taken as it is or made into
//! frames (random bytes seldom get past the first header).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::error::Violation;
use wire::ws::{Assembly, Item, Kind, Limits, Opcode, header};

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[mode, limit, fragments, seed], rest)) = bytes.split_first_chunk::<4>() else { return };
    let limits = Limits {
        message_bytes: usize::from(limit) * 8,
        frame_bytes: usize::from(limit) * if mode & 2 == 0 { 8 } else { 4 },
        fragments: u32::from(fragments),
    };
    let stream = if mode & 1 == 0 { rest.to_vec() } else { frames(rest) };
    let whole = read(&[&stream], &limits);
    assert_eq!(read(&pieces(&stream, seed), &limits), whole);
    assert_eq!(read(&stream.chunks(1).collect::<Vec<_>>(), &limits), whole);
});

/// Frames from bytes: first byte, payload length, payload. Reserved bits and opcodes stay possible.
fn frames(mut plan: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, len, rest @ ..] = plan {
        let (payload, after) = rest.split_at(usize::from(*len).min(rest.len()));
        let (mut head, size) = header(Opcode::Binary, payload.len());
        head[0] = *first;
        head[1] |= 0x80;
        let mask = [*len, *first, 0, 0xff];
        stream.extend_from_slice(&head[..size]);
        stream.extend_from_slice(&mask);
        stream.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        plan = after;
    }
    stream
}

/// Pieces of 1 to 32 bytes, by a small generator.
fn pieces(mut stream: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed) | 1;
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, rest) = stream.split_at((1 + (state >> 27) as usize).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

fn read(pieces: &[&[u8]], limits: &Limits) -> (Vec<Said>, Option<Violation>) {
    let mut assembly = Assembly::new();
    let mut items = Vec::new();
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            let item = match assembly.next(&mut input, &mut at, limits) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(violation) => return (items, Some(violation)),
            };
            items.push(own(&item, limits));
            if let Some(Said::Close(_)) = items.last() {
                return (items, None);
            }
        }
        assert_eq!(at, input.len());
        assert!(assembly.held_bytes() <= limits.message_bytes + 125);
        if assembly.is_idle() {
            assert_eq!(assembly.held_bytes(), 0);
            assembly = Assembly::new();
        }
    }
    (items, None)
}

fn own(item: &Item<'_>, limits: &Limits) -> Said {
    match *item {
        Item::Message { kind, payload } => {
            assert!(payload.len() <= limits.message_bytes);
            assert!(kind == Kind::Binary || str::from_utf8(payload).is_ok());
            Said::Message(kind, payload.to_vec())
        }
        Item::Ping(payload) => Said::Ping(payload.to_vec()),
        Item::Pong(payload) => Said::Pong(payload.to_vec()),
        Item::Close(close) => Said::Close(close.map(|close| (close.code, close.reason.to_owned()))),
    }
}
