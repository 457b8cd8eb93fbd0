//! A node as a bus sees it: mailboxes that a test reads in place of shards, and a feed that it fills in their place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use backend::joint::{BUS, Ends, Node as Who, OnLoss, RouteOnBus, Routes};
use backend::redis::{RedisBus, Server};
use backend::{Bus as _, BusState, Intake};
use bridge::inbound::Occurrence;
use bridge::mailbox::{Wake, mailbox};
use bridge::message::Bytes;
use bridge::{Address, Channel, Command, Epoch, Inbound, Inbox, Kind, Mailbox, NodeName, Switchboard};
use tokio::time::Instant;

use crate::server::{PATIENCE, PAUSE};

/// Most shards say unsettled at a time, of one connection.
const UNSETTLED_MAX: u32 = 8;

struct Deaf;
impl Wake for Deaf {
    fn wake(&self) {}
}

pub(crate) struct Node {
    pub(crate) bus: Arc<RedisBus>,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) epoch: Epoch,
    to_shard: Mailbox,
    inbox: Inbox,
    intake: Option<Intake>,
    /// By slot: events made, and of these settled.
    connections: HashMap<u32, (u32, u32)>,
    /// Channels and payloads that came, oldest first.
    pub(crate) heard: Vec<(Channel, Kind, Bytes)>,
    /// Slots that were told to close.
    pub(crate) closed: Vec<u32>,
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

impl Node {
    pub(crate) async fn start(name: &str, server: Server) -> Self {
        Self::start_with(name, server, 10_000, OnLoss::Pause).await
    }

    pub(crate) async fn start_with(name: &str, server: Server, stream_entries: u64, on_loss: OnLoss) -> Self {
        Self::try_start(name, server, stream_entries, on_loss).await.unwrap()
    }

    /// Why it does not start.
    pub(crate) async fn refused(server: Server) -> String {
        Self::try_start("one", server, 10_000, OnLoss::Pause).await.err().expect("a refusal")
    }

    /// One shard, one route by the name of `app`, four partitions.
    async fn try_start(
        name: &str,
        server: Server,
        stream_entries: u64,
        on_loss: OnLoss,
    ) -> Result<Self, String> {
        let (to_shard, inbox) = mailbox(100_000, 1 << 30, Arc::new(Deaf));
        let ends = Ends::new(1024);
        let board = Switchboard::new(vec![to_shard.clone()]).with_beyond(Arc::clone(&ends.beyond));
        let switchboard = Arc::new(board);
        let (intake, feed, _) = Intake::new();
        let epoch = Epoch(fastrand::u32(..));
        let who = Who {
            name: NodeName::parse(name).unwrap(),
            epoch,
            prefix: Arc::from("gateway"),
            partitions: 4,
            wall_ms,
        };
        let routes = Arc::<Routes>::default();
        routes.set(
            [RouteOnBus {
                name: Arc::from("app"),
                tells_bus: true,
                on_loss,
                closes_on_gap: false,
                message_bytes: 0,
            }]
            .into(),
        );
        let joint = ends.join(who, Arc::clone(&switchboard), feed, routes);
        let bus = RedisBus::start(joint, server, stream_entries).await?;
        Ok(Self {
            bus,
            switchboard,
            epoch,
            to_shard,
            inbox,
            intake: Some(intake),
            connections: HashMap::new(),
            heard: Vec::new(),
            closed: Vec::new(),
        })
    }

    /// Waits until it is so.
    pub(crate) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        let mut looks = tokio::time::interval(PAUSE);
        loop {
            looks.tick().await;
            self.look();
            if is_so(self) {
                return;
            }
            let problem = self.bus.problem();
            assert!(started.elapsed() < PATIENCE, "never happened: {what}; the bus: {problem:?}");
        }
    }

    pub(crate) async fn is_up(&mut self) {
        self.until("the bus is up", |node| node.bus.state() == BusState::Up).await;
    }

    /// Fills the mailbox with orders about this slot, so that nothing else has room before somebody looks.
    pub(crate) fn fill_mailbox(&self, slot: u32) {
        let whom = Address { shard: 0, slot, generation: 1 };
        while self.to_shard.send(Command::GiveUp { whom }).is_ok() {}
    }

    /// Takes what is in the mailbox.
    pub(crate) fn look(&mut self) {
        self.inbox.look();
        while let Some(command) = self.inbox.take() {
            match command {
                Command::Publish(publish) => {
                    let message = publish.message;
                    self.heard.push((publish.channel, message.kind(), message.payload().clone()));
                }
                Command::Settle { upstream, settled } => {
                    assert_eq!(upstream, BUS);
                    for one in settled {
                        let (made, done) = self.connections.get_mut(&one.address.slot).unwrap();
                        *done += u32::from(one.events);
                        assert!(*done <= *made, "nothing is settled twice");
                    }
                }
                Command::GiveUp { whom } => self.closed.push(whom.slot),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether a connection may say one more thing.
    pub(crate) fn may_say(&self, slot: u32) -> bool {
        self.connections.get(&slot).is_none_or(|(made, done)| made - done < UNSETTLED_MAX)
    }

    pub(crate) fn unsettled(&self) -> u32 {
        self.connections.values().map(|(made, done)| made - done).sum()
    }

    /// One more event of this connection.
    pub(crate) async fn say(&mut self, slot: u32, payload: &[u8]) {
        let (made, _) = self.connections.entry(slot).or_default();
        *made += 1;
        let address = Address { shard: 0, slot, generation: 1 };
        let inbound = Inbound {
            upstream: BUS,
            partition: address.partition(4),
            address,
            route: 0,
            sequence: *made,
            principal: None,
            occurrence: Occurrence::Message { kind: Kind::Binary, payload: Bytes::copy_from_slice(payload) },
        };
        self.intake.as_ref().unwrap().events.send(vec![inbound]).await.unwrap();
    }

    /// No more events; what was said is handed over.
    pub(crate) async fn stop(&mut self) {
        self.intake = None;
        self.bus.stop().await;
        self.look();
    }
}
