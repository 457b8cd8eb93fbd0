//! Scale: very many quiet connections in one run; what they cost, what keeping them alive costs, what they
//! take away from those who talk, and what it takes to tell all of them something.
//!
//! It owns the order: echo alone, then the crowd, then holding, then echo beside the crowd, then a broadcast to
//! everybody beside bystanders. With `--reference`, the report of another server's run, it divides by that.
//! Refuses to hide who was lost: an ending that nobody asked for is an error, and so is a message that not
//! everybody had.

mod crowd;
mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::units::parse_duration;

use crate::args;
use crate::board::Phase;
use crate::crew::{Crew, Gathered};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::frames::MessageKind;
use crate::probe::{Server, Usage, Window, slab_bytes, socket_objects};
use crate::progress::Progress;
use crate::ramp::Ramp;
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::{Echo, no_connection, p99_us, tell_latencies};
use crate::scenarios::hold::{open, settled};
use crate::scenarios::{Shared, merged, tell_harness, warn_when_busy};
use crate::span::{Measured, Span, open_rate_per_s};
use crate::spread::Spread;
use crate::traffic::{self, Traffic};
use crowd::{Crowd, Hall, Part};
use reference::Reference;

/// Measures what very many connections cost.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Quiet connections to hold.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 100_000)]
    connections: u32,
    /// Path of the quiet ones, where they hear what is said to all.
    #[arg(long, default_value = "/hall")]
    path: String,
    /// Path of the one connection that speaks to all.
    #[arg(long, default_value = "/rooms/all")]
    speak_path: String,
    /// Connections that echo, at the path of the URL.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    hot: u32,
    /// Quiet connections to open per second.
    #[arg(long, value_parser = args::rate, default_value_t = 20_000.0)]
    rate: f64,
    /// Connections at which the slope of memory begins.
    #[arg(long, default_value_t = 10_000)]
    baseline: u32,
    /// How long to hold them before anything else happens.
    #[arg(long, value_parser = args::seconds, default_value = "60")]
    seconds: Duration,
    /// Length of each window of echoes.
    #[arg(long, value_parser = args::seconds, default_value = "10")]
    echo_seconds: Duration,
    /// Windows in which echoes flow as fast as they can, without the crowd and again beside it; their median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    echo_windows: u32,
    /// Length of the warm-up before each.
    #[arg(long, value_parser = parse_duration, default_value = "2s")]
    warm_up: Duration,
    /// Broadcasts to everybody, one after the other.
    #[arg(long, default_value_t = 9)]
    broadcasts: u32,
    /// Echoes per second beside the broadcasts, all bystanders together.
    #[arg(long, value_parser = args::rate, default_value_t = 2_000.0)]
    bystander_rate: f64,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Report of another server's run of the same size (its `--json`), to divide by.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Fail (status 1) when a connection costs the server more resident memory than this, bytes.
    #[arg(long)]
    max_bytes_per_connection: Option<f64>,
    /// Fail (status 1) when a connection takes more kernel objects than in the reference, by more than this.
    #[arg(long, requires = "reference")]
    max_extra_objects: Option<f64>,
    /// Fail (status 1) when server CPU for a ping and its pong, divided by the reference's, is above this.
    #[arg(long, requires = "reference")]
    max_heartbeat_cpu_ratio: Option<f64>,
    /// Fail (status 1) when the rate of echoes beside the crowd, divided by that without, is below this.
    #[arg(long)]
    min_rate_ratio: Option<f64>,
    /// Fail (status 1) when server CPU for a delivery, divided by the reference's, is above this.
    #[arg(long, requires = "reference")]
    max_delivery_cpu_ratio: Option<f64>,
    /// Fail (status 1) when the bystanders' 99th percentile during broadcasts is above this, microseconds.
    #[arg(long)]
    max_bystander_p99_us: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }

    /// Everybody but the crowd.
    fn others(&self) -> u32 {
        1 + self.hot
    }

    fn everybody(&self) -> u32 {
        self.others() + self.connections
    }
}

/// Who runs what.
struct Run<'a> {
    args: &'a Args,
    crew: Crew<Part>,
    server: Option<Server>,
    progress: Progress,
    hall: Arc<Hall>,
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or this machine has no room; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let reference =
        args.reference.as_deref().map(|path| Reference::read(path, args.connections)).transpose()?;
    let server = shared.server()?;
    let plan = shared.plan(None, args.everybody())?;
    let party = Party::new(shared.threads, args.hot, args.connections)?;
    let progress = Progress::new(server);
    let hall = Arc::new(Hall::new(args.connections, args.size));
    let crew = Crew::start(Part::threads(&party), &plan, |thread| {
        Part::new(&party, thread, (&args.speak_path, &args.path), args.rate, &hall, |slots| Echo {
            ramp: Ramp::new(f64::INFINITY),
            traffic: Traffic::new(args.size, MessageKind::Text, slots, party.workers),
        })
    })?;
    let run = Run { args, crew, server, progress, hall };

    run.progress.step("connecting");
    open(&run.crew, args.others(), shared.patience, &run.progress)?;
    if run.crew.board().counts().open == 0 {
        return Err(Failure::Server(no_connection(&run.crew.finish(&run.progress)?.faults)));
    }
    let mut open_rate = None;
    let without = run.echo("without the crowd", &mut open_rate)?;
    let filled = run.fill()?;
    let held = run.hold()?;
    let with = run.echo("beside the crowd", &mut open_rate)?;
    let told = run.broadcast()?;
    run.progress.step("closing");
    let mut gathered = run.crew.finish(&run.progress)?;
    gathered.faults.note_many(Fault::Lost, gathered.counts.sent.saturating_sub(gathered.counts.received));

    let mut report = shared.report("scale", &plan, Part::threads(&party));
    report.about("connections", args.connections.to_string());
    report.about("hot", args.hot.to_string());
    report.figure("failed_to_open", gathered.counts.failures as f64, Unit::Count);
    report.figure("closed_unexpectedly", gathered.counts.lost as f64, Unit::Count);
    filled.tell(&mut report, args, reference.as_ref());
    held.tell(&mut report, args, reference.as_ref());
    tell_echo(&mut report, args, (&without, &with), &gathered);
    told.tell(&mut report, args, (reference.as_ref(), &held), &gathered);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Connections coming, and what they cost.
struct Filled {
    held: u32,
    seconds: f64,
    /// Connections and memory at both ends of the slope.
    from: (u32, Option<u64>),
    to: (u32, Option<u64>),
    slab: Option<u64>,
    objects: Option<u64>,
}

/// Connections being kept alive.
struct Held {
    usage: Usage,
    pings: u64,
    lost: u64,
}

/// Windows of echoes.
struct Echoed {
    windows: Vec<Measured>,
}

/// Broadcasts, and what goes on without any.
struct Told {
    usage: Usage,
    /// After the last broadcast, when a server does what it put off: nobody echoes any more.
    after: Usage,
    /// Bystanders alone.
    quiet: Usage,
    deliveries: u64,
}

impl Run<'_> {
    /// Closed windows, which show the rate, then an open one at a fixed rate, which shows the latency.
    fn echo(&self, setting: &str, open_rate: &mut Option<f64>) -> Result<Echoed, Failure> {
        let (span, length) = (|rate| self.span(rate), self.args.echo_seconds);
        let name = format!("echo, closed loop, {setting}");
        let closed = |_| span(None).echoes(&self.crew, &name, length);
        let windows = (0..self.args.echo_windows).map(closed).collect::<Result<_, Failure>>()?;
        let echoed = Echoed { windows };
        let rate = *open_rate.get_or_insert_with(|| open_rate_per_s(echoed.rates_per_s().median));
        span(Some(rate)).echoes(&self.crew, &format!("echo, open loop, {setting}"), length)?;
        Ok(echoed)
    }

    fn span(&self, rate_per_s: Option<f64>) -> Span<'_> {
        self.args.shared.span(self.server, &self.progress, self.args.warm_up, rate_per_s)
    }

    fn pass(&self, length: Duration) -> Result<(), Failure> {
        self.crew.let_pass(&self.progress, length, |_| false)
    }

    fn fill(&self) -> Result<Filled, Failure> {
        let (args, crew) = (self.args, &self.crew);
        let settled = || settled(crew, self.server, &self.progress);
        self.crew.set_phase(Phase::Ramp);
        let (slab, objects) = (slab_bytes(), socket_objects());
        self.progress.step("opening the first of the crowd");
        let patience = args.shared.patience;
        open(crew, args.others() + args.baseline.min(args.connections), patience, &self.progress)?;
        let from = (crew.board().counts().open, settled()?);
        self.progress.step("opening the crowd");
        let window = Window::open(self.server, crew.board())?;
        open(crew, args.everybody(), patience, &self.progress)?;
        let seconds = window.close(crew.board())?.seconds;
        let to = (crew.board().counts().open, settled()?);
        let grown = |now: Option<u64>, before: Option<u64>| {
            now.zip(before).map(|(now, before)| now.saturating_sub(before))
        };
        Ok(Filled {
            held: to.0.saturating_sub(args.others()),
            seconds,
            from,
            to,
            slab: grown(slab_bytes(), slab),
            objects: grown(socket_objects(), objects),
        })
    }

    fn hold(&self) -> Result<Held, Failure> {
        self.progress.step("holding");
        let before = self.crew.board().counts();
        let window = Window::open(self.server, self.crew.board())?;
        self.pass(self.args.seconds)?;
        let usage = window.close(self.crew.board())?;
        let after = self.crew.board().counts();
        Ok(Held { usage, pings: after.pings - before.pings, lost: after.lost - before.lost })
    }

    fn broadcast(&self) -> Result<Told, Failure> {
        let (span, crew) = (self.span(Some(self.args.bystander_rate)), &self.crew);
        let quiet = span.echoes(crew, "bystanders alone", self.args.echo_seconds)?.usage;
        let before = self.hall.ledger.complete();
        let broadcast = || {
            for _ in 0..self.args.broadcasts {
                self.hall.order();
                crew.wake();
                // Bystanders echo all the while: whether anybody still hears it is seen by the crowd alone.
                let heard = |_: &_| self.hall.ledger.delivered();
                crew.wait_while_it_moves(span.progress, span.patience, heard, |_| self.hall.is_quiet())?;
            }
            Ok(())
        };
        let told = span.measure(crew, "broadcasting", broadcast, || span.echoes_back(crew))?;
        let complete = self.hall.ledger.complete() - before;
        self.pass(self.args.echo_seconds)?;
        let after = told.after.close(self.crew.board())?;
        let deliveries = complete * u64::from(self.args.connections);
        Ok(Told { usage: told.usage, after, quiet, deliveries })
    }
}

impl Filled {
    fn tell(&self, report: &mut Report, args: &Args, reference: Option<&Reference>) {
        let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
        report.figure("held", f64::from(self.held), Unit::Count);
        let opened = self.to.0.saturating_sub(self.from.0);
        report.figure("connect_rate", f64::from(opened) / self.seconds, Unit::PerSecond);
        report.maybe("resident_at_baseline", bytes(self.from.1), Unit::Bytes);
        report.maybe("resident_at_full", bytes(self.to.1), Unit::Bytes);
        let growth = self.to.1.zip(self.from.1).filter(|_| opened > 0);
        let slope = growth.map(|(to, from)| (to as f64 - from as f64) / f64::from(opened));
        report.maybe("resident_per_connection", slope, Unit::Bytes);
        let each = |sum: Option<u64>| sum.map(|sum| sum as f64 / f64::from(self.held.max(1)));
        let objects = each(self.objects);
        report.maybe("kernel_slab_per_connection_both_ends", each(self.slab), Unit::Bytes);
        report.maybe("kernel_objects_per_connection_both_ends", objects, Unit::Count);
        let floor = reference.and_then(|it| it.figure("kernel_objects_per_connection_both_ends"));
        let extra = objects.zip(floor).map(|(objects, floor)| objects - floor);
        report.maybe("kernel_objects_beyond_reference", extra, Unit::Count);
        report.check("max-bytes-per-connection", args.max_bytes_per_connection, slope);
        report.check("max-extra-objects", args.max_extra_objects, extra);
    }
}

impl Held {
    fn tell(&self, report: &mut Report, args: &Args, reference: Option<&Reference>) {
        report.figure("held_for", self.usage.seconds, Unit::Seconds);
        report.figure("lost_while_holding", self.lost as f64, Unit::Count);
        report.figure("pings_answered_while_holding", self.pings as f64, Unit::Count);
        let cpu = self.usage.server_cpu_s;
        report.maybe(
            "server_cpu_while_holding",
            cpu.map(|cpu| cpu / self.usage.seconds * 100.0),
            Unit::Percent,
        );
        let each = cpu.filter(|_| self.pings > 0).map(|cpu| cpu * 1e6 / self.pings as f64);
        report.maybe("server_cpu_per_heartbeat", each, Unit::Micros);
        let ratio = ratio(each, reference, "server_cpu_per_heartbeat_us");
        report.maybe("heartbeat_cpu_ratio", ratio, Unit::Count);
        report.check("max-heartbeat-cpu-ratio", args.max_heartbeat_cpu_ratio, ratio);
    }
}

impl Echoed {
    fn rates_per_s(&self) -> Spread {
        Spread::of(self.windows.iter().map(Measured::rate_per_s).collect())
    }

    /// Server CPU of all windows for each message in them, us.
    fn cpu_per_message_us(&self) -> Option<f64> {
        let cpu_s: Option<f64> = self.windows.iter().map(|window| window.usage.server_cpu_s).sum();
        let messages: u64 = self.windows.iter().map(Measured::messages).sum();
        cpu_s.filter(|_| messages > 0).map(|cpu_s| cpu_s * 1e6 / messages as f64)
    }
}

impl Told {
    /// What the deliveries took beyond what goes on anyway, which the quiet windows show: heartbeats and echoes beside
    /// them, heartbeats alone in the time after. Without that time a server that lets heartbeats wait until all are
    /// told would have them for nothing.
    fn cpu_per_delivery_us(&self, held: &Held) -> Option<f64> {
        let beside_s = beyond_s(&self.usage, &self.quiet)?;
        let after_s = beyond_s(&self.after, &held.usage)?;
        (self.deliveries > 0).then(|| (beside_s + after_s) * 1e6 / self.deliveries as f64)
    }

    fn tell(
        &self,
        report: &mut Report,
        args: &Args,
        (reference, held): (Option<&Reference>, &Held),
        gathered: &Gathered<Part>,
    ) {
        report.figure("deliveries", self.deliveries as f64, Unit::Count);
        report.figure("deliveries_rate", self.deliveries as f64 / self.usage.seconds, Unit::PerSecond);
        for (name, usage) in [("while", &self.usage), ("after", &self.after)] {
            let cpu = usage.server_cpu_s.map(|cpu| cpu / usage.seconds * 100.0);
            report.maybe(format!("server_cpu_{name}_broadcasting"), cpu, Unit::Percent);
        }
        let each = self.cpu_per_delivery_us(held);
        report.maybe("server_cpu_per_delivery", each, Unit::Micros);
        let crowds = gathered.scenarios.iter().filter_map(Part::crowd);
        report.percentiles("time_to_last_byte", &merged(crowds.map(Crowd::to_last)));
        // Windows so far: closed ones and an open one without the crowd, the same beside it, bystanders alone, broadcasts.
        let echoes = 2 * (args.echo_windows as usize + 1);
        let (alone, beside) = (window(gathered, echoes), window(gathered, echoes + 1));
        tell_latencies(report, "bystanders_alone", &alone, false);
        tell_latencies(report, "bystanders_of_broadcasts", &beside, false);
        let ratio = ratio(each, reference, "server_cpu_per_delivery_us");
        report.maybe("delivery_cpu_ratio", ratio, Unit::Count);
        report.check("max-delivery-cpu-ratio", args.max_delivery_cpu_ratio, ratio);
        report.check("max-bystander-p99-us", args.max_bystander_p99_us, p99_us(&beside));
    }
}

/// Server CPU of a window beyond what as long a part of a quiet one takes, s.
fn beyond_s(usage: &Usage, quiet: &Usage) -> Option<f64> {
    let (cpu_s, quiet_s) = usage.server_cpu_s.zip(quiet.server_cpu_s)?;
    Some(cpu_s - quiet_s * usage.seconds / quiet.seconds)
}

fn tell_echo(
    report: &mut Report,
    args: &Args,
    (without, with): (&Echoed, &Echoed),
    gathered: &Gathered<Part>,
) {
    for (name, echoed) in [("without", without), ("beside", with)] {
        let Spread { least, median, most } = echoed.rates_per_s();
        report.figure(format!("echo_rate_{name}_crowd"), median, Unit::PerSecond);
        report.figure(format!("echo_rate_{name}_crowd_least"), least, Unit::PerSecond);
        report.figure(format!("echo_rate_{name}_crowd_most"), most, Unit::PerSecond);
        let each = echoed.cpu_per_message_us();
        report.maybe(format!("echo_server_cpu_per_message_{name}_crowd"), each, Unit::Micros);
    }
    // A harness at its limit on either side would say nothing of the server.
    for (name, echoed) in [("without", without), ("beside", with)] {
        let usages = || echoed.windows.iter().map(|window| &window.usage);
        let busiest = usages().max_by(|a, b| a.busiest_client_percent.total_cmp(&b.busiest_client_percent));
        if let Some(busiest) = busiest {
            let wait = usages().filter_map(|usage| usage.longest_client_wait_percent).reduce(f64::max);
            let worst = Usage { longest_client_wait_percent: wait, ..*busiest };
            tell_harness(report, &format!("echo_{name}_crowd_"), &worst);
            warn_when_busy(report, &worst);
        }
    }
    let windows = without.windows.len();
    let ratio = with.rates_per_s().median / without.rates_per_s().median.max(1e-9);
    report.figure("echo_rate_ratio", ratio, Unit::Count);
    tell_latencies(report, "echo_without_crowd", &window(gathered, windows), false);
    tell_latencies(report, "echo_beside_crowd", &window(gathered, 2 * windows + 1), false);
    report.check_least("min-rate-ratio", args.min_rate_ratio, Some(ratio));
}

fn window(gathered: &Gathered<Part>, number: usize) -> traffic::Latencies {
    let hot = gathered.scenarios.iter().filter_map(Part::hot);
    traffic::window(hot.map(|echo| &echo.traffic), number)
}

/// A figure divided by the reference's.
fn ratio(figure: Option<f64>, reference: Option<&Reference>, name: &str) -> Option<f64> {
    Some(figure? / reference?.figure(name).filter(|&other| other > 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(seconds: f64, cpu_s: f64) -> Usage {
        Usage {
            seconds,
            server_cpu_s: Some(cpu_s),
            busiest_client_percent: 0.0,
            longest_client_wait_percent: None,
        }
    }

    #[test]
    fn heartbeats_cost_a_delivery_the_same_whether_they_are_put_off_or_not() {
        // Heartbeats take half a core, echoes a tenth, and a delivery 10 us.
        let held = Held { usage: usage(100.0, 50.0), pings: 0, lost: 0 };
        let told = |while_s, after_s| Told {
            usage: usage(20.0, while_s),
            after: usage(10.0, after_s),
            quiet: usage(10.0, 6.0),
            deliveries: 3_000_000,
        };
        let in_between = told(30.0 + 12.0, 5.0).cpu_per_delivery_us(&held).unwrap();
        let put_off = told(30.0 + 2.0, 5.0 + 10.0).cpu_per_delivery_us(&held).unwrap();
        assert!((in_between - 10.0).abs() < 1e-9 && (put_off - 10.0).abs() < 1e-9, "{in_between} {put_off}");
    }
}
