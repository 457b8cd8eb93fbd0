//! What came over publish/subscribe, delivered to the shards in order: by the task at the other end of the queue that the
//! connection fills, which reads and must not wait.

use std::sync::Arc;

use bridge::message::Bytes;
use bridge::{Epoch, NodeName};

use super::envelope;
use super::keys::{Keys, Target};
use crate::arrivals::{Arrivals, Queue};
use crate::bus_stats::BusStats;
use crate::incoming::Incoming;

/// A message, and where it was published.
pub(crate) struct Published {
    name: Vec<u8>,
    payload: Vec<u8>,
}

/// The end that the connection fills.
pub(crate) type Received = Arrivals<Published>;

impl Received {
    /// Takes a message, or drops it when too much waits.
    pub(crate) fn take(&self, name: Vec<u8>, payload: Vec<u8>) {
        let bytes = payload.len();
        let _ = self.offer(Published { name, payload }, bytes);
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

impl Deliverer {
    /// Goes on until the other end is gone.
    pub(crate) async fn run(mut self, mut queue: Queue<Published>) {
        while let Some(Published { name, payload }) = queue.next().await {
            if !self.deliver(&name, payload).await {
                self.stats.malformed.add(1);
            }
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
            (Target::Channel(channel), _) => {
                self.incoming.publish(&channel, &envelope.message, envelope.exclude.as_ref()).await;
            }
            (Target::Connection, Some(id)) => {
                // What became of it is counted; nobody waits for an answer.
                self.incoming.send(&id, &envelope.message, None).await;
            }
            (Target::Connection, None) => return false,
        }
        true
    }
}
