//! Owns what every call shares: the request once it has been let in, the forms of good answers, and asking a shard
//! with a deadline. It refuses to know any single call. Used by the dispatch and the calls beside it.

use std::time::Duration;

use bridge::{Address, Command, ConnId};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Admin;
use super::problem::{Problem, Reason};

/// How long a shard may take to answer one command. Its turn lasts milliseconds; what is silent for this long
/// is stuck, and the liveness probe will say so.
pub(super) const SHARD_DEADLINE: Duration = Duration::from_secs(2);

/// An answer on its way out.
pub(super) type Answer = Result<Response<Full<Bytes>>, Problem>;

/// A request that was let in: its host, origin, path, method and token are good, its body is here.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// The path's variables in the order of the pattern.
    pub(super) variables: Vec<String>,
    /// The query, still encoded.
    pub(super) query: Option<String>,
    /// All headers.
    pub(super) headers: HeaderMap,
    /// The body, empty where the call takes none.
    pub(super) body: Bytes,
}

impl Call {
    /// A variable of the path; the table says how many there are.
    pub(super) fn variable(&self, place: usize) -> &str {
        debug_assert!(place < self.variables.len(), "the pattern has as many variables as its call reads");
        self.variables.get(place).map_or("", String::as_str)
    }

    /// The content type without its parameters, in lower case, and whether its charset is one we can pass on.
    pub(super) fn content_type(&self) -> Option<(String, bool)> {
        let value = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        let (essence, parameters) = value.split_once(';').unwrap_or((&value, ""));
        let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
        let is_utf8 = charset.is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "us-ascii"));
        Some((essence.trim().to_owned(), is_utf8))
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).map_err(|error| {
        debug_assert!(false, "an answer of ours cannot be written: {error}");
        Problem::new(Reason::Internal, "The answer could not be written; please report this.")
    })?;
    Ok(text(status, "application/json", body))
}

/// An answer of any type.
pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

impl Admin {
    /// Where a connection of this node is, or `None` for one of another node or another life of it.
    pub(super) fn own(&self, id: &ConnId) -> Option<Address> {
        let known = usize::from(id.address.shard) < self.stats.len();
        (id.node == self.node && id.epoch == self.epoch && known).then_some(id.address)
    }

    /// Reads a connection id and finds it here.
    ///
    /// # Errors
    /// 400 for what is no id, 404 for one that is not of this life of this node.
    pub(super) fn locate(&self, id: &str) -> Result<Address, Problem> {
        let id = id.parse().map_err(|error| {
            Problem::new(
                Reason::BadConnectionId,
                format!("{error}; send it as the header Gateway-Connection gave it."),
            )
        })?;
        self.own(&id).ok_or_else(Problem::gone)
    }

    /// Puts a command into a shard's mailbox and waits for its reply, at most `within`.
    ///
    /// # Errors
    /// 503 when the mailbox is full, or the shard is silent or ending.
    pub(super) async fn ask<T>(
        &self,
        shard: u16,
        within: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command + Send,
    ) -> Result<T, Problem> {
        let mailbox = self.switchboard.mailboxes().get(usize::from(shard)).ok_or_else(Problem::gone)?;
        let (reply, answer) = oneshot::channel();
        mailbox.send(command(reply)).map_err(|_| Problem::busy())?;
        match timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Problem::new(
                Reason::ShardSilent,
                "The shard is ending and dropped the command; the node is going away, ask another one.",
            )),
            Err(_) => Err(Problem::new(
                Reason::ShardSilent,
                format!(
                    "Shard {shard} did not answer in time and may still do what was asked; look at /livez."
                ),
            )),
        }
    }
}
