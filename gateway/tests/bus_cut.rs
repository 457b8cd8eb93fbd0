//! Promise: a node that the network cuts off from the bus keeps its clients, the others never wait for it, and afterwards all
//! hear everything again, once. Makes network namespaces of its own, which end with it, and so needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{BusKind, BusServer, Client, Gateway, NatsServer, PATIENCE, RedisServer, eventually};
use nix::sched::{CloneFlags, unshare};
use tungstenite::Message;

/// How long the node is cut off.
const CUT: Duration = Duration::from_secs(10);
/// Longest time from one node to the other while the third is cut off. A turn on a busy machine, and not a timeout.
const WAIT_MAX: Duration = Duration::from_secs(2);

const ROUTES: &str = "
[[route]]
name = 'room'
path = '/room'
subscribe = ['room']
inbound = { publish = 'room' }
";

/// A network of its own for as long as it lives.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "600"]).stdin(Stdio::null());
        let network = Self(command.spawn().unwrap());
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", network.0.id());
        eventually("the namespace is there", || {
            std::fs::read_link(&theirs).is_ok_and(|theirs| theirs != ours).then_some(())
        });
        network
    }

    /// A cable between this thread's network and that one: 10.77.NUMBER.1 here, 10.77.NUMBER.2 there.
    fn cable(&self, number: u8) {
        let process = self.0.id().to_string();
        let (here, there) = (format!("here{number}"), format!("there{number}"));
        run(&["ip", "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &process]);
        run(&["ip", "address", "add", &format!("10.77.{number}.1/24"), "dev", &here]);
        run(&["ip", "link", "set", &here, "up"]);
        let inside = ["nsenter", "-t", &process, "--net"];
        run(&[&inside[..], &["ip", "address", "add", &format!("10.77.{number}.2/24"), "dev", &there]]
            .concat());
        run(&[&inside[..], &["ip", "link", "set", &there, "up"]].concat());
        run(&[&inside[..], &["ip", "link", "set", "lo", "up"]].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
}

/// A server that every address of this network leads to.
fn server(kind: BusKind) -> BusServer {
    match kind {
        BusKind::Nats => BusServer::Nats(NatsServer::start_with(&["-a", "0.0.0.0"])),
        BusKind::Redis => {
            let arguments = ["--bind", "0.0.0.0", "--protected-mode", "no"];
            BusServer::Redis(RedisServer::start_with(&arguments))
        }
    }
}

fn configuration(name: &str, server: &BusServer, address: &str, listen: &str) -> String {
    let port = server.port();
    let bus = match server {
        BusServer::Nats(_) => format!("kind = 'nats'\n[bus.nats]\nservers = ['nats://{address}:{port}']"),
        BusServer::Redis(_) => format!("kind = 'redis'\n[bus.redis]\nserver = 'redis://{address}:{port}'"),
    };
    format!("[node]\nname = '{name}'\n[listen]\naddress = '{listen}:0'\n[bus]\n{bus}\n{ROUTES}")
}

/// What a client has heard until it hears this.
#[track_caller]
fn heard_until(client: &mut Client, last: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        heard.push(client.hear_text());
        if heard.last().is_some_and(|text| text == last) {
            return heard;
        }
    }
}

/// From each sender everything at most once and in order.
#[track_caller]
fn is_consistent(heard: &[String]) {
    for sender in ["a", "b", "c"] {
        let numbers = heard.iter().filter_map(|text| text.strip_prefix(sender)?.trim().parse::<u32>().ok());
        assert!(numbers.is_sorted_by(|one, next| one < next), "{sender}: {heard:?}");
    }
}

#[test]
fn over_nats_a_node_that_is_cut_off_keeps_its_clients_and_nobody_waits_for_it() {
    cut_off(BusKind::Nats);
}

#[test]
fn over_redis_a_node_that_is_cut_off_keeps_its_clients_and_nobody_waits_for_it() {
    cut_off(BusKind::Redis);
}

fn cut_off(kind: BusKind) {
    // Of this thread alone, and of the processes that it starts.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("skipped, because network namespaces need root: {error}");
        return;
    }
    run(&["ip", "link", "set", "lo", "up"]);
    let away = Network::new();
    let (clients, bus) = (1, 2);
    away.cable(clients);
    away.cable(bus);
    let server = server(kind);
    let a = Gateway::start(&configuration("a", &server, "127.0.0.1", "127.0.0.1"));
    let b = Gateway::start(&configuration("b", &server, "127.0.0.1", "127.0.0.1"));
    let far = format!("10.77.{bus}.1");
    let c = Gateway::start_in_network_of(&configuration("c", &server, &far, "10.77.1.2"), away.0.id());
    let (mut on_a, mut on_b) = (a.client("/room"), b.client("/room"));
    let (mut on_c, mut beside) = (c.client("/room"), c.client("/room"));
    reaches(&mut on_a, &mut [&mut on_b, &mut on_c, &mut beside], "before");

    run(&["ip", "link", "set", &format!("here{bus}"), "down"]);
    let (cut, mut longest, mut number) = (Instant::now(), Duration::ZERO, 0);
    while cut.elapsed() < CUT {
        let said = Instant::now();
        on_a.say(&format!("a {number}"));
        on_b.hears(&format!("a {number}"));
        on_a.hears(&format!("a {number}"));
        longest = longest.max(said.elapsed());
        // The node goes on by itself, too.
        on_c.say(&format!("c {number}"));
        on_c.hears(&format!("c {number}"));
        beside.hears(&format!("c {number}"));
        number += 1;
        std::thread::park_timeout(Duration::from_millis(20));
    }
    eprintln!("{number} messages from node to node beside one that was cut off: {longest:?} at most");
    assert!(longest < WAIT_MAX, "{longest:?}");
    run(&["ip", "link", "set", &format!("here{bus}"), "up"]);
    let healed = Instant::now();
    let late = reaches(&mut on_a, &mut [&mut on_b, &mut on_c, &mut beside], "after");
    eprintln!("heard everywhere {:?} after the cut", healed.elapsed());
    reaches(&mut on_c, &mut [&mut on_a, &mut on_b, &mut beside], "of c");
    for heard in &late {
        is_consistent(heard);
    }
    for (client, text) in [(&mut on_b, "b 0"), (&mut on_c, "c 100000")] {
        client.say(text);
    }
    for client in [&mut on_a, &mut on_b, &mut on_c, &mut beside] {
        let mut both = [client.hear_text(), client.hear_text()];
        both.sort();
        assert_eq!(both, ["b 0", "c 100000"], "each once");
    }
    a.stop();
    b.stop();
    c.stop();
}

/// Says this with a number until all others have heard it, and then that this is the end. What else they heard.
#[track_caller]
fn reaches(speaker: &mut Client, others: &mut [&mut Client], word: &str) -> Vec<Vec<String>> {
    let mut heard: Vec<Vec<String>> = vec![Vec::new(); others.len()];
    let mut said = 0;
    eventually("all hear each other", || {
        speaker.say(&format!("{word} {said}"));
        said += 1;
        for (other, heard) in others.iter_mut().zip(&mut heard) {
            listen(other, heard);
        }
        heard.iter().all(|heard| heard.iter().any(|text| text.starts_with(word))).then_some(())
    });
    let last = format!("{word} end");
    speaker.say(&last);
    heard_until(speaker, &last);
    for (other, heard) in others.iter_mut().zip(&mut heard) {
        heard.extend(heard_until(other, &last));
        heard.retain(|text| !text.starts_with(word));
    }
    heard
}

/// Hears what comes within a moment.
#[track_caller]
fn listen(client: &mut Client, heard: &mut Vec<String>) {
    client.socket.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    loop {
        match client.socket.read() {
            Ok(Message::Text(text)) => heard.push(text.as_str().to_owned()),
            Ok(Message::Ping(_)) => {}
            Ok(other) => panic!("{}: {other:?}", client.id),
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{}: {error}", client.id),
        }
    }
    client.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
}
