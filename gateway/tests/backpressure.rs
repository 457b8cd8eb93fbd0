//! Promise: when a shard falls behind, exactly those who feed it are slowed down, everybody else goes on, and when it has
//! caught up they all go on by turns, with nothing lost.
#![allow(clippy::unwrap_used)]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Client, Gateway, Halted, eventually};
use serde_json::{Value, json};

const NARROW: &str = "
[mailbox]
commands = 16

[backlog]
frames = 100000
bytes = '64MiB'

[[route]]
name = 'hear'
path = '/hear/{room}'
subscribe = ['room.{room}']
inbound = 'ignore'

[[route]]
name = 'say'
path = '/say/{room}'
inbound = { publish = 'room.{room}' }

[[route]]
name = 'echo'
path = '/echo'
inbound = 'echo'
";
const PUBLISHERS: usize = 3;
/// Far more than one read takes, so that each publisher has to be read again many times.
const MESSAGES: usize = 1500;
const PADDING: usize = 1000;

/// A client on this path whose connection is on this shard. The kernel chooses, so it takes a few tries.
#[track_caller]
fn client_on(gateway: &Gateway, shard: u16, path: &str) -> Client {
    let mut elsewhere = Vec::new();
    let found = eventually("a connection on that shard", || {
        let client = gateway.client(path);
        if client.shard() == shard {
            return Some(client);
        }
        elsewhere.push(client);
        None
    });
    elsewhere.into_iter().for_each(Client::leave);
    found
}

fn paused(gateway: &Gateway, id: &str) -> Value {
    gateway.http().call("GET", &format!("/v1/connections/{id}")).good(200).json()["paused"].clone()
}

#[test]
fn a_full_mailbox_pauses_exactly_those_who_feed_it_and_they_go_on_by_turns() {
    let gateway = Gateway::start(NARROW);
    let mut far = client_on(&gateway, 1, "/hear/a");
    let mut near = client_on(&gateway, 0, "/hear/b");
    let mut feeding: Vec<Client> = (0..PUBLISHERS).map(|_| client_on(&gateway, 0, "/say/a")).collect();
    let mut unconcerned = client_on(&gateway, 0, "/say/b");
    let mut echo = client_on(&gateway, 0, "/echo");
    let ids: Vec<String> = feeding.iter().map(|client| client.id.clone()).collect();

    let halted = Halted::thread(&gateway, "shard-1");
    let said: Arc<[AtomicUsize; PUBLISHERS]> = Arc::default();
    let speakers: Vec<_> = feeding
        .drain(..)
        .enumerate()
        .map(|(speaker, mut client)| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    client.say(&format!("{speaker} {number} {}", "x".repeat(PADDING)));
                    said[speaker].store(number + 1, Ordering::Relaxed);
                }
                client
            })
        })
        .collect();
    let metrics = gateway.until("all who feed it are paused, and nobody else", |metrics| {
        metrics.value("gateway_connections_paused_by_reason{reason=\"mailbox\"}") == PUBLISHERS as f64
            && metrics.value("gateway_connections_paused") == PUBLISHERS as f64
            && metrics.value("gateway_publishes_waiting") > 0.0
    });
    assert_eq!(metrics.value("gateway_shard_mailbox_depth{shard=\"1\"}"), 16.0);
    let waiting = metrics.value("gateway_publishes_waiting");
    assert!(waiting < 1024.0, "{waiting} wait here, the others in their senders' sockets");
    for id in &ids {
        assert_eq!(paused(&gateway, id), json!(["mailbox"]));
    }
    let busy = gateway.http().post("/v1/channels/room.a/messages", "text/plain", b"one more");
    busy.problem(503, "busy");
    // Another room of the same shard, the API to it, and echoes: as ever.
    for number in 0..100 {
        unconcerned.say(&format!("round {number}"));
        near.hears(&format!("round {number}"));
        echo.echoes("unconcerned");
    }
    gateway.http().post("/v1/channels/room.b/messages", "text/plain", b"from the API").good(202);
    near.hears("from the API");
    assert_eq!(paused(&gateway, &unconcerned.id), json!([]));
    assert_eq!(gateway.metrics().value("gateway_connections_paused"), PUBLISHERS as f64, "they wait still");

    // So much lies in the sockets of each that it has its turns even if its thread gets none for a while.
    eventually("all have said a lot", || {
        said.iter().all(|said| said.load(Ordering::Relaxed) >= MESSAGES / 5).then_some(())
    });
    drop(halted);
    let mut heard = [0; PUBLISHERS];
    let mut least_when_first_was_done = None;
    for _ in 0..PUBLISHERS * MESSAGES {
        let text = far.hear_text();
        let mut words = text.split(' ').map(str::parse::<usize>);
        let (speaker, number) = (words.next().unwrap().unwrap(), words.next().unwrap().unwrap());
        assert_eq!(number, heard[speaker], "nothing of {speaker} is lost, repeated or out of order");
        heard[speaker] += 1;
        if heard[speaker] == MESSAGES && least_when_first_was_done.is_none() {
            least_when_first_was_done = heard.iter().min().copied();
        }
    }
    let least = least_when_first_was_done.unwrap();
    // One after the other would leave the last with what was read of it at first, a twentieth.
    assert!(least > MESSAGES / 8, "one was done when another had {least} of {MESSAGES} through");
    let speakers: Vec<Client> = speakers.into_iter().map(|speaker| speaker.join().unwrap()).collect();
    let metrics = gateway.until("nobody waits", |metrics| metrics.value("gateway_connections_paused") == 0.0);
    assert_eq!(metrics.value("gateway_publishes_waiting"), 0.0);
    let ended = metrics.sum("gateway_connections_ended_total");
    assert_eq!(ended, metrics.ended("client_close"), "nobody was closed for it");
    speakers.into_iter().for_each(Client::leave);
    gateway.stop();
}
