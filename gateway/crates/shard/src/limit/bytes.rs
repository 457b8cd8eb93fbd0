//! The bytes that backlogs of the whole node may hold: one number, claimed by shards in chunks.
//!
//! Refuses to know who waits for what. A shard asks when it runs out and gives back when it has too much, so the number
//! is touched once a chunk and not once a frame.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is left for everybody.
#[derive(Debug)]
pub struct NodeBytes(AtomicU64);

impl NodeBytes {
    /// So many bytes, all of them left.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes up to `most` bytes, and `least` at least. `None` when that many are not left.
    #[must_use = "what is claimed has to be given back"]
    pub fn claim(&self, least: u64, most: u64) -> Option<u64> {
        let take = |left: u64| (left >= least).then(|| left - most.min(left));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(most.min(before))
    }

    /// Puts bytes back.
    pub fn give_back(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that nobody has claimed.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_gets_what_is_left_unless_that_is_too_little() {
        let bytes = NodeBytes::new(100);
        assert_eq!(bytes.claim(10, 60), Some(60));
        assert_eq!(bytes.claim(41, 60), None);
        assert_eq!(bytes.claim(40, 60), Some(40));
        bytes.give_back(100);
        assert_eq!(bytes.left(), 100);
    }
}
