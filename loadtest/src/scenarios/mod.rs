//! What can be measured, one file per scenario: its arguments, its conductor, and what a client thread does.
//!
//! It owns the arguments that all scenarios share. Called by `main`.

pub(crate) mod bars;
pub(crate) mod bystanders;
pub(crate) mod churn;
pub(crate) mod drain;
pub(crate) mod echo;
pub(crate) mod echoers;
pub(crate) mod fanout;
pub(crate) mod flood;
pub(crate) mod grpc;
pub(crate) mod handshake;
pub(crate) mod hold;
pub(crate) mod loris;
pub(crate) mod mixed;
pub(crate) mod publisher;
pub(crate) mod reload;
pub(crate) mod rooms;
pub(crate) mod roundtrip;
pub(crate) mod scale;
pub(crate) mod sides;
pub(crate) mod slow;
pub(crate) mod storm;
pub(crate) mod vanish;

use std::path::PathBuf;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::client::Plan;
use crate::crew::Gathered;
use crate::failure::Failure;
use crate::probe::{Server, Usage};
use crate::progress::Progress;
use crate::report::{Report, Unit};
use crate::span::Span;
use crate::target::{Sources, Target};

/// Longest latency that is told from a longer one: one minute in ns.
const LONGEST_LATENCY_NS: u64 = 60_000_000_000;

/// A harness that sends this much later than it meant to makes latencies of its own, microseconds.
pub(crate) const LATE_US: f64 = 1_000.0;

/// A client thread busier than this may have been what limited the rate, percent of one processor.
const BUSY_PERCENT: f64 = 90.0;

/// A client thread that was ready and had no processor for this share of a window saw late what it measured, percent.
const WAIT_PERCENT: f64 = 10.0;

/// Arguments of every scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Shared {
    /// WebSocket server on loopback; `{n}` in the path is the number of the connection.
    #[arg(long, default_value = "ws://127.0.0.1:8080/echo")]
    pub(crate) url: String,
    /// Process id of the server: its CPU time and memory are read from /proc.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Client threads, each with its own descriptor table; by default as few as needed.
    #[arg(long)]
    pub(crate) threads: Option<u32>,
    /// Loopback source addresses to rotate over; more are taken when the connections need them.
    #[arg(long, default_value_t = 16)]
    pub(crate) sources: u32,
    /// How long to wait for something that makes no progress: a connection, a message under way.
    #[arg(long, value_parser = parse_duration, default_value = "20s")]
    pub(crate) patience: Duration,
    /// Write the report as JSON to this file; `-` prints it instead of the table.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// What the server calls itself, for the report.
    #[arg(long)]
    pub(crate) server_version: Option<String>,
    /// Fail (status 1) when more went wrong than this.
    #[arg(long)]
    pub(crate) max_errors: Option<u64>,
}

impl Shared {
    /// The server's process, when one was named.
    pub(crate) fn server(&self) -> Result<Option<Server>, Failure> {
        self.server_pid.map(Server::new).transpose()
    }

    /// A plan for `connections` to `path`, or to the path of the URL.
    pub(crate) fn plan(&self, path: Option<&str>, connections: u32) -> Result<Plan, Failure> {
        let target = Target::parse(&self.url, "ws")?;
        let target = path.map_or(Ok(target.clone()), |path| target.with_path(path))?;
        Ok(Plan { target, publish: None, sources: Sources::new(self.sources, connections), pong_delay_ns: 0 })
    }

    /// How to measure with these.
    pub(crate) fn span<'a>(
        &self,
        server: Option<Server>,
        progress: &'a Progress,
        warm_up: Duration,
        rate_per_s: Option<f64>,
    ) -> Span<'a> {
        Span { server, progress, warm_up, patience: self.patience, rate_per_s }
    }

    /// A report that says what was asked.
    pub(crate) fn report(&self, scenario: &'static str, plan: &Plan, threads: u32) -> Report {
        let mut report = Report::new(scenario);
        report.about("server", format!("ws://{}{}", plan.target.address, plan.target.path));
        let program = self.server().ok().flatten().and_then(Server::program);
        if let Some(version) = self.server_version.clone().or(program) {
            report.about("server_program", version);
        }
        report.about("client_threads", threads.to_string());
        report.about("source_addresses", plan.sources.count().to_string());
        report
    }

    /// Ends a report with what all scenarios have.
    pub(crate) fn conclude<S>(&self, report: &mut Report, gathered: &Gathered<S>) {
        report.timeline(&gathered.timeline);
        report.faults(&gathered.faults, self.max_errors);
    }
}

/// A histogram of latencies in ns, three significant digits.
pub(crate) fn latencies() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the library takes")]
    Histogram::new_with_bounds(1_000, LONGEST_LATENCY_NS, 3).expect("constant bounds")
}

/// All threads' histograms as one.
pub(crate) fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = latencies();
    for histogram in histograms {
        let added = sum.add(histogram);
        debug_assert!(added.is_ok(), "same bounds everywhere");
    }
    sum
}

/// A unit of work by its name: one of it, and many.
pub(crate) type Names = (&'static str, &'static str);

/// Server CPU and rate for `count` units of work within a window; returns microseconds of server CPU for one.
pub(crate) fn work(report: &mut Report, (one, many): Names, count: u64, usage: &Usage) -> Option<f64> {
    let per_unit = usage.server_cpu_s.filter(|_| count > 0).map(|cpu| cpu * 1e6 / count as f64);
    report.figure("window", usage.seconds, Unit::Seconds);
    report.figure(many, count as f64, Unit::Count);
    report.figure(format!("{many}_rate"), count as f64 / usage.seconds, Unit::PerSecond);
    report.maybe(format!("server_cpu_per_{one}"), per_unit, Unit::Micros);
    report.maybe("server_cpu", usage.server_cpu_s.map(|cpu| cpu / usage.seconds * 100.0), Unit::Percent);
    tell_harness(report, "", usage);
    per_unit
}

/// What the harness itself took of the processors in a window, and whether it had to wait for them. `prefix` tells windows
/// of a run apart.
pub(crate) fn tell_harness(report: &mut Report, prefix: &str, usage: &Usage) {
    report.figure(format!("{prefix}busiest_client_thread_cpu"), usage.busiest_client_percent, Unit::Percent);
    let waited = usage.longest_client_wait_percent;
    report.maybe(format!("{prefix}longest_client_thread_wait"), waited, Unit::Percent);
    if let Some(percent) = waited.filter(|&percent| percent >= WAIT_PERCENT) {
        let of = prefix.replace('_', " ");
        let wait = format!("{of}a client thread waited for a processor for {percent:.0} % of the window");
        report.caution(format!("{wait}: others had them all, and it saw late what it measured"));
    }
}

/// How late the harness itself was, where nothing held it up, and whether that is in what it measured.
pub(crate) fn tell_late(report: &mut Report, prefix: &str, late: &Histogram<u64>) {
    if late.is_empty() {
        return;
    }
    let late_us = late.value_at_quantile(0.99) as f64 / 1e3;
    report.figure(format!("{prefix}harness_late_p99"), late_us, Unit::Micros);
    if late_us > LATE_US {
        report.caution("the harness itself sent late: try more --threads, or a lower --rate");
    }
}

/// Says so when the harness may have been what limited the rate. Not for an open loop: there being late is the sign.
pub(crate) fn warn_when_busy(report: &mut Report, usage: &Usage) {
    if usage.busiest_client_percent > BUSY_PERCENT {
        report.caution("a client thread was busy all the time: try more --threads");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harness_that_had_to_wait_for_processors_says_so() {
        for (percent, cautions) in [(None, 0), (Some(9.9), 0), (Some(10.0), 1)] {
            let usage = Usage {
                seconds: 1.0,
                server_cpu_s: None,
                busiest_client_percent: 50.0,
                longest_client_wait_percent: percent,
            };
            let mut report = Report::new("echo");
            tell_harness(&mut report, "round_1_", &usage);
            let said = report.about_rows().iter().filter(|(name, _)| *name == "caution");
            assert_eq!(said.count(), cautions, "{percent:?}");
            let waited =
                report.figure_rows().iter().any(|(name, ..)| name == "round 1 longest client thread wait");
            assert_eq!(waited, percent.is_some());
        }
    }

    #[test]
    fn a_harness_that_sent_late_says_so() {
        for (late_us, cautions) in [(900, 0), (1_100, 1)] {
            let mut late = latencies();
            late.saturating_record(late_us * 1_000);
            let mut report = Report::new("churn");
            tell_late(&mut report, "", &late);
            let said = report.about_rows().iter().filter(|(name, _)| *name == "caution");
            assert_eq!(said.count(), cautions, "{late_us}");
        }
    }
}
