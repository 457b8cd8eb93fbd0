//! What a connection costs. Owns the figures, each with where it comes from; refuses any that was not measured.

use config::Settings;
use serde::Serialize;

/// The record of a connection, with its slot: a test of `store` holds it there.
const RECORD_BYTES: u64 = 64;
/// One connection's place in one channel: a test of `store` holds it there. The channel itself comes on top, once.
const SUBSCRIPTION_BYTES: u64 = 20;
/// One peer with its lookup, at most; with thousands of connections behind one address it is shared among them.
const PEER_BYTES: u64 = 32;
/// What the kernel holds for an idle server socket, measured as the slope of slab over connections on Linux 6.18.
const KERNEL_BYTES: u64 = 4_030;
/// Of these, the objects by name. What is left is unattributed: pages of slabs that are not full.
pub(super) const KERNEL_PARTS: [(&str, u64); 6] = [
    ("tcp_sock", 2_521),
    ("inode", 862),
    ("file", 195),
    ("dentry", 195),
    ("epitem", 128),
    ("eppoll_entry", 64),
];
/// Which kernel they were measured on.
pub(super) const KERNEL_MEASURED: &str = "Linux 6.18";
/// Core time of one ping with its pong, in nanoseconds, as measured of the gateway with two million connections on Linux
/// 6.18; with one million it was 11,700 to 13,400 (loadtest/RESULTS.md).
const HEARTBEAT_NS: u64 = 15_000;
/// Core time of one handshake, in nanoseconds, as measured for a bare epoll loop: a lower bound.
const HANDSHAKE_NS: u64 = 16_000;
/// Of a machine's memory, the part to plan with, in percent: the rest is for the system, and for data in flight.
const USABLE_PERCENT: u64 = 90;

/// Bytes and time of connections under one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cost {
    /// The record.
    pub(super) record_bytes: u64,
    /// Places in channels, as many as the route with most of them has from the start.
    pub(super) subscription_bytes: u64,
    /// A peer: everybody may be one of their own.
    pub(super) peer_bytes: u64,
    /// The kernel's part.
    pub(super) kernel_bytes: u64,
    /// What may wait for slow sockets, of the whole node.
    pub(super) backlog_bytes: u64,
    /// Channels that a connection is in from the start, at most.
    pub(super) channels: u64,
    /// Between two pings of a quiet connection, in milliseconds.
    pub(super) heartbeat_ms: u64,
}

impl Cost {
    pub(super) fn of(settings: &Settings) -> Self {
        let channels = settings.routes.iter().map(|route| route.subscribe.len()).max().unwrap_or(0) as u64;
        Self {
            record_bytes: RECORD_BYTES,
            subscription_bytes: channels * SUBSCRIPTION_BYTES,
            peer_bytes: PEER_BYTES,
            kernel_bytes: KERNEL_BYTES,
            backlog_bytes: settings.backlog.node_bytes.as_u64(),
            channels,
            heartbeat_ms: u64::try_from(settings.heartbeat.interval.as_millis()).unwrap_or(u64::MAX).max(1),
        }
    }

    /// Bytes of one quiet connection, the kernel's included.
    pub(super) fn each(&self) -> u64 {
        self.record_bytes + self.subscription_bytes + self.peer_bytes + self.kernel_bytes
    }

    /// Bytes of a node with so many.
    pub(super) fn of_node(&self, connections: u64) -> u64 {
        connections.saturating_mul(self.each()).saturating_add(self.backlog_bytes)
    }

    /// Bytes of the process itself with so many: without the kernel's, and without what an empty one has.
    pub(super) fn of_process(&self, connections: u64) -> u64 {
        connections.saturating_mul(self.each() - self.kernel_bytes).saturating_add(self.backlog_bytes)
    }

    /// How many a memory of so many bytes holds.
    pub(super) fn connections_in(&self, memory_bytes: Option<u64>) -> Option<u64> {
        Some(usable(memory_bytes?).saturating_sub(self.backlog_bytes) / self.each())
    }

    /// Thousandths of a core that the heartbeats of so many quiet connections need.
    pub(super) fn heartbeat_millicores(&self, connections: u64) -> u64 {
        let ns = u128::from(connections) * u128::from(HEARTBEAT_NS);
        u64::try_from(ns / (u128::from(self.heartbeat_ms) * 1_000)).unwrap_or(u64::MAX)
    }

    /// How many quiet connections so many thousandths of a core keep alive.
    pub(super) fn kept_alive_by(&self, millicores: u64) -> u64 {
        let connections =
            u128::from(millicores) * u128::from(self.heartbeat_ms) * 1_000 / u128::from(HEARTBEAT_NS);
        u64::try_from(connections).unwrap_or(u64::MAX)
    }
}

/// Bytes to plan with, of so many.
pub(super) fn usable(memory_bytes: u64) -> u64 {
    memory_bytes / 100 * USABLE_PERCENT
}

/// Memory of which so many bytes may be planned with.
pub(super) fn memory_for(bytes: u64) -> u64 {
    (bytes / USABLE_PERCENT + 1).saturating_mul(100)
}

/// The shortest interval of heartbeats, in seconds, with which so many thousandths of a core do for so many connections.
pub(super) fn interval_s(connections: u64, millicores: u64) -> u64 {
    let ns = u128::from(connections) * u128::from(HEARTBEAT_NS);
    u64::try_from(ns.div_ceil(u128::from(millicores.max(1)) * 1_000_000)).unwrap_or(u64::MAX)
}

/// The least time in which so many handshakes can be done, in milliseconds.
pub(super) fn handshakes_ms(connections: u64, cores: u32) -> u64 {
    let ns = u128::from(connections) * u128::from(HANDSHAKE_NS) / u128::from(cores.max(1));
    u64::try_from(ns / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_parts_are_within_the_whole() {
        let parts: u64 = KERNEL_PARTS.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(parts, 3_965);
        assert!(parts <= KERNEL_BYTES);
    }

    #[test]
    fn the_route_with_most_channels_is_the_one_to_plan_for() {
        let route = |name: &str, subscribe: &str| {
            format!(
                "[[route]]\nname = '{name}'\npath = '/{name}'\nsubscribe = {subscribe}\ninbound = 'ignore'\n"
            )
        };
        let text = route("a", "['x.y', 'z']") + &route("b", "['x']");
        let cost = Cost::of(&config::load(&text, []).unwrap());
        assert_eq!((cost.channels, cost.each()), (2, 64 + 40 + 32 + 4_030));
    }

    #[test]
    fn what_a_memory_holds_needs_no_more_than_that_memory() {
        let cost = Cost::of(&Settings::default());
        for memory in [1u64 << 29, 1 << 30, 24 << 30, 1 << 45] {
            let holds = cost.connections_in(Some(memory)).unwrap();
            assert!(memory_for(cost.of_node(holds)) <= memory + 200, "{memory}");
            assert!(memory_for(cost.of_node(holds + 1)) > memory - 200, "{memory}");
        }
        assert_eq!(cost.connections_in(Some(1 << 20)), Some(0));
        assert_eq!(cost.connections_in(None), None);
    }

    #[test]
    fn heartbeats_and_handshakes_take_the_time_they_were_measured_to_take() {
        let cost = Cost::of(&Settings::default());
        // Fifteen microseconds in 25 seconds, a million times.
        assert_eq!(cost.heartbeat_millicores(1_000_000), 600);
        assert_eq!(cost.kept_alive_by(600), 1_000_000);
        assert_eq!((interval_s(1_000_000, 600), interval_s(1_000_001, 600)), (25, 26));
        assert_eq!(handshakes_ms(1_000_000, 4), 4_000);
    }
}
