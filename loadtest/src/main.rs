//! The load harness: opens WebSocket connections on loopback, checks everything that comes back, and says
//! what it cost the server. It owns the command line and the exit status; it refuses any other machine than
//! this one.
//!
//! Exit status: 0 done and all thresholds kept, 1 a threshold broken, 2 the run could not be done.

#![forbid(unsafe_code)]
// The report on standard output is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod app;
mod args;
mod board;
mod buckets;
mod child;
mod client;
mod clock;
mod compare;
mod crew;
mod failure;
mod fault;
mod floor;
mod frames;
mod html;
mod machine;
mod pace;
mod payload;
mod peer;
mod plot;
mod priority;
mod probe;
mod processors;
mod progress;
mod proto;
mod ramp;
mod report;
mod results;
mod rounds;
mod scenario_file;
mod scenarios;
mod sequence;
mod sockets;
mod span;
mod spread;
mod target;
mod timeline;
mod traffic;
mod upgrade;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;
use crate::report::Report;
use crate::scenarios::{
    churn, drain, echo, fanout, flood, grpc, handshake, hold, loris, mixed, reload, roundtrip, scale, slow,
    storm, vanish,
};

/// Loads a WebSocket server on loopback and says what it cost.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Program {
    #[command(subcommand)]
    command: Command,
    /// Write the report with plots as one HTML file.
    #[arg(long, global = true)]
    html: Option<PathBuf>,
}

/// One command for each scenario.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Hold idle connections: memory and CPU per connection.
    Hold(hold::Args),
    /// Send messages that come back: CPU per message, latency.
    Echo(echo::Args),
    /// Publish to a room: CPU per delivery, time to the last subscriber.
    Fanout(fanout::Args),
    /// Connect, upgrade, close: CPU per handshake.
    Handshake(handshake::Args),
    /// Come and go at a rate while others idle: cost of a coming, growth of memory.
    Churn(churn::Args),
    /// Cut all connections at once and bring all back: time, refusals, memory.
    Storm(storm::Args),
    /// Echo with and without many idle connections beside it: what the idle ones take away.
    Mixed(mixed::Args),
    /// Hold very many: memory, heartbeats, echo beside them, a broadcast to all, against a reference.
    Scale(scale::Args),
    /// Publish to subscribers that stopped reading: memory, and what those get who read.
    Slow(slow::Args),
    /// Fall silent without a word: when does the server notice, and does it leave the others alone?
    Vanish(vanish::Args),
    /// One peer floods while others echo: is it held to its limit, and what do the others notice?
    Flood(flood::Args),
    /// Send heads and frames by the byte: memory, and what those notice who are served.
    Loris(loris::Args),
    /// Drain a server under connections and traffic: how evenly, and who was lost on the way.
    Drain(drain::Args),
    /// Reload a server's configuration again and again under connections and traffic.
    Reload(reload::Args),
    /// Play a client of an app server over gRPC: its CPU per message on one stream.
    Grpc(grpc::Args),
    /// Through the gateway to an app server and back: its CPU against that of a bare echo and a bare gRPC client.
    Roundtrip(roundtrip::Args),
    /// Run the scenarios of a TOML file, one after the other.
    Run(scenario_file::Args),
    /// Compare servers in rounds of runs, in changing order.
    Compare(compare::Args),
    /// Put the reports of finished runs into RESULTS.md.
    Record(results::Args),
    /// Be the physical limit: a server that does the system calls and nothing else.
    Floor(floor::Args),
    /// Be an app server over gRPC that sends every message back, and print what it was told at the end.
    Backend(app::Args),
}

fn main() -> ExitCode {
    match run(&Program::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; `false` when a threshold was broken.
fn run(program: &Program) -> Result<bool, Failure> {
    let mut reports = Vec::new();
    let done = match &program.command {
        Command::Floor(args) => return floor::run(args).map(|()| true),
        Command::Backend(args) => return app::run(args),
        Command::Record(args) => return results::run(args).map(|()| true),
        Command::Run(args) => scenario_file::run(args, &mut reports),
        command => alone(command, &mut reports),
    };
    // What was measured before a failure is worth reading too.
    let page = program.html.as_ref().filter(|_| !reports.is_empty());
    let written = page.map_or(Ok(()), |path| write_page(path, &reports));
    done.and(written)?;
    Ok(reports.iter().all(Report::holds))
}

/// Runs one scenario, and publishes and appends its report.
fn alone(command: &Command, reports: &mut Vec<Report>) -> Result<(), Failure> {
    let (report, json) = measure(command)?;
    report.publish(json)?;
    reports.push(report);
    Ok(())
}

/// Runs one scenario; its report, and where that goes as JSON.
fn measure(command: &Command) -> Result<(Report, Option<&Path>), Failure> {
    Ok(match command {
        Command::Hold(args) => (hold::run(args)?, args.json()),
        Command::Echo(args) => (echo::run(args)?, args.json()),
        Command::Fanout(args) => (fanout::run(args)?, args.json()),
        Command::Handshake(args) => (handshake::run(args)?, args.json()),
        Command::Churn(args) => (churn::run(args)?, args.json()),
        Command::Storm(args) => (storm::run(args)?, args.json()),
        Command::Mixed(args) => (mixed::run(args)?, args.json()),
        Command::Scale(args) => (scale::run(args)?, args.json()),
        Command::Flood(args) => (flood::run(args)?, args.json()),
        Command::Compare(args) => (compare::run(args)?, args.json()),
        Command::Slow(args) => (slow::run(args)?, args.json()),
        Command::Vanish(args) => (vanish::run(args)?, args.json()),
        Command::Loris(args) => (loris::run(args)?, args.json()),
        Command::Drain(args) => (drain::run(args)?, args.json()),
        Command::Reload(args) => (reload::run(args)?, args.json()),
        Command::Roundtrip(args) => (roundtrip::run(args)?, args.json()),
        Command::Grpc(args) => (grpc::run(args)?, args.json()),
        Command::Floor(_) | Command::Backend(_) | Command::Record(_) | Command::Run(_) => {
            return Err(Failure::Asked("neither a server nor `record` nor `run` is a scenario".into()));
        }
    })
}

/// Writes reports as one page.
fn write_page(path: &Path, reports: &[Report]) -> Result<(), Failure> {
    fs::write(path, html::page(reports)).map_err(Failure::machine(format!("writing {}", path.display())))
}
