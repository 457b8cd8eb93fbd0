//! However a stream is split, it says the same: whole, byte by byte, cut at random, valid or broken.

use fastrand::Rng;
use wire::ws::Limits;

use crate::client::{WIDE, cut, for_seeds, read, traffic};

#[test]
fn valid_traffic_reads_the_same_whole_and_in_pieces() {
    for_seeds(200, |rng| {
        let (stream, said) = traffic(rng, 8, 3000);
        let heard = read(&[&stream], &WIDE);
        assert_eq!(heard.violation, None);
        assert_eq!(heard.items, said);
        for _ in 0..5 {
            assert_eq!(read(&cut(rng, &stream), &WIDE), heard);
        }
    });
}

#[test]
fn valid_traffic_reads_the_same_byte_by_byte() {
    for_seeds(20, |rng| {
        let (stream, said) = traffic(rng, 6, 400);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes, &WIDE).items, said);
    });
}

#[test]
fn long_messages_read_the_same_in_pieces() {
    for_seeds(5, |rng| {
        let (stream, said) = traffic(rng, 3, 200_000);
        assert_eq!(read(&[&stream], &WIDE).items, said);
        assert_eq!(read(&cut(rng, &stream), &WIDE).items, said);
    });
}

#[test]
fn broken_traffic_breaks_the_same_way_in_pieces() {
    for_seeds(500, |rng| {
        let (mut stream, _) = traffic(rng, 4, 300);
        for _ in 0..rng.usize(1..4) {
            break_it(rng, &mut stream);
        }
        let limits = Limits {
            message_bytes: rng.usize(..600),
            frame_bytes: rng.usize(..400),
            fragments: rng.u32(..4),
        };
        let heard = read(&[&stream], &limits);
        for _ in 0..5 {
            assert_eq!(read(&cut(rng, &stream), &limits), heard);
        }
    });
}

/// Flips a bit, changes a byte, loses the end, or loses the start of a stream.
pub(crate) fn break_it(rng: &mut Rng, stream: &mut Vec<u8>) {
    if stream.is_empty() {
        return;
    }
    let at = rng.usize(..stream.len());
    match rng.u8(..5) {
        0 | 1 => stream[at] ^= 1 << rng.u8(..8),
        2 => stream[at] = rng.u8(..),
        3 => stream.truncate(at),
        _ => drop(stream.drain(..at)),
    }
}
