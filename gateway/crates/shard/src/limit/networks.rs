//! Which peers are alike: peers in eight bytes, ranges of them, and the longest match.
//!
//! Owns the numbering: an IPv4 address, or the leading bits of an IPv6 one, because privacy addresses must not multiply
//! a client. Refuses host bits of IPv6. Built from rules and by the API; looked up at each admission.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest IPv6 prefix that is one peer.
pub const IPV6_PREFIX_MAX: u8 = 64;

/// The upper half of an IPv6 address never starts with 32 ones: that would be multicast.
const IPV4: u64 = 0xffff_ffff << 32;

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(u64);

impl PeerKey {
    /// The peer of an address, where so many leading bits of an IPv6 one make a peer.
    #[must_use]
    pub fn new(address: IpAddr, ipv6_prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IPV4 | u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64 & mask(ipv6_prefix)),
        }
    }

    /// Its address; of an IPv6 peer the first.
    #[must_use]
    pub fn address(self) -> IpAddr {
        if self.0 & IPV4 == IPV4 {
            IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(self.0) << 64))
        }
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }
}

/// Ones in the first so many of 64 bits.
fn mask(prefix: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(prefix.min(64))).unwrap_or(0)
}

/// A network: peers whose addresses begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: u64,
    last: u64,
    prefix: u8,
}

impl Network {
    /// The addresses that agree with this one in so many leading bits. `None` for a prefix that is too long: the bits
    /// behind [`IPV6_PREFIX_MAX`] belong to the client.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        match address {
            IpAddr::V4(address) => {
                let host = if prefix > 32 { return None } else { !(mask(prefix) >> 32) as u32 };
                let first = IPV4 | u64::from(address.to_bits() & !host);
                Some(Self { first, last: first | u64::from(host), prefix })
            }
            IpAddr::V6(address) => {
                if prefix > IPV6_PREFIX_MAX {
                    return None;
                }
                let first = (address.to_bits() >> 64) as u64 & mask(prefix);
                Some(Self { first, last: (first | !mask(prefix)).min(IPV4 - 1), prefix })
            }
        }
    }

    /// Whether the peer is of it.
    #[must_use]
    pub const fn contains(self, peer: PeerKey) -> bool {
        self.first <= peer.0 && peer.0 <= self.last
    }

    const fn width(self) -> u64 {
        self.last.saturating_sub(self.first)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", PeerKey(self.first).address(), self.prefix)
    }
}

/// Networks with a class each; of several that a peer is in, the narrowest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Where a range of peers with one class begins, ascending; it ends before the next.
    starts: Box<[u64]>,
    classes: Box<[u8]>,
}

impl Networks {
    /// The lookup for these networks. Everybody else has class 0.
    #[must_use]
    pub fn new(networks: &[(Network, u8)]) -> Self {
        let ends = networks.iter().filter_map(|(network, _)| network.last.checked_add(1));
        let mut starts: Vec<u64> = networks.iter().map(|(network, _)| network.first).chain(ends).collect();
        starts.sort_unstable();
        starts.dedup();
        let class = |start: &u64| {
            let around = networks.iter().filter(|(network, _)| network.contains(PeerKey(*start)));
            around.min_by_key(|(network, _)| network.width()).map_or(0, |(_, class)| *class)
        };
        Self { classes: starts.iter().map(class).collect(), starts: starts.into() }
    }

    /// The class of a peer.
    #[must_use]
    pub fn class_of(&self, peer: PeerKey) -> u8 {
        match self.starts.partition_point(|start| *start <= peer.0) {
            0 => 0,
            place => self.classes[place - 1],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(text: &str) -> PeerKey {
        PeerKey::new(ip(text), 64)
    }

    fn network(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').unwrap();
        Network::new(ip(address), prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn ipv6_privacy_addresses_are_one_peer_and_a_mapped_address_is_the_ipv4_one() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(PeerKey::new(ip("2001:db8:0:1::1"), 48), PeerKey::new(ip("2001:db8:0:2::1"), 48));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        for address in ["10.1.2.3", "255.255.255.255", "0.0.0.0", "2001:db8::", "::"] {
            assert_eq!(key(address).address(), ip(address));
        }
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let mut list = vec![
            (network("0.0.0.0/0"), 1),
            (network("10.0.0.0/8"), 2),
            (network("10.1.0.0/16"), 3),
            (network("10.1.2.3/32"), 4),
            (network("::/0"), 5),
            (network("2001:db8::/32"), 6),
        ];
        for _ in 0..2 {
            let networks = Networks::new(&list);
            let class = |text: &str| networks.class_of(key(text));
            assert_eq!((class("9.255.255.255"), class("10.0.0.0"), class("10.1.2.2")), (1, 2, 3));
            assert_eq!((class("10.1.2.3"), class("10.1.2.4"), class("10.2.0.0")), (4, 3, 2));
            assert_eq!((class("255.255.255.255"), class("2001:db8::7"), class("2002::")), (1, 6, 5));
            list.reverse();
        }
        assert_eq!(Networks::default().class_of(key("10.0.0.1")), 0);
    }

    #[test]
    fn a_lookup_agrees_with_a_search() {
        let mut rng = fastrand::Rng::with_seed(5);
        let list: Vec<(Network, u8)> = (1..100)
            .map(|class| {
                let address = IpAddr::from((rng.u32(..) & 0x0f0f_0f0f).to_be_bytes());
                (Network::new(address, rng.u8(0..=32)).unwrap(), class)
            })
            .collect();
        let networks = Networks::new(&list);
        for _ in 0..10_000 {
            let peer = PeerKey::new(IpAddr::from((rng.u32(..) & 0x0f0f_0f0f).to_be_bytes()), 64);
            let around: Vec<_> = list.iter().filter(|(network, _)| network.contains(peer)).collect();
            let narrowest = around.iter().map(|(network, _)| network.width()).min();
            let found = networks.class_of(peer);
            let fits =
                |(network, class): &&&(Network, u8)| *class == found && Some(network.width()) == narrowest;
            assert!(if narrowest.is_none() { found == 0 } else { around.iter().any(|one| fits(&one)) });
        }
    }

    #[test]
    fn bits_that_belong_to_the_client_make_no_network() {
        assert_eq!(Network::new(ip("2001:db8::1"), 65), None);
        assert_eq!(Network::new(ip("10.0.0.1"), 33), None);
        assert!(network("10.9.9.9/8").contains(key("10.0.0.1")), "bits behind the prefix mean nothing");
        assert!(!network("::/0").contains(key("10.0.0.1")), "families are apart");
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32"] {
            assert_eq!(network(text).to_string(), text);
        }
    }
}
