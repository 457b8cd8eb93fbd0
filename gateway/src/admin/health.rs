//! Owns the three calls of the health role. `/livez` asks whether the process should be restarted: only a shard
//! that has stopped turning says so. `/readyz` asks whether new clients should come, and speaks of this node only:
//! a bus that is away makes no node unready, or all of them would leave the balancer together, unless `ready.requires`
//! says so.

use std::sync::Arc;

use backend::{BusState, Trouble};
use bridge::Stats;
use config::Requirement;
use hyper::StatusCode;
use serde_json::json;

use super::Admin;
use super::call::{Answer, json, text};
use super::problem::{Problem, Reason};

/// Age of a shard's last turn, in milliseconds, beyond which it counts as stalled. A quiet shard turns ten times
/// a second.
pub(super) const STALLED_AFTER_MS: u64 = 5000;

/// 200, or 503 with the shards that have stopped turning. A drain has its own deadline and ends shards one by one,
/// so during it nobody is called stalled.
pub(super) fn livez(admin: &Admin) -> Answer {
    let stalled = if admin.is_draining() { Vec::new() } else { stalled(&admin.stats, (admin.clock)()) };
    if stalled.is_empty() {
        return json(StatusCode::OK, &json!({ "live": true, "shards": admin.stats.len() }));
    }
    let shards: Vec<_> = stalled
        .into_iter()
        .map(|(shard, age_ms)| json!({ "shard": shard, "last_turn_age_ms": age_ms }))
        .collect();
    json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "live": false, "reason": "stalled", "shards": shards }))
}

/// 200, or 503 while the node is not ready.
pub(super) fn readyz(admin: &Admin) -> Answer {
    let Some(reason) = admin.unready() else {
        return json(StatusCode::OK, &json!({ "ready": true, "shards": admin.stats.len() }));
    };
    // Whose fault it is, and no more: this is shown to whoever asks, and addresses are nobody's business.
    let trouble = admin.publisher.bus().trouble().map(Trouble::label);
    let body = json!({
        "ready": false, "reason": reason, "bus_trouble": trouble, "shards_not_listening": closed(&admin.stats),
    });
    json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

impl Admin {
    /// Why no new clients should come, if so: the node drains, a shard's listener is not open, or a bus that it requires is
    /// away.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        let requires_bus = self.live.now().settings.ready.requires.contains(&Requirement::Bus);
        let lacks_bus = requires_bus && self.publisher.bus().state() == BusState::Away;
        match (self.is_draining(), closed(&self.stats).is_empty()) {
            (true, _) => Some("draining"),
            (false, false) => Some("listener_closed"),
            (false, true) => lacks_bus.then_some("bus_away"),
        }
    }
}

/// The exposition. Made on a thread that may block: it reads `/proc`.
pub(super) async fn metrics(admin: &Arc<Admin>) -> Answer {
    let admin = Arc::clone(admin);
    let exposition = tokio::task::spawn_blocking(move || admin.metrics.render()).await.map_err(|_| {
        Problem::new(Reason::Internal, "The metrics could not be rendered; please report this.")
    })?;
    Ok(text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", exposition))
}

/// The shards whose last turn is too old, and how old it is in milliseconds.
fn stalled(stats: &[Arc<Stats>], now_ms: u64) -> Vec<(usize, u64)> {
    let ages = stats.iter().map(|stats| now_ms.saturating_sub(stats.last_turn_ms.value()));
    ages.enumerate().filter(|(_, age_ms)| *age_ms > STALLED_AFTER_MS).collect()
}

fn closed(stats: &[Arc<Stats>]) -> Vec<usize> {
    stats
        .iter()
        .enumerate()
        .filter(|(_, stats)| stats.listening.value() == 0)
        .map(|(shard, _)| shard)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Vec<Arc<Stats>> {
        (0..3).map(|_| Arc::new(Stats::default())).collect()
    }

    #[test]
    fn a_shard_is_stalled_only_when_its_last_turn_is_too_old() {
        let stats = stats();
        stats[0].last_turn_ms.set(10_000);
        stats[1].last_turn_ms.set(5_000);
        stats[2].last_turn_ms.set(4_999);
        assert_eq!(stalled(&stats, 10_000), [(2, 5_001)]);
        assert_eq!(stalled(&stats, 1), [], "a turn that ended after the clock was read is not old");
    }

    #[test]
    fn a_closed_listener_is_named() {
        let stats = stats();
        stats[1].listening.set(1);
        assert_eq!(closed(&stats), [0, 2]);
    }
}
