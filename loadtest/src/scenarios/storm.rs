//! Storm: all connections are cut at once and all come back; how long does it take, and what does it cost?
//!
//! Who is refused tries again after a delay that is drawn anew each time, as a good client does. Refusals are
//! counted and are no errors: a server may defend itself, as long as everybody gets back. Bystanders echo all the
//! while, and are measured before and during: accepting must leave something for who is there. Refuses to stop
//! early: the storm is over when as many are open as before, or when nothing moves any more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::api::Api;
use crate::args;
use crate::board::{Counts, Phase};
use crate::client::{Desk, Dialogue, Farewell, Scenario, Slot, Stage, share};
use crate::clock;
use crate::crew::{Crew, Gathered, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::MessageKind;
use crate::probe::{Server, Usage, Window};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::{Echo, no_connection, p99_us, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::sides::Side;
use crate::scenarios::{Shared, latencies, merged, tell_harness};
use crate::sockets;
use crate::traffic::{self, Traffic};

/// How often the server is asked for its handshakes, ns.
const LOOK_EVERY_NS: u64 = 200_000_000;

/// Measures how a server takes it when everybody comes back at once.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections to cut.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 50_000)]
    connections: u32,
    /// Connections to open per second before the storm.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// Connections that try to come back per second; by default all at once.
    #[arg(long)]
    return_rate: Option<f64>,
    /// Handshakes of each client thread under way at once.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 1024)]
    under_way: u32,
    /// How long who was refused waits before the next try: between half of it and one and a half.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    retry: Duration,
    /// Connections that stay, and echo at the path of the URL.
    #[arg(long, default_value_t = 200)]
    bystanders: u32,
    /// Messages per second of the bystanders, all together.
    #[arg(long, value_parser = args::rate, default_value_t = 2_000.0)]
    bystander_rate: f64,
    /// How long the bystanders echo before the first storm.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    calm: Duration,
    /// How connections are cut.
    #[arg(long, value_enum, default_value_t = Farewell::Reset)]
    farewell: Farewell,
    /// Storms, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the server's `/metrics` are, as `http://127.0.0.1:8081`: the gauge `gateway_handshakes` is read during storms.
    #[arg(long)]
    metrics: Option<String>,
    /// Fail (status 1) when more handshakes than this were seen at a time during a storm.
    #[arg(long, requires = "metrics")]
    max_handshakes: Option<u32>,
    /// Fail (status 1) when it takes longer until all are back.
    #[arg(long, value_parser = args::seconds)]
    max_time_to_all_back: Option<Duration>,
    /// Fail (status 1) when resident memory after a storm, divided by that before, is above this.
    #[arg(long)]
    max_memory_ratio: Option<f64>,
    /// Fail (status 1) when the bystanders' 99th percentile during a storm is above this, microseconds.
    #[arg(long)]
    max_bystander_p99_us: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }

    fn everybody(&self) -> u32 {
        self.bystanders + self.connections
    }
}

/// Bystanders, and those who are cut.
type Part = Side<Echo, Storm>;

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let plan = shared.plan(None, args.everybody())?;
    let party = party(args)?;
    let threads = party.threads();
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let well = |thread, threads| {
            let slots = share(args.bystanders, thread, threads);
            let traffic = Traffic::new(128, MessageKind::Text, slots, threads);
            (Echo { ramp: Ramp::new(f64::INFINITY), traffic }, slots)
        };
        Side::new(&party, thread, well, |slots, threads| Storm::new(args, slots, threads))
    })?;

    progress.step("connecting");
    open(&crew, args.everybody(), shared.patience, &progress)?;
    let connected = crew.board().counts().open;
    if connected <= args.bystanders {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    let resident_before = settled(&crew, server, &progress)?;
    crew.board().set_rate_per_s(Some(args.bystander_rate));
    progress.step("calm");
    crew.set_phase(Phase::Measure);
    crew.let_pass(&progress, args.calm, |_| false)?;
    settle(args, &crew, &progress)?;
    let mut door = args.metrics.as_deref().map(Door::new).transpose()?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        rounds.push(storm(args, &crew, server, (number, connected), &progress, door.as_mut())?);
    }

    let mut gathered = crew.finish(&progress)?;
    gathered.faults.note_many(Fault::Lost, gathered.counts.sent.saturating_sub(gathered.counts.received));
    let refusals = gathered.faults.take(|fault| is_refusal(*fault));
    let mut report = shared.report("storm", &plan, threads);
    report.about("connections", args.connections.to_string());
    report.about("farewell", format!("{:?}", args.farewell));
    let cut = connected - args.bystanders;
    report.about("bystanders", format!("{}, {} messages per second", args.bystanders, args.bystander_rate));
    report.figure("connected", f64::from(cut), Unit::Count);
    report.figure("refusals", refusals as f64, Unit::Count);
    report.maybe("resident_before", resident_before.map(|bytes| bytes as f64), Unit::Bytes);
    for (number, round) in (1..).zip(&rounds) {
        round.tell(&mut report, number, resident_before);
    }
    let storms = gathered.scenarios.iter().filter_map(Side::ill);
    report.percentiles("time_to_back", &merged(storms.map(|storm| &storm.to_back)));
    tell_bystanders(&mut report, args, &gathered);
    let missing = rounds.iter().map(|round| cut - round.back.min(cut)).max();
    report.check("all-back", Some(0.0), missing.map(f64::from));
    let most = door.and_then(|door| door.most);
    report.maybe("handshakes_at_a_time", most, Unit::Count);
    report.check("max-handshakes", args.max_handshakes.map(f64::from), most);
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

/// Whether a server that lets nobody in may say so in this way.
const fn is_refusal(fault: Fault) -> bool {
    matches!(fault, Fault::Refused(_) | Fault::Unanswered | Fault::Connect(_))
}

/// Threads for both.
fn party(args: &Args) -> Result<Party, Failure> {
    let storm = thread_count(args.shared.threads, args.connections, sockets::PER_TABLE)?;
    Ok(Party {
        workers: u32::from(args.bystanders > 0),
        working: args.bystanders,
        idlers: storm,
        idle: args.connections,
    })
}

/// What bystanders had before the storms and in the worst of them.
fn tell_bystanders(report: &mut Report, args: &Args, gathered: &Gathered<Part>) {
    let window = |number: usize| {
        let echoes = gathered.scenarios.iter().filter_map(Side::well);
        traffic::window(echoes.map(|echo| &echo.traffic), number)
    };
    tell_latencies(report, "bystanders_in_calm", &window(0), false);
    let mut worst = None;
    for number in 1..=args.rounds {
        let during = window(number as usize);
        tell_latencies(report, &format!("bystanders_of_storm_{number}"), &during, false);
        worst = worst.into_iter().chain(p99_us(&during)).reduce(f64::max);
    }
    report.check("max-bystander-p99-us", args.max_bystander_p99_us, worst);
}

/// Lets what is under way come back.
fn settle(args: &Args, crew: &Crew<Part>, progress: &Progress) -> Result<(), Failure> {
    crew.set_phase(Phase::Settle);
    crew.wait_until(progress, args.shared.patience, |counts| counts.received >= counts.sent).map(drop)
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
    crew: &Crew<Part>,
    server: Option<Server>,
    (number, connected): (u32, u32),
    progress: &Progress,
    mut door: Option<&mut Door>,
) -> Result<Round, Failure> {
    progress.step(format!("storm {number}: cut"));
    // What bystanders feel of the cut belongs to the storm, too. The phase first: before it, a goal is met by the ramp.
    crew.set_phase(Phase::Measure);
    crew.board().set_goal(args.bystanders);
    crew.wake();
    // Bystanders echo all the while: whether anybody still goes or comes is seen by who is there.
    let there = |counts: &Counts| (counts.open, counts.busy);
    crew.wait_while_it_moves(progress, args.shared.patience, there, |counts| {
        counts.open <= args.bystanders && counts.busy == 0
    })?;
    progress.step(format!("storm {number}: coming back"));
    let before = crew.board().counts();
    let window = Window::open(server, crew.board())?;
    crew.board().set_goal(args.everybody());
    crew.wake();
    let mut peak = None;
    let open = |counts: &Counts| counts.open;
    crew.wait_while_it_moves(progress, args.shared.patience, open, |counts| {
        peak = peak.max(server.and_then(|server| server.resident_bytes_counted().ok()));
        if let Some(door) = &mut door {
            door.look(clock::now_ns());
        }
        counts.open >= connected
    })?;
    let usage = window.close(crew.board())?;
    let after = crew.board().counts();
    settle(args, crew, progress)?;
    let resident_after = settled(crew, server, progress)?;
    let tries = after.attempts - before.attempts;
    let back = after.open.saturating_sub(args.bystanders);
    Ok(Round { back, seconds: usage.seconds, tries, usage, peak, resident_after })
}

/// What the server says of those who are being let in.
struct Door {
    api: Api,
    next_ns: u64,
    /// Most handshakes seen at a time.
    most: Option<f64>,
}

impl Door {
    fn new(url: &str) -> Result<Door, Failure> {
        Ok(Door { api: Api::new(url)?, next_ns: 0, most: None })
    }

    /// Asks, unless it has been asked a moment ago. Without an answer there is no figure, which breaks a bar on it.
    fn look(&mut self, now_ns: u64) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + LOOK_EVERY_NS;
        if let Ok(answer) = self.api.call("GET", "/metrics", b"") {
            self.most = self.most.into_iter().chain(handshakes(&answer.text())).reduce(f64::max);
        }
    }
}

/// The gauge in an exposition (Prometheus text format).
fn handshakes(exposition: &str) -> Option<f64> {
    exposition.lines().find_map(|line| line.strip_prefix("gateway_handshakes ")?.trim().parse().ok())
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
        tell("resident_peak", self.peak.map(|bytes| bytes as f64), Unit::Bytes);
        tell("resident_after", self.resident_after.map(|bytes| bytes as f64), Unit::Bytes);
        tell("memory_ratio", self.memory_ratio(resident_before), Unit::Count);
        tell_harness(report, &format!("storm_{number}_"), &self.usage);
    }
}

/// The connections of one thread: cut when the goal is without them, and back when it is with them again.
struct Storm {
    ramp: Ramp,
    phase: Phase,
    /// The thread's share of the goal at its last turn.
    goal: u32,
    slots: u32,
    farewell: Farewell,
    under_way: u32,
    return_rate_per_s: Option<f64>,
    retry_ns: u64,
    is_cut: bool,
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
            goal: 0,
            slots,
            farewell: args.farewell,
            under_way: args.under_way,
            return_rate_per_s: args.return_rate.map(|rate| rate / f64::from(threads)),
            retry_ns: args::ns(args.retry),
            is_cut: false,
            began_ns: 0,
            tries: BinaryHeap::new(),
            to_back: latencies(),
        }
    }

    fn cut(&mut self, desk: &mut Desk) {
        self.is_cut = true;
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
        self.phase = desk.phase();
        if self.phase != Phase::Measure {
            self.goal = desk.goal();
            return self.ramp.turn(desk);
        }
        let before = std::mem::replace(&mut self.goal, desk.goal());
        if before > 0 && self.goal == 0 {
            self.cut(desk);
        } else if before == 0 && self.goal > 0 {
            self.begin();
        }
        if self.is_cut && self.goal > 0 { self.come_back(desk) } else { u64::MAX }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_of_handshakes_is_found_among_the_others() {
        let text = "# HELP gateway_handshakes x\ngateway_handshakes_refused_total{reason=\"a\"} 7\ngateway_handshakes 12\n";
        assert_eq!((handshakes(text), handshakes("gateway_connections 3\n")), (Some(12.0), None));
    }
}
