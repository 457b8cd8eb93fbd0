//! The load harness: opens WebSocket connections on loopback, checks everything that comes back, and says
//! what it cost the server. It owns the command line and the exit status; it refuses any other machine than
//! this one.
//!
//! Exit status: 0 done and all thresholds kept, 1 a threshold broken, 2 the run could not be done.

#![forbid(unsafe_code)]
// The report on standard output is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod board;
mod client;
mod clock;
mod compare;
mod crew;
mod failure;
mod fault;
mod floor;
mod frames;
mod payload;
mod probe;
mod progress;
mod ramp;
mod report;
mod scenarios;
mod sequence;
mod sockets;
mod target;
mod upgrade;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;
use crate::scenarios::{echo, fanout, handshake, hold};

/// Loads a WebSocket server on loopback and says what it cost.
#[derive(Debug, Parser)]
#[command(version, about)]
enum Command {
    /// Hold idle connections: memory and CPU per connection.
    Hold(hold::Args),
    /// Send messages that come back: CPU per message, latency.
    Echo(echo::Args),
    /// Publish to a room: CPU per delivery, time to the last subscriber.
    Fanout(fanout::Args),
    /// Connect, upgrade, close: CPU per handshake.
    Handshake(handshake::Args),
    /// Compare two servers in alternating pairs of runs.
    Compare(compare::Args),
    /// Be the physical limit: a server that does the system calls and nothing else.
    Floor(floor::Args),
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; `false` when a threshold was broken.
fn run(command: &Command) -> Result<bool, Failure> {
    let (report, json) = match command {
        Command::Hold(args) => (hold::run(args)?, args.json()),
        Command::Echo(args) => (echo::run(args)?, args.json()),
        Command::Fanout(args) => (fanout::run(args)?, args.json()),
        Command::Handshake(args) => (handshake::run(args)?, args.json()),
        Command::Compare(args) => (compare::run(args)?, args.json()),
        Command::Floor(args) => return floor::run(args).map(|()| true),
    };
    report.publish(json)?;
    Ok(report.holds())
}
