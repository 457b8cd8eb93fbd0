//! The request head: request line and header fields, up to the blank line (RFC 9112 sections 2 to 5).
//!
//! Owns where a head ends and what its parts are, borrowed from the input. Refuses what is longer than the
//! caller's limit or has more than [`HEADERS_MAX`] fields. Grammar is httparse's. Called by the shard with
//! the first bytes of a connection: [`Head::parse`] at once, and when that gives `None`, again when
//! [`is_complete`] says so.

use std::fmt;
use std::mem::MaybeUninit;

use crate::error::Refusal;

/// Most header fields in one head.
pub const HEADERS_MAX: usize = 64;

/// Room for the fields of one head, 2 KiB on the caller's stack; making it costs nothing.
pub struct Fields<'a>([MaybeUninit<httparse::Header<'a>>; HEADERS_MAX]);

impl Fields<'_> {
    /// Empty room.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

impl Default for Fields<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fields").finish_non_exhaustive()
    }
}

/// Why bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadHead {
    /// Not the grammar of RFC 9112, or a request target with bytes that no URI has.
    Malformed,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// No end within the limit.
    TooLarge,
    /// More than [`HEADERS_MAX`] fields.
    TooManyFields,
}

impl From<BadHead> for Refusal {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::Malformed => Self::BadHead,
            BadHead::Version => Self::HttpVersion,
            BadHead::TooLarge => Self::HeadTooLarge,
            BadHead::TooManyFields => Self::TooManyHeaders,
        }
    }
}

/// A whole request head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// As sent; methods are case-sensitive.
    pub method: &'a str,
    /// The path of the target, without its query and not decoded; other than `/...` only for `*` and CONNECT.
    pub path: &'a str,
    /// What follows the first `?`.
    pub query: Option<&'a str>,
    /// The authority of a target in absolute form, which then overrides `Host` (RFC 9112 section 3.2.2).
    pub authority: Option<&'a str>,
    /// 0 or 1, of HTTP/1.x.
    pub minor_version: u8,
    /// Bytes of the head with its blank line: what follows is no longer HTTP.
    pub length: usize,
    fields: &'a [httparse::Header<'a>],
}

impl<'a> Head<'a> {
    /// Cuts the head off the start of `bytes`; `None` when its end has not come.
    ///
    /// One empty line before the request line is skipped (RFC 9112 section 2.2). A bare LF ends a line;
    /// folded lines do not pass.
    ///
    /// # Errors
    /// The bytes so far cannot become a head of at most `head_bytes` bytes.
    pub fn parse(
        bytes: &'a [u8],
        head_bytes: usize,
        fields: &'a mut Fields<'a>,
    ) -> Result<Option<Self>, BadHead> {
        let window = &bytes[..bytes.len().min(head_bytes)];
        if has_empty_lines(window) {
            return Err(BadHead::Malformed);
        }
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(window, &mut fields.0) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= head_bytes => return Err(BadHead::TooLarge),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
            Err(httparse::Error::Version) => return Err(BadHead::Version),
            Err(_) => return Err(BadHead::Malformed),
        };
        let (Some(method), Some(target), Some(minor_version)) =
            (request.method, request.path, request.version)
        else {
            return Err(BadHead::Malformed);
        };
        let target = Target::parse(target)?;
        Ok(Some(Self {
            method,
            path: target.path,
            query: target.query,
            authority: target.authority,
            minor_version,
            length,
            fields: request.headers,
        }))
    }

    /// The value of the first field with this name, whatever the case of its letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The values of all fields with this name, in order.
    pub fn values<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields, in order: name as sent, value without the space around it.
    #[inline]
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields.iter().map(|field| (field.name, field.value))
    }
}

/// The end of the first head in `bytes`, with its blank line; `None` when it has not come.
///
/// For heads that arrive in pieces: `searched_from` is how many bytes the last call was given, so that each
/// byte is looked at once and not once per piece. It does not say that the head is a good one.
#[must_use]
pub fn is_complete(bytes: &[u8], searched_from: usize) -> Option<usize> {
    // The last search may have ended on the LF, or on the LF and CR, that begin the end.
    let start = searched_from.saturating_sub(2).min(bytes.len());
    let mut lines = bytes[start..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    lines.find_map(|(lf, _)| {
        let after = start + lf + 1;
        match bytes[after..] {
            [b'\n', ..] => Some(after + 1),
            [b'\r', b'\n', ..] => Some(after + 2),
            _ => None,
        }
    })
}

/// More empty lines before the request line than the one that old clients add: httparse would skip any number
/// of them, and [`is_complete`] would take them for the end.
fn has_empty_lines(bytes: &[u8]) -> bool {
    let rest = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n"));
    rest.is_some_and(|rest| matches!(rest, [b'\r' | b'\n', ..]))
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// RFC 9112 section 3.2. A fragment never travels, and other characters are percent-encoded.
    fn parse(target: &'a str) -> Result<Self, BadHead> {
        if target.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(BadHead::Malformed);
        }
        let (authority, rest) = match target.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => {
                let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                (Some(authority), rest)
            }
            _ => (None, target),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { authority, path, query })
    }
}

fn is_scheme(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}
