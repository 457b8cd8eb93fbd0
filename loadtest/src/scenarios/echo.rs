//! Echo: every message must come back as it was sent; what does one cost the server?
//!
//! Closed loop by default: each connection has one message under way, so the server sets the pace. With
//! `--rate` an open loop: messages have an intended time, and latency counts from it, so that a stall is not
//! hidden by the messages it held up (coordinated omission). Refuses servers that answer with anything else
//! than an echo.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::board::Phase;
use crate::client::{Desk, Farewell, Scenario, Slot, Stage, share};
use crate::clock;
use crate::crew::{Crew, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::{self, LONGEST_PAYLOAD, MessageKind};
use crate::payload;
use crate::probe::Window;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::Report;
use crate::scenarios::{Shared, latencies, merged, work};

/// Messages of one connection under way at once in an open loop; more wait, and their latency counts the
/// wait.
const UNDER_WAY_MAX: u32 = 16;

/// Measures what a message costs that comes back.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Connections.
    #[arg(long, default_value_t = 200)]
    connections: u32,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Text or binary messages.
    #[arg(long, value_enum, default_value_t = MessageKind::Text)]
    kind: MessageKind,
    /// Length of the measured window.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// Length of the warm-up before it.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Messages per second, all connections together: an open loop with intended times.
    #[arg(long)]
    rate: Option<f64>,
    /// Fail (status 1) when a message costs the server more than this, in microseconds of CPU.
    #[arg(long)]
    max_server_cpu_us: Option<f64>,
    /// Fail (status 1) when the 99th percentile is above this, in microseconds.
    #[arg(long)]
    max_p99_us: Option<f64>,
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
    if args.size > LONGEST_PAYLOAD {
        return Err(Failure::Asked(format!("--size {}: at most {LONGEST_PAYLOAD}", args.size)));
    }
    let server = shared.server()?;
    let plan = shared.plan(None, args.connections)?;
    let threads = thread_count(shared.threads, args.connections, 10_000)?;
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let slots = share(args.connections, thread, threads);
        (Echo::new(args, slots, args.rate.map(|rate| rate / f64::from(threads))), slots)
    })?;

    progress.step("connecting");
    crew.set_goal(args.connections);
    crew.wait_until(&progress, shared.patience, |counts| {
        u64::from(counts.open) + counts.failures + counts.lost >= u64::from(args.connections)
    })?;
    if crew.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
    }
    progress.step("warming up");
    crew.set_phase(Phase::Warm);
    crew.let_pass(&progress, args.warm_up, |_| false)?;
    progress.step("measuring");
    crew.set_phase(Phase::Measure);
    let begin = crew.board().counts();
    let window = Window::open(server, crew.board())?;
    crew.let_pass(&progress, args.seconds, |_| false)?;
    let usage = window.close(crew.board())?;
    let end = crew.board().counts();
    crew.set_phase(Phase::Settle);
    crew.wait_until(&progress, shared.patience, |counts| counts.received >= counts.sent)?;

    let mut gathered = crew.finish(&progress)?;
    let lost = gathered.counts.sent.saturating_sub(gathered.counts.received);
    gathered.faults.note_many(Fault::Lost, lost);
    let latency = merged(gathered.scenarios.iter().map(|echo| &echo.latency));
    let mut report = shared.report("echo", &plan, threads);
    report.about("connections", args.connections.to_string());
    report.about("message", format!("{} bytes, {:?}", args.size.max(payload::SHORTEST), args.kind));
    report.about("loop", args.rate.map_or("closed".to_owned(), |rate| format!("open, {rate} per second")));
    let per_message = work(&mut report, ("message", "messages"), end.received - begin.received, &usage);
    report.percentiles("latency", &latency);
    report.check("max-server-cpu-us", args.max_server_cpu_us, per_message);
    let p99_us = (!latency.is_empty()).then(|| latency.value_at_quantile(0.99) as f64 / 1e3);
    report.check("max-p99-us", args.max_p99_us, p99_us);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Says why nothing is connected.
pub(crate) fn no_connection(faults: &crate::fault::Faults) -> String {
    let why = faults.iter().map(|(fault, _)| fault.to_string()).collect::<Vec<_>>().join("; ");
    format!("no connection came up ({why})")
}

/// What one connection has sent and got back.
#[derive(Debug, Clone, Copy, Default)]
struct Flight {
    sent: u32,
    received: u32,
    /// When the message under way was sent (closed loop), ns.
    sent_ns: u64,
}

/// The echoes of one thread.
struct Echo {
    ramp: Ramp,
    size: usize,
    kind: MessageKind,
    pace: Option<Pace>,
    phase: Phase,
    flights: Vec<Flight>,
    latency: Histogram<u64>,
    message: Vec<u8>,
    frame: Vec<u8>,
}

impl Echo {
    fn new(args: &Args, slots: u32, rate_per_s: Option<f64>) -> Echo {
        Echo {
            ramp: Ramp::new(f64::INFINITY),
            size: args.size,
            kind: args.kind,
            pace: rate_per_s.map(|rate_per_s| Pace {
                rate_per_s,
                slots: slots.max(1),
                began_ns: 0,
                dealt: 0,
            }),
            phase: Phase::Ramp,
            flights: vec![Flight::default(); slots as usize],
            latency: latencies(),
            message: Vec::new(),
            frame: Vec::new(),
        }
    }

    fn flows(&self) -> bool {
        matches!(self.phase, Phase::Warm | Phase::Measure)
    }

    fn send(&mut self, desk: &mut Desk, slot: Slot) {
        let flight = &mut self.flights[slot.index()];
        payload::write(&mut self.message, desk.number(slot), flight.sent, self.size);
        flight.sent = flight.sent.wrapping_add(1);
        flight.sent_ns = clock::now_ns();
        self.frame.clear();
        frames::push_message(&mut self.frame, self.kind, &self.message);
        desk.counts.sent += 1;
        desk.send(slot, &self.frame);
    }

    /// Sends what the pace has dealt to this connection and its bound allows.
    fn catch_up(&mut self, desk: &mut Desk, slot: Slot) {
        let Some(pace) = &self.pace else { return };
        let due = pace.due(slot.0);
        while desk.stage(slot) == Stage::Open {
            let flight = self.flights[slot.index()];
            let under_way = flight.sent.wrapping_sub(flight.received);
            if u64::from(flight.sent) >= due || under_way >= UNDER_WAY_MAX || desk.is_clogged(slot) {
                return;
            }
            self.send(desk, slot);
        }
    }

    /// Begins to send: everybody once in a closed loop, nobody yet in an open one.
    fn begin(&mut self, desk: &mut Desk) {
        if let Some(pace) = &mut self.pace {
            pace.began_ns = clock::now_ns();
            return;
        }
        for slot in (0..).map(Slot).take(self.flights.len()) {
            if desk.stage(slot) == Stage::Open {
                self.send(desk, slot);
            }
        }
    }
}

impl Scenario for Echo {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if before == Phase::Ramp && self.flows() {
            self.begin(desk);
        }
        let mut wait_ns = self.ramp.turn(desk);
        if self.flows()
            && let Some(pace) = &mut self.pace
        {
            let dealt = pace.deal(clock::now_ns());
            let slots = u64::from(pace.slots);
            wait_ns = wait_ns.min(pace.next_in_ns(clock::now_ns()));
            // More than one round is due after a stall: each connection is looked at once.
            for number in dealt.clone().take(self.flights.len()) {
                self.catch_up(desk, Slot(u32::try_from(number % slots).unwrap_or(0)));
            }
        }
        wait_ns
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        let flight = &mut self.flights[slot.index()];
        if payload::read(bytes, self.size) != Some((desk.number(slot), flight.received)) {
            desk.note(Fault::WrongEcho, 1);
            desk.finish(slot, Farewell::Fin);
            return;
        }
        let nth = flight.received;
        flight.received = flight.received.wrapping_add(1);
        desk.counts.received += 1;
        if self.phase == Phase::Measure {
            let since_ns = self.pace.as_ref().map_or(flight.sent_ns, |pace| pace.intended_ns(slot.0, nth));
            let latency_ns = clock::now_ns().saturating_sub(since_ns);
            self.latency.saturating_record(latency_ns);
            desk.observe(latency_ns);
        }
        if self.flows() {
            match self.pace {
                Some(_) => self.catch_up(desk, slot),
                None => self.send(desk, slot),
            }
        }
    }

    fn opened(&mut self, _desk: &mut Desk, slot: Slot) {
        self.flights[slot.index()] = Flight::default();
    }
}

/// An open loop: message `k` is meant for connection `k mod slots` at `k / rate` after the beginning. So the
/// intended time of a connection's messages follows from their numbers, and none is stored.
#[derive(Debug)]
struct Pace {
    rate_per_s: f64,
    slots: u32,
    began_ns: u64,
    /// Messages whose time has come, all connections of the thread together.
    dealt: u64,
}

impl Pace {
    /// The numbers of the messages whose time has come since the last call.
    fn deal(&mut self, now_ns: u64) -> std::ops::Range<u64> {
        let elapsed_s = now_ns.saturating_sub(self.began_ns) as f64 / 1e9;
        let until = ((elapsed_s * self.rate_per_s) as u64).max(self.dealt);
        std::mem::replace(&mut self.dealt, until)..until
    }

    /// How many messages were dealt to a connection so far.
    fn due(&self, slot: u32) -> u64 {
        let slots = u64::from(self.slots);
        self.dealt / slots + u64::from(u64::from(slot) < self.dealt % slots)
    }

    /// When the `nth` message of a connection was meant to be sent, ns.
    fn intended_ns(&self, slot: u32, nth: u32) -> u64 {
        let number = u64::from(nth) * u64::from(self.slots) + u64::from(slot);
        self.began_ns + ((number + 1) as f64 / self.rate_per_s * 1e9) as u64
    }

    fn next_in_ns(&self, now_ns: u64) -> u64 {
        let next_ns = self.began_ns + ((self.dealt + 1) as f64 / self.rate_per_s * 1e9) as u64;
        next_ns.saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_deals_in_turn_and_knows_every_intended_time() {
        let mut pace = Pace { rate_per_s: 1_000.0, slots: 3, began_ns: 5_000_000_000, dealt: 0 };
        assert_eq!(pace.deal(5_000_000_000), 0..0);
        assert_eq!(pace.deal(5_007_100_000), 0..7);
        assert_eq!([pace.due(0), pace.due(1), pace.due(2)], [3, 2, 2]);
        assert_eq!(pace.intended_ns(0, 0), 5_001_000_000);
        assert_eq!(pace.intended_ns(1, 2), 5_008_000_000);
        assert_eq!(pace.next_in_ns(5_007_100_000), 900_000);
        assert_eq!(pace.deal(5_007_000_000), 7..7, "time never goes back");
    }
}
