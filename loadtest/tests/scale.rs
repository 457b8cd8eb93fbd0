//! A scale run from beginning to end, small, against the floor with several threads: what the big ones rest on.
//!
//! It owns the promise that everything a big run says is said, and that a run of the same size can be divided by.
//! The server is a child on port 0 and ends with the test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

struct Floor(Child, String);

impl Floor {
    fn start() -> Floor {
        let mut process = Command::new(PROGRAM)
            .args(["floor", "--mode", "paths", "--threads", "3", "--ping-every", "200ms"])
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ws=").unwrap().to_owned();
        Floor(process, address)
    }

    fn load(&self, connections: &str, json: &Path, further: &[&str]) -> Output {
        let Floor(process, address) = self;
        // Status 124 is a run that never ended.
        Command::new("timeout")
            .args(["120", PROGRAM, "scale", "--connections", connections, "--baseline", "100", "--hot", "20"])
            .args([
                "--seconds",
                "1",
                "--echo-seconds",
                "300ms",
                "--warm-up",
                "50ms",
                "--bystander-rate",
                "500",
                "--broadcasts",
                "3",
            ])
            .args(["--url", &format!("ws://{address}/echo"), "--server-pid", &process.id().to_string()])
            .args(["--max-errors", "0", "--json", &json.display().to_string()])
            .args(further)
            .output()
            .unwrap()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn read(path: &Path, output: &Output) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn everybody_is_held_pinged_and_told_and_the_next_run_is_divided_by_this_one() {
    let floor = Floor::start();
    let folder = std::env::temp_dir().join(format!("loadtest-scale-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (first, second) = (folder.join("first.json"), folder.join("second.json"));
    let output = floor.load("600", &first, &[]);
    let report = read(&first, &output);
    assert!(output.status.success(), "{report:#}");
    let figure =
        |name: &str| report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {report:#}"));
    assert_eq!(figure("held"), 600.0);
    assert_eq!(figure("deliveries"), 1800.0);
    assert!(figure("pings_answered_while_holding") > 600.0, "{report:#}");
    assert!(figure("echo_rate_beside_crowd_per_s") > 0.0);
    assert!(figure("time_to_last_byte_max_us") > 0.0);
    assert!(figure("bystanders_of_broadcasts_max_us") > 0.0);

    let reference = first.display().to_string();
    // Nothing can be a thousandth of itself, whether this machine shows kernel objects or not.
    let bars = ["--reference", &reference, "--max-heartbeat-cpu-ratio", "0", "--max-extra-objects=-1000"];
    let output = floor.load("600", &second, &bars);
    let report = read(&second, &output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let broken = report["thresholds"].as_array().unwrap().iter().filter(|check| check["kept"] == false);
    assert_eq!(broken.count(), 2, "{report:#}");

    let output = floor.load("601", &second, &["--reference", &reference]);
    assert_eq!(output.status.code(), Some(2), "of another size: {output:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_broadcast_that_nobody_hears_ends_though_bystanders_echo_on() {
    let floor = Floor::start();
    let file = std::env::temp_dir().join(format!("loadtest-unheard-{}.json", std::process::id()));
    // Whoever speaks at this path hears it alone.
    let further = ["--speak-path", "/echo", "--patience", "2s"];
    let output = floor.load("100", &file, &further);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = read(&file, &output);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(report["errors"]["message never arrived"], 300, "{report:#}");
}
