//! The connection that publishes: what clients of this node say to channels, and what the API does, in batches.
//!
//! What the node says to other nodes goes the same way. At most once: a batch whose answer does not come is not sent again, because some of it may have been heard. What
//! clients publish while the bus is away waits in its mailbox, which is bounded and then pauses them, and leaves when other
//! nodes have had time to come back; what the API publishes is answered at once that the bus is away.

use std::sync::Arc;

use bridge::{Channel, ConnId, Message, Publish};
use redis::{Pipeline, Value};
use tokio::sync::{mpsc, oneshot, watch};

use super::entry::Writer;
use super::envelope;
use super::health::{Health, Part};
use super::hold::Hold;
use super::keys::Keys;
use super::link::{Backoff, Connected, Link, Problem, is_loss};
use crate::bus_stats::BusStats;
use crate::outgoing::Outgoing;
use crate::presence::NODES_MAX;

/// Messages of one batch.
const BATCH_MESSAGES: usize = 512;
/// Its payload bytes; a larger message goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Publishes of the API, commands and answers that may wait.
pub(crate) const FORWARDS_MAX: usize = 1_024;
/// Words about who is there that may wait: as when all other nodes are lost at once, and some beats. They go first: a node
/// that is late seems lost.
pub(crate) const WORDS_MAX: usize = NODES_MAX + 64;

/// Something to publish that no client said.
pub(crate) struct Forward {
    pub(crate) what: What,
    /// How many connections of Redis listen there; `None` when it was not published.
    pub(crate) done: Option<oneshot::Sender<Option<u64>>>,
}

impl Forward {
    /// Says that it was not published, and counts what was for a channel.
    fn leave_out(self, stats: &BusStats) {
        if matches!(self.what, What::Message(..)) {
            stats.left_out.add(1);
        }
        let _ = self.done.map(|done| done.send(None));
    }
}

/// What.
pub(crate) enum What {
    /// A publish of the API, and who of another node must not hear it.
    Message(Channel, Message, Option<ConnId>),
    /// Something about nodes: where, and what.
    Words(String, Vec<u8>),
}

/// Publishes.
pub(crate) struct PublishTask {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    pub(crate) writer: Writer,
    pub(crate) outgoing: Outgoing,
    /// Whether it is time for what clients publish.
    pub(crate) hold: Hold,
    pub(crate) forwards: mpsc::Receiver<Forward>,
    pub(crate) words: mpsc::Receiver<Forward>,
    pub(crate) health: Arc<Health>,
    pub(crate) stats: Arc<BusStats>,
    /// Becomes true when the program ends.
    pub(crate) stop: watch::Receiver<bool>,
}

/// One message of a batch, and who waits for it.
struct Sent {
    done: Option<oneshot::Sender<Option<u64>>>,
    /// It is for a channel, and counted.
    is_message: bool,
}

impl PublishTask {
    /// Goes on until it is told to stop and nothing waits, or the bus is away then.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            match self.session(&mut backoff).await {
                Ok(()) => return,
                Err(problem) => self.health.lost(Part::Publishing, problem),
            }
            if *self.stop.borrow() {
                return;
            }
            let pause = tokio::time::sleep(backoff.next());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(forward) = self.forwards.recv() => forward.leave_out(&self.stats),
                    Some(word) = self.words.recv() => word.leave_out(&self.stats),
                }
            }
        }
    }

    /// One connection, from its making to its loss, or to the end.
    async fn session(&mut self, backoff: &mut Backoff) -> Result<(), Problem> {
        let connected = self.link.connect().await?;
        backoff.reset();
        self.health.up(Part::Publishing, Arc::clone(&connected.heard));
        loop {
            let mut batch = Batch::new();
            tokio::select! {
                biased;
                Some(word) = self.words.recv() => self.add_forward(&mut batch, word),
                publish = async { self.hold.over().await; self.outgoing.next().await } => {
                    self.add(&mut batch, &publish);
                }
                Some(forward) = self.forwards.recv() => self.add_forward(&mut batch, forward),
                problem = connected.end() => return Err(problem),
                () = async { let _ = self.stop.wait_for(|stop| *stop).await; } => {
                    if self.hold.is_over() {
                        return Ok(());
                    }
                    // Better heard by some than by nobody.
                    self.hold.release();
                    continue;
                }
            }
            self.fill(&mut batch);
            self.send(&connected, batch).await?;
        }
    }

    fn add(&self, batch: &mut Batch, publish: &Publish) {
        batch.push(self.keys.channel(&publish.channel), self.envelope(&publish.message, None), true, None);
    }

    fn add_forward(&self, batch: &mut Batch, forward: Forward) {
        let Forward { what, done } = forward;
        match what {
            What::Message(channel, message, exclude) => {
                let envelope = self.envelope(&message, exclude.as_ref());
                batch.push(self.keys.channel(&channel), envelope, true, done);
            }
            What::Words(name, words) => batch.push(name, words, false, done),
        }
    }

    fn envelope(&self, message: &Message, exclude: Option<&ConnId>) -> Vec<u8> {
        let origin = (self.writer.node.as_str(), self.writer.epoch);
        envelope::encode(Some(origin), None, exclude, message)
    }

    /// Takes what waits already: words about who is there, and then from both sides alike.
    fn fill(&mut self, batch: &mut Batch) {
        while batch.has_room()
            && let Ok(word) = self.words.try_recv()
        {
            self.add_forward(batch, word);
        }
        while batch.has_room() {
            let before = batch.sent.len();
            if self.hold.is_over()
                && let Some(publish) = self.outgoing.take()
            {
                self.add(batch, &publish);
            }
            if let Ok(forward) = self.forwards.try_recv() {
                self.add_forward(batch, forward);
            }
            if batch.sent.len() == before {
                break;
            }
        }
    }

    async fn send(&self, connected: &Connected, batch: Batch) -> Result<(), Problem> {
        let Batch { pipeline, sent, .. } = batch;
        let mut connection = connected.connection.clone();
        let answers = connected.unless_over(pipeline.query_async::<Vec<Value>>(&mut connection)).await;
        let (answers, problem) = match answers {
            Ok(Ok(answers)) => (answers, None),
            Ok(Err(error)) if is_loss(&error) => (Vec::new(), Some(error.to_string())),
            Ok(Err(_)) => (Vec::new(), None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let mut answers = answers.into_iter();
        for Sent { done, is_message } in sent {
            let listeners = match answers.next() {
                Some(Value::Int(listeners)) => Some(listeners.unsigned_abs()),
                _ => None,
            };
            if is_message {
                let count = if listeners.is_some() { &self.stats.forwarded } else { &self.stats.left_out };
                count.add(1);
            }
            if let Some(done) = done {
                let _ = done.send(listeners);
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

struct Batch {
    pipeline: Pipeline,
    sent: Vec<Sent>,
    bytes: usize,
}

impl Batch {
    fn new() -> Self {
        let mut pipeline = redis::pipe();
        // One that is refused, as by an access list, must not hide what became of the others.
        pipeline.ignore_errors();
        Self { pipeline, sent: Vec::new(), bytes: 0 }
    }

    const fn has_room(&self) -> bool {
        self.sent.len() < BATCH_MESSAGES && self.bytes < BATCH_BYTES
    }

    fn push(
        &mut self,
        name: String,
        payload: Vec<u8>,
        is_message: bool,
        done: Option<oneshot::Sender<Option<u64>>>,
    ) {
        self.bytes += payload.len();
        self.pipeline.cmd("PUBLISH").arg(name).arg(payload);
        self.sent.push(Sent { done, is_message });
    }
}
