//! Owns what an operator means by a network: an address and how many of its first bits count (CIDR, RFC 4632 and
//! RFC 4291 section 2.3). Refuses to match addresses: whoever asks often builds a table of its own. Called by the forms
//! of this crate; read by the program, which makes rules for the shards of it.

use std::fmt;
use std::net::IpAddr;

/// Most networks in one list.
pub const NETWORKS_MAX: usize = 256;

/// What a network looks like, for the reference and for mistakes.
pub(crate) const EXPECTED: &str = "a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one address";

/// A network: no bit of its address is set behind the prefix, and IPv4 is written as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of this text; an address alone is a network of one.
    ///
    /// # Errors
    /// What was expected instead. Bits behind the prefix are refused and not cut off: `10.0.0.1/8` is more often a
    /// slip than a network.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| EXPECTED.to_owned())?;
        if address != address.to_canonical() {
            return Err("an IPv4 network as IPv4, such as \"10.0.0.0/8\"".to_owned());
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            Some(_) => None,
            None => Some(bits),
        };
        let prefix = prefix.filter(|prefix| *prefix <= bits);
        let prefix = prefix.ok_or_else(|| format!("a prefix of 0 to {bits} behind the slash"))?;
        let first = first(address, prefix);
        if first == address {
            Ok(Self { address, prefix })
        } else {
            Err(format!("no bits behind the prefix, as in \"{first}/{prefix}\""))
        }
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of an address it decides: at most 32 for IPv4, 128 for IPv6.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address with all bits behind the prefix cleared.
fn first(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & kept).into())
        }
        IpAddr::V6(address) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & kept).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_are_read_and_written_in_one_spelling() {
        for (text, spelling) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
        ] {
            let network = Network::parse(text).unwrap();
            assert_eq!(network.to_string(), spelling);
            assert_eq!(Network::parse(spelling), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_is_answered_with_what_was_meant() {
        for (text, expected) in [
            ("", "a network such as"),
            ("example.org", "a network such as"),
            ("10.0.0/8", "a network such as"),
            ("10.0.0.0/", "a prefix of 0 to 32"),
            ("10.0.0.0/33", "a prefix of 0 to 32"),
            ("10.0.0.0/+8", "a prefix of 0 to 32"),
            ("10.0.0.0/255.0.0.0", "a prefix of 0 to 32"),
            ("::/129", "a prefix of 0 to 128"),
            ("::/300", "a prefix of 0 to 128"),
            ("10.0.0.1/8", "\"10.0.0.0/8\""),
            ("2001:db8::1/32", "\"2001:db8::/32\""),
            ("::ffff:10.0.0.0/104", "as IPv4"),
        ] {
            let wrong = Network::parse(text).unwrap_err();
            assert!(wrong.contains(expected), "{text}: {wrong}");
        }
    }
}
