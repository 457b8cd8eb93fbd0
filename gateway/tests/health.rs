//! Promise: an operator sees whether a node lives, whether it takes clients, and what it does: figures with units,
//! help texts and bounded labels, in the format that Prometheus reads.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use harness::{Gateway, Metrics};

#[test]
fn a_node_that_runs_is_live_and_ready() {
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    let live = http.call("GET", "/livez").good(200).json();
    assert_eq!((&live["live"], &live["shards"]), (&true.into(), &2.into()));
    assert_eq!(http.call("GET", "/readyz").good(200).json()["ready"], true);
    assert_eq!(http.call("HEAD", "/readyz").good(200).body, b"");
    // Probes of balancers come with whatever host they like, from loopback at least as an address.
    http.send("GET", "/livez", &[("Host", "127.0.0.1")], b"").good(200);
    gateway.stop();
}

#[test]
fn the_node_says_who_it_is_and_what_it_holds() {
    let gateway = Gateway::start("[limits]\nconnections = 10");
    let client = gateway.client("/rooms/lobby");
    gateway.until_only(1);
    let node = gateway.http().call("GET", "/v1/node").good(200).json();
    assert!(client.id.starts_with(&format!("test-{}-", node["epoch"].as_str().unwrap())), "{node}");
    assert_eq!((&node["node"], &node["shards"]), (&"test".into(), &2.into()));
    assert_eq!(node["websocket"], gateway.ws.to_string());
    assert_eq!((&node["connections"], &node["channels"]), (&1.into(), &1.into()));
    assert_eq!((&node["draining"], &node["bus"]["up"]), (&false.into(), &true.into()));
    gateway.stop();
}

#[test]
fn figures_follow_what_clients_do() {
    let gateway = Gateway::start("");
    let mut first = gateway.client("/rooms/lobby");
    let mut second = gateway.client("/rooms/lobby");
    first.echoes("twelve bytes");
    second.hears("twelve bytes");
    let metrics =
        gateway.until("the deliveries were counted", |m| m.value("gateway_messages_sent_total") == 2.0);
    assert_eq!(metrics.value("gateway_connections_accepted_total"), 2.0);
    assert_eq!(metrics.value("gateway_connections_opened_total"), 2.0);
    assert_eq!(metrics.value("gateway_messages_received_total"), 1.0);
    assert_eq!(metrics.value("gateway_received_payload_bytes_total"), 12.0);
    assert_eq!(metrics.value("gateway_deliveries_total"), 2.0);
    assert_eq!(metrics.value("gateway_subscriptions"), 2.0);
    assert!(metrics.value("gateway_sent_bytes_total") >= 28.0, "two frames, and two answers before");
    assert_eq!(metrics.sum("gateway_shard_connections"), 2.0);
    assert_eq!(metrics.sum("gateway_shard_listening"), 2.0);
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    assert!(metrics.value("process_open_fds") > 5.0);
    gateway.stop();
}

#[test]
fn every_reason_is_there_from_the_first_scrape_on() {
    let gateway = Gateway::start("");
    let metrics = gateway.metrics();
    for reason in ["client_close", "client_gone", "reset", "pong_timeout", "slow_consumer", "going_away"] {
        assert_eq!(metrics.ended(reason), 0.0);
    }
    for reason in ["bad_head", "origin", "timeout", "busy"] {
        assert_eq!(metrics.refused(reason), 0.0);
    }
    for reason in ["table_full", "handshakes", "descriptors", "left"] {
        assert_eq!(metrics.turned(reason), 0.0);
    }
    gateway.stop();
}

/// Labels whose values are closed sets, or as few as shards.
const LABELS: [&str; 14] = [
    "reason", "by", "policy", "limit", "action", "dry_run", "role", "code", "shard", "step", "le", "version",
    "bus", "method",
];

#[test]
fn the_exposition_is_what_prometheus_reads() {
    let gateway = Gateway::start("");
    gateway.client("/rooms/lobby").echoes("something to count");
    let answer = gateway.http().call("GET", "/metrics").good(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let metrics = gateway.metrics();
    let families = read(metrics.text());
    assert!(families.len() > 40, "{}", families.len());
    for (name, family) in &families {
        complain_about_name(name, family);
        for (series, labels) in &family.series {
            for (label, value) in labels {
                assert!(LABELS.contains(&label.as_str()), "{series}: {label}");
                assert!(value.len() <= 32, "{series}: {value}");
            }
        }
    }
    histograms_add_up(&metrics, &families);
    gateway.stop();
}

/// What is known about one name.
#[derive(Default)]
struct Family {
    kind: String,
    /// Full names and labels.
    series: Vec<(String, BTreeMap<String, String>)>,
}

/// Reads an exposition strictly: help, type, then series, each family in one piece.
#[track_caller]
fn read(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let (mut helped, mut current) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(help.len() > 10 && help.ends_with('.'), "a help text is a sentence: {line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped, "no HELP before {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let fresh =
                families.insert(name.to_owned(), Family { kind: kind.to_owned(), ..Family::default() });
            assert!(fresh.is_none(), "{name} comes in two pieces");
            current = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(|value| value.is_finite() && value >= 0.0), "{line}");
            assert!(seen.insert(series.to_owned()), "twice: {line}");
            let (name, labels) = labels(series);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no TYPE before {line}"));
            let suffix =
                name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} is not of {current}"));
            let allowed: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line}");
            family.series.push((name, labels));
        }
    }
    families
}

fn labels(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, rest)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new()) };
    let inside = rest.strip_suffix('}').unwrap_or_else(|| panic!("{series}"));
    let pairs = inside.split(',').map(|pair| {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("{series}"));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (label.to_owned(), value.unwrap_or_else(|| panic!("{series}")).to_owned())
    });
    (name.to_owned(), pairs.collect())
}

#[track_caller]
fn complain_about_name(name: &str, family: &Family) {
    assert!(name.starts_with("gateway_") || name.starts_with("process_"), "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name} is a {}", family.kind);
    for unit in ["_ms", "_milliseconds", "_us", "_kb", "_ticks"] {
        assert!(!name.contains(&format!("{unit}_")) && !name.ends_with(unit), "{name}: base units only");
    }
    assert!(!family.series.is_empty(), "{name} has no series");
}

#[track_caller]
fn histograms_add_up(metrics: &Metrics, families: &BTreeMap<String, Family>) {
    let histograms = families.iter().filter(|(_, family)| family.kind == "histogram");
    let mut count = 0;
    for (name, family) in histograms {
        let shards: BTreeSet<&String> =
            family.series.iter().filter_map(|(_, labels)| labels.get("shard")).collect();
        for shard in shards {
            let buckets = family
                .series
                .iter()
                .filter(|(series, labels)| series.ends_with("_bucket") && labels.get("shard") == Some(shard));
            let values: Vec<f64> = buckets
                .map(|(series, labels)| {
                    metrics.value(&format!("{series}{{shard=\"{shard}\",le=\"{}\"}}", labels["le"]))
                })
                .collect();
            assert!(values.is_sorted(), "{name}: {values:?}");
            let all = metrics.value(&format!("{name}_count{{shard=\"{shard}\"}}"));
            assert_eq!(values.last(), Some(&all), "{name}");
            count += 1;
        }
    }
    assert!(count > 0);
}
