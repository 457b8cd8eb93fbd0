//! The answer to `--plan`: how many nodes like this machine, how many shards each, how much memory, and what a restart
//! brings. Owns the arithmetic over all nodes; what one node needs is judged by the rows. Refuses to size machines that
//! it has not seen: nodes are like the one it was asked on.

use std::fmt::Write as _;

use config::Settings;
use serde::Serialize;

use super::Question;
use super::capacity;
use super::cost::{self, Cost, KERNEL_MEASURED, KERNEL_PARTS};
use super::machine::Machine;
use super::report::{grouped, of_cores, plural, size};
use crate::node;

/// Time over which a node's clients come back, in milliseconds: the longest retry delay of a goodbye. A long drain
/// spreads them further; this is the peak to be ready for.
const RETURN_MS: u64 = shard::RETRY_SPREAD_MS as u64;

/// So many connections, on nodes like this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fleet {
    /// Of all nodes.
    pub(super) connections: u64,
    pub(super) nodes: u64,
    pub(super) connections_per_node: u64,
    /// Of one node.
    pub(super) shards: u16,
    /// Whether each of them has a descriptor table of its own.
    pub(super) own_descriptors: bool,
    /// The descriptor limit that goes with it: the one there is, or the least that suffices.
    pub(super) descriptors: u64,
    /// Memory of one node, of which nine tenths are planned with.
    pub(super) memory_bytes_per_node: u64,
    pub(super) cost: Cost,
    /// Thousandths of a core for one node's heartbeats.
    pub(super) heartbeat_millicores: u64,
    /// From the end of a node to the last of its clients on it again, at best.
    pub(super) return_ms: u64,
    pub(super) handshakes_per_second: u64,
    /// At most: every channel of every connection is one that nobody else on the node is in.
    pub(super) bus_joins_per_second: u64,
}

impl Fleet {
    pub(super) fn of(question: &Question, machine: &Machine, nodes: u64) -> Self {
        let Question { total, connections, cost, .. } = *question;
        let (settings, descriptors) = layout(question, machine);
        let return_ms = cost::handshakes_ms(connections, machine.cores).max(RETURN_MS);
        let per_second = |events: u64| {
            u64::try_from(u128::from(events) * 1_000 / u128::from(return_ms)).unwrap_or(u64::MAX)
        };
        Self {
            connections: total,
            nodes,
            connections_per_node: connections,
            shards: node::shards(&settings),
            own_descriptors: settings.shards.own_descriptors,
            descriptors,
            memory_bytes_per_node: cost::memory_for(cost.of_node(connections)),
            cost,
            heartbeat_millicores: cost.heartbeat_millicores(connections),
            return_ms,
            handshakes_per_second: per_second(connections),
            bus_joins_per_second: per_second(connections.saturating_mul(cost.channels)),
        }
    }

    /// Appends it for people.
    pub(super) fn write(&self, out: &mut String) {
        let Self { nodes, cost, .. } = self;
        let parts: Vec<String> =
            KERNEL_PARTS.iter().map(|(name, bytes)| format!("{name} {}", grouped(*bytes))).collect();
        let tables = if self.own_descriptors { "each with a table of its own" } else { "one table" };
        let tables = format!("{tables}, descriptor limit {}", grouped(self.descriptors));
        let lines = [
            (
                "nodes",
                format!("{nodes} like this one, {} connections each", grouped(self.connections_per_node)),
            ),
            ("shards", format!("{} a node: {tables}", self.shards)),
            ("memory", format!("{} a node, a tenth of it spare", size(self.memory_bytes_per_node))),
            (
                "",
                format!(
                    "of a connection: record {} B, channels {} B, peer {} B, kernel {} B",
                    cost.record_bytes,
                    cost.subscription_bytes,
                    cost.peer_bytes,
                    grouped(cost.kernel_bytes)
                ),
            ),
            ("", format!("kernel, measured on {KERNEL_MEASURED}: {}", parts.join(", "))),
            ("", format!("of a node: backlog {}", size(cost.backlog_bytes))),
            ("heartbeats", format!("{} cores a node", of_cores(self.heartbeat_millicores))),
            (
                "restart",
                format!(
                    "of one node: its clients are back after {}.{} s at best, {} handshakes a second",
                    self.return_ms / 1_000,
                    self.return_ms % 1_000 / 100,
                    grouped(self.handshakes_per_second)
                ),
            ),
            (
                "bus joins",
                format!(
                    "at most {} a second meanwhile: {} channel{} a connection, none of them shared",
                    grouped(self.bus_joins_per_second),
                    cost.channels,
                    plural(cost.channels)
                ),
            ),
        ];
        let _ = writeln!(out, "Plan for {} connections:", grouped(self.connections));
        for (name, text) in lines {
            let _ = writeln!(out, "  {name:10}  {text}");
        }
    }
}

/// The settings as they are where they suffice, else with a table for each shard; and the descriptor limit.
fn layout(question: &Question, machine: &Machine) -> (Settings, u64) {
    let (settings, needed) =
        (&question.settings, capacity::limit_for(&question.settings, question.connections));
    match machine.descriptors {
        Some(limit) if limit < needed => capacity::own_tables(question, limit),
        limit => (settings.clone(), limit.unwrap_or(needed)),
    }
}
