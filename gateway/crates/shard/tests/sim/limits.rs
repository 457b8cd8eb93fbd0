//! Single cases of limits: the paused go on and lose nothing, a crowd shares its peer's rate, the silent are not blamed
//! for a pause, and who is blocked is shown out in slices.

use bridge::limited::{Action, Limit};
use bridge::{Command, EndReason};
use shard::limit::rules::{ConnectionLimit, LimitRules, PeerLimits, PeerRules};
use shard::limit::{Network, Rate};

use crate::weather::{LIFE, Weather};
use crate::world::World;

fn world(connection: Option<ConnectionLimit>, peers: PeerRules) -> World {
    let mut weather = Weather::fair();
    weather.is_strict = true;
    weather.rules.limits = LimitRules::new(connection, peers);
    World::new(weather, 3)
}

fn per_connection(rate: Rate, action: Action) -> World {
    world(Some(ConnectionLimit { messages: rate, action, dry_run: false }), PeerRules::default())
}

#[test]
fn the_paused_are_held_to_their_rate_and_lose_nothing() {
    let mut world = per_connection(Rate::new(10, 10), Action::Pause);
    let (fast, other) = (world.open(0, "/echo"), world.open(0, "/echo"));
    world.clients[fast].tcp.resize(1 << 20);
    for _ in 0..30 {
        // Each in a read of its own: what one read brings is let through together.
        world.say(fast, 3000);
        world.run(0);
    }
    let first = world.nodes[0].stats.messages_in.value();
    assert!((10..=12).contains(&first), "{first} at once");
    assert_eq!(world.nodes[0].stats.paused.value(), 1);
    world.say(other, 100);
    world.rest();
    world.check_complete(&[other]);
    world.live(10);
    let second = world.nodes[0].stats.messages_in.value() - first;
    assert!((9..=13).contains(&second), "{second} in the second after that");
    world.live(20);
    world.check_complete(&[fast]);
    assert_eq!(world.nodes[0].stats.paused.value(), 0);
    let told: u64 = world.limited.iter().map(|limited| limited.times).sum();
    assert!(told > 0 && world.limited.iter().all(|one| one.kind.limit == Limit::ConnectionMessages));
}

#[test]
fn a_pause_longer_than_the_pong_deadline_ends_nobody() {
    let mut world = per_connection(Rate::new(1, 1), Action::Pause);
    let fast = world.open(0, "/echo");
    for _ in 0..12 {
        world.say(fast, 10);
    }
    world.rest();
    const { assert!(LIFE.ping_ticks + LIFE.pong_ticks < 100) };
    world.live(100);
    assert!(world.ending(fast).is_none());
    world.live(60);
    world.check_complete(&[fast]);
}

#[test]
fn a_crowd_shares_the_rate_of_its_peer_and_others_have_their_own() {
    let limits = PeerLimits { messages: Some(Rate::new(100, 20)), ..PeerLimits::default() };
    let mut world = world(None, PeerRules { classes: vec![limits], ..PeerRules::default() });
    // Every fifth client has the same address.
    let all: Vec<usize> = (0..50).map(|_| world.open(0, "/echo")).collect();
    let (crowd, others): (Vec<usize>, Vec<usize>) = all.into_iter().partition(|number| number % 5 == 0);
    for _ in 0..200 {
        for number in &crowd {
            if world.clients[*number].tcp.unread() < 20_000 {
                world.say(*number, 3000);
            }
        }
        world.say(others[0], 10);
        world.rest();
        world.live(1);
    }
    world.check_complete(&others[..1]);
    let heard: Vec<usize> = crowd.iter().map(|number| world.model.count_heard(*number)).collect();
    let sum: usize = heard.iter().sum();
    assert!((1900..=2300).contains(&sum), "{sum} in 20 s at 100 a second: {heard:?}");
    let (least, most) = (heard.iter().min().unwrap(), heard.iter().max().unwrap());
    assert!(least * 3 >= *most, "{heard:?}");
}

#[test]
fn who_is_closed_for_a_limit_is_told_when_to_come_back() {
    let mut world = per_connection(Rate::new(10, 5), Action::Close);
    let fast = world.open(0, "/echo");
    for _ in 0..6 {
        world.say(fast, 10);
    }
    world.live(2);
    assert_eq!(world.clients[fast].close, Some(Some(1008)));
    assert_eq!(world.ending(fast).unwrap().reason, EndReason::Limited);
    assert_eq!(world.ending(fast).unwrap().traffic.messages_in, 5, "what is too much is not taken");
}

#[test]
fn who_is_blocked_is_shown_out_and_nobody_else() {
    let mut world = world(None, PeerRules::default());
    let all: Vec<usize> = (0..40).map(|_| world.open(0, "/room/a")).collect();
    let network = Network::new([10, 0, 0, 3].into(), 32).unwrap();
    let until = world.now + 100;
    world.gate.blocks().put(network, until, world.now).unwrap();
    world.switchboard.mailboxes()[0].send(Command::EnforceBlocks).unwrap();
    world.live(2);
    for number in all {
        let code = world.clients[number].close;
        assert_eq!(code, (number % 5 == 3).then_some(Some(1008)), "client {number}");
    }
}
