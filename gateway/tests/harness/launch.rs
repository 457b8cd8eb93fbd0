//! The gateway as a child process: started from a configuration of its own on ports of its own, stopped by signal,
//! and killed by its id when a test fails.

use std::fs::DirEntry;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Client, Http, Metrics, PATIENCE, Raw, eventually};

/// Lines of standard output that a test may leave unread.
const LINES_MAX: usize = 64;

/// A gateway that runs for one test.
pub(crate) struct Gateway {
    child: Child,
    /// Where WebSocket clients connect.
    pub(crate) ws: SocketAddr,
    /// Where the three HTTP roles are, unless the configuration says otherwise.
    pub(crate) http: SocketAddr,
    /// Where gRPC is, if the configuration has it.
    pub(crate) grpc: Option<SocketAddr>,
    log: Arc<Mutex<String>>,
    logging: Option<JoinHandle<()>>,
    folder: TempDir,
}

/// What a run that ended by itself left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) said: String,
    /// Standard error.
    pub(crate) complained: String,
}

/// The program, without whatever this process's environment would configure.
pub(crate) fn program() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_gateway")))
}

/// The same under a hard limit of descriptors.
pub(crate) fn program_with_descriptors(limit: u32) -> Command {
    let mut command = clean(Command::new("sh"));
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_gateway")]);
    command
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GATEWAY__") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Finished {
    /// Runs the program with a configuration that it does not start with.
    #[track_caller]
    pub(crate) fn refused(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = program();
        command.arg("--config").arg(&file);
        for key in ["LISTEN", "HTTP"] {
            command.env(format!("GATEWAY__{key}__ADDRESS"), "127.0.0.1:0");
        }
        let finished = Self::of(command);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        finished
    }

    /// Runs a command that ends by itself.
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = drain(child.stdout.take().unwrap());
        let complained = drain(child.stderr.take().unwrap());
        let status = exit(&mut child);
        Self { code: status.code(), said: said.join().unwrap(), complained: complained.join().unwrap() }
    }
}

/// Waits for the end of a process, and kills one that does not end.
#[track_caller]
fn exit(child: &mut Child) -> ExitStatus {
    let started = std::time::Instant::now();
    eventually("the end of the program", || {
        if started.elapsed() > PATIENCE * 4 / 5 {
            let _ = child.kill();
        }
        child.try_wait().unwrap()
    })
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    })
}

impl Gateway {
    /// A gateway with this configuration (TOML). Ports are the kernel's choice; two shards and a short drain
    /// unless the text has those sections.
    #[track_caller]
    pub(crate) fn start(text: &str) -> Self {
        Self::launch(text, program())
    }

    /// The same, told where its service manager listens.
    #[track_caller]
    pub(crate) fn start_as_service(text: &str, socket: &std::path::Path) -> Self {
        let mut command = program();
        command.env("NOTIFY_SOCKET", socket);
        Self::launch(text, command)
    }

    /// The same under a hard limit of descriptors.
    #[track_caller]
    pub(crate) fn start_with_descriptors(text: &str, limit: u32) -> Self {
        Self::launch(text, program_with_descriptors(limit))
    }

    /// The same, with the network that another process has.
    #[track_caller]
    pub(crate) fn start_in_network_of(text: &str, process: u32) -> Self {
        let mut command = clean(Command::new("nsenter"));
        command.arg(format!("--net=/proc/{process}/ns/net")).arg(env!("CARGO_BIN_EXE_gateway"));
        Self::launch(text, command)
    }

    fn launch(text: &str, mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        command.arg("--config").arg(&file);
        for (section, key, value) in [
            ("[listen]", "GATEWAY__LISTEN__ADDRESS", "127.0.0.1:0"),
            ("[http]", "GATEWAY__HTTP__ADDRESS", "127.0.0.1:0"),
            ("[shards]", "GATEWAY__SHARDS__COUNT", "2"),
            ("[drain]", "GATEWAY__DRAIN__DEADLINE", "300ms"),
            ("[node]", "GATEWAY__NODE__NAME", "test"),
        ] {
            if !text.contains(section) {
                command.env(key, value);
            }
        }
        let mut child = command.spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let logging = collect(child.stderr.take().unwrap(), Arc::clone(&log));
        let lines = lines(child.stdout.take().unwrap());
        let first = lines.recv_timeout(PATIENCE);
        let Some((ws, http, grpc)) = first.as_deref().ok().and_then(addresses) else {
            let _ = child.kill();
            let _ = logging.join();
            panic!("the gateway did not start: {first:?}\n{}", log.lock().unwrap());
        };
        Self { child, ws, http, grpc, log, logging: Some(logging), folder }
    }

    /// A WebSocket client on this path.
    #[track_caller]
    pub(crate) fn client(&self, path: &str) -> Client {
        Client::connect(self.ws, path, &[]).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Clients on this path, of which at least one is on either of the first two shards. The kernel chooses.
    #[track_caller]
    pub(crate) fn clients_on_two_shards(&self, path: &str) -> (Client, Client) {
        let first = self.client(path);
        let mut same = Vec::new();
        let second = eventually("a connection on the other shard", || {
            let other = self.client(path);
            if other.shard() == first.shard() {
                same.push(other);
                return None;
            }
            Some(other)
        });
        for client in same {
            client.leave();
        }
        (first, second)
    }

    /// A connection that has not said anything yet.
    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(self.ws)
    }

    /// A connection that has been upgraded on this path, to be spoken to in frames.
    #[track_caller]
    pub(crate) fn upgraded(&self, path: &str) -> Raw {
        let mut raw = self.raw();
        raw.upgrade(path);
        raw
    }

    /// An HTTP connection to the three roles.
    pub(crate) fn http(&self) -> Http {
        Http::connect(self.http)
    }

    /// What `/metrics` shows now.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::fetch(&mut self.http())
    }

    /// Waits until the metrics are like this.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Metrics {
        let mut http = self.http();
        let mut last = Metrics::fetch(&mut http);
        let started = std::time::Instant::now();
        while !holds(&last) {
            assert!(started.elapsed() < PATIENCE, "never happened: {what}\n{last}\n{}", self.log());
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            last = Metrics::fetch(&mut http);
        }
        last
    }

    /// Waits until there are only so many connections left, and nothing is held for any that was.
    #[track_caller]
    pub(crate) fn until_only(&self, connections: u64) -> Metrics {
        self.until(&format!("only {connections} connections left, at rest"), |metrics| {
            metrics.value("gateway_connections") == connections as f64 && metrics.is_at_rest()
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes another configuration to where it reads it.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("gateway.toml"), text).unwrap();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Stops all its threads where they are, and comes back when the last one stands still.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.child.id());
        let stands = |thread: std::io::Result<DirEntry>| {
            // One that has ended meanwhile has no state any more. It stands behind the name, which is in brackets.
            std::fs::read_to_string(thread.unwrap().path().join("stat"))
                .map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('T'))
        };
        eventually("all threads stand still", || {
            std::fs::read_dir(&threads).unwrap().all(stands).then_some(())
        });
    }

    /// Lets it go on after [`Gateway::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged a line that contains all of these, and gives the line.
    #[track_caller]
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        eventually(&format!("a log line with {parts:?}"), || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// Waits for its end. The exit code, and everything it had written to standard error.
    #[track_caller]
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let code = exit(&mut self.child).code();
        self.logging.take().unwrap().join().unwrap();
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        (code, log)
    }

    /// Stops it as a service manager does, and expects a good end.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGTERM);
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads `listening ws=ADDRESS http=ADDRESS`, and ` grpc=ADDRESS` behind it.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr, Option<SocketAddr>)> {
    let (ws, rest) = line.strip_prefix("listening ws=")?.split_once(" http=")?;
    let (http, grpc) = rest.split_once(" grpc=").map_or((rest, None), |(http, grpc)| (http, Some(grpc)));
    Some((ws.parse().ok()?, http.parse().ok()?, grpc.and_then(|grpc| grpc.parse().ok())))
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Who does not read on wants no more of them, but the pipe must not fill.
            let _ = sender.try_send(line);
        }
    });
    lines
}

fn collect(pipe: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut log = into.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    })
}
