//! Who a request comes from, as the proxies on its way tell it: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Owns the walk from the right: the last element was written by the proxy that is connected to us, the one before it
//! by the proxy before, and so on for as long as each is trusted. Whatever stands left of the first address that is
//! not trusted was written by a stranger, and so was everything that cannot be read: neither is believed. Refuses to
//! know who is trusted, which the caller says, and to fail: there is always somebody, at worst the proxy itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Head;
use crate::proxy::client;

/// Most elements that are walked past. Nobody has so many proxies, and a list may have thousands of elements.
pub const HOPS_MAX: usize = 32;

/// Which field is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`: addresses joined by commas, with a port or without.
    XForwardedFor,
}

impl ForwardedBy {
    /// The first address from the right that is not trusted, or the last trusted one when the list ends before or has
    /// an element that tells no address. `None` when it tells nothing at all: then the peer is whoever sent it, of
    /// whom the caller knows that he is trusted.
    pub fn peer(self, head: &Head<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        // Fields of one name are one list in their order (RFC 9110 section 5.3).
        match self {
            Self::Forwarded => {
                let elements = head.values("forwarded").rev().flat_map(|value| FromRight::split(value, b','));
                walk(elements.map(element), is_trusted)
            }
            Self::XForwardedFor => {
                let fields = head.values("x-forwarded-for").rev();
                let elements = fields.flat_map(|value| value.rsplit(|byte| *byte == b','));
                walk(elements.map(|element| node(element.trim_ascii())), is_trusted)
            }
        }
    }
}

/// `None` among the addresses is an element that tells none. An empty one too: to pass over it would be to believe
/// what is left of it.
fn walk(
    addresses: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut last = None;
    for address in addresses.take(HOPS_MAX).map_while(|address| address) {
        last = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    last
}

/// The parts of a list whose members may be quoted strings, the last one first, without the space around them.
///
/// A string is found from its end. So what a stranger began on the left, such as a string that he never closed,
/// changes nothing about the elements that proxies added on the right.
struct FromRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> FromRight<'a> {
    fn split(value: &'a [u8], separator: u8) -> Self {
        Self { rest: Some(value), separator }
    }

    /// The last separator that is in no string.
    fn last_separator(&self, bytes: &[u8]) -> Option<usize> {
        let mut is_quoted = false;
        for (place, byte) in bytes.iter().enumerate().rev() {
            if *byte == b'"' {
                let escapes = bytes[..place].iter().rev().take_while(|byte| **byte == b'\\').count();
                is_quoted ^= escapes % 2 == 0;
            } else if *byte == self.separator && !is_quoted {
                return Some(place);
            }
        }
        None
    }
}

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let part = match self.last_separator(rest) {
            Some(place) => {
                self.rest = Some(&rest[..place]);
                &rest[place + 1..]
            }
            None => rest,
        };
        Some(part.trim_ascii())
    }
}

/// The address in the `for` of one element of `Forwarded`, which has at most one (RFC 7239 section 4).
fn element(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in FromRight::split(element, b';') {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    // An address needs no escapes, so a string with one in it tells none.
    node(value.strip_prefix(b"\"").map_or(Some(value), |rest| rest.strip_suffix(b"\""))?)
}

/// An address: alone, or IPv4 with a port, or IPv6 in brackets (RFC 7239 section 6). `unknown` and names that hide one
/// (`_name`) are none.
fn node(node: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(node).ok()?;
    let address: IpAddr = if let Some(rest) = text.strip_prefix('[') {
        let (address, behind) = rest.split_once(']')?;
        is_port(behind).then_some(())?;
        address.parse::<Ipv6Addr>().ok()?.into()
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, _) = text.split_once(':')?;
        is_port(&text[address.len()..]).then_some(())?;
        address.parse::<Ipv4Addr>().ok()?.into()
    };
    client(address)
}

/// Nothing, or a colon and up to five digits, or a colon and a name that hides them (RFC 7239 section 6.2).
fn is_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::Fields;

    /// Trusts 10.0.0.0/8 and fd00::/8.
    fn peer(by: ForwardedBy, name: &str, values: &[&str]) -> Option<IpAddr> {
        let fields: String = values.iter().map(|value| format!("{name}: {value}\r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let mut fields = Fields::new();
        let head = Head::parse(bytes.as_bytes(), 1 << 20, &mut fields).unwrap().unwrap();
        by.peer(&head, |address| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        })
    }

    fn x(values: &[&str]) -> String {
        peer(ForwardedBy::XForwardedFor, "x-Forwarded-FOR", values)
            .map_or("-".into(), |peer| peer.to_string())
    }

    fn forwarded(values: &[&str]) -> String {
        peer(ForwardedBy::Forwarded, "forwarded", values).map_or("-".into(), |peer| peer.to_string())
    }

    #[test]
    fn the_peer_is_the_first_from_the_right_that_is_not_trusted() {
        for (values, peer) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.1,10.0.0.2"], "192.0.2.1"),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.1"], "192.0.2.1"),
            (&["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            (&["garbage, 10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            (&["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1, , 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1, 10.0.0.2,"], "-"),
            (&["192.0.2.1", ""], "-"),
            (&["unix:"], "-"),
            (&[], "-"),
        ] {
            assert_eq!(x(values), peer, "{values:?}");
            let elements = |value: &&str| {
                let elements = value.split(',').map(str::trim).map(|element| match element {
                    "" => String::new(),
                    element => format!("proto=https;for={element}"),
                });
                elements.collect::<Vec<_>>().join(", ")
            };
            let values: Vec<String> = values.iter().map(elements).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(forwarded(&values), peer, "{values:?}");
        }
    }

    #[test]
    fn an_address_is_read_in_every_spelling_that_proxies_use() {
        for (text, address) in [
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:_gazonk", "192.0.2.1"),
        ] {
            assert_eq!(x(&[text]), address, "{text}");
            assert_eq!(forwarded(&[&format!("For=\"{text}\"; proto=http")]), address, "{text}");
        }
        for text in [
            "192.0.2.1:",
            "192.0.2.1:123456",
            "192.0.2.1:+1",
            "192.0.2.1:_",
            "192.0.2.01",
            "192.0.2",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]4711",
            "fe80::1%eth0",
            "0.0.0.0",
            "ffff:ffff:1:2::",
            "_hidden",
            "\"192.0.2.1",
            "192.0.2.1\u{e9}",
        ] {
            assert_eq!(x(&[text]), "-", "{text}");
            assert_eq!(forwarded(&[&format!("for=\"{text}\"")]), "-", "{text}");
        }
    }

    #[test]
    fn what_a_stranger_left_open_swallows_nothing() {
        for opened in ["for=\"6.6.6.6", "for=6.6.6.6;by=\"", "\"\\", "for=\"a\\\"", ";;;=\"", "\\\"\\\\\""] {
            for added in [
                "for=192.0.2.1",
                "for=\"192.0.2.1:80\";by=\"[fd00::1]\"",
                "by=\"a,b;for=c\";for=192.0.2.1",
                "by=\"a\\\", b;for=c\";for=192.0.2.1",
            ] {
                assert_eq!(forwarded(&[&format!("{opened}, {added}")]), "192.0.2.1", "{opened} {added}");
                assert_eq!(forwarded(&[opened, added]), "192.0.2.1", "{opened} {added}");
            }
            assert_eq!(forwarded(&[&format!("{opened}, for=10.0.0.1")]), "10.0.0.1", "{opened}");
        }
    }

    #[test]
    fn an_element_with_two_addresses_or_none_tells_nothing() {
        for element in [
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1;FOR=192.0.2.1",
            "by=192.0.2.1",
            "for",
            "for=",
            "for=\"\"",
            "for=\"",
            "for =192.0.2.1",
            "for=\"192.0.2.1\\\"\"",
        ] {
            assert_eq!(forwarded(&[element]), "-", "{element}");
        }
    }

    #[test]
    fn a_list_of_ten_thousand_is_walked_for_a_few_steps() {
        let of = |element: &str| vec![element; 10_000].join(", ");
        assert_eq!(x(&[&of("6.6.6.6")]), "6.6.6.6");
        let asked = std::cell::Cell::new(0);
        let bytes = format!("GET / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6, {}\r\n\r\n", of("10.0.0.1"));
        let mut fields = Fields::new();
        let head = Head::parse(bytes.as_bytes(), 1 << 20, &mut fields).unwrap().unwrap();
        let trusts = |_| {
            asked.set(asked.get() + 1);
            true
        };
        let peer = ForwardedBy::XForwardedFor.peer(&head, trusts).unwrap();
        assert_eq!((peer.to_string().as_str(), asked.get()), ("10.0.0.1", HOPS_MAX));
    }
}
