//! The app server as a child of the harness, so that it can be killed, told to go and started again.
//!
//! It owns starting, both ways of ending, and reading what it says. It refuses to know what is measured. Used by the
//! scenarios that need an app server.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::failure::Failure;
use crate::peer;

/// An app server. It is killed (`kill -9`) with this value, if it has not been told to go before.
pub(crate) struct AppServer {
    process: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddrV4,
}

impl AppServer {
    /// Starts one at this address (port 0: a free one), with further options of `loadtest backend`; it listens when this
    /// returns.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(listen: SocketAddrV4, options: &[String]) -> Result<AppServer, Failure> {
        let failed = || Failure::machine(format!("an app server on {listen}"));
        let mut process = Command::new(peer::harness()?)
            .arg("backend")
            .arg(listen.to_string())
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        let output = process.stdout.take().ok_or_else(|| failed()(std::io::ErrorKind::BrokenPipe.into()))?;
        let mut server = AppServer { process, output: BufReader::new(output), address: listen };
        let mut line = String::new();
        server.output.read_line(&mut line).map_err(failed())?;
        let address = line.trim().strip_prefix("listening grpc=").and_then(|address| address.parse().ok());
        server.address =
            address.ok_or_else(|| Failure::Server(format!("no app server on {listen}: see above")))?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Tells it to go, waits until it has gone, and returns what it was told.
    ///
    /// # Errors
    /// It ends in any other way than by itself.
    pub(crate) fn leave(mut self) -> Result<Value, Failure> {
        let failed = || Failure::machine("ending an app server");
        let process = Pid::from_raw(self.process.id().cast_signed());
        kill(process, Signal::SIGTERM).map_err(|errno| failed()(errno.into()))?;
        let mut text = String::new();
        self.output.read_to_string(&mut text).map_err(failed())?;
        self.process.wait().map_err(failed())?;
        serde_json::from_str(&text).map_err(|error| failed()(error.into()))
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it must be reaped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
