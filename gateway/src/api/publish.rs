//! Owns the calls that publish to channels: one message, or a batch. It hands messages to the publisher, and answers
//! with what became of them on this node.
//!
//! An answer waits for the fan-out at most [`RECEIPT_DEADLINE`]. A fan-out that takes longer is not lost: the
//! answer is then without counts, and the shards go on.

use std::time::Duration;

use backend::{Excluded, PublishError};
use bridge::{Channel, ConnId, Delivered, Message, Receipt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Error, Reason};
use crate::admin::Admin;

/// How long an answer waits for the shards to have handed a message to all subscribers.
pub(crate) const RECEIPT_DEADLINE: Duration = Duration::from_secs(5);
/// Most messages in a batch.
pub(crate) const BATCH_MESSAGES_MAX: usize = 1000;

/// A message to a channel.
#[derive(Debug)]
pub(crate) struct Publish<'a> {
    /// The channel's name.
    pub(crate) channel: &'a str,
    /// What to deliver.
    pub(crate) message: Message,
    /// The id of a connection that must not hear it.
    pub(crate) exclude: Option<&'a str>,
}

/// What became of a message to many: counts of this node, or `None` while it is still being handed out.
pub(crate) type Outcome = Option<Delivered>;

/// Hands a message to all subscribers of a channel.
///
/// # Errors
/// `bad_channel`, `bad_connection_id`, `busy`, `bus_away`, `too_large`.
pub(crate) async fn publish(admin: &Admin, request: Publish<'_>) -> Result<Outcome, Error> {
    let deadline = Instant::now() + RECEIPT_DEADLINE;
    let sum = begin(admin, request).await?;
    Ok(outcome(sum, deadline).await)
}

/// Publishes one message after the other, so two for one channel keep their order; each has its own outcome, in the
/// order given. One that fails, or came as an error, stops no other.
///
/// # Errors
/// `too_large` for more than [`BATCH_MESSAGES_MAX`].
pub(crate) async fn publish_batch<'a>(
    admin: &Admin,
    messages: impl ExactSizeIterator<Item = Result<Publish<'a>, Error>> + Send,
) -> Result<Vec<Result<Outcome, Error>>, Error> {
    if messages.len() > BATCH_MESSAGES_MAX {
        return Err(Error::new(
            Reason::TooLarge,
            format!("A batch has at most {BATCH_MESSAGES_MAX} messages; send several batches."),
        ));
    }
    let deadline = Instant::now() + RECEIPT_DEADLINE;
    let mut begun = Vec::with_capacity(messages.len());
    for message in messages {
        begun.push(match message {
            Ok(message) => begin(admin, message).await,
            Err(error) => Err(error),
        });
    }
    let mut outcomes = Vec::with_capacity(begun.len());
    for entry in begun {
        outcomes.push(match entry {
            Ok(sum) => Ok(outcome(sum, deadline).await),
            Err(error) => Err(error),
        });
    }
    Ok(outcomes)
}

/// Checks a channel name.
///
/// # Errors
/// `bad_channel` with the rule that it breaks.
pub(super) fn channel(name: &str) -> Result<Channel, Error> {
    Channel::parse(name)
        .map_err(|error| Error::new(Reason::BadChannel, format!("{error}; it is never changed to fit.")))
}

async fn begin(admin: &Admin, request: Publish<'_>) -> Result<oneshot::Receiver<Delivered>, Error> {
    let channel = channel(request.channel)?;
    let exclude = excluded(admin, request.exclude)?;
    hand_over(admin, &channel, request.message, exclude.as_ref()).await
}

/// Whom to leave out. One that is not of this node hears it by the bus, and is left out there.
pub(super) fn excluded(admin: &Admin, id: Option<&str>) -> Result<Option<Excluded>, Error> {
    let Some(id) = id else { return Ok(None) };
    let id: ConnId = id.parse().map_err(|error| {
        Error::new(Reason::BadConnectionId, format!("exclude: {error}; leave it out to reach everybody."))
    })?;
    Ok(Some(admin.own(&id).map_or(Excluded::There(id), Excluded::Here)))
}

/// Gives the message away, so that nothing of it is kept while the answer waits.
pub(super) async fn hand_over(
    admin: &Admin,
    channel: &Channel,
    message: Message,
    exclude: Option<&Excluded>,
) -> Result<oneshot::Receiver<Delivered>, Error> {
    let (receipt, sum) = Receipt::new();
    match admin.publisher.publish(channel, &message, exclude, Some(&receipt)).await {
        Ok(()) => Ok(sum),
        Err(PublishError::Busy) => Err(Error::busy()),
        Err(PublishError::TooLarge) => Err(Error::new(
            Reason::TooLarge,
            "The message is larger than the bus carries, and nobody got it; send less, or raise what its server takes.",
        )),
        Err(PublishError::Away) => Err(Error::new(
            Reason::BusAway,
            "Only subscribers of this node got the message; send it again when the bus is back, they will get it twice.",
        )
        .retry_after(5)),
    }
}

/// Waits for the counts.
pub(super) async fn outcome(sum: oneshot::Receiver<Delivered>, deadline: Instant) -> Outcome {
    // Still being handed out; or a shard ended with it, which its own endings tell.
    timeout_at(deadline, sum).await.ok()?.ok()
}
