//! Drain and reload as their users start them, against a server with rooms and an API, which can be told to do wrong.
//!
//! It owns the promises of these scenarios: what is counted, which wrongs are caught, exit status.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The tenth message reaches one member less than it says.
    LosesOne,
    /// The tenth message reaches everybody twice.
    Doubles,
    /// Goodbyes do not say when to come back.
    NoRetry,
    /// One connection is cut where a message is due.
    CutsOne,
    /// No shard ever obeys a reload.
    Disobeys,
}

/// A server of two shards, as far as its API says; its threads end with the test.
struct Server {
    wrong: Wrong,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: Vec<(String, TcpStream)>,
    published: u32,
    told: u32,
    draining: bool,
    rules: u32,
}

fn start(wrong: Wrong) -> [SocketAddr; 2] {
    let server = Arc::new(Server { wrong, state: Mutex::default() });
    [false, true].map(|api| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (server.clone(), stream.unwrap());
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || if api { server.calls(&stream) } else { server.member(&stream) });
            }
        });
        address
    })
}

impl Server {
    /// Lets somebody into the room of its path, or sends back what comes to any other.
    #[expect(clippy::result_large_err, reason = "the library's own answer")]
    fn member(&self, stream: &TcpStream) {
        let mut path = String::new();
        // Held until the answer has left and the member is in: one that is let in misses nothing.
        let mut state = self.state.lock().unwrap();
        let look = |request: &Request, answer: Response| {
            path = request.uri().path().to_owned();
            if state.draining {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = tungstenite::http::StatusCode::SERVICE_UNAVAILABLE;
                return Err(refusal);
            }
            Ok(answer)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream.try_clone().unwrap(), look) else { return };
        state.members.push((path, stream.try_clone().unwrap()));
        drop(state);
        while let Ok(message) = socket.read() {
            if message.is_close() {
                break;
            }
            // Frames of several threads do not mix, and nothing follows a goodbye.
            let state = self.state.lock().unwrap();
            if message.is_binary() && !state.draining {
                (&mut &*stream).write_all(&frame(2, &message.into_data())).unwrap();
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    fn calls(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut field = String::new();
                reader.read_line(&mut field).unwrap();
                if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if field.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let (status, json) = self.call(&path, &body);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{json}", json.len());
            if (&mut &*stream).write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn call(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut state = self.state.lock().unwrap();
        if let Some(room) = path.strip_prefix("/v1/channels/") {
            let room = room.strip_suffix("/messages").unwrap();
            let reached = self.publish(&mut state, &format!("/rooms/{room}"), body);
            return (202, format!(r#"{{"subscribers":{reached},"dropped":0}}"#));
        }
        match path {
            "/v1/drain?seconds=1" => {
                state.draining = true;
                self.tell_to_go(&mut state);
                (202, "{}".into())
            }
            "/v1/reload" => {
                state.rules += 1;
                (200, format!(r#"{{"number":{},"changed":[{{"key":"x"}}]}}"#, state.rules))
            }
            "/v1/node" => {
                let late = if self.wrong == Wrong::Disobeys { 0 } else { state.rules };
                (200, format!(r#"{{"rules":{{"shards":[{},{late}]}}}}"#, state.rules))
            }
            _ => (404, "{}".into()),
        }
    }

    /// Everybody who is here, each with another time to come back.
    fn tell_to_go(&self, state: &mut State) {
        for (_, mut member) in state.members.drain(..) {
            state.told += 1;
            let mut goodbye = 1001_u16.to_be_bytes().to_vec();
            if self.wrong != Wrong::NoRetry {
                goodbye.extend_from_slice(format!(r#"{{"retry_ms":{}}}"#, state.told).as_bytes());
            }
            let _ = member.write_all(&frame(8, &goodbye));
        }
    }

    fn publish(&self, state: &mut State, room: &str, body: &[u8]) -> usize {
        state.published += 1;
        let tenth = state.published == 10;
        let mut reached = 0;
        for (path, member) in &mut state.members {
            if path != room {
                continue;
            }
            reached += 1;
            let times = match self.wrong {
                Wrong::LosesOne if tenth && reached == 1 => 0,
                Wrong::Doubles if tenth => 2,
                Wrong::CutsOne if tenth && reached == 1 => {
                    member.shutdown(std::net::Shutdown::Both).unwrap();
                    0
                }
                _ => 1,
            };
            for _ in 0..times {
                // Who has gone gets nothing, and the harness has said so by then.
                let _ = member.write_all(&frame(2, body));
            }
        }
        reached
    }
}

/// A frame as servers send them: not masked.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => bytes.push(length),
        _ => {
            bytes.push(126);
            bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn load(scenario: &str, [server, api]: [SocketAddr; 2], arguments: &str) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([scenario, "--url", &format!("ws://{server}/echo"), "--api", &format!("http://{api}")])
        .args("--path /rooms/{r} --publish /v1/channels/{r}/messages --rooms 3 --echoers 4".split(' '))
        .args("--connections 20 --publish-rate 200 --echo-rate 200 --json - --max-errors 0".split(' '))
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, report)
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// All are told at once, and within one second that is even.
const DRAIN: &str = "--seconds 1 --before 300ms --connect-rate 50 --max-alike 0 --threads 2";

#[test]
fn everybody_is_told_to_go_and_has_what_was_accepted() {
    let (output, report) = load("drain", start(Wrong::Nothing), DRAIN);
    assert!(output.status.success(), "{report:#}{output:?}");
    assert_eq!(figure(&report, "connected"), 20.0);
    let newcomers = figure(&report, "newcomers") - figure(&report, "newcomers_answered_with_503");
    assert_eq!(figure(&report, "closes"), 20.0 + newcomers);
    assert_eq!(figure(&report, "retry_values"), 20.0 + newcomers);
    assert!(figure(&report, "deliveries_promised") > 0.0);
    assert_eq!(figure(&report, "deliveries_promised"), figure(&report, "deliveries_received"));
    assert!(figure(&report, "echoes") > 0.0);
}

#[test]
fn a_goodbye_without_a_time_to_come_back_is_caught() {
    let (output, report) = load("drain", start(Wrong::NoRetry), DRAIN);
    assert_eq!(output.status.code(), Some(1), "{report:#}{output:?}");
    assert!(report["errors"]["told to go without a time to come back"].as_u64() >= Some(20), "{report:#}");
}

#[test]
fn a_message_that_was_accepted_and_lost_in_a_drain_is_caught() {
    let (output, report) = load("drain", start(Wrong::LosesOne), DRAIN);
    assert_eq!(output.status.code(), Some(1), "{report:#}{output:?}");
    assert_eq!(figure(&report, "deliveries_missing"), 1.0, "{report:#}");
}

/// Runs `reload` with a configuration of one key, which must be as it was afterwards.
fn reload(name: &str, wrong: Wrong) -> (Output, Value) {
    let file = std::env::temp_dir().join(format!("loadtest-reload-{name}-{}.toml", std::process::id()));
    let text = "# kept\n[limits.connection]\nmessages_per_second = 7\n";
    std::fs::write(&file, text).unwrap();
    // Who waits for something that never comes does not wait long; all others as long as a busy machine takes.
    let patience = if wrong == Wrong::Disobeys { "500ms" } else { "2s" };
    let arguments = format!("--times 3 --every 50ms --before 100ms --patience {patience}");
    let (output, report) = load("reload", start(wrong), &format!("{arguments} --config {}", file.display()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    std::fs::remove_file(&file).unwrap();
    (output, report)
}

#[test]
fn reloads_are_timed_until_every_shard_obeys_and_nobody_misses_anything() {
    let (output, report) = reload("well", Wrong::Nothing);
    assert!(output.status.success(), "{report:#}{output:?}");
    assert_eq!(figure(&report, "reloads"), 3.0);
    assert_eq!(figure(&report, "closed_unexpectedly"), 0.0);
    assert!(figure(&report, "acknowledged_by_all_shards_max_us") > 0.0);
    assert!(figure(&report, "deliveries_promised") > 0.0);
    assert!(figure(&report, "echoes") > 0.0);
}

#[test]
fn a_message_lost_or_doubled_or_a_connection_cut_by_a_reload_is_caught() {
    for (wrong, error) in [
        (Wrong::LosesOne, "message missing in a sequence"),
        (Wrong::Doubles, "message delivered twice"),
        (Wrong::CutsOne, "stream ended without a close frame"),
    ] {
        let (output, report) = reload(&format!("{wrong:?}"), wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?} {report:#}{output:?}");
        assert!(report["errors"][error].as_u64() > Some(0), "{wrong:?} {report:#}");
    }
}

#[test]
fn a_shard_that_never_obeys_ends_the_run() {
    let (output, _) = reload("late", Wrong::Disobeys);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("never obeyed"), "{output:?}");
}
