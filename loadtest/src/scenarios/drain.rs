//! Drain: a server is told to go, under connections, newcomers and traffic; who is told, how evenly, and what is lost?
//!
//! Everybody must be told 1001 with a time to come back, nobody whom the kernel had queued may be reset, and what was
//! accepted before a close must have come before it. Newcomers who are refused once the server listens no more are
//! no errors. Refuses to start a server: it ends the one it is given.

use std::path::Path;
use std::time::Duration;

use config::units::parse_duration;
use nix::errno::Errno;

use crate::args;
use crate::board::Phase;
use crate::clock;
use crate::crew::{Crew, Gathered};
use crate::failure::Failure;
use crate::fault::Fault;
use crate::probe::{Ending, Server};
use crate::progress::Progress;
use crate::report::{Report, Unit};
use crate::scenarios::Shared;
use crate::scenarios::rooms::{self, Drains, Filled, Members};

/// How long past its deadline the server may still be there, until the run is given up.
const PATIENCE_AFTER: Duration = Duration::from_secs(15);

/// What a deadline in whole seconds may be missed by: ticks of the server, looks of the harness.
const GRACE_S: f64 = 1.0;

/// Measures how a server takes its leave.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    rooms: rooms::Args,
    /// Seconds that the drain may take.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=3600), default_value_t = 20)]
    seconds: u16,
    /// Newcomers per second, before and during the drain.
    #[arg(long, default_value_t = 100.0)]
    connect_rate: f64,
    /// How long the server goes on accepting after it was told to go: a connect that is refused before is an error.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    accepts_for: Duration,
    /// Fail (status 1) when a second has more closes than the mean times this.
    #[arg(long, default_value_t = 2.0)]
    max_close_ratio: f64,
    /// Fail (status 1) when more than this share of all, one apart, was given the same time to come back.
    #[arg(long, default_value_t = 0.01)]
    max_alike: f64,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.shared.json.as_deref()
    }

    /// Newcomers, and room for all who come before the drain and during it.
    fn newcomers(&self) -> Result<Drains, Failure> {
        if !(0.0..=100_000.0).contains(&self.connect_rate) {
            return Err(Failure::Asked("--connect-rate from 0 to 100000".into()));
        }
        let length_s = self.rooms.before.as_secs_f64() + f64::from(self.seconds) + 1.0;
        let newcomers = (self.connect_rate * length_s) as u32;
        let accepts_ns = args::ns(self.accepts_for);
        Ok(Drains { newcomers_per_s: self.connect_rate, newcomers, accepts_ns })
    }
}

/// Runs the scenario.
///
/// # Errors
/// The server is not there, or does not take the order; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let Filled { crew, progress, publisher, mut api, server, mut report } =
        args.rooms.fill("drain", shared, Some(args.newcomers()?))?;
    report.about("newcomers", format!("{} per second", args.connect_rate));
    report.about("drain", format!("{} seconds, {:?} of them accepting", args.seconds, args.accepts_for));
    progress.step("draining");
    crew.set_phase(Phase::Measure);
    let began_ns = clock::now_ns();
    let answer = api.demand("POST", &format!("/v1/drain?seconds={}", args.seconds))?;
    if answer.status != 202 {
        return Err(Failure::Server(format!("drain answered with {}: {}", answer.status, answer.text())));
    }
    let ending = watch(args, &crew, server, began_ns, &progress)?;
    let forgotten = crew.board().counts().open;
    let published = publisher.stop()?;
    crew.set_phase(Phase::Settle);
    crew.wait_until(&progress, shared.patience, |counts| counts.busy == 0)?;
    let mut gathered = crew.finish(&progress)?;
    gathered.faults.note_many(Fault::Late("goodbye"), u64::from(forgotten));
    newcomers(&mut gathered, &mut report);
    closes(args, &gathered.scenarios, began_ns, &mut report);
    rooms::account(&mut gathered, &published, true, &mut report);
    ended(args, server, ending, &mut report);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// What became of those who came meanwhile. That they are turned away once the server drains is no fault.
fn newcomers(gathered: &mut Gathered<Members>, report: &mut Report) {
    let sum = |count: fn(&Members) -> u64| gathered.scenarios.iter().map(count).sum::<u64>();
    let [newcomers, refused, turned_away, cut] = [
        sum(|members| members.seen.newcomers),
        sum(|members| members.seen.refused),
        sum(|members| members.seen.turned_away),
        sum(|members| members.seen.cut_in_queue),
    ];
    let refused_connect = Fault::Connect(Errno::ECONNREFUSED as i32);
    for (fault, in_order) in [(refused_connect, refused), (Fault::Refused(503), turned_away)] {
        let all = gathered.faults.take(|seen| *seen == fault);
        gathered.faults.note_many(fault, all.saturating_sub(in_order));
    }
    report.figure("newcomers", newcomers as f64, Unit::Count);
    report.figure("newcomers_refused_after_listening", refused as f64, Unit::Count);
    report.figure("newcomers_answered_with_503", turned_away as f64, Unit::Count);
    report.figure("newcomers_cut_in_queue", cut as f64, Unit::Count);
}

/// Waits until everybody has been told and the server is gone, or long past its deadline. Says how it ended, and
/// after how many seconds, where a process was named.
fn watch(
    args: &Args,
    crew: &Crew<Members>,
    server: Option<Server>,
    began_ns: u64,
    progress: &Progress,
) -> Result<Option<(Ending, f64)>, Failure> {
    let mut ending = None;
    let longest = Duration::from_secs(args.seconds.into()) + PATIENCE_AFTER;
    crew.let_pass(progress, longest, |counts| {
        if let (None, Some(how)) = (ending, server.and_then(Server::ending)) {
            ending = Some((how, (clock::now_ns() - began_ns) as f64 / 1e9));
        }
        counts.open == 0 && (ending.is_some() || server.is_none())
    })?;
    Ok(ending)
}

/// When connections ended, and what they were told.
fn closes(args: &Args, members: &[Members], began_ns: u64, report: &mut Report) {
    let of = |seen: fn(&Members) -> &Vec<u64>| {
        let mut all: Vec<u64> = members.iter().flat_map(seen).copied().collect();
        all.sort_unstable();
        all
    };
    let ended_ns = of(|members| &members.seen.ended_ns);
    let mut retries_ms = of(|members| &members.seen.retries_ms);
    report.figure("closes", ended_ns.len() as f64, Unit::Count);
    report.figure("told_when_to_come_back", retries_ms.len() as f64, Unit::Count);
    if let (Some(least), Some(most)) = (retries_ms.first().copied(), retries_ms.last().copied()) {
        report.figure("retry_least", least as f64 / 1e3, Unit::Seconds);
        report.figure("retry_most", most as f64 / 1e3, Unit::Seconds);
    }
    let alike = retries_ms.chunk_by(|one, other| one == other).map(|chunk| chunk.len() - 1).max();
    let alike = alike.map(|alike| alike as f64 / retries_ms.len() as f64);
    report.check("max-alike", Some(args.max_alike), alike);
    retries_ms.dedup();
    report.figure("retry_values", retries_ms.len() as f64, Unit::Count);
    let spread = Spread::of(&ended_ns);
    if let Some(spread) = &spread {
        report.figure("first_close", (ended_ns[0].saturating_sub(began_ns)) as f64 / 1e9, Unit::Seconds);
        report.figure("closes_within", spread.seconds, Unit::Seconds);
        report.figure("closes_mean", spread.mean, Unit::PerSecond);
        report.figure("closes_most_in_a_second", spread.most as f64, Unit::Count);
    }
    report.check("max-close-ratio", Some(args.max_close_ratio), spread.map(|spread| spread.ratio()));
}

/// How the server ended: within the time it was given, and well where that can be seen.
fn ended(args: &Args, server: Option<Server>, ending: Option<(Ending, f64)>, report: &mut Report) {
    if server.is_none() {
        return;
    }
    let how = match ending {
        None => "never".to_owned(),
        Some((Ending::Gone, _)) => "gone, its status is with whoever started it".to_owned(),
        Some((Ending::Status(status), _)) => format!("status {status}"),
    };
    report.about("server_ended", how);
    if let Some((Ending::Status(status), _)) = ending {
        report.check("exit-status", Some(0.0), Some(f64::from(status)));
    }
    let after_s = ending.map(|(_, after_s)| after_s);
    report.maybe("server_gone_after", after_s, Unit::Seconds);
    report.check("gone-within", Some(f64::from(args.seconds) + GRACE_S), after_s);
}

/// How evenly closes are spread from the first to the last.
#[derive(Debug, PartialEq)]
struct Spread {
    seconds: f64,
    mean: f64,
    /// Closes within any second, wherever it begins.
    most: usize,
}

impl Spread {
    /// Of moments in order, ns; `None` without any.
    fn of(moments_ns: &[u64]) -> Option<Spread> {
        let (first, last) = (moments_ns.first()?, moments_ns.last()?);
        let seconds = ((last - first) as f64 / 1e9).max(1.0);
        let (mut most, mut begin) = (0, 0);
        for (at, moment_ns) in moments_ns.iter().enumerate() {
            while moment_ns - moments_ns[begin] >= 1_000_000_000 {
                begin += 1;
            }
            most = most.max(at + 1 - begin);
        }
        Some(Spread { seconds, mean: moments_ns.len() as f64 / seconds, most })
    }

    fn ratio(&self) -> f64 {
        self.most as f64 / self.mean
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_fullest_second_is_found_wherever_it_begins() {
        let even: Vec<u64> = (0..=100).map(|nth| nth * 100_000_000).collect();
        let spread = Spread::of(&even).unwrap();
        assert_eq!((spread.seconds, spread.most), (10.0, 10));
        assert!(spread.ratio() < 1.0);
        let heap = [0, 900_000_000, 1_100_000_000, 1_200_000_000, 1_850_000_000, 4_000_000_000];
        assert_eq!(Spread::of(&heap).unwrap().most, 4);
        assert_eq!(Spread::of(&[7]).unwrap().ratio(), 1.0);
        assert_eq!(Spread::of(&[]), None);
    }
}
