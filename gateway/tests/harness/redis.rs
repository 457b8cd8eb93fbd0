//! A `redis-server` of a test's own, and a Redis client of a few lines, as an app server might be. It speaks the protocol
//! itself, so that the tests do not believe the library that the gateway uses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::servers::free_port;
use super::{PATIENCE, eventually};

/// A `redis-server`.
pub(crate) struct RedisServer {
    child: Option<Child>,
    /// Where it listens, on loopback.
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl RedisServer {
    /// One that writes down what it is told before it answers.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with further arguments.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { child: None, port, folder: tempfile::tempdir().unwrap(), arguments };
        server.run();
        server
    }

    /// One that speaks TLS alone, by this certificate and key, and believes this authority.
    #[track_caller]
    pub(crate) fn start_secure((certificate, key): &(PathBuf, PathBuf), authority: &Path) -> Self {
        let files = [certificate, key, authority].map(|file| file.to_str().unwrap());
        let [certificate, key, authority] = files;
        let names = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority];
        Self::start_with(&[&["--port", "0"], &names[..]].concat())
    }

    /// Starts it (again) on the same port and with the same files.
    #[track_caller]
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        let is_secure = self.arguments.iter().any(|argument| argument == "--tls-cert-file");
        let port = if is_secure { "--tls-port" } else { "--port" };
        command.args([port, &self.port.to_string(), "--dir"]).arg(self.folder.path());
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server, which `make tools` installs"));
        let port = self.port;
        if is_secure {
            eventually("redis-server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        } else {
            eventually("redis-server answers", || Redis::try_connect(port));
        }
    }

    /// Kills it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it where it stands: its sockets stay open, and nobody reads them. Comes back when it stands still.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        let id = self.signal(Signal::SIGSTOP);
        eventually("redis-server stands still", || {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            status.contains("State:\tT").then_some(())
        });
    }

    /// Lets it go on after [`RedisServer::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        let id = Pid::from_raw(child.id() as i32);
        kill(id, signal).unwrap();
        id
    }

    /// Its address for a configuration.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// Bytes, or a word.
    Bytes(Vec<u8>),
    /// Several.
    Array(Vec<Self>),
    /// A refusal.
    Error(String),
}

impl Value {
    /// Several answers; none when there is nothing.
    #[track_caller]
    pub(crate) fn array(self) -> Vec<Self> {
        match self {
            Self::Array(values) => values,
            Self::Nil => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    /// Bytes that are text.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// A number.
    #[track_caller]
    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("{other:?}"),
        }
    }
}

/// An entry of a stream: its id and its fields.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The id.
    pub(crate) id: String,
    fields: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    /// A field as text, empty when it is not there.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| std::str::from_utf8(value).unwrap())
    }

    /// The payload.
    #[track_caller]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.fields["payload"]
    }

    #[track_caller]
    fn read(value: Value) -> Self {
        let mut pair = value.array().into_iter();
        let id = pair.next().unwrap().text();
        let mut rest = pair.next().unwrap().array().into_iter();
        let mut fields = BTreeMap::new();
        while let (Some(field), Some(Value::Bytes(value))) = (rest.next(), rest.next()) {
            fields.insert(field.text(), value);
        }
        Self { id, fields }
    }
}

/// A connection to a server.
pub(crate) struct Redis(BufReader<TcpStream>);

impl Redis {
    /// Connects.
    #[track_caller]
    pub(crate) fn connect(port: u16) -> Self {
        eventually("redis-server answers", || Self::try_connect(port))
    }

    fn try_connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut redis = Self(BufReader::new(stream));
        redis.write(&[b"PING"]);
        (redis.read_value()? == Value::Bytes(b"PONG".to_vec())).then_some(redis)
    }

    fn write(&mut self, command: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        // A server that was killed takes nothing: who waits for an answer sees that.
        let _ = self.0.get_mut().write_all(&bytes);
    }

    fn read_value(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        let (kind, rest) = line.split_at_checked(1)?;
        Some(match kind {
            "+" => Value::Bytes(rest.as_bytes().to_vec()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Number(rest.parse().ok()?),
            "$" | "*" if rest == "-1" => Value::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().ok()? + 2];
                self.0.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Value::Bytes(bytes)
            }
            "*" => {
                let many: usize = rest.parse().ok()?;
                Value::Array((0..many).map(|_| self.read_value()).collect::<Option<_>>()?)
            }
            other => panic!("{other:?} is no answer"),
        })
    }

    /// Asks, and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &[&[u8]]) -> Value {
        self.write(command);
        self.read_value().expect("an answer")
    }

    /// The same in words.
    #[track_caller]
    pub(crate) fn say(&mut self, command: &str) -> Value {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.ask(&words)
    }

    /// Publishes; how many heard.
    #[track_caller]
    pub(crate) fn publish(&mut self, channel: &str, payload: &[u8]) -> i64 {
        self.ask(&[b"PUBLISH", channel.as_bytes(), payload]).number()
    }

    /// Subscribes, and comes back when the server knows. This connection can only listen from then on.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, name: &str) {
        let answer = self.say(&format!("SUBSCRIBE {name}")).array();
        assert_eq!(answer[0].text(), "subscribe");
    }

    /// What comes next by a subscription.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Vec<u8> {
        match &self.read_value().expect("a message").array()[..] {
            [_, _, Value::Bytes(payload)] => payload.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Makes a group that begins with the first entry of a stream.
    #[track_caller]
    pub(crate) fn make_group(&mut self, stream: &str, group: &str) {
        let made = self.say(&format!("XGROUP CREATE {stream} {group} 0 MKSTREAM"));
        assert_eq!(made, Value::Bytes(b"OK".to_vec()));
    }

    /// All of a stream.
    #[track_caller]
    pub(crate) fn entries(&mut self, stream: &str) -> Vec<Entry> {
        self.say(&format!("XRANGE {stream} - +")).array().into_iter().map(Entry::read).collect()
    }

    /// What a worker of a group is given next, within ten seconds: far beyond what it takes.
    #[track_caller]
    pub(crate) fn read_group(&mut self, group: &str, streams: &[String], count: u32) -> Vec<(String, Entry)> {
        let (names, news) = (streams.join(" "), vec![">"; streams.len()].join(" "));
        let command =
            format!("XREADGROUP GROUP {group} one COUNT {count} BLOCK 10000 STREAMS {names} {news}");
        let mut all = Vec::new();
        for stream in self.say(&command).array() {
            let mut pair = stream.array().into_iter();
            let name = pair.next().unwrap().text();
            let entries = pair.next().unwrap().array().into_iter().map(Entry::read);
            all.extend(entries.map(|entry| (name.clone(), entry)));
        }
        all
    }

    /// Acknowledges.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, group: &str, entries: &[(String, Entry)]) {
        for (stream, entry) in entries {
            assert_eq!(self.say(&format!("XACK {stream} {group} {}", entry.id)).number(), 1);
        }
    }
}
