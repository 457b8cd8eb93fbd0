//! The harness as its users start it, over real sockets, against the server it brings along.
//!
//! It owns the promises of the command line: figures, faults, exit status. Servers are children on port 0 and
//! end with the test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

/// A floor server on a free port.
struct Floor {
    process: Child,
    address: String,
}

impl Floor {
    fn start(mode: &str) -> Floor {
        Floor::start_with(mode, "")
    }

    fn start_with(mode: &str, further: &str) -> Floor {
        let mut process = Command::new(PROGRAM)
            .args(["floor", "--mode", mode, "--listen", "127.0.0.1:0"])
            .args(further.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ws=").unwrap().to_owned();
        Floor { process, address }
    }

    /// Runs a scenario against it, with its process accounts and the report as JSON; status 124 is a run that never
    /// ended.
    fn load(&self, arguments: &str) -> Output {
        let pid = self.process.id().to_string();
        Command::new("timeout")
            .args(["120", PROGRAM])
            .args(arguments.split_whitespace())
            .args(["--url", &format!("ws://{}/echo", self.address), "--server-pid", &pid, "--json", "-"])
            .output()
            .unwrap()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{complaint}"))
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[test]
fn every_echo_comes_back_as_it_was_sent() {
    let floor = Floor::start("echo");
    let output = floor.load("echo --closed --connections 20 --seconds 300ms --warm-up 50ms --max-errors 0");
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert!(figure(&report, "messages") > 0.0);
    assert!(figure(&report, "latency_p99_us") > 0.0);
}

#[test]
fn a_run_is_kept_over_time_and_shown_on_one_page() {
    let floor = Floor::start("echo");
    let page = std::env::temp_dir().join(format!("loadtest-{}.html", floor.process.id()));
    let arguments = format!("echo --connections 20 --seconds 900ms --warm-up 50ms --html {}", page.display());
    let output = floor.load(&arguments);
    let report = report(&output);
    let samples = report["timeline"]["samples"].as_array().unwrap();
    assert!(samples.iter().any(|sample| sample["received_per_s"].as_f64() > Some(0.0)), "{report:#}");
    assert!(samples.iter().any(|sample| sample["p99_us"].as_f64() > Some(0.0)), "{report:#}");
    assert!(samples.iter().all(|sample| sample["resident_bytes"].as_u64() > Some(0)), "{report:#}");
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    for title in ["latency by percentile", "throughput", "latency over time", "memory of the server"] {
        assert!(text.contains(&format!("<h3>{title}</h3>\n<svg")), "{title}");
    }
}

#[test]
fn a_scenario_file_runs_all_it_lists_against_the_server_it_names() {
    let folder = std::env::temp_dir().join(format!("loadtest-file-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, page, json) = (folder.join("all.toml"), folder.join("all.html"), folder.join("echo.json"));
    let text = format!(
        "peer = 'floor'\n[defaults]\nurl = 'ws://{{server}}/echo'\nmax_errors = 0\n\
         [[scenario]]\nrun = 'echo'\nconnections = 5\nseconds = '200ms'\nwarm_up = '0s'\njson = '{}'\n\
         max_p99_us = 0.001\n\
         [[scenario]]\nrun = 'hold'\nconnections = 20\nbaseline = 0\nseconds = '1ms'\n",
        json.display()
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(PROGRAM)
        .args(["run", &file.display().to_string(), "--html", &page.display().to_string()])
        .args(["--peers", concat!(env!("CARGO_MANIFEST_DIR"), "/peers")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "a nanosecond cannot be kept: {said}{output:?}");
    assert!(said.contains("echo\n") && said.contains("hold\n") && said.contains("BROKEN"), "{said}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<h2>echo</h2>") && page.contains("<h2>hold</h2>"));
    let echo: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert!(figure(&echo, "server_cpu_percent") >= 0.0, "the process was known");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_open_loop_sends_what_the_rate_says() {
    let floor = Floor::start("echo");
    let output =
        floor.load("echo --connections 7 --threads 2 --rate 500 --seconds 500ms --warm-up 0s --max-errors 0");
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    let messages = figure(&report, "messages");
    // An upper bound only: a machine that is busy with other tests may be late, but nobody sends ahead of
    // time.
    let most = figure(&report, "window_s") * 500.0 + 100.0;
    assert!(messages > 0.0 && messages <= most, "{messages} of at most {most}");
    let [raw, corrected] = ["latency_raw_p50_us", "latency_p50_us"].map(|name| figure(&report, name));
    assert!(raw <= corrected, "from sending {raw}, from the intended time {corrected}");
    assert!(figure(&report, "latency_harness_late_p99_us") > 0.0);
}

#[test]
fn a_rate_is_sent_whole_by_more_threads_than_there_are_connections_and_held_to_a_least_one() {
    let floor = Floor::start("echo");
    let open = "echo --connections 2 --threads 4 --rate 400 --seconds 500ms --warm-up 0s --max-errors 0";
    let output = floor.load(&format!("{open} --min-rate 100000"));
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["thresholds"][0]["name"], "min-rate");
    assert_eq!(report["about"]["client_threads"], "2");
    // What is meant follows from the clock alone, however busy the machine is.
    let meant = figure(&report, "messages_rate_meant_per_s");
    assert!((300.0..=500.0).contains(&meant), "{meant} of 400");
    assert_eq!(figure(&report, "latency_messages_not_sent"), 0.0);
}

#[test]
fn every_subscriber_gets_every_message_in_order() {
    let floor = Floor::start("fanout");
    for arguments in [
        "fanout --closed --connections 50 --seconds 300ms --warm-up 50ms",
        "fanout --closed --connections 50 --threads 3 --publishers 4 --seconds 300ms --warm-up 50ms --kind binary",
        "fanout --connections 50 --open-rate 200 --seconds 300ms --warm-up 50ms --size 1KiB",
    ] {
        let output = floor.load(&format!("{arguments} --max-errors 0"));
        let report = report(&output);
        assert!(output.status.success(), "{arguments}: {report:#}");
        assert!(figure(&report, "messages_to_all") > 0.0, "{arguments}");
        assert!(figure(&report, "deliveries") > 0.0, "{arguments}");
        let late = &report["figures"]["harness_late_p99_us"];
        assert_eq!(late.as_f64() > Some(0.0), !arguments.contains("--closed"), "{arguments}: {late}");
    }
}

#[test]
fn handshakes_are_counted_and_leave_nothing_open() {
    let floor = Floor::start("handshake");
    for farewell in ["fin", "frame", "reset"] {
        let arguments =
            format!("handshake --concurrency 8 --seconds 300ms --warm-up 50ms --farewell {farewell}");
        let output = floor.load(&format!("{arguments} --max-errors 0"));
        let report = report(&output);
        assert!(output.status.success(), "{report:#}");
        assert!(figure(&report, "handshakes") > 0.0);
    }
}

#[test]
fn connections_are_held_twice_and_all_end_with_a_close_frame() {
    let floor = Floor::start("echo");
    let arguments =
        "hold --connections 300 --baseline 100 --rate 20000 --seconds 200ms --rounds 2 --threads 3";
    let output = floor.load(&format!("{arguments} --max-errors 0 --max-bytes-per-connection 100000"));
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!(figure(&report, "round_1_connected"), 300.0);
    assert_eq!(figure(&report, "round_2_connected"), 300.0);
    assert_eq!(figure(&report, "closed_unexpectedly"), 0.0);
}

#[test]
fn comings_and_goings_leave_those_alone_who_stay() {
    let floor = Floor::start("echo");
    let arguments = "churn --idle 50 --rate 400 --stay 50ms --seconds 400ms --warm-up 100ms --threads 2";
    for farewell in ["frame", "fin", "reset"] {
        let output = floor.load(&format!("{arguments} --farewell {farewell} --max-errors 0"));
        let report = report(&output);
        assert!(output.status.success(), "{report:#}");
        assert_eq!(figure(&report, "idle_held"), 50.0);
        let comings = figure(&report, "comings");
        let most = figure(&report, "window_s") * 400.0 + 80.0;
        assert!(comings > 0.0 && comings <= most, "{comings} of at most {most}");
        assert!(figure(&report, "latency_raw_p50_us") <= figure(&report, "latency_p50_us"));
        assert!(figure(&report, "harness_late_p99_us") > 0.0);
    }
}

#[test]
fn all_come_back_from_every_storm() {
    let floor = Floor::start("echo");
    let arguments = "storm --connections 200 --rate 20000 --rounds 2 --threads 2 --max-errors 0";
    let output = floor.load(&format!("{arguments} --max-memory-ratio 3 --max-time-to-all-back 20"));
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    for round in [1, 2] {
        assert_eq!(figure(&report, &format!("storm_{round}_back")), 200.0);
        assert!(figure(&report, &format!("storm_{round}_tries")) >= 200.0);
    }
    assert!(figure(&report, "time_to_back_p99_us") > 0.0);
}

#[test]
fn hot_traffic_is_measured_without_and_with_idle_connections() {
    let floor = Floor::start("echo");
    let arguments = "mixed --connections 5 --idle 60 --open-rate 20000 --seconds 200ms --warm-up 50ms";
    let output = floor.load(&format!("{arguments} --rounds 2 --max-errors 0 --min-rate-ratio 0.01"));
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!(figure(&report, "idle_held"), 60.0);
    let rounds = [1, 2].map(|round| figure(&report, &format!("round_{round}_rate_ratio")));
    let between = (rounds[0] + rounds[1]) / 2.0;
    assert!((figure(&report, "rate_ratio") - between).abs() < 1e-9, "the median of two lies between them");
    for setting in ["without", "with"] {
        assert!(figure(&report, &format!("round_2_{setting}_idle_rate_per_s")) > 0.0);
        assert!(figure(&report, &format!("latency_{setting}_idle_p99_us")) > 0.0);
        for name in ["busiest_client_thread_cpu", "longest_client_thread_wait"] {
            assert!(figure(&report, &format!("round_1_{setting}_idle_{name}_percent")) >= 0.0);
        }
    }
}

#[test]
fn who_reads_gets_everything_beside_those_who_stopped() {
    let floor = Floor::start("fanout");
    let arguments =
        "slow --consumers 20 --well-behaved 5 --megabytes 1 --size 4KiB --after 100ms --label none";
    let output = floor.load(&format!("{arguments} --threads 1 --max-errors 0 --max-growth-mib 1000"));
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert!(figure(&report, "messages_to_all_well_behaved") >= 245.0);
    // What did not fit the buffers was cut off: then the floor closed. Either way each is accounted for.
    let got = figure(&report, "stalled_that_got_the_last_message");
    assert!(got <= figure(&report, "stalled_still_open"), "{report:#}");
    assert!(figure(&report, "messages_the_stalled_got") > 0.0, "reading went on at the end: {report:#}");
}

#[test]
fn a_server_that_never_misses_a_pong_is_caught() {
    let floor = Floor::start("echo");
    let arguments = "vanish --connections 20 --healthy 5 --live 50ms --interval 100ms --pong-deadline 100ms";
    let output = floor.load(&format!("{arguments} --threads 1 --max-errors 0"));
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(figure(&report, "vanished_still_there"), 20.0);
    assert_eq!(figure(&report, "healthy_that_ended"), 0.0);
}

#[test]
fn a_server_that_does_not_answer_slow_heads_is_caught() {
    let floor = Floor::start("echo");
    let arguments =
        "loris --connections 20 --healthy 5 --rate 200 --drip 50ms --seconds 200ms --warm-up 50ms";
    let output = floor.load(&format!("{arguments} --threads 1 --max-errors 0 --patience 1s"));
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(figure(&report, "heads_answered_408"), 0.0);
    assert!(figure(&report, "latency_during_p99_us") > 0.0);
    assert_eq!(report["errors"]["message never arrived"], Value::Null, "{report:#}");
}

#[test]
fn one_process_holds_more_connections_than_one_descriptor_table() {
    let floor = Floor::start("echo");
    let url = format!("ws://{}/echo", floor.address);
    let hold = "hold --connections 400 --baseline 0 --rate 20000 --seconds 1ms --max-errors 0 --json -";
    // The harness keeps 512 descriptors of a table for itself, which leaves 188.
    let script = format!("ulimit -n 700 && exec {PROGRAM} {hold} --url {url}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!(figure(&report, "round_1_connected"), 400.0);
    assert_eq!(report["about"]["client_threads"], "3");
}

#[test]
fn a_server_that_answers_with_something_else_is_caught() {
    // Everybody hears everybody: no connection gets back just what it sent.
    let floor = Floor::start("fanout");
    let output = floor
        .load("echo --closed --connections 3 --seconds 100ms --warm-up 50ms --patience 1s --max-errors 0");
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert!(figure(&report, "errors") > 0.0);
}

#[test]
fn a_subscriber_that_hears_nothing_is_caught() {
    let floor = Floor::start("echo");
    let arguments =
        "fanout --closed --connections 2 --seconds 100ms --warm-up 50ms --patience 1s --max-errors 0";
    let output = floor.load(arguments);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["errors"]["message never arrived"], 2, "{report:#}");
}

#[test]
fn rates_and_latencies_are_held_to_their_bars_in_every_scenario_that_has_them() {
    let window = "--seconds 100ms --warm-up 0s --max-p50-us 0.001 --max-p99-us 60000000 --max-p999-us 0.001";
    for (mode, scenario, broken) in [
        ("echo", "echo --connections 2 --min-rate 1e9", 3),
        ("fanout", "fanout --connections 2 --min-rate 1e9", 3),
        ("handshake", "handshake --concurrency 2 --min-rate 1e9", 3),
        ("echo", "churn --idle 0 --rate 100 --stay 1ms", 2),
        ("echo", "mixed --connections 2 --idle 2 --min-rate-ratio 1e9", 3),
    ] {
        let output = Floor::start(mode).load(&format!("{scenario} {window}"));
        let report = report(&output);
        assert_eq!(output.status.code(), Some(1), "{scenario}: {report:#}");
        let checks = report["thresholds"].as_array().unwrap();
        let kept: Vec<_> = checks.iter().filter(|check| check["kept"] == true).collect();
        assert_eq!((kept.len(), checks.len()), (1, broken + 1), "{scenario}: {checks:#?}");
        assert_eq!(kept[0]["name"], "max-p99-us", "{scenario}");
    }
}

#[test]
fn a_run_ends_without_what_never_comes_though_the_server_goes_on_pinging() {
    for (mode, scenario, lost) in [
        ("echo", "fanout --closed --connections 2", 2),
        ("handshake", "echo --closed --connections 2", 2),
        ("echo", "slow --consumers 2 --well-behaved 2 --megabytes 1 --after 10ms --threads 1", 2),
    ] {
        let floor = Floor::start_with(mode, "--ping-every 50ms");
        let window = if scenario.starts_with("slow") { "" } else { "--seconds 100ms --warm-up 0s" };
        let output = floor.load(&format!("{scenario} {window} --patience 2s --max-errors 0"));
        assert_eq!(output.status.code(), Some(1), "{scenario}: {output:?}");
        let report = report(&output);
        assert_eq!(report["errors"]["message never arrived"], lost, "{scenario}: {report:#}");
    }
}

#[test]
fn what_is_never_answered_took_as_long_as_it_was_waited_for() {
    // It takes messages and says nothing.
    let floor = Floor::start("handshake");
    let output = floor
        .load("echo --connections 1 --rate 1000 --seconds 200ms --warm-up 0s --patience 2s --max-errors 0");
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["errors"]["message never arrived"], 16, "so many are under way at once: {report:#}");
    let meant = figure(&report, "latency_messages_meant");
    assert!(meant > 16.0 && figure(&report, "latency_messages_not_sent") >= meant - 16.0, "{report:#}");
    assert!(figure(&report, "latency_p50_us") > 2_000_000.0, "{report:#}");
}

#[test]
fn a_broken_threshold_is_status_one_and_a_missing_server_status_two() {
    let floor = Floor::start("echo");
    let output = floor.load("echo --connections 2 --seconds 100ms --warm-up 0s --max-p99-us 0.001");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report(&output)["thresholds"][0]["kept"], false);

    let address = floor.address.clone();
    drop(floor);
    let url = format!("ws://{address}/echo");
    let output = Command::new(PROGRAM).args(["echo", "--seconds", "1ms", "--url", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Connection refused"));
}
