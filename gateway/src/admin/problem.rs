//! Owns every error the HTTP side answers: a closed set of reasons, each with one status and one title, written as
//! `application/problem+json` (RFC 9457). The detail says what to do next. Made by the guard, the router, the
//! tokens and the calls; no other file writes an error status, health excepted.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// Why a request was not served. The label is part of the interface: it may be added to, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The request, its query or its JSON has a form we do not know.
    BadRequest,
    /// The text is not a channel name.
    BadChannel,
    /// The text is not a connection id.
    BadConnectionId,
    /// The payload is not what its content type says.
    BadPayload,
    /// A close code or reason that may not be sent.
    BadClose,
    /// No token, or one we do not know.
    Unauthorized,
    /// The token lacks the scope.
    MissingScope,
    /// The `Host` is not one of this listener.
    ForeignHost,
    /// The request was made by a page of another origin.
    ForeignOrigin,
    /// No such path.
    NotFound,
    /// The connection has ended, or belongs to another life of a node.
    Gone,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The text is no network of peers.
    BadNetwork,
    /// The network is not blocked.
    NotBlocked,
    /// As many networks are blocked as may be.
    BlocksFull,
    /// The body did not arrive in time.
    SlowRequest,
    /// The connection, or its shard, has as many channels as it may.
    ChannelsFull,
    /// The node is going away.
    Draining,
    /// A key of the configuration takes a restart.
    CannotChange,
    /// The configuration has mistakes.
    BadConfiguration,
    /// The body or the batch is too large.
    TooLarge,
    /// The content type says neither text nor binary.
    UnsupportedType,
    /// A mailbox is full.
    Busy,
    /// A shard did not answer in time.
    ShardSilent,
    /// The bus is away.
    BusAway,
    /// A fault of ours.
    Internal,
}

impl Reason {
    /// The label in the body.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadChannel => "bad_channel",
            Self::BadConnectionId => "bad_connection_id",
            Self::BadPayload => "bad_payload",
            Self::BadClose => "bad_close",
            Self::Unauthorized => "unauthorized",
            Self::MissingScope => "missing_scope",
            Self::ForeignHost => "foreign_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadNetwork => "bad_network",
            Self::NotBlocked => "not_blocked",
            Self::BlocksFull => "blocks_full",
            Self::SlowRequest => "slow_request",
            Self::ChannelsFull => "channels_full",
            Self::Draining => "draining",
            Self::CannotChange => "cannot_change",
            Self::BadConfiguration => "bad_configuration",
            Self::TooLarge => "too_large",
            Self::UnsupportedType => "unsupported_type",
            Self::Busy => "busy",
            Self::ShardSilent => "shard_silent",
            Self::BusAway => "bus_away",
            Self::Internal => "internal",
        }
    }

    /// The status.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::BadChannel
            | Self::BadConnectionId
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
            Self::Busy | Self::ShardSilent | Self::BusAway => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The title: the same for every occurrence.
    const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request has an unknown form",
            Self::BadChannel => "Not a channel name",
            Self::BadConnectionId => "Not a connection id",
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
            Self::BusAway => "The bus is away",
            Self::Internal => "A fault of the gateway",
        }
    }
}

/// One error on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
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

    /// A mailbox is full: nothing was done, and it will have room soon.
    pub(super) fn busy() -> Self {
        Self::new(Reason::Busy, "A mailbox is full and nothing was done; send the request again in a second.")
            .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// The connection has ended, or never was in this life of this node.
    pub(super) fn gone() -> Self {
        Self::new(
            Reason::Gone,
            "The connection has ended, or its id is of another node or of an earlier run of this one; forget the id.",
        )
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_problem_repeats_its_status_and_names_its_reason() {
        let problem = Problem::busy();
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
