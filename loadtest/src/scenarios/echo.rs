//! Echo: every message must come back as it was sent; what does one cost the server?
//!
//! An open loop by default: messages have an intended time, whatever the server does. With `--closed` each
//! connection has one message under way, so that the server sets the pace, which is how to find its rate.
//! Refuses servers that answer with anything else than an echo.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::client::{Desk, Scenario, Slot, share};
use crate::crew::{Crew, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::MessageKind;
use crate::payload;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bars::Bars;
use crate::scenarios::{Shared, tell_late, warn_when_busy, work};
use crate::traffic::{self, Latencies, Traffic};

/// Measures what a message costs that comes back.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    connections: u32,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Text or binary messages.
    #[arg(long, value_enum, default_value_t = MessageKind::Text)]
    kind: MessageKind,
    /// Length of the measured window.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// Length of the warm-up before it.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Messages per second, all connections together.
    #[arg(long, value_parser = args::rate, default_value_t = 10_000.0)]
    rate: f64,
    /// Closed loop: no rate, each connection sends its next message when the last has come back.
    #[arg(long, conflicts_with = "rate")]
    closed: bool,
    /// Fail (status 1) when a message costs the server more than this, in microseconds of CPU.
    #[arg(long)]
    max_server_cpu_us: Option<f64>,
    /// Fail (status 1) when fewer messages come back per second.
    #[arg(long)]
    min_rate: Option<f64>,
    #[command(flatten)]
    bars: Bars,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let plan = shared.plan(None, args.connections)?;
    let threads = thread_count(shared.threads, args.connections, 10_000)?;
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let slots = share(args.connections, thread, threads);
        let traffic = Traffic::new(args.size, args.kind, slots, threads);
        (Echo { ramp: Ramp::new(f64::INFINITY), traffic }, slots)
    })?;

    progress.step("connecting");
    crew.set_goal(args.connections);
    crew.wait_until(&progress, shared.patience, |counts| {
        u64::from(counts.open) + counts.failures + counts.lost >= u64::from(args.connections)
    })?;
    if crew.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    let rate_per_s = (!args.closed).then_some(args.rate);
    let span = shared.span(server, &progress, args.warm_up, rate_per_s);
    let measured = span.echoes(&crew, "echo", args.seconds)?;

    let mut gathered = crew.finish(&progress)?;
    let lost = gathered.counts.sent.saturating_sub(gathered.counts.received);
    gathered.faults.note_many(Fault::Lost, lost);
    let latencies = traffic::window(gathered.scenarios.iter().map(|echo| &echo.traffic), 0);
    let mut report = shared.report("echo", &plan, threads);
    report.about("connections", args.connections.to_string());
    report.about("message", format!("{} bytes, {:?}", args.size.max(payload::SHORTEST), args.kind));
    report.about(
        "loop",
        if args.closed { "closed".to_owned() } else { format!("open, {} per second", args.rate) },
    );
    let per_message = work(&mut report, ("message", "messages"), measured.messages(), &measured.usage);
    if args.closed {
        warn_when_busy(&mut report, &measured.usage);
    } else {
        let meant = latencies.meant as f64 / measured.usage.seconds;
        report.figure("messages_rate_meant", meant, Unit::PerSecond);
    }
    tell_latencies(&mut report, "latency", &latencies, args.closed);
    report.check("max-server-cpu-us", args.max_server_cpu_us, per_message);
    report.check_least("min-rate", args.min_rate, Some(measured.rate_per_s()));
    args.bars.check(&mut report, &latencies.corrected);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Tells the latencies of a window: in an open loop raw and corrected, what was never sent, and whether the harness kept
/// its pace.
pub(crate) fn tell_latencies(report: &mut Report, name: &str, latencies: &Latencies, closed: bool) {
    report.percentiles(name, &latencies.corrected);
    if closed {
        return;
    }
    report.percentiles(&format!("{name}_raw"), &latencies.raw);
    report.figure(format!("{name}_messages_meant"), latencies.meant as f64, Unit::Count);
    report.figure(format!("{name}_messages_not_sent"), latencies.unsent as f64, Unit::Count);
    tell_late(report, &format!("{name}_"), &latencies.late);
}

/// The 99th percentile of a window, corrected, in microseconds.
pub(crate) fn p99_us(latencies: &Latencies) -> Option<f64> {
    let corrected = &latencies.corrected;
    (!corrected.is_empty()).then(|| corrected.value_at_quantile(0.99) as f64 / 1e3)
}

/// Says why nothing is connected.
pub(crate) fn no_connection(faults: &crate::fault::Faults) -> String {
    let why = faults.iter().map(|(fault, _)| fault.to_string()).collect::<Vec<_>>().join("; ");
    format!("no connection came up ({why})")
}

/// The connections of one thread and their traffic.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) ramp: Ramp,
    pub(crate) traffic: Traffic,
}

impl Scenario for Echo {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let traffic_ns = self.traffic.turn(desk);
        self.ramp.turn(desk).min(traffic_ns)
    }

    fn opened(&mut self, _desk: &mut Desk, slot: Slot) {
        self.traffic.opened(slot);
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        self.traffic.message(desk, slot, bytes);
    }
}
