//! Hold: many connections that do nothing but answer pings; what does each cost the server?
//!
//! Memory is a slope between two counts of connections, so that what the process costs by itself drops out.
//! Rounds show whether what was freed is used again. Refuses to guess: without `--server-pid` there are no
//! figures of memory and CPU.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args;
use crate::board::Phase;
use crate::client::{Desk, Scenario, share};
use crate::clock;
use crate::crew::{Crew, thread_count};
use crate::failure::Failure;
use crate::probe::{Server, Usage, Window, slab_bytes};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::{Shared, echo::no_connection, tell_harness};
use crate::sockets;

/// Memory counts as settled when it moved less than this between two samples, bytes.
const SETTLED_WITHIN: u64 = 64 * 1024;

/// Time between two samples while memory settles.
const SETTLE_STEP: Duration = Duration::from_millis(250);

/// Samples after which memory is taken as it is.
const SETTLE_SAMPLES_MAX: u32 = 40;

/// Measures what an idle connection costs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections to hold.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 50_000)]
    connections: u32,
    /// Connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// How long to hold them.
    #[arg(long, value_parser = args::seconds, default_value = "30")]
    seconds: Duration,
    /// Connections at which the slope of memory begins.
    #[arg(long, default_value_t = 1_000)]
    baseline: u32,
    /// Close everything and do it again, so many times in all.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 1)]
    rounds: u32,
    /// Answer pings this much later.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    pong_delay: Duration,
    /// Path instead of the URL's; `{n}` is the number of the connection, so that each can have its own
    /// channel.
    #[arg(long)]
    channel_path: Option<String>,
    /// Stop the server's process (SIGSTOP) for this long after a third of the time, then let it go on.
    #[arg(long, value_parser = parse_duration, requires = "server_pid")]
    stop_server: Option<Duration>,
    /// Fail (status 1) when a connection costs the server more resident memory than this, bytes.
    #[arg(long)]
    max_bytes_per_connection: Option<f64>,
    /// Fail (status 1) when holding costs the server more than this, percent of one processor.
    #[arg(long)]
    max_server_cpu_percent: Option<f64>,
    /// Fail (status 1) when the last round needs more memory than the first by more than this, bytes.
    #[arg(long)]
    max_round_growth_bytes: Option<f64>,
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
    let mut plan = shared.plan(args.channel_path.as_deref(), args.connections)?;
    plan.pong_delay_ns = args::ns(args.pong_delay);
    let threads = thread_count(shared.threads, args.connections, sockets::PER_TABLE)?;
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let ramp = Ramp::new(args.rate / f64::from(threads));
        (Hold { ramp }, share(args.connections, thread, threads))
    })?;

    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        progress.step(format!("round {number}"));
        let round = round(args, &crew, server, &progress)?;
        if round.opened == 0 {
            return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
        }
        rounds.push(round);
    }
    let pings = crew.board().counts().pings;
    let gathered = crew.finish(&progress)?;
    let mut report = shared.report("hold", &plan, threads);
    report.about("connections", args.connections.to_string());
    report.figure("pings_answered", pings as f64, Unit::Count);
    report.figure("failed_to_open", gathered.counts.failures as f64, Unit::Count);
    report.figure("closed_unexpectedly", gathered.counts.lost as f64, Unit::Count);
    for (number, round) in (1..).zip(&rounds) {
        round.tell(&mut report, number);
    }
    let worst = |figure: fn(&Round) -> Option<f64>| {
        let figures: Option<Vec<f64>> = rounds.iter().map(figure).collect();
        figures.and_then(|figures| figures.into_iter().reduce(f64::max))
    };
    report.check("max-bytes-per-connection", args.max_bytes_per_connection, rounds[0].bytes_per_connection());
    report.check("max-server-cpu-percent", args.max_server_cpu_percent, worst(Round::server_cpu_percent));
    let growth = growth(&rounds);
    report.maybe("growth_from_first_to_last_round", growth, Unit::Bytes);
    report.check("max-round-growth-bytes", args.max_round_growth_bytes, growth);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// What one round of opening, holding and closing showed.
struct Round {
    opened: u32,
    ramp_s: f64,
    resident_before: Option<u64>,
    /// Connections and memory at the beginning of the slope.
    at_baseline: (u32, Option<u64>),
    /// Connections and memory at its end.
    at_full: (u32, Option<u64>),
    slab: Option<u64>,
    usage: Usage,
    resident_after: Option<u64>,
}

fn round(
    args: &Args,
    crew: &Crew<Hold>,
    server: Option<Server>,
    progress: &Progress,
) -> Result<Round, Failure> {
    let slab_before = slab_bytes();
    let resident_before = settled(crew, server, progress)?;
    let baseline = args.baseline.min(args.connections);
    let began_ns = clock::now_ns();
    let mut ramp_s = 0.0;
    if baseline > 0 {
        open(crew, baseline, args.shared.patience, progress)?;
        ramp_s += since_s(began_ns);
    }
    let at_baseline = (crew.board().counts().open, settled(crew, server, progress)?);
    let began_ns = clock::now_ns();
    open(crew, args.connections, args.shared.patience, progress)?;
    ramp_s += since_s(began_ns);
    let opened = crew.board().counts().open;
    let at_full = (opened, settled(crew, server, progress)?);
    let slab = slab_before.zip(slab_bytes()).map(|(before, now)| now.saturating_sub(before));
    let window = Window::open(server, crew.board())?;
    match (args.stop_server, server) {
        (Some(length), Some(server)) => hold_with_stop(args, crew, server, length, progress)?,
        _ => crew.let_pass(progress, args.seconds, |_| false)?,
    }
    let usage = window.close(crew.board())?;
    crew.set_goal(0);
    crew.wait_until(progress, args.shared.patience, |counts| counts.open == 0 && counts.busy == 0)?;
    let resident_after = settled(crew, server, progress)?;
    Ok(Round { opened, ramp_s, resident_before, at_baseline, at_full, slab, usage, resident_after })
}

/// Opens up to `goal` connections: each is open, or has failed, when this returns.
pub(crate) fn open<S: Scenario>(
    crew: &Crew<S>,
    goal: u32,
    patience: Duration,
    progress: &Progress,
) -> Result<(), Failure> {
    let before = crew.board().counts();
    let missing = u64::from(goal.saturating_sub(before.open));
    crew.set_goal(goal);
    crew.wait_until(progress, patience, |counts| {
        counts.attempts - before.attempts >= missing && counts.busy == 0
    })?;
    Ok(())
}

/// The server's resident memory once it moves no more: several equal samples, or the last of a bounded
/// number.
pub(crate) fn settled<S: Scenario>(
    crew: &Crew<S>,
    server: Option<Server>,
    progress: &Progress,
) -> Result<Option<u64>, Failure> {
    let Some(server) = server else { return Ok(None) };
    let mut last = server.resident_bytes()?;
    let mut calm = 0;
    for _ in 0..SETTLE_SAMPLES_MAX {
        crew.let_pass(progress, SETTLE_STEP, |_| false)?;
        let now = server.resident_bytes()?;
        calm = if now.abs_diff(last) < SETTLED_WITHIN { calm + 1 } else { 0 };
        last = now;
        if calm == 3 {
            break;
        }
    }
    Ok(Some(last))
}

/// Holds with the server stopped in between. It goes on again whatever happens here.
fn hold_with_stop(
    args: &Args,
    crew: &Crew<Hold>,
    server: Server,
    length: Duration,
    progress: &Progress,
) -> Result<(), Failure> {
    struct Continue(Pid);
    impl Drop for Continue {
        fn drop(&mut self) {
            // A process that is gone needs no signal; the next probe reports that.
            let _ = kill(self.0, Signal::SIGCONT);
        }
    }
    let pid = Pid::from_raw(i32::try_from(server.pid()).map_err(|_| Failure::Asked("--server-pid".into()))?);
    crew.let_pass(progress, args.seconds / 3, |_| false)?;
    progress.step("server stopped");
    let resume = Continue(pid);
    kill(pid, Signal::SIGSTOP).map_err(|errno| Failure::machine("SIGSTOP")(errno.into()))?;
    crew.let_pass(progress, length, |_| false)?;
    drop(resume);
    progress.step("server goes on");
    crew.let_pass(progress, args.seconds * 2 / 3, |_| false)
}

impl Round {
    fn bytes_per_connection(&self) -> Option<f64> {
        slope(self.at_baseline.0, self.at_baseline.1?, self.at_full.0, self.at_full.1?)
    }

    fn server_cpu_percent(&self) -> Option<f64> {
        self.usage.server_cpu_s.map(|cpu| cpu / self.usage.seconds * 100.0)
    }

    fn tell(&self, report: &mut Report, number: u32) {
        let mut tell = |name: &str, value: Option<f64>, unit| {
            report.maybe(format!("round_{number}_{name}"), value, unit)
        };
        let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
        tell("connected", Some(f64::from(self.opened)), Unit::Count);
        tell("connect_rate", Some(f64::from(self.opened) / self.ramp_s.max(1e-3)), Unit::PerSecond);
        tell("resident_before", bytes(self.resident_before), Unit::Bytes);
        tell("resident_at_baseline", bytes(self.at_baseline.1), Unit::Bytes);
        tell("resident_at_full", bytes(self.at_full.1), Unit::Bytes);
        tell("resident_per_connection", self.bytes_per_connection(), Unit::Bytes);
        let slab = self.slab.map(|slab| slab as f64 / f64::from(self.opened.max(1)));
        tell("kernel_slab_per_connection_both_ends", slab, Unit::Bytes);
        tell("server_cpu_while_holding", self.server_cpu_percent(), Unit::Percent);
        tell("resident_after_closing", bytes(self.resident_after), Unit::Bytes);
        tell_harness(report, &format!("round_{number}_"), &self.usage);
    }
}

/// Bytes per connection between two points; `None` when they are the same point.
fn slope(from: u32, from_bytes: u64, to: u32, to_bytes: u64) -> Option<f64> {
    (to > from).then(|| (to_bytes as f64 - from_bytes as f64) / f64::from(to - from))
}

/// How much more memory the last round held at its full count than the first.
fn growth(rounds: &[Round]) -> Option<f64> {
    let [first, .., last] = rounds else { return None };
    Some(last.at_full.1? as f64 - first.at_full.1? as f64)
}

fn since_s(began_ns: u64) -> f64 {
    (clock::now_ns() - began_ns) as f64 / 1e9
}

/// One thread of quiet connections: pings are answered by the client itself.
struct Hold {
    ramp: Ramp,
}

impl Scenario for Hold {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        debug_assert!(
            desk.phase() == Phase::Ramp || desk.phase() == Phase::Finish,
            "holding has no other phases"
        );
        self.ramp.turn(desk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_leaves_out_what_the_process_costs_by_itself() {
        assert_eq!(slope(1_000, 10_000_000, 50_000, 10_000_000 + 49_000 * 80), Some(80.0));
        assert_eq!(slope(1_000, 5_000, 2_000, 4_000), Some(-1.0));
        assert_eq!(slope(1_000, 5_000, 1_000, 5_000), None);
    }
}
