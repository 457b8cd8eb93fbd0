//! Rooms under traffic: members listen, one publisher posts to the API at a fixed rate, and every member must have
//! what was accepted.
//!
//! It owns the proof. Each room has its own sequence; the publisher waits for each answer, so that what came before
//! a message in its room was accepted or refused for certain when the message arrives. The answer says to how many a
//! message went: all of them together must have received as many. It refuses to know why connections end: `drain` and
//! `reload` say what is in order.

use std::sync::Arc;
use std::time::Duration;

use config::units::parse_duration;

use crate::api::Api;
use crate::args;
use crate::board::Phase;
use crate::client::{Desk, Dialogue, Farewell, Plan, Scenario, Slot, share};
use crate::clock;
use crate::crew::{Crew, Gathered, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::payload;
use crate::probe::Server;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::Shared;
use crate::scenarios::echo::no_connection;
use crate::scenarios::echoers::Echoers;
use crate::scenarios::hold::open;
use crate::scenarios::publisher::{Ledger, NOT_ACCEPTED, Published, Publisher};
use crate::scenarios::slow::each_open;
use crate::sockets;

/// A member that is closed must have what was accepted this long before its close came, ns. What is younger may have
/// been accepted when the close was on its way.
const SURELY_BEFORE_NS: u64 = 2_000_000_000;

/// Newcomers and echoes that are due within this time go together, ns.
const STEP_NS: u64 = 2_000_000;

/// A member that has heard nothing yet and came when messages flowed: it may begin anywhere.
const UNHEARD: u32 = u32::MAX;

/// Who is in the rooms and what is said there.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "room-traffic")]
pub(crate) struct Args {
    /// Connections to hold, dealt to the rooms in turn.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 50_000)]
    connections: u32,
    /// Connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 5_000.0)]
    rate: f64,
    /// Rooms.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 500)]
    pub(crate) rooms: u32,
    /// Of the connections, how many send to the URL's path and must have everything back; the others are in rooms.
    #[arg(long, default_value_t = 200)]
    echoers: u32,
    /// Messages per second that those send, all together.
    #[arg(long, default_value_t = 1_000.0)]
    echo_rate: f64,
    /// Path of a room instead of the URL's; `{r}` is its number.
    #[arg(long, default_value = "/rooms/load-{r}")]
    path: String,
    /// Base of the server's API.
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    api: String,
    /// Path under it to post a room's messages to.
    #[arg(long, default_value = "/v1/channels/room.load-{r}/messages")]
    pub(crate) publish: String,
    /// Messages per second, all rooms together.
    #[arg(long, value_parser = args::rate, default_value_t = 200.0)]
    pub(crate) publish_rate: f64,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    pub(crate) size: usize,
    /// How long messages flow before anything happens.
    #[arg(long, value_parser = parse_duration, default_value = "3s")]
    pub(crate) before: Duration,
}

impl Args {
    fn plan(&self, shared: &Shared, newcomers: u32) -> Result<Plan, Failure> {
        if self.echoers > self.connections || !(0.0..=1e6).contains(&self.echo_rate) {
            return Err(Failure::Asked(
                "--echoers at most --connections, --echo-rate from 0 to 1000000".into(),
            ));
        }
        let path = self.path.replace("{r}", &format!("{{n%{}}}", self.rooms));
        let mut plan = shared.plan(None, self.connections.saturating_add(newcomers))?;
        plan.target = plan.target.but_from(self.echoers, &path)?;
        Ok(plan)
    }

    /// Fills the rooms and lets messages flow for a while.
    ///
    /// # Errors
    /// The command line asks for something that cannot be, or the server is not there.
    pub(crate) fn fill(
        &self,
        scenario: &'static str,
        shared: &Shared,
        drains: Option<Drains>,
    ) -> Result<Filled, Failure> {
        let server = shared.server()?;
        let newcomers = drains.map_or(0, |drains| drains.newcomers);
        let plan = self.plan(shared, newcomers)?;
        let everybody = self.connections.saturating_add(newcomers);
        let threads = thread_count(shared.threads, everybody, sockets::PER_TABLE)?;
        let api = Api::new(&self.api)?;
        let mut report = shared.report(scenario, &plan, threads);
        self.tell(&mut report);
        let ledger = Arc::new(Ledger::new(self.rooms));
        let progress = Progress::new(server);
        let crew = Crew::start(threads, &plan, |thread| {
            Members::new(self, ledger.clone(), drains, (thread, threads))
        })?;
        progress.step("connecting");
        open(&crew, self.connections, shared.patience, &progress)?;
        let connected = crew.board().counts().open;
        if connected == 0 {
            return Err(Failure::Server(no_connection(&crew.finish(&progress)?.faults)));
        }
        report.figure("connected", f64::from(connected), Unit::Count);
        progress.step("traffic");
        let publisher = Publisher::start(self, &api, ledger)?;
        crew.set_phase(Phase::Warm);
        crew.let_pass(&progress, self.before, |_| false)?;
        Ok(Filled { crew, progress, publisher, api, server, report })
    }

    fn tell(&self, report: &mut Report) {
        report.about("connections", format!("{} in {} rooms", self.connections, self.rooms));
        report.about("echo", format!("{} of them, {} per second", self.echoers, self.echo_rate));
        report.about("published", format!("{} per second, {} bytes", self.publish_rate, self.size));
    }
}

/// Rooms under traffic, and who conducts what comes next.
pub(crate) struct Filled {
    pub(crate) crew: Crew<Members>,
    pub(crate) progress: Progress,
    pub(crate) publisher: Publisher,
    pub(crate) api: Api,
    pub(crate) server: Option<Server>,
    pub(crate) report: Report,
}

/// Counts what members and publisher saw, notes what was promised and did not come, and tells it all. Echoes that did
/// not come are lost unless their connections were told to go.
pub(crate) fn account(
    gathered: &mut Gathered<Members>,
    published: &Published,
    drains: bool,
    report: &mut Report,
) {
    let sum = |count: fn(&Members) -> u64| gathered.scenarios.iter().map(count).sum::<u64>();
    let skipped = sum(|members| members.seen.skipped);
    let echoed = sum(|members| members.echoers.echoed);
    let under_way = sum(|members| members.echoers.under_way_at_end);
    let delivered = gathered.counts.received - echoed;
    let short = published.undelivered(delivered + skipped);
    let echoes_lost = gathered.counts.sent.saturating_sub(echoed + if drains { under_way } else { 0 });
    gathered.faults.note_many(Fault::Lost, short + echoes_lost);
    published.tell(report);
    report.figure("deliveries_received", delivered as f64, Unit::Count);
    report.figure("deliveries_missing", (skipped + short) as f64, Unit::Count);
    report.figure("echoes", echoed as f64, Unit::Count);
    report.figure("echoes_missing", echoes_lost as f64, Unit::Count);
    if drains {
        report.figure("echoes_under_way_at_goodbye", under_way as f64, Unit::Count);
    }
}

/// What the members of one thread saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When each open connection ended, by a close or otherwise, ns.
    pub(crate) ended_ns: Vec<u64>,
    /// `retry_ms` of each who was told to go.
    pub(crate) retries_ms: Vec<u64>,
    /// Connections that were set up and reset, or ended, before any byte came.
    pub(crate) cut_in_queue: u64,
    /// Messages that were accepted and that a member skipped.
    pub(crate) skipped: u64,
    /// Newcomers that were opened.
    pub(crate) newcomers: u64,
    /// Connects that were refused when the server had to listen no more.
    pub(crate) refused: u64,
    /// Newcomers that were answered 503 while the server drained.
    pub(crate) turned_away: u64,
}

/// The members of one thread. `Warm` lets newcomers in, `Measure` expects everybody to be told to go when the server
/// drains, `Settle` lets arrive what is under way.
pub(crate) struct Members {
    ramp: Ramp,
    ledger: Arc<Ledger>,
    pub(crate) echoers: Echoers,
    rooms: u32,
    size: usize,
    drains: Option<Drains>,
    phase: Phase,
    newcomers_per_s: f64,
    came: u32,
    began_ns: u64,
    /// When the drain was ordered, or a moment before.
    measured_ns: u64,
    free: Vec<Slot>,
    /// The number each member must hear next.
    next: Vec<u32>,
    /// Whether the upgrade of the connection was answered.
    upgraded: Vec<bool>,
    pub(crate) seen: Seen,
}

/// How newcomers come while the server drains; none where it does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drains {
    /// Newcomers per second.
    pub(crate) newcomers_per_s: f64,
    /// Room for this many.
    pub(crate) newcomers: u32,
    /// The server must listen for so long after it was told to go, ns.
    pub(crate) accepts_ns: u64,
}

impl Members {
    /// The members of thread `thread` of `threads`, and their slots.
    pub(crate) fn new(
        args: &Args,
        ledger: Arc<Ledger>,
        drains: Option<Drains>,
        (thread, threads): (u32, u32),
    ) -> (Members, u32) {
        let base = share(args.connections, thread, threads);
        let slots = base + drains.map_or(0, |drains| drains.newcomers.div_ceil(threads));
        let members = Members {
            ramp: Ramp::new(args.rate / f64::from(threads)),
            ledger,
            echoers: Echoers::new(
                share(args.echoers, thread, threads),
                args.echo_rate * f64::from(share(args.echoers, thread, threads))
                    / f64::from(args.echoers.max(1)),
                args.size,
            ),
            rooms: args.rooms,
            size: args.size,
            drains,
            phase: Phase::Ramp,
            newcomers_per_s: drains.map_or(0.0, |drains| drains.newcomers_per_s / f64::from(threads)),
            came: 0,
            began_ns: 0,
            measured_ns: 0,
            free: (base..slots).rev().map(Slot).collect(),
            next: vec![UNHEARD; slots as usize],
            upgraded: vec![false; slots as usize],
            seen: Seen::default(),
        };
        (members, slots)
    }

    fn room(&self, desk: &Desk, slot: Slot) -> u32 {
        desk.number(slot) % self.rooms
    }

    /// Lets in who is due; returns how long until the next one, ns.
    fn let_in(&mut self, desk: &mut Desk) -> u64 {
        if self.newcomers_per_s <= 0.0 {
            return u64::MAX;
        }
        let now_ns = clock::now_ns();
        let due = (self.newcomers_per_s * (now_ns - self.began_ns) as f64 / 1e9) as u32;
        while self.came < due {
            self.came += 1;
            // Where all room is taken by connects that hang, the server has enough of them to show how it copes.
            if let Some(slot) = self.free.pop() {
                self.seen.newcomers += 1;
                desk.open(slot, Dialogue::WebSocket);
            }
        }
        let next_ns = self.began_ns + (f64::from(self.came + 1) / self.newcomers_per_s * 1e9) as u64;
        next_ns.saturating_sub(now_ns)
    }

    fn has_begun(&self) -> bool {
        !matches!(self.phase, Phase::Ramp | Phase::Warm)
    }

    /// Whether the server may listen no more.
    fn may_refuse(&self) -> bool {
        let since_ns = clock::now_ns().saturating_sub(self.measured_ns);
        self.has_begun() && self.drains.is_some_and(|drains| since_ns >= drains.accepts_ns)
    }

    /// The run is over: counts what has not come by now.
    fn leave(&mut self, desk: &mut Desk) {
        if self.drains.is_some() {
            // Whoever is still here was forgotten, and the ramp knows nothing of newcomers.
            return each_open(desk, self.next.len(), |desk, slot| desk.finish(slot, Farewell::Fin));
        }
        each_open(desk, self.next.len(), |desk, slot| {
            if !self.echoers.has(slot) {
                self.settle(desk, slot, NOT_ACCEPTED);
            }
        });
    }

    /// A connection that was open ends: counts what it should have had.
    fn ended(&mut self, desk: &mut Desk, slot: Slot) {
        let now_ns = clock::now_ns();
        self.seen.ended_ns.push(now_ns);
        if self.echoers.has(slot) {
            return self.echoers.ended(slot);
        }
        self.settle(desk, slot, now_ns.saturating_sub(SURELY_BEFORE_NS));
    }

    /// Counts what was accepted before this moment and did not come.
    fn settle(&mut self, desk: &mut Desk, slot: Slot, before_ns: u64) {
        let next = std::mem::replace(&mut self.next[slot.index()], UNHEARD);
        if next != UNHEARD {
            let missing = self.ledger.accepted(self.room(desk, slot), next, u32::MAX, before_ns);
            self.seen.skipped += missing;
            desk.note(Fault::Lost, missing);
        }
    }
}

impl Scenario for Members {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        let changed = before != self.phase;
        match self.phase {
            Phase::Warm | Phase::Measure => {
                if before == Phase::Ramp {
                    self.began_ns = clock::now_ns();
                    self.echoers.begin();
                }
                if changed && self.phase == Phase::Measure {
                    self.measured_ns = clock::now_ns();
                }
                // What is due within a step goes together: nobody looks at latencies here.
                self.let_in(desk).min(self.echoers.turn(desk)).max(STEP_NS)
            }
            Phase::Ramp => {
                if changed && before == Phase::Settle {
                    self.leave(desk);
                }
                self.ramp.turn(desk)
            }
            Phase::Settle | Phase::Finish => u64::MAX,
        }
    }

    fn opened(&mut self, _desk: &mut Desk, slot: Slot) {
        self.upgraded[slot.index()] = true;
        if self.echoers.has(slot) {
            return self.echoers.opened(slot);
        }
        self.next[slot.index()] = if self.phase == Phase::Ramp { 0 } else { UNHEARD };
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        if self.echoers.has(slot) {
            return self.echoers.came(desk, slot, bytes);
        }
        let room = self.room(desk, slot);
        let Some((of, sequence)) = payload::read(bytes, self.size).filter(|&(of, _)| of == room) else {
            return desk.note(Fault::Stranger, 1);
        };
        let expected = &mut self.next[slot.index()];
        if *expected != UNHEARD && sequence < *expected {
            return desk.note(Fault::Double, 1);
        }
        let from = std::mem::replace(expected, sequence + 1);
        if from != UNHEARD && from < sequence {
            let missing = self.ledger.accepted(of, from, sequence, NOT_ACCEPTED);
            self.seen.skipped += missing;
            desk.note(Fault::Gap, missing);
        }
        desk.counts.received += 1;
    }

    fn told(&mut self, desk: &mut Desk, slot: Slot, code: u16, reason: &[u8]) -> bool {
        if self.drains.is_none() || self.phase != Phase::Measure || code != 1001 {
            return false;
        }
        let reason: serde_json::Value = serde_json::from_slice(reason).unwrap_or_default();
        match reason["retry_ms"].as_u64() {
            Some(retry_ms) => self.seen.retries_ms.push(retry_ms),
            None => desk.note(Fault::NoRetry, 1),
        }
        self.ended(desk, slot);
        // What follows is ours to answer, and no ending of its own.
        self.upgraded[slot.index()] = false;
        true
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        let upgraded = std::mem::replace(&mut self.upgraded[slot.index()], false);
        match fault {
            Some(_) if upgraded => self.ended(desk, slot),
            Some(Fault::Connect(errno)) if errno == nix::errno::Errno::ECONNREFUSED as i32 => {
                self.seen.refused += u64::from(self.may_refuse());
            }
            Some(Fault::Refused(503)) => {
                self.seen.turned_away += u64::from(self.drains.is_some() && self.has_begun());
            }
            // Connect went through, or was reset afterwards: the kernel had it in the queue.
            Some(Fault::Connect(errno)) if errno == nix::errno::Errno::ECONNRESET as i32 => {
                self.seen.cut_in_queue += 1;
            }
            Some(Fault::Broken(_) | Fault::Ended) => self.seen.cut_in_queue += 1,
            _ => {}
        }
        if self.phase != Phase::Ramp {
            self.free.push(slot);
        }
    }
}
