//! Other nodes of a bus, as the gateway needs them: asking one of them, hearing what is asked of this one, and words about
//! who is there. What buses have in common is here: the forms of those words, and the queue of what was heard; each bus
//! only carries them. Commands and answers are `gateway.v1`; the binary reads and obeys them.
//!
//! Everything is at most once and has a deadline: a call that was not answered may still have been obeyed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bridge::{Epoch, NodeName};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::bus::BusFuture;
use crate::bus_stats::BusStats;
use crate::proto;

/// Commands and words that may wait for the node. What comes beyond that is dropped and counted as undelivered.
pub const HEARD_MAX: usize = 1024;
/// Bytes of commands that wait or are being obeyed; likewise.
pub const HEARD_BYTES_MAX: usize = 64 << 20;

/// Calls of a node that may wait for answers. Those beyond are not made, and counted as left out.
pub(crate) const CALLS_MAX: usize = 1024;

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The bus is away; nothing was sent.
    Away,
    /// The command is larger than the bus takes; nothing was sent.
    TooLarge,
    /// Nobody listens there, or nobody answered in time.
    Silent,
    /// As many calls as may be are waiting for answers; nothing was sent.
    Busy,
    /// What came is no answer.
    Unreadable,
}

/// Asks several nodes at once; their answers in the same order.
pub async fn call_all(
    peers: &dyn Peers,
    nodes: &[NodeName],
    command: &proto::Command,
    within: Duration,
) -> Vec<Result<proto::Answer, CallError>> {
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
    /// What is wanted, in whatever form it came.
    pub command: Bytes,
    /// It went to all nodes: those whom it does not concern say nothing.
    pub to_all: bool,
    /// Where the answer goes, on a bus whose messages say so themselves.
    pub reply_to: Option<String>,
    /// Its share of [`HEARD_BYTES_MAX`], for as long as it is kept.
    pub room: OwnedSemaphorePermit,
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
    /// A digest of the networks that it keeps out by order; of nodes that know none, `None`.
    pub kept_out: Option<u64>,
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

impl Beat {
    /// As it goes over a bus.
    pub(crate) fn write(&self) -> Vec<u8> {
        let event = if self.leaves { LEAVES } else { PRESENT };
        let mut words = words(event, (&self.node, self.epoch, self.number));
        if let Some(digest) = self.kept_out {
            // In digits, because numbers of JSON are not exact everywhere.
            words[KEPT_OUT] = format!("{digest:016x}").into();
        }
        words.to_string().into_bytes()
    }

    /// As it comes; `None` for what is no beat.
    pub(crate) fn read(said: &[u8]) -> Option<Self> {
        let words = serde_json::from_slice(said).ok()?;
        let (event, node, epoch, number) = read_words(&words)?;
        let leaves = match event.as_str() {
            PRESENT => false,
            LEAVES => true,
            _ => return None,
        };
        let digest = words[KEPT_OUT].as_str().and_then(|digest| u64::from_str_radix(digest, 16).ok());
        Some(Self { node, epoch, number, leaves, kept_out: digest })
    }
}

impl News {
    /// By which a repetition is known, whoever tells it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}.{}.{}", self.node, self.epoch, self.beat, self.fate.label())
    }

    /// As app servers read it.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut words = words(self.fate.label(), (&self.node, self.epoch, self.beat));
        words["id"] = self.id().into();
        words.to_string().into_bytes()
    }

    /// As it comes; `None` for what is no news.
    pub(crate) fn read(said: &[u8]) -> Option<Self> {
        let (event, node, epoch, beat) = read_words(&serde_json::from_slice(said).ok()?)?;
        Some(Self { fate: Fate::of(&event)?, node, epoch, beat })
    }
}

const PRESENT: &str = "present";
const LEAVES: &str = "leaves";
const KEPT_OUT: &str = "kept_out";

fn words(event: &str, (node, epoch, beat): (&NodeName, Epoch, u64)) -> Value {
    json!({ "event": event, "node": node.as_str(), "epoch": epoch.to_string(), "beat": beat })
}

fn read_words(words: &Value) -> Option<(String, NodeName, Epoch, u64)> {
    let node = NodeName::parse(words["node"].as_str()?).ok()?;
    let epoch = words["epoch"].as_str().filter(|epoch| epoch.len() == 8)?;
    let epoch = u32::from_str_radix(epoch, 16).ok().map(Epoch)?;
    Some((words["event"].as_str()?.to_owned(), node, epoch, words["beat"].as_u64()?))
}

/// What something from the bus is, by where it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A command, to this node or to all.
    Command { to_all: bool },
    /// The beat of a node.
    Presence,
    /// What became of a node.
    Nodes,
}

/// The end that a bus fills with what it hears; it never waits.
#[derive(Clone)]
pub(crate) struct Ear {
    tell: mpsc::Sender<Heard>,
    room: Arc<Semaphore>,
    stats: Arc<BusStats>,
}

/// The other end, for one taker.
pub(crate) type Taker = Mutex<Option<mpsc::Receiver<Heard>>>;

/// Takes it.
pub(crate) fn take(taker: &Taker) -> Option<mpsc::Receiver<Heard>> {
    taker.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Ear {
    /// Both ends.
    pub(crate) fn new(stats: &Arc<BusStats>) -> (Self, Taker) {
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        let room = Arc::new(Semaphore::new(HEARD_BYTES_MAX));
        (Self { tell, room, stats: Arc::clone(stats) }, Mutex::new(Some(heard)))
    }

    /// Takes something; what is not ours and what finds no room is counted. `false`: nobody listens any more.
    pub(crate) fn hear(&self, subject: Subject, said: Bytes, reply_to: Option<String>) -> bool {
        let heard = match subject {
            Subject::Presence => Beat::read(&said).map(Heard::Beat),
            Subject::Nodes => News::read(&said).map(Heard::Told),
            Subject::Command { to_all } => {
                let bytes = u32::try_from(said.len()).unwrap_or(u32::MAX);
                let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) else {
                    self.stats.undelivered.add(1);
                    return true;
                };
                Some(Heard::Asked(Asked { command: said, to_all, reply_to, room }))
            }
        };
        let Some(heard) = heard else {
            self.stats.malformed.add(1);
            return true;
        };
        match self.tell.try_send(heard) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.stats.undelivered.add(1);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// The way to other nodes. A bus without one is a node by itself.
pub trait Peers: Send + Sync {
    /// Asks a node and waits for its answer, at most `within`; counted.
    fn call<'a>(
        &'a self,
        node: &'a NodeName,
        command: proto::Command,
        within: Duration,
    ) -> BusFuture<'a, Result<proto::Answer, CallError>> {
        Box::pin(async move {
            if self.is_away() {
                return Err(CallError::Away);
            }
            let stats = self.counts();
            stats.calls.add(1);
            let asked = tokio::time::timeout(within, self.ask(node, command, within)).await;
            let answer = asked.unwrap_or(Err(CallError::Silent));
            match answer {
                Ok(_) => {}
                Err(CallError::Busy) => stats.calls_left_out.add(1),
                Err(_) => stats.calls_unanswered.add(1),
            }
            answer
        })
    }

    /// Asks, for [`Peers::call`], which gives up after `within`. The command's id and address are the bus's to set.
    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        command: proto::Command,
        within: Duration,
    ) -> BusFuture<'a, Result<proto::Answer, CallError>>;

    /// Whether nobody can be asked now.
    fn is_away(&self) -> bool;

    /// Where calls are counted.
    fn counts(&self) -> &BusStats;

    /// Whether an answer may go where a command itself says: where messages bring no address of their own.
    fn may_answer(&self, reply_to: &str) -> bool;

    /// Answers a command. Nothing is kept for later while the bus is away.
    fn answer<'a>(&'a self, reply_to: &'a str, answer: Bytes) -> BusFuture<'a, ()>;

    /// Says that this node is there. Nothing is kept for later while the bus is away.
    fn beat(&self, beat: Beat) -> BusFuture<'_, ()>;

    /// Tells app servers what became of a node. Nothing is kept for later while the bus is away.
    fn tell(&self, news: News) -> BusFuture<'_, ()>;

    /// Most bytes of a command or an answer.
    fn bytes_max(&self) -> usize;

    /// What is heard. For one taker: `None` for whoever asks again.
    fn hear(&self) -> Option<mpsc::Receiver<Heard>>;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node() -> NodeName {
        NodeName::parse("b").unwrap()
    }

    /// A bus of which the test says what becomes of a call.
    struct Scripted {
        outcome: Option<Result<proto::Answer, CallError>>,
        is_away: bool,
        stats: BusStats,
    }

    impl Peers for Scripted {
        fn ask<'a>(
            &'a self,
            _: &'a NodeName,
            _: proto::Command,
            _: Duration,
        ) -> BusFuture<'a, Result<proto::Answer, CallError>> {
            match self.outcome.clone() {
                Some(outcome) => Box::pin(std::future::ready(outcome)),
                None => Box::pin(std::future::pending()),
            }
        }

        fn is_away(&self) -> bool {
            self.is_away
        }

        fn counts(&self) -> &BusStats {
            &self.stats
        }

        fn may_answer(&self, _: &str) -> bool {
            false
        }

        fn answer<'a>(&'a self, _: &'a str, _: Bytes) -> BusFuture<'a, ()> {
            Box::pin(std::future::ready(()))
        }

        fn beat(&self, _: Beat) -> BusFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn tell(&self, _: News) -> BusFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn bytes_max(&self) -> usize {
            0
        }

        fn hear(&self) -> Option<mpsc::Receiver<Heard>> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_is_counted_by_what_became_of_it_whichever_bus_it_is() {
        let (answered, refused) = (Ok(proto::Answer::default()), |why| Some(Err(why)));
        for (outcome, expected, counts) in [
            (Some(answered.clone()), answered, [1, 0, 0]),
            (None, Err(CallError::Silent), [1, 1, 0]),
            (refused(CallError::Unreadable), Err(CallError::Unreadable), [1, 1, 0]),
            (refused(CallError::TooLarge), Err(CallError::TooLarge), [1, 1, 0]),
            (refused(CallError::Busy), Err(CallError::Busy), [1, 0, 1]),
        ] {
            let mut bus = Scripted { outcome, is_away: false, stats: BusStats::default() };
            let call = async |bus: &Scripted| {
                let answer = bus.call(&node(), proto::Command::default(), Duration::from_secs(3)).await;
                let BusStats { calls, calls_unanswered, calls_left_out, .. } = &bus.stats;
                (answer, [calls, calls_unanswered, calls_left_out].map(crate::bus_stats::Count::value))
            };
            assert_eq!(call(&bus).await, (expected, counts));
            bus.is_away = true;
            assert_eq!(call(&bus).await, (Err(CallError::Away), counts), "nobody was asked");
        }
    }

    #[test]
    fn words_about_nodes_survive_the_way_and_nothing_else_is_taken_for_one() {
        let beat = Beat { node: node(), epoch: Epoch(0xab), number: 3, leaves: true, kept_out: None };
        assert_eq!(Beat::read(&beat.write()), Some(beat.clone()));
        for kept_out in [Some(0), Some(u64::MAX)] {
            let beat = Beat { kept_out, ..beat.clone() };
            assert_eq!(Beat::read(&beat.write()), Some(beat));
        }
        let news = News { fate: Fate::Lost, node: node(), epoch: Epoch(0xab), beat: 3 };
        assert_eq!(News::read(&news.write()), Some(news.clone()));
        let shown: Value = serde_json::from_slice(&news.write()).unwrap();
        let expected = json!({
            "event": "lost", "node": "b", "epoch": "000000ab", "beat": 3, "id": "b.000000ab.3.lost"
        });
        assert_eq!(shown, expected);
        assert!(Beat::read(&news.write()).is_none() && News::read(&beat.write()).is_none());
        for bad in [
            &b""[..],
            b"nonsense",
            b"{}",
            br#"{"event":"present","node":"b","epoch":"ab","beat":1}"#,
            br#"{"event":"present","node":"b c","epoch":"000000ab","beat":1}"#,
            br#"{"event":"present","node":"b","epoch":"000000ab","beat":-1}"#,
        ] {
            assert!(Beat::read(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_is_heard_is_bounded_by_number_and_by_bytes_and_counted_beyond() {
        let stats = Arc::<BusStats>::default();
        let (ear, taker) = Ear::new(&stats);
        let mut heard = take(&taker).unwrap();
        assert!(take(&taker).is_none(), "it is for one taker");
        let command = Subject::Command { to_all: false };
        let large = Bytes::from(vec![0; HEARD_BYTES_MAX / 2 + 1]);
        assert!(ear.hear(command, large.clone(), None));
        assert!(ear.hear(command, large.clone(), None));
        assert_eq!(stats.undelivered.value(), 1, "two of them are too much");
        let Heard::Asked(asked) = heard.try_recv().unwrap() else { panic!("a command") };
        drop(asked);
        assert!(ear.hear(command, large, None));
        assert_eq!(stats.undelivered.value(), 1);
        for _ in 0..HEARD_MAX {
            assert!(ear.hear(command, Bytes::new(), None));
        }
        assert_eq!(stats.undelivered.value(), 2);
        assert!(ear.hear(Subject::Presence, Bytes::from_static(b"?"), None));
        assert_eq!(stats.malformed.value(), 1);
        drop(heard);
        let beat = Beat { node: node(), epoch: Epoch(1), number: 1, leaves: false, kept_out: None };
        assert!(!ear.hear(Subject::Presence, beat.write().into(), None));
    }
}
