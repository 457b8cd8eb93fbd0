//! Requests and their answers, by one subscription of our own. The library's own way keeps an entry for each request for as
//! long as it lives, unless it is answered: those of a node that died, and acknowledgements that a loss swallowed, for ever.
//! What is kept here is bounded and given up with its call. Refuses to know what is asked.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, PublishErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::link::Link;
use crate::calls::Calls;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// As many requests as may be wait for answers; nothing was sent.
    Full,
    /// It is larger than the server takes; nothing was sent.
    TooLarge,
    /// Nobody listens there, says the server.
    Nobody,
    /// None came in time.
    Late,
    /// The program ends.
    Closed,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "too many requests wait",
            Self::TooLarge => "the request is too large",
            Self::Nobody => "nobody listens there",
            Self::Late => "no answer in time",
            Self::Closed => "the connection is closed",
        })
    }
}

/// Asks. A clone is another handle of the same.
#[derive(Clone)]
pub(super) struct Requests {
    link: Link,
    reply_to: Arc<str>,
    calls: Arc<Calls<Message>>,
}

/// Hears the answers.
pub(super) struct Inbox {
    subscriber: Subscriber,
    reply_to: Arc<str>,
    calls: Arc<Calls<Message>>,
}

impl Requests {
    /// Both ends; the second is a task to be run. No more than `most` requests wait at a time.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn subscribe(link: &Link, most: usize) -> Result<(Self, Inbox), String> {
        let reply_to: Arc<str> = format!("{}.", link.client.new_inbox()).into();
        let subscriber = link.client.subscribe(format!("{reply_to}*")).await;
        let subscriber = subscriber.map_err(|error| format!("bus.nats: {error}"))?;
        let calls = Calls::new(most);
        let inbox = Inbox { subscriber, reply_to: Arc::clone(&reply_to), calls: Arc::clone(&calls) };
        Ok((Self { link: link.clone(), reply_to, calls }, inbox))
    }

    /// Asks, and waits for the answer, at most `within` from when the request was handed over.
    ///
    /// # Errors
    /// Why there is none; it may have been heard all the same.
    pub(super) async fn ask(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        within: Duration,
    ) -> Result<Message, NoAnswer> {
        let call = self.calls.begin().ok_or(NoAnswer::Full)?;
        let reply = format!("{}{:x}", self.reply_to, call.id());
        let client = &self.link.client;
        let published = if headers.is_empty() {
            client.publish_with_reply(subject, reply, payload).await
        } else {
            client.publish_with_reply_and_headers(subject, reply, headers, payload).await
        };
        published.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => NoAnswer::TooLarge,
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => NoAnswer::Closed,
        })?;
        let answer = tokio::time::timeout(within, call.answer()).await.map_err(|_| NoAnswer::Late)?;
        match answer.ok_or(NoAnswer::Closed)? {
            answer if answer.status == Some(StatusCode::NO_RESPONDERS) => Err(NoAnswer::Nobody),
            answer => Ok(answer),
        }
    }
}

impl Inbox {
    /// Runs for as long as the subscription does.
    pub(super) async fn run(mut self) {
        while let Some(answer) = self.subscriber.next().await {
            let id = answer.subject.strip_prefix(&*self.reply_to);
            if let Some(id) = id.and_then(|id| u64::from_str_radix(id, 16).ok()) {
                self.calls.end(id, answer);
            }
        }
    }
}
