//! Networks that may not come in for a while, set while the node runs.
//!
//! Owns the node's list: bounded, each entry with an end. Refuses to close anybody: the shards walk their tables when
//! the list has grown. Written by the API, read by every admission; an empty list costs a load.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use super::networks::{Network, PeerKey};

/// Most networks that are blocked at a time.
pub const BLOCKS_MAX: usize = 1024;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Who.
    pub network: Network,
    /// The tick at which it is over.
    pub until: u32,
}

/// There are [`BLOCKS_MAX`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlocksFull;

/// The list.
#[derive(Debug, Default)]
pub struct Blocks {
    count: AtomicU32,
    list: RwLock<Vec<Block>>,
}

impl Blocks {
    /// Blocks a network until a tick, or says anew until when.
    ///
    /// # Errors
    /// [`BlocksFull`].
    pub fn put(&self, network: Network, until: u32, now: u32) -> Result<(), BlocksFull> {
        self.change(|list| {
            list.retain(|block| block.until > now && block.network != network);
            if list.len() >= BLOCKS_MAX {
                return Err(BlocksFull);
            }
            list.push(Block { network, until });
            Ok(())
        })
    }

    /// Lets a network in again. Whether it was blocked.
    pub fn remove(&self, network: Network, now: u32) -> bool {
        self.change(|list| {
            let was = list.iter().any(|block| block.network == network && block.until > now);
            list.retain(|block| block.until > now && block.network != network);
            was
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        let list = &mut *self.list.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(list);
        self.count.store(list.len() as u32, Ordering::Release);
        outcome
    }

    /// Whether a peer may not come in.
    #[must_use]
    pub fn contain(&self, peer: PeerKey, now: u32) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.read(|list| list.iter().any(|block| block.until > now && block.network.contains(peer)))
    }

    /// Those in force.
    #[must_use]
    pub fn list(&self, now: u32) -> Vec<Block> {
        self.read(|list| list.iter().filter(|block| block.until > now).copied().collect())
    }

    fn read<T>(&self, read: impl FnOnce(&[Block]) -> T) -> T {
        read(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::IpAddr;

    use super::*;

    fn network(number: u8, prefix: u8) -> Network {
        Network::new(IpAddr::from([10, 0, number, 0]), prefix).unwrap()
    }

    #[test]
    fn a_block_ends_by_itself_or_by_request() {
        let blocks = Blocks::default();
        let peer = PeerKey::new(IpAddr::from([10, 0, 1, 7]), 64);
        blocks.put(network(1, 24), 10, 0).unwrap();
        blocks.put(network(2, 24), 10, 0).unwrap();
        assert!(blocks.contain(peer, 9) && !blocks.contain(peer, 10));
        blocks.put(network(1, 24), 20, 9).unwrap();
        assert!(blocks.contain(peer, 10), "a second order sets another end");
        assert_eq!(blocks.list(12).len(), 1);
        assert!(blocks.remove(network(1, 24), 12));
        assert!(!blocks.contain(peer, 12) && !blocks.remove(network(1, 24), 12));
    }

    #[test]
    fn the_list_is_bounded_and_what_is_over_makes_room() {
        let blocks = Blocks::default();
        for number in 0..BLOCKS_MAX as u32 {
            let network = Network::new(IpAddr::from(number.to_be_bytes()), 32).unwrap();
            blocks.put(network, 5, 0).unwrap();
        }
        assert_eq!(blocks.put(network(9, 24), 9, 4), Err(BlocksFull));
        blocks.put(network(9, 24), 9, 5).unwrap();
        assert_eq!(blocks.list(5).len(), 1);
    }
}
