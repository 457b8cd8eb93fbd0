//! Two servers side by side: alternating runs, one ratio per pair, the median and the spread.
//!
//! It owns starting and ending the servers, and who runs on which processor. Every figure comes from this
//! same program started as anybody would start it, so each can be repeated alone. It refuses to know the
//! servers: a peer is a script `NAME.sh PORT SCENARIO` that becomes the server by `exec`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use crate::args;
use crate::clock;
use crate::failure::Failure;
use crate::report::{Report, Unit};

/// How long a server may take until it accepts.
const START_WITHIN: Duration = Duration::from_secs(15);

/// What is compared, and what it is called in the report of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// `loadtest echo`, path `/echo`.
    Echo,
    /// `loadtest fanout`, path `/rooms/bench`.
    Fanout,
    /// `loadtest handshake`, path `/echo`.
    Handshake,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Scenario::Echo => "echo",
            Scenario::Fanout => "fanout",
            Scenario::Handshake => "handshake",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Scenario::Echo => "server_cpu_per_message_us",
            Scenario::Fanout => "server_cpu_per_delivery_us",
            Scenario::Handshake => "server_cpu_per_handshake_us",
        }
    }

    fn rate(self) -> &'static str {
        match self {
            Scenario::Echo => "messages_rate_per_s",
            Scenario::Fanout => "deliveries_rate_per_s",
            Scenario::Handshake => "handshakes_rate_per_s",
        }
    }
}

/// Runs two servers in alternating pairs and compares what their work costs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The peer whose figures are divided.
    #[arg(long, default_value = "ours")]
    subject: String,
    /// The peer whose figures they are divided by.
    #[arg(long, default_value = "bun")]
    against: String,
    /// Folder with one script per peer.
    #[arg(long, default_value = "loadtest/peers")]
    peers: PathBuf,
    /// What to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Scenario::Echo, Scenario::Fanout, Scenario::Handshake])]
    scenarios: Vec<Scenario>,
    /// Pairs of runs.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Length of each measured window.
    #[arg(long, value_parser = args::seconds, default_value = "3")]
    seconds: Duration,
    /// Processors for the server, the first of those at hand; the rest are for the harness. 0: everybody
    /// everywhere.
    #[arg(long, default_value_t = 1)]
    server_processors: usize,
    /// Write the report as JSON to this file; `-` prints it instead of the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail (status 1) when the median ratio of server CPU is above this.
    #[arg(long)]
    max_cpu_ratio: Option<f64>,
    /// Fail (status 1) when the median ratio of rates is below this.
    #[arg(long)]
    min_rate_ratio: Option<f64>,
    /// Further arguments for the scenario, after `--`.
    #[arg(last = true)]
    further: Vec<String>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.json.as_deref()
    }
}

/// Runs the comparison.
///
/// # Errors
/// A server does not start, or a run fails: ratios of failed runs would mean nothing.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let processors = Processors::split(args.server_processors)?;
    let mut report = Report::new("compare");
    report.about("subject", args.subject.clone());
    report.about("against", args.against.clone());
    report.about("pairs", args.pairs.to_string());
    report.about("processors", processors.to_string());
    for &scenario in &args.scenarios {
        let pairs = pairs(args, scenario, &processors)?;
        tell(&mut report, args, scenario, &pairs);
    }
    Ok(report)
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
struct Run {
    cpu_us: f64,
    rate_per_s: f64,
    client_percent: f64,
}

fn pairs(args: &Args, scenario: Scenario, processors: &Processors) -> Result<Vec<(Run, Run)>, Failure> {
    let line = ProgressBar::new(u64::from(args.pairs) * 2);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {prefix} {bar:24} {pos}/{len} runs") {
        line.set_style(style);
    }
    line.set_prefix(scenario.name());
    line.tick();
    let one = |peer: &str| {
        let run = one(args, peer, scenario, processors);
        line.inc(1);
        run
    };
    let mut pairs = Vec::new();
    for number in 0..args.pairs {
        // Who comes first alternates too: the machine may drift within a pair.
        pairs.push(if number % 2 == 0 {
            let subject = one(&args.subject)?;
            (subject, one(&args.against)?)
        } else {
            let against = one(&args.against)?;
            (one(&args.subject)?, against)
        });
    }
    line.finish_and_clear();
    Ok(pairs)
}

fn tell(report: &mut Report, args: &Args, scenario: Scenario, pairs: &[(Run, Run)]) {
    let name = scenario.name();
    for (number, (subject, against)) in (1..).zip(pairs) {
        report.figure(
            format!("{name}_pair_{number}_cpu_ratio"),
            subject.cpu_us / against.cpu_us,
            Unit::Count,
        );
    }
    let median_of =
        |figure: &dyn Fn(&(Run, Run)) -> f64| Spread::of(pairs.iter().map(figure).collect()).median;
    report.figure(format!("{name}_cpu_{}", args.subject), median_of(&|pair| pair.0.cpu_us), Unit::Micros);
    report.figure(format!("{name}_cpu_{}", args.against), median_of(&|pair| pair.1.cpu_us), Unit::Micros);
    report.figure(
        format!("{name}_rate_{}", args.subject),
        median_of(&|pair| pair.0.rate_per_s),
        Unit::PerSecond,
    );
    report.figure(
        format!("{name}_rate_{}", args.against),
        median_of(&|pair| pair.1.rate_per_s),
        Unit::PerSecond,
    );
    let busiest =
        pairs.iter().map(|pair| pair.0.client_percent.max(pair.1.client_percent)).fold(0.0, f64::max);
    report.figure(format!("{name}_busiest_client_thread_cpu"), busiest, Unit::Percent);
    let cpu = Spread::of(pairs.iter().map(|(subject, against)| subject.cpu_us / against.cpu_us).collect());
    let rate =
        Spread::of(pairs.iter().map(|(subject, against)| subject.rate_per_s / against.rate_per_s).collect());
    for (what, spread) in [("cpu", &cpu), ("rate", &rate)] {
        report.figure(format!("{name}_{what}_ratio_least"), spread.least, Unit::Count);
        report.figure(format!("{name}_{what}_ratio_median"), spread.median, Unit::Count);
        report.figure(format!("{name}_{what}_ratio_most"), spread.most, Unit::Count);
    }
    report.check("max-cpu-ratio", args.max_cpu_ratio, Some(cpu.median));
    report.check_least("min-rate-ratio", args.min_rate_ratio, Some(rate.median));
}

/// Starts a peer, loads it once, ends it.
fn one(args: &Args, peer: &str, scenario: Scenario, processors: &Processors) -> Result<Run, Failure> {
    let failed = |what: &str| Failure::machine(format!("{what} for {peer}"));
    let harness = std::env::current_exe().map_err(failed("finding this program"))?;
    let script = args.peers.join(format!("{peer}.sh"));
    let script = script.canonicalize().map_err(Failure::machine(script.display().to_string()))?;
    let port = free_port().map_err(failed("a free port"))?;

    processors.be_server()?;
    let server = Command::new(&script)
        .args([&port.to_string(), scenario.name()])
        .env("LOADTEST", &harness)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    processors.be_harness()?;
    let mut server = Running(server.map_err(Failure::machine(script.display().to_string()))?);
    server.wait_until_it_accepts(peer, port)?;

    let path = if scenario == Scenario::Fanout { "/rooms/bench" } else { "/echo" };
    let output = Command::new(&harness)
        .arg(scenario.name())
        .args(["--url", &format!("ws://127.0.0.1:{port}{path}"), "--server-pid", &server.0.id().to_string()])
        .args(if scenario == Scenario::Handshake { &[][..] } else { &["--closed"] })
        .args(["--seconds", &format!("{}ms", args.seconds.as_millis()), "--max-errors", "0", "--json", "-"])
        .args(&args.further)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed("a run"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(Failure::Server(format!("{peer}, {}: {}: {text}", scenario.name(), output.status)));
    }
    let json: Value = serde_json::from_str(&text).map_err(|error| failed("the report")(error.into()))?;
    let figure = |name: &str| {
        let value = json["figures"][name].as_f64();
        value.ok_or_else(|| Failure::Server(format!("{peer}, {}: no {name} was measured", scenario.name())))
    };
    Ok(Run {
        cpu_us: figure(scenario.cpu())?,
        rate_per_s: figure(scenario.rate())?,
        client_percent: figure("busiest_client_thread_cpu_percent")?,
    })
}

/// A server that ends with its run.
struct Running(Child);

impl Running {
    fn wait_until_it_accepts(&mut self, peer: &str, port: u16) -> Result<(), Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let end_ns = clock::now_ns() + args::ns(START_WITHIN);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.0.try_wait().map_err(Failure::machine(peer))? {
                return Err(Failure::Server(format!("{peer} ended before it accepted: {status}")));
            }
            if clock::now_ns() > end_ns {
                return Err(Failure::Server(format!("{peer} does not accept on {address}")));
            }
            clock::pause(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it must be reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Who runs where. Children inherit the affinity of this thread, so it is set before each is started.
struct Processors {
    all: CpuSet,
    /// Server and harness; `None`: everybody everywhere.
    split: Option<(CpuSet, CpuSet)>,
    servers: usize,
}

impl Processors {
    /// The first `servers` processors for the server.
    ///
    /// # Errors
    /// There are not enough processors to leave one for the harness.
    fn split(servers: usize) -> Result<Processors, Failure> {
        let failed = || Failure::machine("processor affinity");
        let all = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| failed()(errno.into()))?;
        if servers == 0 {
            return Ok(Processors { all, split: None, servers });
        }
        let (mut server, mut harness) = (CpuSet::new(), CpuSet::new());
        let mut seen = 0;
        for processor in (0..CpuSet::count()).filter(|&processor| all.is_set(processor).unwrap_or(false)) {
            let side = if seen < servers { &mut server } else { &mut harness };
            side.set(processor).map_err(|errno| failed()(errno.into()))?;
            seen += 1;
        }
        if seen <= servers {
            let wrong =
                format!("--server-processors {servers}: {seen} at hand, one must be left for the harness");
            return Err(Failure::Asked(wrong));
        }
        Ok(Processors { all, split: Some((server, harness)), servers })
    }

    fn be_server(&self) -> Result<(), Failure> {
        Self::be(self.split.as_ref().map_or(&self.all, |(server, _)| server))
    }

    fn be_harness(&self) -> Result<(), Failure> {
        Self::be(self.split.as_ref().map_or(&self.all, |(_, harness)| harness))
    }

    fn be(set: &CpuSet) -> Result<(), Failure> {
        let this = Pid::from_raw(0);
        sched_setaffinity(this, set).map_err(|errno| Failure::machine("processor affinity")(errno.into()))
    }
}

impl std::fmt::Display for Processors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.servers {
            0 => f.write_str("shared by all"),
            servers => write!(f, "{servers} for the server, the rest for the harness"),
        }
    }
}

/// Least, middle and most of some ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value; of none it is all zero, which no threshold should see.
    fn of(mut values: Vec<f64>) -> Spread {
        debug_assert!(!values.is_empty(), "at least one pair is run");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.as_slice() {
            [] => 0.0,
            values if values.len() % 2 == 1 => values[middle],
            values => f64::midpoint(values[middle - 1], values[middle]),
        };
        Spread {
            least: values.first().copied().unwrap_or(0.0),
            median,
            most: values.last().copied().unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { least: 1.0, median: 2.0, most: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]), Spread { least: 1.0, median: 2.5, most: 4.0 });
        assert_eq!(Spread::of(vec![0.5]).median, 0.5);
    }

    #[test]
    fn every_processor_for_the_server_leaves_none_for_the_harness() {
        assert!(Processors::split(CpuSet::count()).is_err());
        assert!(Processors::split(0).is_ok_and(|processors| processors.split.is_none()));
    }
}
