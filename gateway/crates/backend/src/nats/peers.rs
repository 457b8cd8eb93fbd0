//! Other nodes over NATS: requests to a node's subject, commands to this one or to all, beats, and what app servers are
//! told of nodes. One task reads all of it and never waits: what finds no room is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Message, Request, StatusCode, Subscriber};
use bridge::{Epoch, NodeName};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::link::Link;
use super::subjects::{self, Subjects, header};
use crate::bus::BusFuture;
use crate::bus_stats::BusStats;
use crate::peers::{Asked, Beat, CallError, Fate, HEARD_MAX, Heard, News, Peers};

/// Answers under way. Commands beyond that are obeyed, and their senders hear nothing.
const ANSWERS_MAX: usize = 1024;

/// Other nodes of this NATS.
pub(super) struct Nodes {
    link: Link,
    subjects: Subjects,
    stats: Arc<BusStats>,
    heard: Mutex<Option<mpsc::Receiver<Heard>>>,
}

impl Nodes {
    /// The subscriptions are made when this comes back; the task has to be run.
    pub(super) async fn subscribe(
        link: &Link,
        subjects: &Subjects,
        stats: &Arc<BusStats>,
    ) -> Result<(Self, Ear), String> {
        let mut subscribers = Vec::new();
        for subject in [subjects.command(), subjects.command_of_all(), subjects.presence(), subjects.nodes()]
        {
            let subscriber = link.client.subscribe(subject).await;
            subscribers.push(subscriber.map_err(|error| format!("bus.nats: {error}"))?);
        }
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        let ear = Ear {
            subscribers: select_all(subscribers),
            link: link.clone(),
            subjects: subjects.clone(),
            all: subjects.command_of_all(),
            stats: Arc::clone(stats),
            tell,
        };
        let nodes = Self {
            link: link.clone(),
            subjects: subjects.clone(),
            stats: Arc::clone(stats),
            heard: Mutex::new(Some(heard)),
        };
        Ok((nodes, ear))
    }

    /// Publishes with the node's name and epoch, unless the bus is away.
    async fn say(&self, subject: String, event: &str, of: (&NodeName, Epoch, u64), id: Option<String>) {
        if !self.link.standing().is_up {
            return;
        }
        let (node, epoch, beat) = of;
        let mut headers = HeaderMap::new();
        headers.insert(subjects::EVENT, event);
        headers.insert(subjects::NODE, node.as_str());
        headers.insert(subjects::EPOCH, epoch.to_string());
        headers.insert(subjects::BEAT, beat.to_string());
        headers.insert(subjects::CONTENT_TYPE, "application/json");
        if let Some(id) = id {
            headers.insert(subjects::MESSAGE_ID, id);
        }
        let body = serde_json::json!({ "event": event, "node": node.as_str(), "epoch": epoch.to_string() });
        // Whoever misses one hears the next.
        let _ = self.link.client.publish_with_headers(subject, headers, body.to_string().into()).await;
    }
}

impl Peers for Nodes {
    fn call<'a>(
        &'a self,
        node: &'a NodeName,
        command: Bytes,
        within: Duration,
    ) -> BusFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            if !self.link.standing().is_up {
                return Err(CallError::Away);
            }
            self.stats.calls.add(1);
            let request = Request::new().payload(command).timeout(Some(within));
            let sent = self.link.client.send_request(self.subjects.command_of(node), request);
            // Its own limit begins when the request has left; a socket that takes nothing must not hold us.
            let answer = match tokio::time::timeout(within, sent).await {
                Ok(Ok(message)) => Ok(message.payload),
                Ok(Err(error)) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                    Err(CallError::TooLarge)
                }
                Ok(Err(_)) | Err(_) => Err(CallError::Silent),
            };
            if answer.is_err() {
                self.stats.calls_unanswered.add(1);
            }
            answer
        })
    }

    fn beat(&self, beat: Beat) -> BusFuture<'_, ()> {
        Box::pin(async move {
            let event = if beat.leaves { subjects::LEAVES } else { subjects::PRESENT };
            let of = (&beat.node, beat.epoch, beat.number);
            self.say(self.subjects.presence(), event, of, None).await;
            if beat.leaves {
                // Nobody publishes after this who would flush it.
                let _ = tokio::time::timeout(Duration::from_secs(1), self.link.client.flush()).await;
            }
        })
    }

    fn tell(&self, news: News) -> BusFuture<'_, ()> {
        Box::pin(async move {
            let of = (&news.node, news.epoch, news.beat);
            self.say(self.subjects.nodes(), news.fate.label(), of, Some(news.id())).await;
        })
    }

    fn answer_bytes_max(&self) -> usize {
        self.link.client.server_info().max_payload
    }

    fn hear(&self) -> Option<mpsc::Receiver<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads what others say.
pub(super) struct Ear {
    subscribers: SelectAll<Subscriber>,
    link: Link,
    subjects: Subjects,
    /// Where commands to all nodes go.
    all: String,
    stats: Arc<BusStats>,
    tell: mpsc::Sender<Heard>,
}

impl Ear {
    /// Runs for as long as the subscriptions do.
    pub(super) async fn run(mut self) {
        let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
        let (presence, nodes) = (self.subjects.presence(), self.subjects.nodes());
        while let Some(message) = self.subscribers.next().await {
            let subject = message.subject.as_str();
            let heard = if message.status == Some(StatusCode::NO_RESPONDERS) {
                continue;
            } else if subject == presence {
                beat(&message).map(Heard::Beat)
            } else if subject == nodes {
                news(&message).map(Heard::Told)
            } else {
                Some(Heard::Asked(self.asked(message, &answers)))
            };
            let Some(heard) = heard else {
                self.stats.malformed.add(1);
                continue;
            };
            match self.tell.try_send(heard) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => self.stats.undelivered.add(1),
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }

    fn asked(&self, message: Message, answers: &Arc<Semaphore>) -> Asked {
        let to_all = message.subject.as_str() == self.all;
        let command = message.payload;
        let permit = Arc::clone(answers).try_acquire_owned().ok();
        let Some((permit, to)) = permit.zip(message.reply) else {
            return Asked { command, to_all, answer: None };
        };
        let (answer, answered) = oneshot::channel::<Bytes>();
        let link = self.link.clone();
        tokio::spawn(async move {
            if let Ok(answer) = answered.await {
                // Nobody waits for an answer that cannot be published.
                let _ = link.client.publish(to, answer).await;
            }
            drop(permit);
        });
        Asked { command, to_all, answer: Some(answer) }
    }
}

fn of(message: &Message) -> Option<(&str, NodeName, Epoch, u64)> {
    let said = |name| header(message.headers.as_ref(), name);
    let epoch = u32::from_str_radix(said(subjects::EPOCH)?, 16).ok().map(Epoch)?;
    let node = NodeName::parse(said(subjects::NODE)?).ok()?;
    Some((said(subjects::EVENT)?, node, epoch, said(subjects::BEAT)?.parse().ok()?))
}

fn beat(message: &Message) -> Option<Beat> {
    let (event, node, epoch, number) = of(message)?;
    let leaves = match event {
        subjects::PRESENT => false,
        subjects::LEAVES => true,
        _ => return None,
    };
    Some(Beat { node, epoch, number, leaves })
}

fn news(message: &Message) -> Option<News> {
    let (event, node, epoch, beat) = of(message)?;
    Some(News { fate: Fate::of(event)?, node, epoch, beat })
}
