//! Handshake: connect, upgrade, close, again; what does one cost the server?
//!
//! So many connections are under way at any moment; each is closed as soon as its upgrade was answered
//! rightly. The cost includes accepting and closing. Refuses to keep anything open.

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
use crate::progress::Progress;
use crate::report::Report;
use crate::scenarios::bars::Bars;
use crate::scenarios::echo::no_connection;
use crate::scenarios::{Shared, latencies, merged, warn_when_busy, work};

/// Measures what it costs to come and go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Handshakes under way at any moment.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 64)]
    concurrency: u32,
    /// Length of the measured window.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// Length of the warm-up before it.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// How each connection is ended.
    #[arg(long, value_enum, default_value_t = Farewell::Fin)]
    farewell: Farewell,
    /// Fail (status 1) when a handshake costs the server more than this, in microseconds of CPU.
    #[arg(long)]
    max_server_cpu_us: Option<f64>,
    /// Fail (status 1) when there are fewer handshakes per second.
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
    let plan = shared.plan(None, args.concurrency)?;
    // A handshake costs the client about what it costs the server: one thread alone would be the bottleneck.
    let spare = std::thread::available_parallelism().map_or(1, |all| u32::try_from(all.get()).unwrap_or(1));
    let asked = shared.threads.unwrap_or(spare.saturating_sub(1).clamp(1, args.concurrency));
    let threads = thread_count(Some(asked), args.concurrency, 10_000)?;
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let slots = share(args.concurrency, thread, threads);
        (Handshake::new(args.farewell, slots), slots)
    })?;

    let during = || crew.let_pass(&progress, args.seconds, |_| false);
    let answered = |counts: &Counts| counts.open == 0 && counts.busy == 0;
    let settle = || crew.wait_until(&progress, shared.patience, answered);
    let span = shared.span(server, &progress, args.warm_up, None);
    let measured = span.measure(&crew, "handshakes", during, settle)?;

    let gathered = crew.finish(&progress)?;
    if gathered.counts.upgrades == 0 {
        return Err(Failure::Server(no_connection(&gathered.faults)));
    }
    let mut report = shared.report("handshake", &plan, threads);
    report.about("concurrency", args.concurrency.to_string());
    report.about("farewell", format!("{:?}", args.farewell));
    let handshakes = measured.end.upgrades - measured.begin.upgrades;
    let per_handshake = work(&mut report, ("handshake", "handshakes"), handshakes, &measured.usage);
    warn_when_busy(&mut report, &measured.usage);
    let latency = merged(gathered.scenarios.iter().map(|thread| &thread.latency));
    report.percentiles("latency", &latency);
    report.check("max-server-cpu-us", args.max_server_cpu_us, per_handshake);
    report.check_least("min-rate", args.min_rate, Some(handshakes as f64 / measured.usage.seconds));
    args.bars.check(&mut report, &latency);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// The comings and goings of one thread.
struct Handshake {
    farewell: Farewell,
    phase: Phase,
    began_ns: Vec<u64>,
    /// Slots whose connection failed: they try again at the next turn, not within this one.
    resting: Vec<Slot>,
    latency: Histogram<u64>,
}

impl Handshake {
    fn new(farewell: Farewell, slots: u32) -> Handshake {
        let resting = (0..slots).map(Slot).collect();
        Handshake {
            farewell,
            phase: Phase::Ramp,
            began_ns: vec![0; slots as usize],
            resting,
            latency: latencies(),
        }
    }

    fn flows(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure)
    }

    /// Ends what was begun in the window and is not answered: it took at least as long as until now.
    fn give_up(&mut self, desk: &mut Desk) {
        let now_ns = clock::now_ns();
        for (slot, &began_ns) in (0..).map(Slot).zip(&self.began_ns) {
            match desk.stage(slot) {
                Stage::Free => continue,
                Stage::Connecting | Stage::Upgrading => {
                    self.latency.saturating_record(now_ns.saturating_sub(began_ns));
                    desk.note(Fault::Late("upgrade"), 1);
                }
                Stage::Open | Stage::Http | Stage::Closing => {}
            }
            desk.finish(slot, Farewell::Fin);
        }
    }

    fn open(&mut self, desk: &mut Desk, slot: Slot) {
        self.began_ns[slot.index()] = clock::now_ns();
        desk.open(slot, Dialogue::WebSocket);
    }
}

impl Scenario for Handshake {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if before == Phase::Settle && before != self.phase {
            self.give_up(desk);
        }
        if !self.flows() {
            return u64::MAX;
        }
        for slot in std::mem::take(&mut self.resting) {
            self.open(desk, slot);
        }
        u64::MAX
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        // What was begun in the window belongs to it, whenever it is answered.
        if matches!(self.phase, Phase::Measure | Phase::Settle) {
            let latency_ns = clock::now_ns().saturating_sub(self.began_ns[slot.index()]);
            self.latency.saturating_record(latency_ns);
            desk.observe(latency_ns);
        }
        desk.finish(slot, self.farewell);
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        if self.flows() && fault.is_none() {
            self.open(desk, slot);
        } else {
            self.resting.push(slot);
        }
    }
}
