//! Messages to single connections of this node, by one subscription for all of them. What has a reply address of its own
//! is answered there; what is not ours is counted.

use std::sync::Arc;

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bridge::command::NotDone;
use futures_util::StreamExt;
use tokio::sync::{Semaphore, oneshot};

use super::link::Link;
use super::subjects::{self, Subjects, message_of};
use crate::bus_stats::BusStats;
use crate::incoming::Incoming;

/// Answers under way. More messages than that are delivered, and their senders hear nothing.
const ANSWERS_MAX: usize = 4096;

/// Runs for as long as the subscription does.
pub(super) async fn deliver(
    mut subscriber: Subscriber,
    link: Link,
    subjects: Subjects,
    mut incoming: Incoming,
    stats: Arc<BusStats>,
) {
    let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
    while let Some(message) = subscriber.next().await {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            stats.no_responders.add(1);
            continue;
        }
        if message.reply.as_ref().is_some_and(|reply| !subjects.may_answer(reply)) {
            stats.malformed.add(1);
            continue;
        }
        let target = subjects.connection_of(&message.subject);
        let (Some(id), Some(content)) = (target, message_of(&message)) else {
            stats.malformed.add(1);
            answer(&link, message.reply.as_ref(), "malformed").await;
            continue;
        };
        let permit = message.reply.is_some().then(|| Arc::clone(&answers).try_acquire_owned().ok()).flatten();
        let Some(permit) = permit else {
            incoming.send(&id, &content, None).await;
            continue;
        };
        let (reply, done) = oneshot::channel();
        incoming.send(&id, &content, Some(reply)).await;
        let link = link.clone();
        tokio::spawn(async move {
            let word = match done.await {
                Ok(Ok(())) => "done",
                Ok(Err(why)) => why.label(),
                Err(_) => NotDone::Gone.label(),
            };
            answer(&link, message.reply.as_ref(), word).await;
            drop(permit);
        });
    }
}

async fn answer(link: &Link, to: Option<&async_nats::Subject>, word: &str) {
    let Some(to) = to else { return };
    let mut headers = HeaderMap::new();
    headers.insert(subjects::STATUS, word);
    // Nobody waits for an answer that cannot be published.
    let publish = link.client.publish_with_headers(to.clone(), headers, word.to_owned().into());
    let _ = link.unless_lost(publish).await;
}
