//! Two nodes on one bus, or one on the embedded bus, which is both; servers of a test's own; and mailboxes that the test
//! reads in place of shards.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backend::joint::{Ends, Joint, Node as Who, Routes};
use backend::redis::{RedisBus, STREAM_ENTRIES, Server};
use backend::{Bus, BusState, Embedded, Intake, Nats, Publisher, nats};
use bridge::mailbox::{Wake, mailbox};
use bridge::message::Bytes;
use bridge::{Address, Channel, Command, ConnId, Epoch, Inbox, Kind, Message, NodeName, Switchboard};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);

/// Which bus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Embedded,
    Nats,
    Redis,
}

struct Deaf;
impl Wake for Deaf {
    fn wake(&self) {}
}

/// One node with two shards.
pub(crate) struct Node {
    pub(crate) bus: Arc<dyn Bus>,
    name: NodeName,
    pub(crate) epoch: Epoch,
    pub(crate) switchboard: Arc<Switchboard>,
    inboxes: Vec<Inbox>,
    /// What came, oldest first.
    pub(crate) heard: Vec<(Channel, Kind, Bytes)>,
    /// Who must not hear each of them.
    pub(crate) excluded: Vec<Option<Address>>,
    /// How many of them did not say what they are.
    pub(crate) undeclared: usize,
    _intake: Intake,
}

/// Who publishes and who hears: the same node where a bus has but one.
pub(crate) struct Pair {
    which: Which,
    nodes: Vec<Node>,
    server: Option<Running>,
}

impl Pair {
    pub(crate) async fn start(which: Which) -> Self {
        let server = (which != Which::Embedded).then(|| Running::start(which));
        let port = server.as_ref().map_or(0, |server| server.port);
        let names: &[&str] = if which == Which::Embedded { &["a"] } else { &["a", "b"] };
        let mut nodes = Vec::new();
        for name in names {
            nodes.push(Node::start(which, name, port).await);
        }
        Self { which, nodes, server }
    }

    /// The node that publishes.
    pub(crate) fn here(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    /// The node that hears.
    pub(crate) fn there(&mut self) -> &mut Node {
        self.nodes.last_mut().unwrap()
    }

    pub(crate) fn nodes(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Somebody else on the bus publishes as plainly as it can be done. On the embedded bus there is nobody else.
    pub(crate) async fn app_server_publishes(&mut self, channel: &Channel, payload: &[u8]) {
        if self.which == Which::Embedded {
            let message = Message::undeclared(Kind::Text, Bytes::copy_from_slice(payload));
            self.nodes[0].switchboard.publish(None, channel, &message, None, None).unwrap();
        } else {
            self.app_server_publishes_to(channel.as_str(), payload).await;
        }
    }

    /// The same to whatever is no name, as far as the bus lets it be said.
    pub(crate) async fn app_server_publishes_to(&self, name: &str, payload: &[u8]) {
        match self.which {
            Which::Embedded => {}
            // They would end the subject.
            Which::Nats if name.contains([' ', '\r', '\n']) => {}
            Which::Nats => self.nats_publishes(format!("gateway.channel.{name}"), payload).await,
            Which::Redis => self.redis_publishes(format!("gateway:channel:{name}"), payload).await,
        }
    }

    /// Somebody else says something to a connection of the hearing node that has no id.
    pub(crate) async fn app_server_sends_to(&self, bad: &str) {
        match self.which {
            Which::Embedded => {}
            Which::Nats => self.nats_publishes(format!("gateway.connection.b.{bad}"), b"to whom?").await,
            Which::Redis => {
                // An envelope with this as its connection, and an empty text.
                let length = u8::try_from(bad.len()).unwrap();
                let envelope = [&[0, 0x1a, length], bad.as_bytes(), b"\x22\x02\x0a\x00"].concat();
                self.redis_publishes("gateway:connection:b".to_owned(), &envelope).await;
            }
        }
    }

    async fn nats_publishes(&self, subject: String, payload: &[u8]) {
        let nats = self.nats().await;
        nats.publish(subject, Bytes::copy_from_slice(payload)).await.unwrap();
        nats.flush().await.unwrap();
    }

    async fn redis_publishes(&self, name: String, payload: &[u8]) {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port())).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("PUBLISH").arg(name).arg(payload).exec_async(&mut redis).await.unwrap();
    }

    fn port(&self) -> u16 {
        self.server.as_ref().unwrap().port
    }

    /// Kills the server.
    pub(crate) fn kill_server(&mut self) {
        let server = self.server.as_mut().unwrap();
        let _ = server.child.kill();
        let _ = server.child.wait();
    }

    /// Starts it again where it was.
    pub(crate) fn restart_server(&mut self) {
        let port = self.port();
        self.server = Some(Running::start_at(self.which, port));
    }

    /// A client of the NATS server.
    pub(crate) async fn nats(&self) -> async_nats::Client {
        let unchecked = async_nats::ConnectOptions::new().skip_subject_validation(true);
        unchecked.connect(format!("nats://127.0.0.1:{}", self.port())).await.unwrap()
    }

    /// Has something said to these channels by each node after all else, twice, and waits until the hearing node, and whichever
    /// other was to hear it, has. What was to come has come then, and is all that is left in `heard`.
    pub(crate) async fn nothing_more(&mut self, channels: &[Channel]) {
        const LAST: &[u8] = b"\xffnothing more";
        for round in 1..=2 {
            for speaker in 0..self.nodes.len() {
                for channel in channels {
                    self.nodes[speaker].client_publishes(channel, Kind::Binary, LAST).await;
                }
                let needed = (round - 1) * self.nodes.len() + speaker + 1;
                let switchboards = self.nodes.iter().map(|node| Arc::clone(&node.switchboard));
                for (hearer, board) in switchboards.collect::<Vec<_>>().into_iter().enumerate() {
                    let awaited = channels.iter().filter(|channel| !board.shards(channel).is_empty());
                    let awaited: Vec<_> = awaited.collect();
                    let has_all = |node: &mut Node| {
                        let mut heard: HashMap<&Channel, usize> = HashMap::new();
                        let last = node.heard.iter().filter(|(.., payload)| payload == LAST);
                        last.for_each(|(channel, ..)| *heard.entry(channel).or_default() += 1);
                        awaited.iter().all(|channel| heard.get(channel).is_some_and(|many| *many >= needed))
                    };
                    self.nodes[hearer].until("the last is heard", has_all).await;
                }
            }
        }
        for node in &mut self.nodes {
            let is_last: Vec<bool> = node.heard.iter().map(|(.., payload)| payload == LAST).collect();
            let (mut of_heard, mut of_excluded) = (is_last.iter(), is_last.iter());
            node.heard.retain(|_| !of_heard.next().unwrap());
            node.excluded.retain(|_| !of_excluded.next().unwrap());
        }
    }

    /// Stops the server where it stands, or lets it go on.
    pub(crate) fn freeze(&self, freezes: bool) {
        let server = self.server.as_ref().expect("a bus with a server");
        let (signal, id) = (if freezes { "-STOP" } else { "-CONT" }, server.child.id().to_string());
        assert!(Process::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Waits until the hearing node has so many subscriptions, and the server knows.
    pub(crate) async fn settled(&mut self, channels: usize) {
        if self.nodes.len() == 1 {
            return;
        }
        let probe = Channel::parse("probe").unwrap();
        self.there().join(&probe);
        let subscribed = |node: &mut Node| {
            node.bus.stats().is_some_and(|stats| stats.subscriptions.value() == channels as u64 + 1)
        };
        self.there().until("subscriptions stand", subscribed).await;
        // Subscriptions of one connection are made in order: once this one is heard, the others stand.
        let (started, mut looks) = (Instant::now(), tokio::time::interval(PAUSE));
        while self.there().heard.is_empty() {
            assert!(started.elapsed() < PATIENCE, "a subscription that was made is not heard");
            self.here().client_publishes(&probe, Kind::Text, b"probe").await;
            looks.tick().await;
            self.there().look();
        }
        self.there().leave(&probe);
        let gone = |node: &mut Node| {
            node.bus.stats().is_some_and(|stats| stats.subscriptions.value() == channels as u64)
        };
        self.there().until("the probe is gone", gone).await;
        self.there().heard.clear();
        self.there().excluded.clear();
    }
}

impl Node {
    async fn start(which: Which, name: &str, port: u16) -> Self {
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
            (0..2).map(|_| mailbox(100_000, 1 << 30, Arc::new(Deaf))).unzip();
        let board = Switchboard::new(mailboxes);
        let (intake, feed, _) = Intake::new();
        let (name, epoch) = (NodeName::parse(name).unwrap(), Epoch(fastrand::u32(..)));
        let (switchboard, bus): (Arc<Switchboard>, Arc<dyn Bus>) = if which == Which::Embedded {
            (Arc::new(board), Arc::new(Embedded))
        } else {
            let ends = Ends::new(1024);
            let switchboard = Arc::new(board.with_beyond(Arc::clone(&ends.beyond)));
            let who =
                Who { name: name.clone(), epoch, prefix: Arc::from("gateway"), partitions: 4, wall_ms: || 0 };
            let joint = ends.join(who, Arc::clone(&switchboard), feed, Arc::<Routes>::default());
            (switchboard, connect(which, joint, port).await)
        };
        let (heard, excluded) = (Vec::new(), Vec::new());
        let mut node =
            Self { bus, name, epoch, switchboard, inboxes, heard, excluded, undeclared: 0, _intake: intake };
        node.until("the bus is up", |node| node.bus.state() == BusState::Up).await;
        node
    }

    /// The id of a connection of this node.
    pub(crate) fn id(&self, address: Address) -> ConnId {
        ConnId { node: self.name.clone(), epoch: self.epoch, address }
    }

    pub(crate) fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.switchboard), Arc::clone(&self.bus))
    }

    pub(crate) fn join(&self, channel: &Channel) {
        self.switchboard.join(0, channel);
    }

    pub(crate) fn leave(&self, channel: &Channel) {
        self.switchboard.leave(0, channel);
    }

    /// As a client does: when there is no room, it waits.
    pub(crate) async fn client_publishes(&mut self, channel: &Channel, kind: Kind, payload: &[u8]) {
        let message = Message::copy_from(kind, payload);
        let (started, mut looks) = (Instant::now(), tokio::time::interval(PAUSE));
        while self.switchboard.publish_everywhere(0, channel, &message, None).is_err() {
            assert!(started.elapsed() < PATIENCE, "the bus takes nothing");
            looks.tick().await;
        }
    }

    pub(crate) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let (started, mut looks) = (Instant::now(), tokio::time::interval(PAUSE));
        loop {
            self.look();
            if is_so(self) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never happened: {what}; heard {}", self.heard.len());
            looks.tick().await;
        }
    }

    /// Waits until it is so, at most this long.
    pub(crate) async fn within(&mut self, most: Duration, mut is_so: impl FnMut(&mut Self) -> bool) {
        let (started, mut looks) = (Instant::now(), tokio::time::interval(PAUSE));
        while started.elapsed() < most {
            self.look();
            if is_so(self) {
                return;
            }
            looks.tick().await;
        }
    }

    pub(crate) fn heard_on(&self, channel: &Channel) -> Vec<Bytes> {
        let heard = self.heard.iter().filter(|(heard, ..)| heard == channel);
        heard.map(|(_, _, payload)| payload.clone()).collect()
    }

    fn look(&mut self) {
        for inbox in &mut self.inboxes {
            inbox.look();
            while let Some(command) = inbox.take() {
                if let Command::Publish(publish) = command {
                    let message = publish.message;
                    self.excluded.push(publish.exclude);
                    self.undeclared += usize::from(!message.is_declared());
                    self.heard.push((publish.channel, message.kind(), message.payload().clone()));
                }
            }
        }
    }
}

async fn connect(which: Which, joint: Joint, port: u16) -> Arc<dyn Bus> {
    if which == Which::Nats {
        let servers = vec![format!("nats://127.0.0.1:{port}")];
        return Arc::new(Nats::start(&nats::Options { servers, ..Default::default() }, joint).await.unwrap());
    }
    let host = "127.0.0.1".to_owned();
    let server = Server { host, port, tls: None, database: 0, user: None, password_file: None };
    RedisBus::start(joint, server, STREAM_ENTRIES).await.unwrap()
}

/// A server of the test's own, killed by its id.
struct Running {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Running {
    fn start(which: Which) -> Self {
        Self::start_at(which, free_port())
    }

    fn start_at(which: Which, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Where `make tools` puts them, unless there are others anyhow.
        let tools = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../.tools"));
        let (unpacked, name) = match which {
            Which::Redis => (tools.join("redis/redis-server"), "redis-server"),
            _ => (tools.join("nats-server"), "nats-server"),
        };
        let mut process = Process::new(if unpacked.exists() { &unpacked } else { Path::new(name) });
        let port_text = port.to_string();
        match which {
            Which::Redis => process.args(["--port", &port_text, "--save", ""]),
            _ => process.args(["-a", "127.0.0.1", "-p", &port_text]),
        };
        process.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = process.spawn().expect("a server, which `make tools` gets");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "{name} does not listen");
            std::thread::park_timeout(PAUSE);
        }
        Self { child, port, _folder: folder }
    }
}

/// A port of loopback that nobody listens on, and that the kernel gives to nobody else before this process ends.
fn free_port() -> u16 {
    let held = TcpSocket::new_v4().unwrap();
    // Two sockets may share a port as long as both say so and only one listens.
    held.set_reuseaddr(true).unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = held.local_addr().unwrap().port();
    // Never closed.
    let _ = held.into_raw_fd();
    port
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
