//! A NATS client of a few lines, as an app server might be: subscribe, publish, answer. It speaks the protocol itself, so
//! that the tests do not believe the library that the gateway uses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use super::{PATIENCE, eventually};

/// A connection to a server.
pub(crate) struct Nats {
    stream: BufReader<TcpStream>,
    subscriptions: u32,
}

/// A message that came.
#[derive(Clone, Debug)]
pub(crate) struct NatsMessage {
    /// Where it was published.
    pub(crate) subject: String,
    /// Where an answer goes.
    pub(crate) reply: Option<String>,
    headers: BTreeMap<String, String>,
    /// The content.
    pub(crate) payload: Vec<u8>,
}

impl NatsMessage {
    /// A header field, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The content, which is text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

impl Nats {
    /// Connects, and waits for a server that is just starting.
    #[track_caller]
    pub(crate) fn connect(port: u16) -> Self {
        eventually("a NATS server answers", || Self::try_connect(port, ""))
    }

    /// The same for a server that knows its users.
    #[track_caller]
    pub(crate) fn connect_as(port: u16, user: &str, password: &str) -> Self {
        let login = format!("\"user\":\"{user}\",\"pass\":\"{password}\",");
        eventually("a NATS server answers", || Self::try_connect(port, &login))
    }

    fn try_connect(port: u16, login: &str) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut nats = Self { stream: BufReader::new(stream), subscriptions: 0 };
        let mut info = String::new();
        nats.stream.read_line(&mut info).ok()?;
        let connect = format!(
            "CONNECT {{{login}\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nPING\r\n"
        );
        nats.write(connect.as_bytes());
        let mut pong = String::new();
        nats.stream.read_line(&mut pong).ok()?;
        (pong == "PONG\r\n").then_some(nats)
    }

    fn write(&mut self, bytes: &[u8]) {
        // A server that was killed takes nothing: who waits for an answer sees that.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Subscribes, and comes back when the server knows.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        let line = format!("SUB {subject} {}\r\nPING\r\n", self.subscriptions);
        self.write(line.as_bytes());
        assert_eq!(self.line(), "PONG");
    }

    /// Publishes.
    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.publish_with(subject, "", &[], payload);
    }

    /// Publishes with a reply subject and header fields.
    pub(crate) fn publish_with(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) {
        let mut head = String::from("NATS/1.0\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let all = head.len() + payload.len();
        let mut line = format!("HPUB {subject} {reply} {} {all}\r\n{head}", head.len()).into_bytes();
        line.extend_from_slice(payload);
        line.extend_from_slice(b"\r\n");
        self.write(&line);
    }

    /// Asks for something; what is answered.
    #[track_caller]
    pub(crate) fn ask(&mut self, subject: &str, question: impl AsRef<[u8]>) -> NatsMessage {
        let inbox = format!("_INBOX.test.{}", self.subscriptions);
        self.subscribe(&inbox);
        self.publish_with(subject, &inbox, &[], question.as_ref());
        self.hear()
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> NatsMessage {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["PING"] => self.write(b"PONG\r\n"),
                ["MSG", subject, _, .., size] => {
                    let reply = (words.len() == 5).then(|| words[3].to_owned());
                    return self.message(subject, reply, 0, size.parse().unwrap());
                }
                ["HMSG", subject, _, .., head, size] => {
                    let reply = (words.len() == 6).then(|| words[3].to_owned());
                    return self.message(subject, reply, head.parse().unwrap(), size.parse().unwrap());
                }
                _ => {}
            }
        }
    }

    fn message(&mut self, subject: &str, reply: Option<String>, head: usize, size: usize) -> NatsMessage {
        let mut all = vec![0; size + 2];
        self.stream.read_exact(&mut all).unwrap();
        let fields = String::from_utf8(all[..head].to_vec()).unwrap();
        let fields = fields.lines().filter_map(|line| line.split_once(':'));
        let headers = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        NatsMessage { subject: subject.to_owned(), reply, headers, payload: all[head..size].to_vec() }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).unwrap();
        assert!(read > 0, "the NATS server hung up");
        line.trim_end().to_owned()
    }
}
