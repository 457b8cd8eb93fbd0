//! Who this node is and how big: name, epoch, and table sizes out of the configuration and the descriptor limit.

use std::hash::{BuildHasher as _, RandomState};

use bridge::{Epoch, NodeName};
use config::{AutoOr, Settings};
use shard::Sizes;
use shard::limit::GateSizes;

/// Descriptors kept free beside connections: log, polls, wakers, the HTTP side's own.
const RESERVE: u64 = 64;
/// How full a shard's table may be planned: the kernel spreads connections unevenly.
const FULL_PERCENT: u64 = 97;
/// Room above a shard's even share, in percent, for the same reason.
const UNEVEN_PERCENT: u64 = 125;
/// Records above that, for those who are only let in to be told 503.
const TURNING: u64 = 256;
/// Most entries in one shard's backlog tables: address space.
const BACKLOG_ENTRIES_MAX: u64 = 1 << 22;

/// What the node's size follows from, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Threads.
    pub(crate) shards: u16,
    /// Connections of the whole node.
    pub(crate) connections: u32,
    /// Records of one shard.
    pub(crate) per_shard: u32,
}

/// Random bits from the system's entropy, by way of the keys of std's hasher.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// This node's name: the configured one, or the host's, made fit.
pub(crate) fn name(settings: &Settings) -> NodeName {
    let name = settings.node.name.clone().unwrap_or_else(|| {
        let host = nix::unistd::gethostname().unwrap_or_default();
        config::NodeName::fit(&host.to_string_lossy())
    });
    NodeName::parse(name.as_str()).unwrap_or_else(|_| unreachable!("the configuration has the same grammar"))
}

/// A new epoch.
pub(crate) fn epoch() -> Epoch {
    Epoch(random() as u32)
}

/// How many shards, for the configuration and this machine.
pub(crate) fn shards(settings: &Settings) -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let count = match settings.shards.count {
        AutoOr::Auto => cores.min(config::SHARDS_MAX),
        AutoOr::Set(count) => count.get(),
    };
    count as u16
}

/// Sizes the tables for a descriptor limit.
///
/// # Errors
/// The configured connections do not fit under it; the text says what would.
pub(crate) fn plan(settings: &Settings, descriptors: u64, http_connections: u64) -> Result<Plan, String> {
    let shards = u64::from(shards(settings));
    let own = settings.shards.own_descriptors;
    // With tables of their own, shards have the limit each, and HTTP and backends have the main thread's.
    let others = if own { 0 } else { (http_connections + to_backends(settings)).min(descriptors / 8) };
    let per_table = descriptors.saturating_sub(RESERVE + 2 * shards + others);
    let fits = if own { per_table * shards * FULL_PERCENT / 100 } else { per_table };
    let connections = match settings.limits.connections {
        AutoOr::Auto => fits.min(100_000_000),
        AutoOr::Set(count) => u64::from(count.get()),
    };
    if connections > fits || fits == 0 {
        return Err(too_many(connections, fits, descriptors, own));
    }
    let uneven = (connections * UNEVEN_PERCENT / 100).div_ceil(shards) + TURNING;
    let per_shard = uneven.min(connections + TURNING).min(per_table);
    Ok(Plan { shards: shards as u16, connections: connections as u32, per_shard: per_shard as u32 })
}

/// Sockets to backends: the streams, and one for calls. Names that stand for several addresses take as many for each.
fn to_backends(settings: &Settings) -> u64 {
    let sockets =
        |backend: &config::Backend| backend.endpoints.len() as u64 * (u64::from(backend.streams.get()) + 1);
    settings.backends.iter().map(sockets).sum()
}

fn too_many(connections: u64, fits: u64, descriptors: u64, own: bool) -> String {
    let needed = descriptors + connections.saturating_sub(fits);
    let hint = if own {
        "or raise shards.count: each shard has the limit for itself"
    } else {
        "or set shards.own_descriptors = true: then each shard has the limit for itself"
    };
    format!(
        "limits.connections is {connections}, but the descriptor limit of {descriptors} leaves room for {fits}.\n\
         Raise the hard limit (`ulimit -Hn {needed}`; LimitNOFILE={needed} in a systemd unit; \
         --ulimit nofile={needed} for a container),\n{hint}; or lower limits.connections."
    )
}

/// Capacities of one shard's tables.
pub(crate) fn sizes(settings: &Settings, plan: Plan) -> Sizes {
    let per_shard = u64::from(plan.per_shard);
    let entries = per_shard * u64::from(settings.backlog.frames.get());
    let subscriptions = per_shard * u64::from(settings.limits.subscriptions_per_connection.get());
    Sizes {
        connections: plan.per_shard,
        channels: settings.limits.channels.get(),
        subscriptions: subscriptions.min(u64::from(u32::MAX - 1)) as u32,
        backlog_entries: entries.min(BACKLOG_ENTRIES_MAX) as u32,
    }
}

/// Bounds of the node's gate.
pub(crate) fn gate_sizes(settings: &Settings, plan: Plan) -> GateSizes {
    GateSizes {
        connections: plan.connections,
        handshakes: settings.limits.handshakes.get(),
        recent_peers: settings.peer_limits.recent,
        ipv6_prefix: settings.peer_limits.ipv6_prefix.get() as u8,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(text: &str) -> Settings {
        config::load(text, []).unwrap()
    }

    #[test]
    fn automatic_size_leaves_a_reserve() {
        let plan = plan(&settings("[shards]\ncount = 4"), 20_000, 1024).unwrap();
        assert_eq!(plan.connections, 20_000 - 64 - 8 - 1024);
        assert!(plan.per_shard >= plan.connections / 4 * 5 / 4);
    }

    #[test]
    fn sockets_to_backends_are_left_out_of_the_table() {
        let backend = "[[backend]]\nname = 'a'\nendpoints = ['http://a:1', 'http://b:1']\nstreams = 4";
        let settings = settings(&format!("[shards]\ncount = 4\n{backend}"));
        assert_eq!(plan(&settings, 20_000, 1024).unwrap().connections, 20_000 - 64 - 8 - 1024 - 10);
    }

    #[test]
    fn own_tables_multiply_the_limit() {
        let settings = settings("[shards]\ncount = 4\nown_descriptors = true");
        let plan = plan(&settings, 20_000, 1024).unwrap();
        assert_eq!(plan.connections, (20_000 - 72) * 4 * 97 / 100);
        assert!(plan.per_shard <= 20_000 - 72);
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_the_fix() {
        let settings = settings("[shards]\ncount = 2\n[limits]\nconnections = 30000");
        let refusal = plan(&settings, 20_000, 1024).unwrap_err();
        assert!(refusal.contains("own_descriptors") && refusal.contains("ulimit -Hn 31"), "{refusal}");
    }

    #[test]
    fn a_tiny_limit_is_refused_instead_of_making_an_empty_table() {
        assert!(plan(&settings("[shards]\ncount = 4"), 64, 1024).is_err());
    }
}
