//! What a run looked like over time: connections, rates, latencies, the server's memory, every fifth of a
//! second.
//!
//! It owns the samples and their bound: when there are too many, every second one goes and the rest are taken
//! half as often. It refuses to touch the server: everything comes from `/proc` and the tallies. Fed by
//! `progress` while the conductor waits, shown by the live line and the reports.

use serde::Serialize;

use crate::board::{Board, Counts};
use crate::buckets::{BUCKETS, Counted, quantile_us};
use crate::clock;
use crate::probe::{Server, slab_bytes};

/// Time between two samples at the beginning, ns.
const EVERY_NS: u64 = 200_000_000;

/// Samples that are kept; even, for they are thinned in pairs.
const SAMPLES_MAX: usize = 2048;

/// Connections below which the kernel's memory for one cannot be told from that of everything else.
const SLAB_FROM: u32 = 500;

/// One moment of a run; rates and percentiles are those since the sample before.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Sample {
    /// Since the run began, seconds.
    pub(crate) at_s: f64,
    /// Connections that are open.
    pub(crate) open: u32,
    /// Handshakes completed per second.
    pub(crate) opens_per_s: f64,
    /// Messages received per second.
    pub(crate) received_per_s: f64,
    /// Median latency, microseconds; `None` when none was seen.
    pub(crate) p50_us: Option<f64>,
    /// Its 99th percentile.
    pub(crate) p99_us: Option<f64>,
    /// The server's resident memory.
    pub(crate) resident_bytes: Option<u64>,
    /// The server's CPU, percent of one processor.
    pub(crate) server_cpu_percent: Option<f64>,
    /// How much the kernel's slab grew since the run began, for each open socket: two to a connection.
    pub(crate) slab_per_socket_bytes: Option<f64>,
}

/// A run over time.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Timeline {
    /// When each step began, seconds, and what it is.
    pub(crate) steps: Vec<(f64, String)>,
    /// In order of time.
    pub(crate) samples: Vec<Sample>,
}

/// Takes the samples of one run.
#[derive(Debug)]
pub(crate) struct Sampler {
    server: Option<Server>,
    began_ns: u64,
    every_ns: u64,
    last_ns: u64,
    counts: Counts,
    latencies: Counted,
    server_cpu_ns: Option<u64>,
    slab_bytes: Option<u64>,
    timeline: Timeline,
}

impl Sampler {
    /// A run that begins now; without a server its memory and CPU stay unknown.
    pub(crate) fn new(server: Option<Server>) -> Sampler {
        let now_ns = clock::now_ns();
        Sampler {
            server,
            began_ns: now_ns,
            every_ns: EVERY_NS,
            last_ns: now_ns,
            counts: Counts::default(),
            latencies: [0; BUCKETS],
            server_cpu_ns: server.and_then(|server| server.cpu_ns().ok()),
            slab_bytes: slab_bytes(),
            timeline: Timeline::default(),
        }
    }

    /// Notes that another step begins.
    pub(crate) fn step(&mut self, name: &str) {
        let at_s = seconds(self.began_ns, clock::now_ns());
        self.timeline.steps.push((at_s, name.to_owned()));
    }

    /// Takes a sample when it is time for one.
    pub(crate) fn look(&mut self, board: &Board, counts: &Counts) -> Option<Sample> {
        let now_ns = clock::now_ns();
        if now_ns - self.last_ns < self.every_ns {
            return None;
        }
        let sample = self.sample(now_ns, board, counts);
        if self.timeline.samples.len() == SAMPLES_MAX {
            self.thin();
        }
        self.timeline.samples.push(sample);
        Some(sample)
    }

    /// What was seen so far; the next run begins with nothing.
    pub(crate) fn take(&mut self) -> Timeline {
        std::mem::take(&mut self.timeline)
    }

    fn sample(&mut self, now_ns: u64, board: &Board, counts: &Counts) -> Sample {
        let elapsed_s = seconds(self.last_ns, now_ns);
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed_s;
        let latencies = board.latencies();
        let since: Counted =
            std::array::from_fn(|bucket| latencies[bucket].wrapping_sub(self.latencies[bucket]));
        let cpu_ns = self.server.and_then(|server| server.cpu_ns().ok());
        let cpu = cpu_ns.zip(self.server_cpu_ns).map(|(now, before)| per_s(now, before) / 1e7);
        let slab = slab_bytes().zip(self.slab_bytes).filter(|_| counts.open >= SLAB_FROM);
        let sample = Sample {
            at_s: seconds(self.began_ns, now_ns),
            open: counts.open,
            opens_per_s: per_s(counts.upgrades, self.counts.upgrades),
            received_per_s: per_s(counts.received, self.counts.received),
            p50_us: quantile_us(&since, 0.5),
            p99_us: quantile_us(&since, 0.99),
            resident_bytes: self.server.and_then(|server| server.resident_bytes_counted().ok()),
            server_cpu_percent: cpu,
            slab_per_socket_bytes: slab
                .map(|(now, before)| now.saturating_sub(before) as f64 / f64::from(counts.open) / 2.0),
        };
        (self.last_ns, self.counts, self.latencies, self.server_cpu_ns) =
            (now_ns, *counts, latencies, cpu_ns);
        sample
    }

    /// Drops every second sample; from now on they are taken half as often.
    fn thin(&mut self) {
        let mut number = 0;
        self.timeline.samples.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        self.every_ns *= 2;
    }
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns).max(1) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let board = Board::new(1);
        let mut sampler = Sampler::new(None);
        let begin = sampler.last_ns;
        let counts = Counts { received: 100, open: 3, ..Counts::default() };
        sampler.sample(begin + 1_000_000_000, &board, &counts);
        board.observe(0, 5_000);
        let counts = Counts { received: 150, ..counts };
        let second = sampler.sample(begin + 1_500_000_000, &board, &counts);
        assert_eq!(second.received_per_s, 100.0);
        assert_eq!(second.p99_us, Some(5.5), "what the sample before saw is not seen again");
        assert_eq!(second.open, 3);
    }

    #[test]
    fn a_long_run_keeps_a_bounded_number_of_samples_over_its_whole_length() {
        let board = Board::new(1);
        let mut sampler = Sampler::new(None);
        for _ in 0..3 * SAMPLES_MAX {
            sampler.last_ns = 0;
            sampler.every_ns = 0;
            sampler.look(&board, &Counts::default());
        }
        assert!(sampler.timeline.samples.len() <= SAMPLES_MAX);
        assert!(sampler.timeline.samples.len() >= SAMPLES_MAX / 2);
        assert!(sampler.timeline.samples.is_sorted_by(|one, next| one.at_s <= next.at_s));
    }
}
