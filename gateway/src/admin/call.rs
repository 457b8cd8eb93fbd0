//! Owns what every call shares: the request once it has been let in, and the forms of good answers. It refuses to know any single call. Used by the dispatch and the calls beside it.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::problem::{Problem, Reason};

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
