//! Telling the log that descriptors have run out. Clients then wait in the kernel's queue and hear nothing, and neither did
//! the operator, but for a counter.
//!
//! Owns a look once a second and a line once a minute. Refuses to count, which shards do, and to act: they try again by
//! themselves. Runs as one task of the runtime.

use std::sync::Arc;
use std::time::Duration;

use bridge::Stats;
use bridge::ending::Turned;
use tokio::time::MissedTickBehavior;

/// How often the counters are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks from one line to the next.
const LOOKS_PER_LINE: u32 = 60;

/// Looks at the counters of all shards for as long as the runtime runs.
pub(crate) async fn watch(stats: Vec<Arc<Stats>>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut account = Account::default();
    loop {
        looks.tick().await;
        let total = stats.iter().map(|stats| stats.turned[Turned::Descriptors as usize].value()).sum();
        if let Some(times) = account.look(total) {
            tracing::warn!(
                times,
                "no descriptor is left: clients wait until somebody leaves; `gateway doctor` names the limit and the \
                 line that raises it"
            );
        }
    }
}

/// What the log has been told.
#[derive(Default)]
struct Account {
    told: u64,
    /// Looks until it may be told again.
    quiet: u32,
}

impl Account {
    /// How often it has happened since the last line, if there is to be one.
    fn look(&mut self, total: u64) -> Option<u64> {
        self.quiet = self.quiet.saturating_sub(1);
        let times = total.saturating_sub(self.told);
        if times == 0 || self.quiet > 0 {
            return None;
        }
        (self.told, self.quiet) = (total, LOOKS_PER_LINE);
        Some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_is_told_at_once_and_the_others_once_a_minute() {
        let mut account = Account::default();
        assert_eq!(account.look(0), None);
        assert_eq!(account.look(3), Some(3));
        for look in 1..LOOKS_PER_LINE {
            assert_eq!(account.look(3 + u64::from(look)), None, "{look}");
        }
        assert_eq!(account.look(100), Some(97), "what nobody was told of is among them");
        (0..2 * LOOKS_PER_LINE).for_each(|_| assert_eq!(account.look(100), None));
        assert_eq!(account.look(101), Some(1));
    }
}
