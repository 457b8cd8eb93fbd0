//! Promise: with a descriptor table for each shard everything is as with one: messages cross, sockets close for
//! their clients, and descriptors are counted; only the limit counts for each shard.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{CLOSE, Client, Gateway, Metrics, Raw, eventually, frame};

const OWN: &str = "[shards]\ncount = 2\nown_descriptors = true\n";

#[test]
fn messages_cross_from_table_to_table() {
    let gateway = Gateway::start(OWN);
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    near.echoes("hello");
    far.hears("hello");
    far.echoes("hello yourself");
    near.hears("hello yourself");
    gateway.http().post("/v1/channels/room.lobby/messages", "text/plain", b"from outside").good(202);
    near.hears("from outside");
    far.hears("from outside");
    gateway.stop();
}

#[test]
fn a_client_sees_the_end_of_its_connection() {
    let gateway = Gateway::start(OWN);
    let mut raws: Vec<Raw> = (0..8).map(|_| gateway.upgraded("/echo")).collect();
    for raw in &mut raws {
        raw.send(&frame(0x80 | CLOSE, &1000_u16.to_be_bytes()));
        assert_eq!(raw.goodbye().0, 1000);
        // A socket that was copied into another table would never end.
        assert_eq!(raw.rest(), b"");
    }
    gateway.until_only(0);
    gateway.stop();
}

#[test]
fn descriptors_are_summed_over_the_tables_and_given_back() {
    const CLIENTS: usize = 60;
    const LOOKS: usize = 20;
    let gateway = Gateway::start(OWN);
    // Of all looks the same one: beside a new one the last could still be open.
    let mut http = gateway.http();
    let mut open = || Metrics::fetch(&mut http).value("process_open_fds");
    // One look may catch a file that is open for a moment, or miss a table while a thread ends: most do neither.
    let mut looks: Vec<f64> = (0..LOOKS).map(|_| open()).collect();
    looks.sort_by(f64::total_cmp);
    let before = looks[LOOKS / 2];
    let mut is_open = |descriptors: f64| eventually("descriptors", || (open() == descriptors).then_some(()));
    let clients: Vec<Client> = (0..CLIENTS).map(|_| gateway.client("/echo")).collect();
    is_open(before + CLIENTS as f64);
    clients.into_iter().for_each(Client::leave);
    is_open(before);
    gateway.stop();
}

#[test]
fn the_process_holds_more_connections_than_one_table_could() {
    const LIMIT: u32 = 160;
    let gateway = Gateway::start_with_descriptors(&format!("{OWN}[timeouts]\nlinger = '100ms'"), LIMIT);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("process_max_fds"), f64::from(3 * LIMIT));
    // 92 fit into each table beside the reserve, and 97 in a hundred of those are planned with.
    let mut inside: Vec<Client> = Vec::new();
    while inside.len() < LIMIT as usize + 4 {
        match Client::connect(gateway.ws, "/echo", &[]) {
            Ok(client) => inside.push(client),
            // The kernel spreads unevenly: one shard's table may be full before the other's.
            Err(error) => assert!(gateway.metrics().turned("table_full") > 0.0, "{error}"),
        }
    }
    for client in &mut inside {
        client.echoes("in");
    }
    assert_eq!(gateway.metrics().turned("descriptors"), 0.0);
    inside.into_iter().for_each(Client::leave);
    gateway.until_only(0);
    gateway.stop();
}
