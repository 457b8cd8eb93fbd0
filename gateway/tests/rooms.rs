//! Promise: what a client says in a room reaches everybody in it, on every shard, in the order of saying it, and
//! nobody else.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::HashMap;

use harness::{Client, Gateway, Http};
use tungstenite::Message;

const ROUTES: &str = "
[[route]]
name = 'rooms'
path = '/rooms/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }

[[route]]
name = 'quiet'
path = '/quiet/{room}'
subscribe = ['room.{room}']
inbound = { publish = 'room.{room}' }
exclude_self = true

[[route]]
name = 'deaf'
path = '/deaf'
subscribe = ['room.lobby', 'news']
inbound = 'ignore'
";

#[test]
fn a_room_hears_a_message_on_every_shard_and_other_rooms_do_not() {
    let gateway = Gateway::start(ROUTES);
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut elsewhere = gateway.client("/rooms/kitchen");
    near.say("hello lobby");
    near.hears("hello lobby");
    far.hears("hello lobby");
    far.say_bytes(&[0, 159, 146, 150]);
    for client in [&mut near, &mut far] {
        assert_eq!(client.hear(), Message::binary(vec![0, 159, 146, 150]));
    }
    // The first thing that the other room hears is its own.
    elsewhere.echoes("hello kitchen");
    near.echoes("still only us");
    gateway.stop();
}

#[test]
fn a_publisher_hears_itself_unless_its_route_excludes_it() {
    let gateway = Gateway::start(ROUTES);
    let mut loud = gateway.client("/rooms/a");
    let mut quiet = gateway.client("/quiet/a");
    loud.echoes("from loud");
    quiet.hears("from loud");
    quiet.say("from quiet");
    loud.hears("from quiet");
    loud.echoes("the end");
    // Its own message would have come before this one.
    quiet.hears("the end");
    gateway.stop();
}

#[test]
fn each_publisher_is_heard_in_its_own_order_by_everybody() {
    const MESSAGES: u32 = 500;
    let gateway = Gateway::start(ROUTES);
    let (first, second) = gateway.clients_on_two_shards("/rooms/order");
    let listeners: Vec<Client> = (0..4).map(|_| gateway.client("/rooms/order")).collect();
    let speak = |mut client: Client, name: &'static str| {
        std::thread::spawn(move || {
            for n in 0..MESSAGES {
                client.say(&format!("{name} {n}"));
            }
            client
        })
    };
    let speakers = [speak(first, "first"), speak(second, "second")];
    let listen = |mut client: Client| {
        std::thread::spawn(move || {
            let mut next: HashMap<String, u32> = HashMap::new();
            for _ in 0..2 * MESSAGES {
                let heard = client.hear_text();
                let (who, n) = heard.split_once(' ').unwrap();
                let expected = next.entry(who.to_owned()).or_default();
                assert_eq!(n.parse::<u32>().unwrap(), *expected, "{who} is heard out of order");
                *expected += 1;
            }
        })
    };
    let listening: Vec<_> = listeners.into_iter().map(listen).collect();
    let speakers = speakers.map(|speaker| speaker.join().unwrap());
    listening.into_iter().for_each(|listener| listener.join().unwrap());
    drop(speakers);
    gateway.until_only(0);
    gateway.stop();
}

#[test]
fn a_route_that_ignores_its_clients_counts_what_they_say_and_lets_them_listen() {
    let gateway = Gateway::start(ROUTES);
    let mut deaf = gateway.client("/deaf");
    let mut member = gateway.client("/rooms/lobby");
    deaf.say("can anybody hear me?");
    gateway.until("it was ignored", |m| m.value("gateway_messages_ignored_total") == 1.0);
    member.echoes("good morning");
    deaf.hears("good morning");
    gateway.stop();
}

#[test]
fn channels_exist_while_somebody_is_in_them() {
    let gateway = Gateway::start(ROUTES);
    let mut http = gateway.http();
    assert_eq!(channels(&mut http), 0);
    let (first, second) = (gateway.client("/deaf"), gateway.client("/rooms/lobby"));
    assert_eq!(channels(&mut http), 2);
    gateway.until("three subscriptions", |m| m.value("gateway_subscriptions") == 3.0);
    first.leave();
    second.leave();
    let metrics = gateway.until_only(0);
    assert_eq!((metrics.value("gateway_subscriptions"), metrics.value("gateway_channels")), (0.0, 0.0));
    assert_eq!(channels(&mut http), 0);
    gateway.stop();
}

fn channels(http: &mut Http) -> u64 {
    http.call("GET", "/v1/node").good(200).json()["channels"].as_u64().unwrap()
}
