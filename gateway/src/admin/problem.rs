//! Owns every error the HTTP side answers: each reason of the closed set with one status and one title, written as
//! `application/problem+json` (RFC 9457). The detail says what to do next. Made by the guard, the router, the
//! tokens and the calls; no other file writes an error status, health excepted.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::api::Error;
pub(super) use crate::api::Reason;

impl Reason {
    /// The status.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::BadChannel
            | Self::BadConnectionId
            | Self::BadUser
            | Self::BadPayload
            | Self::BadNetwork
            | Self::BadClose => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MissingScope | Self::ForeignHost | Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NotFound | Self::Gone | Self::NotBlocked => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowRequest => StatusCode::REQUEST_TIMEOUT,
            Self::ChannelsFull | Self::BlocksFull | Self::Draining | Self::CannotChange => {
                StatusCode::CONFLICT
            }
            Self::BadConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy | Self::ShardSilent | Self::NodeSilent | Self::BusAway => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The title: the same for every occurrence.
    const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request has an unknown form",
            Self::BadChannel => "Not a channel name",
            Self::BadConnectionId => "Not a connection id",
            Self::BadUser => "Not a user",
            Self::BadPayload => "The payload is not what its content type says",
            Self::BadClose => "This may not be sent in a close frame",
            Self::Unauthorized => "A bearer token is needed",
            Self::MissingScope => "The token lacks a scope",
            Self::ForeignHost => "This listener has another host name",
            Self::ForeignOrigin => "Pages of other origins are refused",
            Self::NotFound => "No such path",
            Self::Gone => "The connection is gone",
            Self::MethodNotAllowed => "This path has other methods",
            Self::BadNetwork => "Not a network of peers",
            Self::NotBlocked => "The network is not blocked",
            Self::BlocksFull => "No room for another block",
            Self::SlowRequest => "The request body did not arrive in time",
            Self::ChannelsFull => "No room for another channel",
            Self::Draining => "The node is going away",
            Self::CannotChange => "A key takes a restart",
            Self::BadConfiguration => "The configuration has mistakes",
            Self::TooLarge => "The request is too large",
            Self::UnsupportedType => "The content type says neither text nor binary",
            Self::Busy => "A shard has no room right now",
            Self::ShardSilent => "A shard did not answer",
            Self::NodeSilent => "Another node did not answer",
            Self::BusAway => "The bus is away",
            Self::Internal => "A fault of the gateway",
        }
    }
}

/// One error on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Which of the closed set.
    pub(super) reason: Reason,
    /// What happened here and what to do next.
    pub(super) detail: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem.
    pub(super) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), header: None }
    }

    /// The same with a header that belongs to its status.
    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let status = self.reason.status();
        let body = serde_json::json!({
            "type": format!("about:blank#{}", self.reason.label()),
            "title": self.reason.title(),
            "status": status.as_u16(),
            "detail": self.detail,
            "reason": self.reason.label(),
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Without the header, which gRPC has no place for.
impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::new(problem.reason, problem.detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = Self::new(error.reason, error.detail);
        match error.retry_after_s {
            Some(seconds) => problem.with(header::RETRY_AFTER, HeaderValue::from(seconds)),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_problem_repeats_its_status_and_names_its_reason() {
        let problem = Problem::from(Error::busy());
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], "about:blank#busy");
        assert_eq!((&body["status"], &body["reason"]), (&503.into(), &"busy".into()));
        assert!(body["title"].is_string() && body["detail"].is_string());
    }
}
