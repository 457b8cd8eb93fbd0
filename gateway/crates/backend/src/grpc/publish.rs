//! Publishes of a backend, one after the other: the order of a caller is kept, and a slow bus holds up publishes alone.
//! Owns the repetition while a mailbox is full; refuses to queue beyond its bounded channel. Run as a task.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::Done;
use super::order::{Order, Refusal, Status};
use super::session::StreamId;
use crate::bus::{PublishError, Publisher};

/// A publish is tried again so long while a shard's mailbox is full.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(2);

/// A publish that somebody wants.
pub(super) struct Wanted {
    pub(super) stream: StreamId,
    pub(super) id: u64,
    pub(super) order: Order,
}

/// Publishes until nobody wants anything any more.
pub(super) async fn publish_in_turn(
    publisher: Publisher,
    mut wanted: mpsc::Receiver<Wanted>,
    done: mpsc::Sender<Done>,
) {
    while let Some(Wanted { stream, id, order }) = wanted.recv().await {
        let Order::Publish { channel, message, exclude } = order else {
            debug_assert!(false, "only publishes come here");
            continue;
        };
        let started = Instant::now();
        let outcome = loop {
            match publisher.publish(&channel, &message, exclude.as_ref(), None).await {
                Err(PublishError::Busy) if started.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                Err(error) => break Err(detail(error)),
                Ok(()) => break Ok(()),
            }
        };
        // An order without an id is counted when it is passed on.
        let is_told = id != 0 || outcome.is_err();
        if is_told && done.send(Done { stream, id, outcome }).await.is_err() {
            return;
        }
    }
}

const fn detail(error: PublishError) -> Refusal {
    let (status, detail) = match error {
        PublishError::Busy => (Status::Unavailable, "a shard's mailbox is full; nobody got the message"),
        PublishError::Away => {
            (Status::Unavailable, "the bus is away; only subscribers of this node got the message")
        }
        PublishError::TooLarge => {
            (Status::InvalidArgument, "the message is larger than the bus carries; nobody got it")
        }
    };
    Refusal::new(status, detail)
}
