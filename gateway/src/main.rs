//! The gateway: arguments in, exit code out. What runs is built in [`app`].
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever started it")]

mod admin;
mod answers;
mod api;
mod app;
mod backends;
mod bus;
mod cluster;
mod doctor;
mod endings;
mod exhausted;
mod grpc;
mod in_force;
mod lifecycle;
mod limited;
mod limits;
mod listener;
mod logging;
mod memory;
mod metrics;
mod node;
mod recent;
mod reload;
mod rules;
mod service;
mod shards;
mod signals;
mod upstreams;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use config::Settings;

/// The connection tier in front of app servers: holds WebSocket connections, moves their messages.
///
/// Without arguments it runs on its built-in defaults and prints where to connect. Environment variables override
/// keys: GATEWAY__LIMITS__CONNECTIONS=50000 is `connections` in `[limits]`.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Configuration file (TOML); without one, the built-in defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Report every mistake in a configuration file, and the environment, at once
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Print the configuration that would be in force: file, environment, defaults
    Config {
        /// The file to read; without one, only environment and defaults
        file: Option<PathBuf>,
        /// Print the documented reference: every key with its default, unit and reason
        #[arg(long, conflicts_with = "file")]
        defaults: bool,
    },
    /// Say what fits on this machine, and the line that mends each shortfall; status 1 when something does not fit
    Doctor {
        /// Configuration file (TOML); without one, the built-in defaults
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Connections of all nodes together; without it, those of the configuration
        #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u64).range(1..=PLAN_MAX))]
        plan: Option<u64>,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// Most connections that can be planned for: a hundred for everybody.
const PLAN_MAX: u64 = 1_000_000_000_000;

/// Exit codes beside 0: 1 is a failure while running, 2 a wrong argument or configuration.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Check { file }) => match load(Some(&file)) {
            Ok(settings) => match rules::rules(&settings) {
                Ok(_) => say(&format!("{}: good\n", file.display())),
                Err(mistake) => refuse(&mistake),
            },
            Err(mistakes) => refuse(&mistakes),
        },
        Some(Command::Config { defaults: true, .. }) => say(config::reference()),
        Some(Command::Config { file, .. }) => match load(file.as_deref()) {
            Ok(settings) => say(&settings.to_toml()),
            Err(mistakes) => refuse(&mistakes),
        },
        Some(Command::Doctor { config, plan, json }) => match load(config.as_deref()) {
            Ok(settings) => examine(&settings, plan, json),
            Err(mistakes) => refuse(&mistakes),
        },
        None => match load(arguments.config.as_deref()) {
            Ok(settings) => app::run(&settings, arguments.config),
            Err(mistakes) => refuse(&mistakes),
        },
    }
}

/// Says what fits on this machine.
fn examine(settings: &Settings, plan: Option<u64>, json: bool) -> ExitCode {
    let report = doctor::examine(settings, plan);
    let said = say(&if json { report.json() } else { report.table() });
    if report.is_good() { said } else { ExitCode::FAILURE }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn say(what: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(what.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn refuse(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::from(WRONG)
}

/// Reads the configuration, or says everything that is wrong with it, a line each.
fn load(file: Option<&Path>) -> Result<Settings, String> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| format!("{}: cannot read the configuration: {error}", file.display()))?,
        None => String::new(),
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    config::load(&text, variables).map_err(|mistakes| {
        let name = file.map_or_else(String::new, |file| format!("{}: ", file.display()));
        let mut lines: Vec<String> = mistakes.iter().map(|mistake| format!("{name}{mistake}")).collect();
        let count = mistakes.len();
        lines.push(format!("{count} mistake{}; nothing was started", if count == 1 { "" } else { "s" }));
        lines.join("\n")
    })
}
