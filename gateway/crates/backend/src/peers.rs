//! Other nodes of a bus, as the gateway needs them: asking one of them, hearing what is asked of this one, and words about
//! who is there. What is asked is bytes here; the binary reads and obeys them.
//!
//! Everything is at most once and has a deadline: a call that was not answered may still have been obeyed.

use std::time::Duration;

use bridge::{Epoch, NodeName};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use crate::bus::BusFuture;

/// Commands and words that may wait for the node. What comes beyond that is dropped and counted as undelivered.
pub const HEARD_MAX: usize = 1024;

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The bus is away; nothing was sent.
    Away,
    /// The command is larger than the bus takes; nothing was sent.
    TooLarge,
    /// Nobody listens there, or nobody answered in time.
    Silent,
}

/// Asks several nodes at once; their answers in the same order.
pub async fn call_all(
    peers: &dyn Peers,
    nodes: &[NodeName],
    command: &Bytes,
    within: Duration,
) -> Vec<Result<Bytes, CallError>> {
    join_all(nodes.iter().map(|node| peers.call(node, command.clone(), within))).await
}

/// What was heard from the bus.
#[derive(Debug)]
pub enum Heard {
    /// Somebody wants something of this node.
    Asked(Asked),
    /// A node says that it is there, or that it leaves.
    Beat(Beat),
    /// Another node has told app servers what became of one.
    Told(News),
}

/// A command, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What is wanted.
    pub command: Bytes,
    /// It went to all nodes: those whom it does not concern say nothing.
    pub to_all: bool,
    /// Who waits for the answer, if anybody does.
    pub answer: Option<oneshot::Sender<Bytes>>,
}

/// A node says that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Its name.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Counts its beats from 1.
    pub number: u64,
    /// It ends in good order: this is its last word.
    pub leaves: bool,
}

/// What becomes of a node, for app servers and for other observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What.
    pub fate: Fate,
    /// Whose.
    pub node: NodeName,
    /// In which life.
    pub epoch: Epoch,
    /// The beat that was last heard when it was lost: with node, epoch and fate the same for all who observed it.
    pub beat: u64,
}

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not heard any more: its connections are gone, and no closed events come.
    Lost,
    /// It was said to be lost, and is heard again in the same life: it was only cut off.
    Returned,
}

impl Fate {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Returned => "returned",
        }
    }

    /// The fate of a word.
    #[must_use]
    pub fn of(label: &str) -> Option<Self> {
        [Self::Lost, Self::Returned].into_iter().find(|fate| fate.label() == label)
    }
}

impl News {
    /// By which a repetition is known, whoever tells it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}.{}.{}", self.node, self.epoch, self.beat, self.fate.label())
    }
}

/// The way to other nodes. A bus without one is a node by itself.
pub trait Peers: Send + Sync {
    /// Asks a node and waits for its answer, at most `within`.
    fn call<'a>(
        &'a self,
        node: &'a NodeName,
        command: Bytes,
        within: Duration,
    ) -> BusFuture<'a, Result<Bytes, CallError>>;

    /// Says that this node is there. Nothing is kept for later while the bus is away.
    fn beat(&self, beat: Beat) -> BusFuture<'_, ()>;

    /// Tells app servers what became of a node. Nothing is kept for later while the bus is away.
    fn tell(&self, news: News) -> BusFuture<'_, ()>;

    /// Most bytes of an answer.
    fn answer_bytes_max(&self) -> usize;

    /// What is heard. For one taker: `None` for whoever asks again.
    fn hear(&self) -> Option<mpsc::Receiver<Heard>>;
}
