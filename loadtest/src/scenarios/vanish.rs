//! Vanish: many peers fall silent without closing anything, as a phone does that lost its network; when does the
//! server notice?
//!
//! The silent ones still acknowledge on TCP, so that only heartbeats can tell. Each is timed by itself, from
//! its last byte (its request, or its last pong) to the end that the server made of it. Refuses an end that
//! comes late, none at all, and any end of those who answer.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::board::Phase;
use crate::client::{Desk, Farewell, Manner, Scenario, Slot, share};
use crate::clock;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::probe::Window;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::no_connection;
use crate::scenarios::hold::open;
use crate::scenarios::sides::{Side, tell_endings};
use crate::scenarios::slow::each_open;
use crate::scenarios::{Shared, latencies, merged};

/// How long after the deadline those that are left may still end, late.
const GRACE: Duration = Duration::from_secs(5);

/// Measures when a server notices that peers are gone.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections that fall silent.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 5_000)]
    connections: u32,
    /// Connections that go on answering pings.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    healthy: u32,
    /// Connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// How long all answer pings before most fall silent.
    #[arg(long, value_parser = parse_duration, default_value = "2s")]
    live: Duration,
    /// The server's ping interval.
    #[arg(long, value_parser = parse_duration, default_value = "25s")]
    interval: Duration,
    /// The server's pong deadline.
    #[arg(long, value_parser = parse_duration, default_value = "20s")]
    pong_deadline: Duration,
    /// The server's tick: an end may be two of these late.
    #[arg(long, value_parser = parse_duration, default_value = "100ms")]
    tick: Duration,
    /// How late the harness itself may be to notice an end.
    #[arg(long, value_parser = parse_duration, default_value = "50ms")]
    margin: Duration,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }

    /// From the last byte to the end at most.
    fn deadline(&self) -> Duration {
        self.interval + self.pong_deadline + 2 * self.tick
    }
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let everybody = args.connections + args.healthy;
    let plan = shared.plan(None, everybody)?;
    let party = Party::new(shared.threads, args.healthy, args.connections)?;
    let progress = Progress::new(server);
    let crew = Crew::start(party.threads(), &plan, |thread| {
        let well = |thread, threads| {
            let ramp = Ramp::new(args.rate / f64::from(threads));
            (Healthy { ramp }, share(args.healthy, thread, threads))
        };
        Side::new(&party, thread, well, |slots, threads| Vanishing::new(args, slots, threads))
    })?;

    progress.step("connecting");
    open(&crew, args.healthy, shared.patience, &progress)?;
    open(&crew, everybody, shared.patience, &progress)?;
    let connected = crew.board().counts().open;
    if connected < everybody {
        let why = no_connection(&crew.finish(&progress)?.faults);
        return Err(Failure::Server(format!("{connected} of {everybody} connections came up; {why}")));
    }
    progress.step("living");
    crew.let_pass(&progress, args.live, |_| false)?;
    progress.step("silent");
    let window = Window::open(server, crew.board())?;
    crew.set_phase(Phase::Warm);
    crew.let_pass(&progress, args.deadline() + GRACE, |counts| counts.open <= args.healthy)?;
    let usage = window.close(crew.board())?;
    let pings = crew.board().counts().pings;

    let mut gathered = crew.finish(&progress)?;
    let mut endings = Faults::default();
    let (mut early, mut late) = (0, 0);
    for vanishing in gathered.scenarios.iter().filter_map(Side::ill) {
        endings.merge(&vanishing.endings);
        early += vanishing.early;
        late += vanishing.late;
    }
    let left = u64::from(args.connections).saturating_sub(endings.total());
    gathered.faults.note_many(Fault::Late("ending who vanished"), late + left);
    gathered.faults.note_many(Fault::Early, early);
    let mut report = shared.report("vanish", &plan, party.threads());
    report.about("vanished", args.connections.to_string());
    report.about("healthy", args.healthy.to_string());
    report.about(
        "heartbeat",
        format!("interval {:?}, pong deadline {:?}, tick {:?}", args.interval, args.pong_deadline, args.tick),
    );
    report.figure("deadline", args.deadline().as_secs_f64(), Unit::Seconds);
    report.figure("pings_answered", pings as f64, Unit::Count);
    tell_endings(&mut report, "vanished", &endings);
    report.figure("vanished_still_there", left as f64, Unit::Count);
    report.figure("vanished_that_ended_late", late as f64, Unit::Count);
    report.figure("healthy_that_ended", gathered.counts.lost as f64, Unit::Count);
    let silences = merged(gathered.scenarios.iter().filter_map(Side::ill).map(|ill| &ill.silences));
    if !silences.is_empty() {
        report.figure("silence_shortest", silences.min() as f64 / 1e9, Unit::Seconds);
        report.figure("silence_longest", silences.max() as f64 / 1e9, Unit::Seconds);
        report.percentiles("silence", &silences);
    }
    let cpu = usage.server_cpu_s.map(|cpu| cpu / usage.seconds * 100.0);
    report.maybe("server_cpu", cpu, Unit::Percent);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Connections of one thread that only answer pings.
struct Healthy {
    ramp: Ramp,
}

impl Scenario for Healthy {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        self.ramp.turn(desk)
    }
}

/// Connections of one thread that fall silent in `Warm`.
struct Vanishing {
    ramp: Ramp,
    slots: usize,
    phase: Phase,
    deadline_ns: u64,
    pong_deadline_ns: u64,
    silences: Histogram<u64>,
    early: u64,
    late: u64,
    endings: Faults,
}

impl Vanishing {
    fn new(args: &Args, slots: u32, threads: u32) -> Vanishing {
        Vanishing {
            ramp: Ramp::new(args.rate / f64::from(threads)),
            slots: slots as usize,
            phase: Phase::Ramp,
            deadline_ns: args::ns(args.deadline() + args.margin),
            pong_deadline_ns: args::ns(args.pong_deadline.saturating_sub(args.tick)),
            silences: latencies(),
            early: 0,
            late: 0,
            endings: Faults::default(),
        }
    }
}

impl Scenario for Vanishing {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if self.phase == Phase::Warm {
            desk.manner = Manner { silent: true, forsaken: true, ..Manner::default() };
        }
        if before == Phase::Warm && self.phase != Phase::Warm {
            // Who is still there does not answer a close either.
            each_open(desk, self.slots, |desk, slot| desk.finish(slot, Farewell::Reset));
        }
        self.ramp.turn(desk)
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        let Some(fault) = fault.filter(|_| self.phase == Phase::Warm) else { return };
        let silence_ns = clock::now_ns().saturating_sub(desk.spoke_ns(slot));
        self.silences.saturating_record(silence_ns);
        self.early += u64::from(silence_ns < self.pong_deadline_ns);
        self.late += u64::from(silence_ns > self.deadline_ns);
        self.endings.note(fault);
    }
}
