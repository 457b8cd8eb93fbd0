//! Owns the calls that publish to channels: one message, or a batch. It turns bodies into messages, hands them to
//! the publisher, and answers with what became of them on this node.
//!
//! An answer waits for the fan-out at most [`RECEIPT_DEADLINE`]. A fan-out that takes longer is not lost: the
//! answer is then `202 {"pending": true}` without counts, and the shards go on.

use std::time::Duration;

use backend::PublishError;
use bridge::{Address, Channel, ConnId, Delivered, Kind, Message, Receipt};
use hyper::StatusCode;
use hyper::header;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Admin;
use super::call::{Answer, Call, json};
use super::problem::{Problem, Reason};
use super::query::Query;

/// How long an answer waits for the shards to have handed a message to all subscribers.
pub(super) const RECEIPT_DEADLINE: Duration = Duration::from_secs(5);
/// Most messages in a batch.
pub(super) const BATCH_MESSAGES_MAX: usize = 1000;

/// `POST /v1/channels/{channel}/messages?exclude=`: the body is the payload.
pub(super) async fn publish(admin: &Admin, call: Call) -> Answer {
    let channel = channel(call.variable(0))?;
    let query = Query::parse(call.query.as_deref(), &["exclude"])?;
    let exclude = query.value("exclude").map(|id| excluded(admin, id)).transpose()?.flatten();
    let message = message(&call)?;
    drop(call);
    let deadline = Instant::now() + RECEIPT_DEADLINE;
    let sum = hand_over(admin, &channel, message, exclude).await?;
    json(StatusCode::ACCEPTED, &outcome(sum, deadline).await)
}

/// `POST /v1/publish`: up to 1000 messages as JSON. Each entry has its own outcome, in the order given; entries are
/// published one after the other, so two for one channel keep their order. An entry that fails stops no other.
pub(super) async fn publish_many(admin: &Admin, call: Call) -> Answer {
    let batch = read_batch(&call)?;
    drop(call);
    let deadline = Instant::now() + RECEIPT_DEADLINE;
    let mut handed = Vec::with_capacity(batch.messages.len());
    for entry in batch.messages {
        handed.push(publish_entry(admin, entry).await);
    }
    let mut results = Vec::with_capacity(handed.len());
    for entry in handed {
        results.push(match entry {
            Ok(sum) => Outcome { status: 202, result: outcome(sum, deadline).await },
            Err(problem) => Outcome {
                status: problem.reason.status().as_u16(),
                result: json!({ "reason": problem.reason.label(), "detail": problem.detail }),
            },
        });
    }
    let refused = results.iter().filter(|outcome| outcome.status != 202).count();
    json(StatusCode::ACCEPTED, &json!({ "refused": refused, "results": results }))
}

/// Checks a channel name.
///
/// # Errors
/// 400 with the rule that it breaks.
pub(super) fn channel(name: &str) -> Result<Channel, Problem> {
    Channel::parse(name)
        .map_err(|error| Problem::new(Reason::BadChannel, format!("{error}; it is never changed to fit.")))
}

/// The body of a call as a message, text or binary by its content type.
///
/// # Errors
/// 415 for another content type, 400 for text that is not UTF-8.
pub(super) fn message(call: &Call) -> Result<Message, Problem> {
    let kind = match call.content_type().as_ref().map(|(essence, is_utf8)| (essence.as_str(), *is_utf8)) {
        Some(("text/plain" | "application/json", true)) => Kind::Text,
        Some(("application/octet-stream", _)) => Kind::Binary,
        _ => {
            return Err(Problem::new(
                Reason::UnsupportedType,
                "Set Content-Type to text/plain or application/json (UTF-8, delivered as text), or to \
                 application/octet-stream (delivered as binary).",
            ));
        }
    };
    if kind == Kind::Text && std::str::from_utf8(&call.body).is_err() {
        return Err(Problem::new(
            Reason::BadPayload,
            "The body is not UTF-8, which a text message must be; send it as application/octet-stream.",
        ));
    }
    // A copy of its own: what arrived is a piece of a larger read buffer, which would live as long as the message.
    Ok(Message::copy_from(kind, &call.body))
}

/// Whom to leave out: `None` for a connection that is not of this node, since it cannot hear us here anyway.
fn excluded(admin: &Admin, id: &str) -> Result<Option<Address>, Problem> {
    let id: ConnId = id.parse().map_err(|error| {
        Problem::new(Reason::BadConnectionId, format!("exclude: {error}; leave it out to reach everybody."))
    })?;
    Ok(admin.own(&id))
}

/// Gives the message away, so that nothing of it is kept while the answer waits.
async fn hand_over(
    admin: &Admin,
    channel: &Channel,
    message: Message,
    exclude: Option<Address>,
) -> Result<oneshot::Receiver<Delivered>, Problem> {
    let (receipt, sum) = Receipt::new();
    match admin.publisher.publish(channel, &message, exclude, Some(&receipt)).await {
        Ok(()) => Ok(sum),
        Err(PublishError::Busy) => Err(Problem::busy()),
        Err(PublishError::Away) => Err(Problem::new(
            Reason::BusAway,
            "Only subscribers of this node got the message; send it again when the bus is back, they will get it twice.",
        )
        .with(header::RETRY_AFTER, header::HeaderValue::from_static("5"))),
    }
}

async fn outcome(sum: oneshot::Receiver<Delivered>, deadline: Instant) -> Value {
    match timeout_at(deadline, sum).await {
        Ok(Ok(Delivered { subscribers, queued, dropped })) => {
            json!({ "subscribers": subscribers, "queued": queued, "dropped": dropped })
        }
        // Still being handed out; or a shard ended with it, which its own endings tell.
        Ok(Err(_)) | Err(_) => json!({ "pending": true }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    messages: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    channel: String,
    text: Option<String>,
    base64: Option<String>,
    exclude: Option<String>,
}

#[derive(Serialize)]
struct Outcome {
    status: u16,
    #[serde(flatten)]
    result: Value,
}

fn read_batch(call: &Call) -> Result<Batch, Problem> {
    Query::parse(call.query.as_deref(), &[])?;
    if call.content_type().is_none_or(|(essence, is_utf8)| essence != "application/json" || !is_utf8) {
        return Err(Problem::new(
            Reason::UnsupportedType,
            "A batch is JSON; set Content-Type: application/json.",
        ));
    }
    let batch: Batch = serde_json::from_slice(&call.body).map_err(|error| {
        Problem::new(
            Reason::BadRequest,
            format!(r#"{error}; a batch is {{"messages": [{{"channel": "a.b", "text": "hello"}}]}}."#),
        )
    })?;
    if batch.messages.len() > BATCH_MESSAGES_MAX {
        return Err(Problem::new(
            Reason::TooLarge,
            format!("A batch has at most {BATCH_MESSAGES_MAX} messages; send several batches."),
        ));
    }
    Ok(batch)
}

async fn publish_entry(admin: &Admin, entry: Entry) -> Result<oneshot::Receiver<Delivered>, Problem> {
    let channel = channel(&entry.channel)?;
    let exclude = entry.exclude.as_deref().map(|id| excluded(admin, id)).transpose()?.flatten();
    let message = match (entry.text, entry.base64) {
        (Some(text), None) => Message::copy_from(Kind::Text, text.as_bytes()),
        (None, Some(encoded)) => {
            let payload = data_encoding::BASE64.decode(encoded.as_bytes()).map_err(|error| {
                Problem::new(
                    Reason::BadPayload,
                    format!("base64: {error}; use the alphabet with + and /, padded."),
                )
            })?;
            Message::copy_from(Kind::Binary, &payload)
        }
        _ => {
            return Err(Problem::new(
                Reason::BadRequest,
                "Give each entry either text (delivered as text) or base64 (delivered as binary).",
            ));
        }
    };
    hand_over(admin, &channel, message, exclude).await
}
