//! Who is behind a connection, once an app server has said so: a user, and an opaque state that comes back with every
//! event. Owns the grammar of users and the way to their channel; refuses to know how they were authorised.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::{Channel, TOKEN_BYTES_MAX};

/// Most bytes of an opaque state.
pub const STATE_BYTES_MAX: usize = 256;
/// The first token of every user's channel. No route and no API call may subscribe to it: authorising does.
pub const USER_TOKEN: &str = "user";

/// A user: any text that, with every byte outside of `[A-Za-z0-9_-]` written `=XX`, is one token of a channel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct User(Arc<str>);

/// A text is no user: it is empty, or longer than 64 bytes when escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUser;

impl fmt::Display for BadUser {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "a user has 1 to {TOKEN_BYTES_MAX} bytes, each one outside of A-Z a-z 0-9 _ - counting as three"
        )
    }
}

impl std::error::Error for BadUser {}

impl User {
    /// Checks a user.
    ///
    /// # Errors
    /// [`BadUser`].
    pub fn parse(user: &str) -> Result<Self, BadUser> {
        let escaped: usize = user.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum();
        if (1..=TOKEN_BYTES_MAX).contains(&escaped) { Ok(Self(Arc::from(user))) } else { Err(BadUser) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The channel that all connections of the user are in: `user.` and the user, other bytes written `=XX`.
    #[must_use]
    pub fn channel(&self) -> Channel {
        use fmt::Write as _;
        let mut name = String::with_capacity(USER_TOKEN.len() + 1 + self.0.len());
        name.push_str(USER_TOKEN);
        name.push('.');
        for byte in self.0.bytes() {
            if is_plain(byte) {
                name.push(char::from(byte));
            } else {
                let _ = write!(name, "={byte:02X}");
            }
        }
        Channel::from_checked(Arc::from(name))
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "User({:?})", &*self.0)
    }
}

/// What an app server has said of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// Whose it is.
    pub user: Option<User>,
    /// Comes back with every event; at most [`STATE_BYTES_MAX`] bytes, which whoever makes it has checked.
    pub state: Bytes,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_user_has_a_channel_of_its_own() {
        for (user, channel) in [
            ("bob", "user.bob"),
            ("a@b.c", "user.a=40b=2Ec"),
            ("=40", "user.=3D40"),
            ("ü", "user.=C3=BC"),
            (" ", "user.=20"),
        ] {
            let name = User::parse(user).unwrap().channel();
            assert_eq!(name.as_str(), channel);
            assert_eq!(Channel::parse(channel).unwrap(), name);
        }
    }

    #[test]
    fn a_user_without_a_channel_is_none() {
        assert_eq!(User::parse(""), Err(BadUser));
        assert!(User::parse(&"x".repeat(64)).is_ok());
        assert_eq!(User::parse(&"x".repeat(65)), Err(BadUser));
        assert_eq!(User::parse(&"@".repeat(22)), Err(BadUser));
    }
}
