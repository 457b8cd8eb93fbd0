//! Which web pages may connect: the `Origin` of a request against a route's list (RFC 6455 section 10.2, RFC
//! 6454).
//!
//! Owns patterns, parsed once, and their match by whole labels: `evilexample.com` is not below `example.com`.
//! Refuses to guard against programs: only browsers send an `Origin` they cannot choose. Called through
//! [`super::handshake`].

/// One entry of a list of allowed origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    /// What browsers send for pages without an origin: local files, sandboxed frames.
    Null,
    Exact(Origin<Box<str>>),
    /// The host is a suffix with its leading dot.
    Below(Origin<Box<str>>),
}

impl OriginPattern {
    /// Reads `*`, `null`, `scheme://host[:port]` or `scheme://*.host[:port]`. The last one means one or more
    /// labels before the host, not the host itself.
    ///
    /// # Errors
    /// A sentence that names the expected forms.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "`{pattern}` is no origin: expected `*`, `null`, `https://example.com`, `https://example.com:8443` or \
                 `https://*.example.com`, without a path; names in other scripts in their xn-- form"
            )
        };
        match pattern {
            "*" => return Ok(Self(Pattern::Any)),
            "null" => return Ok(Self(Pattern::Null)),
            _ => {}
        }
        let (plain, is_below) = match pattern.split_once("://*.") {
            Some((scheme, rest)) => (format!("{scheme}://{rest}"), true),
            None => (pattern.to_owned(), false),
        };
        let origin = Origin::split(&plain).ok_or_else(refuse)?;
        let owned = |text: &str| text.to_ascii_lowercase().into_boxed_str();
        let (scheme, port) = (owned(origin.scheme), origin.port);
        Ok(Self(if is_below {
            let host = owned(&format!(".{}", origin.host));
            Pattern::Below(Origin { scheme, host, port })
        } else {
            Pattern::Exact(Origin { scheme, host: owned(origin.host), port })
        }))
    }

    fn allows(&self, text: &str, origin: Option<&Origin<&str>>) -> bool {
        let (wanted, is_below) = match &self.0 {
            Pattern::Any => return true,
            Pattern::Null => return text == "null",
            Pattern::Exact(wanted) => (wanted, false),
            Pattern::Below(wanted) => (wanted, true),
        };
        let Some(origin) = origin else { return false };
        if origin.port != wanted.port || !origin.scheme.eq_ignore_ascii_case(&wanted.scheme) {
            return false;
        }
        let (host, suffix) = (origin.host.as_bytes(), wanted.host.as_bytes());
        if !is_below {
            return host.eq_ignore_ascii_case(suffix);
        }
        // The suffix begins with a dot and a host never does, so at least one whole label is before it.
        let at = host.len().checked_sub(suffix.len());
        at.is_some_and(|at| host[at..].eq_ignore_ascii_case(suffix))
    }
}

/// Whether a request with this `Origin` may connect. One without is a program and not a web page: it may,
/// always.
#[must_use]
pub fn origin_allowed(origin: Option<&str>, allow: &[OriginPattern]) -> bool {
    let Some(text) = origin else { return true };
    let split = Origin::split(text);
    allow.iter().any(|pattern| pattern.allows(text, split.as_ref()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin<T> {
    scheme: T,
    host: T,
    /// `None` for the default port of the scheme, written or not.
    port: Option<u16>,
}

impl<'a> Origin<&'a str> {
    fn split(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of `[::1]` is part of the address.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if !is_scheme || !is_host(host) {
            return None;
        }
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse::<u16>().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { scheme, host, port: port.filter(|port| Some(*port) != default_port(scheme)) })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else {
        None
    }
}

/// A name of whole labels or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn allowed(origin: &str, patterns: &[&str]) -> bool {
        let patterns: Vec<_> =
            patterns.iter().map(|pattern| OriginPattern::parse(pattern).unwrap()).collect();
        origin_allowed(Some(origin), &patterns)
    }

    #[test]
    fn an_exact_pattern_matches_scheme_host_and_port() {
        let list = ["https://example.com", "http://localhost:3000", "http://[::1]:8080"];
        for origin in
            ["https://example.com", "HTTPS://Example.COM", "https://example.com:443", "http://localhost:3000"]
        {
            assert!(allowed(origin, &list), "{origin}");
        }
        assert!(allowed("http://[::1]:8080", &list));
        for origin in [
            "http://example.com",
            "https://example.com:444",
            "https://evilexample.com",
            "https://example.com.evil.org",
            "https://a.example.com",
            "https://example.com/",
            "https://example.com@evil.org",
            "http://localhost",
            "http://[::1]",
            "null",
            "",
            "example.com",
        ] {
            assert!(!allowed(origin, &list), "{origin}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_whole_labels() {
        let list = ["https://*.example.com"];
        assert!(allowed("https://a.example.com", &list));
        assert!(allowed("https://a.b.Example.com:443", &list));
        for origin in [
            "https://example.com",
            "https://evilexample.com",
            "https://.example.com",
            "https://a..example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.evil.org",
            "https://evil.org/.example.com",
        ] {
            assert!(!allowed(origin, &list), "{origin}");
        }
        assert!(allowed("https://a.example.com:8443", &["https://*.example.com:8443"]));
    }

    #[test]
    fn a_star_allows_everything_and_null_must_be_named() {
        assert!(allowed("null", &["*"]));
        assert!(allowed("chrome-extension://abcdef", &["*"]));
        assert!(allowed("chrome-extension://abcdef", &["chrome-extension://abcdef"]));
        assert!(allowed("null", &["null"]));
        assert!(!allowed("https://example.com", &["null"]));
    }

    #[test]
    fn a_program_without_origin_passes_and_a_page_needs_the_list() {
        assert!(origin_allowed(None, &[]));
        assert!(!origin_allowed(Some("https://example.com"), &[]));
    }

    #[test]
    fn a_wrong_pattern_is_explained() {
        for pattern in [
            "",
            "example.com",
            "*.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://a.*.com",
            "https://example.com/",
            "https://example.com:x",
            "https://example.com:70000",
            "https://bücher.example",
            "://example.com",
        ] {
            let fault = OriginPattern::parse(pattern).unwrap_err();
            assert!(fault.contains("expected"), "{pattern}");
        }
    }
}
