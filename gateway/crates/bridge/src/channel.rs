//! The name of a channel, checked once: 1 to 8 tokens of `[A-Za-z0-9_=-]{1,64}` joined by dots.
//!
//! The grammar is the same on every bus, so a name that is good here is good as a NATS subject and as a Redis
//! channel. A name outside of it is refused, never mangled.

use std::fmt;
use std::sync::Arc;

/// Most tokens in a name.
pub const TOKENS_MAX: usize = 8;
/// Most bytes in one token.
pub const TOKEN_BYTES_MAX: usize = 64;

/// A checked channel name; a clone shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadChannel {
    /// No token, or an empty one (`a..b`, `.a`, `a.`).
    EmptyToken,
    /// A token of more than 64 bytes.
    TokenTooLong,
    /// More than 8 tokens.
    TooManyTokens,
    /// A byte outside of `[A-Za-z0-9_=-]`.
    BadByte,
}

impl fmt::Display for BadChannel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::EmptyToken => "a channel is 1 to 8 tokens joined by single dots; a token is missing",
            Self::TokenTooLong => "a channel token has at most 64 bytes",
            Self::TooManyTokens => "a channel has at most 8 tokens",
            Self::BadByte => "a channel token is made of A-Z a-z 0-9 _ = -",
        })
    }
}

impl std::error::Error for BadChannel {}

/// Whether a byte may stand in a channel token.
#[must_use]
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'=' | b'-')
}

impl Channel {
    /// Checks a name.
    ///
    /// # Errors
    /// Says which rule of the grammar it breaks.
    pub fn parse(name: &str) -> Result<Self, BadChannel> {
        let mut tokens = 0;
        for token in name.split('.') {
            tokens += 1;
            if tokens > TOKENS_MAX {
                return Err(BadChannel::TooManyTokens);
            }
            if token.is_empty() {
                return Err(BadChannel::EmptyToken);
            }
            if token.len() > TOKEN_BYTES_MAX {
                return Err(BadChannel::TokenTooLong);
            }
            if !token.bytes().all(is_token_byte) {
                return Err(BadChannel::BadByte);
            }
        }
        Ok(Self(Arc::from(name)))
    }

    /// A name that a table of this program handed back, and that was checked when it went in.
    #[must_use]
    pub fn from_checked(name: Arc<str>) -> Self {
        debug_assert!(Self::parse(&name).is_ok(), "a channel name enters through `parse`");
        Self(name)
    }

    /// Whether its first token is the one of users' channels, which nobody joins but by being authorised.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.split('.').next() == Some(crate::principal::USER_TOKEN)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text, for tables that keep it.
    #[must_use]
    pub const fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Channel({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_grammar_is_the_same_for_every_bus() {
        for good in ["a", "room.1", "user.a=40b", "a.b.c.d.e.f.g.h", &"x".repeat(64)] {
            assert_eq!(Channel::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadChannel::EmptyToken),
            ("a..b", BadChannel::EmptyToken),
            (".a", BadChannel::EmptyToken),
            ("a.", BadChannel::EmptyToken),
            ("room.*", BadChannel::BadByte),
            ("room.>", BadChannel::BadByte),
            ("a b", BadChannel::BadByte),
            ("ü", BadChannel::BadByte),
            ("a.b.c.d.e.f.g.h.i", BadChannel::TooManyTokens),
            (&"x".repeat(65), BadChannel::TokenTooLong),
        ] {
            assert_eq!(Channel::parse(bad), Err(why), "{bad:?}");
        }
    }
}
