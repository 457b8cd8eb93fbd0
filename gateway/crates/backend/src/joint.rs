//! What a bus that joins nodes is built from, whichever it is: who the node is, its switchboard, and the ends at which
//! shards and the bus meet.
//!
//! Owns no connection and no policy but one: what a route's events do while the bus is away.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bridge::{Beyond, Command, Epoch, Mailbox, NodeName, Switchboard};

use crate::bus_stats::BusStats;
use crate::hearing::heard_first;
use crate::incoming::Incoming;
use crate::interests::Interests;
use crate::outgoing::Outgoing;
use crate::upstream::{Feed, Settler};

pub use bridge::inbound::BUS;

/// Channels that may change between two looks before everything is looked at.
const INTERESTS_MAX: usize = 65_536;
/// Payload bytes of clients' publishes that may wait for the bus.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// What a route does while the bus is away, and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOnBus {
    /// Its name: a token of subjects and keys.
    pub name: Arc<str>,
    /// Whether its events go to app servers on the bus.
    pub tells_bus: bool,
    /// What becomes of its inbound events while the bus is away.
    pub on_loss: OnLoss,
    /// Whether its connections are closed after a gap, so that clients fetch what they missed.
    pub closes_on_gap: bool,
    /// Longest message of its clients that goes over the bus, in bytes; 0 when none does.
    pub message_bytes: usize,
}

/// What becomes of an inbound event that the bus does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// It waits, and the connections that make more are not read.
    Pause,
    /// It is given up.
    Drop,
    /// It is given up, and whoever sent it is closed.
    Close,
}

/// Routes by number; swapped whole on a reload.
#[derive(Debug, Default)]
pub struct Routes(RwLock<Arc<[RouteOnBus]>>);

impl Routes {
    /// The routes in force.
    #[must_use]
    pub fn now(&self) -> Arc<[RouteOnBus]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Swaps them.
    pub fn set(&self, routes: Arc<[RouteOnBus]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }
}

/// The goodbyes after a gap are spread over so many ticks of 100 ms.
const GAP_TICKS: u32 = 100;
/// Between two attempts to tell a shard.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// The bus is back: shards close the connections of routes that want it so.
pub async fn close_gap(routes: &Routes, mailboxes: &[Mailbox]) {
    let routes = routes.now();
    let closed = (0u16..).zip(&*routes).filter(|(_, route)| route.closes_on_gap).map(|(number, _)| number);
    let closed: Arc<[u16]> = closed.collect();
    if closed.is_empty() {
        return;
    }
    for mailbox in mailboxes {
        let order = || Command::CloseGap { routes: Arc::clone(&closed), ticks: GAP_TICKS };
        while mailbox.send(order()).is_err() {
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}

/// The ends, before there is a switchboard.
pub struct Ends {
    /// For [`Switchboard::with_beyond`].
    pub beyond: Arc<Beyond>,
    interests: Arc<Interests>,
    outgoing: Outgoing,
}

impl Ends {
    /// New ones; so many publishes of clients may wait for the bus.
    ///
    /// # Panics
    /// If `messages_max` is zero.
    #[must_use]
    pub fn new(messages_max: usize) -> Self {
        let interests = Arc::new(Interests::new(INTERESTS_MAX));
        let (mailbox, outgoing): (Mailbox, Outgoing) = Outgoing::new(messages_max, OUTGOING_BYTES_MAX);
        let beyond = Arc::new(Beyond::new(Arc::<Interests>::clone(&interests), mailbox));
        Self { beyond, interests, outgoing }
    }

    /// Everything that a bus is built from. Within a runtime: it spawns what holds events back until the bus hears for them.
    #[must_use]
    pub fn join(self, node: Node, switchboard: Arc<Switchboard>, feed: Feed, routes: Arc<Routes>) -> Joint {
        let stats = Arc::<BusStats>::default();
        let incoming =
            Incoming::new(node.name.clone(), node.epoch, Arc::clone(&switchboard), Arc::clone(&stats));
        let settler = Settler::new(BUS, switchboard.mailboxes());
        let Self { beyond, interests, outgoing } = self;
        let feed = heard_first(feed, Arc::clone(&interests));
        Joint { node, switchboard, beyond, interests, outgoing, incoming, feed, settler, routes, stats }
    }
}

/// Who this node is on the bus.
#[derive(Clone, Debug)]
pub struct Node {
    /// Different for each node of a bus.
    pub name: NodeName,
    /// Different for each life of it.
    pub epoch: Epoch,
    /// First token of all subjects and keys.
    pub prefix: Arc<str>,
    /// Partitions of inbound events.
    pub partitions: u16,
    /// Milliseconds since 1970, for what app servers are told of gaps.
    pub wall_ms: fn() -> u64,
}

/// What a bus is built from.
pub struct Joint {
    /// Who we are.
    pub node: Node,
    /// The truth about who cares for which channel, and the way to the shards.
    pub switchboard: Arc<Switchboard>,
    /// Tells shards that the bus is away, or back.
    pub beyond: Arc<Beyond>,
    /// Says which channels to look at.
    pub interests: Arc<Interests>,
    /// What clients publish.
    pub outgoing: Outgoing,
    /// The way in.
    pub incoming: Incoming,
    /// Events of routes that speak to the bus.
    pub feed: Feed,
    /// Tells shards which of those the bus has.
    pub settler: Settler,
    /// What routes do while the bus is away.
    pub routes: Arc<Routes>,
    /// What is counted.
    pub stats: Arc<BusStats>,
}
