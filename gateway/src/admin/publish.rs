//! Translates the calls that publish between HTTP and [`crate::api::publish`]: bodies to messages, outcomes to JSON.

use bridge::{Delivered, Kind, Message};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use super::call::{Answer, Call, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::api::publish::{self, Outcome, Publish};
use crate::api::{Error, users};

/// `POST /v1/channels/{channel}/messages?exclude=`: the body is the payload.
pub(super) async fn publish(admin: &Admin, call: Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["exclude"])?;
    let (channel, message) = (call.variable(0).to_owned(), message(&call)?);
    drop(call);
    let request = Publish { channel: &channel, message, exclude: query.value("exclude") };
    json(StatusCode::ACCEPTED, &counts(publish::publish(admin, request).await?))
}

/// `POST /v1/users/{user}/messages?exclude=`: as to a channel, which all connections of the user are in.
pub(super) async fn send_to_user(admin: &Admin, call: Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["exclude"])?;
    let (user, message) = (call.variable(0).to_owned(), message(&call)?);
    drop(call);
    let outcome = users::send(admin, &user, message, query.value("exclude")).await?;
    json(StatusCode::ACCEPTED, &counts(outcome))
}

/// `POST /v1/publish`: up to 1000 messages as JSON. Each entry has its own outcome, in the order given; entries are
/// published one after the other, so two for one channel keep their order. An entry that fails stops no other.
pub(super) async fn publish_many(admin: &Admin, call: Call) -> Answer {
    let batch = read_batch(&call)?;
    drop(call);
    let outcomes = publish::publish_batch(admin, batch.messages.iter().map(Entry::request)).await?;
    let results: Vec<_> = outcomes.into_iter().map(EntryOutcome::of).collect();
    let refused = results.iter().filter(|outcome| outcome.status != 202).count();
    json(StatusCode::ACCEPTED, &json!({ "refused": refused, "results": results }))
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

fn counts(outcome: Outcome) -> Value {
    match outcome {
        Some(Delivered { subscribers, queued, dropped }) => {
            json!({ "subscribers": subscribers, "queued": queued, "dropped": dropped })
        }
        None => json!({ "pending": true }),
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
struct EntryOutcome {
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
    Ok(batch)
}

impl Entry {
    fn request(&self) -> Result<Publish<'_>, Error> {
        let message = match (&self.text, &self.base64) {
            (Some(text), None) => Message::copy_from(Kind::Text, text.as_bytes()),
            (None, Some(encoded)) => {
                let payload = data_encoding::BASE64.decode(encoded.as_bytes()).map_err(|error| {
                    Error::new(
                        Reason::BadPayload,
                        format!("base64: {error}; use the alphabet with + and /, padded."),
                    )
                })?;
                Message::copy_from(Kind::Binary, &payload)
            }
            _ => {
                return Err(Error::new(
                    Reason::BadRequest,
                    "Give each entry either text (delivered as text) or base64 (delivered as binary).",
                ));
            }
        };
        Ok(Publish { channel: &self.channel, message, exclude: self.exclude.as_deref() })
    }
}

impl EntryOutcome {
    fn of(outcome: Result<Outcome, Error>) -> Self {
        match outcome {
            Ok(outcome) => Self { status: 202, result: counts(outcome) },
            Err(error) => Self {
                status: error.reason.status().as_u16(),
                result: json!({ "reason": error.reason.label(), "detail": error.detail }),
            },
        }
    }
}
