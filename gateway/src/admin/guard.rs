//! Owns the check that keeps web pages away from an HTTP listener they should not reach: `Host` against DNS
//! rebinding, `Origin` against requests made by pages of other sites (any page can post text to a loopback port).
//! Asked by the dispatch first of all. It refuses to replace tokens: those are asked for afterwards.
//!
//! * A listener on loopback takes loopback hosts only: `localhost`, `127.0.0.0/8`, `[::1]`.
//! * Any other listener takes every IP literal, because a name is what rebinding needs, and `localhost`; other
//!   names only where a token is asked for anyway, or where there is nothing to guard (health). The names under
//!   which a balancer or a cluster reaches us cannot be known here.
//! * An `Origin` must be `http` or `https` with the request's own host and port. Programs send none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::header::{self, HeaderMap};
use hyper::{Uri, Version};

use super::problem::{Problem, Reason};

/// The check of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    is_loopback: bool,
}

/// Whether names other than `localhost` may stand in `Host`, off loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// They may: a token is asked for, or there is nothing to guard.
    Any,
    /// They may not.
    None,
}

impl Guard {
    /// The check of a listener with this address.
    pub(super) fn new(listener: SocketAddr) -> Self {
        Self { is_loopback: listener.ip().to_canonical().is_loopback() }
    }

    /// Looks at a request before anything else does.
    ///
    /// # Errors
    /// 400 without one well-formed `Host`, 403 with a foreign host or origin.
    pub(super) fn check(
        self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
        names: Names,
    ) -> Result<(), Problem> {
        let host = one(headers, header::HOST, "Host")?;
        if let Some(host) = host {
            self.check_host(host, names)?;
        } else if version >= Version::HTTP_11 {
            return Err(Problem::new(Reason::BadRequest, "Send one Host header; HTTP/1.1 demands it."));
        }
        // The target's authority outranks the header (RFC 9112, section 3.2.2).
        if let Some(authority) = uri.authority() {
            self.check_host(authority.as_str(), names)?;
        }
        let origin = one(headers, header::ORIGIN, "Origin")?;
        let own = uri.authority().map(|authority| authority.as_str()).or(host);
        match origin {
            Some(origin) if !own.is_some_and(|own| is_same_origin(origin, own)) => Err(Problem::new(
                Reason::ForeignOrigin,
                "The request was made by a page of another origin; call from a server, or open the page of this listener.",
            )),
            _ => Ok(()),
        }
    }

    fn check_host(self, authority: &str, names: Names) -> Result<(), Problem> {
        let host = Host::parse(authority).ok_or_else(|| {
            Problem::new(Reason::BadRequest, "The Host header is not host or host:port; mend it.")
        })?;
        let allowed = match host {
            Host::Localhost => true,
            Host::Ip(ip) => !self.is_loopback || ip.to_canonical().is_loopback(),
            Host::Name => !self.is_loopback && names == Names::Any,
        };
        if allowed {
            return Ok(());
        }
        Err(Problem::new(
            Reason::ForeignHost,
            if self.is_loopback {
                "This listener is on loopback and answers to localhost, 127.0.0.1 and [::1]; a proxy in front must \
                 send one of these as Host."
            } else {
                "This listener asks for no token, so it answers to IP addresses and localhost only; use the \
                 address, or configure a tokens file."
            },
        ))
    }
}

/// What stands in front of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Localhost,
    Ip(IpAddr),
    Name,
}

impl Host {
    fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (v6, port) = rest.split_once(']')?;
                (Self::Ip(v6.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let end = authority.find(':').unwrap_or(authority.len());
                (Self::without_brackets(&authority[..end])?, &authority[end..])
            }
        };
        let is_port =
            |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok();
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        port_fits.then_some(host)
    }

    fn without_brackets(host: &str) -> Option<Self> {
        if let Ok(v4) = host.parse::<Ipv4Addr>() {
            return Some(Self::Ip(v4.into()));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !host.bytes().all(fits) {
            return None;
        }
        let is_localhost = host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost");
        Some(if is_localhost { Self::Localhost } else { Self::Name })
    }
}

fn one<'a>(
    headers: &'a HeaderMap,
    name: header::HeaderName,
    shown: &str,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str());
    match (value, values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err(Problem::new(Reason::BadRequest, format!("Send {shown} once, in plain ASCII."))),
    }
}

/// Whether an origin is `http` or `https` on the authority of the request itself.
fn is_same_origin(origin: &str, own: &str) -> bool {
    let implied = |port: &'static str| (origin_of(origin, port), own.strip_suffix(port).unwrap_or(own));
    let (theirs, ours) = if origin.starts_with("https:") { implied(":443") } else { implied(":80") };
    theirs.is_some_and(|theirs| theirs.eq_ignore_ascii_case(ours))
}

fn origin_of<'a>(origin: &'a str, implied_port: &str) -> Option<&'a str> {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    Some(authority.strip_suffix(implied_port).unwrap_or(authority))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask(listener: &str, host: Option<&str>, origin: Option<&str>, names: Names) -> Result<(), Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        Guard::new(listener.parse().unwrap())
            .check(Version::HTTP_11, &Uri::from_static("/"), &headers, names)
            .map_err(|problem| problem.reason)
    }

    const LOOPBACK: &str = "127.0.0.1:8081";

    #[test]
    fn a_rebound_name_never_reaches_a_loopback_listener() {
        for good in ["localhost", "localhost:9", "LocalHost.:8081", "127.0.0.1", "127.9.8.7:1", "[::1]:8081"]
        {
            assert_eq!(ask(LOOPBACK, Some(good), None, Names::Any), Ok(()), "{good}");
            assert_eq!(ask("[::1]:8081", Some(good), None, Names::Any), Ok(()), "{good}");
        }
        for foreign in ["evil.example:8081", "10.0.0.1", "localhost.evil.example", "[2001:db8::1]", "0.0.0.0"]
        {
            assert_eq!(ask(LOOPBACK, Some(foreign), None, Names::Any), Err(Reason::ForeignHost), "{foreign}");
        }
    }

    #[test]
    fn off_loopback_names_need_a_token_behind_them() {
        for listener in ["0.0.0.0:8081", "10.0.0.1:8081", "[::]:8081"] {
            for good in ["10.0.0.1:8081", "192.0.2.7", "[2001:db8::1]:1", "localhost"] {
                assert_eq!(ask(listener, Some(good), None, Names::None), Ok(()), "{good}");
            }
            assert_eq!(ask(listener, Some("gateway.internal"), None, Names::Any), Ok(()));
            assert_eq!(ask(listener, Some("gateway.internal"), None, Names::None), Err(Reason::ForeignHost));
        }
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for bad in [
            "",
            "a b",
            "user@localhost",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "[::1",
            "[x]",
            "::1",
        ] {
            assert_eq!(ask(LOOPBACK, Some(bad), None, Names::Any), Err(Reason::BadRequest), "{bad:?}");
        }
        assert_eq!(ask(LOOPBACK, None, None, Names::Any), Err(Reason::BadRequest));
    }

    #[test]
    fn a_second_host_is_refused_and_old_probes_need_none() {
        let guard = Guard::new(LOOPBACK.parse().unwrap());
        let uri = Uri::from_static("/livez");
        let mut headers = HeaderMap::new();
        assert!(guard.check(Version::HTTP_10, &uri, &headers, Names::Any).is_ok());
        headers.append(header::HOST, "localhost".parse().unwrap());
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert!(guard.check(Version::HTTP_11, &uri, &headers, Names::Any).is_err());
    }

    #[test]
    fn the_host_in_the_target_counts_too() {
        let guard = Guard::new(LOOPBACK.parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().unwrap());
        let check =
            |uri: &'static str| guard.check(Version::HTTP_11, &Uri::from_static(uri), &headers, Names::Any);
        assert_eq!(check("http://evil.example/").unwrap_err().reason, Reason::ForeignHost);
        assert!(check("http://localhost/").is_ok());
    }

    #[test]
    fn only_pages_of_the_listener_itself_may_call() {
        let ask = |host, origin| ask(LOOPBACK, Some(host), Some(origin), Names::Any);
        assert_eq!(ask("localhost:8081", "http://localhost:8081"), Ok(()));
        assert_eq!(ask("localhost", "http://localhost:80"), Ok(()));
        assert_eq!(ask("localhost:443", "https://LOCALHOST"), Ok(()));
        for foreign in [
            "null",
            "http://localhost",
            "http://localhost:8082",
            "http://127.0.0.1:8081",
            "http://evil.example",
            "http://localhost:8081.evil.example",
            "http://evil.example/localhost:8081",
            "ftp://localhost:8081",
            "",
        ] {
            assert_eq!(ask("localhost:8081", foreign), Err(Reason::ForeignOrigin), "{foreign}");
        }
    }
}
