//! Churn: connections come and go at a steady rate while others idle; what does a coming cost, and does
//! memory grow?
//!
//! An open loop: each coming has its moment, and its latency counts from there until the upgrade is answered.
//! Every one stays for the same time and then leaves. Refuses to hide a slow server behind fewer comings: those
//! that find no room wait, and their latency says so.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::board::{Counts, Phase};
use crate::client::{Desk, Dialogue, Farewell, Scenario, Slot, Stage};
use crate::clock;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::fault::Fault;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::report::{Report, Unit};
use crate::scenarios::bars::Bars;
use crate::scenarios::bystanders::{Part, Party};
use crate::scenarios::echo::no_connection;
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{Shared, latencies, merged, tell_late, work};

/// Time that a connection may take to open and to close, on top of its stay, when room is reckoned.
const SLACK_S: f64 = 2.0;

/// Handshakes and closes under way at once in a thread.
const UNDER_WAY_MAX: u32 = 1024;

/// How long a thread waits for a slot whose connection it has just ended, ns.
const ROOM_STEP_NS: u64 = 1_000_000;

/// Measures what it costs that connections come and go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections that idle meanwhile.
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// Idle connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    open_rate: f64,
    /// Connections that come per second.
    #[arg(long, value_parser = args::rate, default_value_t = 1_000.0)]
    rate: f64,
    /// How long each of them stays.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    stay: Duration,
    /// How they leave.
    #[arg(long, value_enum, default_value_t = Farewell::Frame)]
    farewell: Farewell,
    /// Length of the measured window.
    #[arg(long, value_parser = args::seconds, default_value = "20")]
    seconds: Duration,
    /// Length of the warm-up before it, in which the number of connections becomes steady.
    #[arg(long, value_parser = parse_duration, default_value = "3s")]
    warm_up: Duration,
    /// Fail (status 1) when a coming and going costs the server more than this, in microseconds of CPU.
    #[arg(long)]
    max_server_cpu_us: Option<f64>,
    #[command(flatten)]
    bars: Bars,
    /// Fail (status 1) when the server's resident memory grew by more than this within the window, bytes.
    #[arg(long)]
    max_growth_bytes: Option<f64>,
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
    // A cast saturates: too much to ask is refused by the descriptor table.
    let room = (args.rate * (args.stay.as_secs_f64() + SLACK_S)).ceil() as u32;
    let mut party = Party::new(shared.threads, room, args.idle)?;
    // The goal speaks of the idle ones alone: comings follow their own pace.
    party.working = 0;
    let plan = shared.plan(None, room.saturating_add(args.idle))?;
    let progress = Progress::new(server);
    let crew = Crew::start(party.threads(), &plan, |thread| {
        party.part(thread, args.open_rate, |_| {
            let slots = room.div_ceil(party.workers);
            (Churn::new(args, slots, party.workers), slots)
        })
    })?;

    progress.step("opening idle ones");
    open(&crew, args.idle, shared.patience, &progress)?;
    let idle = crew.board().counts().open;
    settled(&crew, server, &progress)?;
    let resident = || server.map(|server| server.resident_bytes()).transpose();
    let (mut resident_before, mut resident_after) = (None, None);
    let during = || {
        resident_before = resident()?;
        crew.let_pass(&progress, args.seconds, |_| false)?;
        resident_after = resident()?;
        Ok(())
    };
    let gone = |counts: &Counts| counts.open <= idle && counts.busy == 0 && counts.owed == 0;
    let settle = || crew.wait_until(&progress, shared.patience, gone);
    let span = shared.span(server, &progress, args.warm_up, Some(args.rate));
    let measured = span.measure(&crew, "comings and goings", during, settle)?;

    let gathered = crew.finish(&progress)?;
    if gathered.counts.upgrades == measured.begin.upgrades {
        return Err(Failure::Server(no_connection(&gathered.faults)));
    }
    let mut report = shared.report("churn", &plan, party.threads());
    report.about("idle", args.idle.to_string());
    report.about("comings", format!("{} per second, each stays for {:?}", args.rate, args.stay));
    report.about("farewell", format!("{:?}", args.farewell));
    let comings = measured.end.upgrades - measured.begin.upgrades;
    let per_coming = work(&mut report, ("coming", "comings"), comings, &measured.usage);
    let works = || gathered.scenarios.iter().filter_map(Part::work);
    let corrected = merged(works().map(|churn| &churn.corrected));
    report.percentiles("latency", &corrected);
    report.percentiles("latency_raw", &merged(works().map(|churn| &churn.raw)));
    let missed: u64 = works().map(|churn| churn.missed).sum();
    report.figure("comings_not_begun", missed as f64, Unit::Count);
    tell_late(&mut report, "", &merged(works().map(|churn| &churn.late)));
    report.figure("idle_held", f64::from(idle), Unit::Count);
    report.figure("failed_to_open", gathered.counts.failures as f64, Unit::Count);
    report.figure("closed_unexpectedly", gathered.counts.lost as f64, Unit::Count);
    let growth = resident_before.zip(resident_after).map(|(before, after)| after as f64 - before as f64);
    report.maybe("resident_before", resident_before.map(|bytes| bytes as f64), Unit::Bytes);
    report.maybe("resident_growth", growth, Unit::Bytes);
    report.check("max-server-cpu-us", args.max_server_cpu_us, per_coming);
    args.bars.check(&mut report, &corrected);
    report.check("max-growth-bytes", args.max_growth_bytes, growth);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// A connection of one slot.
#[derive(Debug, Clone, Copy, Default)]
struct Visit {
    /// Which one of this slot.
    nth: u32,
    meant_ns: u64,
    began_ns: u64,
}

/// The comings and goings of one thread.
#[derive(Debug)]
struct Churn {
    farewell: Farewell,
    stay_ns: u64,
    sharers: u32,
    pace: Option<Pace>,
    phase: Phase,
    /// Comings that had their connection; those dealt beyond wait for room.
    begun: u64,
    dealt: u64,
    free: Vec<Slot>,
    visits: Vec<Visit>,
    /// When who leaves; all stay equally long, so this is in order.
    leaving: VecDeque<(u64, Slot, u32)>,
    raw: Histogram<u64>,
    corrected: Histogram<u64>,
    /// Comings that were meant for the window and never begun.
    missed: u64,
    /// Whether comings had to wait for room, and not all that were dealt since have begun.
    held: bool,
    /// How much later than meant the harness itself was, where there was room, ns.
    late: Histogram<u64>,
}

impl Churn {
    fn new(args: &Args, slots: u32, sharers: u32) -> Churn {
        Churn {
            farewell: args.farewell,
            stay_ns: args::ns(args.stay),
            sharers,
            pace: None,
            phase: Phase::Ramp,
            begun: 0,
            dealt: 0,
            free: (0..slots).map(Slot).collect(),
            visits: vec![Visit::default(); slots as usize],
            leaving: VecDeque::new(),
            raw: latencies(),
            corrected: latencies(),
            missed: 0,
            held: false,
            late: latencies(),
        }
    }

    fn flows(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure)
    }

    /// Lets go those whose time is over, or everybody once nothing flows; returns when the next one leaves.
    fn part(&mut self, desk: &mut Desk) -> u64 {
        while let Some(&(due_ns, slot, nth)) = self.leaving.front() {
            let now_ns = clock::now_ns();
            if due_ns > now_ns && self.flows() {
                return due_ns - now_ns;
            }
            self.leaving.pop_front();
            if self.visits[slot.index()].nth == nth && desk.stage(slot) == Stage::Open {
                desk.finish(slot, self.farewell);
            }
        }
        u64::MAX
    }

    /// Follows the phase. Nothing more is dealt after the window, but what was dealt within it is still to come; what
    /// has not begun when that is given up took at least as long as until then.
    fn follow(&mut self, desk: &Desk) {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        let Some(pace) = self.pace.as_mut().filter(|_| before != self.phase) else { return };
        if before == Phase::Measure {
            self.dealt = pace.deal(clock::now_ns()).end;
        } else if before == Phase::Settle {
            let now_ns = clock::now_ns();
            for coming in self.begun..self.dealt {
                self.corrected.saturating_record(now_ns.saturating_sub(pace.moment_ns(coming)));
            }
            self.missed += self.dealt - self.begun;
            self.begun = self.dealt;
        }
    }

    /// Opens what is due and has room; returns how long until the next coming.
    fn come(&mut self, desk: &mut Desk) -> u64 {
        let flows = self.flows();
        let Some(pace) = &mut self.pace else { return u64::MAX };
        if flows {
            self.dealt = pace.deal(clock::now_ns()).end;
        }
        while self.begun < self.dealt && desk.counts.busy < UNDER_WAY_MAX {
            let Some(slot) = self.free.pop() else { break };
            let visit = &mut self.visits[slot.index()];
            visit.nth = visit.nth.wrapping_add(1);
            visit.meant_ns = pace.moment_ns(self.begun);
            visit.began_ns = clock::now_ns();
            if self.phase == Phase::Measure && !self.held {
                self.late.saturating_record(visit.began_ns.saturating_sub(visit.meant_ns));
            }
            self.begun += 1;
            desk.open(slot, Dialogue::WebSocket);
        }
        let owed = self.dealt - self.begun;
        self.held = owed > 0;
        desk.counts.owed = if flows { 0 } else { owed };
        match (flows, owed) {
            (true, _) => pace.next_in_ns(clock::now_ns()),
            (false, 0) => u64::MAX,
            (false, _) => ROOM_STEP_NS,
        }
    }
}

impl Scenario for Churn {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        self.follow(desk);
        let leave_ns = self.part(desk);
        if !self.flows() && self.phase != Phase::Settle {
            desk.counts.owed = 0;
            return leave_ns;
        }
        if self.pace.is_none() {
            let rate_per_s = desk.rate_per_s().unwrap_or(0.0) / f64::from(self.sharers);
            self.pace = Some(Pace::new(rate_per_s.max(f64::MIN_POSITIVE), 1, clock::now_ns()));
        }
        self.come(desk).min(leave_ns)
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        let (visit, now_ns) = (self.visits[slot.index()], clock::now_ns());
        if matches!(self.phase, Phase::Measure | Phase::Settle) {
            let corrected_ns = now_ns.saturating_sub(visit.meant_ns);
            self.corrected.saturating_record(corrected_ns);
            self.raw.saturating_record(now_ns.saturating_sub(visit.began_ns));
            desk.observe(corrected_ns);
        }
        self.leaving.push_back((now_ns + self.stay_ns, slot, visit.nth));
    }

    fn closed(&mut self, _desk: &mut Desk, slot: Slot, _fault: Option<Fault>) {
        self.free.push(slot);
    }
}
