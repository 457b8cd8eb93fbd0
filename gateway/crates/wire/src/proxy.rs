//! The PROXY protocol, versions 1 and 2: the header in front of a connection in which a proxy says whom it comes from.
//!
//! Owns the grammar of both and where the header ends. Refuses to guess: who expects a header gets one or a
//! [`BadProxy`], and whether to expect one is the caller's to know, from the address of the socket. What version 2
//! adds in TLVs is passed over. Called by the shard with the first bytes of a connection, all of them each time: a
//! header is short, and senders write it at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most bytes of a header. 536 reach any receiver (section 2); those with certificates in TLVs are longer.
pub const PROXY_BYTES_MAX: usize = 4096;

/// Most bytes of a version 1 header, its CRLF included (section 2.1).
const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its bytes: what follows is the client's.
    pub length: usize,
    /// Who connected to the proxy. `None` when it speaks for itself (LOCAL, as in a health check) or does not say
    /// (UNKNOWN, UNSPEC, a Unix socket): then the connection is the proxy's own.
    pub source: Option<IpAddr>,
}

/// Why bytes are not a header. Nothing that follows can be told from what a client made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadProxy {
    /// Neither of the two signatures.
    Missing,
    /// A signature, and behind it not the grammar.
    Malformed,
    /// No end within the bound of its version.
    TooLong,
}

impl ProxyHeader {
    /// Cuts the header off the start of `bytes`; `None` when its end has not come.
    ///
    /// # Errors
    /// These bytes cannot become a header.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, BadProxy> {
        if starts_alike(bytes, V2_SIGNATURE) {
            binary(bytes)
        } else if starts_alike(bytes, V1_START) {
            text(bytes)
        } else {
            Err(BadProxy::Missing)
        }
    }

    /// Whether bytes that were not meant to be a header begin like one: somebody is set up wrongly, or lies.
    #[must_use]
    pub fn is_begun_by(bytes: &[u8]) -> bool {
        bytes.starts_with(V2_SIGNATURE) || bytes.starts_with(V1_START)
    }
}

/// Whether one is the beginning of the other.
fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// Version 1 (section 2.1): one line of text.
fn text(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxy> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(lf) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= V1_BYTES_MAX { Err(BadProxy::TooLong) } else { Ok(None) };
    };
    let line = window[V1_START.len()..lf].strip_suffix(b"\r").ok_or(BadProxy::Malformed)?;
    // UNKNOWN may be followed by anything, and a receiver ignores it.
    let unknown = line.strip_prefix(b"UNKNOWN").is_some_and(|rest| rest.is_empty() || rest[0] == b' ');
    let source = if unknown { None } else { Some(text_source(line).ok_or(BadProxy::Malformed)?) };
    Ok(Some(ProxyHeader { length: lf + 1, source }))
}

/// Family, source, destination, both ports: exactly these, one space between them.
fn text_source(line: &[u8]) -> Option<IpAddr> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    for _ in 0..2 {
        is_port(words.next()?).then_some(())?;
    }
    words.next().is_none().then_some(())?;
    client(source)
}

/// Decimal, without sign and without leading zeros.
fn is_port(word: &str) -> bool {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    digits && (word == "0" || !word.starts_with('0')) && word.parse::<u16>().is_ok()
}

/// Version 2 (section 2.2).
fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxy> {
    // What is wrong is said at the byte that proves it.
    if bytes.get(12).is_some_and(|byte| !matches!(byte, 0x20 | 0x21)) {
        return Err(BadProxy::Malformed);
    }
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > PROXY_BYTES_MAX {
        return Err(BadProxy::TooLong);
    }
    // LOCAL: whatever the family says, the connection is the proxy's own.
    let is_local = command == 0x20;
    let least = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // Datagrams come over no stream, and nothing else is defined.
        _ => return Err(BadProxy::Malformed),
    };
    if length < V2_FIXED_BYTES + least {
        return Err(BadProxy::Malformed);
    }
    let Some(block) = bytes.get(V2_FIXED_BYTES..length) else { return Ok(None) };
    let source = match family {
        0x11 if !is_local => block.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        0x21 if !is_local => block.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    };
    let source = match source {
        Some(source) => Some(client(source).ok_or(BadProxy::Malformed)?),
        None => None,
    };
    Ok(Some(ProxyHeader { length, source }))
}

/// An address that a client can have, IPv4 written as IPv4.
pub(crate) fn client(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    (!address.is_unspecified() && !address.is_multicast() && !is_broadcast).then_some(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn source(bytes: &[u8]) -> Option<IpAddr> {
        let header = ProxyHeader::parse(bytes).unwrap().unwrap();
        assert_eq!(header.length, bytes.len());
        header.source
    }

    #[test]
    fn the_source_is_read_in_both_versions_and_families() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(source(V1), Some(v4));
        assert_eq!(source(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n"), Some(v6));
        assert_eq!(source(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), Some(v4));
        let block = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        assert_eq!(source(&v2(0x21, 0x11, &block)), Some(v4));
        // TLVs, well-formed or not, are passed over.
        assert_eq!(source(&v2(0x21, 0x11, &[&block[..], &[4, 0, 1, 0]].concat())), Some(v4));
        let mut block = [0; 36];
        block[..16].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(source(&v2(0x21, 0x21, &block)), Some(v6));
    }

    #[test]
    fn a_proxy_that_names_nobody_speaks_for_itself() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN whatever 1 2 \xff\r\n"), None);
        assert_eq!(source(&v2(0x20, 0x00, &[])), None);
        // Behind LOCAL the family and the addresses mean nothing, be there too few or too many.
        assert_eq!(source(&v2(0x20, 0x11, &[1, 2, 3])), None);
        assert_eq!(source(&v2(0x20, 0xff, &[7; 300])), None);
        assert_eq!(source(&v2(0x21, 0x00, &[1, 2, 3])), None);
        assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn any_beginning_of_a_header_is_incomplete_and_nothing_behind_it_is_touched() {
        for header in [V1.to_vec(), v2(0x21, 0x11, &[9; 40]), v2(0x20, 0, &[])] {
            for cut in 0..header.len() {
                assert_eq!(ProxyHeader::parse(&header[..cut]), Ok(None), "{cut} of {header:?}");
            }
            let with_more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(ProxyHeader::parse(&with_more).unwrap().unwrap().length, header.len());
            assert!(ProxyHeader::is_begun_by(&header));
        }
        assert!(!ProxyHeader::is_begun_by(b"GET / HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn whoever_sends_something_else_is_found_out_at_its_first_wrong_byte() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"P0", b"\r\n\r\nG", b"proxy TCP4", b"\0", b"PROXY\tTCP4"] {
            assert_eq!(ProxyHeader::parse(bytes), Err(BadProxy::Missing), "{bytes:?}");
        }
    }

    #[test]
    fn a_line_that_is_not_exactly_the_grammar_is_refused() {
        for line in [
            "TCP4 192.0.2.7 198.51.100.1 56324",
            "TCP4 192.0.2.7 198.51.100.1 56324 443 ",
            "TCP4 192.0.2.7 198.51.100.1 56324 443 1",
            "TCP4  192.0.2.7 198.51.100.1 56324 443",
            "TCP4\t192.0.2.7 198.51.100.1 56324 443",
            "TCP4 192.0.2.07 198.51.100.1 56324 443",
            "TCP4 192.0.2 198.51.100.1 56324 443",
            "TCP4 192.0.2.7 198.51.100.1 65536 443",
            "TCP4 192.0.2.7 198.51.100.1 +1 443",
            "TCP4 192.0.2.7 198.51.100.1 01 443",
            "TCP4 2001:db8::7 2001:db8::1 1 2",
            "TCP6 192.0.2.7 198.51.100.1 1 2",
            "TCP6 fe80::1%eth0 ::1 1 2",
            "UDP4 192.0.2.7 198.51.100.1 1 2",
            "UNKNOWNER",
            "tcp4 192.0.2.7 198.51.100.1 1 2",
            "TCP4 0.0.0.0 198.51.100.1 1 2",
            "TCP6 ff02::1 ::1 1 2",
            "TCP6 ::ffff:255.255.255.255 ::1 1 2",
            "",
        ] {
            let bytes = format!("PROXY {line}\r\n");
            assert_eq!(ProxyHeader::parse(bytes.as_bytes()), Err(BadProxy::Malformed), "{line}");
        }
        let bare = V1.strip_suffix(b"\r\n").unwrap();
        assert_eq!(ProxyHeader::parse(&[bare, b"\n"].concat()), Err(BadProxy::Malformed));
    }

    #[test]
    fn a_line_ends_within_its_bound() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
        assert_eq!(source(&line(V1_BYTES_MAX)), None);
        assert_eq!(ProxyHeader::parse(&line(V1_BYTES_MAX + 1)), Err(BadProxy::TooLong));
        assert_eq!(ProxyHeader::parse(&line(V1_BYTES_MAX)[..V1_BYTES_MAX - 1]), Ok(None));
    }

    #[test]
    fn a_binary_header_that_is_not_exactly_the_grammar_is_refused() {
        for (command, family, length) in [
            (0x22, 0x11, 12),
            (0x11, 0x11, 12),
            (0x31, 0x11, 12),
            (0x21, 0x12, 12),
            (0x21, 0x41, 12),
            (0x21, 0x01, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x31, 215),
        ] {
            let bytes = v2(command, family, &vec![7; length]);
            assert_eq!(
                ProxyHeader::parse(&bytes),
                Err(BadProxy::Malformed),
                "{command:x} {family:x} {length}"
            );
        }
        assert_eq!(ProxyHeader::parse(&v2(0x21, 0x11, &[0; 12])), Err(BadProxy::Malformed), "nobody");
        // Before the block that it announces has come.
        let long = v2(0x21, 0x11, &[7; PROXY_BYTES_MAX - 15]);
        assert_eq!(ProxyHeader::parse(&long[..16]), Err(BadProxy::TooLong));
        assert!(source(&v2(0x21, 0x11, &[7; PROXY_BYTES_MAX - 16])).is_some());
    }
}
