//! Servers that the harness starts itself: a peer is a script beside the others that becomes the server by
//! `exec`.
//!
//! It owns the agreement with those scripts, starting, waiting until the server accepts, and ending it. It
//! refuses to know the servers: `NAME.sh about` says in two lines what it is and which scenarios it can do,
//! `NAME.sh PORT SCENARIO` serves. Used by `compare` and by scenario files.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::args;
use crate::clock;
use crate::failure::Failure;

/// How long a server may take until it accepts.
const START_WITHIN: Duration = Duration::from_secs(15);

/// A server that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its name, which is that of its script.
    pub(crate) name: String,
    /// What it calls itself, with versions.
    pub(crate) version: String,
    script: PathBuf,
    scenarios: Vec<String>,
}

impl Peer {
    /// The peer of this name among the scripts in `folder`.
    ///
    /// # Errors
    /// There is no such script, or it says that its server is not installed.
    pub(crate) fn find(folder: &Path, name: &str) -> Result<Peer, Failure> {
        let script = folder.join(format!("{name}.sh"));
        let script = script.canonicalize().map_err(Failure::machine(script.display().to_string()))?;
        let output = Command::new(&script)
            .arg("about")
            .env("LOADTEST", harness()?)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(Failure::machine(script.display().to_string()))?;
        if !output.status.success() {
            return Err(Failure::Server(format!("{name} cannot be compared: see above")));
        }
        let about = String::from_utf8_lossy(&output.stdout).into_owned();
        let (version, scenarios) = read_about(&about)
            .ok_or_else(|| Failure::Server(format!("{name}.sh about says no version and scenarios")))?;
        Ok(Peer { name: name.to_owned(), version, script, scenarios })
    }

    /// One that cannot be started.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Peer {
        let version = format!("{name} 1.0");
        Peer { name: name.to_owned(), version, script: PathBuf::new(), scenarios: Vec::new() }
    }

    /// Whether it can do this scenario.
    pub(crate) fn can(&self, scenario: &str) -> bool {
        self.scenarios.iter().any(|other| other == scenario)
    }

    /// Starts it on a free port, with these variables in its environment; it accepts when this returns.
    ///
    /// # Errors
    /// It does not start, or does not accept in time.
    pub(crate) fn start(&self, scenario: &str, variables: &[(&str, String)]) -> Result<Running, Failure> {
        let port = free_port().map_err(Failure::machine("a free port"))?;
        let folder = std::env::temp_dir().join(format!("loadtest-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(Failure::machine(folder.display().to_string()))?;
        let server = Command::new(&self.script)
            .args([&port.to_string(), scenario])
            .env("LOADTEST", harness()?)
            .env("TMPDIR", &folder)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let server = server.map_err(Failure::machine(self.script.display().to_string()));
        let mut running = match server {
            Ok(process) => Running { process, port, folder },
            Err(failure) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(failure);
            }
        };
        running.wait_until_it_accepts(&self.name)?;
        Ok(running)
    }
}

/// This program, for children.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn harness() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::machine("finding this program"))
}

/// The two lines of `about`: version, scenarios.
fn read_about(text: &str) -> Option<(String, Vec<String>)> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let version = lines.next()?.to_owned();
    let scenarios = lines.next()?.split_whitespace().map(str::to_owned).collect();
    Some((version, scenarios))
}

/// A server that ends with this value, and leaves no files behind.
pub(crate) struct Running {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Running {
    /// Where it listens, as address and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn wait_until_it_accepts(&mut self, peer: &str) -> Result<(), Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let end_ns = clock::now_ns() + args::ns(START_WITHIN);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.process.try_wait().map_err(Failure::machine(peer))? {
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
        // It may have ended by itself; either way it must be reaped. Its files are of no use to anybody.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_says_its_version_and_what_it_can_do() {
        let about = read_about("Some Server 1.2\necho fanout\n");
        assert_eq!(about, Some(("Some Server 1.2".to_owned(), vec!["echo".to_owned(), "fanout".to_owned()])));
        assert_eq!(read_about("Some Server 1.2\n"), None);
    }
}
