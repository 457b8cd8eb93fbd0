//! An app server of `deploy/examples` as a child process, with the tools that `make tools` has installed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An app server that runs for one test.
pub(crate) struct Example {
    child: Child,
    /// Its first line, by which it says that it is ready.
    said: String,
}

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The configuration of an example, a path below `deploy/examples`, with the address that is written there replaced.
#[track_caller]
pub(crate) fn example_configuration(name: &str, written: &str, actual: &str) -> String {
    let text = std::fs::read_to_string(root().join("deploy/examples").join(name)).unwrap();
    assert!(text.contains(written), "{name} has no {written}");
    text.replace(written, actual)
}

impl Example {
    /// Runs an example, a path below `deploy/examples`, and waits until it says something.
    #[track_caller]
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Self {
        let tools = root().join(".tools");
        let mut command = if script.ends_with(".py") {
            Command::new(tools.join("venv/bin/python"))
        } else {
            let mut node = Command::new("node");
            node.env("NODE_PATH", tools.join("examples/node_modules"));
            node
        };
        command.arg(root().join("deploy/examples").join(script)).args(arguments);
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("`make tools` installs what tests need");
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let example = Self { child, said };
        assert!(!example.said.is_empty(), "{script} ended without a word");
        example
    }

    /// Where it listens on 127.0.0.1, the last word of its first line.
    #[track_caller]
    pub(crate) fn port(&self) -> u16 {
        let port = self.said.trim().rsplit(' ').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("it said {:?} instead of its port", self.said))
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let status = super::eventually("the end of the example", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
