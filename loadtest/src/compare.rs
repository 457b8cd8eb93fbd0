//! Servers side by side: rounds in which each runs once, one ratio per round and server, medians and spreads.
//!
//! It owns what is compared and how it is told. Every figure comes from this same program started as anybody would
//! start it, so each can be repeated alone. It refuses to quote a single run. The servers are peers, see `peer`; the order
//! of the runs is that of `rounds`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::args;
use crate::child;
use crate::failure::Failure;
use crate::peer::Peer;
use crate::processors::Processors;
use crate::report::{Report, Unit};
use crate::results;
use crate::rounds::{self, Rounds};
use crate::spread::Spread;

/// What is compared, and what it is called in the report of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// `loadtest echo --closed`, path `/echo`.
    Echo,
    /// `loadtest fanout --closed`, path `/rooms/bench`.
    Fanout,
    /// `loadtest handshake`, path `/echo`.
    Handshake,
}

impl Scenario {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Echo => "echo",
            Scenario::Fanout => "fanout",
            Scenario::Handshake => "handshake",
        }
    }

    /// One unit of its work, and many.
    pub(crate) fn units(self) -> (&'static str, &'static str) {
        match self {
            Scenario::Echo => ("message", "messages"),
            Scenario::Fanout => ("delivery", "deliveries"),
            Scenario::Handshake => ("handshake", "handshakes"),
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Scenario::Echo | Scenario::Fanout => &["--closed"],
            Scenario::Handshake => &[],
        }
    }

    fn path(self) -> &'static str {
        match self {
            Scenario::Echo | Scenario::Handshake => "/echo",
            Scenario::Fanout => "/rooms/bench",
        }
    }
}

/// Runs servers in turn and compares what their work costs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Peers whose figures are divided; thresholds are for the first.
    #[arg(long, alias = "subject", value_delimiter = ',', default_value = "ours")]
    subjects: Vec<String>,
    /// The peer whose figures they are divided by.
    #[arg(long, default_value = "bun")]
    against: String,
    /// Folder with one script per peer.
    #[arg(long, default_value = "loadtest/peers")]
    peers: PathBuf,
    /// What to compare; who cannot do it is left out.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Scenario::Echo, Scenario::Fanout, Scenario::Handshake])]
    scenarios: Vec<Scenario>,
    /// Rounds: in each every server runs once.
    #[arg(long, alias = "pairs", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of each measured window.
    #[arg(long, value_parser = args::seconds, default_value = "3")]
    seconds: Duration,
    /// Processors for the server, the first of those at hand; the rest are for the harness. 0: everybody
    /// everywhere.
    #[arg(long, default_value_t = 1)]
    server_processors: usize,
    /// Write a table and a plot for readers to RESULTS.md and results.svg in this folder.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Write the report as JSON to this file; `-` prints it instead of the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail (status 1) when the median ratio of server CPU is above this.
    #[arg(long)]
    max_cpu_ratio: Option<f64>,
    /// The same for one scenario, such as `echo=1.1`; it goes before the other, and into the results.
    #[arg(long, value_parser = bar, value_delimiter = ',')]
    bars: Vec<(Scenario, f64)>,
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

    /// What the first subject's median ratio of server CPU may be in a scenario.
    fn bar(&self, scenario: Scenario) -> Option<f64> {
        let own = self.bars.iter().find(|(of, _)| *of == scenario);
        own.map(|(_, most)| *most).or(self.max_cpu_ratio)
    }
}

/// Reads `scenario=ratio`.
fn bar(text: &str) -> Result<(Scenario, f64), String> {
    let (name, most) = text.split_once('=').ok_or("expected SCENARIO=RATIO")?;
    let most = most.parse().map_err(|_| format!("{most}: expected a number"))?;
    Ok((<Scenario as clap::ValueEnum>::from_str(name, false)?, most))
}

/// Runs the comparison.
///
/// # Errors
/// Of no scenario there are two servers to compare: they cannot do it, or their runs failed.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let processors = Processors::split(args.server_processors)?;
    let against = Peer::find(&args.peers, &args.against)?;
    let subjects: Result<Vec<Peer>, Failure> =
        args.subjects.iter().map(|name| Peer::find(&args.peers, name)).collect();
    let subjects = subjects?;
    let mut report = Report::new("compare");
    report.about("rounds", args.rounds.to_string());
    report.about("processors", processors.to_string());
    report.about("against", format!("{}: {}", against.name, against.version));
    for subject in &subjects {
        report.about("subject", format!("{}: {}", subject.name, subject.version));
    }
    let mut outcomes = Vec::new();
    for &scenario in &args.scenarios {
        let able = subjects.iter().filter(|peer| peer.can(scenario.name()));
        let peers: Vec<&Peer> = std::iter::once(&against).chain(able).collect();
        if peers.len() == 1 || !against.can(scenario.name()) {
            return Err(Failure::Asked(format!("{}: too few of the peers can do it", scenario.name())));
        }
        let rounds = played(args, scenario, &peers, &processors);
        let bar = args.bar(scenario).map(|most| Bar { subject: args.subjects[0].clone(), most });
        let outcome = Outcome { bar, ..Outcome::new(scenario, &peers, &rounds) };
        outcome.tell(&mut report);
        outcome.judge(&args.subjects[0], args.min_rate_ratio, &mut report);
        outcomes.push(outcome);
    }
    if outcomes.iter().all(|outcome| outcome.standings.is_empty()) {
        let notes: Vec<String> = outcomes.into_iter().flat_map(|outcome| outcome.notes).collect();
        return Err(Failure::Server(format!("no two servers could be compared: {}", notes.join("; "))));
    }
    if let Some(folder) = &args.results {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let mut machine = report.machine_rows();
        machine.push(("processors of a run".to_owned(), processors.to_string()));
        results::write_comparison(folder, &command, &machine, args.rounds, &outcomes)?;
    }
    Ok(report)
}

/// What one run showed.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    cpu_us: f64,
    rate_per_s: f64,
    client_percent: f64,
    cautions: Vec<String>,
}

/// What all rounds of a scenario showed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was run.
    pub(crate) scenario: Scenario,
    /// Everybody whose runs succeeded, first the one that the others are divided by; nobody, if its own did not.
    pub(crate) standings: Vec<Standing>,
    /// What was promised, if anything was.
    pub(crate) bar: Option<Bar>,
    /// Whose runs failed, and what came of it.
    pub(crate) notes: Vec<String>,
}

/// What was promised of a server.
#[derive(Debug)]
pub(crate) struct Bar {
    /// Of whom: the first subject, whether or not it could do the scenario.
    pub(crate) subject: String,
    /// What its median ratio of CPU may be.
    pub(crate) most: f64,
}

/// What all rounds showed of one server.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The peer's name.
    pub(crate) name: String,
    /// What it calls itself.
    pub(crate) version: String,
    /// Server CPU for one unit of work, microseconds.
    pub(crate) cpu_us: Spread,
    /// Units of work per second.
    pub(crate) rate_per_s: Spread,
    /// CPU divided by that of the first standing in the same round.
    pub(crate) cpu_ratio: Spread,
    /// Rate divided by that of the first standing in the same round.
    pub(crate) rate_ratio: Spread,
    /// CPU of the busiest client thread in any run, percent: near 100 rates say little.
    pub(crate) busiest_client_percent: f64,
    /// What runs of it warned of, and in how many rounds.
    pub(crate) cautions: Vec<(String, usize)>,
}

impl Outcome {
    /// Of rounds of these peers, in their order.
    fn new(scenario: Scenario, all: &[&Peer], rounds: &Rounds<Run>) -> Outcome {
        let Rounds { kept, runs: rounds, notes } = rounds;
        let peers: Vec<&Peer> = kept.iter().map(|&place| all[place]).collect();
        let notes = notes.iter().map(|(place, note)| format!("{}, {note}", all[*place].name)).collect();
        let standing = |(place, peer): (usize, &&Peer)| {
            let spread = |figure: &dyn Fn(&Vec<Run>) -> f64| Spread::of(rounds.iter().map(figure).collect());
            Standing {
                name: peer.name.clone(),
                version: peer.version.clone(),
                cpu_us: spread(&|runs| runs[place].cpu_us),
                rate_per_s: spread(&|runs| runs[place].rate_per_s),
                cpu_ratio: spread(&|runs| runs[place].cpu_us / runs[0].cpu_us),
                rate_ratio: spread(&|runs| runs[place].rate_per_s / runs[0].rate_per_s),
                busiest_client_percent: rounds
                    .iter()
                    .map(|runs| runs[place].client_percent)
                    .fold(0.0, f64::max),
                cautions: counted(rounds.iter().flat_map(|runs| &runs[place].cautions)),
            }
        };
        let standings = peers.iter().enumerate().map(standing).collect();
        Outcome { scenario, standings, bar: None, notes }
    }

    /// How this server did beside the one that it is divided by; nothing, when it did not run.
    pub(crate) fn standing(&self, subject: &str) -> Option<&Standing> {
        self.standings.iter().skip(1).find(|standing| standing.name == subject)
    }

    /// Holds the first subject to what was promised of it, which is broken where it could not be measured.
    fn judge(&self, subject: &str, min_rate_ratio: Option<f64>, report: &mut Report) {
        let first = self.standing(subject);
        let most = self.bar.as_ref().map(|bar| bar.most);
        report.check("max-cpu-ratio", most, first.map(|standing| standing.cpu_ratio.median));
        report.check_least(
            "min-rate-ratio",
            min_rate_ratio,
            first.map(|standing| standing.rate_ratio.median),
        );
    }

    fn tell(&self, report: &mut Report) {
        let scenario = self.scenario.name();
        for note in &self.notes {
            report.caution(format!("{scenario}, {note}"));
        }
        for standing in &self.standings {
            let name = format!("{scenario}_{}", standing.name);
            report.figure(format!("{name}_cpu"), standing.cpu_us.median, Unit::Micros);
            report.figure(format!("{name}_rate"), standing.rate_per_s.median, Unit::PerSecond);
            let busiest = standing.busiest_client_percent;
            report.figure(format!("{name}_busiest_client_thread_cpu"), busiest, Unit::Percent);
            for (caution, times) in &standing.cautions {
                report.caution(format!("{scenario}, {} (rounds: {times}): {caution}", standing.name));
            }
        }
        for standing in self.standings.iter().skip(1) {
            for (what, spread) in [("cpu", standing.cpu_ratio), ("rate", standing.rate_ratio)] {
                let name = format!("{scenario}_{}_{what}_ratio", standing.name);
                report.figure(format!("{name}_least"), spread.least, Unit::Count);
                report.figure(format!("{name}_median"), spread.median, Unit::Count);
                report.figure(format!("{name}_most"), spread.most, Unit::Count);
            }
        }
    }
}

/// Each text once, with how often it is there.
fn counted<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<(String, usize)> {
    let mut all: Vec<(String, usize)> = Vec::new();
    for text in texts {
        match all.iter_mut().find(|(known, _)| known == text) {
            Some((_, times)) => *times += 1,
            None => all.push((text.clone(), 1)),
        }
    }
    all
}

/// All rounds of a scenario, with a line that says how far they are.
fn played(args: &Args, scenario: Scenario, peers: &[&Peer], processors: &Processors) -> Rounds<Run> {
    let line = ProgressBar::new(u64::from(args.rounds) * peers.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {prefix} {bar:24} {pos}/{len} {msg}") {
        line.set_style(style);
    }
    line.set_prefix(scenario.name());
    let rounds = rounds::play(args.rounds, peers.len(), |place| {
        line.set_message(peers[place].name.clone());
        let run = one(args, peers[place], scenario, processors)?;
        line.inc(1);
        Ok(run)
    });
    line.finish_and_clear();
    rounds
}

/// Starts a peer, loads it once, ends it.
fn one(args: &Args, peer: &Peer, scenario: Scenario, processors: &Processors) -> Result<Run, Failure> {
    processors.be_server()?;
    let server = peer.start(scenario.name(), &[]);
    processors.be_harness()?;
    let server = server?;
    let url = format!("ws://{}{}", server.address(), scenario.path());
    let pid = server.pid().to_string();
    let millis = format!("{}ms", args.seconds.as_millis());
    let server = ["--url", &url, "--server-pid", &pid, "--server-version", &peer.version];
    let window = ["--seconds", &millis, "--max-errors", "0"];
    let further = args.further.iter().map(String::as_str);
    let arguments =
        [scenario.name()].into_iter().chain(scenario.options().iter().copied()).chain(server).chain(window);
    let run = child::Run::of(format!("{}, {}", peer.name, scenario.name()), arguments.chain(further))?;
    let (unit, units) = scenario.units();
    Ok(Run {
        cpu_us: run.figure(&format!("server_cpu_per_{unit}_us"))?,
        rate_per_s: run.figure(&format!("{units}_rate_per_s"))?,
        client_percent: run.figure("busiest_client_thread_cpu_percent")?,
        cautions: run.cautions(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(client_percent: f64, cautions: &[&str]) -> Run {
        let cautions = cautions.iter().map(|&caution| caution.to_owned()).collect();
        Run { cpu_us: 10.0, rate_per_s: 1e5, client_percent, cautions }
    }

    fn of_both(runs: Vec<Vec<Run>>) -> Rounds<Run> {
        Rounds { kept: vec![0, 1], runs, notes: Vec::new() }
    }

    #[test]
    fn who_is_left_out_is_told_and_takes_nobodys_figures() {
        let peers = ["floor", "ours", "bun"].map(Peer::named);
        let runs = vec![vec![run(40.0, &[]), Run { cpu_us: 30.0, ..run(40.0, &[]) }]];
        let notes = vec![(1, "round 1, left out: it fell".to_owned())];
        let rounds = Rounds { kept: vec![0, 2], runs, notes };
        let outcome = Outcome::new(Scenario::Echo, &peers.iter().collect::<Vec<_>>(), &rounds);
        assert_eq!(outcome.standing("bun").map(|standing| standing.cpu_ratio.median), Some(3.0));
        assert!(outcome.standing("ours").is_none());
        let mut report = Report::new("compare");
        outcome.tell(&mut report);
        assert_eq!(report.about_rows(), [("caution", "echo, ours, round 1, left out: it fell".to_owned())]);
    }

    #[test]
    fn what_runs_warn_of_is_told_of_the_server_it_was_said_of() {
        let peers = ["floor", "ours"].map(Peer::named);
        let rounds = of_both(vec![
            vec![run(40.0, &[]), run(97.0, &["busy", "late"])],
            vec![run(50.0, &[]), run(91.0, &["busy"])],
        ]);
        let outcome = Outcome::new(Scenario::Echo, &peers.iter().collect::<Vec<_>>(), &rounds);
        let busiest: Vec<f64> =
            outcome.standings.iter().map(|standing| standing.busiest_client_percent).collect();
        assert_eq!(busiest, [50.0, 97.0]);
        let mut report = Report::new("compare");
        outcome.tell(&mut report);
        let cautions: Vec<&str> = report.about_rows().iter().map(|(_, said)| said.as_str()).collect();
        assert_eq!(cautions, ["echo, ours (rounds: 2): busy", "echo, ours (rounds: 1): late"]);
    }

    #[test]
    fn what_was_promised_of_a_server_that_did_not_run_is_broken_and_nobody_elses() {
        let peers = ["floor", "bun"].map(Peer::named);
        let rounds = of_both(vec![vec![run(40.0, &[]), run(40.0, &[])]]);
        let outcome = Outcome::new(Scenario::Echo, &peers.iter().collect::<Vec<_>>(), &rounds);
        let holds = |subject: &str, most, min_rate_ratio| {
            let bar = Bar { subject: subject.to_owned(), most };
            let outcome = Outcome {
                bar: Some(bar),
                ..Outcome::new(Scenario::Echo, &peers.iter().collect::<Vec<_>>(), &rounds)
            };
            let mut report = Report::new("compare");
            outcome.judge(subject, min_rate_ratio, &mut report);
            report.holds()
        };
        assert!(holds("bun", 1.0, Some(1.0)) && !holds("bun", 0.9, None) && !holds("bun", 1.0, Some(1.1)));
        assert!(!holds("ours", 1.0, None), "the one that was promised something did not run");
        let mut report = Report::new("compare");
        outcome.judge("ours", None, &mut report);
        assert!(report.holds(), "nothing was promised");
        outcome.judge("ours", Some(0.5), &mut report);
        assert!(!report.holds());
    }

    #[test]
    fn a_bar_names_its_scenario() {
        assert_eq!(bar("echo=1.1"), Ok((Scenario::Echo, 1.1)));
        for wrong in ["echo", "ecko=1", "echo=much"] {
            assert!(bar(wrong).is_err(), "{wrong}");
        }
    }
}
