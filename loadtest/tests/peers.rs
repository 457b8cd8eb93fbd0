//! Promise: what was measured is not lost to what fails beside it or after it: a server that falls is left out of a
//! comparison, and said to be; a scenario that cannot be run leaves the page of those before it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");
/// Says what it is, and serves by this.
const FLOOR: &str = "exec \"$LOADTEST\" floor --mode \"$2\" --listen \"127.0.0.1:$1\"";

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("peers-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes the script of a peer that serves by `serve`.
fn peer(folder: &Path, name: &str, serve: &str) {
    let script = folder.join(format!("{name}.sh"));
    let about = format!("[ \"$1\" != about ] || {{ echo {name} 1; echo echo; exit; }}");
    fs::write(&script, format!("#!/bin/sh\n{about}\n{serve}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
}

fn loadtest(peers: &Path, arguments: &str) -> Output {
    let peers = ["--peers", peers.to_str().unwrap()];
    let mut words: Vec<&str> = arguments.split(' ').collect();
    words.splice(1..1, peers);
    Command::new(PROGRAM).args(words).output().unwrap()
}

#[test]
fn a_server_that_falls_is_left_out_of_a_comparison_and_its_bar_is_broken() {
    let folder = folder("falling");
    for (name, serve) in [("floor", FLOOR), ("other", FLOOR), ("falling", "exit 1")] {
        peer(&folder, name, serve);
    }
    let compare = "compare --subjects falling,other --against floor --scenarios echo --rounds 2 --seconds 1 \
                   --server-processors 0 --json -";
    let further = " -- --connections 4 --warm-up 0s --threads 1";
    let output = loadtest(&folder, &format!("{compare}{further}"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(report["figures"]["echo_other_cpu_ratio_median"].is_f64(), "{report:#}");
    assert_eq!(report["figures"]["echo_falling_cpu_us"], Value::Null);
    let cautions = report["about"]["caution"].to_string();
    assert!(cautions.contains("echo, falling, round 1, left out: "), "{cautions}");

    let output = loadtest(&folder, &format!("{compare} --max-cpu-ratio 1000{further}"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &report["thresholds"][0]["kept"]),
        (Some(1), &false.into()),
        "{report:#}"
    );

    let output = loadtest(&folder, &format!("{}{further}", compare.replace("falling,other", "falling")));
    assert_eq!(output.status.code(), Some(2), "there is nobody to compare");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_scenario_that_cannot_be_run_leaves_the_page_of_those_before_it() {
    let folder = folder("page");
    peer(&folder, "floor", FLOOR);
    let (file, page) = (folder.join("file.toml"), folder.join("page.html"));
    let short = "connections = 2\nseconds = '100ms'\nthreads = 1\n";
    let text = format!(
        "peer = 'floor'\n[[scenario]]\nrun = 'echo'\nwarm_up = '0s'\nurl = 'ws://{{server}}/'\n{short}\
         [[scenario]]\nrun = 'hold'\nurl = 'ws://127.0.0.1:1/'\nbaseline = 0\n{short}"
    );
    fs::write(&file, text).unwrap();
    let output = loadtest(&folder, &format!("run {} --html {}", file.display(), page.display()));
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.contains("echo"), "{page}");
    fs::remove_dir_all(&folder).unwrap();
}
