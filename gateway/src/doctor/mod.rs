//! `gateway doctor`: whether this machine holds the connections that are asked of it, and the line that mends each
//! shortfall. Owns what is asked and in which order; judges only what [`Machine`] has read, so that any machine can be
//! described in a test. Refuses to change anything, to start anything, and to guess what it cannot read: that is a row
//! of its own. Called by `main`; nothing of it runs in a node.

mod capacity;
mod cost;
mod fleet;
mod kernel;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::path::Path;

use config::{AutoOr, SHARDS_MAX, Settings};
use nix::unistd::{SysconfVar, sysconf};

use cost::Cost;
use fleet::Fleet;
use machine::Machine;
use report::{Report, Row};

/// Most connections a configuration may name, hence most that are asked of one node.
const NODE_CONNECTIONS_MAX: u64 = 100_000_000;
/// Bytes of a page where the system does not tell.
const PAGE_BYTES: u64 = 4096;

/// What one node is to hold, and what with: the question behind every row.
struct Question {
    /// As configured, but for the number of shards, which is that of the machine where it was `auto`.
    settings: Settings,
    /// Connections of all nodes together.
    total: u64,
    /// Connections of this one.
    connections: u64,
    cost: Cost,
}

/// Examines this machine.
pub(crate) fn examine(settings: &Settings, plan: Option<u64>) -> Report {
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(PAGE_BYTES);
    diagnose(settings, &Machine::read(Path::new("/"), page_bytes), plan)
}

/// Answers for `machine`: with `plan` connections in all if there is a plan, else with those of the configuration.
fn diagnose(settings: &Settings, machine: &Machine, plan: Option<u64>) -> Report {
    let settings = resolved(settings, machine);
    let cost = Cost::of(&settings);
    let total = plan.unwrap_or_else(|| match settings.limits.connections {
        AutoOr::Auto => machine.descriptors.map_or(0, |limit| capacity::room(&settings, limit)),
        AutoOr::Set(count) => u64::from(count.get()),
    });
    let holds = cost.connections_in(machine.memory()).unwrap_or(NODE_CONNECTIONS_MAX);
    let holds = holds.min(capacity::kept_alive(&cost, machine));
    let nodes = match plan {
        Some(_) => total.div_ceil(holds.clamp(1, NODE_CONNECTIONS_MAX)).max(1),
        None => 1,
    };
    let question = Question { settings, total, connections: total.div_ceil(nodes), cost };
    let mut rows: Vec<Row> = capacity::rows(&question, machine, nodes);
    rows.extend(kernel::rows(&question, machine));
    let fleet = plan.map(|_| Fleet::of(&question, machine, nodes));
    Report::new(machine.clone(), question.connections, rows, fleet)
}

/// The number of shards made definite, by the machine that was read and not by the one this runs on.
fn resolved(settings: &Settings, machine: &Machine) -> Settings {
    let mut settings = settings.clone();
    if settings.shards.count == AutoOr::Auto {
        settings.shards.count =
            NonZeroU32::new(machine.cores.clamp(1, SHARDS_MAX)).map_or(AutoOr::Auto, AutoOr::Set);
    }
    settings
}
