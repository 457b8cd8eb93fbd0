//! Messages to single connections of this node, by one subscription for all of them. One task reads it and never waits, one
//! delivers. What has a reply address of its own is answered there; what is not ours is counted.

use std::sync::Arc;

use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bridge::command::NotDone;
use bridge::{ConnId, Message};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::link::Link;
use super::subjects::{self, Subjects, message_of};
use crate::arrivals::{Arrivals, Queue};
use crate::bus_stats::BusStats;
use crate::incoming::Incoming;

/// Answers under way. More messages than that are delivered, and their senders hear nothing.
const ANSWERS_MAX: usize = 4096;

/// What came for a connection.
pub(super) struct ForOne {
    id: ConnId,
    message: Message,
    reply: Option<Subject>,
}

/// Reads the subscription.
pub(super) struct Replies {
    subscriber: Subscriber,
    subjects: Subjects,
    answers: Answers,
    arrivals: Arrivals<ForOne>,
    stats: Arc<BusStats>,
}

impl Replies {
    /// The subscription is made when this comes back.
    pub(super) async fn subscribe(
        link: &Link,
        subjects: &Subjects,
        answers: &Answers,
        arrivals: Arrivals<ForOne>,
        stats: &Arc<BusStats>,
    ) -> Result<Self, String> {
        let subscriber = link.client.subscribe(subjects.connections()).await;
        let subscriber = subscriber.map_err(|error| format!("bus.nats: {error}"))?;
        let (subjects, answers, stats) = (subjects.clone(), answers.clone(), Arc::clone(stats));
        Ok(Self { subscriber, subjects, answers, arrivals, stats })
    }

    /// Runs for as long as the subscription does.
    pub(super) async fn listen(mut self) {
        while let Some(message) = self.subscriber.next().await {
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                self.stats.no_responders.add(1);
                continue;
            }
            if message.reply.as_ref().is_some_and(|reply| !self.subjects.may_answer(reply)) {
                self.stats.malformed.add(1);
                continue;
            }
            let target = self.subjects.connection_of(&message.subject);
            let (Some(id), Some(content)) = (target, message_of(&message)) else {
                self.stats.malformed.add(1);
                self.answers.say(message.reply, "malformed");
                continue;
            };
            let for_one = ForOne { id, message: content, reply: message.reply };
            if let Err(dropped) = self.arrivals.offer(for_one, message.length) {
                self.answers.say(dropped.reply, NotDone::Full.label());
            }
        }
    }
}

/// Says what became of messages whose senders want to know.
#[derive(Clone)]
pub(super) struct Answers {
    link: Link,
    room: Arc<Semaphore>,
    stats: Arc<BusStats>,
}

impl Answers {
    pub(super) fn new(link: Link, stats: Arc<BusStats>) -> Self {
        Self { link, room: Arc::new(Semaphore::new(ANSWERS_MAX)), stats }
    }

    /// Delivers what was heard, in its order, and answers when its shard has.
    pub(super) async fn deliver(self, mut queue: Queue<ForOne>, mut incoming: Incoming) {
        while let Some(ForOne { id, message, reply }) = queue.next().await {
            let Some((to, permit)) = reply.and_then(|to| Some((to, self.permit()?))) else {
                incoming.send(&id, &message, None).await;
                continue;
            };
            let (reply, done) = oneshot::channel();
            incoming.send(&id, &message, Some(reply)).await;
            let link = self.link.clone();
            tokio::spawn(async move {
                let word = match done.await {
                    Ok(Ok(())) => "done",
                    Ok(Err(why)) => why.label(),
                    Err(_) => NotDone::Gone.label(),
                };
                answer(&link, to, word).await;
                drop(permit);
            });
        }
    }

    /// Answers beside whoever reads on, if it is wanted and there is room.
    fn say(&self, to: Option<Subject>, word: &'static str) {
        let Some((to, permit)) = to.and_then(|to| Some((to, self.permit()?))) else { return };
        let link = self.link.clone();
        tokio::spawn(async move {
            answer(&link, to, word).await;
            drop(permit);
        });
    }

    /// Room for one more answer; without any the sender hears nothing.
    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.room).try_acquire_owned().ok();
        if permit.is_none() {
            self.stats.answers_left_out.add(1);
        }
        permit
    }
}

async fn answer(link: &Link, to: Subject, word: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(subjects::STATUS, word);
    // Nobody waits for an answer that cannot be published.
    let publish = link.client.publish_with_headers(to, headers, word.to_owned().into());
    let _ = link.unless_lost(publish).await;
}
