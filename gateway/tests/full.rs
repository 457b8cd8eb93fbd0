//! Promise: more connections than fit are refused and counted, and the rest is served. The bounds are connections,
//! handshakes in flight, and descriptors.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bystander, Client, Gateway, Raw, upgrade_request};

/// Asks on a connection that is there already.
#[track_caller]
fn ask(raw: &mut Raw) -> (u16, String) {
    raw.send(upgrade_request("/echo").as_bytes());
    raw.refusal()
}

#[test]
fn one_connection_too_many_is_refused_503_and_a_place_that_frees_up_is_given_away_again() {
    let gateway = Gateway::start("[limits]\nconnections = 3");
    let mut clients: Vec<Client> = (0..3).map(|_| gateway.client("/echo")).collect();
    for count in 1..=5 {
        let (status, answer) = ask(&mut gateway.raw());
        assert_eq!(status, 503);
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
        assert_eq!(gateway.metrics().turned("table_full"), f64::from(count));
    }
    for client in &mut clients {
        client.echoes("served");
    }
    clients.pop().unwrap().leave();
    gateway.until_only(2);
    let mut next = gateway.client("/echo");
    next.echoes("my turn");
    let (status, _) = ask(&mut gateway.raw());
    assert_eq!(status, 503);
    let metrics = gateway.until_only(3);
    assert_eq!(metrics.refused("busy"), 6.0);
    gateway.stop();
}

#[test]
fn silent_clients_take_up_handshakes_and_not_the_place_of_those_who_are_in() {
    let gateway = Gateway::start("[limits]\nhandshakes = 4\n[timeouts]\nhandshake = '4s'\nlinger = '100ms'");
    let bystander = Bystander::beside(&gateway);
    let silent: Vec<Raw> = (0..4).map(|_| gateway.raw()).collect();
    // They stay long enough for the next one to find them there, however busy the machine is.
    gateway.until("four handshakes in flight", |m| m.value("gateway_handshakes") == 4.0);
    assert_eq!(ask(&mut gateway.raw()).0, 503);
    let metrics = gateway.metrics();
    assert_eq!((metrics.turned("handshakes"), metrics.refused("busy")), (1.0, 1.0));
    // Their deadline makes room.
    for mut raw in silent {
        assert_eq!(raw.refusal().0, 408);
    }
    gateway.until_only(1);
    gateway.client("/echo").echoes("my turn");
    bystander.was_not_disturbed();
    gateway.stop();
}

#[test]
fn a_crowd_beyond_all_bounds_is_hung_up_on_and_leaves_nothing_behind() {
    let gateway = Gateway::start("[limits]\nconnections = 2\n[timeouts]\nlinger = '100ms'");
    let mut inside = gateway.client("/echo");
    let bystander = Bystander::beside(&gateway);
    // 256 are let in to be told; the others are not even that.
    let mut crowd: Vec<Raw> = (0..400).map(|_| gateway.raw()).collect();
    gateway.until("all have been looked at, and no more are held", |m| {
        m.turned("table_full") == 400.0 && m.value("gateway_connections") == 2.0 + 256.0
    });
    inside.echoes("served");
    for raw in crowd.drain(..).take(20) {
        drop(raw);
    }
    drop(crowd);
    gateway.until_only(2);
    bystander.was_not_disturbed();
    inside.echoes("still served");
    gateway.stop();
}

#[test]
fn without_a_descriptor_left_clients_wait_in_the_kernel_and_are_served_when_there_is_one() {
    const LIMIT: u32 = 200;
    let text = "[timeouts]\nhandshake = '1m'";
    let gateway = Gateway::start_with_descriptors(text, LIMIT);
    let bystander = Bystander::beside(&gateway);
    // Opened before, since a new HTTP connection needs a descriptor, too.
    let mut http = gateway.http();
    let mut scrape = || harness::Metrics::fetch(&mut http);
    assert_eq!(scrape().value("process_max_fds"), f64::from(LIMIT));
    let crowd: Vec<Raw> = (0..LIMIT).map(|_| gateway.raw()).collect();
    harness::eventually("no descriptor is left", || (scrape().turned("descriptors") > 0.0).then_some(()));
    gateway.logged(&["no descriptor is left", "gateway doctor"]);
    let mut late = gateway.raw();
    late.send(upgrade_request("/echo").as_bytes());
    // From here on nobody else comes: no event tells the gateway to look at its listener again.
    drop(crowd);
    assert!(late.head().starts_with("HTTP/1.1 101 "), "the one that waited was served");
    drop(late);
    bystander.was_not_disturbed();
    gateway.until_only(0);
    gateway.stop();
}
