//! Reading the configuration again and putting it in force: all of it, or, when a key cannot change while the program
//! runs, nothing. Every shard takes the new rules whole and says so by their number; no connection is touched.
//!
//! Owns the order: read, compare, replace, tell, wait. Called by the lifecycle, one reload at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bridge::{Command, Sealed, Stats};
use config::{Change, Settings};

use crate::admin::Admin;
use crate::in_force::InForce;
use crate::lifecycle::tell_all;
use crate::rules;

/// How long shards may take to acknowledge, and how often they are looked at.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What was put in force.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) number: u32,
    pub(crate) changes: Vec<Change>,
    /// The number that each shard obeys now.
    pub(crate) shards: Vec<u64>,
}

/// Why nothing changed.
#[derive(Debug)]
pub(crate) enum NotReloaded {
    /// The configuration, or a file it names, is wrong: every mistake, a line each.
    Wrong(String),
    /// These keys take a restart.
    Fixed(Vec<Change>),
    /// The node is going away.
    Draining,
}

impl std::fmt::Display for NotReloaded {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(mistakes) => out.write_str(mistakes),
            Self::Draining => out.write_str("the node drains"),
            Self::Fixed(changes) => {
                let one = |change: &Change| {
                    let value =
                        |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
                    format!("{} ({} to {})", change.key, value(&change.old), value(&change.new))
                };
                let keys: Vec<String> = changes.iter().map(one).collect();
                write!(out, "cannot change while running: {}", keys.join(", "))
            }
        }
    }
}

/// Reads the configuration from where the program was started with, and puts it in force.
///
/// # Errors
/// As [`NotReloaded`] says; then everything is as it was.
pub(crate) async fn reload(admin: &Arc<Admin>, file: Option<PathBuf>) -> Result<Reloaded, NotReloaded> {
    let before = admin.live.now();
    let number = before.number + 1;
    let read = tokio::task::spawn_blocking(move || {
        let settings = crate::load(file.as_deref()).map_err(NotReloaded::Wrong)?;
        prepare(&before.settings, number, settings)
    });
    let (next, rules, changes) =
        read.await.map_err(|_| NotReloaded::Wrong("the configuration could not be read".to_owned()))??;
    admin.live.replace(next);
    tell_all(&admin.switchboard, || Command::Obey { number, rules: Sealed::new(rules.clone()) }).await;
    Ok(Reloaded { number, changes, shards: acknowledged(&admin.stats, number).await })
}

/// Everything that can fail.
fn prepare(
    old: &Settings,
    number: u32,
    mut settings: Settings,
) -> Result<(InForce, shard::Rules, Vec<Change>), NotReloaded> {
    let changes = old.changes(&settings);
    let fixed: Vec<Change> = changes.iter().filter(|change| !change.live).cloned().collect();
    if !fixed.is_empty() {
        return Err(NotReloaded::Fixed(fixed));
    }
    settings.number_as(old);
    let rules = rules::rules(&settings).map_err(NotReloaded::Wrong)?;
    let next = InForce::new(number, settings).map_err(NotReloaded::Wrong)?;
    Ok((next, rules, changes))
}

/// Waits until every shard obeys these rules, or long enough.
async fn acknowledged(stats: &[Arc<Stats>], number: u32) -> Vec<u64> {
    let obeyed = || stats.iter().map(|stats| stats.rules.value()).collect::<Vec<u64>>();
    let all = async {
        while obeyed().iter().any(|obeyed| *obeyed < u64::from(number)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    // Late is no failure: the order is in the mailbox, and the API shows who has obeyed it.
    let _ = tokio::time::timeout(ACKNOWLEDGED_WITHIN, all).await;
    obeyed()
}
