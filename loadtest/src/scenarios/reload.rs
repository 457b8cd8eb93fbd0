//! Reload: a server reads its configuration again and again, under connections and traffic; does anybody notice?
//!
//! Each time another value stands in the file, so that there is something to put in force. Every shard must
//! acknowledge in time, no connection may end, and no message may be lost or doubled. The file is written back as it
//! was at the end; comments are gone meanwhile. Refuses to judge the value: it must be one that the server takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::units::parse_duration;

use crate::api::Api;
use crate::args;
use crate::board::Phase;
use crate::clock;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::probe::Window;
use crate::progress::Progress;
use crate::report::{Report, Unit};
use crate::scenarios::rooms::{self, Filled, Members};
use crate::scenarios::{Shared, latencies, tell_harness};

/// How often it is asked which rules the shards obey.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Measures what reloads do to connections.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    rooms: rooms::Args,
    /// Reloads.
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Time between two of them.
    #[arg(long, value_parser = parse_duration, default_value = "500ms")]
    every: Duration,
    /// The configuration file the server was started with.
    #[arg(long)]
    config: PathBuf,
    /// An integer key that may change while the server runs.
    #[arg(long, default_value = "limits.connection.messages_per_second")]
    key: String,
    /// Its first value; each reload has the next one.
    #[arg(long, default_value_t = 5_001)]
    first_value: i64,
    /// Fail (status 1) when not all shards acknowledge a reload within this time.
    #[arg(long, value_parser = args::seconds, default_value = "1")]
    max_acknowledged: Duration,
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
/// The server is not there, or refuses a reload; faults of single connections are in the report.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let shared = &args.shared;
    let file = Rewritten::read(&args.config)?;
    let Filled { crew, progress, publisher, mut api, server, mut report } =
        args.rooms.fill("reload", shared, None)?;
    report.about("changed", args.key.clone());
    crew.set_phase(Phase::Measure);
    let window = Window::open(server, crew.board())?;
    let mut acknowledged = latencies();
    for (value, nth) in (args.first_value..).zip(1..=args.times) {
        progress.step(format!("reload {nth}"));
        file.set(&args.key, value)?;
        acknowledged.saturating_record(reload(&mut api, args, &crew, &progress)?);
        crew.let_pass(&progress, args.every, |_| false)?;
    }
    let usage = window.close(crew.board())?;
    let published = publisher.stop()?;
    crew.set_phase(Phase::Settle);
    // What was promised is awaited; what does not come is missing.
    crew.wait_until(&progress, shared.patience, |counts| {
        counts.received >= published.deliveries + counts.sent
    })?;
    let mut gathered = crew.finish(&progress)?;
    gathered.faults.merge(&published.faults);
    report.figure("closed_unexpectedly", gathered.counts.lost as f64, Unit::Count);
    report.figure("reloads", f64::from(args.times), Unit::Count);
    report.percentiles("acknowledged_by_all_shards", &acknowledged);
    rooms::account(&mut gathered, &published, false, &mut report);
    report.maybe("server_cpu", usage.server_cpu_s.map(|cpu| cpu / usage.seconds * 100.0), Unit::Percent);
    tell_harness(&mut report, "", &usage);
    let slowest_s = (args.times > 0).then(|| acknowledged.max() as f64 / 1e9);
    report.check("max-acknowledged", Some(args.max_acknowledged.as_secs_f64()), slowest_s);
    shared.conclude(&mut report, &gathered);
    Ok(report)
}

/// Reloads once; returns how long until the API said that every shard obeys the new rules, ns.
fn reload(api: &mut Api, args: &Args, crew: &Crew<Members>, progress: &Progress) -> Result<u64, Failure> {
    let began_ns = clock::now_ns();
    let answer = api.demand("POST", "/v1/reload")?;
    let json = answer.json();
    let changed = json["changed"].as_array().is_some_and(|changed| !changed.is_empty());
    let Some(number) = json["number"].as_u64().filter(|_| answer.status == 200 && changed) else {
        let said = answer.text();
        return Err(Failure::Server(format!(
            "reload answered with {}, nothing changed: {said}",
            answer.status
        )));
    };
    loop {
        let node = api.demand("GET", "/v1/node")?.json();
        let shards = node["rules"]["shards"].as_array();
        let obeys = |shard: &serde_json::Value| shard.as_u64() >= Some(number);
        if shards.is_some_and(|shards| !shards.is_empty() && shards.iter().all(obeys)) {
            return Ok(clock::now_ns() - began_ns);
        }
        if u128::from(clock::now_ns() - began_ns) > args.shared.patience.as_nanos() {
            return Err(Failure::Server(format!("rules {number} were never obeyed: {}", node["rules"])));
        }
        crew.let_pass(progress, LOOK_EVERY, |_| false)?;
    }
}

/// A TOML file that is written anew, and written back in the end.
struct Rewritten {
    path: PathBuf,
    text: String,
}

impl Rewritten {
    fn read(path: &Path) -> Result<Rewritten, Failure> {
        let doing = || Failure::machine(format!("reading {}", path.display()));
        Ok(Rewritten { path: path.to_owned(), text: fs::read_to_string(path).map_err(doing())? })
    }

    /// Writes the file as it was but for this key.
    fn set(&self, key: &str, value: i64) -> Result<(), Failure> {
        let text = with_value(&self.text, key, value)
            .map_err(|why| Failure::Asked(format!("{}: {why}", self.path.display())))?;
        fs::write(&self.path, text).map_err(Failure::machine(format!("writing {}", self.path.display())))
    }
}

impl Drop for Rewritten {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.text) {
            eprintln!("loadtest: {} was not written back: {error}", self.path.display());
        }
    }
}

/// A configuration with one key set, by its path with dots.
fn with_value(text: &str, key: &str, value: i64) -> Result<String, String> {
    let mut root: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut table = &mut root;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), toml::Value::Integer(value));
            break;
        }
        table = table
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{key}: {part} is no table"))?;
    }
    toml::to_string(&root).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_key_is_set_and_the_others_stay() {
        for text in ["[a]\nx = 1\n[a.b]\ny = 2\n", "[a]\nx = 1\n"] {
            let table: toml::Table = with_value(text, "a.b.y", 7).unwrap().parse().unwrap();
            assert_eq!(table["a"]["b"]["y"].as_integer(), Some(7));
            assert_eq!(table["a"]["x"].as_integer(), Some(1));
        }
        assert!(with_value("a = 1\n", "a.b", 7).unwrap_err().contains("a is no table"));
    }
}
