//! Fuzzes what proxies say: a PROXY header ends in one place however it is split, and names nobody who cannot be; and
//! whatever a client wrote into a forwarded list, the address that a proxy appended is the one that is found.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use wire::http::{Fields, ForwardedBy, Head};
use wire::proxy::{PROXY_BYTES_MAX, ProxyHeader};

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    for (by, name, added) in [
        (ForwardedBy::Forwarded, "Forwarded", "for=192.0.2.1"),
        (ForwardedBy::Forwarded, "Forwarded", "by=\"a,b\";for=\"192.0.2.1:_x\";proto=http"),
        (ForwardedBy::XForwardedFor, "X-Forwarded-For", "192.0.2.1"),
    ] {
        list(by, name, bytes, added);
    }
});

/// What is found in the whole is found in no shorter beginning and does not change with what follows.
fn header(bytes: &[u8]) {
    let whole = ProxyHeader::parse(bytes);
    if let Ok(Some(header)) = whole {
        assert!(header.length <= bytes.len().min(PROXY_BYTES_MAX));
        assert!(header.source.is_none_or(is_somebody));
        assert!(ProxyHeader::is_begun_by(bytes));
        for cut in 0..header.length {
            assert_eq!(ProxyHeader::parse(&bytes[..cut]), Ok(None));
        }
        assert_eq!(ProxyHeader::parse(&bytes[..header.length]), whole);
    }
    if whole == Ok(None) {
        assert!(bytes.len() < PROXY_BYTES_MAX);
    }
}

/// The bytes are what a client sent in the field; the proxy adds its element behind them, or in a field of its own.
fn list(by: ForwardedBy, name: &str, bytes: &[u8], added: &str) {
    // Behind the end of its line it would be another field.
    if bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return;
    }
    let proxy = "192.0.2.1".parse::<IpAddr>().expect("an address");
    let one_field =
        [format!("GET / HTTP/1.1\r\n{name}: ").as_bytes(), bytes, b", ", added.as_bytes()].concat();
    let two_fields =
        [&one_field[..one_field.len() - added.len() - 2], format!("\r\n{name}: {added}").as_bytes()].concat();
    for request in [one_field, two_fields] {
        let request = [&request[..], b"\r\n\r\n"].concat();
        let mut fields = Fields::new();
        let Ok(Some(head)) = Head::parse(&request, 1 << 20, &mut fields) else { continue };
        assert_eq!(by.peer(&head, |_| false), Some(proxy));
        // Past the proxy there is somebody, or the proxy is the last that is known.
        let beyond = by.peer(&head, |address| address == proxy);
        assert!(beyond.is_some_and(is_somebody));
        let everybody = by.peer(&head, |_| true);
        assert!(everybody.is_some_and(is_somebody));
    }
}

fn is_somebody(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address == address.to_canonical()
}
