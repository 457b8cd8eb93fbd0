//! A TOML file with scenarios, their options and thresholds, run one after the other.
//!
//! It owns the shape of the file: each key is an option of the command line with `_` for `-`, so that there is
//! one list of options and one place where they are checked. It refuses to run anything of a file with a
//! mistake in it. Called by `main` as `loadtest run FILE`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use toml::{Table, Value};

use crate::failure::Failure;
use crate::peer::{Peer, Running};
use crate::report::Report;
use crate::{Command, Program, measure};

/// What stands for the address and the process id of the server that the file asks for, in options.
const ADDRESS: &str = "{server}";

/// What a file may hold.
const KEYS: [&str; 4] = ["peer", "environment", "defaults", "scenario"];

/// Runs the scenarios of a file.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The file, see loadtest/README.md.
    file: PathBuf,
    /// Folder with one script per peer, for a file that names one as its server.
    #[arg(long, default_value = "loadtest/peers")]
    peers: PathBuf,
}

/// Runs every scenario of the file and appends the reports in their order, those before a failure too.
///
/// # Errors
/// The file is wrong, its server does not start, or a scenario cannot be run.
pub(crate) fn run(args: &Args, reports: &mut Vec<Report>) -> Result<(), Failure> {
    let name = args.file.display();
    let text = fs::read_to_string(&args.file).map_err(Failure::machine(name.to_string()))?;
    let wrong = |what: String| Failure::Asked(format!("{name}: {what}"));
    let file: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    // Everything is looked at before a server is started; the address it will have is not known yet.
    commands(&file, "127.0.0.1:1", 1).map_err(wrong)?;
    let server = start(&file, &args.peers, wrong)?;
    let (address, pid) =
        server.as_ref().map_or((String::new(), 0), |server| (server.address(), server.pid()));
    for command in commands(&file, &address, pid).map_err(wrong)? {
        let (report, json) = measure(&command)?;
        report.publish(json)?;
        reports.push(report);
    }
    Ok(())
}

/// The server that the file names, if it does: it ends with the value.
fn start(file: &Table, folder: &Path, wrong: impl Fn(String) -> Failure) -> Result<Option<Running>, Failure> {
    let Some(name) = file.get("peer") else { return Ok(None) };
    let name = name.as_str().ok_or_else(|| wrong("peer: expected a name".into()))?;
    let variables = environment(file).map_err(&wrong)?;
    // What it will be asked for differs from scenario to scenario; echo is what all of them can do.
    Peer::find(folder, name)?.start("echo", &variables).map(Some)
}

/// What the file says of the environment of its server.
fn environment(file: &Table) -> Result<Vec<(&str, String)>, String> {
    let Some(variables) = file.get("environment") else { return Ok(Vec::new()) };
    if !file.contains_key("peer") {
        return Err("environment: it is that of a peer, and there is none".into());
    }
    let variables = variables.as_table().ok_or("environment: expected a table")?;
    let mut all = Vec::new();
    for (name, value) in variables {
        let value = value.as_str().ok_or_else(|| format!("environment: {name}: expected a text"))?;
        all.push((name.as_str(), value.to_owned()));
    }
    Ok(all)
}

/// The scenarios of a file as commands.
fn commands(file: &Table, address: &str, pid: u32) -> Result<Vec<Command>, String> {
    if let Some(key) = file.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("{key}: expected peer, [environment], [defaults] or [[scenario]]"));
    }
    environment(file)?;
    let none = Table::new();
    let defaults = match file.get("defaults") {
        None => &none,
        Some(defaults) => defaults.as_table().ok_or("defaults: expected a table")?,
    };
    let scenarios = file.get("scenario").and_then(Value::as_array).ok_or("expected [[scenario]]")?;
    let one = |(number, scenario): (usize, &Value)| {
        let scenario = scenario.as_table().ok_or("scenario: expected [[scenario]]")?;
        let mut options = defaults.clone();
        options.extend(scenario.clone());
        if file.contains_key("peer") {
            options.entry("server_pid").or_insert(Value::Integer(i64::from(pid)));
        }
        command(&options, address).map_err(|what| format!("scenario {}: {what}", number + 1))
    };
    scenarios.iter().enumerate().map(one).collect()
}

/// One scenario as the command line that it stands for.
fn command(options: &Table, address: &str) -> Result<Command, String> {
    let name = options.get("run").and_then(Value::as_str).ok_or("run: expected the name of a scenario")?;
    let mut line = vec!["loadtest".to_owned(), name.to_owned()];
    for (key, value) in options.iter().filter(|(key, _)| *key != "run") {
        let option = format!("--{}", key.replace('_', "-"));
        match value {
            Value::Boolean(false) => {}
            Value::Boolean(true) => line.push(option),
            Value::String(text) => line.push(format!("{option}={}", text.replace(ADDRESS, address))),
            Value::Integer(number) => line.push(format!("{option}={number}")),
            Value::Float(number) => line.push(format!("{option}={number}")),
            _ => return Err(format!("{key}: expected a number, a text, or true")),
        }
    }
    let program = Program::try_parse_from(line).map_err(|error| error.to_string().trim_end().to_owned())?;
    match program.command {
        Command::Run(_) | Command::Floor(_) | Command::Backend(_) | Command::Record(_) => {
            Err(format!("{name}: not a scenario"))
        }
        _ if program.html.is_some() => Err("html: give --html to `loadtest run`, for all together".into()),
        command => Ok(command),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Vec<Command>, String> {
        commands(&text.parse().unwrap(), "127.0.0.1:9", 7)
    }

    #[test]
    fn keys_are_options_and_defaults_are_for_all() {
        let text = "peer = 'ours'\n[defaults]\nurl = 'ws://{server}/x'\n[[scenario]]\nrun = 'echo'\nclosed = true\n\
                    max_p99_us = 2.5\n[[scenario]]\nrun = 'hold'\nurl = 'ws://{server}/y'\nconnections = 12\n";
        let commands = read(text).unwrap();
        let shown = format!("{commands:?}");
        assert_eq!(commands.len(), 2);
        for part in ["ws://127.0.0.1:9/x", "ws://127.0.0.1:9/y", "Some(2.5)", "closed: true", "Some(7)"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn the_environment_of_the_server_is_part_of_the_file() {
        let file: Table = include_str!("../scale/stream.toml").parse().unwrap();
        assert_eq!(environment(&file), Ok(vec![("SHARDS", "4".to_owned())]));
        assert_eq!(commands(&file, "127.0.0.1:9", 7).unwrap().len(), 2);
    }

    #[test]
    fn a_mistake_is_named_with_its_scenario() {
        for (text, what) in [
            (
                "[[scenario]]\nrun = 'echo'\nconections = 3\n",
                "scenario 1: error: unexpected argument '--conections'",
            ),
            ("[[scenario]]\nrun = 'echo'\n[[scenario]]\nrun = 'ecko'\n", "scenario 2: error: unrecognized"),
            ("[[scenario]]\nconnections = 3\n", "run: expected"),
            ("[[scenario]]\nrun = 'floor'\nmode = 'echo'\n", "not a scenario"),
            ("[[scenario]]\nrun = 'backend'\n", "not a scenario"),
            (
                "[[scenario]]\nrun = 'echo'\n[[scenario]]\nrun = 'echo'\nrate = 0\n",
                "scenario 2: error: invalid value '0'",
            ),
            ("[[scenario]]\nrun = 'hold'\nconnections = 0\n", "0 is not in 1"),
            ("[[scenario]]\nrun = 'fanout'\nsize = '2MiB'\n", "at most 1048576 bytes"),
            ("[[scenario]]\nrun = 'echo'\nhtml = 'x'\n", "for all together"),
            ("environment = { A = '1' }\n[[scenario]]\nrun = 'echo'\n", "that of a peer"),
            ("peer = 'ours'\n[environment]\nA = 1\n[[scenario]]\nrun = 'echo'\n", "A: expected a text"),
            ("[[scenario]]\nrun = 'echo'\nsize = [1]\n", "size: expected"),
            ("scenarios = 1\n", "scenarios: expected"),
            ("peer = 'ours'\n", "expected [[scenario]]"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(what), "{text}: {said}");
        }
    }
}
