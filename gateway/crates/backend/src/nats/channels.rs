//! Channels on NATS: a subscription for each channel that the node cares for, what comes by it, and what clients of this
//! node publish.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::client::PublishErrorKind;
use async_nats::{HeaderMap, Subscriber};
use bridge::{Channel, ConnId, Kind, Message};
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::SelectAll;
use futures_util::{FutureExt as _, StreamExt};
use tokio::sync::{mpsc, watch};

use super::link::Link;
use super::subjects::{self, Subjects, content_type, message_of};
use crate::arrivals::{Arrivals, Queue};
use crate::bus::PublishError;
use crate::bus_stats::BusStats;
use crate::incoming::Incoming;
use crate::interests::{Interests, reconcile};
use crate::joint::Node;
use crate::outgoing::{OTHERS_RETURN_WITHIN, Outgoing};

type Ear = Abortable<Subscriber>;

/// New subscriptions that may wait for whoever listens.
const NEW_EARS_MAX: usize = 1024;

/// Keeps the subscriptions as the node's interests are, and hands them to the listener.
pub(super) struct Subscriptions {
    pub(super) link: Link,
    pub(super) subjects: Subjects,
    pub(super) interests: Arc<Interests>,
    pub(super) switchboard: Arc<bridge::Switchboard>,
    pub(super) stats: Arc<BusStats>,
    /// To the listener.
    pub(super) ears: mpsc::Sender<Ear>,
}

impl Subscriptions {
    /// The listener's end.
    pub(super) fn ears() -> (mpsc::Sender<Ear>, mpsc::Receiver<Ear>) {
        mpsc::channel(NEW_EARS_MAX)
    }

    /// Runs for as long as the program does. While the bus is away changes gather; what was subscribed to, the client
    /// library subscribes to again.
    pub(super) async fn run(self) {
        let mut subscribed: HashMap<Channel, AbortHandle> = HashMap::new();
        // Shards may have joined before the bus was there.
        self.interests.look_at_everything();
        while self.link.up().await {
            let changes = self.interests.changes().await;
            let (begin, end) = reconcile(
                &self.switchboard,
                changes,
                |channel| subscribed.contains_key(channel),
                subscribed.keys().cloned(),
            );
            self.stats.subscription_operations.add((begin.len() + end.len()) as u64);
            for channel in end {
                if let Some(ear) = subscribed.remove(&channel) {
                    ear.abort();
                }
            }
            for channel in begin {
                let Ok(subscriber) = self.link.client.subscribe(self.subjects.channel(&channel)).await else {
                    // The client has ended, and with it the program.
                    return;
                };
                let (ear, handle) = futures_util::stream::abortable(subscriber);
                if self.ears.send(ear).await.is_err() {
                    return;
                }
                subscribed.insert(channel, handle);
            }
            // What is published from now on goes behind this on the same connection.
            self.interests.has_followed();
            self.stats.subscriptions.set(subscribed.len() as u64);
            if subscribed.capacity() > 1024 && subscribed.len() < subscribed.capacity() / 8 {
                subscribed.shrink_to_fit();
            }
        }
    }
}

/// Hears what comes by all subscriptions, in the order of each. Never waits for shards: what waits does so in the queue, where
/// it is bounded, and not with the library, which bounds no bytes.
pub(super) async fn listen(mut ears: mpsc::Receiver<Ear>, arrivals: Arrivals<async_nats::Message>) {
    let mut all: SelectAll<Ear> = SelectAll::new();
    loop {
        tokio::select! {
            ear = ears.recv() => match ear {
                Some(ear) => all.push(ear),
                None => return,
            },
            Some(message) = all.next(), if !all.is_empty() => {
                let bytes = message.length;
                let _ = arrivals.offer(message, bytes);
            }
        }
    }
}

/// Delivers what was heard, in its order.
pub(super) async fn deliver(
    mut queue: Queue<async_nats::Message>,
    subjects: Subjects,
    mut incoming: Incoming,
    stats: Arc<BusStats>,
) {
    while let Some(message) = queue.next().await {
        deliver_one(&message, &subjects, &mut incoming, &stats).await;
    }
}

async fn deliver_one(
    message: &async_nats::Message,
    subjects: &Subjects,
    incoming: &mut Incoming,
    stats: &BusStats,
) {
    let headers = message.headers.as_ref();
    if let (Some(node), Some(epoch)) =
        (subjects::header(headers, subjects::NODE), subjects::header(headers, subjects::EPOCH))
        && incoming.is_own(node, epoch)
    {
        stats.own_copies.add(1);
        return;
    }
    // Who cannot be read must not be one who hears it.
    let exclude = subjects::header(headers, subjects::EXCLUDE).map(str::parse::<ConnId>).transpose();
    match (subjects.channel_of(&message.subject), message_of(message), exclude) {
        (Some(channel), Some(content), Ok(exclude)) => {
            incoming.publish(&channel, &content, exclude.as_ref()).await;
        }
        _ => stats.malformed.add(1),
    }
}

/// Publishes for this node.
#[derive(Clone)]
pub(super) struct Speaker {
    link: Link,
    subjects: Subjects,
    stats: Arc<BusStats>,
    text: HeaderMap,
    binary: HeaderMap,
}

impl Speaker {
    pub(super) fn new(link: Link, subjects: Subjects, node: &Node, stats: Arc<BusStats>) -> Self {
        let of = |kind| {
            let mut headers = HeaderMap::new();
            headers.insert(subjects::NODE, node.name.as_str());
            headers.insert(subjects::EPOCH, node.epoch.to_string());
            headers.insert(subjects::CONTENT_TYPE, content_type(kind));
            headers
        };
        Self { link, subjects, stats, text: of(Kind::Text), binary: of(Kind::Binary) }
    }

    /// Hands a message to the client library, which has it on its way when there is room. What is not handed over is counted.
    ///
    /// # Errors
    /// As [`PublishError`] says; the bus has not got it then.
    pub(super) async fn publish(
        &self,
        channel: &Channel,
        message: &Message,
        exclude: Option<&ConnId>,
    ) -> Result<(), PublishError> {
        let mut headers = match message.kind() {
            Kind::Text => self.text.clone(),
            Kind::Binary => self.binary.clone(),
        };
        if let Some(exclude) = exclude {
            headers.insert(subjects::EXCLUDE, exclude.to_string());
        }
        let subject = self.subjects.channel(channel);
        let payload = message.payload().clone();
        let published = self.link.client.publish_with_headers(subject, headers, payload).await;
        let count = if published.is_ok() { &self.stats.forwarded } else { &self.stats.left_out };
        count.add(1);
        published.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge,
            // The client has ended, and with it the program.
            _ => PublishError::Away,
        })
    }

    /// Carries what clients publish. While the bus is away it waits here, and then in the mailbox; and a little longer, so
    /// that other nodes have subscribed again before it is said. Once stopped it says what waits at once, and comes back.
    pub(super) async fn carry(self, mut outgoing: Outgoing, mut stopped: watch::Receiver<bool>) {
        let mut losses = self.link.standing().losses;
        loop {
            let publish = tokio::select! {
                publish = outgoing.next() => publish,
                () = is_so(&mut stopped) => match outgoing.next().now_or_never() {
                    Some(publish) => publish,
                    None => return,
                },
            };
            loop {
                if !self.link.up().await {
                    return;
                }
                let standing = self.link.standing();
                if standing.losses == losses {
                    break;
                }
                losses = standing.losses;
                tokio::select! {
                    () = tokio::time::sleep(OTHERS_RETURN_WITHIN) => {}
                    () = is_so(&mut stopped) => {}
                }
            }
            // Counted; whoever said it has been told already that it was said.
            let _ = self.publish(&publish.channel, &publish.message, None).await;
        }
    }
}

/// Waits until it is so, or never will be otherwise.
async fn is_so(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
