//! Promise: what a node delivers costs it hardly more when it came over NATS: at most 1.15 times the processor time of the
//! embedded bus, for ten thousand subscribers on two nodes, each of which gets each message once and in order. Prints what
//! it measured; means something in release build only.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::{Client, Gateway, NatsServer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

const SUBSCRIBERS: usize = 10_000;
const NODES: usize = 2;
const BATCHES: usize = 5;
/// Messages that are under way at once: few enough for the buffers of the sockets.
const BATCH: usize = 20;
const ROUNDS: usize = 5;
const RATIO_MAX: f64 = 1.15;

const ROUTES: &str = "
[[route]]
name = 'hears'
path = '/hears'
subscribe = ['room']
inbound = 'ignore'

[[route]]
name = 'says'
path = '/says'
inbound = { publish = 'room' }
";

/// Processor seconds that a process has taken.
fn processor_s(gateway: &Gateway) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    // Behind the name, which is in brackets: fields 14 and 15 of all are the time in the program and in the kernel.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64
}

/// Microseconds of processor time of both nodes for each delivery.
fn delivery_us(server: Option<&NatsServer>) -> f64 {
    let bus = server.map_or(String::new(), |server| {
        format!("[bus]\nkind = 'nats'\n[bus.nats]\nservers = ['{}']\n", server.url())
    });
    let node = |name| Gateway::start(&format!("[node]\nname = '{name}'\n{bus}{ROUTES}"));
    let nodes: [Gateway; NODES] = ["a", "b"].map(node);
    let mut hear: Vec<Client> =
        (0..SUBSCRIBERS).map(|number| nodes[number % NODES].client("/hears")).collect();
    for node in nodes.iter().filter(|_| server.is_some()) {
        node.until("the bus is there", |m| m.sum("gateway_bus_up") == 1.0);
        node.until("subscribed", |m| m.value("gateway_bus_subscriptions") == 1.0);
    }
    // Over NATS one publishes for all; else each node has somebody of its own.
    let speakers = if server.is_some() { 1 } else { NODES };
    let mut say: Vec<Client> = nodes.iter().take(speakers).map(|node| node.client("/says")).collect();
    let (mut number, mut before) = (0, 0.0);
    for batch in 0..=BATCHES {
        if batch == 1 {
            // The first one warms up.
            before = nodes.iter().map(processor_s).sum();
        }
        let texts: Vec<String> = (number..number + BATCH).map(|number| format!("{number:0128}")).collect();
        for text in &texts {
            say.iter_mut().for_each(|client| client.say(text));
        }
        for client in &mut hear {
            texts.iter().for_each(|text| client.hears(text));
        }
        number += BATCH;
    }
    let taken = nodes.iter().map(processor_s).sum::<f64>() - before;
    // Nothing came twice: the next thing that each hears is this.
    say.iter_mut().for_each(|client| client.say("end"));
    hear.iter_mut().for_each(|client| client.hears("end"));
    nodes.into_iter().for_each(Gateway::stop);
    taken * 1e6 / (SUBSCRIBERS * BATCH * BATCHES) as f64
}

#[test]
#[ignore = "release build, about two minutes: see the bars in loadtest/README.md"]
fn a_delivery_over_nats_costs_hardly_more_than_one_without_a_bus() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let server = NatsServer::start();
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (embedded, nats) = (delivery_us(None), delivery_us(Some(&server)));
        eprintln!("a delivery: {embedded:.3} µs embedded, {nats:.3} µs over NATS, {:.3}", nats / embedded);
        ratios.push(nats / embedded);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    eprintln!("median {median:.3} ({:.3}–{:.3})", ratios[0], ratios[ROUNDS - 1]);
    assert!(median <= RATIO_MAX, "{median:.3}");
}
