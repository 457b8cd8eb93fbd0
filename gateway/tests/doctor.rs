//! Promise: the doctor tells what a start would say, and what it tells to do is what makes the start succeed. It judges
//! the machine that it runs on, and says by its exit status whether everybody fits.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Finished, Gateway, program, program_with_descriptors};
use serde_json::Value;

/// Few enough for whatever machine the tests run on.
const DESCRIPTORS: u32 = 600;

#[track_caller]
fn doctor(limit: u32, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let mut command = program_with_descriptors(limit);
    command.arg("doctor").args(arguments).envs(variables.iter().copied());
    let finished = Finished::of(command);
    assert_eq!(finished.complained, "");
    finished
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.said).unwrap()
}

/// The lines to copy under one row.
fn fixes<'a>(report: &'a Value, subject: &str) -> Vec<&'a str> {
    let row = report["rows"].as_array().unwrap().iter().find(|row| row["subject"] == subject).unwrap();
    row["fixes"].as_array().unwrap().iter().map(|fix| fix["line"].as_str().unwrap()).collect()
}

#[test]
fn what_fits_is_what_a_node_takes() {
    for own in ["false", "true"] {
        let found = doctor(
            DESCRIPTORS,
            &["--json"],
            &[("GATEWAY__SHARDS__COUNT", "2"), ("GATEWAY__SHARDS__OWN_DESCRIPTORS", own)],
        );
        assert_eq!(found.code, Some(0), "{}", found.said);
        let text = format!("[shards]\ncount = 2\nown_descriptors = {own}\n");
        let gateway = Gateway::start_with_descriptors(&text, DESCRIPTORS);
        let takes = gateway.metrics().value("gateway_connections_limit");
        assert_eq!(json(&found)["fits"].as_f64(), Some(takes), "own_descriptors = {own}");
        gateway.stop();
    }
}

#[test]
fn the_line_under_a_shortfall_lets_the_node_start() {
    let asked = [("GATEWAY__SHARDS__COUNT", "2"), ("GATEWAY__LIMITS__CONNECTIONS", "900")];
    let found = doctor(DESCRIPTORS, &["--json"], &asked);
    assert_eq!(found.code, Some(1), "{}", found.said);
    let report = json(&found);
    let lines = fixes(&report, "descriptors");
    let limit: u32 =
        lines.iter().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap().parse().unwrap();
    let table = doctor(DESCRIPTORS, &[], &asked);
    assert_eq!(table.code, Some(1));
    assert!(
        table.said.contains("LACKS  descriptors")
            && lines.iter().all(|line| { line.lines().all(|line| table.said.contains(line)) }),
        "{}",
        table.said
    );

    let (section, connections) = ("[shards]\ncount = 2\n", "[limits]\nconnections = 900\n");
    Gateway::start_with_descriptors(&format!("{section}{connections}"), limit).stop();
    assert_eq!(doctor(limit, &[], &asked).code, Some(0), "the least that suffices");
    assert_eq!(doctor(limit - 1, &[], &asked).code, Some(1), "the least that suffices");
    let own = lines.iter().find(|line| line.starts_with("own_descriptors = true")).unwrap();
    Gateway::start_with_descriptors(&reference(own), DESCRIPTORS).stop();
}

/// The file that is shipped, which has every key already, with these lines in `[shards]` in place of its own; on ports that
/// are free.
fn reference(own: &str) -> String {
    let key = |line: &str| line.split_once(" = ").map_or(String::new(), |(key, _)| key.to_owned());
    let mut section = "";
    let mut out = String::new();
    for line in include_str!("../../config/gateway.toml").lines() {
        section = if line.starts_with('[') { line } else { section };
        out += match (section, key(line).as_str()) {
            ("[shards]", found @ ("own_descriptors" | "count")) => {
                own.lines().find(|line| key(line) == found).unwrap()
            }
            ("[listen]" | "[http]", "address") => "address = \"127.0.0.1:0\"",
            ("[limits]", "connections") => "connections = 900",
            _ => line,
        };
        out.push('\n');
    }
    out
}

#[test]
fn a_plan_is_answered_with_nodes_shards_memory_and_joins() {
    let found = doctor(DESCRIPTORS, &["--plan", "3000000"], &[]);
    assert_eq!(found.code, Some(1), "{}", found.said);
    for part in ["Plan for 3,000,000 connections", "nodes ", "shards ", "tcp_sock 2,521", "bus joins "] {
        assert!(found.said.contains(part), "no {part:?} in {}", found.said);
    }
    let plan = &json(&doctor(DESCRIPTORS, &["--plan", "3000000", "--json"], &[]))["plan"];
    let (nodes, each) = (plan["nodes"].as_u64().unwrap(), plan["connections_per_node"].as_u64().unwrap());
    assert!(nodes >= 1 && each <= 3_000_000 && nodes * each >= 3_000_000, "{plan}");
    let few = doctor(DESCRIPTORS, &["--plan", "100"], &[]);
    assert_eq!(few.code, Some(0), "{}", few.said);
}

#[test]
fn wrong_arguments_and_settings_are_told_apart_from_shortfalls() {
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.arg("doctor").args(arguments);
        Finished::of(command)
    };
    for wrong in [["--plan", "0"], ["--plan", "many"], ["--config", "/nowhere/gateway.toml"]] {
        let finished = run(&wrong);
        assert_eq!((finished.code, finished.said.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(!finished.complained.is_empty());
    }
}
