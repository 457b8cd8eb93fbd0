//! What the hot paths cost, in nanoseconds: `cargo bench -p wire`.
//!
//! Owns the figures quoted for this crate; each line is the median and the best of several rounds, and the
//! same work done by tungstenite's header codec stands beside ours. Refuses to judge: compare on one machine,
//! not across. It reads the clock itself, which only measurements may.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::io::Cursor;
use std::time::Instant;

use tungstenite::protocol::frame::FrameHeader;
use wire::http::{Fields, Head};
use wire::ws::handshake::{Request, push_accept};
use wire::ws::{Assembly, Item, Kind, Limits, Opcode, frame, mask, push_frame};

const ROUNDS: usize = 31;
const FRAMES: usize = 400;
const PAYLOAD_BYTES: usize = 128;
/// Below 0x80, so that ASCII stays ASCII however often it is masked in place.
const MASK: [u8; 4] = [0x37, 0x7a, 0x21, 0x3d];
const LIMITS: Limits = Limits { message_bytes: 1 << 20, frame_bytes: 1 << 20, fragments: 64 };

const BROWSER_HEAD: &str = "GET /rooms/lobby?token=abcdefghijklmnop HTTP/1.1\r\nHost: gateway.example.com\r\n\
    Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0 Safari/537.36\r\n\
    Upgrade: websocket\r\nOrigin: https://www.example.com\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

fn main() {
    header_codecs();
    messages();
    payloads();
    handshake();
}

/// Runs `work`, which does `units` units, repeatedly in each round, and prints what one unit takes.
fn measure(name: &str, units: usize, mut work: impl FnMut()) {
    let mut per_unit_ns: Vec<f64> = Vec::with_capacity(ROUNDS);
    // A round is long enough for the clock's grain not to matter, also when one unit is all there is.
    let repeats = (4000 / units).max(10);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..repeats {
            work();
        }
        per_unit_ns.push(start.elapsed().as_nanos() as f64 / (repeats * units) as f64);
    }
    per_unit_ns.sort_by(f64::total_cmp);
    println!("{name:<58} {:>9.1} ns   best {:>9.1} ns", per_unit_ns[ROUNDS / 2], per_unit_ns[0]);
}

fn stream(opcode: u8, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..FRAMES {
        let (head, len) = frame::header(Opcode::Text, payload_bytes);
        let at = bytes.len();
        bytes.extend_from_slice(&head[..len]);
        bytes[at] = 0x80 | opcode;
        bytes[at + 1] |= 0x80;
        bytes.extend_from_slice(&MASK);
        bytes.extend((0..payload_bytes).map(|i| (b'a' + (i % 26) as u8) ^ MASK[i % 4]));
    }
    bytes
}

fn header_codecs() {
    for payload_bytes in [16, PAYLOAD_BYTES, 70_000] {
        let bytes = stream(2, payload_bytes);
        let frame_bytes = bytes.len() / FRAMES;
        measure(&format!("header of a {payload_bytes}-byte frame, ours"), FRAMES, || {
            for frame in bytes.chunks_exact(frame_bytes) {
                black_box(frame::Header::parse(black_box(frame)).unwrap());
            }
        });
        measure(&format!("header of a {payload_bytes}-byte frame, tungstenite"), FRAMES, || {
            for frame in bytes.chunks_exact(frame_bytes) {
                black_box(FrameHeader::parse(&mut Cursor::new(black_box(frame))).unwrap());
            }
        });
    }
}

fn messages() {
    for (kind, opcode) in [(Kind::Binary, 2), (Kind::Text, 1)] {
        let mut bytes = stream(opcode, PAYLOAD_BYTES);
        measure(&format!("read {kind:?} of {PAYLOAD_BYTES} bytes: parse, unmask, check"), FRAMES, || {
            let mut assembly = Assembly::new();
            let mut at = 0;
            while let Some(item) = assembly.next(black_box(&mut bytes), &mut at, &LIMITS).unwrap() {
                black_box(item);
            }
        });
        let mut out = Vec::with_capacity(bytes.len());
        measure(&format!("echo {kind:?} of {PAYLOAD_BYTES} bytes into a write buffer"), FRAMES, || {
            out.clear();
            let mut assembly = Assembly::new();
            let mut at = 0;
            while let Some(item) = assembly.next(black_box(&mut bytes), &mut at, &LIMITS).unwrap() {
                if let Item::Message { kind, payload } = item {
                    push_frame(&mut out, kind.opcode(), payload);
                }
            }
            black_box(&out);
        });
    }
    let mut bytes = stream(1, PAYLOAD_BYTES);
    measure("read Text of 128 bytes out of pieces of 100 bytes", FRAMES, || {
        let mut assembly = Assembly::new();
        for piece in bytes.chunks_mut(100) {
            let mut at = 0;
            while let Some(item) = assembly.next(black_box(piece), &mut at, &LIMITS).unwrap() {
                black_box(item);
            }
        }
    });
}

fn payloads() {
    let mut payload = vec![b'x'; 64 * 1024];
    measure("unmask, per 64 KiB", 1, || mask::unmask(black_box(&mut payload), MASK, 1));
    let text = "Žluťoučký kůň — 日本語 ".repeat(1600);
    measure(&format!("UTF-8 of {} KiB in one piece, per KiB", text.len() / 1024), text.len() / 1024, || {
        let mut check = wire::ws::utf8::Utf8::new();
        check.feed(black_box(text.as_bytes())).unwrap();
        black_box(check.finish()).unwrap();
    });
}

fn handshake() {
    let mut out = Vec::with_capacity(512);
    measure("handshake of a browser: parse, check, accept", 1, || {
        for _ in 0..1 {
            out.clear();
            let mut fields = Fields::new();
            let head = Head::parse(black_box(BROWSER_HEAD.as_bytes()), 8192, &mut fields).unwrap().unwrap();
            let request = Request::check(head).unwrap();
            push_accept(
                &mut out,
                request.key,
                None,
                &[("Gateway-Connection", "a-0123456789-00-0000000-00000000")],
            );
            black_box(&out);
        }
    });
    measure("  of which parse", 1, || {
        let mut fields = Fields::new();
        black_box(Head::parse(black_box(BROWSER_HEAD.as_bytes()), 8192, &mut fields).unwrap().unwrap());
    });
}
