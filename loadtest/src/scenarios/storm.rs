//! Storm: all connections are cut at once and all come back; how long does it take, and what does it cost?
//!
//! Who is refused tries again after a delay that is drawn anew each time, as a good client does. Refusals are
//! counted and are no errors: a server may defend itself, as long as everybody gets back. Refuses to stop
//! early: the storm is over when as many are open as before, or when nothing moves any more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::board::{Counts, Phase};
use crate::client::{Desk, Dialogue, Farewell, Scenario, Slot, Stage, share};
use crate::clock;
use crate::crew::{Crew, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::probe::{Server, Usage, Window};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::echo::no_connection;
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{Shared, latencies, merged};
use crate::sockets;

/// Measures how a server takes it when everybody comes back at once.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections to cut.
    #[arg(long, default_value_t = 50_000)]
    connections: u32,
    /// Connections to open per second before the storm.
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// Connections that try to come back per second; by default all at once.
    #[arg(long)]
    return_rate: Option<f64>,
    /// Handshakes of each client thread under way at once.
    #[arg(long, default_value_t = 1024)]
    under_way: u32,
    /// How long who was refused waits before the next try: between half of it and one and a half.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    retry: Duration,
    /// How connections are cut.
    #[arg(long, value_enum, default_value_t = Farewell::Reset)]
    farewell: Farewell,
    /// Storms, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fail (status 1) when it takes longer until all are back.
    #[arg(long, value_parser = args::seconds)]
    max_time_to_all_back: Option<Duration>,
    /// Fail (status 1) when resident memory after a storm, divided by that before, is above this.
    #[arg(long)]
    max_memory_ratio: Option<f64>,
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
    if args.connections == 0 || args.under_way == 0 || args.rate.is_nan() || args.rate <= 0.0 {
        return Err(Failure::Asked("--connections, --under-way and --rate must be above zero".into()));
    }
    let server = shared.server()?;
    let plan = shared.plan(None, args.connections)?;
    let threads = thread_count(shared.threads, args.connections, sockets::PER_TABLE)?;
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let slots = share(args.connections, thread, threads);
        (Storm::new(args, slots, threads), slots)
    })?;

    progress.step("connecting");
    open(&crew, args.connections, shared.patience, &progress)?;
    let connected = crew.board().counts().open;
    if connected == 0 {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    let resident_before = settled(&crew, server, &progress)?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        rounds.push(storm(args, &crew, server, (number, connected), &progress)?);
    }

    let mut gathered = crew.finish(&progress)?;
    let refusals = gathered.faults.take(|fault| matches!(fault, Fault::Refused(_) | Fault::Connect(_)));
    let mut report = shared.report("storm", &plan, threads);
    report.about("connections", args.connections.to_string());
    report.about("farewell", format!("{:?}", args.farewell));
    report.figure("connected", f64::from(connected), Unit::Count);
    report.figure("refusals", refusals as f64, Unit::Count);
    report.maybe("resident_before", resident_before.map(|bytes| bytes as f64), Unit::Bytes);
    for (number, round) in (1..).zip(&rounds) {
        round.tell(&mut report, number, resident_before);
    }
    report.percentiles("time_to_back", &merged(gathered.scenarios.iter().map(|storm| &storm.to_back)));
    let missing = rounds.iter().map(|round| connected - round.back.min(connected)).max();
    report.check("all-back", Some(0.0), missing.map(f64::from));
    let slowest = rounds.iter().map(|round| round.seconds).fold(0.0, f64::max);
    report.check(
        "max-time-to-all-back",
        args.max_time_to_all_back.map(|most| most.as_secs_f64()),
        Some(slowest),
    );
    let worst: Option<Vec<f64>> = rounds.iter().map(|round| round.memory_ratio(resident_before)).collect();
    let worst = worst.and_then(|ratios| ratios.into_iter().reduce(f64::max));
    report.check("max-memory-ratio", args.max_memory_ratio, worst);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// What one storm showed.
struct Round {
    back: u32,
    seconds: f64,
    tries: u64,
    usage: Usage,
    peak: Option<u64>,
    resident_after: Option<u64>,
}

fn storm(
    args: &Args,
    crew: &Crew<Storm>,
    server: Option<Server>,
    (number, connected): (u32, u32),
    progress: &Progress,
) -> Result<Round, Failure> {
    progress.step(format!("storm {number}: cut"));
    crew.set_phase(Phase::Warm);
    crew.wait_until(progress, args.shared.patience, |counts| counts.open == 0 && counts.busy == 0)?;
    progress.step(format!("storm {number}: coming back"));
    let before = crew.board().counts();
    let window = Window::open(server, crew.board())?;
    crew.set_phase(Phase::Measure);
    let mut peak = None;
    crew.wait_until(progress, args.shared.patience, |counts: &Counts| {
        peak = peak.max(server.and_then(|server| server.resident_bytes_counted().ok()));
        counts.open >= connected
    })?;
    let usage = window.close(crew.board())?;
    let after = crew.board().counts();
    let resident_after = settled(crew, server, progress)?;
    let tries = after.attempts - before.attempts;
    Ok(Round { back: after.open, seconds: usage.seconds, tries, usage, peak, resident_after })
}

impl Round {
    fn memory_ratio(&self, before: Option<u64>) -> Option<f64> {
        Some(self.resident_after? as f64 / before.filter(|&bytes| bytes > 0)? as f64)
    }

    fn tell(&self, report: &mut Report, number: u32, resident_before: Option<u64>) {
        let mut tell = |name: &str, value: Option<f64>, unit| {
            report.maybe(format!("storm_{number}_{name}"), value, unit);
        };
        tell("back", Some(f64::from(self.back)), Unit::Count);
        tell("time_to_all_back", Some(self.seconds), Unit::Seconds);
        tell("back_rate", Some(f64::from(self.back) / self.seconds), Unit::PerSecond);
        tell("tries", Some(self.tries as f64), Unit::Count);
        let cpu = self.usage.server_cpu_s.map(|cpu| cpu / self.usage.seconds * 100.0);
        tell("server_cpu", cpu, Unit::Percent);
        tell("busiest_client_thread_cpu", Some(self.usage.busiest_client_percent), Unit::Percent);
        tell("resident_peak", self.peak.map(|bytes| bytes as f64), Unit::Bytes);
        tell("resident_after", self.resident_after.map(|bytes| bytes as f64), Unit::Bytes);
        tell("memory_ratio", self.memory_ratio(resident_before), Unit::Count);
    }
}

/// The connections of one thread. `Warm` cuts them, `Measure` brings them back.
struct Storm {
    ramp: Ramp,
    phase: Phase,
    slots: u32,
    farewell: Farewell,
    under_way: u32,
    return_rate_per_s: Option<f64>,
    retry_ns: u64,
    began_ns: u64,
    /// When who tries next.
    tries: BinaryHeap<Reverse<(u64, u32)>>,
    to_back: Histogram<u64>,
}

impl Storm {
    fn new(args: &Args, slots: u32, threads: u32) -> Storm {
        Storm {
            ramp: Ramp::new(args.rate / f64::from(threads)),
            phase: Phase::Ramp,
            slots,
            farewell: args.farewell,
            under_way: args.under_way,
            return_rate_per_s: args.return_rate.map(|rate| rate / f64::from(threads)),
            retry_ns: args::ns(args.retry),
            began_ns: 0,
            tries: BinaryHeap::new(),
            to_back: latencies(),
        }
    }

    fn cut(&mut self, desk: &mut Desk) {
        for slot in (0..self.slots).map(Slot) {
            if desk.stage(slot) == Stage::Open {
                desk.finish(slot, self.farewell);
            }
        }
    }

    fn begin(&mut self) {
        self.began_ns = clock::now_ns();
        self.tries.clear();
        for slot in 0..self.slots {
            let after_s = self.return_rate_per_s.map_or(0.0, |rate| f64::from(slot) / rate);
            self.tries.push(Reverse((self.began_ns + (after_s * 1e9) as u64, slot)));
        }
    }

    /// Tries whoever's time has come; returns how long until the next one's, ns.
    fn come_back(&mut self, desk: &mut Desk) -> u64 {
        while let Some(&Reverse((due_ns, slot))) = self.tries.peek() {
            let now_ns = clock::now_ns();
            if due_ns > now_ns {
                return due_ns - now_ns;
            }
            if desk.counts.busy >= self.under_way {
                // An event of those under way comes first.
                return u64::MAX;
            }
            self.tries.pop();
            desk.open(Slot(slot), Dialogue::WebSocket);
        }
        u64::MAX
    }
}

impl Scenario for Storm {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        match self.phase {
            Phase::Warm => {
                if before != Phase::Warm {
                    self.cut(desk);
                }
                u64::MAX
            }
            Phase::Measure => {
                if before != Phase::Measure {
                    self.begin();
                }
                self.come_back(desk)
            }
            _ => self.ramp.turn(desk),
        }
    }

    fn opened(&mut self, desk: &mut Desk, _slot: Slot) {
        if self.phase == Phase::Measure {
            let latency_ns = clock::now_ns().saturating_sub(self.began_ns);
            self.to_back.saturating_record(latency_ns);
            desk.observe(latency_ns);
        }
    }

    fn closed(&mut self, _desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        if self.phase == Phase::Measure && fault.is_some() {
            let wait_ns = self.retry_ns / 2 + fastrand::u64(0..=self.retry_ns);
            self.tries.push(Reverse((clock::now_ns() + wait_ns, slot.0)));
        }
    }
}
