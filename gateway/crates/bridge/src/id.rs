//! Who a connection is, outside of its shard: node, epoch, shard, slot and generation.
//!
//! An [`Address`] is the part that a node keeps to itself; a [`ConnId`] is printable and one token of the channel
//! grammar, so it fits a subject, a URL and a log line. An id of another epoch is *gone*: a restarted node with
//! its old name never delivers to a stranger. Ids are no secrets and give no rights.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Most bytes of a node name: what is left of a 64-byte token beside four hexadecimal numbers and their dashes.
pub const NODE_BYTES_MAX: usize = 32;

/// The name of a node: `[A-Za-z0-9_-]{1,32}`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeName(Arc<str>);

/// Why a text is not a node name or a connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadId {
    /// The node name is empty, too long or has a byte outside of `[A-Za-z0-9_-]`.
    Node,
    /// Not `node-epoch-shard-slot-generation` with four hexadecimal numbers in range.
    Form,
}

impl fmt::Display for BadId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Node => "a node name is 1 to 32 of A-Z a-z 0-9 _ -",
            Self::Form => "a connection id is node-epoch-shard-slot-generation, the last four in hexadecimal",
        })
    }
}

impl std::error::Error for BadId {}

impl NodeName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BadId::Node`].
    pub fn parse(name: &str) -> Result<Self, BadId> {
        let fits = (1..=NODE_BYTES_MAX).contains(&name.len());
        if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            Ok(Self(Arc::from(name)))
        } else {
            Err(BadId::Node)
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "NodeName({})", self.0)
    }
}

/// 32 random bits drawn when a node makes its tables; printed as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08x}", self.0)
    }
}

/// A connection within its node and epoch. `slot` and `generation` are the shard's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Which shard.
    pub shard: u16,
    /// Which slot of its table.
    pub slot: u32,
    /// Which tenant of that slot; never zero.
    pub generation: u32,
}

impl Address {
    /// The partition of its events among so many: always the same, and spread evenly.
    #[must_use]
    pub const fn partition(self, partitions: u16) -> u16 {
        // Slots and generations count up: an odd multiplier moves what differs into the upper bits (Fibonacci hashing).
        let bits = ((self.generation as u64) << 32) | self.slot as u64;
        let mixed = (bits ^ ((self.shard as u64) << 52)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let upper = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
        ((upper * partitions as u64) >> 32) as u16
    }
}

/// A connection among all nodes and all their lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The node that holds it.
    pub node: NodeName,
    /// That node's epoch when it was accepted.
    pub epoch: Epoch,
    /// Where in the node.
    pub address: Address,
}

impl fmt::Display for ConnId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { shard, slot, generation } = self.address;
        write!(out, "{}-{}-{shard:x}-{slot:x}-{generation:x}", self.node, self.epoch)
    }
}

impl FromStr for ConnId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        // A node name may hold dashes, the numbers never: cut from the right.
        let mut parts = text.rsplitn(5, '-');
        let mut number = |digits_max: usize| {
            let part = parts.next().ok_or(BadId::Form)?;
            let plain = (1..=digits_max).contains(&part.len())
                && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !plain {
                return Err(BadId::Form);
            }
            u32::from_str_radix(part, 16).map_err(|_| BadId::Form)
        };
        let generation = number(8)?;
        let slot = number(8)?;
        let shard = u16::try_from(number(4)?).map_err(|_| BadId::Form)?;
        let epoch = Epoch(number(8)?);
        let node = NodeName::parse(parts.next().ok_or(BadId::Form)?)?;
        if generation == 0 {
            return Err(BadId::Form);
        }
        Ok(Self { node, epoch, address: Address { shard, slot, generation } })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(node: &str) -> ConnId {
        ConnId {
            node: NodeName::parse(node).unwrap(),
            epoch: Epoch(0xdead_0001),
            address: Address { shard: u16::MAX, slot: u32::MAX - 1, generation: u32::MAX },
        }
    }

    #[test]
    fn an_id_survives_being_printed_and_is_one_channel_token() {
        for node in ["a", "gateway-7f8d-x_1", &"n".repeat(32)] {
            let id = id(node);
            let text = id.to_string();
            assert_eq!(text.parse::<ConnId>().unwrap(), id);
            assert!(text.len() <= 64, "{text}");
            assert!(crate::Channel::parse(&text).is_ok());
        }
    }

    #[test]
    fn partitions_are_even() {
        let mut counts = [0u32; 16];
        for slot in 0..16_000 {
            let address = Address { shard: (slot % 4) as u16, slot: slot / 4, generation: slot + 1 };
            counts[usize::from(address.partition(16))] += 1;
            assert_eq!(address.partition(1), 0);
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for bad in [
            "",
            "a",
            "a-1-2-3",
            "a-1-2-3-0",
            "-1-2-3-4",
            "a-1-12345-3-4",
            "a-1-2-3-x",
            "a-+1-2-3-4",
            "a.b-1-2-3-4",
        ] {
            assert!(bad.parse::<ConnId>().is_err(), "{bad}");
        }
    }
}
