//! The opening handshake from the client's side (RFC 6455 section 4.1), and the head of any HTTP answer.
//!
//! It owns the request text and the check of the answer. It refuses redirects and subprotocols. Called by
//! `client` once per connection, and by the fan-out for publishes over HTTP.

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use tungstenite::handshake::derive_accept_key;

use crate::fault::Fault;

/// Longest head of an answer that is kept while it is incomplete, bytes.
pub(crate) const LONGEST_HEAD: usize = 8 * 1024;

/// The key of a client thread and the answer it must get.
///
/// One key serves all connections of a thread: a fresh one each would prove nothing more about the server and
/// would be 28 bytes to remember per handshake.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    text: String,
    accept: String,
}

impl Key {
    /// A random key: sixteen bytes in base64 (RFC 6455 section 4.1).
    pub(crate) fn random() -> Key {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        // 21 characters are 126 of the 128 bits; of the 22nd only two bits count, so one of four letters ends
        // it.
        let mut text: String = (0..21).map(|_| char::from(ALPHABET[fastrand::usize(..64)])).collect();
        text.push(['A', 'Q', 'g', 'w'][fastrand::usize(..4)]);
        text.push_str("==");
        let accept = derive_accept_key(text.as_bytes());
        Key { text, accept }
    }

    /// Appends the upgrade request for `path` to `out`.
    pub(crate) fn push_request(&self, out: &mut String, host: SocketAddrV4, path: &str) {
        let written = write!(
            out,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.text
        );
        debug_assert!(written.is_ok(), "a string takes every request");
    }

    /// Looks for the answer in `bytes`: the length of its head, or `None` while it is incomplete.
    ///
    /// # Errors
    /// [`Fault::Refused`] for another status than 101, [`Fault::Upgrade`] for a 101 that is not one.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(head) = Head::find(bytes)? else { return Ok(None) };
        if head.status != 101 {
            return Err(Fault::Refused(head.status));
        }
        match head.field("sec-websocket-accept") {
            Some(accept) if accept == self.accept => {}
            Some(_) => return Err(Fault::Upgrade("wrong accept key")),
            None => return Err(Fault::Upgrade("no accept key")),
        }
        if !head.field("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
            return Err(Fault::Upgrade("no upgrade field"));
        }
        if head.field("sec-websocket-extensions").is_some_and(|value| !value.is_empty()) {
            return Err(Fault::Upgrade("extension nobody offered"));
        }
        Ok(Some(head.length))
    }
}

/// The head of an HTTP answer.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Status code.
    pub(crate) status: u16,
    /// Bytes up to and with the empty line.
    pub(crate) length: usize,
    fields: &'a str,
}

impl<'a> Head<'a> {
    /// Looks for a whole head at the start of `bytes`; `None` while it is incomplete.
    ///
    /// # Errors
    /// [`Fault::Upgrade`] for what is no HTTP/1.1 answer, or one without end.
    pub(crate) fn find(bytes: &'a [u8]) -> Result<Option<Head<'a>>, Fault> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if bytes.len() > LONGEST_HEAD {
                Err(Fault::Upgrade("head without end"))
            } else {
                Ok(None)
            };
        };
        let text = str::from_utf8(&bytes[..end]).map_err(|_| Fault::Upgrade("head is no text"))?;
        let (line, fields) = text.split_once("\r\n").unwrap_or((text, ""));
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .ok_or(Fault::Upgrade("no HTTP/1.1 status line"))?;
        Ok(Some(Head { status, length: end + 4, fields }))
    }

    /// The value of a field by its name in any case, without the spaces around it.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        self.fields.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(key: &Key, status: &str, more: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nupgrade: WebSocket\r\nSec-WebSocket-Accept: {}\r\n{more}\r\n",
            key.accept
        )
    }

    #[test]
    fn the_request_carries_a_key_that_tungstenite_accepts() {
        let key = Key::random();
        let mut request = String::new();
        key.push_request(&mut request, "127.0.0.1:80".parse().unwrap(), "/echo");
        assert!(request.starts_with("GET /echo HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert!(request.contains(&format!("Sec-WebSocket-Key: {}\r\n", key.text)));
        assert_eq!(key.text.len(), 24);
        assert_eq!(derive_accept_key(key.text.as_bytes()), key.accept);
    }

    #[test]
    fn a_right_answer_is_taken_in_any_pieces() {
        let key = Key::random();
        let whole = answer(&key, "101 Switching Protocols", "");
        for end in 0..whole.len() {
            assert_eq!(key.check(&whole.as_bytes()[..end]), Ok(None));
        }
        let with_frame = format!("{whole}more");
        assert_eq!(key.check(with_frame.as_bytes()), Ok(Some(whole.len())));
    }

    #[test]
    fn a_wrong_answer_is_a_fault_by_kind() {
        let key = Key::random();
        let other = Key::random();
        let refused = answer(&key, "503 Service Unavailable", "Retry-After: 1\r\n");
        assert_eq!(key.check(refused.as_bytes()), Err(Fault::Refused(503)));
        let stranger = answer(&other, "101 Switching Protocols", "");
        assert_eq!(key.check(stranger.as_bytes()), Err(Fault::Upgrade("wrong accept key")));
        let extended = answer(&key, "101 Switching Protocols", "Sec-WebSocket-Extensions: x\r\n");
        assert_eq!(key.check(extended.as_bytes()), Err(Fault::Upgrade("extension nobody offered")));
        assert_eq!(key.check(b"SSH-2.0\r\n\r\n"), Err(Fault::Upgrade("no HTTP/1.1 status line")));
        assert_eq!(key.check(&[b'a'; LONGEST_HEAD + 1]), Err(Fault::Upgrade("head without end")));
    }
}
