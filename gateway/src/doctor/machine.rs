//! What a machine offers: limits, kernel settings, memory, cores and control groups, read once from files below a root.
//! Owns their places and spellings; refuses to judge them. What is not there, or not for us to read, is `None`, never a
//! default. The root is an argument, so that a test can hand over a tree of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

/// Kernel settings that are read, by the names that sysctl has for them.
const SETTINGS: [&str; 13] = [
    "fs.file-max",
    "fs.nr_open",
    "net.core.netdev_max_backlog",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_child_ehash_entries",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_syncookies",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
];

/// Where the second version of control groups is mounted: alone, or beside the first one.
const CGROUP_MOUNTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];

/// One machine, as the calling process sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The kernel's release.
    pub(super) kernel: Option<String>,
    /// Cores this process may use: its affinity, and the quota of its control groups; 1 at least.
    pub(super) cores: u32,
    /// Physical memory.
    pub(super) memory_bytes: Option<u64>,
    /// The least `memory.max` of the process's control groups.
    pub(super) cgroup_memory_bytes: Option<u64>,
    /// The least `memory.high` of the process's control groups.
    pub(super) cgroup_memory_high_bytes: Option<u64>,
    /// The least `pids.max` of the process's control groups.
    pub(super) cgroup_pids: Option<u64>,
    /// The hard descriptor limit of the process.
    pub(super) descriptors: Option<u64>,
    /// Bytes of a page, the unit of some settings.
    pub(super) page_bytes: u64,
    /// Kernel settings by name; some have several numbers.
    pub(super) settings: BTreeMap<&'static str, Vec<u64>>,
    /// Ports that no outgoing connection gets by chance, as ranges.
    pub(super) reserved_ports: Option<Vec<(u32, u32)>>,
}

impl Machine {
    /// Reads everything below `root`, which is `/` for the machine at hand.
    pub(super) fn read(root: &Path, page_bytes: u64) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let groups = text("proc/self/cgroup").map_or_else(Vec::new, |text| group_folders(root, &text));
        let least = |file: &str| groups.iter().filter_map(|group| number_in(&group.join(file))).min();
        let allowed = text("proc/self/status")
            .and_then(|status| field(&status, "Cpus_allowed_list:").and_then(listed))
            .unwrap_or(1);
        let quota = groups.iter().filter_map(|group| quota_in(&group.join("cpu.max"))).min();
        let settings = SETTINGS.iter().filter_map(|name| {
            let numbers = numbers(&text(&format!("proc/sys/{}", name.replace('.', "/")))?)?;
            Some((*name, numbers))
        });
        Self {
            kernel: text("proc/sys/kernel/osrelease").map(|release| release.trim().to_owned()),
            cores: allowed.min(quota.unwrap_or(u32::MAX)).max(1),
            memory_bytes: text("proc/meminfo")
                .and_then(|info| field(&info, "MemTotal:")?.strip_suffix("kB")?.trim().parse::<u64>().ok())
                .map(|kib| kib.saturating_mul(1024)),
            cgroup_memory_bytes: least("memory.max"),
            cgroup_memory_high_bytes: least("memory.high"),
            cgroup_pids: least("pids.max"),
            descriptors: text("proc/self/limits").as_deref().and_then(hard_descriptors),
            page_bytes,
            settings: settings.collect(),
            reserved_ports: text("proc/sys/net/ipv4/ip_local_reserved_ports").as_deref().and_then(ranges),
        }
    }

    /// A setting's first number.
    pub(super) fn setting(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.first().copied()
    }

    /// Memory this process may use, in bytes: what there is, or what its control groups leave of it.
    pub(super) fn memory(&self) -> Option<u64> {
        [self.memory_bytes, self.cgroup_memory_bytes].into_iter().flatten().min()
    }
}

/// What stands behind a name at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// `Max open files   SOFT   HARD   files`
fn hard_descriptors(limits: &str) -> Option<u64> {
    match field(limits, "Max open files")?.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// A list such as `0-3,8`; it may be empty.
fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    };
    list.split(',').filter(|range| !range.trim().is_empty()).map(range).collect()
}

/// How many a list names.
fn listed(list: &str) -> Option<u32> {
    let ranges = ranges(list)?;
    let count =
        |count: u32, (first, last): &(u32, u32)| count.saturating_add((last - first).saturating_add(1));
    (!ranges.is_empty()).then(|| ranges.iter().fold(0, count))
}

/// The numbers of a settings file. A sign says that a table is another namespace's, and is dropped.
fn numbers(text: &str) -> Option<Vec<u64>> {
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|number| number.trim_start_matches('-').parse().ok())
        .collect::<Option<_>>()?;
    (!numbers.is_empty()).then_some(numbers)
}

/// The folder of the process's group and of each one above it.
fn group_folders(root: &Path, cgroup: &str) -> Vec<PathBuf> {
    let Some(path) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    // A group outside the namespace is shown by way of `..`: what is above cannot be read, so it has no folder.
    let names: Vec<_> = Path::new(path)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let depths = 0..=names.len();
    let folders = CGROUP_MOUNTS.iter().flat_map(|mount| {
        let names = &names;
        depths.clone().map(move |depth| {
            let mut folder = root.join(mount);
            folder.extend(&names[..depth]);
            folder
        })
    });
    folders.collect()
}

/// A limit of a group; `max` is none.
fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Whole cores that `QUOTA PERIOD` stands for, 1 at least.
fn quota_in(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let cores = quota.parse::<u64>().ok()?.checked_div(period.parse().ok()?)?;
    Some(u32::try_from(cores).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Machine {
        Machine::read(tree(files).path(), 4096)
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let machine = read(&[
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   20000   files\n",
            ),
            ("proc/meminfo", "MemTotal:       24683672 kB\nMemFree:  1 kB\n"),
            ("proc/self/status", "Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3,8\n"),
            ("proc/sys/kernel/osrelease", "6.18.1\n"),
            ("proc/sys/net/ipv4/tcp_mem", "287895\t383862\t575790\n"),
            ("proc/sys/net/ipv4/tcp_ehash_entries", "-262144\n"),
            ("proc/sys/fs/file-max", "9223372036854775807\n"),
            ("proc/sys/net/ipv4/ip_local_reserved_ports", "8080,9000-9100\n"),
        ]);
        assert_eq!(machine.reserved_ports, Some(vec![(8_080, 8_080), (9_000, 9_100)]));
        assert_eq!(machine.descriptors, Some(20_000));
        assert_eq!((machine.memory_bytes, machine.memory()), (Some(25_276_080_128), Some(25_276_080_128)));
        assert_eq!((machine.cores, machine.kernel.as_deref()), (5, Some("6.18.1")));
        assert_eq!(machine.settings["net.ipv4.tcp_mem"], [287_895, 383_862, 575_790]);
        assert_eq!(machine.setting("net.ipv4.tcp_ehash_entries"), Some(262_144), "shared with the first one");
        assert_eq!(machine.setting("fs.file-max"), Some(i64::MAX as u64));
        assert_eq!(machine.setting("net.netfilter.nf_conntrack_max"), None);
    }

    #[test]
    fn the_tightest_control_group_on_the_way_up_counts() {
        let machine = read(&[
            ("proc/self/cgroup", "4:memory:/elsewhere\n0::/system.slice/gateway.service\n"),
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/meminfo", "MemTotal: 8388608 kB\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/system.slice/gateway.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.high", "max\n"),
            ("sys/fs/cgroup/system.slice/gateway.service/memory.high", "805306368\n"),
            ("sys/fs/cgroup/system.slice/gateway.service/pids.max", "64\n"),
            ("sys/fs/cgroup/system.slice/gateway.service/cpu.max", "250000 100000\n"),
        ]);
        assert_eq!((machine.cgroup_memory_bytes, machine.memory()), (Some(1 << 30), Some(1 << 30)));
        assert_eq!(machine.cgroup_memory_high_bytes, Some(768 << 20));
        assert_eq!((machine.cgroup_pids, machine.cores), (Some(64), 2));
    }

    #[test]
    fn a_group_mounted_beside_the_old_ones_or_outside_the_namespace_is_found() {
        let machine = read(&[
            ("proc/self/cgroup", "0::/../../here\n"),
            ("sys/fs/cgroup/unified/here/pids.max", "12\n"),
        ]);
        assert_eq!(machine.cgroup_pids, Some(12));
    }

    #[test]
    fn what_is_missing_or_nonsense_is_unknown_and_not_zero() {
        assert_eq!(read(&[]), Machine { cores: 1, page_bytes: 4096, ..Machine::default() });
        let nobody = read(&[("proc/sys/net/ipv4/ip_local_reserved_ports", "\n")]);
        assert_eq!(nobody.reserved_ports, Some(Vec::new()));
        let machine = read(&[
            ("proc/self/limits", "Max open files\n"),
            ("proc/meminfo", "MemTotal: much\n"),
            ("proc/self/status", "Cpus_allowed_list:\t3-1,x\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("proc/sys/fs/nr_open", "\n"),
            ("sys/fs/cgroup/cpu.max", "1 0\n"),
        ]);
        assert_eq!(machine, Machine { cores: 1, page_bytes: 4096, ..Machine::default() });
    }

    #[test]
    fn the_machine_at_hand_can_be_read() {
        let machine = Machine::read(Path::new("/"), 4096);
        assert!(machine.descriptors.is_some() && machine.memory().is_some() && machine.cores >= 1);
        assert!(machine.setting("net.core.somaxconn").is_some());
    }
}
