//! What came over publish/subscribe, on its way to the shards: a bounded queue from the connection that reads, and the
//! task that empties it in order.
//!
//! At the bound the newest is dropped and counted: publish/subscribe is at most once, and a reader that stops would be
//! cut off. Bounded by messages and by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bridge::message::Bytes;
use bridge::{Epoch, NodeName};
use tokio::sync::mpsc;

use super::envelope;
use super::keys::{Keys, Target};
use crate::bus_stats::BusStats;
use crate::incoming::Incoming;

/// Messages that may wait.
const MESSAGES_MAX: usize = 16_384;
/// Their bytes.
const BYTES_MAX: usize = 64 << 20;

struct Published {
    name: Vec<u8>,
    payload: Vec<u8>,
}

/// The end that the connection fills.
#[derive(Clone)]
pub(crate) struct Received {
    sender: mpsc::Sender<Published>,
    bytes: Arc<AtomicUsize>,
    stats: Arc<BusStats>,
}

impl Received {
    /// Takes a message, or drops it when too much waits.
    pub(crate) fn offer(&self, name: Vec<u8>, payload: Vec<u8>) {
        let size = payload.len();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let is_too_much = before > 0 && before + size > BYTES_MAX;
        if is_too_much || self.sender.try_send(Published { name, payload }).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.stats.overrun.add(1);
        }
    }
}

/// Empties the queue.
pub(crate) struct Deliverer {
    pub(crate) keys: Keys,
    pub(crate) node: NodeName,
    pub(crate) epoch: Epoch,
    pub(crate) incoming: Incoming,
    pub(crate) stats: Arc<BusStats>,
}

/// The two ends of the queue; the second is for [`Deliverer::run`].
pub(crate) fn queue(stats: &Arc<BusStats>) -> (Received, Queue) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let bytes = Arc::<AtomicUsize>::default();
    let received = Received { sender, bytes: Arc::clone(&bytes), stats: Arc::clone(stats) };
    (received, Queue { receiver, bytes })
}

/// What waits for the shards.
pub(crate) struct Queue {
    receiver: mpsc::Receiver<Published>,
    bytes: Arc<AtomicUsize>,
}

impl Deliverer {
    /// Goes on until the other end is gone.
    pub(crate) async fn run(mut self, mut queue: Queue) {
        while let Some(Published { name, payload }) = queue.receiver.recv().await {
            let size = payload.len();
            if !self.deliver(&name, payload).await {
                self.stats.malformed.add(1);
            }
            queue.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Whether it was ours to deliver.
    async fn deliver(&mut self, name: &[u8], payload: Vec<u8>) -> bool {
        let Some(target) = self.keys.target(name) else { return false };
        let Ok(envelope) = envelope::decode(Bytes::from(payload)) else { return false };
        let is_own = envelope
            .origin
            .as_ref()
            .is_some_and(|(node, epoch)| *node == *self.node.as_str() && *epoch == self.epoch);
        match (target, envelope.connection) {
            (Target::Channel(_), _) if is_own => self.stats.own_copies.add(1),
            (Target::Channel(channel), _) => self.incoming.publish(&channel, &envelope.message).await,
            (Target::Connection, Some(id)) => {
                // What became of it is counted; nobody waits for an answer.
                self.incoming.send(&id, &envelope.message, None).await;
            }
            (Target::Connection, None) => return false,
        }
        true
    }
}
