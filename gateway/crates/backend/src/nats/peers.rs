//! Other nodes over NATS: requests to a node's subject, commands to this one or to all, beats, and what app servers are
//! told of nodes. One task reads all of it and never waits. What is said, and the bounds of what was heard, are
//! [`crate::peers`]'s.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bridge::NodeName;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use prost::Message as _;
use tokio::sync::mpsc;

use super::link::Link;
use super::requests::{Inbox, NoAnswer, Requests};
use super::subjects::{self, Subjects};
use crate::bus::BusFuture;
use crate::bus_stats::BusStats;
use crate::peers::{Beat, CALLS_MAX, CallError, Ear, Heard, News, Peers, Subject, Taker, take};
use crate::presence::BEAT_EVERY;
use crate::proto;

/// How long room is waited for before the socket: a server that takes nothing must not keep a node from its next beat, nor
/// from what others say.
const SAID_WITHIN: Duration = Duration::from_secs(1);
const _: () = assert!(SAID_WITHIN.as_millis() < BEAT_EVERY.as_millis());

/// Other nodes of this NATS.
pub(super) struct Nodes {
    link: Link,
    requests: Requests,
    subjects: Subjects,
    stats: Arc<BusStats>,
    heard: Taker,
}

impl Nodes {
    /// The subscriptions are made when this comes back; the task has to be run.
    pub(super) async fn subscribe(
        link: &Link,
        subjects: &Subjects,
        stats: &Arc<BusStats>,
    ) -> Result<(Self, Listener), String> {
        let mut subscribers = Vec::new();
        for subject in [subjects.command(), subjects.command_of_all(), subjects.presence(), subjects.nodes()]
        {
            let subscriber = link.client.subscribe(subject).await;
            subscribers.push(subscriber.map_err(|error| format!("bus.nats: {error}"))?);
        }
        let (requests, inbox) = Requests::subscribe(link, CALLS_MAX).await?;
        let (ear, heard) = Ear::new(stats);
        let listener = Listener {
            subscribers: select_all(subscribers),
            subjects: subjects.clone(),
            ear,
            stats: Arc::clone(stats),
            inbox,
        };
        let nodes = Self {
            link: link.clone(),
            requests,
            subjects: subjects.clone(),
            stats: Arc::clone(stats),
            heard,
        };
        Ok((nodes, listener))
    }

    /// Publishes, unless the bus is away or takes nothing for [`SAID_WITHIN`]: the node beats and hears others in one task.
    async fn say(&self, subject: String, headers: HeaderMap, said: Vec<u8>) {
        // Whoever misses one hears the next.
        let publish = self.link.client.publish_with_headers(subject, headers, said.into());
        let _ = tokio::time::timeout(SAID_WITHIN, self.link.unless_lost(publish)).await;
    }
}

impl Peers for Nodes {
    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        command: proto::Command,
        within: Duration,
    ) -> BusFuture<'a, Result<proto::Answer, CallError>> {
        Box::pin(async move {
            let subject = self.subjects.command_of(node);
            let said = command.encode_to_vec().into();
            let answer = self.requests.ask(subject, HeaderMap::new(), said, within).await;
            let message = answer.map_err(|no_answer| match no_answer {
                NoAnswer::TooLarge => CallError::TooLarge,
                NoAnswer::Full => CallError::Busy,
                NoAnswer::Nobody | NoAnswer::Late | NoAnswer::Closed => CallError::Silent,
            })?;
            proto::Answer::decode(message.payload).map_err(|_| CallError::Unreadable)
        })
    }

    fn is_away(&self) -> bool {
        !self.link.standing().is_up
    }

    fn counts(&self) -> &BusStats {
        &self.stats
    }

    fn may_answer(&self, _: &str) -> bool {
        // Requests have a reply subject.
        false
    }

    fn answer<'a>(&'a self, reply_to: &'a str, answer: Bytes) -> BusFuture<'a, ()> {
        Box::pin(async move {
            // Nobody waits for an answer that cannot be published.
            let publish = self.link.unless_lost(self.link.client.publish(reply_to.to_owned(), answer));
            let _ = tokio::time::timeout(SAID_WITHIN, publish).await;
        })
    }

    fn beat(&self, beat: Beat) -> BusFuture<'_, ()> {
        Box::pin(async move {
            self.say(self.subjects.presence(), HeaderMap::new(), beat.write()).await;
            if beat.leaves {
                // Nobody publishes after this who would flush it.
                let _ = tokio::time::timeout(SAID_WITHIN, self.link.client.flush()).await;
            }
        })
    }

    fn tell(&self, news: News) -> BusFuture<'_, ()> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(subjects::EVENT, news.fate.label());
            headers.insert(subjects::NODE, news.node.as_str());
            headers.insert(subjects::EPOCH, news.epoch.to_string());
            headers.insert(subjects::CONTENT_TYPE, "application/json");
            headers.insert(subjects::MESSAGE_ID, news.id());
            self.say(self.subjects.nodes(), headers, news.write()).await;
        })
    }

    fn bytes_max(&self) -> usize {
        self.link.client.server_info().max_payload
    }

    fn hear(&self) -> Option<mpsc::Receiver<Heard>> {
        take(&self.heard)
    }
}

/// Reads what others say.
pub(super) struct Listener {
    subscribers: SelectAll<Subscriber>,
    subjects: Subjects,
    ear: Ear,
    stats: Arc<BusStats>,
    inbox: Inbox,
}

impl Listener {
    /// Runs for as long as the subscriptions do.
    pub(super) async fn run(self) {
        let Self { subscribers, subjects, ear, stats, inbox } = self;
        tokio::join!(inbox.run(), listen(subscribers, subjects, ear, stats));
    }
}

async fn listen(mut subscribers: SelectAll<Subscriber>, subjects: Subjects, ear: Ear, stats: Arc<BusStats>) {
    let (presence, nodes) = (subjects.presence(), subjects.nodes());
    let to_all = subjects.command_of_all();
    while let Some(message) = subscribers.next().await {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            continue;
        }
        let subject = match message.subject.as_str() {
            subject if subject == presence => Subject::Presence,
            subject if subject == nodes => Subject::Nodes,
            subject => Subject::Command { to_all: subject == to_all },
        };
        let reply_to = message.reply.map(|reply| reply.to_string());
        if reply_to.as_deref().is_some_and(|reply_to| !subjects.may_answer(reply_to)) {
            stats.malformed.add(1);
            continue;
        }
        if !ear.hear(subject, message.payload, reply_to) {
            return;
        }
    }
}
