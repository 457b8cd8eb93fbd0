//! What a client can do wrong: [`Violation`] after the upgrade, [`Refusal`] before it.
//!
//! Owns the closed sets and what each becomes: one close code or one status, one metric label, one sentence
//! for people. Refuses to carry data from the client (a label must stay bounded) and to blame us: our own
//! mistakes are not in here. Made by `ws` and `http`; read by the shard, which closes, counts and answers.

use std::fmt;

use crate::proxy::BadProxy;
use crate::ws::code;

/// A breach of RFC 6455 or of a limit on an open connection. The connection fails with [`Violation::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reserved bit is set though no extension was agreed (section 5.2).
    ReservedBits,
    /// An opcode that no document defines (section 5.2).
    ReservedOpcode,
    /// A client frame without a mask (section 5.1).
    Unmasked,
    /// A length in more bytes than it needs (section 5.2).
    NonMinimalLength,
    /// A control frame without the final bit (section 5.5).
    ControlFragmented,
    /// A control frame of more than 125 bytes (section 5.5).
    ControlTooLong,
    /// A continuation while no message is open (section 5.4).
    UnexpectedContinuation,
    /// A new text or binary frame while a message is open (section 5.4).
    ExpectedContinuation,
    /// One frame is longer than the limit.
    FrameTooBig,
    /// The fragments of one message add up to more than the limit.
    MessageTooBig,
    /// One message came in more frames than the limit.
    TooManyFragments,
    /// Text that is not UTF-8 (section 8.1).
    InvalidUtf8,
    /// A close frame with one byte of payload (section 5.5.1).
    CloseTooShort,
    /// A close code that may not be sent (section 7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (section 5.5.1).
    CloseReasonUtf8,
    /// A 64-bit length with its top bit set (section 5.2).
    LengthTopBit,
}

impl Violation {
    /// Every violation, so that metrics can be registered before the first one happens.
    pub const ALL: [Self; 16] = [
        Self::ReservedBits,
        Self::ReservedOpcode,
        Self::Unmasked,
        Self::NonMinimalLength,
        Self::ControlFragmented,
        Self::ControlTooLong,
        Self::UnexpectedContinuation,
        Self::ExpectedContinuation,
        Self::FrameTooBig,
        Self::MessageTooBig,
        Self::TooManyFragments,
        Self::InvalidUtf8,
        Self::CloseTooShort,
        Self::CloseCode,
        Self::CloseReasonUtf8,
        Self::LengthTopBit,
    ];

    /// The close code to fail the connection with (RFC 6455 section 7.4.1): 1002, 1007 or 1009.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::FrameTooBig | Self::MessageTooBig | Self::TooManyFragments => code::TOO_BIG,
            Self::InvalidUtf8 | Self::CloseReasonUtf8 => code::INVALID_PAYLOAD,
            _ => code::PROTOCOL,
        }
    }

    /// The metric label and close reason, from a closed set.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved_bits",
            Self::ReservedOpcode => "reserved_opcode",
            Self::Unmasked => "unmasked",
            Self::NonMinimalLength => "non_minimal_length",
            Self::ControlFragmented => "control_fragmented",
            Self::ControlTooLong => "control_too_long",
            Self::UnexpectedContinuation => "unexpected_continuation",
            Self::ExpectedContinuation => "expected_continuation",
            Self::FrameTooBig => "frame_too_big",
            Self::MessageTooBig => "message_too_big",
            Self::TooManyFragments => "too_many_fragments",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::CloseTooShort => "close_too_short",
            Self::CloseCode => "close_code",
            Self::CloseReasonUtf8 => "close_reason_utf8",
            Self::LengthTopBit => "length_top_bit",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit is set but no extension was agreed",
            Self::ReservedOpcode => "the opcode is reserved",
            Self::Unmasked => "client frames must be masked",
            Self::NonMinimalLength => "the length is not written in its shortest form",
            Self::ControlFragmented => "control frames must not be fragmented",
            Self::ControlTooLong => "control frames carry at most 125 bytes",
            Self::UnexpectedContinuation => "a continuation came while no message was open",
            Self::ExpectedContinuation => "a new message began before the last one ended",
            Self::FrameTooBig => "the frame is longer than this route allows",
            Self::MessageTooBig => "the message is longer than this route allows",
            Self::TooManyFragments => "the message came in more frames than this route allows",
            Self::InvalidUtf8 => "text must be UTF-8",
            Self::CloseTooShort => "a close frame carries no payload or at least two bytes",
            Self::CloseCode => "the close code may not be sent",
            Self::CloseReasonUtf8 => "the close reason must be UTF-8",
            Self::LengthTopBit => "the top bit of a length must be zero",
        })
    }
}

impl std::error::Error for Violation {}

/// Why a request does not become a connection. Answered by [`crate::http::push_refusal`], then the socket is
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 400: the bytes are not an HTTP/1.1 request head.
    BadHead,
    /// 431: the head is longer than the limit.
    HeadTooLarge,
    /// 431: more header fields than [`crate::http::HEADERS_MAX`].
    TooManyHeaders,
    /// 405: not GET.
    Method,
    /// 505: not HTTP/1.1.
    HttpVersion,
    /// 400: `Host` missing, repeated or malformed.
    Host,
    /// 426: a plain HTTP request where a WebSocket is offered.
    NotUpgrade,
    /// 426: `Sec-WebSocket-Version` missing, repeated or not 13.
    Version,
    /// 400: `Sec-WebSocket-Key` missing, repeated or not the base64 of 16 bytes.
    Key,
    /// 400: the request announces a body.
    Body,
    /// 404: no route has this path.
    NotFound,
    /// 400: no valid PROXY header where one is due, or one where none is believed.
    Proxy,
    /// 403: the route does not allow this `Origin`.
    Origin,
    /// An app server does not let it in, with a status of its own.
    Unauthorized,
    /// 503: no app server decided whether it may come in.
    Authorizer {
        /// Seconds for `Retry-After`.
        retry_after_s: u32,
    },
    /// 408: the head did not arrive in time.
    Timeout,
    /// 503: this node is full.
    Busy {
        /// Seconds for `Retry-After`.
        retry_after_s: u32,
    },
    /// 429: this peer is over one of its limits.
    TooMany {
        /// Seconds for `Retry-After`.
        retry_after_s: u32,
    },
    /// 503: this node is going away.
    ShuttingDown {
        /// Seconds for `Retry-After`.
        retry_after_s: u32,
    },
}

impl Refusal {
    /// Every refusal (without delays), so that metrics can be registered before the first one happens.
    pub const ALL: [Self; 19] = [
        Self::BadHead,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::Method,
        Self::HttpVersion,
        Self::Host,
        Self::NotUpgrade,
        Self::Version,
        Self::Key,
        Self::Body,
        Self::NotFound,
        Self::Proxy,
        Self::Origin,
        Self::Unauthorized,
        Self::Authorizer { retry_after_s: 0 },
        Self::Timeout,
        Self::Busy { retry_after_s: 0 },
        Self::TooMany { retry_after_s: 0 },
        Self::ShuttingDown { retry_after_s: 0 },
    ];

    /// The status code of the answer (RFC 9110 section 15, RFC 6585).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadHead | Self::Host | Self::Key | Self::Body | Self::Proxy => 400,
            Self::Origin | Self::Unauthorized => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::NotUpgrade | Self::Version => 426,
            Self::TooMany { .. } => 429,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Busy { .. } | Self::Authorizer { .. } | Self::ShuttingDown { .. } => 503,
            Self::HttpVersion => 505,
        }
    }

    /// The metric label and the `reason` of the answer, from a closed set.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadHead => "bad_head",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::Method => "method",
            Self::HttpVersion => "http_version",
            Self::Host => "host",
            Self::NotUpgrade => "not_upgrade",
            Self::Version => "version",
            Self::Key => "key",
            Self::Body => "body",
            Self::NotFound => "not_found",
            Self::Proxy => "proxy_protocol",
            Self::Origin => "origin",
            Self::Unauthorized => "unauthorized",
            Self::Authorizer { .. } => "authorizer",
            Self::Timeout => "timeout",
            Self::Busy { .. } => "busy",
            Self::TooMany { .. } => "too_many",
            Self::ShuttingDown { .. } => "shutting_down",
        }
    }

    /// One sentence for whoever reads the answer: what to do next. Needs no escaping in JSON.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::BadHead => "Send a well-formed HTTP/1.1 request.",
            Self::HeadTooLarge => "Send fewer or shorter headers, cookies above all.",
            Self::TooManyHeaders => "Send at most 64 header fields.",
            Self::Method => "Use GET: a WebSocket is opened with it.",
            Self::HttpVersion => "Use HTTP/1.1.",
            Self::Host => "Send exactly one valid Host header.",
            Self::NotUpgrade => {
                "Connect with a WebSocket client: Connection: Upgrade and Upgrade: websocket are missing."
            }
            Self::Version => "Send Sec-WebSocket-Version: 13 exactly once.",
            Self::Key => "Send exactly one Sec-WebSocket-Key with the base64 of 16 random bytes.",
            Self::Body => "Send the upgrade request without a body.",
            Self::NotFound => "Check the path: no route has it.",
            Self::Proxy => {
                "Send a PROXY header exactly if you are a proxy: see proxy_protocol and trust in the configuration."
            }
            Self::Origin => "Add this page's origin to the route's list of allowed origins.",
            Self::Unauthorized => "Show who you are: the app does not let this request in.",
            Self::Authorizer { .. } => "Try again later: nobody could say whether this request may come in.",
            Self::Timeout => "Send the whole request head at once.",
            Self::Busy { .. } => "Try again later: this node has no room for more connections.",
            Self::TooMany { .. } => "Try again later and more slowly: this address is over its limit.",
            Self::ShuttingDown { .. } => "Connect again: this node is going away, others are not.",
        }
    }

    /// Seconds for `Retry-After`, where waiting helps.
    #[must_use]
    pub const fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::Busy { retry_after_s }
            | Self::TooMany { retry_after_s }
            | Self::Authorizer { retry_after_s }
            | Self::ShuttingDown { retry_after_s } => Some(retry_after_s),
            _ => None,
        }
    }
}

impl From<BadProxy> for Refusal {
    fn from(_: BadProxy) -> Self {
        Self::Proxy
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn is_label(label: &str) -> bool {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }

    #[test]
    fn labels_are_distinct_snake_case() {
        let violations: HashSet<_> = Violation::ALL.iter().map(|v| v.label()).collect();
        let refusals: HashSet<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(violations.len(), Violation::ALL.len());
        assert_eq!(refusals.len(), Refusal::ALL.len());
        assert!(violations.iter().chain(&refusals).all(|label| is_label(label)));
    }

    #[test]
    fn a_violation_closes_with_one_of_three_codes() {
        for violation in Violation::ALL {
            assert!(matches!(violation.code(), 1002 | 1007 | 1009), "{violation:?}");
            assert!(!violation.to_string().is_empty());
        }
        assert_eq!(Violation::InvalidUtf8.code(), 1007);
        assert_eq!(Violation::MessageTooBig.code(), 1009);
        assert_eq!(Violation::Unmasked.code(), 1002);
    }

    #[test]
    fn details_need_no_escaping() {
        for refusal in Refusal::ALL {
            assert!(
                refusal.detail().bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'),
                "{refusal:?}"
            );
        }
    }
}
