//! The flood as its users start it, against a server that slows its clients down by not reading, which the
//! floor does not do.
//!
//! It owns the promises of that scenario: who floods, what is counted, exit status.
#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

/// Starts a server that sends every message back before it reads the next one; its threads end with the test.
fn patient_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo(stream.unwrap()));
        }
    });
    address
}

fn echo(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    while let Ok(message) = socket.read() {
        if !message.is_close() && !message.is_pong() && socket.send(message).is_err() {
            return;
        }
    }
    let _ = socket.flush();
}

fn flood(server: SocketAddr, arguments: &str) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["flood", "--url", &format!("ws://{server}/echo"), "--json", "-"])
        .args(["--server-pid", &std::process::id().to_string()])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, report)
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[test]
fn a_flood_is_measured_beside_those_who_must_not_notice_it_and_beside_its_control() {
    let [server, control] = [patient_server(), patient_server()];
    let sizes = "--flooders 5 --bystanders 10 --rate 200 --seconds 300ms --warm-up 50ms --rounds 2";
    let checks = "--limit 1000 --min-flood-rate 1 --max-errors 0";
    let (output, report) = flood(server, &format!("{sizes} {checks} --control-url ws://{control}/echo"));
    assert!(output.status.success(), "{report:#}{output:?}");
    assert_eq!(figure(&report, "flooders_connected"), 5.0);
    assert_eq!(figure(&report, "flooders_failed"), 0.0);
    for setting in ["no_flood", "flood", "control_flood"] {
        assert!(figure(&report, &format!("latency_with_{setting}_p99_us")) > 0.0);
    }
    for name in ["flood_rate_per_s", "control_flood_rate_per_s", "flood_rate_to_limit", "p99_ratio"] {
        assert!(figure(&report, name) > 0.0, "{name}");
    }
    assert!(figure(&report, "resident_during_bytes") > 0.0);
}

#[test]
fn a_peer_that_nobody_limits_breaks_the_threshold() {
    let sizes = "--flooders 2 --bystanders 2 --rate 20 --seconds 200ms --warm-up 0s";
    let (output, report) = flood(patient_server(), &format!("{sizes} --max-flood-rate 0.001"));
    assert_eq!(output.status.code(), Some(1), "{report:#}{output:?}");
    assert_eq!(report["thresholds"][0]["kept"], false);
}

#[test]
fn a_peer_that_floods_is_none_of_the_bystanders_and_on_loopback() {
    for source in ["127.0.0.2", "192.0.2.1"] {
        let (output, _) = flood(patient_server(), &format!("--flood-source {source}"));
        assert_eq!(output.status.code(), Some(2), "{source}");
    }
}
