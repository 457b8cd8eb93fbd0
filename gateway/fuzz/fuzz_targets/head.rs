//! Fuzzes the request head, the handshake and origins: whatever the bytes, an end is found once, the answer
//! is a whole HTTP response, and the split of the head does not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::error::Refusal;
use wire::http::{BadHead, Fields, Head, is_complete, push_refusal};
use wire::ws::handshake::{OriginPattern, Request, choose_protocol, origin_allowed, push_accept};

const HEAD_BYTES: usize = 2048;

fuzz_target!(|bytes: &[u8]| {
    let mut fields = Fields::new();
    let parsed = Head::parse(bytes, HEAD_BYTES, &mut fields);
    slowly(bytes, parsed.map(|head| head.map(|head| head.length)));
    let mut out = Vec::new();
    match parsed {
        Ok(None) => {}
        Err(bad) => refuse(&mut out, bad.into()),
        Ok(Some(head)) => {
            assert!(head.length <= HEAD_BYTES);
            match Request::check(head) {
                Ok(request) => accept(&mut out, &request),
                Err(refusal) => refuse(&mut out, refusal),
            }
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        origins(text);
    }
});

/// The same head, byte by byte: its end is found by the search that looks at each byte once, and no later.
fn slowly(bytes: &[u8], whole: Result<Option<usize>, BadHead>) {
    let found = (1..=bytes.len()).find_map(|len| is_complete(&bytes[..len], len - 1));
    assert_eq!(found, is_complete(bytes, 0));
    match whole {
        Ok(Some(length)) => assert_eq!(found, Some(length)),
        Ok(None) => assert_eq!(found, None),
        Err(_) => {}
    }
}

fn accept(out: &mut Vec<u8>, request: &Request<'_>) {
    assert!(request.path.starts_with('/') && request.key.len() == 24 && !request.host.is_empty());
    let supported = ["v1", "chat"].map(Box::from);
    let protocol = choose_protocol(request.protocols(), &supported);
    push_accept(out, request.key, protocol, &[("Gateway-Connection", "a-1")]);
    assert!(out.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(is_complete(out, 0), Some(out.len()));
    let _ = origin_allowed(request.origin, &[]);
}

fn refuse(out: &mut Vec<u8>, refusal: Refusal) {
    push_refusal(out, &refusal);
    assert!(out.starts_with(format!("HTTP/1.1 {} ", refusal.status()).as_bytes()));
    assert!(is_complete(out, 0).is_some_and(|end| end < out.len()));
}

/// A pattern allows itself; a pattern for names below a host allows no other host.
fn origins(text: &str) {
    let below = [OriginPattern::parse("https://*.example.com").expect("a valid pattern")];
    if origin_allowed(Some(text), &below) {
        let text = text.to_ascii_lowercase();
        let authority = text.strip_prefix("https://").expect("the scheme is part of the pattern");
        let host = authority.split(':').next().unwrap_or_default();
        assert!(host.len() > ".example.com".len() && host.ends_with(".example.com"));
    }
    if let Ok(pattern) = OriginPattern::parse(text) {
        assert!(text.contains('*') || origin_allowed(Some(text), &[pattern]));
    }
}
