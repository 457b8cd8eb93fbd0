//! Who the peer is when a proxy is in front: the one whom the proxy names, and nobody but a trusted one is asked.
//!
//! Owns the list of trusted networks and the two ways to name a peer, the PROXY protocol and a field of the request.
//! Refuses to believe anybody else: what they send is read as a request, and what stands in it is not looked at. Until
//! its peer is named a connection counts at the proxy; then it is counted there no more, and at its peer instead.
//! Called by `accept`, which has the whole address of the socket (the table of peers keeps less of it), and by
//! `handshake`. What is expected of a connection waits in its cold entry: only handshakes behind a proxy have it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use store::Key;
use wire::error::Refusal;
use wire::http::{ForwardedBy, Head};
use wire::proxy::ProxyHeader;

use crate::cold::Partial;
use crate::net::Net;
use crate::turn::Shard;

/// Indices into `Stats::peers_told`.
mod told_by {
    pub(super) const PROXY_PROTOCOL: usize = 0;
    pub(super) const HEADER: usize = 1;
    pub(super) const NOBODY: usize = 2;
}

/// Who is believed, and in what. The default believes nobody.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// First and last addresses, ascending, without overlaps. IPv4 is below IPv6 and not a part of it.
    ranges: Box<[(IpAddr, IpAddr)]>,
    proxy_protocol: bool,
    field: Option<ForwardedBy>,
}

impl Trust {
    /// Believes these networks, each an address and how many of its first bits count: with `proxy_protocol` their
    /// connections begin with a PROXY header, with `field` their requests have one that tells the peer.
    #[must_use]
    pub fn new(
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
        proxy_protocol: bool,
        field: Option<ForwardedBy>,
    ) -> Self {
        let mut ranges: Vec<_> =
            networks.into_iter().map(|(address, prefix)| range(address, prefix)).collect();
        ranges.sort_unstable();
        // Networks are apart or one in the other, and the outer one comes first, but for equal beginnings.
        ranges.dedup_by(|next, kept| {
            let overlap = next.0 <= kept.1;
            kept.1 = if overlap { kept.1.max(next.1) } else { kept.1 };
            overlap
        });
        Self { ranges: ranges.into(), proxy_protocol, field }
    }

    /// Whether this address is one of a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let below = self.ranges.partition_point(|(first, _)| *first <= address);
        self.ranges[..below].last().is_some_and(|(_, last)| address <= *last)
    }

    /// What a connection from this address begins with.
    pub(crate) fn of(&self, address: IpAddr) -> Introduction {
        if !self.contains(address) {
            Introduction::Done
        } else if self.proxy_protocol {
            Introduction::Proxy
        } else {
            self.of_request()
        }
    }

    /// What a request of somebody trusted has in it.
    const fn of_request(&self) -> Introduction {
        if self.field.is_some() { Introduction::Field } else { Introduction::Done }
    }
}

/// What is still to come that tells the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Introduction {
    /// Nothing: the peer is known.
    Done,
    /// A PROXY header, before anything else.
    Proxy,
    /// A field of the request.
    Field,
}

impl<N: Net> Shard<N> {
    /// Notes what a connection that was just accepted begins with.
    pub(crate) fn expect(&mut self, key: Key, introduction: Introduction) {
        if introduction != Introduction::Done {
            self.keep_partial(key, Partial::Head(Vec::new(), introduction));
        }
    }

    /// Reads a PROXY header: its length, and what still is to come. `None` while it is incomplete.
    pub(crate) fn introduced(
        &mut self,
        key: Key,
        bytes: &[u8],
    ) -> Result<Option<(usize, Introduction)>, Refusal> {
        let Some(header) = ProxyHeader::parse(bytes)? else { return Ok(None) };
        // Who names nobody, as in a health check, speaks for himself, and is trusted.
        let next = match header.source {
            Some(source) if !self.rules.trust.contains(source) => Introduction::Done,
            _ => self.rules.trust.of_request(),
        };
        self.named(key, header.source, told_by::PROXY_PROTOCOL, next == Introduction::Done);
        Ok(Some((header.length, next)))
    }

    /// Reads the field of a request that tells the peer.
    pub(crate) fn forwarded(&mut self, key: Key, head: &Head<'_>) {
        let trust = &self.rules.trust;
        let peer = trust.field.and_then(|field| field.peer(head, |address| trust.contains(address)));
        self.named(key, peer, told_by::HEADER, true);
    }

    /// `is_last`: nobody else will be named, so limits are held against this one.
    fn named(&mut self, key: Key, peer: Option<IpAddr>, by: usize, is_last: bool) {
        self.stats.peers_told[peer.map_or(told_by::NOBODY, |_| by)].add(1);
        if let (Some(peer), Some(conn)) = (peer, self.conns.get_mut(key)) {
            let rules = self.rules.limits.peers();
            let (over, retry_ticks) = self.gate.rebind(&mut conn.admission, peer, rules, self.now);
            let exceeded = self.judged(peer, over.filter(|_| is_last), retry_ticks);
            if let Some(rare) = exceeded.and_then(|_| self.rare_mut(key)) {
                rare.exceeded = exceeded;
            }
        }
    }
}

/// The first and the last address of a network.
fn range(address: IpAddr, prefix: u8) -> (IpAddr, IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let open = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let bits = address.to_bits();
            (Ipv4Addr::from_bits(bits & !open).into(), Ipv4Addr::from_bits(bits | open).into())
        }
        IpAddr::V6(address) => {
            let open = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let bits = address.to_bits();
            (Ipv6Addr::from_bits(bits & !open).into(), Ipv6Addr::from_bits(bits | open).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn trust(networks: &[(&str, u8)]) -> Trust {
        let networks = networks.iter().map(|(address, prefix)| (address.parse().unwrap(), *prefix));
        Trust::new(networks, false, Some(ForwardedBy::Forwarded))
    }

    fn trusts(trust: &Trust, address: &str) -> bool {
        trust.contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_trusted_in_a_network_and_beside_it_is_not() {
        let trust = trust(&[
            ("10.0.0.0", 8),
            ("10.1.0.0", 16),
            ("10.1.2.3", 32),
            ("192.0.2.4", 31),
            ("10.0.0.0", 16),
            ("2001:db8::", 32),
            ("2001:db8:1::", 48),
        ]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "10.1.2.3",
            "10.1.2.4",
            "192.0.2.5",
            "::ffff:10.9.9.9",
            "2001:db8:ffff::",
        ] {
            assert!(trusts(&trust, inside), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.3",
            "192.0.2.6",
            "2001:db7::",
            "2001:db9::",
            "::",
            "::10.0.0.0",
        ] {
            assert!(!trusts(&trust, outside), "{outside}");
        }
        assert_eq!(trust.ranges.len(), 3, "networks in other networks take no room");
    }

    #[test]
    fn all_of_one_family_is_nothing_of_the_other() {
        let (v4, v6) = (trust(&[("0.0.0.0", 0)]), trust(&[("::", 0)]));
        assert!(trusts(&v4, "255.255.255.255") && !trusts(&v4, "::1"));
        assert!(trusts(&v6, "::1") && !trusts(&v6, "127.0.0.1") && !trusts(&v6, "::ffff:127.0.0.1"));
        assert!(!trusts(&Trust::default(), "127.0.0.1"));
    }

    #[test]
    fn networks_agree_with_comparing_bits() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let networks: Vec<(Ipv4Addr, u8)> =
                (0..random.usize(..6)).map(|_| (random.u32(..).into(), random.u8(..=32) / 3)).collect();
            let trust = Trust::new(networks.iter().map(|(a, p)| (IpAddr::V4(*a), *p)), true, None);
            for _ in 0..50 {
                let address = random.u32(..);
                let same = |(network, prefix): &(Ipv4Addr, u8)| {
                    (network.to_bits() ^ address).leading_zeros() >= u32::from(*prefix)
                };
                let address = IpAddr::V4(address.into());
                assert_eq!(trust.contains(address), networks.iter().any(same), "{address} {networks:?}");
            }
        }
    }
}
