//! The examination over machines that are written down here: what fits, what lacks, and that each line it prints does
//! mend what it stands under. The files of `deploy/sysctl.d` are held to the same table.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::report::{Fix, Verdict};
use super::*;

/// Four cores, 24 GiB, and whatever a distribution sets; nobody tracks connections.
fn machine() -> Machine {
    let settings: [(&str, &[u64]); 9] = [
        ("fs.file-max", &[i64::MAX as u64]),
        ("fs.nr_open", &[1_048_576]),
        ("net.core.netdev_max_backlog", &[16_384]),
        ("net.core.somaxconn", &[16_384]),
        ("net.ipv4.ip_local_port_range", &[32_768, 60_999]),
        ("net.ipv4.tcp_abort_on_overflow", &[0]),
        ("net.ipv4.tcp_ehash_entries", &[1 << 24]),
        ("net.ipv4.tcp_mem", &[2_000_000, 3_000_000, 4_000_000]),
        ("net.ipv4.tcp_syncookies", &[1]),
    ];
    Machine {
        kernel: Some("6.18.0".to_owned()),
        cores: 4,
        memory_bytes: Some(24 << 30),
        descriptors: Some(1_048_576),
        page_bytes: 4096,
        settings: settings.iter().map(|(name, numbers)| (*name, numbers.to_vec())).collect(),
        ..Machine::default()
    }
}

/// The same with one setting changed.
fn machine_with(name: &'static str, numbers: &[u64]) -> Machine {
    let mut machine = machine();
    machine.settings.insert(name, numbers.to_vec());
    machine
}

fn settings(text: &str) -> Settings {
    config::load(text, []).unwrap()
}

fn row(report: &Report, subject: &str) -> Row {
    report.rows.iter().find(|row| row.subject == subject).unwrap_or_else(|| panic!("no {subject}")).clone()
}

fn lines(row: &Row) -> Vec<&str> {
    row.fixes.iter().map(|fix| fix.line.as_str()).collect()
}

/// The number behind `name` in a line to copy.
fn number(fixes: &[Fix], name: &str) -> u64 {
    let text = fixes.iter().find_map(|fix| fix.line.lines().find_map(|line| line.strip_prefix(name)));
    text.unwrap_or_else(|| panic!("no {name} in {fixes:?}")).parse().unwrap()
}

/// The file with every key in it, edited as a row says: each line in place of the one that has its key, in its section.
fn edited(fix: &Fix) -> String {
    let section =
        fix.place.strip_suffix(" of the configuration").unwrap_or_else(|| panic!("no file: {fix:?}"));
    let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
    let (mut inside, mut out, mut left) = (false, String::new(), fix.line.lines().collect::<Vec<&str>>());
    for line in include_str!("../../../config/gateway.toml").lines() {
        inside = if line.starts_with('[') { line == section } else { inside };
        let place = left.iter().position(|new| inside && key(line).is_some() && key(new) == key(line));
        out += place.map_or(line, |place| left.remove(place));
        out.push('\n');
    }
    assert!(left.is_empty(), "{left:?} of {section}");
    out
}

/// The settings with a row's line in that file, and the same ones with it as variables.
#[track_caller]
fn mended(row: &Row) -> Settings {
    let of = |text: &str| row.fixes.iter().find(|fix| fix.place.contains(text)).unwrap();
    let from_file = settings(&edited(of("configuration")));
    let variables = of("environment").line.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let reference = include_str!("../../../config/gateway.toml");
    assert_eq!(config::load(reference, variables).unwrap(), from_file, "{row:?}");
    from_file
}

#[test]
fn lines_for_the_configuration_mend_the_file_that_has_every_key_already() {
    let low = Machine { descriptors: Some(20_000), ..machine() };
    let small = Machine { memory_bytes: Some(2 << 30), ..machine() };
    for (subject, text, machine, plan) in [
        ("descriptors", "", &low, Some(70_000)),
        ("limits.connections", "[limits]\nconnections = 17", &machine(), Some(18)),
        ("limits.node.memory", "[limits.node]\nmemory = '1MiB'", &machine(), Some(1_000)),
        ("memory", "[limits]\nconnections = 1000000", &small, None),
        ("cores", "[heartbeat]\ninterval = '1s'", &machine(), Some(1_000_000)),
    ] {
        let before = diagnose(&settings(text), machine, plan);
        assert!(row(&before, subject).verdict >= Verdict::Tight, "{subject}");
        let after = diagnose(&mended(&row(&before, subject)), machine, plan);
        let absent = after.rows.iter().all(|row| row.subject != subject);
        assert!(absent || row(&after, subject).verdict == Verdict::Good, "{subject}: {}", after.table());
    }
}

#[test]
fn a_machine_that_suffices_has_nothing_to_mend() {
    let report = diagnose(&settings("[limits]\nconnections = 1000000"), &machine(), None);
    let wanting: Vec<&Row> = report.rows.iter().filter(|row| row.verdict != Verdict::Good).collect();
    assert!(wanting.is_empty() && report.is_good(), "{wanting:?}");
    assert_eq!((report.fits, report.bounded_by), (Some(1_000_000), Some("limits.connections")));
    assert!(report.plan.is_none() && !report.table().contains("fix"));
}

#[test]
fn the_number_of_connections_is_the_one_that_the_program_takes() {
    let machine = Machine { descriptors: Some(20_000), ..machine() };
    let report = diagnose(&Settings::default(), &machine, None);
    // Four shards, as the machine has cores, whatever runs this test.
    assert_eq!((report.connections, report.fits), (20_000 - 64 - 8 - 1_024, Some(18_904)));
    let own = diagnose(&settings("[shards]\nown_descriptors = true"), &machine, None);
    assert_eq!(own.connections, 77_320);
}

#[test]
fn a_descriptor_limit_that_is_too_low_is_mended_by_each_of_its_lines() {
    let low = Machine { descriptors: Some(20_000), ..machine() };
    let asked = settings("[limits]\nconnections = 1000000");
    let report = diagnose(&asked, &low, None);
    let lacking = row(&report, "descriptors");
    assert_eq!((lacking.verdict, report.is_good()), (Verdict::Lacks, false));
    let limit = number(&lacking.fixes, "LimitNOFILE=");
    assert_eq!(limit, number(&lacking.fixes, "ulimit -Hn "));
    assert!(lines(&lacking).contains(&format!("--ulimit nofile={limit}:{limit}").as_str()));
    let with = |limit| diagnose(&asked, &Machine { descriptors: Some(limit), ..machine() }, None).is_good();
    assert!(with(limit) && !with(limit - 1), "the least that suffices");

    let count = number(&lacking.fixes, "count = ");
    assert!(lines(&lacking).iter().any(|line| line.starts_with("own_descriptors = true\n")));
    let own = |count: u64| {
        let text =
            format!("shards.own_descriptors = true\nshards.count = {count}\n[limits]\nconnections = 1000000");
        diagnose(&settings(&text), &low, None).is_good()
    };
    assert!(own(count) && !own(count - 1));
}

#[test]
fn beyond_nr_open_tables_of_their_own_are_the_first_way() {
    let report = diagnose(&Settings::default(), &machine(), Some(3_000_000));
    let lacking = row(&report, "descriptors");
    assert_eq!(lines(&lacking)[0], "own_descriptors = true\ncount = 4");
    assert_eq!(row(&report, "fs.nr_open").verdict, Verdict::Good);

    let low = Machine { descriptors: Some(20_000), ..machine() };
    let report = diagnose(&Settings::default(), &low, Some(3_000_000));
    let lacking = row(&report, "descriptors");
    assert_eq!(lacking.fixes.len(), 2, "more than 128 tables of 20,000: {lacking:?}");
    let limit = number(&lacking.fixes, "LimitNOFILE=");
    assert_eq!(lines(&lacking)[0].lines().nth(1), Some("Environment=GATEWAY__SHARDS__OWN_DESCRIPTORS=true"));
    assert!(lines(&lacking)[1].ends_with(" --env GATEWAY__SHARDS__OWN_DESCRIPTORS=true"), "{lacking:?}");
    let raised = Machine { descriptors: Some(limit), ..machine() };
    assert!(diagnose(&settings("[shards]\nown_descriptors = true"), &raised, Some(3_000_000)).is_good());

    let closed = Machine { descriptors: Some(20_000), ..machine_with("fs.nr_open", &[20_000]) };
    let report = diagnose(&Settings::default(), &closed, Some(3_000_000));
    let nr_open = row(&report, "fs.nr_open");
    assert_eq!(
        (nr_open.verdict, lines(&nr_open)),
        (Verdict::Lacks, vec![format!("sysctl -w fs.nr_open={limit}").as_str()])
    );
}

#[test]
fn a_limit_above_nr_open_that_is_there_already_is_enough() {
    let inherited = machine_with("fs.nr_open", &[4_096]);
    let report = diagnose(&settings("[limits]\nconnections = 500000"), &inherited, None);
    assert!(report.is_good(), "{}", report.table());
}

#[test]
fn memory_bounds_what_descriptors_would_allow() {
    let small = Machine { memory_bytes: Some(2 << 30), ..machine() };
    let report = diagnose(&Settings::default(), &small, None);
    let lacking = row(&report, "memory");
    assert_eq!((lacking.verdict, report.bounded_by), (Verdict::Lacks, Some("memory")));
    let fits = number(&lacking.fixes, "connections = ");
    assert_eq!(report.fits, Some(fits));
    let with =
        |count: u64| diagnose(&settings(&format!("limits.connections = {count}")), &small, None).is_good();
    assert!(with(fits) && !with(fits + 1));
}

#[test]
fn a_control_group_is_widened_where_the_machine_has_more() {
    let narrow = Machine { cgroup_memory_bytes: Some(1 << 30), cgroup_pids: Some(5), ..machine() };
    let report = diagnose(&settings("[limits]\nconnections = 500000"), &narrow, None);
    let memory = row(&report, "memory");
    assert!(memory.here.contains("memory.max"), "{memory:?}");
    let mib: u64 =
        lines(&memory)[0].strip_prefix("MemoryMax=").unwrap().strip_suffix('M').unwrap().parse().unwrap();
    let threads = number(&row(&report, "pids.max").fixes, "TasksMax=");
    let widened = Machine { cgroup_memory_bytes: Some(mib << 20), cgroup_pids: Some(threads), ..machine() };
    assert!(diagnose(&settings("[limits]\nconnections = 500000"), &widened, None).is_good());
}

#[test]
fn a_plan_says_nodes_shards_memory_and_joins() {
    let low = Machine { descriptors: Some(20_000), ..machine() };
    let plan = diagnose(&Settings::default(), &low, Some(2_000_000)).plan.unwrap();
    assert_eq!((plan.nodes, plan.connections_per_node, plan.own_descriptors), (1, 2_000_000, true));
    assert_eq!((plan.shards, plan.descriptors), (105, 20_000), "ninety-seven hundredths of each table");
    // Two million of 4,146 bytes and the backlog, of which nine tenths are planned with.
    let bytes: u64 = 2_000_000 * (64 + 20 + 32 + 4_030) + (256 << 20);
    assert!(plan.memory_bytes_per_node.abs_diff(bytes * 10 / 9) <= 200, "{plan:?}");
    assert_eq!(
        (plan.return_ms, plan.handshakes_per_second, plan.bus_joins_per_second),
        (8_000, 250_000, 250_000)
    );
    let few = diagnose(&Settings::default(), &low, Some(10_000)).plan.unwrap();
    assert_eq!((few.return_ms, few.bus_joins_per_second, few.own_descriptors), (5_000, 2_000, false));
}

#[test]
fn what_one_machine_cannot_hold_is_spread_evenly_and_still_told() {
    let slow = "[shards]\nown_descriptors = true\n[heartbeat]\ninterval = '60s'";
    let report = diagnose(&settings(slow), &machine(), Some(9_000_000));
    let plan = report.plan.clone().unwrap();
    assert_eq!((plan.nodes, plan.connections_per_node, report.connections), (2, 4_500_000, 4_500_000));
    assert!(!report.is_good() && row(&report, "memory").verdict == Verdict::Lacks);
    assert!(lines(&row(&report, "memory"))[0].starts_with("2 like this one, with 4,500,000 each"));
    let of_one_node = row(&report, "descriptors");
    assert_eq!(lines(&of_one_node)[0], "own_descriptors = true\ncount = 5");
    assert_eq!((plan.shards, plan.descriptors), (5, 1_048_576));
    let one = diagnose(&Settings::default(), &Machine { memory_bytes: Some(1 << 20), ..machine() }, Some(7));
    assert!(!one.is_good(), "no memory at all is no reason to divide by nothing");
}

#[test]
fn a_configured_bound_below_the_plan_is_told() {
    let report = diagnose(&settings("[limits]\nconnections = 17"), &machine(), Some(18));
    assert_eq!(lines(&row(&report, "limits.connections"))[0], "connections = 18");
    assert!(!report.is_good() && report.fits == Some(17));
}

#[test]
fn a_configured_limit_of_memory_is_held_against_the_plan_with_and_without_full_backlogs() {
    let verdict = |memory: &str, plan| {
        let report =
            diagnose(&settings(&format!("[limits.node]\nmemory = '{memory}'")), &machine(), Some(plan));
        let row = row(&report, "limits.node.memory");
        assert_eq!(row.fixes.is_empty(), row.verdict == Verdict::Good);
        row.verdict
    };
    // A thousand connections are 116 kB of the process, and all backlogs 256 MiB.
    assert_eq!(verdict("1GiB", 1000), Verdict::Good);
    assert_eq!(verdict("200MiB", 1000), Verdict::Tight);
    assert_eq!(verdict("1MiB", 10_000), Verdict::Lacks);
}

#[test]
fn each_kernel_setting_that_falls_short_has_its_line() {
    for (name, here, line) in [
        ("net.core.somaxconn", 128, "sysctl -w net.core.somaxconn=16384"),
        ("net.core.netdev_max_backlog", 1_000, "sysctl -w net.core.netdev_max_backlog=16384"),
        ("net.ipv4.tcp_syncookies", 0, "sysctl -w net.ipv4.tcp_syncookies=1"),
        ("net.ipv4.tcp_abort_on_overflow", 1, "sysctl -w net.ipv4.tcp_abort_on_overflow=0"),
    ] {
        let report = diagnose(&settings("[limits]\nconnections = 20000"), &machine_with(name, &[here]), None);
        let tight = row(&report, name);
        assert_eq!((tight.verdict, lines(&tight)), (Verdict::Tight, vec![line]));
        assert!(report.is_good(), "{name} keeps nobody out");
        let few = diagnose(&settings("[limits]\nconnections = 500"), &machine_with(name, &[here]), None);
        let expected = if name == "net.core.somaxconn" { Verdict::Tight } else { Verdict::Good };
        assert_eq!(row(&few, name).verdict, expected, "the default will do for a few: {name}");
    }
    let deep = settings("[listen]\nbacklog = 50000");
    assert_eq!(
        lines(&row(&diagnose(&deep, &machine(), None), "net.core.somaxconn")),
        ["sysctl -w net.core.somaxconn=50000"]
    );
}

#[test]
fn the_memory_of_sockets_gets_what_the_sockets_leave() {
    let name = "net.ipv4.tcp_mem";
    let low = machine_with(name, &[1, 2, 3]);
    let report = diagnose(&settings("[limits]\nconnections = 1000000"), &low, None);
    assert_eq!(lines(&row(&report, name)), ["sysctl -w net.ipv4.tcp_mem=\"500000 666666 1000000\""]);
    // A page for each of four million does not fit beside their sockets.
    let own = settings("[shards]\nown_descriptors = true\n[heartbeat]\ninterval = '60s'");
    let many = diagnose(&own, &low, Some(4_000_000));
    let line = row(&many, name).fixes[0].line.clone();
    let pages: u64 = line.trim_end_matches('"').rsplit(' ').next().unwrap().parse().unwrap();
    let sockets = Cost::of(&own).of_node(4_000_000);
    assert!(pages < 4_000_000 && pages * 4096 + sockets <= cost::usable(24 << 30), "{line}");
}

#[test]
fn a_small_table_of_sockets_is_tight() {
    let mut small = machine_with("net.ipv4.tcp_ehash_entries", &[262_144]);
    let settings = settings("[limits]\nconnections = 1048577");
    let name = "net.ipv4.tcp_ehash_entries";
    assert_eq!(row(&diagnose(&settings, &small, None), name).verdict, Verdict::Good, "four in a bucket");
    let report = diagnose(&Settings::default(), &small, Some(3_000_000));
    assert_eq!(lines(&row(&report, name)), ["thash_entries=4194304"]);
    small.settings.insert("net.ipv4.tcp_child_ehash_entries", vec![0]);
    let report = diagnose(&Settings::default(), &small, Some(3_000_000));
    assert_eq!(lines(&row(&report, name))[1], "sysctl -w net.ipv4.tcp_child_ehash_entries=4194304");
}

#[test]
fn a_firewall_that_tracks_connections_bounds_them() {
    let name = "net.netfilter.nf_conntrack_max";
    let settings = settings("[limits]\nconnections = 500000");
    let has_row =
        |machine: &Machine| diagnose(&settings, machine, None).rows.iter().any(|row| row.subject == name);
    assert!(!has_row(&machine()), "no conntrack, no row");
    let mut tracking = machine_with(name, &[262_144]);
    let report = diagnose(&settings, &tracking, None);
    assert_eq!((row(&report, name).verdict, report.is_good()), (Verdict::Tight, true), "there, but idle");
    tracking.settings.insert("net.netfilter.nf_conntrack_count", vec![12]);
    let report = diagnose(&settings, &tracking, None);
    assert_eq!((report.fits, report.bounded_by), (Some(262_144), Some(name)));
    assert!(lines(&row(&report, name))[1].starts_with("iptables "));
    assert!(lines(&row(&report, name))[1].contains("--dport 8080 -j CT --notrack"));
    let most = number(&row(&report, name).fixes, "sysctl -w net.netfilter.nf_conntrack_max=");
    tracking.settings.insert(name, vec![most]);
    assert!(diagnose(&settings, &tracking, None).is_good());
}

#[test]
fn a_table_of_tracked_connections_gets_as_many_chains_and_rules_are_for_what_reaches_the_listener() {
    let name = "net.netfilter.nf_conntrack_max";
    let mut tracking = machine_with(name, &[262_144]);
    tracking.settings.insert("net.netfilter.nf_conntrack_buckets", vec![262_144]);
    let ways = |address: &str| {
        let text = format!("[listen]\naddress = '{address}'\n[limits]\nconnections = 500000");
        let row = row(&diagnose(&settings(&text), &tracking, None), name);
        (row.fixes[0].line.clone(), row.fixes[1].line.clone())
    };
    let (tables, both) = ways("[::]:443");
    assert_eq!(
        tables,
        "sysctl -w net.netfilter.nf_conntrack_buckets=625000\nsysctl -w net.netfilter.nf_conntrack_max=625000"
    );
    let of = |rules: &str| {
        let mut programs: Vec<String> =
            rules.lines().filter_map(|rule| Some(rule.split_once(' ')?.0.to_owned())).collect();
        programs.dedup();
        assert!(rules.lines().all(|rule| rule.contains("port 443 ")), "{rules}");
        programs
    };
    assert_eq!(of(&both), ["iptables", "ip6tables"]);
    assert_eq!(
        (of(&ways("0.0.0.0:443").1), of(&ways("[::1]:443").1)),
        (vec!["iptables".into()], vec!["ip6tables".into()])
    );
}

#[test]
fn a_control_group_that_is_slowed_down_before_its_limit_is_tight() {
    let asked = settings("[limits]\nconnections = 500000");
    let throttled = Machine { cgroup_memory_high_bytes: Some(1 << 30), ..machine() };
    let report = diagnose(&asked, &throttled, None);
    assert_eq!((row(&report, "memory.high").verdict, report.is_good()), (Verdict::Tight, true));
    let line = row(&report, "memory.high").fixes[0].line.clone();
    let mib: u64 = line.strip_prefix("MemoryHigh=").unwrap().strip_suffix('M').unwrap().parse().unwrap();
    let with = |mib: u64| {
        let machine = Machine { cgroup_memory_high_bytes: Some(mib << 20), ..machine() };
        row(&diagnose(&asked, &machine, None), "memory.high").verdict
    };
    assert_eq!((with(mib), with(mib - 1)), (Verdict::Good, Verdict::Tight));
    assert!(diagnose(&asked, &machine(), None).rows.iter().all(|row| row.subject != "memory.high"));
}

#[test]
fn a_port_among_the_outgoing_ones_is_told_and_others_are_not() {
    let name = "net.ipv4.ip_local_port_range";
    let inside = diagnose(&settings("[listen]\naddress = '127.0.0.1:40000'"), &machine(), None);
    assert_eq!(lines(&row(&inside, name)), ["sysctl -w net.ipv4.ip_local_reserved_ports=40000"]);
    // The line says it of the others again, and once it was taken the row is gone.
    let asked = settings("[listen]\naddress = '127.0.0.1:40000'");
    let others = Machine { reserved_ports: Some(vec![(8_080, 8_080), (9_000, 9_100)]), ..machine() };
    let line = "sysctl -w net.ipv4.ip_local_reserved_ports=8080,9000-9100,40000";
    assert_eq!(lines(&row(&diagnose(&asked, &others, None), name)), [line]);
    let kept = Machine { reserved_ports: Some(vec![(8_080, 8_080), (39_000, 40_000)]), ..machine() };
    assert!(diagnose(&asked, &kept, None).rows.iter().all(|row| row.subject != name));
    assert!(diagnose(&Settings::default(), &machine(), None).rows.iter().all(|row| row.subject != name));
}

#[test]
fn heartbeats_that_take_half_the_machine_are_tight_and_more_than_all_of_it_do_not_fit() {
    let with = |interval: u64, plan| {
        diagnose(&settings(&format!("[heartbeat]\ninterval = '{interval}s'")), &machine(), Some(plan))
    };
    let busy = with(5, 1_000_000);
    let tight = row(&busy, "cores");
    let ways = [
        "interval = \"8s\"",
        "GATEWAY__HEARTBEAT__INTERVAL=8s",
        "6 cores",
        "2 like this one, with 500,000 each",
    ];
    assert_eq!((tight.verdict, lines(&tight), busy.is_good()), (Verdict::Tight, ways.to_vec(), true));
    assert_eq!(row(&with(8, 1_000_000), "cores").verdict, Verdict::Good);

    // Twenty-two cores and a half; memory alone would take one node.
    let beyond = with(1, 1_500_000);
    assert_eq!((row(&beyond, "cores").verdict, beyond.is_good()), (Verdict::Lacks, false));
    let plan = beyond.plan.clone().unwrap();
    assert_eq!((plan.nodes, plan.connections_per_node, plan.heartbeat_millicores), (12, 125_000, 1_875));
    assert_eq!((beyond.fits, beyond.bounded_by), (Some(266_666), Some("cores")));

    let asked = settings("[heartbeat]\ninterval = '1s'\n[limits]\nconnections = 300000");
    let lacking = row(&diagnose(&asked, &machine(), None), "cores");
    assert_eq!((lacking.verdict, lines(&lacking)[3]), (Verdict::Lacks, "connections = 266666"));
}

#[test]
fn a_machine_of_which_nothing_can_be_read_is_unknown_and_not_refused() {
    let blind = Machine { cores: 1, page_bytes: 4096, ..Machine::default() };
    for plan in [None, Some(1_000_000)] {
        let report = diagnose(&settings("[limits]\nconnections = 1000"), &blind, plan);
        assert_eq!(row(&report, "memory").verdict, Verdict::Unknown);
        assert_eq!(report.is_good(), plan.is_none());
        assert!(report.table().contains("cannot be read"));
    }
}

#[test]
fn the_table_puts_the_way_out_under_the_shortfall_and_json_says_the_same() {
    let low = Machine { descriptors: Some(20_000), ..machine() };
    let report = diagnose(&Settings::default(), &low, Some(1_000_000));
    let table = report.table();
    let place = |text: &str| table.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{table}"));
    assert!(
        place("LACKS  descriptors") < place("LimitNOFILE=")
            && place("LimitNOFILE=") < place("good   fs.nr_open")
    );
    assert!(place("Plan for 1,000,000 connections") < place("tcp_sock 2,521"));
    assert!(table.lines().all(|line| line.chars().count() <= 140 && !line.ends_with(' ')), "{table}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!((&json["good"], &json["plan"]["nodes"]), (&false.into(), &1.into()));
    let lacking = json["rows"].as_array().unwrap().iter().find(|row| row["verdict"] == "lacks").unwrap();
    assert_eq!(lacking["subject"], "descriptors");
    assert!(lacking["fixes"][0]["line"].as_str().unwrap().starts_with("LimitNOFILE="));
}

/// Keys of the files in `deploy/sysctl.d`, each with its value and the comment above it.
fn deployed() -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sysctl.d");
    for file in std::fs::read_dir(folder).unwrap() {
        let mut comment = Vec::new();
        for line in std::fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            match (line.strip_prefix('#'), line.split_once('=')) {
                (Some(words), _) => comment.push(words.trim().to_owned()),
                (None, Some((name, value))) => {
                    let entry = (value.trim().to_owned(), comment.join(" "));
                    assert!(found.insert(name.trim().to_owned(), entry).is_none(), "{name} twice");
                }
                (None, None) => comment.clear(),
            }
        }
    }
    found
}

#[test]
fn the_files_to_deploy_hold_the_same_values_for_the_same_reasons() {
    let entry = |setting: &kernel::Setting| {
        (setting.name.to_owned(), (setting.value.to_string(), setting.why.to_owned()))
    };
    let ours: BTreeMap<String, (String, String)> = kernel::SETTINGS.iter().map(entry).collect();
    assert_eq!(deployed(), ours);
}
