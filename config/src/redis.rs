//! Owns `[bus.redis]`: where Redis is and who we are to it. Refuses passwords in the address, where logs would show them:
//! they are in a file. Read by the program.

use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::bus::BusKind;
use crate::forms::{Count, FilePath, Number, Optional, Pattern, Word, quoted};
use crate::names::{is_host, split_port};
use crate::reader::Reader;
use crate::schema::section;
use crate::sections::{Settings, count};

/// Where a Redis server is: `redis://host:port`, or `rediss://host:port` for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    text: String,
    port: u16,
}

impl RedisServer {
    const EXPECTED: &str =
        "redis://host:port, or rediss://host:port for TLS, such as \"redis://127.0.0.1:6379\"";

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://"));
        match rest.and_then(split_port) {
            Some((host, Some(port))) if is_host(host) => Ok(Self { text: text.to_owned(), port }),
            _ => Err(Self::EXPECTED.to_owned()),
        }
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let (_, authority) = self.text.split_once("://").unwrap_or_default();
        let (host, _) = authority.rsplit_once(':').unwrap_or((authority, ""));
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.text.starts_with("rediss:")
    }
}

impl std::fmt::Display for RedisServer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

/// The name of an ACL user: printable, without white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUser(String);

impl RedisUser {
    fn parse(text: &str) -> Option<Self> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for RedisUser {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

section! {
    /// `[bus.redis]`
    BusRedis ["bus.redis"]
    /// The server, or what leads to it.
    server: RedisServer = RedisServer { text: "redis://127.0.0.1:6379".to_owned(), port: 6379 },
        Pattern { expected: RedisServer::EXPECTED, parse: RedisServer::parse };
    /// Number of the database that streams are in. Publish/subscribe knows no databases.
    database: u32 = 0, Number { min: 0, max: 65_535 };
    /// The ACL user. `None`: Redis' own default one.
    user: Option<RedisUser> = None, Optional(Word {
        expected: "a name of printable characters without spaces, such as \"gateway\"",
        parse: RedisUser::parse,
    });
    /// A file with the password, read again for each connection.
    password_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of the authorities that are believed. `None`: those of the system.
    ca_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of the certificate that we show.
    certificate_file: Option<PathBuf> = None, Optional(FilePath);
    /// PEM file of its key.
    key_file: Option<PathBuf> = None, Optional(FilePath);
    /// Entries of each inbound stream. Full of what is not acknowledged: the connections that feed it are not read.
    stream_entries: NonZeroU32 = count(10_000), Count { min: 16, max: 100_000_000 };
}

/// What must hold between these keys and others.
pub(crate) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    let redis = &settings.bus_redis;
    if redis.certificate_file.is_some() != redis.key_file.is_some() {
        let (there, missing) = if redis.key_file.is_some() {
            ("bus.redis.key_file", "bus.redis.certificate_file")
        } else {
            ("bus.redis.certificate_file", "bus.redis.key_file")
        };
        let expected = format!("the path of a file, because {there} is set, which is of no use alone");
        reader.contradiction(&[there, missing], missing, "nothing".to_owned(), expected);
    }
    if settings.bus.kind != BusKind::Redis || redis.server.is_tls() {
        return;
    }
    for (key, file) in
        [("bus.redis.ca_file", &redis.ca_file), ("bus.redis.certificate_file", &redis.certificate_file)]
    {
        if let Some(file) = file {
            let expected =
                "nothing, because bus.redis.server does not ask for TLS: rediss:// does".to_owned();
            reader.contradiction(&[key, "bus.redis.server"], key, quoted(&file.to_string_lossy()), expected);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_says_where_and_nothing_else() {
        let server = RedisServer::parse("rediss://[::1]:6380").unwrap();
        assert_eq!((server.host(), server.port(), server.is_tls()), ("::1", 6380, true));
        let server = RedisServer::parse("redis://redis.example.org:6379").unwrap();
        assert_eq!((server.host(), server.port(), server.is_tls()), ("redis.example.org", 6379, false));
        for bad in
            ["", "redis://", "redis://a", "http://a:1", "redis://user:secret@a:1", "redis://a:1/2", "a:1"]
        {
            assert!(RedisServer::parse(bad).is_err(), "{bad}");
        }
    }
}
