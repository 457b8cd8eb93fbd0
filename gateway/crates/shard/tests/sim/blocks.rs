//! Networks that are blocked and let in again while shards run. Owns the orders; what must follow is checked whenever the
//! shards rest: nobody of a blocked network is open. That others are not concerned is the world's to check, which lets a
//! client be shown out only for what it, or its network, has done.

use std::net::IpAddr;

use bridge::Command;
use shard::limit::Network;

use crate::world::{SHARDS, World};

impl World {
    /// Blocks a network for so many ticks.
    pub(crate) fn block(&mut self, network: Network, ticks: u32) {
        self.gate.blocks().put(network, self.now + ticks, self.now).unwrap();
        self.blocked.push(network);
        for shard in 0..SHARDS {
            self.insist(shard, || Command::EnforceBlocks);
        }
    }

    /// Lets all networks in again.
    pub(crate) fn lift_blocks(&mut self) {
        for block in self.gate.blocks().list(self.now) {
            assert!(self.gate.blocks().remove(block.network, self.now));
        }
    }

    /// Whether a peer is, or was, in a network that may not come in.
    pub(crate) fn was_blocked(&self, peer: IpAddr) -> bool {
        let key = self.gate.peers().key(peer);
        self.blocked.iter().any(|network| network.contains(key))
    }

    /// All orders have been carried out: nobody of a blocked network is open.
    pub(crate) fn check_blocks(&self) {
        let blocks = self.gate.blocks().list(self.now);
        if blocks.is_empty() {
            return;
        }
        for (number, node) in self.nodes.iter().enumerate() {
            for peer in node.shard.census().open {
                let key = self.gate.peers().key(peer);
                let blocked = blocks.iter().any(|block| block.network.contains(key));
                assert!(!blocked, "shard {number} serves {peer}, who is blocked");
            }
        }
    }
}
