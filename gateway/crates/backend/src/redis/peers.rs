//! Other nodes over Redis publish/subscribe: commands to a node's channel, answers to a channel of ours, beats, and what app
//! servers are told of nodes. Redis has no reply subjects, so a command names the channel for its answer, and an id by
//! which the answer finds who waits. What is said, and the bounds of what was heard, are [`crate::peers`]'s.

use std::sync::Arc;
use std::time::Duration;

use bridge::NodeName;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::health::Health;
use super::keys::{Keys, OfNodes};
use super::publish::{Forward, What};
use crate::bus::{BusFuture, BusState};
use crate::bus_stats::BusStats;
use crate::calls::Calls;
use crate::peers::{Beat, CALLS_MAX, CallError, Ear, Heard, News, Peers, Subject, Taker, take};
use crate::proto;

/// Most bytes of a command or an answer: a quarter of what Redis holds for a subscriber, by default, before it cuts it off.
const BYTES_MAX: usize = 8 << 20;
/// How long the last word of a node may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Other nodes of this Redis.
pub(super) struct Nodes {
    keys: Keys,
    health: Arc<Health>,
    forwards: mpsc::Sender<Forward>,
    words: mpsc::Sender<Forward>,
    calls: Arc<Calls<proto::Answer>>,
    stats: Arc<BusStats>,
    heard: Taker,
}

/// What the connection that listens calls; it never waits.
#[derive(Clone)]
pub(crate) struct Ears {
    ear: Ear,
    calls: Arc<Calls<proto::Answer>>,
    stats: Arc<BusStats>,
}

impl Nodes {
    /// Both ends. Commands and answers go to `forwards`; `words` is for what is said of who is there.
    pub(super) fn new(
        keys: &Keys,
        health: &Arc<Health>,
        forwards: &mpsc::Sender<Forward>,
        words: mpsc::Sender<Forward>,
        stats: &Arc<BusStats>,
    ) -> (Self, Ears) {
        let (ear, heard) = Ear::new(stats);
        let calls = Calls::new(CALLS_MAX);
        let ears = Ears { ear, calls: Arc::clone(&calls), stats: Arc::clone(stats) };
        let nodes = Self {
            keys: keys.clone(),
            health: Arc::clone(health),
            forwards: forwards.clone(),
            words,
            calls,
            stats: Arc::clone(stats),
            heard,
        };
        (nodes, ears)
    }

    /// Publishes, unless the bus is away or too much waits. Whoever misses a word hears the next.
    fn say(&self, what: OfNodes, words: Vec<u8>, done: Option<oneshot::Sender<Option<u64>>>) {
        if !self.is_away() {
            let what = What::Words(self.keys.place_of(what).to_owned(), words);
            if self.words.try_send(Forward { what, done }).is_err() {
                self.stats.words_left_out.add(1);
            }
        }
    }
}

impl Peers for Nodes {
    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        command: proto::Command,
        _: Duration,
    ) -> BusFuture<'a, Result<proto::Answer, CallError>> {
        Box::pin(async move {
            let call = self.calls.begin().ok_or(CallError::Busy)?;
            let reply_to = self.keys.place_of(OfNodes::Answer).to_owned();
            let words = proto::Command { id: call.id(), reply_to, ..command }.encode_to_vec();
            if words.len() > BYTES_MAX {
                return Err(CallError::TooLarge);
            }
            let (done, is_done) = oneshot::channel();
            let what = What::Words(self.keys.command_of(node), words);
            self.forwards.send(Forward { what, done: Some(done) }).await.map_err(|_| CallError::Away)?;
            match is_done.await {
                Ok(Some(1..)) => call.answer().await.ok_or(CallError::Silent),
                // Nobody listens there; or it may have been published, or not.
                _ => Err(CallError::Silent),
            }
        })
    }

    fn is_away(&self) -> bool {
        self.health.state() == BusState::Away
    }

    fn counts(&self) -> &BusStats {
        &self.stats
    }

    fn may_answer(&self, reply_to: &str) -> bool {
        self.keys.may_answer(reply_to)
    }

    fn answer<'a>(&'a self, reply_to: &'a str, answer: Bytes) -> BusFuture<'a, ()> {
        Box::pin(async move {
            if !self.is_away() {
                let what = What::Words(reply_to.to_owned(), answer.into());
                // Nobody waits for an answer that cannot be published.
                let _ = self.forwards.send(Forward { what, done: None }).await;
            }
        })
    }

    fn beat(&self, beat: Beat) -> BusFuture<'_, ()> {
        Box::pin(async move {
            let (done, is_done) = oneshot::channel();
            self.say(OfNodes::Heard(Subject::Presence), beat.write(), Some(done));
            if beat.leaves {
                let _ = tokio::time::timeout(FAREWELL, is_done).await;
            }
        })
    }

    fn tell(&self, news: News) -> BusFuture<'_, ()> {
        Box::pin(async move { self.say(OfNodes::Heard(Subject::Nodes), news.write(), None) })
    }

    fn bytes_max(&self) -> usize {
        BYTES_MAX
    }

    fn hear(&self) -> Option<mpsc::Receiver<Heard>> {
        take(&self.heard)
    }
}

impl Ears {
    /// Takes what came.
    pub(crate) fn hear(&self, what: OfNodes, said: Vec<u8>) {
        match what {
            OfNodes::Heard(subject) => {
                // Without a listener the program ends.
                let _ = self.ear.hear(subject, said.into(), None);
            }
            OfNodes::Answer => match proto::Answer::decode(Bytes::from(said)) {
                Ok(answer) => self.calls.end(answer.id, answer),
                Err(_) => self.stats.malformed.add(1),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::Epoch;

    use super::super::health::tests::{health, is_up};
    use super::*;

    #[tokio::test]
    async fn a_node_says_that_it_is_there_however_much_else_waits() {
        let stats = Arc::<BusStats>::default();
        let health = Arc::new(health(&stats));
        is_up(&health);
        let ((forwards, _forwarded), (words, mut said)) = (mpsc::channel(1), mpsc::channel(1));
        let forward = || Forward { what: What::Words("else".to_owned(), Vec::new()), done: None };
        forwards.try_send(forward()).unwrap();
        assert!(forwards.try_send(forward()).is_err());
        let node = NodeName::parse("b").unwrap();
        let (nodes, _ears) =
            Nodes::new(&Keys::new(&"gateway".into(), &node, Epoch(1)), &health, &forwards, words, &stats);
        let beat = Beat { node, epoch: Epoch(1), number: 1, leaves: false, kept_out: None };
        nodes.beat(beat.clone()).await;
        assert_eq!(stats.words_left_out.value(), 0);
        nodes.beat(beat).await;
        assert_eq!(stats.words_left_out.value(), 1, "it does not wait for room, and is counted");
        assert!(matches!(said.try_recv().unwrap().what, What::Words(name, _) if name.ends_with("presence")));
    }
}
