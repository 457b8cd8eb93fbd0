//! Owns the histograms of the exposition: each is a table row of name, help and shape, written from the shards'
//! buckets as they stand, cumulated as the format wants it. Called when `/metrics` is rendered.

use std::fmt::Write;
use std::sync::Arc;

use bridge::Stats;
use bridge::stats::{Bucket, Histogram};

/// One bucket as read: samples and their sum.
pub(super) type Reading = (u64, u64);

struct Family {
    name: &'static str,
    help: &'static str,
    /// A line for each shard, or one for all.
    by_shard: bool,
    /// How many of the shards' unit make one base unit.
    per_unit: f64,
    bounds: fn(&Stats) -> &'static [u64],
    read: fn(&Stats) -> Vec<Reading>,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "gateway_handshake_duration_seconds",
        help: "From accepting a connection to its 101, in steps of 0.1 s.",
        by_shard: false,
        per_unit: 10.0,
        bounds: |stats| stats.handshake_ticks.bounds(),
        read: |stats| readings(&stats.handshake_ticks),
    },
    Family {
        name: "gateway_shard_turn_duration_seconds",
        help: "How long the shard's turns took, waiting for events left out.",
        by_shard: true,
        per_unit: 1_000_000.0,
        bounds: |stats| stats.turn_us.bounds(),
        read: |stats| readings(&stats.turn_us),
    },
    Family {
        name: "gateway_ping_round_trip_seconds",
        help: "From a heartbeat ping to its pong, as clients send it back; turns of the shard are in it.",
        by_shard: false,
        per_unit: 1_000_000.0,
        bounds: |stats| stats.ping_us.bounds(),
        read: |stats| readings(&stats.ping_us),
    },
    Family {
        name: "gateway_fanout_subscribers",
        help: "Subscribers that a message found on one shard.",
        by_shard: false,
        per_unit: 1.0,
        bounds: |stats| stats.fanout_subscribers.bounds(),
        read: |stats| readings(&stats.fanout_subscribers),
    },
    Family {
        name: "gateway_fanout_duration_seconds",
        help: "From taking a message out of the mailbox to its last subscriber on one shard, in steps of 0.1 s.",
        by_shard: false,
        per_unit: 10.0,
        bounds: |stats| stats.fanout_ticks.bounds(),
        read: |stats| readings(&stats.fanout_ticks),
    },
];

/// Appends every histogram of shards.
pub(super) fn write(exposition: &mut String, stats: &[Arc<Stats>]) {
    let Some(first) = stats.first() else { return };
    for family in &FAMILIES {
        let bounds = (family.bounds)(first);
        let series = if family.by_shard {
            let of =
                |(shard, stats): (usize, &Arc<Stats>)| (format!("shard=\"{shard}\""), (family.read)(stats));
            stats.iter().enumerate().map(of).collect()
        } else {
            let mut total = vec![(0, 0); bounds.len() + 1];
            for stats in stats {
                for (total, part) in total.iter_mut().zip((family.read)(stats)) {
                    *total = (total.0 + part.0, total.1 + part.1);
                }
            }
            vec![(String::new(), total)]
        };
        let Family { name, help, per_unit, .. } = *family;
        write_family(exposition, &Shape { name, help, per_unit }, bounds, &series);
    }
}

/// What a histogram is called.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// How many of the counters' unit make one base unit.
    pub(super) per_unit: f64,
}

/// Appends one histogram: a series for each label, which may be empty.
pub(super) fn write_family(
    exposition: &mut String,
    shape: &Shape,
    bounds: &[u64],
    series: &[(String, Vec<Reading>)],
) {
    let Shape { name, help, .. } = shape;
    let _ = write!(exposition, "# HELP {name} {help}\n# TYPE {name} histogram\n");
    for (label, buckets) in series {
        write_series(exposition, shape, bounds, label, buckets);
    }
    exposition.push('\n');
}

pub(super) fn readings<const N: usize>(histogram: &Histogram<N>) -> Vec<Reading> {
    histogram.buckets().map(|Bucket { count, sum }| (count.value(), sum.value())).collect()
}

/// One series. The count is that of the buckets read, so the lines agree with each other while the shard goes on.
fn write_series(out: &mut String, shape: &Shape, bounds: &[u64], label: &str, buckets: &[Reading]) {
    debug_assert_eq!(buckets.len(), bounds.len() + 1, "one bucket stands above the last bound");
    let name = shape.name;
    let comma = if label.is_empty() { "" } else { "," };
    let (mut count, mut sum) = (0, 0);
    for (place, (samples, part)) in buckets.iter().enumerate() {
        count += samples;
        sum += part;
        let bound =
            bounds.get(place).map_or("+Inf".to_owned(), |bound| (*bound as f64 / shape.per_unit).to_string());
        let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}");
    }
    let braced = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
    let _ = writeln!(out, "{name}_sum{braced} {}", sum as f64 / shape.per_unit);
    let _ = writeln!(out, "{name}_count{braced} {count}");
}
