//! A server's HTTP API as the conductor and its publisher use it: one call at a time on a kept connection.
//!
//! It owns the connection and its time limit. It refuses retries: who calls knows whether asking twice is safe.
//! Only loopback, as everything here ([`Target`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::failure::Failure;
use crate::target::Target;
use crate::upgrade::Head;

/// How long one call may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Longest answer, bytes.
const LONGEST: usize = 1 << 20;

/// The API of one server.
#[derive(Debug)]
pub(crate) struct Api {
    target: Target,
    stream: Option<TcpStream>,
}

/// What it answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text, for a complaint.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Api {
    /// The API at `http://ADDRESS:PORT`; connects with the first call.
    ///
    /// # Errors
    /// The URL is wrong, or not on loopback.
    pub(crate) fn new(url: &str) -> Result<Api, Failure> {
        Ok(Api { target: Target::parse(url, "http")?, stream: None })
    }

    /// Another connection to the same API.
    pub(crate) fn another(&self) -> Api {
        Api { target: self.target.clone(), stream: None }
    }

    /// Makes one call with a text as body; the connection is kept for the next one.
    ///
    /// # Errors
    /// No connection, no answer in time, or no HTTP/1.1. What became of the call is then unknown.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            self.target.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        let (answer, keeps) = read(&mut stream)?;
        self.stream = Some(stream).filter(|_| keeps);
        Ok(answer)
    }

    /// A call whose failure ends the run.
    ///
    /// # Errors
    /// As [`Api::call`], as the server's fault.
    pub(crate) fn demand(&mut self, method: &str, path: &str) -> Result<Answer, Failure> {
        self.call(method, path, b"").map_err(|error| Failure::Server(format!("{method} {path}: {error}")))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::V4(self.target.address), WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_write_timeout(Some(WITHIN))?;
        Ok(stream)
    }
}

/// Reads one answer, and says whether the connection goes on.
fn read(stream: &mut impl Read) -> io::Result<(Answer, bool)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(head) = Head::find(&bytes).map_err(|fault| io::Error::other(fault.to_string()))? {
            let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if length > LONGEST {
                return Err(io::Error::other("an answer longer than any"));
            }
            if bytes.len() >= head.length + length {
                let keeps = !head.field("connection").is_some_and(|way| way.eq_ignore_ascii_case("close"));
                let body = bytes[head.length..head.length + length].to_vec();
                return Ok((Answer { status: head.status, body }, keeps));
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_whole_with_the_last_byte_of_its_body() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nbody";
        let (answer, keeps) = read(&mut &text[..]).unwrap();
        assert_eq!((answer, keeps), (Answer { status: 202, body: b"body".to_vec() }, true));
        let cut = read(&mut &text[..text.len() - 1]).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let last = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        assert!(!read(&mut &last[..]).unwrap().1);
        let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
        assert!(read(&mut &endless[..]).is_err());
    }
}
