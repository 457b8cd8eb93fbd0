//! Owns the words an operator may choose: node and route names, subprotocols, origins, the log filter.
//! Each type can only be made from text that fits its grammar; nothing here is mangled into shape, except a host
//! name, which nobody chose for this purpose. Called by the forms of this crate; read by everybody.

use std::fmt;

/// Longest node name, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 32;
/// Longest route name, in bytes.
pub const ROUTE_NAME_BYTES_MAX: usize = 63;
/// Longest name of a header field, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 64;
/// Longest subprotocol, in bytes.
pub const SUBPROTOCOL_BYTES_MAX: usize = 64;
/// Longest origin: a scheme, a host name of 253 bytes and a port.
pub const ORIGIN_BYTES_MAX: usize = 300;

macro_rules! word {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $type(String);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

word! {
    /// Name of one node: `[A-Za-z0-9_-]{1,32}`. Part of every connection id, so unique among nodes that share a bus.
    NodeName
}
word! {
    /// Name of a route: `[a-z0-9_-]{1,63}`. Metric label, log field, bus token.
    RouteName
}
word! {
    /// Name of a backend: `[a-z0-9_-]{1,63}`. Metric label, log field.
    BackendName
}
word! {
    /// Name of a header field: a token of RFC 9110 section 5.6.2 in lower case, at most 64 bytes.
    HeaderName
}
word! {
    /// A host name in lower case: labels of letters, digits, `_` and `-`.
    HostName
}
word! {
    /// A WebSocket subprotocol: a token of RFC 6455 section 4.1, at most 64 bytes.
    Subprotocol
}
word! {
    /// An origin as browsers send it (RFC 6454 section 6.2): `scheme://host[:port]` in lower case, without the
    /// port that the scheme implies; or `null`. A host written `*.host` stands for one or more whole labels before
    /// that host, and not for the host itself.
    Origin
}
word! {
    /// What is logged: a level, or comma-separated `target=level`. Levels: off, error, warn, info, debug, trace.
    LogFilter
}

impl NodeName {
    /// The name, when it fits the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=NODE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_node_byte);
        fits.then(|| Self(text.to_owned()))
    }

    /// A name made from a host name: other bytes become `-`, what is too long is cut, nothing becomes `node`.
    #[must_use]
    pub fn fit(host: &str) -> Self {
        let host = if host.is_empty() { "node" } else { host };
        let fitted = host.bytes().take(NODE_NAME_BYTES_MAX);
        Self(fitted.map(|byte| if is_node_byte(byte) { char::from(byte) } else { '-' }).collect())
    }
}

impl RouteName {
    /// The name, when it fits the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=ROUTE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_route_byte);
        fits.then(|| Self(text.to_owned()))
    }

    /// For names written in this crate.
    pub(crate) fn built_in(text: &'static str) -> Self {
        debug_assert!(Self::parse(text).is_some(), "a built-in route name breaks the grammar: {text}");
        Self(text.to_owned())
    }
}

impl BackendName {
    /// The name, when it fits the grammar, which is that of routes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        RouteName::parse(text).map(|RouteName(name)| Self(name))
    }

    /// For a backend whose own name was refused.
    pub(crate) fn nameless() -> Self {
        Self("backend".to_owned())
    }
}

impl HeaderName {
    /// The name, when it is a token in lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| is_token_byte(byte) && !byte.is_ascii_uppercase();
        ((1..=HEADER_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits))
            .then(|| Self(text.to_owned()))
    }
}

impl HostName {
    /// The name, made lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= 253 && is_name(text)).then(|| Self(text.to_ascii_lowercase()))
    }
}

impl Subprotocol {
    /// The subprotocol, when it is a token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=SUBPROTOCOL_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_token_byte);
        fits.then(|| Self(text.to_owned()))
    }
}

impl Origin {
    /// The origin, made lower case and rid of the port that its scheme implies. Refuses paths, queries, user
    /// names, and wildcards for anything but the first labels of a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > ORIGIN_BYTES_MAX {
            return None;
        }
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Some(Self(text));
        }
        let (scheme, authority) = text.split_once("://")?;
        let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let (host, port) = split_port(authority)?;
        if !scheme_fits || !is_host(host) && !host.strip_prefix("*.").is_some_and(is_name) {
            return None;
        }
        match port {
            Some(port) if Some(port) != implied_port(scheme) => {
                Some(Self(format!("{scheme}://{host}:{port}")))
            }
            _ => Some(Self(format!("{scheme}://{host}"))),
        }
    }
}

impl LogFilter {
    /// The filter, when every directive is a level or `target=level`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').all(is_directive).then(|| Self(text.to_owned()))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// Which web pages may open a connection. Clients that are not browsers send no `Origin` and are not concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Pages of every site: written `["*"]`.
    #[default]
    Any,
    /// Only pages of these origins. Empty: no page at all.
    Only(Vec<Origin>),
}

fn is_node_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_route_byte(byte: u8) -> bool {
    is_node_byte(byte) && !byte.is_ascii_uppercase()
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Cuts the port off `host:port` or `[v6]:port`. `None` when the port is no number from 1 to 65535.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[after_host..].find(':') {
        None => Some((authority, None)),
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            let digits = &port[1..];
            let port: u16 = digits.parse().ok()?;
            (port > 0 && digits.bytes().all(|b| b.is_ascii_digit())).then_some((host, Some(port)))
        }
    }
}

pub(crate) fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => is_name(host),
    }
}

/// Whole labels joined by dots, each of at most 63 bytes (RFC 1035 section 2.3.4).
fn is_name(host: &str) -> bool {
    host.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(is_node_byte))
}

fn implied_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn is_directive(directive: &str) -> bool {
    let (target, level) = directive.split_once('=').unwrap_or(("", directive));
    let target_fits = target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    let named = !directive.contains('=') || !target.is_empty();
    target_fits && named && ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_outside_their_grammar_are_refused() {
        let long = "a".repeat(64);
        for text in ["", "röm", "a b", "a.b", &long] {
            assert_eq!(NodeName::parse(text), None, "{text}");
            assert_eq!(RouteName::parse(text), None, "{text}");
        }
        assert_eq!(RouteName::parse("Rooms"), None);
        assert!(NodeName::parse("Node_1-a").is_some() && RouteName::parse(&long[..63]).is_some());
    }

    #[test]
    fn a_host_name_is_made_to_fit() {
        assert_eq!(NodeName::fit("web-1.example.org").as_str(), "web-1-example-org");
        assert_eq!(NodeName::fit("").as_str(), "node");
        for host in ["é", &"x".repeat(300), "a.b", "\0"] {
            let name = NodeName::fit(host);
            assert_eq!(NodeName::parse(name.as_str()), Some(name));
        }
    }

    #[test]
    fn an_origin_is_compared_in_one_spelling() {
        for (text, spelling) in [
            ("https://Example.org", "https://example.org"),
            ("https://example.org:443", "https://example.org"),
            ("http://localhost:8081", "http://localhost:8081"),
            ("http://[::1]:80", "http://[::1]"),
            ("https://*.Example.org:443", "https://*.example.org"),
            ("null", "null"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().as_str(), spelling);
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for text in [
            "",
            "example.org",
            "https://",
            "https://example.org/",
            "https://*",
            "https://*.",
            "https://a.*.org",
            "https://*example.org",
            "https://*.[::1]",
            "*.example.org",
            "https://user@example.org",
            "https://example.org:",
            "https://example.org:0",
            "https://example.org:+1",
            "https://example.org:99999",
            "https://a..b",
            "https://[::1",
            "https://[x]",
            "://example.org",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_subprotocol_is_a_token() {
        assert!(
            Subprotocol::parse("graphql-transport-ws").is_some() && Subprotocol::parse("v1.chat").is_some()
        );
        for text in ["", "a b", "a,b", "a/b", "ä"] {
            assert_eq!(Subprotocol::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_log_filter_is_levels_with_targets() {
        for text in ["info", "off", "warn,shard=debug", "gateway::metrics=trace,error"] {
            assert!(LogFilter::parse(text).is_some(), "{text}");
        }
        for text in ["", "loud", "info,", "shard=", "=info", "a b=info", "shard=loud"] {
            assert_eq!(LogFilter::parse(text), None, "{text}");
        }
    }
}
