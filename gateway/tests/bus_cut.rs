//! Promise: a node that the network cuts off from the bus keeps its clients, the others never wait for it, it takes nobody for
//! lost, and afterwards all hear everything again, once. Makes network namespaces of its own, which end with it, and so needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{
    BusApp, BusKind, BusServer, Client, Gateway, Http, Metrics, NatsServer, PATIENCE, RedisServer, eventually,
};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use tungstenite::Message;

/// How long the node is cut off: longer than it takes to be lost.
const CUT: Duration = Duration::from_secs(10);
/// The same on request.
const LONG_CUT: Duration = Duration::from_secs(40);
/// After so many messages it is looked at how nodes see each other.
const LOOK_AFTER: u32 = 10;
/// Between two messages.
const PACE: Duration = Duration::from_millis(20);
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

/// The numbers that this sender said, each at most once and in order.
#[track_caller]
fn numbers_of(sender: &str, heard: &[String]) -> Vec<u32> {
    let number = |text: &String| text.strip_prefix(sender)?.trim().parse::<u32>().ok();
    let numbers: Vec<u32> = heard.iter().filter_map(number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{sender}: {heard:?}");
    numbers
}

#[test]
fn over_nats_a_node_that_is_cut_off_keeps_its_clients_and_nobody_waits_for_it() {
    cut_off(BusKind::Nats, CUT, false);
}

#[test]
fn over_redis_a_node_that_is_cut_off_keeps_its_clients_and_nobody_waits_for_it() {
    cut_off(BusKind::Redis, CUT, false);
}

#[test]
#[ignore = "a longer cut, on request"]
fn over_nats_the_same_holds_for_forty_seconds() {
    cut_off(BusKind::Nats, LONG_CUT, true);
}

#[test]
#[ignore = "a longer cut, on request"]
fn over_redis_the_same_holds_for_forty_seconds() {
    cut_off(BusKind::Redis, LONG_CUT, true);
}

/// Three nodes, of which c is behind cables of its own; two clients of c, and one of each other.
struct Scene {
    a: Gateway,
    b: Gateway,
    c: Gateway,
    on_a: Client,
    on_b: Client,
    on_c: Client,
    beside: Client,
    /// Whether the bus is there.
    up: &'static str,
    away: Network,
}

/// Numbers that everybody says while c is cut off.
struct Said {
    /// The first that c's clients said when it knew, and the last.
    from: u32,
    last: u32,
}

fn cut_off(kind: BusKind, lasts: Duration, is_asked_for: bool) {
    // Of this thread alone, and of the processes that it starts.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        assert!(!is_asked_for, "network namespaces need root: {error}");
        eprintln!("skipped, because network namespaces need root: {error}");
        return;
    }
    run(&["ip", "link", "set", "lo", "up"]);
    let away = Network::new();
    let (clients, bus) = (1, 2);
    away.cable(clients);
    away.cable(bus);
    let server = server(kind);
    let mut scene = Scene::new(&server, bus, away);
    let mut app = server.app();
    app.listen_to_nodes();
    let Scene { on_a, on_b, on_c, beside, .. } = &mut scene;
    reaches(on_a, &mut [on_b, on_c, beside], "before");
    // It has heard the other's first word already.
    reaches(on_b, &mut [on_a, on_c, beside], "and back");

    run(&["ip", "link", "set", &format!("here{bus}"), "down"]);
    let said = scene.talk(lasts);
    scene.each_side_lists_itself();
    run(&["ip", "link", "set", &format!("here{bus}"), "up"]);
    scene.is_whole_again(&said);
    assert_eq!(
        news(&mut app),
        [("lost", "c"), ("returned", "c")].map(|(event, node)| [event, node].map(str::to_owned))
    );
    for gateway in [scene.a, scene.b, scene.c] {
        gateway.stop();
    }
}

impl Scene {
    #[track_caller]
    fn new(server: &BusServer, bus: u8, away: Network) -> Self {
        let a = Gateway::start(&configuration("a", server, "127.0.0.1", "127.0.0.1"));
        let b = Gateway::start(&configuration("b", server, "127.0.0.1", "127.0.0.1"));
        let far = configuration("c", server, &format!("10.77.{bus}.1"), "10.77.1.2");
        let c = Gateway::start_in_network_of(&far, away.0.id());
        let (on_a, on_b) = (a.client("/room"), b.client("/room"));
        let (on_c, beside) = (c.client("/room"), c.client("/room"));
        let up = match server {
            BusServer::Nats(_) => "gateway_bus_up{bus=\"nats\"}",
            BusServer::Redis(_) => "gateway_bus_up{bus=\"redis\"}",
        };
        let scene = Self { a, b, c, on_a, on_b, on_c, beside, up, away };
        scene.all_are_known();
        scene
    }

    /// Where c is asked: it listens on its own loopback.
    fn http_of_c(&self) -> Http {
        let network = File::open(format!("/proc/{}/ns/net", self.away.0.id())).unwrap();
        let connect = || {
            // Of this thread alone, which ends with it.
            setns(&network, CloneFlags::CLONE_NEWNET).unwrap();
            self.c.http()
        };
        std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
    }

    #[track_caller]
    fn all_are_known(&self) {
        let knows_all = |http: &mut Http| Metrics::fetch(http).value("gateway_nodes") == 3.0;
        for mut http in [self.a.http(), self.b.http(), self.http_of_c()] {
            eventually("each knows all", || knows_all(&mut http).then_some(()));
        }
    }

    /// Everybody goes on while c is cut off, for so long at least and until the others have lost it.
    #[track_caller]
    fn talk(&mut self, lasts: Duration) -> Said {
        let (mut http_of_a, mut http_of_b, mut http_of_c) = (self.a.http(), self.b.http(), self.http_of_c());
        let (cut, mut longest, mut from, mut is_lost) = (Instant::now(), Duration::ZERO, None, false);
        let mut number: u32 = 0;
        while cut.elapsed() < lasts || !is_lost || from.is_none_or(|from| from == number) {
            assert!(cut.elapsed() < lasts + PATIENCE, "lost by the others: {is_lost}; c noticed: {from:?}");
            let said = Instant::now();
            self.on_a.say(&format!("a {number}"));
            self.on_b.hears(&format!("a {number}"));
            self.on_a.hears(&format!("a {number}"));
            longest = longest.max(said.elapsed());
            // The node goes on by itself, too.
            self.on_c.say(&format!("c {number}"));
            self.on_c.hears(&format!("c {number}"));
            self.beside.hears(&format!("c {number}"));
            number += 1;
            if number.is_multiple_of(LOOK_AFTER) {
                let [of_a, of_b] = [&mut http_of_a, &mut http_of_b].map(Metrics::fetch);
                let known = [&of_a, &of_b].map(|metrics| metrics.value("gateway_nodes"));
                assert!(known.iter().all(|known| [2.0, 3.0].contains(known)), "{known:?}");
                is_lost = known == [2.0, 2.0];
                let of_c = Metrics::fetch(&mut http_of_c);
                assert_eq!(of_c.value("gateway_nodes"), 3.0, "c lost somebody after {:?}", cut.elapsed());
                if from.is_none() && of_c.value(self.up) == 0.0 {
                    eprintln!("c noticed after {:?}", cut.elapsed());
                    from = Some(number);
                }
            }
            std::thread::park_timeout(PACE);
        }
        eprintln!("{number} messages from node to node beside one that was cut off: {longest:?} at most");
        assert!(longest < WAIT_MAX, "{longest:?}");
        Said { from: from.unwrap(), last: number - 1 }
    }

    #[track_caller]
    fn each_side_lists_itself(&self) {
        let Self { on_a, on_b, on_c, beside, .. } = self;
        for mut http in [self.a.http(), self.b.http()] {
            assert_eq!(list(&mut http), (ids([on_a, on_b]), names([])));
            http.call("GET", &format!("/v1/connections/{}", on_c.id)).problem(404, "gone");
            http.call("GET", &format!("/v1/connections/{}", on_b.id)).good(200);
        }
        let mut http = self.http_of_c();
        // It passes over one silent node a page.
        assert_eq!(list(&mut http), (ids([on_c, beside]), names(["a", "b"])));
        http.call("GET", &format!("/v1/connections/{}", on_a.id)).problem(503, "bus_away");
    }

    /// What was said when c knew that it was cut off has waited and comes once, in order. Then it is as before.
    #[track_caller]
    fn is_whole_again(&mut self, said: &Said) {
        let healed = Instant::now();
        self.all_are_known();
        for client in [&mut self.on_a, &mut self.on_b] {
            let heard = heard_until(client, &format!("c {}", said.last));
            let numbers = numbers_of("c", &heard);
            let waited: Vec<u32> = (said.from..=said.last).collect();
            assert!(numbers.ends_with(&waited), "{waited:?}: {numbers:?}");
            assert_eq!(numbers.len(), heard.len(), "nothing else was said: {heard:?}");
        }
        eprintln!("heard everywhere {:?} after the cut", healed.elapsed());
        let Self { on_a, on_b, on_c, beside, .. } = self;
        for heard in reaches(on_a, &mut [on_b, on_c, beside], "after") {
            // Of what was said to c while it was cut off some may come late, and nothing twice.
            assert_eq!(numbers_of("a", &heard).len(), heard.len(), "{heard:?}");
        }
        reaches(on_c, &mut [on_a, on_b, beside], "of c");
        for (client, text) in [(&mut *on_b, "b 0"), (&mut *on_c, "c 100000")] {
            client.say(text);
        }
        for client in [&mut *on_a, on_b, on_c, beside] {
            let mut both = [client.hear_text(), client.hear_text()];
            both.sort();
            assert_eq!(both, ["b 0", "c 100000"], "each once");
        }
        let all = ids([on_a, on_b, on_c, beside]);
        for mut http in [self.a.http(), self.b.http(), self.http_of_c()] {
            assert_eq!(list(&mut http), (all.clone(), names([])));
            for id in &all {
                http.call("GET", &format!("/v1/connections/{id}")).good(200);
            }
        }
    }
}

fn ids<const N: usize>(clients: [&Client; N]) -> BTreeSet<String> {
    clients.map(|client| client.id.clone()).into()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Walks through a list: the ids, each once, and who was silent.
#[track_caller]
fn list(http: &mut Http) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut ids, mut silent, mut token) = (BTreeSet::new(), BTreeSet::new(), String::new());
    loop {
        let page = http.call("GET", &format!("/v1/connections?page_size=100{token}")).good(200).json();
        for shown in page["connections"].as_array().unwrap() {
            assert!(ids.insert(shown["id"].as_str().unwrap().to_owned()), "{shown} twice");
        }
        silent
            .extend(page["silent"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return (ids, silent),
        }
    }
}

/// What app servers have heard of nodes: what became of whom, each news once, though several may have told it.
#[track_caller]
fn news(app: &mut BusApp) -> Vec<[String; 2]> {
    app.say(&["node"], b"the end");
    let (mut known, mut all) = (BTreeSet::new(), Vec::new());
    loop {
        let said = app.hear();
        if said == b"the end" {
            return all;
        }
        let said: Value = serde_json::from_slice(&said).unwrap();
        if known.insert(said["id"].as_str().unwrap().to_owned()) {
            all.push(["event", "node"].map(|field| said[field].as_str().unwrap().to_owned()));
        }
    }
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
