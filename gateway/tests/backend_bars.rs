//! Promise: what is said of backends holds for a thousand connections, too: a kill loses nothing, a rolling restart pauses
//! nobody for a second, and one slow handler is felt by its own connection. Prints what it measured.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::backend::{AppServer, Conduct, Seen, anywhere, echo, text};
use harness::{Bystander, Client, Gateway, eventually};
use tokio::sync::watch;

const CLIENTS: usize = 1_000;
const THREADS: usize = 8;

fn gateway(servers: &[SocketAddr]) -> Gateway {
    let endpoints: Vec<String> = servers.iter().map(|address| format!("'http://{address}'")).collect();
    Gateway::start(&format!(
        "[[route]]\nname = 'app'\npath = '/app'\ninbound = {{ backend = 'chat' }}\n\
         [[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n\
         [[backend]]\nname = 'chat'\nendpoints = [{}]\nbackoff = {{ min = '20ms', max = '200ms' }}",
        endpoints.join(", ")
    ))
}

/// Acknowledges, and answers nobody.
fn quiet() -> Conduct {
    Arc::new(|line, event| line.ack(&event))
}

fn resident_mb(gateway: &Gateway) -> f64 {
    gateway.metrics().value("process_resident_memory_bytes") / f64::from(1 << 20)
}

#[test]
fn a_kill_amid_ten_thousand_messages_of_a_thousand_connections_loses_none() {
    const ROUNDS: u32 = 10;
    let server = AppServer::start(quiet());
    let gateway = gateway(&[server.address]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/app")).collect();
    let before_mb = resident_mb(&gateway);
    let say = |clients: &mut [Client], rounds: std::ops::Range<u32>| {
        for round in rounds {
            clients.iter_mut().for_each(|client| client.say(&round.to_string()));
        }
    };
    say(&mut clients, 0..4);
    let (address, seen) = server.kill();
    let killed = Instant::now();
    let at_kill = seen.lock().unwrap().events.len();
    say(&mut clients, 4..ROUNDS);
    eventually("three seconds", || (killed.elapsed() >= Duration::from_secs(3)).then_some(()));
    let away_mb = resident_mb(&gateway);
    let back = Instant::now();
    let server = AppServer::start_at(address, quiet(), seen);
    let wanted = CLIENTS * (ROUNDS as usize + 1);
    server.until("every message", |seen| {
        if seen.events.len() < wanted {
            return None;
        }
        let mut next: HashMap<&str, u32> = HashMap::new();
        for event in &seen.events {
            let next = next.entry(&event.connection).or_insert(1);
            assert!(event.sequence <= *next, "{}: {next} is missing", event.connection);
            *next = (*next).max(event.sequence + 1);
        }
        (next.len() == CLIENTS && next.values().all(|next| *next == ROUNDS + 2)).then_some(())
    });
    let caught_up = back.elapsed();
    let again = server.look(|seen| seen.events.iter().filter(|event| event.again).count());
    assert_eq!(gateway.metrics().value("gateway_connections"), CLIENTS as f64);
    eprintln!(
        "kill: {at_kill} of {wanted} events before it, {again} sent again, all there {caught_up:?} after the restart; \
         resident {before_mb:.1} MiB before, {away_mb:.1} MiB while away"
    );
    gateway.stop();
}

/// Echoes on all clients from several threads until told to stop; every round trip.
fn echo_until(clients: Vec<Client>, stop: &Arc<AtomicBool>) -> (Vec<Client>, Vec<Duration>) {
    let mut parts: Vec<Vec<Client>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (number, client) in clients.into_iter().enumerate() {
        parts[number % THREADS].push(client);
    }
    let threads: Vec<_> = parts
        .into_iter()
        .map(|mut part| {
            let stop = Arc::clone(stop);
            std::thread::spawn(move || {
                let mut trips = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for client in &mut part {
                        let started = Instant::now();
                        client.echoes("hello");
                        trips.push(started.elapsed());
                    }
                }
                (part, trips)
            })
        })
        .collect();
    let mut all = (Vec::new(), Vec::new());
    for thread in threads {
        let (part, trips) = thread.join().unwrap();
        all.0.extend(part);
        all.1.extend(trips);
    }
    all.1.sort_unstable();
    all
}

#[test]
fn a_rolling_restart_of_three_app_servers_pauses_nobody_for_a_second() {
    let seen = Arc::<Mutex<Seen>>::default();
    let mut servers: Vec<AppServer> =
        (0..3).map(|_| AppServer::start_at(anywhere(), echo(), Arc::clone(&seen))).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let gateway = gateway(&addresses);
    let up = |many: f64| {
        gateway.until("streams", |m| m.value("gateway_backend_streams_up{backend=\"chat\"}") == many);
    };
    up(3.0);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/app")).collect();
    let bystander = Bystander::beside(&gateway);
    let stop = Arc::<AtomicBool>::default();
    let until = Arc::clone(&stop);
    let talking = std::thread::spawn(move || echo_until(clients, &until));
    let mut ended = 0.0;
    for _ in 0..3 {
        let started = Instant::now();
        eventually("a second of traffic", || (started.elapsed() >= Duration::from_secs(1)).then_some(()));
        let old = servers.remove(0);
        let address = old.address;
        old.line().go_away();
        // It goes when what it had is acknowledged, as one that says goodbye does.
        ended += 1.0;
        gateway.until("the end of its stream", |m| {
            m.value("gateway_backend_streams_ended_total{backend=\"chat\",reason=\"ended_by_peer\"}") >= ended
        });
        old.kill();
        servers.push(AppServer::start_at(address, echo(), Arc::clone(&seen)));
        up(3.0);
    }
    stop.store(true, Ordering::Relaxed);
    let (_clients, trips) = talking.join().unwrap();
    let worst = trips[trips.len() - 1];
    let median = trips[trips.len() / 2];
    let machine = bystander.longest();
    eprintln!(
        "rolling restart: {} echoes, median {median:?}, worst {worst:?}; without an app server {machine:?}",
        trips.len()
    );
    assert!(worst < Duration::from_secs(1) + machine, "{worst:?}, and {machine:?} without an app server");
    gateway.stop();
}

/// What an app server does that takes five seconds for some messages, or until it is told to have done with all of them.
fn slow_at_times(done: &Arc<watch::Sender<bool>>) -> Conduct {
    let done = Arc::clone(done);
    Arc::new(move |line, event| {
        if text(&event) == Some("slow") {
            let (line, mut done) = (line.clone(), done.subscribe());
            tokio::spawn(async move {
                // Not a wait of the test: this is what the handler does.
                let _ = tokio::time::timeout(Duration::from_secs(5), done.wait_for(|done| *done)).await;
                line.ack(&event);
            });
            return;
        }
        if let Some(text) = text(&event) {
            line.send(0, &event.connection, text);
        }
        line.ack(&event);
    })
}

/// Three seconds of echoes; what 99 in 100 of them took at most.
fn p99(clients: Vec<Client>) -> (Vec<Client>, Duration) {
    let stop = Arc::<AtomicBool>::default();
    let until = Arc::clone(&stop);
    let talking = std::thread::spawn(move || echo_until(clients, &until));
    let started = Instant::now();
    eventually("some seconds", || (started.elapsed() >= Duration::from_secs(3)).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let (clients, trips) = talking.join().unwrap();
    (clients, trips[trips.len() * 99 / 100])
}

#[test]
fn a_handler_of_five_seconds_is_felt_by_its_own_connection_alone() {
    /// A machine that has other work for some seconds has it for one of them; a gateway that lets others wait does always.
    const TRIES: usize = 4;
    let done = Arc::new(watch::Sender::new(false));
    let server = AppServer::start(slow_at_times(&done));
    let gateway = gateway(&[server.address]);
    let mut slow = gateway.client("/app");
    let mut clients: Vec<Client> = (1..CLIENTS).map(|_| gateway.client("/app")).collect();
    let mut tries = Vec::new();
    let is_felt =
        |(without, beside): &(Duration, Duration)| *beside >= *without * 2 + Duration::from_millis(20);
    while tries.iter().all(is_felt) {
        assert!(tries.len() < TRIES, "{tries:?}");
        gateway.until("nothing is under way", |m| m.value("gateway_inbound_events_unsettled") == 0.0);
        let (without, beside);
        (clients, without) = p99(clients);
        done.send_replace(false);
        (0..100).for_each(|_| slow.say("slow"));
        (clients, beside) = p99(clients);
        done.send_replace(true);
        eprintln!("p99 of others: {without:?}, and {beside:?} beside a slow handler");
        tries.push((without, beside));
    }
    drop((slow, clients, server));
    gateway.stop();
}
