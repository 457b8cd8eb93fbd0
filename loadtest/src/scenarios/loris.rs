//! Loris: thousands of clients send a request head, or a frame, byte by byte; what do they cost the server, and do
//! those notice who are served?
//!
//! Half of them never finish a head: each must be answered 408, and comes again. The others never finish a
//! frame. Echo clients at a fixed rate are measured before and during the attack. Refuses a head that ends
//! in any other way, and any loss of those who are served.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::client::{Desk, Dialogue, Farewell, Manner, Scenario, Slot, Stage, share};
use crate::clock;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::frames::MessageKind;
use crate::probe::Server;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::{Echo, no_connection, p99_us, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::sides::{Side, tell_endings};
use crate::scenarios::slow::each_open;
use crate::scenarios::{Shared, latencies, merged};
use crate::traffic::{self, Traffic};
use crate::upgrade::Head as Answer;

/// How a head begins that never ends.
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";

/// How a frame begins that never ends: text, masked with zeros, 65,535 bytes (RFC 6455 section 5.2).
const FRAME: &[u8] = &[0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0, b'a'];

/// What both go on with.
const MORE: &[u8] = b"a";

/// Time between two looks at who is due, ns.
const STEP_NS: u64 = 10_000_000;

/// Measures what clients cost that send by the byte.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections that send by the byte: half of them heads, half of them frames.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 10_000)]
    connections: u32,
    /// Connections that are served.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    healthy: u32,
    /// Messages per second of the served ones, all together.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// Time between two bytes of one connection: below the server's ping interval.
    #[arg(long, value_parser = parse_duration, default_value = "2s")]
    drip: Duration,
    /// Length of each measured window; the second must be longer than the server's deadline for a head.
    #[arg(long, value_parser = args::seconds, default_value = "15")]
    seconds: Duration,
    /// Length of the warm-up before each.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Fail (status 1) when a head is answered later than this after its connect.
    #[arg(long, value_parser = args::seconds)]
    max_head_time: Option<Duration>,
    /// Fail (status 1) when the 99th percentile during the attack, divided by that before, is above this.
    #[arg(long)]
    max_p99_ratio: Option<f64>,
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
    let plan = shared.plan(None, args.connections + args.healthy)?;
    let party = Party::new(shared.threads, args.healthy, args.connections)?;
    let progress = Progress::new(server);
    let crew = Crew::start(party.threads(), &plan, |thread| {
        let well = |thread, threads| {
            let slots = share(args.healthy, thread, threads);
            let traffic = Traffic::new(128, MessageKind::Text, slots, threads);
            (Echo { ramp: Ramp::new(f64::INFINITY), traffic }, slots)
        };
        Side::new(&party, thread, well, |slots, _| Loris::new(args, slots))
    })?;

    progress.step("connecting");
    open(&crew, args.healthy, shared.patience, &progress)?;
    if crew.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    let before = settled(&crew, server, &progress)?;
    window(args, &crew, server, &progress, "before")?;
    progress.step("the slow ones come");
    let everybody = args.connections + args.healthy;
    crew.set_goal(everybody);
    crew.let_pass(&progress, args.drip * 2, |counts| counts.open >= everybody)?;
    let mut most = crew.board().counts().open;
    let resident = settled(&crew, server, &progress)?;
    most = most.max(window(args, &crew, server, &progress, "during the attack")?);

    let mut gathered = crew.finish(&progress)?;
    gathered.faults.note_many(Fault::Lost, gathered.counts.sent.saturating_sub(gathered.counts.received));
    let mut report = shared.report("loris", &plan, party.threads());
    report.about("slow", format!("{}, a byte each {:?}", args.connections, args.drip));
    report.about("healthy", format!("{}, {} messages per second", args.healthy, args.rate));
    report.figure("slow_at_once", f64::from(most.saturating_sub(args.healthy)), Unit::Count);
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    report.maybe("resident_before", bytes(before), Unit::Bytes);
    report.maybe("resident_during", bytes(resident), Unit::Bytes);
    let growth = bytes(resident).zip(bytes(before)).map(|(during, before)| during - before);
    report.maybe(
        "resident_per_slow_one",
        growth.map(|bytes| bytes / f64::from(args.connections)),
        Unit::Bytes,
    );
    let mut frames = Faults::default();
    let ills = || gathered.scenarios.iter().filter_map(Side::ill);
    ills().for_each(|ill| frames.merge(&ill.frames));
    tell_endings(&mut report, "slow_frames", &frames);
    let heads = merged(ills().map(|ill| &ill.heads));
    report.figure("heads_answered_408", heads.len() as f64, Unit::Count);
    report.percentiles("time_to_408", &heads);
    let latest = (!heads.is_empty()).then(|| heads.max() as f64 / 1e9);
    report.check("max-head-time", args.max_head_time.map(|most| most.as_secs_f64()), latest);
    let works = || gathered.scenarios.iter().filter_map(Side::well).map(|echo| &echo.traffic);
    let (calm, attacked) = (traffic::window(works(), 0), traffic::window(works(), 1));
    tell_latencies(&mut report, "latency_before", &calm, false);
    tell_latencies(&mut report, "latency_during", &attacked, false);
    let ratio = p99_us(&attacked).zip(p99_us(&calm)).map(|(during, before)| during / before);
    report.maybe("p99_ratio", ratio, Unit::Count);
    report.check("max-p99-ratio", args.max_p99_ratio, ratio);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// One measured window; the most connections that were open in it.
fn window(
    args: &Args,
    crew: &Crew<Side<Echo, Loris>>,
    server: Option<Server>,
    progress: &Progress,
    name: &str,
) -> Result<u32, Failure> {
    let mut most = 0;
    let during = || {
        crew.let_pass(progress, args.seconds, |counts| {
            most = most.max(counts.open);
            false
        })
    };
    let span = args.shared.span(server, progress, args.warm_up, Some(args.rate));
    span.measure(crew, name, during, || span.echoes_back(crew))?;
    Ok(most)
}

/// The slow connections of one thread: those in even slots send heads, the others frames.
struct Loris {
    slots: u32,
    drip_ns: u64,
    began_ns: u64,
    /// Looks at a slot so far, whichever it was.
    looks: u64,
    /// Bytes that each head has sent.
    sent: Vec<u16>,
    answered: Vec<bool>,
    heads: Histogram<u64>,
    frames: Faults,
}

impl Loris {
    fn new(args: &Args, slots: u32) -> Loris {
        Loris {
            slots,
            drip_ns: args::ns(args.drip).max(STEP_NS),
            began_ns: 0,
            looks: 0,
            sent: vec![0; slots as usize],
            answered: vec![false; slots as usize],
            heads: latencies(),
            frames: Faults::default(),
        }
    }

    /// Opens a slot, or sends its next byte.
    fn look(&mut self, desk: &mut Desk, slot: Slot) {
        let head = slot.0.is_multiple_of(2);
        match desk.stage(slot) {
            Stage::Free => {
                self.sent[slot.index()] = 0;
                self.answered[slot.index()] = false;
                desk.open(slot, if head { Dialogue::Http } else { Dialogue::WebSocket });
            }
            Stage::Http if !self.answered[slot.index()] => {
                let sent = &mut self.sent[slot.index()];
                let at = usize::from(*sent);
                *sent = sent.saturating_add(1);
                desk.send(slot, HEAD.get(at..=at).unwrap_or(MORE));
            }
            Stage::Open => desk.send(slot, MORE),
            _ => {}
        }
    }
}

impl Scenario for Loris {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        // A pong in the middle of a frame would end it.
        desk.manner = Manner { silent: true, forsaken: true, ..Manner::default() };
        if desk.goal() == 0 {
            each_open(desk, self.slots as usize, |desk, slot| desk.finish(slot, Farewell::Reset));
            self.began_ns = 0;
            return STEP_NS;
        }
        let now_ns = clock::now_ns();
        if self.began_ns == 0 {
            (self.began_ns, self.looks) = (now_ns, 0);
        }
        let elapsed_ns = u128::from(now_ns - self.began_ns);
        let due = elapsed_ns * u128::from(self.slots) / u128::from(self.drip_ns);
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        // After a stall each is looked at once.
        for nth in self.looks.max(due.saturating_sub(u64::from(self.slots)))..due {
            let slot = u32::try_from(nth % u64::from(self.slots)).unwrap_or(0);
            self.look(desk, Slot(slot));
        }
        self.looks = due;
        STEP_NS
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        if desk.stage(slot) == Stage::Open {
            desk.send(slot, FRAME);
        }
    }

    fn answer(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        if self.answered[slot.index()] {
            return Ok(bytes.len());
        }
        let Some(answer) = Answer::find(bytes)? else { return Ok(0) };
        self.answered[slot.index()] = true;
        match answer.status {
            408 => self.heads.saturating_record(clock::now_ns().saturating_sub(desk.spoke_ns(slot))),
            status => desk.note(Fault::Refused(status), 1),
        }
        Ok(bytes.len())
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        let Some(fault) = fault else { return };
        if slot.0 % 2 == 1 {
            self.frames.note(fault);
        } else if !self.answered[slot.index()] {
            desk.note(fault, 1);
        }
    }
}
