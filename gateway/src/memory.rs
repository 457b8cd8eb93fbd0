//! Watching the memory of the process: when it is beyond `limits.node.memory`, the gate lets nobody new in.
//!
//! Owns the look once a second, and what is said of it in the log. What was freed stays with the allocator for the next
//! ones, and behind a peak that may be all that is too much: so it is asked for before the process is judged. Refuses to
//! end anybody: who is connected is served on, and leaves at its own time. Read at admission only, so a message pays
//! nothing. Runs as one task of the runtime.

use std::sync::Arc;
use std::time::Duration;

use config::units::Bytes;
use shard::limit::Memory;
use tokio::time::MissedTickBehavior;

use crate::admin::Admin;
use crate::metrics::resident_bytes;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks from one time that freed memory is asked for to the next: it takes a while, and those who allocate may wait.
const LOOKS_PER_TRIM: u32 = 5;
/// Below so much of the limit it is over. At the limit itself, every second would decide otherwise.
const FREE_BELOW_PERCENT: u64 = 95;

/// Looks at the memory for as long as the runtime runs. Settings are asked for each time: a reload counts at once.
pub(crate) async fn watch(admin: Arc<Admin>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut memory, mut looks_to_trim) = (Memory::Free, 0_u32);
    loop {
        looks.tick().await;
        let live = admin.live.now();
        let limits = &live.settings.node_limits;
        // Without a limit nothing is too much. What cannot be read is as it was.
        let limit = limits.memory.map_or(u64::MAX, Bytes::as_u64);
        let judge = |resident| judged(memory != Memory::Free, resident, limit, limits.dry_run);
        let Some(mut resident) = resident_bytes() else { continue };
        looks_to_trim = looks_to_trim.saturating_sub(1);
        if judge(resident) != Memory::Free && looks_to_trim == 0 {
            looks_to_trim = LOOKS_PER_TRIM;
            let _ = tokio::task::spawn_blocking(net::memory::give_back).await;
            resident = resident_bytes().unwrap_or(resident);
        }
        let next = judge(resident);
        // First it is so, then it is said: whoever reads the line finds the gate as it says.
        admin.gate.set_memory(next);
        if next != memory {
            say(next, resident, limit);
        }
        memory = next;
    }
}

/// How the process stands with so much memory.
fn judged(was_over: bool, resident: u64, limit: u64, dry_run: bool) -> Memory {
    let free_below = if was_over { limit / 100 * FREE_BELOW_PERCENT } else { limit };
    match (resident < free_below, dry_run) {
        (true, _) => Memory::Free,
        (false, true) => Memory::OverInDryRun,
        (false, false) => Memory::Over,
    }
}

fn say(memory: Memory, resident: u64, limit: u64) {
    match memory {
        Memory::Free => {
            tracing::info!(resident, limit, "memory is below its limit: new connections are let in")
        }
        Memory::OverInDryRun => {
            tracing::info!(resident, limit, dry_run = true, "memory is at its limit: it is only counted");
        }
        Memory::Over => {
            tracing::warn!(resident, limit, "memory is at its limit: new connections are refused")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_over_it_is_over_until_it_is_clearly_below() {
        let judged = |was_over, resident| judged(was_over, resident, 1000, false);
        assert_eq!(judged(false, 999), Memory::Free);
        assert_eq!(judged(false, 1000), Memory::Over);
        assert_eq!(judged(true, 950), Memory::Over);
        assert_eq!(judged(true, 949), Memory::Free);
    }

    #[test]
    fn a_dry_run_is_over_too_and_says_so() {
        assert_eq!(judged(false, 1000, 1000, true), Memory::OverInDryRun);
        assert_eq!(judged(true, 1, 1000, true), Memory::Free);
    }
}
