//! Rows about what connections are made of: descriptors, memory, threads and core time. Owns what each of them needs for
//! the connections in question and the line that provides it; the sizes themselves are those of `node::plan`, so that
//! the doctor and the program never disagree.

use std::num::NonZeroU32;

use config::{AutoOr, SHARDS_MAX, Settings};

use super::cost::{self, Cost};
use super::machine::Machine;
use super::report::{Fix, Row, Verdict, grouped, of_cores, plural, size, variable};
use super::{NODE_CONNECTIONS_MAX, Question};
use crate::{app, node};

/// Places where a line belongs.
const UNIT: &str = "systemd unit";
const CONTAINER: &str = "container";

/// Threads beside the shards': the main one and those of the HTTP side, with some to spare.
const OTHER_THREADS: u64 = 8;
/// Files of the rest of the system.
const OTHER_FILES: u64 = 4_096;
/// The largest descriptor limit that is worth a search: the kernel's own bound of `fs.nr_open`.
const DESCRIPTORS_MAX: u64 = 1 << 30;
/// Of the cores, the share that heartbeats alone may take, in thousandths.
const HEARTBEAT_SHARE_MILLI: u64 = 500;
/// The longest `heartbeat.interval` that the configuration takes, in seconds.
const INTERVAL_MAX_S: u64 = 3_600;

/// One row each, in the order in which they bound a node.
pub(super) fn rows(question: &Question, machine: &Machine, nodes: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(configured(question));
    rows.extend(configured_memory(question));
    rows.push(descriptors(question, machine));
    rows.push(nr_open(question, machine));
    rows.push(file_max(question, machine));
    rows.push(memory(question, machine, nodes));
    rows.extend(memory_high(question, machine));
    rows.push(threads(question, machine));
    rows.push(cores(question, machine, nodes));
    rows
}

/// Quiet connections whose heartbeats leave the machine its share for messages.
pub(super) fn kept_alive(cost: &Cost, machine: &Machine) -> u64 {
    cost.kept_alive_by(u64::from(machine.cores) * HEARTBEAT_SHARE_MILLI)
}

/// Connections that the program would take under this descriptor limit, whatever is configured.
pub(super) fn room(settings: &Settings, limit: u64) -> u64 {
    let mut settings = settings.clone();
    settings.limits.connections = AutoOr::Auto;
    // The error says that there is not even one.
    node::plan(&settings, limit, app::runtime_connections(&settings))
        .map_or(0, |plan| u64::from(plan.connections))
}

/// The least descriptor limit under which the program takes so many, of those that the kernel could be given.
pub(super) fn limit_for(settings: &Settings, connections: u64) -> u64 {
    let (mut low, mut high) = (0, DESCRIPTORS_MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        if room(settings, middle) < connections {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The settings with a descriptor table for each shard, and the descriptor limit with which they hold the connections in
/// question: the one there is, with more shards if need be, else a higher one.
pub(super) fn own_tables(question: &Question, limit: u64) -> (Settings, u64) {
    let mut settings = question.settings.clone();
    settings.shards.own_descriptors = true;
    let connections = question.connections.max(1);
    let first = u32::from(node::shards(&settings));
    let mut more = settings.clone();
    for count in (first..=SHARDS_MAX).filter_map(NonZeroU32::new) {
        more.shards.count = AutoOr::Set(count);
        if room(&more, limit) >= connections {
            return (more, limit);
        }
    }
    let raised = limit_for(&settings, connections);
    (settings, raised)
}

/// A number in the file that is less than the plan.
fn configured(question: &Question) -> Option<Row> {
    let AutoOr::Set(count) = question.settings.limits.connections else { return None };
    let (count, needed) = (u64::from(count.get()), question.connections);
    let lacks = count < needed;
    let fixes = if lacks {
        [Fix::keys("limits", &[("connections", &needed)]), Fix::keys("limits", &[("connections", &"auto")])]
            .concat()
    } else {
        Vec::new()
    };
    Some(Row {
        subject: "limits.connections",
        here: grouped(count),
        needed: grouped(needed),
        fits: Some(count),
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: "The configuration refuses more with 503.",
        fixes,
    })
}

/// A limit of memory in the file that the plan would meet.
fn configured_memory(question: &Question) -> Option<Row> {
    let limit = question.settings.node_limits.memory?.as_u64();
    let cost = &question.cost;
    let (full, quiet) =
        (cost.of_process(question.connections), cost.of_process(question.connections) - cost.backlog_bytes);
    let verdict = match (quiet >= limit, full >= limit) {
        (true, _) => Verdict::Lacks,
        (false, true) => Verdict::Tight,
        (false, false) => Verdict::Good,
    };
    let mib = full / (1 << 20) + 1;
    let fixes = Fix::keys("limits.node", &[("memory", &format!("{mib}MiB").as_str())]);
    Some(Row {
        subject: "limits.node.memory",
        here: size(limit),
        needed: size(full),
        fits: Some(limit / (cost.each() - cost.kernel_bytes)),
        verdict,
        why: "Beyond it new connections are refused with 503. Needed with full backlogs; the empty process comes on top.",
        fixes: if verdict == Verdict::Good { Vec::new() } else { fixes.to_vec() },
    })
}

fn descriptors(question: &Question, machine: &Machine) -> Row {
    const WHY: &str = "Each connection is a descriptor; beyond the limit the program refuses to start.";
    let Question { settings, connections, .. } = question;
    let Some(limit) = machine.descriptors else { return Row::unknown("descriptors", WHY) };
    let shards = node::shards(settings);
    let fits = room(settings, limit);
    let lacks = fits < *connections || fits == 0;
    let needed = limit_for(settings, (*connections).max(1));
    Row {
        subject: "descriptors",
        here: if settings.shards.own_descriptors {
            format!("{} in each of {shards} tables", grouped(limit))
        } else {
            format!("{} in one table", grouped(limit))
        },
        needed: grouped(needed),
        fits: Some(fits),
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: WHY,
        fixes: if lacks { more_descriptors(question, machine, limit, needed) } else { Vec::new() },
    }
}

fn more_descriptors(question: &Question, machine: &Machine, limit: u64, needed: u64) -> Vec<Fix> {
    let mut fixes = Vec::new();
    let own = question.settings.shards.own_descriptors;
    let (settings, own_limit) = own_tables(question, limit);
    let count = node::shards(&settings);
    // No table can be larger than fs.nr_open, and raising that is the last resort.
    let only_way = own && own_limit != limit;
    if only_way || machine.setting("fs.nr_open").is_none_or(|most| needed <= most) {
        fixes.push(Fix::new(UNIT, format!("LimitNOFILE={needed}")));
        fixes.push(Fix::new(CONTAINER, format!("--ulimit nofile={needed}:{needed}")));
        fixes.push(Fix::new("root's shell", format!("ulimit -Hn {needed}")));
    }
    if own_limit == limit {
        fixes.extend(Fix::keys("shards", &[("own_descriptors", &true), ("count", &count)]));
    } else if !own {
        let own = variable("shards", "own_descriptors", &true);
        fixes.push(Fix::new(UNIT, format!("LimitNOFILE={own_limit}\nEnvironment={own}")));
        fixes.push(Fix::new(CONTAINER, format!("--ulimit nofile={own_limit}:{own_limit} --env {own}")));
    }
    fixes
}

/// In the way only where every way to more descriptors goes by a limit above it.
fn nr_open(question: &Question, machine: &Machine) -> Row {
    const WHY: &str = "No descriptor limit can be raised above it.";
    let (Some(here), Some(limit)) = (machine.setting("fs.nr_open"), machine.descriptors) else {
        return Row::unknown("fs.nr_open", WHY);
    };
    let enough = room(&question.settings, limit) >= question.connections;
    let needed = if enough { limit } else { own_tables(question, limit).1 };
    let lacks = !enough && needed > here;
    Row {
        subject: "fs.nr_open",
        here: grouped(here),
        needed: grouped(needed),
        fits: None,
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: WHY,
        fixes: if lacks { vec![Fix::sysctl("fs.nr_open", needed)] } else { Vec::new() },
    }
}

fn file_max(question: &Question, machine: &Machine) -> Row {
    const WHY: &str = "All open files of the machine together; only root may go beyond.";
    let Some(here) = machine.setting("fs.file-max") else { return Row::unknown("fs.file-max", WHY) };
    let needed = question.connections.saturating_add(OTHER_FILES);
    let lacks = here < needed;
    Row {
        subject: "fs.file-max",
        here: if here > i64::MAX as u64 / 2 { "unbounded".to_owned() } else { grouped(here) },
        needed: grouped(needed),
        fits: Some(here.saturating_sub(OTHER_FILES)),
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: WHY,
        fixes: if lacks { vec![Fix::sysctl("fs.file-max", needed * 2)] } else { Vec::new() },
    }
}

fn memory(question: &Question, machine: &Machine, nodes: u64) -> Row {
    const WHY: &str =
        "A connection is its record, its channels and about 4 KB of the kernel; too many end the process.";
    let Some(memory) = machine.memory() else { return Row::unknown("memory", WHY) };
    let cost = &question.cost;
    let fits = cost.connections_in(Some(memory)).unwrap_or(0).min(NODE_CONNECTIONS_MAX);
    let needed = cost::memory_for(cost.of_node(question.total));
    let grouped_memory = machine.cgroup_memory_bytes == Some(memory);
    let lacks = fits < question.total;
    let mut fixes = Vec::new();
    if lacks {
        if grouped_memory && machine.memory_bytes.is_none_or(|physical| physical >= needed) {
            let mib = needed.div_ceil(1 << 20);
            fixes.push(Fix::new(UNIT, format!("MemoryMax={mib}M")));
            fixes.push(Fix::new(CONTAINER, format!("--memory={mib}m")));
        }
        if nodes > 1 {
            fixes.push(more_machines(question, nodes));
        } else {
            fixes.extend(Fix::keys("limits", &[("connections", &fits.max(1))]));
        }
    }
    Row {
        subject: "memory",
        here: format!("{}{}", size(memory), if grouped_memory { " (memory.max)" } else { "" }),
        needed: size(needed),
        fits: Some(fits),
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: WHY,
        fixes,
    }
}

/// Nothing where no control group is slowed down before its limit.
fn memory_high(question: &Question, machine: &Machine) -> Option<Row> {
    let here = machine.cgroup_memory_high_bytes?;
    let needed = cost::memory_for(question.cost.of_node(question.connections));
    let short = here < needed;
    Some(Row {
        subject: "memory.high",
        here: size(here),
        needed: size(needed),
        fits: None,
        verdict: if short { Verdict::Tight } else { Verdict::Good },
        why: "Beyond it the kernel stalls the process to take memory back, and what connections take cannot be taken back.",
        fixes: if short {
            vec![Fix::new(UNIT, format!("MemoryHigh={}M", needed.div_ceil(1 << 20)))]
        } else {
            Vec::new()
        },
    })
}

fn threads(question: &Question, machine: &Machine) -> Row {
    let needed = u64::from(node::shards(&question.settings)) + OTHER_THREADS;
    let lacks = machine.cgroup_pids.is_some_and(|most| most < needed);
    let fixes = if lacks {
        vec![
            Fix::new(UNIT, format!("TasksMax={needed}")),
            Fix::new(CONTAINER, format!("--pids-limit={needed}")),
        ]
    } else {
        Vec::new()
    };
    Row {
        subject: "pids.max",
        here: machine.cgroup_pids.map_or_else(|| "no limit".to_owned(), grouped),
        needed: grouped(needed),
        fits: None,
        verdict: if lacks { Verdict::Lacks } else { Verdict::Good },
        why: "Each shard is a thread, and the HTTP side has some; one that cannot be made ends the start.",
        fixes,
    }
}

/// Like the row of memory about all connections of the plan: what is spread over more nodes does not fit on this one.
fn cores(question: &Question, machine: &Machine, nodes: u64) -> Row {
    let Question { total, ref cost, .. } = *question;
    let cores = u64::from(machine.cores);
    let needed = cost.heartbeat_millicores(total);
    let fits = cost.kept_alive_by(cores * 1_000).min(NODE_CONNECTIONS_MAX);
    let verdict = match (fits < total, kept_alive(cost, machine) < total) {
        (true, _) => Verdict::Lacks,
        (false, true) => Verdict::Tight,
        (false, false) => Verdict::Good,
    };
    let mut fixes = Vec::new();
    if verdict != Verdict::Good {
        let interval_s = cost::interval_s(total, cores * HEARTBEAT_SHARE_MILLI);
        if interval_s <= INTERVAL_MAX_S {
            fixes.extend(Fix::keys("heartbeat", &[("interval", &format!("{interval_s}s").as_str())]));
        }
        fixes.push(Fix::new("larger machine", format!("{} cores", needed.div_ceil(HEARTBEAT_SHARE_MILLI))));
        if nodes > 1 {
            fixes.push(more_machines(question, nodes));
        } else if verdict == Verdict::Lacks {
            fixes.extend(Fix::keys("limits", &[("connections", &fits.max(1))]));
        }
    }
    Row {
        subject: "cores",
        here: format!("{cores} core{}", plural(cores)),
        needed: format!("{} for heartbeats", of_cores(needed)),
        fits: Some(fits),
        verdict,
        why: "Pings and pongs of quiet connections should leave at least half of the machine for messages; beyond all of \
              it they come late, and whoever waits for them leaves.",
        fixes,
    }
}

fn more_machines(question: &Question, nodes: u64) -> Fix {
    Fix::new("more machines", format!("{nodes} like this one, with {} each", grouped(question.connections)))
}
