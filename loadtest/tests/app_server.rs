//! The app server and the plain gRPC client as their users start them, against each other.
//!
//! It owns the promises of `backend` and `grpc`: what is sent comes back, what was told is accounted for, and who is
//! told to go goes. The gateway between the two is `roundtrip`, which needs its release build.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

/// An app server on a free port.
struct AppServer {
    process: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl AppServer {
    fn start(options: &[&str]) -> AppServer {
        let mut process = Command::new(PROGRAM)
            .args(["backend", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening grpc=").unwrap().to_owned();
        AppServer { process, output, address }
    }

    fn grpc(&self, arguments: &str) -> (Output, Value) {
        let output = Command::new(PROGRAM)
            .args(["grpc", "--backend", &self.address, "--json", "-"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output, report)
    }

    /// Tells it to go; what it was told, and its status.
    fn leave(mut self) -> (Value, Option<i32>) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        (serde_json::from_str(&text).unwrap(), self.process.wait().unwrap().code())
    }
}

#[test]
fn every_message_comes_back_and_is_accounted_for() {
    let journal = std::env::temp_dir().join(format!("loadtest-journal-{}", std::process::id()));
    let _ = std::fs::remove_file(&journal);
    let journal_path = journal.display().to_string();
    let server = AppServer::start(&["--journal", &journal_path, "--max-violations", "0"]);
    let (output, report) = server.grpc("--in-flight 20 --seconds 200ms --warm-up 50ms --size 64");
    assert!(output.status.success(), "{report:#}{output:?}");
    assert!(report["figures"]["messages"].as_f64() > Some(0.0), "{report:#}");
    assert!(report["figures"]["latency_p99_us"].as_f64() > Some(0.0), "{report:#}");
    let (told, status) = server.leave();
    assert_eq!(status, Some(0), "{told}");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::remove_file(&journal).unwrap();
    assert_eq!((&told["streams"], &told["opened"]), (&1.into(), &20.into()), "{told}");
    assert_eq!((&told["violations"], &told["misplaced"]), (&0.into(), &0.into()), "{told}");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("opened grpc-1-0-0-1 1 0 0"));
    assert_eq!(lines.next(), Some("message grpc-1-0-0-1 2 0 2"));
    assert!(text.lines().count() as u64 <= told["events"].as_u64().unwrap());
}

#[test]
fn a_client_without_an_app_server_and_an_app_server_off_loopback_are_refused() {
    let refused = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output().unwrap().status.code();
    assert_eq!(refused(&["grpc", "--backend", "127.0.0.1:1", "--seconds", "1ms"]), Some(2));
    assert_eq!(refused(&["grpc", "--backend", "192.0.2.1:1"]), Some(2));
    assert_eq!(refused(&["backend", "192.0.2.1:1"]), Some(2));
}
