//! The Redis bus: publish/subscribe for messages to channels and to connections and for what nodes say to each other,
//! streams for what clients do.
//!
//! Publish/subscribe is at most once: what is published while a node is cut off, it does not hear. Streams are at least
//! once. Three connections: one listens, one publishes, one writes streams, so that none waits for another. One server
//! (or whatever its name leads to); neither cluster nor sentinel. Built by the binary from a [`Joint`].

mod deliver;
mod entry;
pub mod envelope;
mod health;
mod hold;
mod inbound;
mod keys;
mod knock;
mod link;
mod listen;
mod orders;
mod peers;
mod publish;
mod silence;
mod streams;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bridge::{Channel, ConnId, Message, Switchboard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::entry::Writer;
use self::health::Health;
use self::hold::Hold;
use self::keys::Keys;
use self::link::Link;
use self::peers::Nodes;
use self::publish::{Forward, What};
use self::streams::{Bounds, Streams};
use crate::bus::{Bus, BusFuture, BusState, PublishError};
use crate::bus_stats::BusStats;
use crate::closing::Closing;
use crate::joint::{Joint, Routes, close_gap};
use crate::outgoing::OTHERS_RETURN_WITHIN;
use crate::peers::Peers;
use crate::trouble::Trouble;

pub use self::link::{Server, Tls};

/// Events and payload bytes of one batch into streams.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How long a start waits for the connections to a server that answers.
const UP_WITHIN: Duration = Duration::from_secs(5);
/// When the program ends, its tasks have so long to hand over what they have.
const STOP_PATIENCE: Duration = Duration::from_secs(6);

/// Entries of a stream, when nothing else is said.
pub const STREAM_ENTRIES: u64 = 10_000;

/// The Redis bus.
pub struct RedisBus {
    health: Arc<Health>,
    stats: Arc<BusStats>,
    forwards: mpsc::Sender<Forward>,
    nodes: Nodes,
    stop: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
}

struct Tasks {
    /// End by themselves once there is nothing more to do.
    finishing: Vec<JoinHandle<()>>,
    /// Never end.
    endless: Vec<JoinHandle<()>>,
}

impl RedisBus {
    /// Starts it on the current runtime, when it has been tried whether the server lets us in. It is up then, unless the
    /// server does not answer: then it connects by and by. `stream_entries` bounds each stream.
    ///
    /// # Errors
    /// Says, for people, what is wrong with the settings, or why the server refuses us. A server that is away is no error.
    pub async fn start(joint: Joint, server: Server, stream_entries: u64) -> Result<Arc<Self>, String> {
        let link = Link::new(server);
        link.client()?;
        let keys = Keys::new(&joint.node.prefix, &joint.node.name, joint.node.epoch);
        let answers = knock::knock(&link, &keys, &joint.routes.now()).await?;
        let bus = Self::begin(joint, link, keys, stream_entries, answers);
        if answers {
            // Who spoke before its connections are there would be treated as if it were away.
            let mut standing = bus.health.standing();
            let _ = tokio::time::timeout(UP_WITHIN, standing.wait_for(|standing| standing.is_up)).await;
        }
        Ok(Arc::new(bus))
    }

    /// Its tasks. `is_there`: the server has answered.
    fn begin(joint: Joint, link: Link, keys: Keys, stream_entries: u64, is_there: bool) -> Self {
        let Joint { node, switchboard, beyond, interests, outgoing, incoming, feed, settler, routes, stats } =
            joint;
        let health = Arc::new(Health::new(beyond, Arc::clone(&stats), node.wall_ms, is_there));
        let writer = Writer { node: node.name.clone(), epoch: node.epoch };
        let (received, queue) = deliver::Received::new(&stats);
        let (forwards, forwarded) = mpsc::channel(publish::FORWARDS_MAX);
        let (words, said) = mpsc::channel(publish::WORDS_MAX);
        let (nodes, ears) = Nodes::new(&keys, &health, &forwards, words, &stats);
        let (stop, stopped) = watch::channel(false);

        let listener = listen::Listener {
            link: link.clone(),
            keys: keys.clone(),
            switchboard: Arc::clone(&switchboard),
            interests,
            health: Arc::clone(&health),
            stats: Arc::clone(&stats),
            received,
            ears,
        };
        let deliverer = deliver::Deliverer {
            keys: keys.clone(),
            node: node.name,
            epoch: node.epoch,
            incoming,
            stats: Arc::clone(&stats),
        };
        let publishing = publish::PublishTask {
            link: link.clone(),
            keys: keys.clone(),
            writer: writer.clone(),
            outgoing,
            hold: Hold::new(health.standing(), OTHERS_RETURN_WITHIN),
            forwards: forwarded,
            words: said,
            health: Arc::clone(&health),
            stats: Arc::clone(&stats),
            stop: stopped,
        };
        let inbound = inbound::InboundTask {
            link,
            keys,
            writer,
            streams: Streams::new(Bounds {
                stream_entries,
                batch_events: BATCH_EVENTS,
                batch_bytes: BATCH_BYTES,
            }),
            feed,
            settler,
            closing: Closing::new(switchboard.mailboxes().to_vec()),
            routes: Arc::clone(&routes),
            partitions: node.partitions,
            health: Arc::clone(&health),
            stats: Arc::clone(&stats),
        };
        let tasks = Mutex::new(Tasks {
            finishing: vec![tokio::spawn(publishing.run()), tokio::spawn(inbound.run())],
            endless: vec![
                tokio::spawn(listener.run()),
                tokio::spawn(deliverer.run(queue)),
                tokio::spawn(close_gaps(health.gaps(), routes, switchboard)),
            ],
        });
        Self { health, stats, forwards, nodes, stop, tasks }
    }

    /// Why it is away, for people; `None` when it is not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.health.problem()
    }
}

impl Bus for RedisBus {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn state(&self) -> BusState {
        self.health.state()
    }

    fn is_deaf(&self) -> bool {
        self.health.is_deaf()
    }

    fn trouble(&self) -> Option<Trouble> {
        let problem = || self.health.problem().as_deref().map_or(Trouble::Unreachable, Trouble::of);
        (self.health.state() == BusState::Away).then(problem)
    }

    fn forward<'a>(
        &'a self,
        channel: &'a Channel,
        message: &'a Message,
        exclude: Option<&'a ConnId>,
    ) -> BusFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let (done, is_done) = oneshot::channel();
            let what = What::Message(channel.clone(), message.clone(), exclude.cloned());
            let is_taken = self.state() == BusState::Up
                && self.forwards.send(Forward { what, done: Some(done) }).await.is_ok();
            // Whoever says that it was not published has counted it.
            let listeners = if is_taken { is_done.await.ok() } else { None };
            if listeners.is_none() {
                self.stats.left_out.add(1);
            }
            if listeners.flatten().is_some() { Ok(()) } else { Err(PublishError::Away) }
        })
    }

    fn stats(&self) -> Option<&BusStats> {
        Some(&self.stats)
    }

    fn peers(&self) -> Option<&dyn Peers> {
        Some(&self.nodes)
    }

    fn stop(&self) -> BusFuture<'_, ()> {
        Box::pin(async move {
            let _ = self.stop.send(true);
            let (finishing, endless) = {
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                (std::mem::take(&mut tasks.finishing), std::mem::take(&mut tasks.endless))
            };
            let aborts: Vec<_> = finishing.iter().map(JoinHandle::abort_handle).collect();
            let all = async {
                for task in finishing {
                    let _ = task.await;
                }
            };
            let _ = tokio::time::timeout(STOP_PATIENCE, all).await;
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
            endless.iter().for_each(JoinHandle::abort);
        })
    }
}

/// After each gap, has the connections closed that want it so.
async fn close_gaps(mut gaps: watch::Receiver<u64>, routes: Arc<Routes>, switchboard: Arc<Switchboard>) {
    while gaps.changed().await.is_ok() {
        close_gap(&routes, switchboard.mailboxes()).await;
    }
}
