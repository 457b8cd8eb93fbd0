//! Servers that the gateway works with, as child processes on ports of their own: started, killed and started again by
//! a test, and killed by their ids when it ends. They come out of the distribution's packages (`make tools`).

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::eventually;

/// A `nats-server`.
pub(crate) struct NatsServer {
    child: Option<Child>,
    /// Where it listens, on loopback.
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl NatsServer {
    /// One without JetStream.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One that keeps streams in a folder of its own.
    #[track_caller]
    pub(crate) fn start_with_jetstream() -> Self {
        Self::start_with(&["-js"])
    }

    /// One with further arguments.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { child: None, port, folder, arguments };
        server.run();
        server
    }

    /// One that reads this configuration.
    #[track_caller]
    pub(crate) fn configured(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = vec!["-c".to_owned(), folder.path().join("nats.conf").display().to_string()];
        let mut server = Self { child: None, port: free_port(), folder, arguments };
        server.configure(text);
        server.run();
        server
    }

    /// Writes another configuration, for the next start.
    #[track_caller]
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    /// Starts it (again) on the same port and with the same files.
    #[track_caller]
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        // Where `make tools` puts it, unless there is one anyhow.
        let unpacked = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/nats-server"));
        let mut command = Command::new(if unpacked.exists() { unpacked } else { Path::new("nats-server") });
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.folder.path());
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("nats-server, which `make tools` gets");
        self.child = Some(child);
        let port = self.port;
        eventually("nats-server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Kills it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it where it stands: its sockets stay open, and nobody reads them.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`NatsServer::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    }

    /// Its address for a configuration.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of loopback that nobody listens on, and that the kernel gives to nobody else before this process ends: whoever
/// asks for it may listen there, end and begin again.
#[track_caller]
pub(crate) fn free_port() -> u16 {
    let held = TcpSocket::new_v4().unwrap();
    // Two sockets may share a port as long as both say so and only one listens.
    held.set_reuseaddr(true).unwrap();
    held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = held.local_addr().unwrap().port();
    // Never closed.
    let _ = held.into_raw_fd();
    port
}
