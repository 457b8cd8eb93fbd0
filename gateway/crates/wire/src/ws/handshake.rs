//! The opening handshake (RFC 6455 section 4.2).
//!
//! Owns which requests are upgrades, the 101 that accepts, the choice of a subprotocol and the match of an
//! `Origin`. Refuses to know routes and limits: the shard asks for those between [`Request::check`] and
//! [`push_accept`].
//!
//! The order of the checks is the order of blame: first what makes it no request for us at all, then what
//! makes it no WebSocket, then what makes it a bad one. So a browser on the wrong address sees 426 and not a
//! word about keys.

use tungstenite::handshake::derive_accept_key;

pub use super::origin::{OriginPattern, origin_allowed};
pub use crate::error::Refusal;
use crate::http::Head;

/// The key of a client: the base64 of 16 bytes.
const KEY_CHARS: usize = 24;

/// A request that may be answered with a 101.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Begins with `/`; not decoded.
    pub path: &'a str,
    /// What follows the first `?` of the target.
    pub query: Option<&'a str>,
    /// The authority the client meant: name, perhaps port.
    pub host: &'a str,
    /// As sent; programs that are not browsers send none.
    pub origin: Option<&'a str>,
    /// As sent, 24 characters.
    pub key: &'a str,
    /// All the rest.
    pub head: Head<'a>,
}

impl<'a> Request<'a> {
    /// Checks a head against RFC 6455 section 4.2.1.
    ///
    /// # Errors
    /// The first reason not to upgrade.
    pub fn check(head: Head<'a>) -> Result<Self, Refusal> {
        if head.method != "GET" {
            return Err(Refusal::Method);
        }
        if head.minor_version != 1 {
            return Err(Refusal::HttpVersion);
        }
        if !head.path.starts_with('/') {
            return Err(Refusal::BadHead);
        }
        let seen = Seen::collect(&head);
        let host = match (seen.host, head.authority) {
            (Once::One(_), Some(authority)) => authority,
            (Once::One(host), None) => str::from_utf8(host).map_err(|_| Refusal::Host)?,
            (Once::None | Once::Many, _) => return Err(Refusal::Host),
        };
        if !is_host(host) {
            return Err(Refusal::Host);
        }
        if seen.has_body {
            return Err(Refusal::Body);
        }
        if !seen.asks_upgrade || !seen.names_websocket {
            return Err(Refusal::NotUpgrade);
        }
        if seen.version != Once::One(b"13") {
            return Err(Refusal::Version);
        }
        let Once::One(key) = seen.key else { return Err(Refusal::Key) };
        let Some(key) = key_chars(key) else { return Err(Refusal::Key) };
        let origin = match seen.origin {
            Once::None => None,
            Once::One(origin) => Some(str::from_utf8(origin).map_err(|_| Refusal::Origin)?),
            Once::Many => return Err(Refusal::Origin),
        };
        Ok(Self { path: head.path, query: head.query, host, origin, key, head })
    }

    /// The subprotocols the client offers, its favourite first. What is no token is left out.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let values = self.head.values("sec-websocket-protocol");
        values.flat_map(tokens).filter_map(|token| str::from_utf8(token).ok()).filter(|token| is_token(token))
    }
}

/// Appends the 101 (section 4.2.2), with one short-lived string for the accept key.
///
/// `protocol` and `extra` (name and value of further fields) come from us: they hold no control characters.
pub fn push_accept(out: &mut Vec<u8>, key: &str, protocol: Option<&str>, extra: &[(&str, &str)]) {
    const START: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    out.reserve(START.len() + 128);
    out.extend_from_slice(START);
    push_field(out, "Sec-WebSocket-Accept", &derive_accept_key(key.as_bytes()));
    if let Some(protocol) = protocol {
        push_field(out, "Sec-WebSocket-Protocol", protocol);
    }
    for (name, value) in extra {
        push_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// The first subprotocol of the client's list that we support: RFC 6455 leaves the choice to us, and the
/// client knows best what it prefers. Names are compared exactly. `None`: the 101 names none, and the client
/// decides whether to stay.
pub fn choose_protocol<'a, 's>(
    mut offered: impl Iterator<Item = &'a str>,
    supported: &'s [Box<str>],
) -> Option<&'s str> {
    offered.find_map(|offer| supported.iter().map(AsRef::as_ref).find(|known| *known == offer))
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(is_token(name) && !value.bytes().any(|byte| byte.is_ascii_control()), "field {name}");
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A field that may stand in a head once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Once<'a> {
    #[default]
    None,
    One(&'a [u8]),
    Many,
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = if *self == Self::None { Self::One(value) } else { Self::Many };
    }
}

/// What the handshake wants to know of the fields, gathered in one pass over them.
#[derive(Default)]
struct Seen<'a> {
    host: Once<'a>,
    origin: Once<'a>,
    key: Once<'a>,
    version: Once<'a>,
    asks_upgrade: bool,
    names_websocket: bool,
    has_body: bool,
}

impl<'a> Seen<'a> {
    fn collect(head: &Head<'a>) -> Self {
        let mut seen = Self::default();
        for (name, value) in head.fields() {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            // By length first: most fields of a browser are none of these, and one comparison says so.
            match name.len() {
                4 if is("host") => seen.host.add(value),
                6 if is("origin") => seen.origin.add(value),
                7 if is("upgrade") => seen.names_websocket |= has_token(value, b"websocket"),
                10 if is("connection") => seen.asks_upgrade |= has_token(value, b"upgrade"),
                14 if is("content-length") => seen.has_body |= value != b"0",
                17 if is("sec-websocket-key") => seen.key.add(value),
                17 if is("transfer-encoding") => seen.has_body = true,
                21 if is("sec-websocket-version") => seen.version.add(value),
                _ => {}
            }
        }
        seen
    }
}

/// The members of a comma-separated list, without the space around them; empty ones are left out (RFC 9110
/// section 5.6.1).
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The key as text, if it is base64 of 16 bytes: 22 characters carry them, two are padding. The last
/// character's four unused bits may be anything, as RFC 4648 section 3.5 allows and common decoders do.
fn key_chars(key: &[u8]) -> Option<&str> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/';
    let chars = key.strip_suffix(b"==")?;
    if key.len() != KEY_CHARS || !chars.iter().all(is_base64) {
        return None;
    }
    str::from_utf8(key).ok()
}

/// `host [":" port]` of RFC 3986 section 3.2, without user information and not empty.
fn is_host(authority: &str) -> bool {
    let (name, port) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        (address, port)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        let (name, port) = authority.split_at(end);
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)) {
            return false;
        }
        (name, port)
    };
    let is_port =
        |port: &str| port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    !name.is_empty() && (port.is_empty() || is_port(port))
}
