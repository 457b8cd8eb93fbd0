//! An app server of `deploy/examples` as a child process on a port of the kernel's choice, with the tools that `make
//! tools` has installed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An app server that runs for one test.
pub(crate) struct Example {
    child: Child,
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
}

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The configuration of an example, with its app server at this port.
pub(crate) fn example_configuration(name: &str, written: &str, port: u16) -> String {
    let text = std::fs::read_to_string(root().join("deploy/examples").join(name)).unwrap();
    assert!(text.contains(written), "{name} has no {written}");
    text.replace(written, &format!("127.0.0.1:{port}"))
}

impl Example {
    /// Runs an example, a path below `deploy/examples`; it says its port in its first line.
    #[track_caller]
    pub(crate) fn start(script: &str) -> Self {
        let tools = root().join(".tools");
        let mut command = if script.ends_with(".py") {
            Command::new(tools.join("venv/bin/python"))
        } else {
            let mut node = Command::new("node");
            node.env("NODE_PATH", tools.join("examples/node_modules"));
            node
        };
        command.arg(root().join("deploy/examples").join(script)).arg("127.0.0.1:0").stdout(Stdio::piped());
        let mut child = command.spawn().expect("`make tools` installs what tests need");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("{script} said {line:?} instead of its port"));
        Self { child, port }
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
