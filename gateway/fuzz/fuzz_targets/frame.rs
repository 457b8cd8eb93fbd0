//! Fuzzes the codec of one frame: headers, close payloads, the mask and the UTF-8 check, each against a naive
//! twin.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::frame::FrameHeader;
use wire::error::Violation;
use wire::ws::frame::Header;
use wire::ws::utf8::Utf8;
use wire::ws::{Close, Opcode, header, mask, may_be_sent, push_close, push_frame};

fuzz_target!(|bytes: &[u8]| {
    client_header(bytes);
    server_frame(bytes);
    close(bytes);
    masking(bytes);
    utf8(bytes);
});

/// A header we read, tungstenite reads the same; what it cannot read, we refuse or wait for; a verdict is
/// final.
fn client_header(bytes: &[u8]) {
    let ours = Header::parse(bytes);
    let mut cursor = Cursor::new(bytes);
    let theirs = FrameHeader::parse(&mut cursor);
    match ours {
        Ok(Some(ours)) => {
            let (theirs, len) = theirs.expect("it is a header").expect("it is whole");
            assert_eq!((theirs.is_final, theirs.mask), (ours.is_final, Some(ours.mask)));
            assert_eq!((u8::from(theirs.opcode), len), (ours.opcode as u8, ours.payload_bytes));
            assert_eq!(cursor.position(), ours.size as u64);
            let mut shortest = Vec::new();
            theirs.format(len, &mut shortest).expect("a vector takes all");
            assert_eq!(shortest, bytes[..ours.size], "only the shortest form passes");
        }
        Ok(None) => assert!(matches!(theirs, Ok(None))),
        Err(Violation::ReservedOpcode) => assert!(!matches!(theirs, Ok(Some(_)))),
        Err(_) => {}
    }
    for len in 0..bytes.len().min(14) {
        match Header::parse(&bytes[..len]) {
            Ok(None) => {}
            early => assert_eq!(early, ours, "more bytes change no verdict"),
        }
    }
}

fn server_frame(payload: &[u8]) {
    let mut out = Vec::new();
    push_frame(&mut out, Opcode::Binary, payload);
    let (_, size) = header(Opcode::Binary, payload.len());
    let mut cursor = Cursor::new(&out);
    let (theirs, len) = FrameHeader::parse(&mut cursor).expect("it is a header").expect("it is whole");
    assert!(theirs.is_final && theirs.mask.is_none() && len == payload.len() as u64);
    assert_eq!((cursor.position(), &out[size..]), (size as u64, payload));
}

fn close(payload: &[u8]) {
    if let Ok(Some(close)) = Close::parse(payload) {
        assert!(may_be_sent(close.code));
        let mut out = Vec::new();
        push_close(&mut out, close.code, close.reason);
        assert!(out.len() <= 127 && usize::from(out[1]) == out.len() - 2);
        let sent = Close::parse(&out[2..]).expect("what we send is valid").expect("and has a code");
        assert!(sent.code == close.code && close.reason.starts_with(sent.reason));
        assert!(sent.reason.len() >= close.reason.len().min(120), "no more is cut than must be");
    }
}

fn masking(bytes: &[u8]) {
    let Some((&key, payload)) = bytes.split_first_chunk::<4>() else { return };
    let offset = usize::from(key[0]);
    let mut masked = payload.to_vec();
    mask::unmask(&mut masked, key, offset);
    for (i, (plain, masked)) in payload.iter().zip(&masked).enumerate() {
        assert_eq!(plain ^ key[(i + offset) % 4], *masked);
    }
}

/// Fed in two pieces it fails no later than the standard library can tell, and exactly when that does.
fn utf8(bytes: &[u8]) {
    let Some((&cut, text)) = bytes.split_first() else { return };
    let (start, end) = text.split_at(usize::from(cut).min(text.len()));
    let mut check = Utf8::new();
    let is_wrong = |text: &[u8]| str::from_utf8(text).is_err_and(|fault| fault.error_len().is_some());
    let first = check.feed(start);
    assert_eq!(first.is_err(), is_wrong(start));
    if first.is_err() {
        return;
    }
    let second = check.feed(end);
    assert_eq!(second.is_err(), is_wrong(text));
    if second.is_ok() {
        assert_eq!(check.finish().is_ok(), str::from_utf8(text).is_ok());
    }
}
