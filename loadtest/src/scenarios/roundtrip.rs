//! Round trip: client, gateway, app server and back. What does the gateway spend on it, against what no gateway can do
//! without?
//!
//! It owns the yardstick: the CPU of a bare echo over WebSockets (`floor`) and of a bare gRPC client (`grpc`), each in
//! the same round as the gateway, in changing order. Every figure comes from this program started as anybody would start
//! it. The app server's CPU is nobody's: it has processors of its own. Refuses to quote a single round.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::AppServer;
use crate::args;
use crate::child::Run;
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::peer::Peer;
use crate::processors::Processors;
use crate::report::{Report, Unit};
use crate::spread::Spread;

/// Where an app server listens: a free port.
pub(crate) const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// Measures what passing messages on to an app server and back costs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The peer that is measured; it has to know the scenario `backend`.
    #[arg(long, default_value = "ours")]
    subject: String,
    /// Folder with one script per peer.
    #[arg(long, default_value = "loadtest/peers")]
    peers: PathBuf,
    /// Connections, each with one message under way.
    #[arg(long, value_parser = args::above_zero(), default_value_t = 200)]
    connections: u32,
    /// Bytes of a message.
    #[arg(long, default_value = "128")]
    size: String,
    /// Rounds: in each, all three are measured once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of each measured window.
    #[arg(long, value_parser = args::seconds, default_value = "3")]
    seconds: Duration,
    /// Length of the warm-up before each.
    #[arg(long, value_parser = args::seconds, default_value = "1")]
    warm_up: Duration,
    /// Processors for what is measured, the first of those at hand; the rest are for clients and app server. 0:
    /// everybody everywhere.
    #[arg(long, default_value_t = 1)]
    server_processors: usize,
    /// Write the report as JSON to this file; `-` prints it instead of the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail (status 1) when the gateway's CPU, divided by that of both floors together, is above this in the median.
    #[arg(long)]
    max_cpu_ratio: Option<f64>,
    /// Fail (status 1) when more went wrong than this.
    #[arg(long)]
    max_errors: Option<u64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.json.as_deref()
    }
}

/// What one leg showed.
#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    cpu_us: f64,
    rate_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Leg {
    fn of(run: &Run, cpu: &str) -> Result<Leg, Failure> {
        Ok(Leg {
            cpu_us: run.figure(cpu)?,
            rate_per_s: run.figure("messages_rate_per_s")?,
            p50_us: run.figure("latency_p50_us")?,
            p99_us: run.figure("latency_p99_us")?,
        })
    }
}

/// Runs the scenario.
///
/// # Errors
/// A server does not start, or a run fails: ratios of failed runs would mean nothing.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let processors = Processors::split(args.server_processors)?;
    let floor = Peer::find(&args.peers, "floor")?;
    let subject = Peer::find(&args.peers, &args.subject)?;
    if !subject.can("backend") {
        return Err(Failure::Asked(format!("{} cannot have a backend", subject.name)));
    }
    let mut faults = Faults::default();
    let mut rounds = Vec::new();
    for number in 0..args.rounds as usize {
        let mut legs = [Leg::default(); 3];
        for step in 0..legs.len() {
            // Who comes first takes turns: the machine may drift within a round.
            let place = (step + number) % legs.len();
            legs[place] = match place {
                0 => echo(args, &floor, &processors)?,
                1 => grpc(args, &processors)?,
                _ => through(args, &subject, &processors, &mut faults)?,
            };
        }
        rounds.push(legs);
    }
    let mut report = Report::new("roundtrip");
    report.about("subject", format!("{}: {}", subject.name, subject.version));
    report.about("connections", args.connections.to_string());
    report.about("message", format!("{} bytes", args.size));
    report.about("rounds", args.rounds.to_string());
    report.about("processors", processors.to_string());
    tell(&mut report, &rounds, args.max_cpu_ratio);
    report.faults(&faults, args.max_errors);
    Ok(report)
}

fn tell(report: &mut Report, rounds: &[[Leg; 3]], max_cpu_ratio: Option<f64>) {
    let spread = |figure: &dyn Fn(&[Leg; 3]) -> f64| Spread::of(rounds.iter().map(figure).collect());
    for (place, name) in ["floor_echo", "grpc_client", "round_trip"].into_iter().enumerate() {
        let cpu = spread(&|legs| legs[place].cpu_us);
        report.figure(format!("{name}_cpu"), cpu.median, Unit::Micros);
        report.figure(format!("{name}_rate"), spread(&|legs| legs[place].rate_per_s).median, Unit::PerSecond);
        report.figure(format!("{name}_p50"), spread(&|legs| legs[place].p50_us).median, Unit::Micros);
        report.figure(format!("{name}_p99"), spread(&|legs| legs[place].p99_us).median, Unit::Micros);
    }
    let ratio = spread(&|legs| legs[2].cpu_us / (legs[0].cpu_us + legs[1].cpu_us).max(1e-9));
    report.figure("cpu_ratio", ratio.median, Unit::Count);
    report.figure("cpu_ratio_least", ratio.least, Unit::Count);
    report.figure("cpu_ratio_most", ratio.most, Unit::Count);
    report.check("max-cpu-ratio", max_cpu_ratio, Some(ratio.median));
}

fn window(args: &Args) -> [String; 6] {
    let ms = |length: Duration| format!("{}ms", length.as_millis());
    let [seconds, warm_up] = [ms(args.seconds), ms(args.warm_up)];
    ["--seconds".into(), seconds, "--warm-up".into(), warm_up, "--size".into(), args.size.clone()]
}

/// The bare echo over WebSockets.
fn echo(args: &Args, floor: &Peer, processors: &Processors) -> Result<Leg, Failure> {
    processors.be_server()?;
    let server = floor.start("echo", &[]);
    processors.be_harness()?;
    let server = server?;
    let run = over_web_sockets(args, "the floor", &format!("ws://{}/echo", server.address()), server.pid())?;
    Leg::of(&run, "server_cpu_per_message_us")
}

/// The bare client over gRPC.
fn grpc(args: &Args, processors: &Processors) -> Result<Leg, Failure> {
    processors.be_harness()?;
    let app = AppServer::start(ANYWHERE, &[])?;
    processors.be_server()?;
    let arguments = ["grpc".to_owned(), "--backend".into(), app.address().to_string()];
    let in_flight = ["--in-flight".to_owned(), args.connections.to_string()];
    let run = Run::of("the gRPC client", arguments.into_iter().chain(in_flight).chain(window(args)));
    processors.be_harness()?;
    Leg::of(&run?, "client_cpu_per_message_us")
}

/// All the way through the gateway.
fn through(
    args: &Args,
    subject: &Peer,
    processors: &Processors,
    faults: &mut Faults,
) -> Result<Leg, Failure> {
    processors.be_harness()?;
    let app = AppServer::start(ANYWHERE, &[])?;
    processors.be_server()?;
    let server = subject.start("backend", &[("BACKENDS", backends(&[app.address()]))]);
    processors.be_harness()?;
    let server = server?;
    let url = format!("ws://{}/app", server.address());
    let run = over_web_sockets(args, &subject.name, &url, server.pid())?;
    drop(server);
    let told = app.leave()?;
    for name in ["violations", "misplaced"] {
        faults.note_many(Fault::Disorder, told[name].as_u64().unwrap_or(0));
    }
    Leg::of(&run, "server_cpu_per_message_us")
}

fn over_web_sockets(args: &Args, what: &str, url: &str, pid: u32) -> Result<Run, Failure> {
    let arguments = ["echo".to_owned(), "--closed".into(), "--url".into(), url.into()];
    let more =
        ["--server-pid".to_owned(), pid.to_string(), "--connections".into(), args.connections.to_string()];
    let checks = ["--max-errors".to_owned(), "0".into()];
    Run::of(what, arguments.into_iter().chain(more).chain(checks).chain(window(args)))
}

/// App servers as a list in the configuration of the gateway.
pub(crate) fn backends(addresses: &[SocketAddrV4]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
    quoted.join(", ")
}
