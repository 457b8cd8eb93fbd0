//! Whether a stream captures what core mode publishes: its acknowledgements would go to the reply subject, which is a
//! client's address. Nothing is published before that is known, nor while it is so; who cannot be asked any more is believed as
//! of last time. Asked once at the start by `Nats::start`, which refuses to go on where it is so, and then by a task.

use std::time::Duration;

use async_nats::HeaderMap;
use tokio::sync::watch;

use super::link::Link;
use super::requests::{NoAnswer, Requests};
use super::subjects::Subjects;
use crate::joint::Routes;

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often while it has never been known, and events wait for it.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What servers answer that have no streams: JetStream is not enabled for the account, or not at all.
const NO_STREAMS: [u64; 2] = [10039, 10076];

/// A stream, and which of our subjects it captures; `None` when there is none, and in words why it is not known.
pub(super) type Found = Result<Option<String>, String>;

/// Holds inbound events up until it is known that no stream captures them, and whenever one does.
pub(super) async fn watch(
    link: Link,
    requests: Requests,
    subjects: Subjects,
    routes: std::sync::Arc<Routes>,
    clear: watch::Sender<bool>,
) {
    let mut told = None;
    while link.up().await {
        let losses = link.standing().losses;
        let mut again = ASK_EVERY;
        let problem = match ask(&link, &requests, &subjects, &routes).await {
            Ok(found) => {
                clear.send_replace(found.is_none());
                found.map(|stream| advice(&stream))
            }
            Err(problem) if !*clear.borrow() => {
                again = ASK_AGAIN;
                Some(unknown(&problem))
            }
            Err(_) => None,
        };
        if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
            tracing::error!("inbound events wait: {problem}");
        }
        told = problem;
        // Another server may have other streams: asked as soon as one is there.
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            () = link.lost_since(losses) => {}
        }
    }
}

/// The first stream that captures a subject of inbound events.
pub(super) async fn ask(link: &Link, requests: &Requests, subjects: &Subjects, routes: &Routes) -> Found {
    for route in routes.now().iter().filter(|route| route.tells_bus) {
        let subject = subjects.inbound_of_all(&route.name);
        let asked = link.unless_lost(ask_about(requests, &subject)).await;
        if let Some(stream) = asked.unwrap_or_else(|| Err("the bus was lost".to_owned()))? {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

async fn ask_about(requests: &Requests, subject: &str) -> Found {
    let question = serde_json::json!({ "subject": subject }).to_string();
    let place = "$JS.API.STREAM.NAMES".to_owned();
    match requests.ask(place, HeaderMap::new(), question.into(), ANSWER_WITHIN).await {
        Ok(answer) => read(&answer.payload, subject),
        // No server has streams.
        Err(NoAnswer::Nobody) => Ok(None),
        Err(no_answer) => Err(no_answer.to_string()),
    }
}

/// What an answer says. Of streams there are as many as it names, so an answer that names none must say so.
fn read(answer: &[u8], subject: &str) -> Found {
    let said = serde_json::from_slice::<serde_json::Value>(answer).unwrap_or_default();
    if let Some(error) = said.get("error") {
        let has_none = error["err_code"].as_u64().is_some_and(|code| NO_STREAMS.contains(&code));
        return if has_none { Ok(None) } else { Err(format!("the server answers {error}")) };
    }
    let first = said["streams"].as_array().and_then(|streams| streams.first());
    match (first, said["total"].as_u64()) {
        (Some(stream), _) => Ok(Some(format!("{} ({subject})", stream.as_str().unwrap_or_default()))),
        (None, Some(0)) => Ok(None),
        _ => Err("what the server answers is no list of streams".to_owned()),
    }
}

/// What to do about a stream.
pub(super) fn advice(stream: &str) -> String {
    format!(
        "bus.nats.jetstream is false, and the stream {stream} captures the subject of inbound events: its \
         acknowledgements would reach clients. Set bus.nats.jetstream = true, or take the subject out of the stream."
    )
}

/// What to do where it cannot be found out.
fn unknown(problem: &str) -> String {
    format!(
        "whether a stream captures their subject is not known yet ({problem}): the gateway has to be allowed to publish to \
         $JS.API.STREAM.NAMES, and JetStream, where there is one, to be well."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_that_there_is_no_stream_is_believed() {
        let read = |answer: &str| read(answer.as_bytes(), "gateway.inbound.app.*");
        let kind = r#""type":"io.nats.jetstream.api.v1.stream_names_response""#;
        assert_eq!(
            read(&format!(r#"{{{kind},"total":0,"offset":0,"limit":1024,"streams":null}}"#)),
            Ok(None)
        );
        assert_eq!(read(r#"{"error":{"code":503,"err_code":10039},"total":0,"streams":null}"#), Ok(None));
        let found = read(r#"{"total":1,"streams":["EVENTS"]}"#);
        assert_eq!(found, Ok(Some("EVENTS (gateway.inbound.app.*)".to_owned())));
        let unwell = r#"{"error":{"code":503,"err_code":10008},"total":0,"streams":null}"#;
        for unknown in [unwell, "{}", "", "no", "[]", r#"{"total":2,"streams":[]}"#, "\u{0}"] {
            assert!(read(unknown).is_err(), "{unknown}");
        }
    }
}
