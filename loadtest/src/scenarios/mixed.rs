//! Mixed: hot traffic with and without many idle connections beside it; what do the idle ones take away?
//!
//! Both measurements happen in one run against one process, so that nothing else differs. Each is two
//! windows: a closed loop, which shows the rate, and an open one at a fixed rate below it, which shows the
//! latency. Refuses to draw conclusions from less than the same connections before and after.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::board::Phase;
use crate::client::share;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::MessageKind;
use crate::probe::{Server, Usage, Window};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::{Part, Party};
use crate::scenarios::echo::{Echo, no_connection, p99_us, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{Shared, warn_when_busy};
use crate::traffic::{self, Traffic};

/// The open loop runs at this share of the rate that the first closed one reached.
const OPEN_SHARE: f64 = 0.5;

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
    /// Fail (status 1) when the 99th percentile with idle connections is above this, in microseconds.
    #[arg(long)]
    max_p99_us: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }
}

/// What the two windows of one setting showed.
struct Seen {
    usage: Usage,
    messages: u64,
    resident: Option<u64>,
}

impl Seen {
    fn rate_per_s(&self) -> f64 {
        self.messages as f64 / self.usage.seconds
    }
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
    progress.step(format!("closed loop {setting}"));
    let (usage, messages) = window(args, crew, server, None, progress)?;
    let seen = Seen { usage, messages, resident };
    let open_rate = *rate.get_or_insert((seen.rate_per_s() * OPEN_SHARE).max(1.0));
    progress.step(format!("open loop {setting}"));
    window(args, crew, server, Some(open_rate), progress)?;
    Ok(seen)
}

fn window(
    args: &Args,
    crew: &Crew<Part<Echo>>,
    server: Option<Server>,
    rate: Option<f64>,
    progress: &Progress,
) -> Result<(Usage, u64), Failure> {
    crew.board().set_rate_per_s(rate);
    crew.set_phase(Phase::Warm);
    crew.let_pass(progress, args.warm_up, |_| false)?;
    crew.set_phase(Phase::Measure);
    let begin = crew.board().counts().received;
    let window = Window::open(server, crew.board())?;
    crew.let_pass(progress, args.seconds, |_| false)?;
    let usage = window.close(crew.board())?;
    let messages = crew.board().counts().received - begin;
    crew.set_phase(Phase::Settle);
    crew.wait_until(progress, args.shared.patience, |counts| counts.received >= counts.sent)?;
    Ok((usage, messages))
}

fn tell(report: &mut Report, args: &Args, rounds: &[(Seen, Seen)], parts: &[Part<Echo>]) {
    let mut ratios = Vec::new();
    for (number, (without, with)) in rounds.iter().enumerate() {
        let ratio = with.rate_per_s() / without.rate_per_s().max(1e-9);
        ratios.push(ratio);
        for (name, seen) in [("without", without), ("with", with)] {
            let name = format!("round_{}_{name}_idle", number + 1);
            report.figure(format!("{name}_rate"), seen.rate_per_s(), Unit::PerSecond);
            let cpu = seen.usage.server_cpu_s.filter(|_| seen.messages > 0);
            let per_message = cpu.map(|cpu| cpu * 1e6 / seen.messages as f64);
            report.maybe(format!("{name}_server_cpu_per_message"), per_message, Unit::Micros);
            report.maybe(format!("{name}_resident"), seen.resident.map(|bytes| bytes as f64), Unit::Bytes);
        }
        report.figure(format!("round_{}_rate_ratio", number + 1), ratio, Unit::Count);
        warn_when_busy(report, &with.usage);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied();
    report.maybe("rate_ratio", median, Unit::Count);
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
    report.check_least("min-rate-ratio", args.min_rate_ratio, median);
    report.check("max-p99-us", args.max_p99_us, p99_us(&with));
}
