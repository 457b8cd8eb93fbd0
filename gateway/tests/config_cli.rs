//! Promise: whoever starts the program wrongly is told everything that is wrong, with its place and the way out, and
//! nothing is started by halves.
#![allow(clippy::unwrap_used)]

mod harness;

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use harness::{Client, Finished, Gateway, program};

/// Runs the program with these arguments and variables until it ends.
#[track_caller]
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
    let mut command = program();
    command.args(arguments).envs(variables.iter().copied());
    Finished::of(command)
}

/// A file with this text, in a folder that goes with the test.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    (folder, path)
}

const WRONG: &str = "\
[limits]
connections = 0
hanshakes = 10

[heartbeat]
interval = '25'

[[route]]
name = 'Rooms'
path = '/rooms/{room}'
subscribe = ['room.{rom}']
inbound = 'shout'
";

#[test]
fn check_reports_every_mistake_with_its_line() {
    let (_folder, path) = file(WRONG);
    let checked = run(&["check", &path], &[("GATEWAY__DRAIN__DEADLINE", "soon")]);
    assert_eq!((checked.code, checked.said.as_str()), (Some(2), ""));
    let lines: Vec<&str> = checked.complained.lines().collect();
    for (line, key) in [
        (2, "limits.connections"),
        (3, "limits.hanshakes"),
        (6, "heartbeat.interval"),
        (9, "route[0].name"),
        (11, "route[0].subscribe"),
        (12, "route[0].inbound"),
    ] {
        let start = format!("{path}: line {line}: {key}");
        let mistake = lines.iter().find(|mistake| mistake.starts_with(&start));
        let mistake = mistake.unwrap_or_else(|| panic!("no {start} in {}", checked.complained));
        assert!(mistake.contains("found ") && mistake.contains("expected "), "{mistake}");
    }
    assert!(checked.complained.contains("environment GATEWAY__DRAIN__DEADLINE: "), "{}", checked.complained);
    assert!(checked.complained.contains("handshakes"), "the key that was meant");
    assert_eq!(lines.last(), Some(&"7 mistakes; nothing was started"));
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_named() {
    let (_folder, path) = file("[limits\nconnections = 3\n");
    let checked = run(&["check", &path], &[]);
    assert_eq!(checked.code, Some(2));
    assert!(checked.complained.starts_with(&format!("{path}: line 1: ")), "{}", checked.complained);
    let missing = run(&["--config", "/nowhere/gateway.toml"], &[]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.complained.starts_with("/nowhere/gateway.toml: cannot read"), "{}", missing.complained);
    assert_eq!(run(&["--confg", "x"], &[]).code, Some(2));
}

#[test]
fn the_defaults_are_the_documented_reference_and_good() {
    let printed = run(&["config", "--defaults"], &[]);
    assert_eq!(printed.code, Some(0), "{}", printed.complained);
    let (_folder, path) = file(&printed.said);
    let checked = run(&["check", &path], &[]);
    assert_eq!((checked.code, checked.said), (Some(0), format!("{path}: good\n")), "{}", checked.complained);
    // What the reference says is what holds without it.
    assert_eq!(run(&["config", &path], &[]).said, run(&["config"], &[]).said);
}

#[test]
fn what_is_in_force_can_be_printed_and_used_again() {
    let (_folder, path) =
        file("[limits]\nconnections = 17\n[[route]]\nname = 'a'\npath = '/a'\ninbound = 'ignore'\n");
    let effective = run(&["config", &path], &[("GATEWAY__HEARTBEAT__INTERVAL", "7s")]);
    assert_eq!(effective.code, Some(0), "{}", effective.complained);
    let text = &effective.said;
    assert!(text.contains("connections = 17") && text.contains("interval = \"7s\""), "{text}");
    assert!(text.contains("\"/a\"") && !text.contains("/echo"), "{text}");
    let (_again, path) = file(text);
    assert_eq!(run(&["config", &path], &[]).said, *text);
}

/// A port that was free a moment ago, of an address that nobody else here uses.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts on these addresses, expects a refusal that says this, and that nothing was announced or left behind.
#[track_caller]
fn refuses(text: &str, ws: SocketAddr, http: SocketAddr, expected: &[&str]) {
    let (_folder, path) = file(text);
    let (ws, http) = (ws.to_string(), http.to_string());
    let variables = [("GATEWAY__LISTEN__ADDRESS", ws.as_str()), ("GATEWAY__HTTP__ADDRESS", http.as_str())];
    let finished = run(&["--config", &path], &variables);
    assert_eq!((finished.code, finished.said.as_str()), (Some(2), ""), "{}", finished.complained);
    for part in expected {
        assert!(finished.complained.contains(part), "no {part:?} in {}", finished.complained);
    }
    assert!(!finished.complained.contains("panicked"), "{}", finished.complained);
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let (ws, http) = (free_address(), free_address());
    refuses(WRONG, ws, http, &["6 mistakes; nothing was started"]);
    refuses("[api]\naddress = '0.0.0.0:0'\n", ws, http, &["api.tokens_file"]);
    refuses("[api]\ntokens_file = '/nowhere/tokens'\n", ws, http, &["/nowhere/tokens: cannot read"]);
    let (_folder, tokens) = file("short publish\n");
    refuses(&format!("[api]\ntokens_file = '{tokens}'\n"), ws, http, &[&tokens, "line 1", "16 to 512"]);
    for address in [ws, http] {
        TcpListener::bind(address).expect("the port is still free");
    }
}

#[test]
fn an_address_that_is_taken_is_told_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let free = free_address();
    let shown = address.to_string();
    refuses(
        "",
        address,
        free,
        &["listen.address", &shown, "is taken", "ss -ltnp", "GATEWAY__LISTEN__ADDRESS="],
    );
    refuses("", free, address, &["cannot listen on", &shown, "GATEWAY__HTTP__ADDRESS="]);
    let own = "[shards]\nown_descriptors = true\n";
    refuses(own, address, free, &["listen.address", &shown, "is taken"]);
}

#[test]
fn a_second_gateway_does_not_take_half_of_the_first_ones_clients() {
    let gateway = Gateway::start("");
    refuses("", gateway.ws, free_address(), &["is taken"]);
    for _ in 0..8 {
        gateway.client("/echo").echoes("all mine");
    }
    gateway.stop();
}

#[test]
fn connections_that_do_not_fit_are_told_with_the_way_out() {
    let (ws, http) = (free_address(), free_address());
    let expected =
        ["limits.connections is 90000000", "ulimit -Hn ", "LimitNOFILE=", "own_descriptors = true"];
    refuses("[limits]\nconnections = 90000000\n", ws, http, &expected);
}

#[test]
fn a_reader_that_left_does_not_end_the_program() {
    let (ws, http) = (free_address(), free_address());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program();
    command.env("GATEWAY__LISTEN__ADDRESS", ws.to_string()).env("GATEWAY__HTTP__ADDRESS", http.to_string());
    let mut child = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    let served = harness::eventually("it serves, or has ended", || match child.try_wait().unwrap() {
        Some(status) => Some(Err(status)),
        None => Client::connect(ws, "/echo", &[]).ok().map(Ok),
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(served.is_ok(), "{:?}", served.err());
}

#[test]
fn what_is_printed_may_be_read_in_part_but_not_be_lost() {
    let print = |to: Stdio| {
        let mut child =
            program().args(["config", "--defaults"]).stdout(to).stderr(Stdio::null()).spawn().unwrap();
        child.wait().unwrap().code()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(print(writer.into()), Some(0));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(print(full.into()), Some(1));
}

#[test]
fn help_and_version_are_there() {
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for word in ["--config", "check", "config"] {
        assert!(help.said.contains(word), "{}", help.said);
    }
    let version = run(&["--version"], &[]);
    assert_eq!(version.said.trim_end(), format!("gateway {}", env!("CARGO_PKG_VERSION")));
}
