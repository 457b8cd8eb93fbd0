//! Stalls of a server, as an open loop must show them: what was meant for a window counts, though it is sent and answered
//! after its end.
//!
//! It owns those promises. The servers stall until nothing more comes, which is when the harness has reached its
//! bounds and waits; their threads end with the test.
#![allow(clippy::unwrap_used)]

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// A stall ends when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(500);

/// Connections as they come.
fn listen() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (came, streams) = sync_channel(1_024);
    thread::spawn(move || listener.incoming().all(|stream| came.send(stream.unwrap()).is_ok()));
    (address, streams)
}

/// Answers nothing until the first quiet, then everything. In a room everybody hears every message.
#[derive(Clone)]
struct Slow {
    messages: Arc<AtomicU64>,
    room: Option<Arc<Mutex<Vec<WebSocket<TcpStream>>>>>,
}

impl Slow {
    fn start(is_room: bool) -> (SocketAddr, Slow) {
        let (address, streams) = listen();
        let slow = Slow { messages: Arc::default(), room: is_room.then(Arc::default) };
        let served = slow.clone();
        thread::spawn(move || {
            for stream in streams {
                let slow = served.clone();
                thread::spawn(move || slow.serve(stream));
            }
        });
        (address, slow)
    }

    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let writer = stream.try_clone().unwrap();
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let mut own = WebSocket::from_raw_socket(writer.try_clone().unwrap(), Role::Server, None);
        if let Some(room) = &self.room {
            room.lock().unwrap().push(WebSocket::from_raw_socket(writer, Role::Server, None));
        }
        let mut answer = |message: Message| match &self.room {
            None => own.send(message).is_ok(),
            Some(room) => room.lock().unwrap().iter_mut().all(|one| one.send(message.clone()).is_ok()),
        };
        let mut held = Some(Vec::new());
        loop {
            match socket.read() {
                Ok(message) if message.is_text() => {
                    self.messages.fetch_add(1, Ordering::Relaxed);
                    if held.is_none() {
                        socket.get_ref().set_read_timeout(None).unwrap();
                    } else {
                        socket.get_ref().set_read_timeout(Some(QUIET)).unwrap();
                    }
                    match &mut held {
                        Some(held) => held.push(message),
                        None => drop(answer(message)),
                    }
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    for message in held.take().into_iter().flatten() {
                        answer(message);
                    }
                }
                Ok(message) if message.is_close() => drop(socket.flush()),
                Ok(_) => {}
                // The other ends of this stream are still about.
                Err(_) => return drop(socket.get_ref().shutdown(Shutdown::Both)),
            }
        }
    }
}

/// Lets nobody in until the first quiet, then everybody.
fn slow_to_let_in() -> SocketAddr {
    let (address, streams) = listen();
    thread::spawn(move || {
        let mut held = vec![streams.recv().unwrap()];
        while let Ok(stream) = streams.recv_timeout(QUIET) {
            held.push(stream);
        }
        let mut inside = Vec::new();
        for stream in held.into_iter().chain(streams) {
            inside.push(tungstenite::accept(stream));
        }
    });
    address
}

fn load(server: SocketAddr, arguments: &str) -> Value {
    let output = Command::new("timeout")
        .args(["120", env!("CARGO_BIN_EXE_loadtest")])
        .args(arguments.split_whitespace())
        .args(["--url", &format!("ws://{server}/rooms/bench"), "--json", "-", "--max-errors", "0"])
        .output()
        .unwrap();
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    report["timeline"].take();
    assert!(output.status.success(), "{arguments}: {report:#} {}", String::from_utf8_lossy(&output.stderr));
    report
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[test]
fn messages_that_a_stall_held_back_are_sent_after_the_window_and_counted_in_it() {
    let (address, server) = Slow::start(false);
    let report = load(address, "echo --connections 2 --rate 1000 --seconds 300ms --warm-up 0s");
    let meant = figure(&report, "latency_messages_meant");
    // Sixteen of a connection are under way at once: those alone came without going on.
    assert!(meant > 100.0, "{report:#}");
    assert!(server.messages.load(Ordering::Relaxed) as f64 >= meant, "{report:#}");
    assert_eq!(figure(&report, "latency_messages_not_sent"), 0.0);
    assert!(figure(&report, "latency_p50_us") > 100_000.0, "{report:#}");
}

#[test]
fn publications_that_a_stall_held_back_are_sent_after_the_window_and_counted_in_it() {
    let (address, server) = Slow::start(true);
    let open = "--connections 1 --open-rate 10000 --seconds 300ms --warm-up 0s";
    let report = load(address, &format!("fanout {open}"));
    // So many are under way at once.
    assert!(server.messages.load(Ordering::Relaxed) > 1_100, "{report:#}");
    assert_eq!(figure(&report, "messages_not_sent"), 0.0);
    assert!(figure(&report, "time_to_last_subscriber_p50_us") > 100_000.0, "{report:#}");
}

#[test]
fn comings_that_are_answered_after_the_window_count_in_it() {
    let report = load(
        slow_to_let_in(),
        "churn --idle 0 --rate 300 --stay 10ms --farewell reset --seconds 300ms --warm-up 0s",
    );
    assert_eq!(figure(&report, "comings_not_begun"), 0.0);
    assert!(figure(&report, "latency_p50_us") > 100_000.0, "{report:#}");
}

#[test]
fn handshakes_that_are_answered_after_the_window_count_in_it() {
    let report =
        load(slow_to_let_in(), "handshake --concurrency 4 --seconds 300ms --warm-up 0s --farewell reset");
    assert!(figure(&report, "latency_p50_us") > 100_000.0, "{report:#}");
}
