//! Where connections go and where they come from: the parsed URL, the path of each connection, the source
//! addresses.
//!
//! It owns the rule that the harness talks to loopback only: a load generator pointed at somebody else's
//! machine by mistake is an attack. It refuses TLS and names other than `localhost`. Called while the command
//! line is read, and by `sockets` for every connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::failure::Failure;

/// A parsed `ws://` or `http://` URL on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) address: SocketAddrV4,
    /// Path and query, starting with `/`; `{n}` stands for the number of the connection, `{n%7}` for what is left of it
    /// when divided by seven.
    pub(crate) path: String,
    /// Another path, for connections from this number on.
    from: Option<(u32, String)>,
}

impl Target {
    /// Parses `scheme://address:port/path`.
    ///
    /// # Errors
    /// Another scheme, a host off loopback, a missing port, a path with spaces or control characters.
    pub(crate) fn parse(url: &str, scheme: &str) -> Result<Target, Failure> {
        let wrong = |why: &str| Failure::Asked(format!("{url}: {why}"));
        let rest = url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"))
            .ok_or_else(|| wrong(&format!("expected {scheme}://127.0.0.1:PORT/PATH")))?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("expected a port"))?;
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let host: IpAddr = host.parse().map_err(|_| wrong("expected an IPv4 address on loopback"))?;
        let port: u16 = port.parse().map_err(|_| wrong("expected a port from 1 to 65535"))?;
        let IpAddr::V4(host) = host else { return Err(wrong("expected an IPv4 address on loopback")) };
        if !host.is_loopback() {
            return Err(wrong("only loopback addresses are loaded, 127.0.0.0/8"));
        }
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(wrong("the path holds a space or a control character"));
        }
        Ok(Target { address: SocketAddrV4::new(host, port), path: path.to_owned(), from: None })
    }

    /// The same server under another path.
    pub(crate) fn with_path(&self, path: &str) -> Result<Target, Failure> {
        Target::parse(&format!("ws://{}{path}", self.address), "ws")
    }

    /// The same but for connections from number `first` on, which have another path.
    pub(crate) fn but_from(&self, first: u32, path: &str) -> Result<Target, Failure> {
        let path = self.with_path(path)?.path;
        Ok(Target { from: Some((first, path)), ..self.clone() })
    }

    /// The path of connection `number`.
    pub(crate) fn path_of(&self, number: u32) -> String {
        let path = match &self.from {
            Some((first, path)) if number >= *first => path,
            _ => &self.path,
        };
        let path = path.replace("{n}", &number.to_string());
        let Some((before, rest)) = path.split_once("{n%") else { return path };
        match rest.split_once('}').map(|(divisor, after)| (divisor.parse::<u32>(), after)) {
            Some((Ok(divisor), after)) if divisor > 0 => format!("{before}{}{after}", number % divisor),
            _ => path,
        }
    }
}

/// Loopback addresses to connect from, used in rotation, so that one destination takes more connections than
/// one source address has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sources {
    count: u32,
    /// Instead of a rotation: everything comes from here.
    only: Option<Ipv4Addr>,
}

impl Sources {
    /// One address serves this many connections at most. The default port range is 28,232 ports; the kernel's
    /// search for a free one becomes slow when most are taken, so half of them are left alone.
    pub(crate) const PORTS_EACH: u32 = 14_000;

    /// `asked` addresses, or more when `connections` would not fit them.
    pub(crate) fn new(asked: u32, connections: u32) -> Sources {
        Sources { count: asked.max(connections.div_ceil(Self::PORTS_EACH)).max(1), only: None }
    }

    /// One address for all: a single peer.
    ///
    /// # Errors
    /// It is not on loopback, or has not ports enough for `connections`.
    pub(crate) fn one(address: Ipv4Addr, connections: u32) -> Result<Sources, Failure> {
        if !address.is_loopback() || connections > Self::PORTS_EACH {
            let most = Self::PORTS_EACH;
            return Err(Failure::Asked(format!("{address}: a loopback address has {most} connections")));
        }
        Ok(Sources { count: 1, only: Some(address) })
    }

    /// The source of connection `number`: 127.0.0.2 and up, never a `.0` or `.255`, port chosen by the
    /// kernel.
    pub(crate) fn of(self, number: u32) -> SocketAddr {
        if let Some(only) = self.only {
            return SocketAddr::from((only, 0));
        }
        // The first address in the rotation is 127.0.0.2, since 127.0.0.1 is what everything else here uses.
        let nth = number % self.count + 1;
        let [high, low] = [nth / 254, nth % 254 + 1];
        let third = u8::try_from(high % 256).unwrap_or(0);
        let second = u8::try_from(high / 256 % 256).unwrap_or(0);
        let fourth = u8::try_from(low).unwrap_or(1);
        SocketAddr::from((Ipv4Addr::new(127, second, third, fourth), 0))
    }

    /// How many addresses there are.
    pub(crate) fn count(self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_url_on_loopback_is_taken_apart() {
        let target = Target::parse("ws://127.0.0.1:8080/rooms/r{n}?x=1", "ws").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(target.path_of(17), "/rooms/r17?x=1");
        assert_eq!(target.with_path("/rooms/r{n%7}").unwrap().path_of(17), "/rooms/r3");
        let mixed = target.but_from(5, "/rooms/x{n%4}").unwrap();
        assert_eq!((mixed.path_of(4), mixed.path_of(5)), ("/rooms/r4?x=1".into(), "/rooms/x1".into()));
        assert_eq!(target.with_path("/rooms/r{n%0}").unwrap().path_of(17), "/rooms/r{n%0}");
        assert_eq!(Target::parse("ws://localhost:1", "ws").unwrap().path, "/");
    }

    #[test]
    fn anything_off_loopback_is_refused() {
        for url in [
            "ws://192.0.2.1:80/",
            "ws://example.org:80/",
            "wss://127.0.0.1:1/",
            "ws://127.0.0.1/",
            "ws://[::1]:1/",
        ] {
            assert!(Target::parse(url, "ws").is_err(), "{url}");
        }
        assert!(Target::parse("ws://127.0.0.1:80/a b", "ws").is_err());
    }

    #[test]
    fn sources_rotate_over_distinct_loopback_addresses() {
        let sources = Sources::new(1_000, 1_000);
        let seen: HashSet<_> = (0..1_000).map(|number| sources.of(number).ip()).collect();
        assert_eq!(seen.len(), 1_000);
        for ip in seen {
            let IpAddr::V4(ip) = ip else { panic!("{ip}") };
            assert!(ip.is_loopback());
            assert!((1..=254).contains(&ip.octets()[3]), "{ip}");
        }
        assert_eq!(sources.of(0), sources.of(1_000));
    }

    #[test]
    fn one_peer_has_one_address_on_loopback() {
        let sources = Sources::one(Ipv4Addr::new(127, 9, 9, 9), 1_000).unwrap();
        assert_eq!(sources.of(0), "127.9.9.9:0".parse().unwrap());
        assert_eq!(sources.of(999), sources.of(0));
        assert!(Sources::one(Ipv4Addr::new(127, 9, 9, 9), 14_001).is_err());
        assert!(Sources::one(Ipv4Addr::new(192, 0, 2, 1), 1).is_err());
    }

    #[test]
    fn many_connections_get_more_sources_than_asked() {
        assert_eq!(Sources::new(16, 1_000).count(), 16);
        assert_eq!(Sources::new(1, 14_001).count(), 2);
        assert_eq!(Sources::new(16, 1_000_000).count(), 72);
        assert_eq!(Sources::new(0, 0).count(), 1);
    }
}
