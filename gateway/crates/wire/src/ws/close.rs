//! Close codes and the payload of a close frame (RFC 6455 sections 5.5.1 and 7.4).
//!
//! Owns which codes may travel and how a close is read. Refuses to decide when to close: that is the shard's.
//! Called by `Assembly` for what comes in, and by whoever lets users choose a code.

use crate::error::Violation;

/// The codes we send ourselves.
pub mod code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The node is going away.
    pub const GOING_AWAY: u16 = 1001;
    /// A protocol error.
    pub const PROTOCOL: u16 = 1002;
    /// A type of message that is not wanted here.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// A limit or a policy.
    pub const POLICY: u16 = 1008;
    /// A message over the limit.
    pub const TOO_BIG: u16 = 1009;
    /// Our error.
    pub const INTERNAL: u16 = 1011;
    /// Overloaded, or the client reads too slowly.
    pub const TRY_AGAIN: u16 = 1013;
}

/// A close with its code. A close frame without payload has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Passes [`may_be_sent`].
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'a str,
}

impl<'a> Close<'a> {
    /// Reads the unmasked payload of a close frame; `None` when it is empty.
    ///
    /// # Errors
    /// One byte, a code that may not be sent, a reason that is not UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Violation> {
        match payload {
            [] => Ok(None),
            [_] => Err(Violation::CloseTooShort),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !may_be_sent(code) {
                    return Err(Violation::CloseCode);
                }
                let reason = str::from_utf8(reason).map_err(|_| Violation::CloseReasonUtf8)?;
                Ok(Some(Self { code, reason }))
            }
        }
    }
}

/// Whether a code may stand in a close frame (RFC 6455 section 7.4 and the IANA registry).
///
/// 1012 to 1014 were registered after the RFC. 1004 has no meaning; 1005, 1006 and 1015 only exist inside
/// programs.
#[inline]
#[must_use]
pub const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    #[test]
    fn the_codes_agree_with_tungstenite_but_for_1014() {
        for code in 0..=u16::MAX {
            let theirs = CloseCode::from(code).is_allowed();
            assert_eq!(may_be_sent(code), theirs || code == 1014, "{code}");
        }
    }

    #[test]
    fn an_empty_close_has_no_code() {
        assert_eq!(Close::parse(b""), Ok(None));
    }

    #[test]
    fn a_close_carries_code_and_reason() {
        let close = Close::parse(b"\x0f\xa0see you").unwrap().unwrap();
        assert_eq!(close, Close { code: 4000, reason: "see you" });
    }

    #[test]
    fn a_malformed_close_is_refused_by_its_fault() {
        assert_eq!(Close::parse(b"\x03"), Err(Violation::CloseTooShort));
        assert_eq!(Close::parse(&1005u16.to_be_bytes()), Err(Violation::CloseCode));
        assert_eq!(Close::parse(b"\x03\xe8\xff"), Err(Violation::CloseReasonUtf8));
        assert_eq!(Close::parse(b"\x03\xe8\xe2\x82"), Err(Violation::CloseReasonUtf8));
    }
}
