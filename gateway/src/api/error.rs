//! Owns why a call was not served: a closed set of reasons, and an error that says besides what to do next. The HTTP side
//! gives each reason a status and a title, gRPC a code; both show the label. Made by the calls, the tokens, the guard and
//! the router.

use std::borrow::Cow;

/// Why a request was not served. The label is part of the interface: it may be added to, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The request, its query or its JSON has a form we do not know.
    BadRequest,
    /// The text is not a channel name.
    BadChannel,
    /// The text is not a connection id.
    BadConnectionId,
    /// The text is no user.
    BadUser,
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
    /// Another node, which is there, did not answer.
    NodeSilent,
    /// The bus is away.
    BusAway,
    /// A fault of ours.
    Internal,
}

impl Reason {
    /// Every reason.
    const ALL: [Self; 28] = [
        Self::BadRequest,
        Self::BadChannel,
        Self::BadConnectionId,
        Self::BadUser,
        Self::BadPayload,
        Self::BadClose,
        Self::Unauthorized,
        Self::MissingScope,
        Self::ForeignHost,
        Self::ForeignOrigin,
        Self::NotFound,
        Self::Gone,
        Self::MethodNotAllowed,
        Self::BadNetwork,
        Self::NotBlocked,
        Self::BlocksFull,
        Self::SlowRequest,
        Self::ChannelsFull,
        Self::Draining,
        Self::CannotChange,
        Self::BadConfiguration,
        Self::TooLarge,
        Self::UnsupportedType,
        Self::Busy,
        Self::ShardSilent,
        Self::NodeSilent,
        Self::BusAway,
        Self::Internal,
    ];

    /// The reason of a label, as another node says it.
    pub(crate) fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.label() == label)
    }

    /// The label in the body.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadChannel => "bad_channel",
            Self::BadConnectionId => "bad_connection_id",
            Self::BadUser => "bad_user",
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
            Self::NodeSilent => "node_silent",
            Self::BusAway => "bus_away",
            Self::Internal => "internal",
        }
    }
}

/// A call that was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Which of the closed set.
    pub(crate) reason: Reason,
    /// What happened here and what to do next.
    pub(crate) detail: Cow<'static, str>,
    /// When to come back, in seconds, where that is known.
    pub(crate) retry_after_s: Option<u16>,
}

impl Error {
    /// An error.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), retry_after_s: None }
    }

    /// The same with a time to come back, in seconds.
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u16) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// A mailbox is full: nothing was done, and it will have room soon.
    pub(crate) fn busy() -> Self {
        Self::new(Reason::Busy, "A mailbox is full and nothing was done; send the request again in a second.")
            .retry_after(1)
    }

    /// The connection has ended, or never was in this life of this node.
    pub(crate) fn gone() -> Self {
        Self::new(
            Reason::Gone,
            "The connection has ended, or its id is of a node that is not there or of an earlier run of one; forget the id.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_label() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of(reason.label()), Some(reason));
        }
        assert_eq!(Reason::of("no_reason"), None);
    }
}
