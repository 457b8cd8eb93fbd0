//! Owns `GET /v1/endings`: who has gone of late, when and why, out of the ring that keeps the last so many. Refuses to
//! guess: an unknown reason or route is an error, because an empty answer would say that nobody ended that way.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bridge::{ConnId, EndReason};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::Admin;
use super::call::{Answer, Call, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::api::TICK_MS;
use crate::in_force::InForce;
use crate::recent::Kept;

/// Endings in an answer when the caller does not say.
const LIMIT_DEFAULT: u16 = 100;
/// Most endings in an answer.
const LIMIT_MAX: u16 = 1000;
/// Bits of an IPv6 address that name a peer, where the caller does not say how many.
const IPV6_PREFIX: u8 = 64;

/// Milliseconds since 1970, now.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What somebody asked for; what was not said is always met.
#[derive(Debug, Default)]
struct Wanted {
    user: Option<String>,
    peer: Option<Network>,
    route: Option<u16>,
    reason: Option<EndReason>,
    since_ms: u64,
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.1`, `10.0.0.0/8`, `2001:db8::1` (its /64) or `2001:db8::/48`.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().ok()?.to_canonical();
        let (bits, usual) = if address.is_ipv4() { (32, 32) } else { (128, IPV6_PREFIX) };
        let prefix = prefix.unwrap_or(usual);
        (prefix <= bits).then_some(Self { address, prefix })
    }

    fn contains(self, other: IpAddr) -> bool {
        let (one, other, width) = match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let ignored = width - u32::from(self.prefix);
        (one ^ other).checked_shr(ignored).unwrap_or(0) == 0
    }
}

impl Wanted {
    fn parse(admin: &Admin, query: &Query, now_ms: u64) -> Result<Self, Problem> {
        let mut wanted = Self { user: query.value("user").map(str::to_owned), ..Self::default() };
        if let Some(peer) = query.value("peer") {
            wanted.peer = Some(Network::parse(peer).ok_or_else(|| {
                bad("peer is an address or a network, such as 192.0.2.7 or 2001:db8::/48; mend the query.".into())
            })?);
        }
        if let Some(name) = query.value("route") {
            let live = admin.live.now();
            let number = live.routes.iter().position(|route| route.name == name).ok_or_else(|| {
                let known: Vec<&str> = live.routes.iter().map(|route| route.name.as_str()).collect();
                bad(format!("There is no such route; there are {}.", known.join(", ")))
            })?;
            wanted.route = u16::try_from(number).ok();
        }
        if let Some(label) = query.value("reason") {
            let reason = EndReason::ALL.into_iter().find(|reason| reason.label() == label);
            wanted.reason = Some(reason.ok_or_else(|| {
                let known: Vec<&str> = EndReason::ALL.iter().map(|reason| reason.label()).collect();
                bad(format!("There is no such reason; there are {}.", known.join(", ")))
            })?);
        }
        if let Some(since) = query.value("since") {
            wanted.since_ms = since_ms(since, now_ms)?;
        }
        Ok(wanted)
    }

    fn is_met_by(&self, kept: &Kept) -> bool {
        let ending = &kept.ending;
        self.user.as_deref().is_none_or(|user| user_of(kept) == Some(user))
            && self.peer.is_none_or(|network| network.contains(ending.peer))
            && self.route.is_none_or(|route| route == ending.route)
            && self.reason.is_none_or(|reason| reason == ending.reason)
            && kept.at_ms >= self.since_ms
    }
}

/// As whom it had been let in.
fn user_of(kept: &Kept) -> Option<&str> {
    kept.ending.principal.as_ref()?.user.as_ref().map(bridge::User::as_str)
}

/// Reads a moment: milliseconds since 1970, or how long ago (`10m`).
fn since_ms(text: &str, now_ms: u64) -> Result<u64, Problem> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| bad("since has too many digits; mend the query.".into()));
    }
    let ago = config::units::parse_duration(text).map_err(|_| {
        bad("since is milliseconds since 1970, or how long ago, such as 90s, 10m or 2h; mend the query."
            .into())
    })?;
    Ok(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
}

fn bad(detail: String) -> Problem {
    Problem::new(Reason::BadRequest, detail)
}

/// An ending as the API shows it. Times in milliseconds, sizes in bytes.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    user: Option<String>,
    peer: IpAddr,
    route: Option<&'a str>,
    reason: &'static str,
    /// Milliseconds since 1970.
    ended_ms: u64,
    age_ms: u64,
    messages_in: u32,
    messages_out: u32,
    bytes_in: u64,
    bytes_out: u64,
    sent_code: Option<u16>,
    received_code: Option<u16>,
}

impl<'a> Shown<'a> {
    fn of(admin: &Admin, live: &'a InForce, kept: &Kept) -> Self {
        let ending = &kept.ending;
        let id = ConnId { node: admin.node.clone(), epoch: admin.epoch, address: ending.address };
        Self {
            id: id.to_string(),
            user: user_of(kept).map(str::to_owned),
            peer: ending.peer,
            route: live.routes.get(usize::from(ending.route)).map(|route| route.name.as_str()),
            reason: ending.reason.label(),
            ended_ms: kept.at_ms,
            age_ms: u64::from(ending.age_ticks) * TICK_MS,
            messages_in: ending.traffic.messages_in,
            messages_out: ending.traffic.messages_out,
            bytes_in: ending.traffic.bytes_in,
            bytes_out: ending.traffic.bytes_out,
            sent_code: ending.sent_code,
            received_code: ending.received_code,
        }
    }
}

/// `GET /v1/endings?user=&peer=&route=&reason=&since=&limit=`: the newest first.
pub(super) fn list(admin: &Admin, call: &Call) -> Answer {
    let known = ["user", "peer", "route", "reason", "since", "limit"];
    let query = Query::parse(call.query.as_deref(), &known)?;
    let limit = query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let wanted = Wanted::parse(admin, &query, unix_ms())?;
    let found = admin.recent.search(usize::from(limit), |kept| wanted.is_met_by(kept));
    let live = admin.live.now();
    let endings: Vec<Shown<'_>> = found.endings.iter().map(|kept| Shown::of(admin, &live, kept)).collect();
    let body = json!({ "endings": endings, "more": found.has_more, "oldest_ms": found.oldest_ms });
    json(StatusCode::OK, &body)
}

#[cfg(test)]
mod endings_tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_bits() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.6"));
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("2001:db8::5", "2001:db8::") && !contains("2001:db8::5", "2001:db8:0:1::"));
        assert!(contains("::/0", "2001:db8::") && contains("0.0.0.0/0", "1.2.3.4"));
        assert!(contains("::ffff:10.0.0.1", "10.0.0.1"), "a mapped address is the IPv4 peer");
        assert!(!contains("::/0", "1.2.3.4"));
        for bad in ["", "10.0.0", "10.0.0.1/33", "::/129", "10.0.0.1/", "10.0.0.1/-1", "host"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_moment_is_absolute_or_so_long_ago() {
        assert_eq!(since_ms("1700000000000", 5).unwrap(), 1_700_000_000_000);
        assert_eq!(since_ms("10m", 1_000_000).unwrap(), 400_000);
        assert_eq!(since_ms("1h", 1000).unwrap(), 0);
        for bad in ["", "-1", "yesterday", "99999999999999999999"] {
            assert!(since_ms(bad, 0).is_err(), "{bad}");
        }
    }
}
