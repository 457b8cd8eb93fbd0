//! Slow: most subscribers of a room stop reading while much is published to it; what does the server keep for
//! them, and do those who read get everything?
//!
//! A publisher sends its next message when everybody who reads has the last one. At the end the others read
//! again, so that one sees how each was ended, or what it was left. Refuses gaps, doubles and disorder with
//! those who read; with the others gaps are what a policy may leave, and doubles and disorder are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::board::{Counts, Phase};
use crate::client::{Desk, Farewell, Manner, Scenario, Slot, Stage};
use crate::crew::{Crew, Gathered};
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::payload;
use crate::probe::{Server, Usage, Window, slab_bytes, tcp_bytes};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::no_connection;
use crate::scenarios::fanout::{self, Fanout};
use crate::scenarios::hold::settled;
use crate::scenarios::sides::{Side, tell_endings};
use crate::scenarios::{Shared, merged, work};
use crate::sequence::Ledger;

const MIB: f64 = 1_048_576.0;

/// Measures what subscribers cost that stop reading.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Subscribers that stop reading.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 10_000)]
    consumers: u32,
    /// Subscribers that read.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    well_behaved: u32,
    /// Path of the room, instead of the URL's.
    #[arg(long, default_value = "/rooms/bench")]
    path: String,
    /// What is published in all, millions of bytes.
    #[arg(long, default_value_t = 200)]
    megabytes: u32,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "16KiB")]
    size: usize,
    /// Receive buffer of those who stop reading; the kernel keeps twice that.
    #[arg(long, value_parser = args::bytes, default_value = "4KiB")]
    receive_buffer: usize,
    /// Connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// How long those who stopped read again at the end.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    after: Duration,
    /// What the server does with slow consumers, for the report: that is its own configuration.
    #[arg(long)]
    label: Option<String>,
    /// Fail (status 1) when the server's resident memory grows by more than this, MiB.
    #[arg(long)]
    max_growth_mib: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }

    fn messages(&self) -> u64 {
        (u64::from(self.megabytes) * 1_000_000).div_ceil(self.size.max(payload::SHORTEST) as u64)
    }
}

type Sided = Side<Fanout, Stalled>;

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let everybody = args.consumers + args.well_behaved + 1;
    let plan = shared.plan(Some(&args.path), everybody)?;
    let party = Party::new(shared.threads, args.well_behaved, args.consumers)?;
    let ledger = Arc::new(Ledger::new(1, args.well_behaved));
    let room = fanout::Args::closed(shared.clone(), args.well_behaved, args.path.clone(), args.size);
    let progress = Progress::new(server);
    let crew = Crew::start(party.threads(), &plan, |thread| {
        let well = |thread, threads| {
            let fanout = Fanout::new(&room, &plan, ledger.clone(), (thread, threads));
            let slots = fanout.slots();
            (fanout, slots)
        };
        Side::new(&party, thread, well, |slots, threads| Stalled::new(args, slots, threads))
    })?;

    progress.step("subscribing");
    for goal in [args.well_behaved, args.well_behaved + args.consumers] {
        crew.set_goal(goal);
        let up = crew.wait_until(&progress, shared.patience, |counts| counts.open > goal)?;
        if !up {
            let open = crew.board().counts().open;
            let why = no_connection(&crew.finish(&progress)?.faults);
            return Err(Failure::Server(format!("{open} of {everybody} connections came up; {why}")));
        }
    }
    let seen = publish(args, &crew, server, &ledger, &progress)?;
    let mut gathered = crew.finish(&progress)?;
    let lost = gathered.scenarios.iter().filter_map(Side::well).map(Fanout::lost).sum();
    gathered.faults.note_many(Fault::Lost, lost);
    let missing = args.messages().saturating_sub(seen.messages);
    gathered.faults.note_many(Fault::Late("publishing what was asked for"), u64::from(missing > 0));

    let mut report = shared.report("slow", &plan, party.threads());
    report.about("slow_consumers_of_the_server", args.label.as_deref().unwrap_or("not told, see --label"));
    report.about("stalled", format!("{}, receive buffer {} bytes", args.consumers, args.receive_buffer));
    report.about("well_behaved", args.well_behaved.to_string());
    report.about("message", format!("{} bytes", args.size.max(payload::SHORTEST)));
    tell(&mut report, args, &seen, &gathered);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Memory at one moment, bytes; `None` is hidden.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    resident: Option<u64>,
    tcp: Option<u64>,
    slab: Option<u64>,
}

impl Memory {
    fn now(resident: Option<u64>) -> Memory {
        Memory { resident, tcp: tcp_bytes(), slab: slab_bytes() }
    }

    /// The most of each.
    fn rise(&mut self, other: Memory) {
        self.resident = self.resident.max(other.resident);
        self.tcp = self.tcp.max(other.tcp);
        self.slab = self.slab.max(other.slab);
    }
}

/// What publishing showed.
struct Seen {
    before: Memory,
    highest: Memory,
    after: Memory,
    usage: Usage,
    messages: u64,
}

fn publish(
    args: &Args,
    crew: &Crew<Sided>,
    server: Option<Server>,
    ledger: &Ledger,
    progress: &Progress,
) -> Result<Seen, Failure> {
    let before = Memory::now(settled(crew, server, progress)?);
    let mut highest = before;
    let mut look = || {
        highest.rise(Memory::now(server.and_then(|server| server.resident_bytes_counted().ok())));
    };
    progress.step("publishing");
    let window = Window::open(server, crew.board())?;
    crew.set_phase(Phase::Measure);
    // Those who stopped reading come to their ends meanwhile: whether anything moves is seen by those who read.
    let delivered = |_: &_| ledger.delivered();
    crew.wait_while_it_moves(progress, args.shared.patience, delivered, |_: &Counts| {
        look();
        ledger.complete() >= args.messages()
    })?;
    let usage = window.close(crew.board())?;
    let messages = ledger.complete();
    progress.step("reading again");
    crew.set_phase(Phase::Settle);
    crew.wait_while_it_moves(progress, args.shared.patience, delivered, |_| ledger.under_way(0) == 0)?;
    crew.let_pass(progress, args.after, |_| {
        look();
        false
    })?;
    let after = Memory::now(settled(crew, server, progress)?);
    Ok(Seen { before, highest, after, usage, messages })
}

fn tell(report: &mut Report, args: &Args, seen: &Seen, gathered: &Gathered<Sided>) {
    report.figure("messages_to_all_well_behaved", seen.messages as f64, Unit::Count);
    let deliveries = seen.messages * u64::from(args.well_behaved);
    work(report, ("delivery", "deliveries"), deliveries, &seen.usage);
    let to_last = gathered.scenarios.iter().filter_map(Side::well).map(Fanout::to_last);
    report.percentiles("time_to_last_well_behaved", &merged(to_last));
    for (name, memory) in [("before", seen.before), ("highest", seen.highest), ("after", seen.after)] {
        let mut bytes = |what: &str, bytes: Option<u64>| {
            report.maybe(format!("{what}_{name}"), bytes.map(|bytes| bytes as f64), Unit::Bytes);
        };
        bytes("resident", memory.resident);
        bytes("kernel_tcp_buffers", memory.tcp);
        bytes("kernel_slab", memory.slab);
    }
    let growth = seen.highest.resident.zip(seen.before.resident);
    let growth = growth.map(|(highest, before)| highest.saturating_sub(before) as f64);
    report.maybe("resident_growth", growth, Unit::Bytes);
    let mut endings = Faults::default();
    let (mut messages, mut up_to_date) = (0, 0);
    let published = u32::try_from(seen.messages).unwrap_or(u32::MAX);
    for stalled in gathered.scenarios.iter().filter_map(Side::ill) {
        endings.merge(&stalled.endings);
        messages += stalled.messages;
        up_to_date += stalled.next.iter().filter(|&&next| next >= published).count();
    }
    tell_endings(report, "stalled", &endings);
    let open = u64::from(args.consumers).saturating_sub(endings.total());
    report.figure("stalled_still_open", open as f64, Unit::Count);
    report.figure("stalled_that_got_the_last_message", up_to_date as f64, Unit::Count);
    report.figure("messages_the_stalled_got", messages as f64, Unit::Count);
    report.check("max-growth-mib", args.max_growth_mib, growth.map(|bytes| bytes / MIB));
}

/// The subscribers of one thread that stop reading as soon as they are in the room.
pub(crate) struct Stalled {
    ramp: Ramp,
    manner: Manner,
    size: usize,
    phase: Phase,
    /// One more than the last message that each got.
    next: Vec<u32>,
    messages: u64,
    endings: Faults,
}

impl Stalled {
    fn new(args: &Args, slots: u32, threads: u32) -> Stalled {
        Stalled {
            ramp: Ramp::new(args.rate / f64::from(threads)),
            manner: Manner { receive_buffer: Some(args.receive_buffer), forsaken: true, silent: false },
            size: args.size,
            phase: Phase::Ramp,
            next: vec![0; slots as usize],
            messages: 0,
            endings: Faults::default(),
        }
    }
}

/// Does this with every open connection of a thread.
pub(crate) fn each_open(desk: &mut Desk, slots: usize, mut act: impl FnMut(&mut Desk, Slot)) {
    for slot in (0..u32::try_from(slots).unwrap_or(u32::MAX)).map(Slot) {
        if matches!(desk.stage(slot), Stage::Open | Stage::Http) {
            act(desk, slot);
        }
    }
}

impl Scenario for Stalled {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        desk.manner = self.manner;
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if before != self.phase && self.phase == Phase::Settle {
            each_open(desk, self.next.len(), |desk, slot| desk.set_reading(slot, true));
        }
        if before != self.phase && before == Phase::Settle {
            // A closing handshake with somebody whose backlog is full proves nothing more.
            each_open(desk, self.next.len(), |desk, slot| desk.finish(slot, Farewell::Reset));
        }
        self.ramp.turn(desk)
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        desk.set_reading(slot, false);
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        let next = &mut self.next[slot.index()];
        match payload::read(bytes, self.size) {
            Some((_, sequence)) if sequence >= *next => {
                *next = sequence + 1;
                self.messages += 1;
            }
            Some(_) => desk.note(Fault::Double, 1),
            None => desk.note(Fault::Stranger, 1),
        }
    }

    fn closed(&mut self, _desk: &mut Desk, _slot: Slot, fault: Option<Fault>) {
        if let Some(fault) = fault {
            self.endings.note(fault);
        }
    }
}
