//! Flood: one peer sends as fast as its sockets take it while others echo; is it held, and do others notice?
//!
//! All flooders come from one address and have client threads of their own. With a control server the same
//! flood hits that one in turn while the bystanders stay where they are: the machine and the generator are as
//! busy then, and what is left of the difference is the flood's doing. Refuses to let a flood run dry in the
//! sockets: it is reset after each window, and connects again for the next.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::board::Phase;
use crate::client::{Desk, Farewell, Plan, Scenario, Slot, Stage, share};
use crate::crew::{Crew, Gathered, thread_count};
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::frames::{self, MessageKind};
use crate::payload;
use crate::probe::{Server, Usage, Window};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::echo::{Echo, no_connection, p99_us, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{LATE_US, Shared};
use crate::spread::Spread;
use crate::target::{Sources, Target};
use crate::traffic::{self, Latencies, Traffic};

/// A flooder writes this much at a time, bytes: enough that its system calls are few, little enough that all
/// flooders of a thread have their turn.
const GUSH_BYTES: usize = 16 * 1024;

/// Measures what a flooding peer gets, and what it takes from others.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections that flood.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 1_000)]
    flooders: u32,
    /// The loopback address that they all come from.
    #[arg(long, default_value = "127.9.9.9")]
    flood_source: Ipv4Addr,
    /// Client threads of the flooders.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    flood_threads: u32,
    /// Connections that echo, from other addresses.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    bystanders: u32,
    /// Messages per second of the bystanders, all together, in an open loop.
    #[arg(long, value_parser = args::rate, default_value_t = 2_000.0)]
    rate: f64,
    /// Bytes of a message, of flooders and bystanders.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Length of each measured window.
    #[arg(long, value_parser = args::seconds, default_value = "10")]
    seconds: Duration,
    /// Length of the warm-up before each: long enough to use up the burst that the limit grants.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    warm_up: Duration,
    /// How often each server is flooded, in changing order; ratio and rate are medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A second server that takes the same flood in turn, while the bystanders stay with the first.
    #[arg(long)]
    control_url: Option<String>,
    /// Messages per second that the server's limit allows the flooding peer, to be told beside what it got.
    #[arg(long)]
    limit: Option<f64>,
    /// Fail (status 1) when more messages per second are taken from the flood.
    #[arg(long)]
    max_flood_rate: Option<f64>,
    /// Fail (status 1) when fewer messages per second are taken from the flood: held is not shut out.
    #[arg(long)]
    min_flood_rate: Option<f64>,
    /// Fail (status 1) when the bystanders' 99th percentile with the flood, divided by the one with the
    /// control's, is above this.
    #[arg(long, requires = "control_url")]
    max_p99_ratio: Option<f64>,
    /// Fail (status 1) when resident memory, during the flood or after it, is above that before by more than
    /// this, bytes.
    #[arg(long)]
    max_memory_growth_bytes: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }
}

/// Who takes the flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Nobody,
    Ours,
    Control,
}

/// What one window showed. Its number is that of the bystanders' window.
struct Seen {
    setting: Setting,
    usage: Usage,
    generator: Option<Usage>,
    /// Messages that came back to flooders.
    taken: u64,
    /// Most resident memory of our server within it.
    peak: Option<u64>,
}

impl Seen {
    fn flood_rate_per_s(&self) -> f64 {
        self.taken as f64 / self.usage.seconds
    }
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let plan = shared.plan(None, args.bystanders)?;
    let threads = thread_count(shared.threads, args.bystanders, 10_000)?;
    let ours = flood_crew(args, &shared.url, plan.sources)?;
    let control = args.control_url.as_ref().map(|url| flood_crew(args, url, plan.sources)).transpose()?;
    let bystanders = Crew::start(threads, &plan, |thread| {
        let slots = share(args.bystanders, thread, threads);
        let traffic = Traffic::new(args.size, MessageKind::Text, slots, threads);
        (Echo { ramp: Ramp::new(f64::INFINITY), traffic }, slots)
    })?;
    let progress = Progress::new(server);
    let stage = Stages { args, server, progress: &progress, bystanders: &bystanders };

    progress.step("connecting");
    open(&bystanders, args.bystanders, shared.patience, &progress)?;
    if bystanders.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&bystanders.finish(&progress)?.faults)));
    }
    let mut seen = vec![stage.window(Setting::Nobody, None)?];
    let connected = stage.connect(&ours)?;
    if connected == 0 {
        return Err(Failure::Server(no_connection(&ours.finish(&progress)?.faults)));
    }
    let before = settled(&bystanders, server, &progress)?;
    for round in 0..args.rounds {
        // Whoever comes second finds a warmer machine: each is second as often as the other.
        let mut order = [(Setting::Ours, Some(&ours)), (Setting::Control, control.as_ref())];
        order.rotate_left(round as usize % 2);
        for (setting, crew) in order {
            if let Some(crew) = crew {
                seen.push(stage.window(setting, Some(crew))?);
            }
        }
    }
    let after = settled(&bystanders, server, &progress)?;

    let mut gathered = bystanders.finish(&progress)?;
    let lost = gathered.counts.sent.saturating_sub(gathered.counts.received);
    gathered.faults.note_many(Fault::Lost, lost);
    let mut flooded = Faults::default();
    for crew in [Some(ours), control].into_iter().flatten() {
        flooded.merge(&crew.finish(&progress)?.faults);
    }
    gathered.faults.merge(&flooded);
    let mut report = about(args, &plan, threads);
    report.figure("flooders_connected", f64::from(connected), Unit::Count);
    report.figure("flooders_failed", flooded.total() as f64, Unit::Count);
    tell(&mut report, args, &seen, &gathered);
    tell_memory(&mut report, args, &seen, [before, after]);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Flooders of one server, none connected yet.
fn flood_crew(args: &Args, url: &str, bystanders: Sources) -> Result<Crew<Flood>, Failure> {
    let sources = Sources::one(args.flood_source, args.flooders)?;
    if (0..bystanders.count()).any(|number| bystanders.of(number) == sources.of(0)) {
        return Err(Failure::Asked(format!(
            "--flood-source {}: bystanders come from there",
            args.flood_source
        )));
    }
    let plan = Plan { target: Target::parse(url, "ws")?, publish: None, sources, pong_delay_ns: 0 };
    let threads = thread_count(Some(args.flood_threads), args.flooders, 10_000)?;
    Crew::start(threads, &plan, |thread| (Flood::new(args.size), share(args.flooders, thread, threads)))
}

/// What every window needs.
struct Stages<'a> {
    args: &'a Args,
    server: Option<Server>,
    progress: &'a Progress,
    bystanders: &'a Crew<Echo>,
}

impl Stages<'_> {
    /// Connects all flooders of a crew; says how many are there.
    fn connect(&self, flood: &Crew<Flood>) -> Result<u32, Failure> {
        if flood.board().counts().open == 0 {
            // The goal first: every thread has seen that it is zero when all have followed into the phase.
            flood.set_goal(0);
            flood.set_phase(Phase::Ramp);
            open(flood, self.args.flooders, self.args.shared.patience, self.progress)?;
        }
        Ok(flood.board().counts().open)
    }

    /// One window of the bystanders, with a flood or without.
    fn window(&self, setting: Setting, flood: Option<&Crew<Flood>>) -> Result<Seen, Failure> {
        let (args, crew) = (self.args, self.bystanders);
        let name = match setting {
            Setting::Nobody => "nobody floods",
            Setting::Ours => "flooding",
            Setting::Control => "flooding the control",
        };
        if let Some(flood) = flood {
            self.connect(flood)?;
            flood.set_phase(Phase::Warm);
        }
        let received = || flood.map_or(0, |flood| flood.board().counts().received);
        let (mut taken, mut peak, mut generator) = (0, None, None);
        let during = || {
            let begin = received();
            let window = flood.map(|flood| Window::open(None, flood.board())).transpose()?;
            crew.let_pass(self.progress, args.seconds, |_| {
                peak = peak.max(self.server.and_then(|server| server.resident_bytes_counted().ok()));
                false
            })?;
            taken = received() - begin;
            generator = window.zip(flood).map(|(window, flood)| window.close(flood.board())).transpose()?;
            Ok(())
        };
        let span = args.shared.span(self.server, self.progress, args.warm_up, Some(args.rate));
        let usage = span.measure(crew, name, during, || span.echoes_back(crew))?.usage;
        if let Some(flood) = flood {
            flood.set_phase(Phase::Settle);
            flood.wait_until(self.progress, args.shared.patience, |counts| {
                counts.open == 0 && counts.busy == 0
            })?;
        }
        Ok(Seen { setting, usage, generator, taken, peak })
    }
}

fn about(args: &Args, plan: &Plan, threads: u32) -> Report {
    let mut report = args.shared.report("flood", plan, threads);
    report.about("flooders", format!("{} from {}", args.flooders, args.flood_source));
    report.about("flood_threads", args.flood_threads.to_string());
    report.about("bystanders", format!("{}, {} messages per second", args.bystanders, args.rate));
    report.about("message", format!("{} bytes", args.size.max(payload::SHORTEST)));
    if let Some(control) = &args.control_url {
        report.about("control", control.clone());
    }
    report
}

fn tell(report: &mut Report, args: &Args, seen: &[Seen], gathered: &Gathered<Echo>) {
    let window = |number| traffic::window(gathered.scenarios.iter().map(|echo| &echo.traffic), number);
    let p99s = |setting| -> Vec<f64> {
        of(seen, setting).filter_map(|(number, _)| p99_us(&window(number))).collect()
    };
    let mut punctual = true;
    for (setting, flood) in
        [(Setting::Nobody, "no_flood"), (Setting::Ours, "flood"), (Setting::Control, "control_flood")]
    {
        let mut sum = Latencies::new();
        for (number, _) in of(seen, setting) {
            sum.add(&window(number));
        }
        tell_latencies(report, &format!("latency_with_{flood}"), &sum, false);
        punctual &= sum.late.is_empty() || sum.late.value_at_quantile(0.99) as f64 / 1e3 <= LATE_US;
        let cpu =
            of(seen, setting).filter_map(|(_, seen)| Some(seen.usage.server_cpu_s? / seen.usage.seconds));
        report.maybe(format!("server_cpu_with_{flood}"), median(cpu.map(|cpu| cpu * 100.0)), Unit::Percent);
        if setting == Setting::Nobody {
            continue;
        }
        let rate = median(of(seen, setting).map(|(_, seen)| seen.flood_rate_per_s()));
        report.maybe(format!("{flood}_rate"), rate, Unit::PerSecond);
        let generator = of(seen, setting).filter_map(|(_, seen)| seen.generator);
        let busiest = median(generator.map(|usage| usage.busiest_client_percent));
        report.maybe(format!("{flood}_busiest_thread_cpu"), busiest, Unit::Percent);
    }
    // The worst window, not the median, is what must be held to the limit.
    let rates = || of(seen, Setting::Ours).map(|(_, seen)| seen.flood_rate_per_s());
    report.maybe("limit", args.limit, Unit::PerSecond);
    let most = rates().reduce(f64::max);
    report.maybe("flood_rate_to_limit", most.zip(args.limit).map(|(rate, limit)| rate / limit), Unit::Count);
    let pairs = p99s(Setting::Ours).into_iter().zip(p99s(Setting::Control));
    let ratio = median(pairs.map(|(ours, control)| ours / control));
    report.maybe("p99_ratio", ratio, Unit::Count);
    report.check("max-flood-rate", args.max_flood_rate, most);
    report.check_least("min-flood-rate", args.min_flood_rate, rates().reduce(f64::min));
    // Latencies that are the harness's own lateness are alike whatever the server does: nothing was measured.
    report.check("max-p99-ratio", args.max_p99_ratio, ratio.filter(|_| punctual));
}

fn tell_memory(report: &mut Report, args: &Args, seen: &[Seen], [before, after]: [Option<u64>; 2]) {
    let peak = of(seen, Setting::Ours).filter_map(|(_, seen)| seen.peak).max();
    for (name, bytes) in [("before", before), ("during", peak), ("after", after)] {
        report.maybe(format!("resident_{name}"), bytes.map(|bytes| bytes as f64), Unit::Bytes);
    }
    let most = peak.max(after).zip(before).map(|(most, before)| most as f64 - before as f64);
    report.maybe("resident_growth", most, Unit::Bytes);
    report.check("max-memory-growth-bytes", args.max_memory_growth_bytes, most);
}

/// The windows of one setting with their numbers.
fn of(seen: &[Seen], setting: Setting) -> impl Iterator<Item = (usize, &Seen)> {
    seen.iter().enumerate().filter(move |(_, seen)| seen.setting == setting)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| Spread::of(values).median)
}

/// The flooders of one thread. `Warm` and `Measure` flood, `Settle` cuts them.
struct Flood {
    ramp: Ramp,
    phase: Phase,
    /// The same message over and over: what a flood says does not matter, that it comes back unchanged does.
    message: Vec<u8>,
    gush: Vec<u8>,
    messages_per_gush: u64,
    slots: Vec<Slot>,
}

impl Flood {
    fn new(size: usize) -> Flood {
        let mut message = Vec::new();
        payload::write(&mut message, 0, 0, size);
        let mut gush = Vec::new();
        let mut messages_per_gush = 0;
        while messages_per_gush == 0 || gush.len() < GUSH_BYTES {
            frames::push_message(&mut gush, MessageKind::Text, &message);
            messages_per_gush += 1;
        }
        let ramp = Ramp::new(f64::INFINITY);
        Flood { ramp, phase: Phase::Ramp, message, gush, messages_per_gush, slots: Vec::new() }
    }

    /// Everybody whose socket took all of the last gush sends another.
    fn pour(&self, desk: &mut Desk) -> u64 {
        let mut wait_ns = u64::MAX;
        for &slot in &self.slots {
            if desk.stage(slot) == Stage::Open && !desk.is_clogged(slot) {
                desk.send(slot, &self.gush);
                desk.counts.sent += self.messages_per_gush;
                if !desk.is_clogged(slot) {
                    wait_ns = 0;
                }
            }
        }
        wait_ns
    }
}

impl Scenario for Flood {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        match self.phase {
            Phase::Warm | Phase::Measure => self.pour(desk),
            Phase::Settle if before != Phase::Settle => {
                for &slot in &self.slots {
                    desk.finish(slot, Farewell::Reset);
                }
                u64::MAX
            }
            Phase::Settle => u64::MAX,
            _ => self.ramp.turn(desk),
        }
    }

    fn opened(&mut self, _desk: &mut Desk, slot: Slot) {
        self.slots.push(slot);
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        if bytes == self.message {
            desk.counts.received += 1;
        } else {
            desk.note(Fault::WrongEcho, 1);
            desk.finish(slot, Farewell::Reset);
        }
    }

    fn closed(&mut self, _desk: &mut Desk, slot: Slot, _fault: Option<Fault>) {
        self.slots.retain(|&other| other != slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_two_is_neither_of_them() {
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median([4.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
