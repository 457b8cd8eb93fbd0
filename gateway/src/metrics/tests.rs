//! Tests of the exposition: that it parses, that every family is described once, that values are the shards'.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use backend::Embedded;

use super::*;

/// A rendered exposition, taken apart: types by family, and values by series.
struct Exposition {
    types: HashMap<String, String>,
    values: HashMap<String, f64>,
}

impl Exposition {
    fn parse(text: &str) -> Self {
        let mut helps = HashSet::new();
        let (mut types, mut values) = (HashMap::new(), HashMap::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(words.len() > 10, "{line}");
                assert!(helps.insert(name.to_owned()), "described twice: {name}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helps.contains(name), "no help: {name}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "typed twice: {name}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(types.contains_key(family(series)), "no type: {series}");
                assert!(
                    values.insert(series.to_owned(), value.parse().unwrap()).is_none(),
                    "twice: {series}"
                );
            }
        }
        Self { types, values }
    }

    fn value(&self, series: &str) -> f64 {
        *self.values.get(series).unwrap_or_else(|| panic!("no {series}"))
    }
}

fn family(series: &str) -> &str {
    let name = series.split('{').next().unwrap();
    let parts = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    parts.filter(|_| name.contains("_seconds_") || name.contains("_subscribers_")).unwrap_or(name)
}

fn metrics() -> Metrics {
    let stats = (0..2).map(|_| Arc::new(Stats::default())).collect();
    let switchboard = Arc::new(Switchboard::new(Vec::new()));
    Metrics::new(Sources {
        gate: Arc::new(shard::limit::Gate::new(shard::limit::GateSizes {
            connections: 1000,
            handshakes: 100,
            recent_peers: 10,
            ipv6_prefix: 64,
        })),
        stats,
        publisher: Publisher::new(Arc::clone(&switchboard), Arc::new(Embedded)),
        nodes: Arc::default(),
        switchboard,
        recent: Arc::new(Recent::new(1)),
        live: Arc::new(Live::new(crate::in_force::InForce::new(1, config::Settings::default()).unwrap())),
        requests: Arc::default(),
        backends: vec![("chat".to_owned(), Arc::default()), ("other".to_owned(), Arc::default())],
        authorizers: vec![("chat".to_owned(), Arc::default())],
        answers: Arc::default(),
        clock: Box::new(|| 2500),
        refusal_labels: &["origin", "not_found"],
        descriptors: Descriptors::Shared,
    })
}

#[test]
fn every_series_has_a_help_a_type_and_a_conventional_name() {
    let exposition = Exposition::parse(&metrics().render());
    for (name, kind) in &exposition.types {
        assert!(name.starts_with("gateway_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    for name in [
        "gateway_connections",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
    ] {
        assert!(exposition.types.contains_key(name), "{name}");
    }
}

#[test]
fn counters_and_gauges_are_sums_of_the_shards_as_they_stand() {
    let metrics = metrics();
    metrics.render();
    for (shard, stats) in metrics.sources.stats.iter().enumerate() {
        stats.opened.add(2);
        stats.connections.set(5 + shard as u64);
        stats.refused[1].add(1);
        stats.ended[EndReason::PongTimeout as usize].add(3);
        stats.budget_hits[2].add(4);
        stats.last_turn_ms.set(2000);
    }
    let exposition = Exposition::parse(&metrics.render());
    assert_eq!(exposition.value("gateway_connections_opened_total"), 4.0);
    assert_eq!(exposition.value("gateway_connections"), 11.0);
    assert_eq!(exposition.value("gateway_shard_connections{shard=\"1\"}"), 6.0);
    assert_eq!(exposition.value("gateway_handshakes_refused_total{reason=\"not_found\"}"), 2.0);
    assert_eq!(exposition.value("gateway_handshakes_refused_total{reason=\"origin\"}"), 0.0);
    assert_eq!(exposition.value("gateway_connections_ended_total{reason=\"pong_timeout\"}"), 6.0);
    assert_eq!(exposition.value("gateway_shard_budget_hits_total{shard=\"0\",step=\"fanout\"}"), 4.0);
    assert_eq!(exposition.value("gateway_shard_last_turn_age_seconds{shard=\"1\"}"), 0.5);
    assert_eq!(exposition.value("gateway_bus_up{bus=\"embedded\"}"), 1.0);
    metrics.sources.stats[0].connections.set(0);
    assert_eq!(Exposition::parse(&metrics.render()).value("gateway_connections"), 6.0);
}

#[test]
fn histograms_are_cumulative_in_base_units_and_lose_no_sample() {
    let metrics = metrics();
    for sample in [5, 10, 11, 1_000_000] {
        metrics.sources.stats[1].turn_us.record(sample);
    }
    for (shard, stats) in metrics.sources.stats.iter().enumerate() {
        stats.fanout_ticks.record(shard as u64);
    }
    let exposition = Exposition::parse(&metrics.render());
    let turn = |part: &str, le: &str| {
        exposition.value(&format!("gateway_shard_turn_duration_seconds_{part}{{shard=\"1\"{le}}}"))
    };
    assert_eq!(turn("bucket", ",le=\"0.00001\""), 2.0);
    assert_eq!(turn("bucket", ",le=\"0.25\""), 3.0);
    assert_eq!(turn("bucket", ",le=\"+Inf\""), 4.0);
    assert_eq!(turn("count", ""), 4.0);
    assert_eq!(turn("sum", ""), 1.000_026);
    assert_eq!(exposition.value("gateway_fanout_duration_seconds_bucket{le=\"0\"}"), 1.0);
    assert_eq!(exposition.value("gateway_fanout_duration_seconds_bucket{le=\"0.1\"}"), 2.0);
    assert_eq!(exposition.value("gateway_fanout_duration_seconds_sum"), 0.1);
}
