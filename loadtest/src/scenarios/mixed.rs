//! Mixed: hot traffic with and without many idle connections beside it; what do the idle ones take away?
//!
//! Both measurements happen in one run against one process, so that nothing else differs. Each is two
//! windows: a closed loop, which shows the rate, and an open one at a fixed rate below it, which shows the
//! latency. Refuses to draw conclusions from less than the same connections before and after.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::client::share;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::MessageKind;
use crate::probe::Server;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bars::Bars;
use crate::scenarios::bystanders::{Part, Party};
use crate::scenarios::echo::{Echo, no_connection, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{Shared, tell_harness, warn_when_busy};
use crate::span::{Measured, open_rate_per_s};
use crate::spread::Spread;
use crate::traffic::{self, Traffic};

/// Measures what idle connections take away from hot ones.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections that carry messages.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    connections: u32,
    /// Connections that do nothing beside them.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 50_000)]
    idle: u32,
    /// Path of the idle connections and the others, instead of the URL's; `{n}` is the number of the
    /// connection.
    #[arg(long)]
    path: Option<String>,
    /// Idle connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    open_rate: f64,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Text or binary messages.
    #[arg(long, value_enum, default_value_t = MessageKind::Text)]
    kind: MessageKind,
    /// Messages per second in the open loop; by default half of what the first closed loop reached.
    #[arg(long)]
    rate: Option<f64>,
    /// Length of each measured window.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// Length of the warm-up before each.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// How often to go through it all; the ratio is the median.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fail (status 1) when the rate with idle connections, divided by the one without, is below this.
    #[arg(long)]
    min_rate_ratio: Option<f64>,
    #[command(flatten)]
    bars: Bars,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }
}

/// What the closed window of one setting showed; the open one shows latencies.
struct Seen {
    closed: Measured,
    resident: Option<u64>,
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let plan = shared.plan(args.path.as_deref(), args.connections + args.idle)?;
    let party = Party::new(shared.threads, args.connections, args.idle)?;
    let progress = Progress::new(server);
    let crew = Crew::start(party.threads(), &plan, |thread| {
        party.part(thread, args.open_rate, |thread| {
            let slots = share(args.connections, thread, party.workers);
            let traffic = Traffic::new(args.size, args.kind, slots, party.workers);
            (Echo { ramp: Ramp::new(f64::INFINITY), traffic }, slots)
        })
    })?;

    progress.step("connecting");
    open(&crew, args.connections, shared.patience, &progress)?;
    if crew.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    let mut rate = args.rate;
    let mut rounds = Vec::new();
    let mut held = 0;
    for _ in 0..args.rounds {
        let without = measure(args, &crew, server, &mut rate, "without idle ones", &progress)?;
        progress.step("opening idle ones");
        open(&crew, args.connections + args.idle, shared.patience, &progress)?;
        held = crew.board().counts().open.saturating_sub(args.connections);
        let with = measure(args, &crew, server, &mut rate, "with idle ones", &progress)?;
        rounds.push((without, with));
        progress.step("closing idle ones");
        crew.set_goal(args.connections);
        crew.wait_until(&progress, shared.patience, |counts| {
            counts.open <= args.connections && counts.busy == 0
        })?;
    }

    let mut gathered = crew.finish(&progress)?;
    gathered.faults.note_many(Fault::Lost, gathered.counts.sent.saturating_sub(gathered.counts.received));
    let mut report = shared.report("mixed", &plan, party.threads());
    report.about("connections", args.connections.to_string());
    report.about("idle", args.idle.to_string());
    report.figure("idle_held", f64::from(held), Unit::Count);
    report.figure("failed_to_open", gathered.counts.failures as f64, Unit::Count);
    report.figure("closed_unexpectedly", gathered.counts.lost as f64, Unit::Count);
    report.figure("open_loop_rate", rate.unwrap_or(0.0), Unit::PerSecond);
    tell(&mut report, args, &rounds, &gathered.scenarios);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// A closed window and an open one, with the connections that are there now.
fn measure(
    args: &Args,
    crew: &Crew<Part<Echo>>,
    server: Option<Server>,
    rate: &mut Option<f64>,
    setting: &str,
    progress: &Progress,
) -> Result<Seen, Failure> {
    let resident = settled(crew, server, progress)?;
    let span = |rate_per_s| args.shared.span(server, progress, args.warm_up, rate_per_s);
    let closed = span(None).echoes(crew, &format!("closed loop {setting}"), args.seconds)?;
    let rate_per_s = *rate.get_or_insert(open_rate_per_s(closed.rate_per_s()));
    span(Some(rate_per_s)).echoes(crew, &format!("open loop {setting}"), args.seconds)?;
    Ok(Seen { closed, resident })
}

fn tell(report: &mut Report, args: &Args, rounds: &[(Seen, Seen)], parts: &[Part<Echo>]) {
    let mut ratios = Vec::new();
    for (number, (without, with)) in rounds.iter().enumerate() {
        let ratio = with.closed.rate_per_s() / without.closed.rate_per_s().max(1e-9);
        ratios.push(ratio);
        for (name, seen) in [("without", without), ("with", with)] {
            let name = format!("round_{}_{name}_idle", number + 1);
            report.figure(format!("{name}_rate"), seen.closed.rate_per_s(), Unit::PerSecond);
            let cpu_us = seen.closed.cpu_per_message_us();
            report.maybe(format!("{name}_server_cpu_per_message"), cpu_us, Unit::Micros);
            report.maybe(format!("{name}_resident"), seen.resident.map(|bytes| bytes as f64), Unit::Bytes);
            tell_harness(report, &format!("{name}_"), &seen.closed.usage);
            // A rate that the harness held down on either side flatters or wrongs the server.
            warn_when_busy(report, &seen.closed.usage);
        }
        report.figure(format!("round_{}_rate_ratio", number + 1), ratio, Unit::Count);
    }
    let ratio = Spread::of(ratios);
    report.figure("rate_ratio", ratio.median, Unit::Count);
    report.figure("rate_ratio_least", ratio.least, Unit::Count);
    report.figure("rate_ratio_most", ratio.most, Unit::Count);
    // Each round is four windows: closed and open without idle connections, then closed and open with them.
    let opened = |first: usize| {
        let mut sum = traffic::Latencies::new();
        for number in (first..4 * rounds.len()).step_by(4) {
            let works = parts.iter().filter_map(Part::work).map(|echo| &echo.traffic);
            sum.add(&traffic::window(works, number));
        }
        sum
    };
    let (without, with) = (opened(1), opened(3));
    tell_latencies(report, "latency_without_idle", &without, false);
    tell_latencies(report, "latency_with_idle", &with, false);
    report.check_least("min-rate-ratio", args.min_rate_ratio, Some(ratio.median));
    args.bars.check(report, &with.corrected);
}
