//! A redis-server of a test's own: on a port of its own, with a folder of its own, killed by its id.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backend::redis::Server;
use tempfile::TempDir;
use tokio::time::Instant;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    /// A server with these arguments beside its port and folder.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, arguments)
    }

    /// The same where files that the arguments name are already.
    pub(crate) fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Between finding a free port and taking it another process may have it; then the next one is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = spawn(port, folder.path(), &arguments);
            if listens(&mut child, port) {
                return Self { child, port, folder, arguments };
            }
        }
        panic!("no redis-server came up");
    }

    /// Kills it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it where it stands, or lets it go on.
    pub(crate) fn freeze(&self, freezes: bool) {
        let (signal, id) = (if freezes { "-STOP" } else { "-CONT" }, self.child.id().to_string());
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let status = format!("/proc/{id}/status");
        let stands = || std::fs::read_to_string(&status).unwrap().contains("State:\tT");
        while stands() != freezes {
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Starts it again on the same port, with the same folder.
    pub(crate) fn restart(&mut self) {
        let started = Instant::now();
        loop {
            self.child = spawn(self.port, self.folder.path(), &self.arguments);
            if listens(&mut self.child, self.port) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "it did not come up again");
        }
    }

    /// How a gateway finds it.
    pub(crate) fn server(&self) -> Server {
        Server {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            tls: None,
            database: 0,
            user: None,
            password_file: None,
        }
    }

    /// Cuts all connections but this one.
    pub(crate) async fn cut(&self, own: &mut redis::aio::MultiplexedConnection) {
        for kind in ["normal", "pubsub"] {
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", kind]).exec_async(own).await.unwrap();
        }
    }

    /// A connection for the test itself.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", self.port)).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &Path, arguments: &[String]) -> Child {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.tools/redis/redis-server");
    let program = if own.exists() { own.into_os_string() } else { "redis-server".into() };
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
    if !arguments.iter().any(|argument| argument == "--port") {
        command.args(["--port", &port.to_string()]);
    }
    let arguments = arguments.iter().map(|argument| argument.replace("{port}", &port.to_string()));
    command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("redis-server is needed: `make tools` installs what tests need")
}

/// Whether it comes up, rather than ending.
fn listens(child: &mut Child, port: u16) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::park_timeout(PAUSE);
    }
    false
}
