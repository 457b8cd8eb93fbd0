//! Fan-out: one message goes to everybody in a room; what does a delivery cost the server?
//!
//! An open loop by default: messages have an intended time, and latencies count from it. With `--closed` a
//! publisher sends its next message when every subscriber has the last one. Publishers are connections of their
//! own in the same room (what comes back to them is not counted), or post to an HTTP address. Refuses gaps,
//! doubles and disorder: each is an error.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;

use crate::args;
use crate::board::{Counts, Phase};
use crate::client::{Desk, Dialogue, Farewell, Plan, Scenario, Slot, Stage, share};
use crate::clock;
use crate::crew::{Crew, thread_count};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::{self, MessageKind};
use crate::payload;
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bars::Bars;
use crate::scenarios::echo::no_connection;
use crate::scenarios::{Shared, latencies, merged, tell_late, warn_when_busy, work};
use crate::sequence::{Ledger, Sequences, UNDER_WAY_MAX};
use crate::target::Target;
use crate::upgrade::Head;

/// Publishers at most: each costs every subscriber four bytes here.
const PUBLISHERS_MAX: u32 = 64;

/// Deliveries per second unless a rate is given: any server here keeps up with so few.
const DELIVERIES_PER_S: f64 = 20_000.0;

/// Measures what a delivery costs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Subscribers.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 10_000)]
    connections: u32,
    /// Path of the room, instead of the URL's.
    #[arg(long, default_value = "/rooms/bench")]
    path: String,
    /// Publishers, each with its own sequence.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(PUBLISHERS_MAX)), default_value_t = 1)]
    publishers: u32,
    /// Publish by HTTP POST to this URL, not over a WebSocket in the room.
    #[arg(long)]
    publish_url: Option<String>,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Text or binary messages; over HTTP the content type says it.
    #[arg(long, value_enum, default_value_t = MessageKind::Text)]
    kind: MessageKind,
    /// Length of the measured window at most.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// End the measured window after this many messages.
    #[arg(long)]
    messages: Option<u64>,
    /// Length of the warm-up before it.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Messages per second, all publishers together, without waiting for deliveries; by default so many that
    /// 20,000 deliveries per second come of them.
    #[arg(long, value_parser = args::rate)]
    open_rate: Option<f64>,
    /// Closed loop: the next message when every subscriber has the last one.
    #[arg(long, conflicts_with = "open_rate")]
    closed: bool,
    /// Subscribers to connect per second.
    #[arg(long, value_parser = args::rate, default_value_t = 10_000.0)]
    rate: f64,
    /// Fail (status 1) when a delivery costs the server more than this, in microseconds of CPU.
    #[arg(long)]
    max_server_cpu_us: Option<f64>,
    /// Fail (status 1) when there are fewer deliveries per second.
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

    /// One publisher in a closed loop, for a scenario that needs a room full of traffic.
    pub(crate) fn closed(shared: Shared, connections: u32, path: String, size: usize) -> Args {
        Args {
            shared,
            connections,
            path,
            publishers: 1,
            publish_url: None,
            size,
            kind: MessageKind::Text,
            seconds: Duration::ZERO,
            messages: None,
            warm_up: Duration::ZERO,
            open_rate: None,
            closed: true,
            rate: f64::INFINITY,
            max_server_cpu_us: None,
            min_rate: None,
            bars: Bars::default(),
        }
    }

    /// Messages per second, all publishers together; `None` in a closed loop.
    fn rate_per_s(&self) -> Option<f64> {
        let suited = DELIVERIES_PER_S / f64::from(self.connections.max(1));
        (!self.closed).then(|| self.open_rate.unwrap_or(suited))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let mut plan = self.shared.plan(Some(&self.path), self.connections + self.publishers)?;
        plan.publish = self.publish_url.as_deref().map(|url| Target::parse(url, "http")).transpose()?;
        Ok(plan)
    }
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let server = shared.server()?;
    let plan = args.plan()?;
    let threads = thread_count(shared.threads, args.connections + args.publishers, 12_000)?;
    let ledger = Arc::new(Ledger::new(args.publishers as usize, args.connections));
    let progress = Progress::new(server);
    let crew = Crew::start(threads, &plan, |thread| {
        let fanout = Fanout::new(args, &plan, ledger.clone(), (thread, threads));
        let slots = fanout.slots();
        (fanout, slots)
    })?;

    progress.step("subscribing");
    crew.set_goal(args.connections);
    let everybody = args.connections + args.publishers;
    let connected = crew.wait_until(&progress, shared.patience, |counts| {
        counts.open == everybody || (counts.busy == 0 && counts.failures > 0)
    })?;
    if !connected || crew.board().counts().open < everybody {
        let open = crew.board().counts().open;
        let why = no_connection(&crew.finish(&progress)?.faults);
        return Err(Failure::Server(format!("{open} of {everybody} connections came up; {why}")));
    }
    let mut messages = 0;
    let during = || {
        let before = ledger.complete();
        let enough = |_: &_| args.messages.is_some_and(|messages| ledger.complete() - before >= messages);
        crew.let_pass(&progress, args.seconds, enough)?;
        messages = ledger.complete() - before;
        Ok(())
    };
    let delivered = |counts: &Counts| {
        counts.owed == 0 && (0..ledger.publishers()).all(|lane| ledger.under_way(lane) == 0)
    };
    let settle = || crew.wait_until(&progress, shared.patience, delivered);
    let span = shared.span(server, &progress, args.warm_up, None);
    let measured = span.measure(&crew, "fan-out", during, settle)?;

    let mut gathered = crew.finish(&progress)?;
    let lost = gathered.scenarios.iter().map(Fanout::lost).sum();
    gathered.faults.note_many(Fault::Lost, lost);
    let mut report = shared.report("fanout", &plan, threads);
    report.about("subscribers", args.connections.to_string());
    let way = args.publish_url.as_deref().unwrap_or("over WebSocket");
    report.about("publishers", format!("{}, {way}", args.publishers));
    report.about("message", format!("{} bytes, {:?}", args.size.max(payload::SHORTEST), args.kind));
    report.about(
        "loop",
        args.rate_per_s().map_or("closed".to_owned(), |rate| format!("open, {rate} per second")),
    );
    report.figure("messages_to_all", messages as f64, Unit::Count);
    let per_delivery = work(&mut report, ("delivery", "deliveries"), measured.messages(), &measured.usage);
    if args.closed {
        warn_when_busy(&mut report, &measured.usage);
    }
    let to_last = merged(gathered.scenarios.iter().map(|each| &each.to_last));
    report.percentiles("time_to_last_subscriber", &to_last);
    args.bars.check(&mut report, &to_last);
    if !args.closed {
        let unsent: u64 = gathered.scenarios.iter().map(|each| each.unsent).sum();
        report.figure("messages_not_sent", unsent as f64, Unit::Count);
        tell_late(&mut report, "", &merged(gathered.scenarios.iter().map(|each| &each.late)));
    }
    report.check("max-server-cpu-us", args.max_server_cpu_us, per_delivery);
    report.check_least("min-rate", args.min_rate, Some(measured.rate_per_s()));
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Deliveries that are the same message, counted before the shared ledger is touched.
#[derive(Debug, Clone, Copy)]
struct Run {
    publisher: u32,
    sequence: u32,
    count: u32,
}

/// A publisher of this thread.
#[derive(Debug)]
struct Publisher {
    slot: Slot,
    number: usize,
    /// Whether its one attempt to connect was made.
    tried: bool,
    /// HTTP only: a post whose answer has not come.
    posting: bool,
    /// Open loop only: when the first message was meant, ns.
    began_ns: u64,
    /// Whether a message that was due had to wait for those before it, and not all that were due since are published.
    held: bool,
}

impl Publisher {
    fn stands(&self, desk: &Desk) -> bool {
        matches!(desk.stage(self.slot), Stage::Open | Stage::Http)
    }
}

/// The subscribers and publishers of one thread. Slots: subscribers first, then publishers.
pub(crate) struct Fanout {
    ramp: Ramp,
    size: usize,
    kind: MessageKind,
    post: Option<Target>,
    rate_per_s: Option<f64>,
    subscribers: u32,
    publishers: Vec<Publisher>,
    ledger: Arc<Ledger>,
    sequences: Sequences,
    run: Option<Run>,
    phase: Phase,
    /// When the measured window ended, ns.
    ended_ns: u64,
    threads: u32,
    to_last: Histogram<u64>,
    /// Messages that were meant for the window and never published.
    unsent: u64,
    /// How much later than meant the harness itself published, where nothing held it up, ns.
    late: Histogram<u64>,
    message: Vec<u8>,
    frame: Vec<u8>,
}

impl Fanout {
    pub(crate) fn new(
        args: &Args,
        plan: &Plan,
        ledger: Arc<Ledger>,
        (thread, threads): (u32, u32),
    ) -> Fanout {
        let subscribers = share(args.connections, thread, threads);
        let publishers = (0..args.publishers)
            .filter(|publisher| publisher % threads == thread)
            .zip(subscribers..)
            .map(|(number, slot)| Publisher {
                slot: Slot(slot),
                number: number as usize,
                tried: false,
                posting: false,
                began_ns: 0,
                held: false,
            });
        Fanout {
            ramp: Ramp::new(args.rate / f64::from(threads)),
            size: args.size,
            kind: args.kind,
            post: plan.publish.clone(),
            rate_per_s: args.rate_per_s().map(|rate| rate / f64::from(args.publishers)),
            subscribers,
            publishers: publishers.collect(),
            sequences: Sequences::new(subscribers as usize, ledger.publishers()),
            ledger,
            run: None,
            phase: Phase::Ramp,
            ended_ns: 0,
            threads,
            to_last: latencies(),
            unsent: 0,
            late: latencies(),
            message: Vec::new(),
            frame: Vec::new(),
        }
    }

    pub(crate) fn slots(&self) -> u32 {
        self.subscribers + u32::try_from(self.publishers.len()).unwrap_or(0)
    }

    /// Times until the last subscriber had a message, ns.
    pub(crate) fn to_last(&self) -> &Histogram<u64> {
        &self.to_last
    }

    /// Deliveries that never came to this thread's subscribers.
    pub(crate) fn lost(&self) -> u64 {
        let lane = |publisher| {
            let published = self.ledger.published(publisher);
            (0..self.subscribers as usize)
                .map(|subscriber| u64::from(self.sequences.missing(subscriber, publisher, published)))
                .sum::<u64>()
        };
        (0..self.ledger.publishers()).map(lane).sum()
    }

    /// Hands the deliveries counted so far to the ledger; whoever completes a message wakes its publisher.
    fn settle_run(&mut self, desk: &Desk) {
        let Some(run) = self.run.take() else { return };
        if let Some(since_ns) = self.ledger.deliver(run.publisher as usize, run.sequence, run.count) {
            // What is under way at the end of the window belongs to it: a stall there would hide those that it held up.
            if matches!(self.phase, Phase::Measure | Phase::Settle) {
                let latency_ns = clock::now_ns().saturating_sub(since_ns);
                self.to_last.saturating_record(latency_ns);
                desk.observe(latency_ns);
            }
            desk.wake(run.publisher % self.threads);
        }
    }

    /// Opens this thread's publishers with the first goal, and ends them with the last.
    fn follow_goal(&mut self, desk: &mut Desk) {
        let wanted = desk.goal() > 0;
        let dialogue = if self.post.is_some() { Dialogue::Http } else { Dialogue::WebSocket };
        for publisher in &mut self.publishers {
            match (wanted, desk.stage(publisher.slot)) {
                (true, Stage::Free) if !publisher.tried => {
                    publisher.tried = true;
                    desk.open(publisher.slot, dialogue);
                }
                (false, Stage::Open | Stage::Http) => desk.finish(publisher.slot, Farewell::Frame),
                _ => {}
            }
        }
    }

    /// Sends what is due; returns when the next message is, in ns.
    fn publish_due(&mut self, desk: &mut Desk) -> u64 {
        let mut wait_ns = u64::MAX;
        for index in 0..self.publishers.len() {
            while let Some(since_ns) = self.due(desk, index, &mut wait_ns) {
                self.publish(desk, index, since_ns);
            }
        }
        wait_ns
    }

    /// The moment for which a publisher's next message is meant, if that is now, or was before the window ended.
    fn due(&mut self, desk: &Desk, index: usize, wait_ns: &mut u64) -> Option<u64> {
        let publisher = &mut self.publishers[index];
        if !publisher.stands(desk) || publisher.posting || desk.is_clogged(publisher.slot) {
            publisher.held = true;
            return None;
        }
        let now_ns = clock::now_ns();
        let under_way = self.ledger.under_way(publisher.number);
        if self.rate_per_s.is_none() {
            return (under_way == 0 && self.phase != Phase::Settle).then_some(now_ns);
        }
        if publisher.began_ns == 0 {
            publisher.began_ns = now_ns;
        }
        let meant_ns = self.meant_ns(&self.publishers[index], 0)?;
        let publisher = &mut self.publishers[index];
        if self.phase == Phase::Settle && meant_ns > self.ended_ns {
            return None;
        }
        if meant_ns > now_ns {
            publisher.held = false;
            *wait_ns = (*wait_ns).min(meant_ns - now_ns);
            return None;
        }
        if under_way >= UNDER_WAY_MAX {
            publisher.held = true;
            return None;
        }
        if !publisher.held && self.phase == Phase::Measure {
            self.late.saturating_record(now_ns - meant_ns);
        }
        Some(meant_ns)
    }

    /// When a publisher's next message is meant, or one so much `later`, ns; `None` in a closed loop, and before the first.
    fn meant_ns(&self, publisher: &Publisher, later: u64) -> Option<u64> {
        let nth = u64::from(self.ledger.published(publisher.number)) + 1 + later;
        let rate_per_s = self.rate_per_s.filter(|_| publisher.began_ns > 0)?;
        Some(publisher.began_ns + (nth as f64 / rate_per_s * 1e9) as u64)
    }

    /// Messages of a publisher that were meant for the window and are not published.
    fn overdue_ns(&self, publisher: &Publisher) -> impl Iterator<Item = u64> {
        let meant = (0..).map_while(|later| self.meant_ns(publisher, later));
        meant.take_while(|&meant_ns| meant_ns <= self.ended_ns)
    }

    /// Ends the window: what is not done now took at least as long as until now.
    fn give_up(&mut self) {
        let now_ns = clock::now_ns();
        let mut waited_ns = Vec::new();
        for publisher in &self.publishers {
            let unsent_from = waited_ns.len();
            waited_ns.extend(self.overdue_ns(publisher));
            self.unsent += (waited_ns.len() - unsent_from) as u64;
            waited_ns.extend(self.ledger.incomplete(publisher.number));
        }
        for since_ns in waited_ns {
            self.to_last.saturating_record(now_ns.saturating_sub(since_ns));
        }
    }

    /// Follows the phase, and lets the conductor know what is still to be published of the window that is over.
    fn follow_phase(&mut self, desk: &mut Desk) {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if before == Phase::Measure && self.phase != Phase::Measure {
            self.ended_ns = clock::now_ns();
        }
        if before == Phase::Settle && self.phase != Phase::Settle {
            self.give_up();
        }
    }

    fn owed(&self, desk: &Desk) -> u64 {
        let standing = self.publishers.iter().filter(|publisher| publisher.stands(desk));
        standing.filter(|publisher| self.overdue_ns(publisher).next().is_some()).count() as u64
    }

    fn publish(&mut self, desk: &mut Desk, index: usize, since_ns: u64) {
        let publisher = &mut self.publishers[index];
        let sequence = self.ledger.publish(publisher.number, since_ns);
        let name = u32::try_from(publisher.number).unwrap_or(u32::MAX);
        payload::write(&mut self.message, name, sequence, self.size);
        self.frame.clear();
        match &self.post {
            Some(target) => {
                publisher.posting = true;
                let content_type = match self.kind {
                    MessageKind::Text => "text/plain",
                    MessageKind::Binary => "application/octet-stream",
                };
                let head = format!(
                    "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
                    target.path,
                    target.address,
                    self.message.len()
                );
                self.frame.extend_from_slice(head.as_bytes());
                self.frame.extend_from_slice(&self.message);
            }
            None => frames::push_message(&mut self.frame, self.kind, &self.message),
        }
        desk.counts.sent += 1;
        desk.send(publisher.slot, &self.frame);
    }
}

impl Scenario for Fanout {
    fn turn(&mut self, desk: &mut Desk) -> u64 {
        self.follow_phase(desk);
        self.settle_run(desk);
        self.follow_goal(desk);
        let mut wait_ns = self.ramp.turn(desk);
        if matches!(self.phase, Phase::Warm | Phase::Measure | Phase::Settle) {
            wait_ns = wait_ns.min(self.publish_due(desk));
        }
        desk.counts.owed = if self.phase == Phase::Settle { self.owed(desk) } else { 0 };
        wait_ns
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        if slot.0 >= self.subscribers {
            return;
        }
        let taken =
            payload::read(bytes, self.size).ok_or(Fault::Stranger).and_then(|(publisher, sequence)| {
                let missing = self.sequences.take(slot.index(), publisher, sequence)?;
                Ok((publisher, sequence, missing))
            });
        let (publisher, sequence, missing) = match taken {
            Ok(message) => message,
            Err(fault) => return desk.note(fault, 1),
        };
        desk.note(Fault::Gap, u64::from(missing > 0));
        desk.counts.received += 1;
        match &mut self.run {
            Some(run) if run.publisher == publisher && run.sequence == sequence => run.count += 1,
            _ => {
                self.settle_run(desk);
                self.run = Some(Run { publisher, sequence, count: 1 });
            }
        }
    }

    fn answer(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(head) = Head::find(bytes)? else { return Ok(0) };
        let body: usize = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let whole = head.length.saturating_add(body);
        if whole > frames::LONGEST_FRAME {
            return Err(Fault::Publish(head.status));
        }
        if bytes.len() < whole {
            return Ok(0);
        }
        if !(200..300).contains(&head.status) {
            desk.note(Fault::Publish(head.status), 1);
        }
        for publisher in self.publishers.iter_mut().filter(|publisher| publisher.slot == slot) {
            publisher.posting = false;
        }
        Ok(whole)
    }
}
