//! Single cases of new rules under old connections.

use bridge::{Command, EndReason, Sealed};
use shard::Rules;
use shard::rules::{Inbound, Segment};

use crate::weather::{Weather, rules};
use crate::world::{SHARDS, World};

fn obey(world: &mut World, number: u32, rules: &Rules) {
    for shard in 0..SHARDS {
        assert!(world.command(shard, Command::Obey { number, rules: Sealed::new(rules.clone()) }));
    }
    world.rest();
    for node in &world.nodes {
        assert_eq!(node.stats.rules.value(), u64::from(number), "every shard says which rules it obeys");
    }
}

#[test]
fn new_rules_touch_no_connection_and_lose_no_message() {
    let mut world = World::new(Weather::fair(), 6);
    let rooms: Vec<usize> = (0..20).map(|number| world.open(number % SHARDS, "/room/a")).collect();
    let echo = world.open(0, "/echo");
    world.rest();
    for number in 2..22 {
        for speaker in [rooms[0], rooms[7], echo] {
            world.say(speaker, 100);
        }
        world.publish(0, 50);
        let mut rules = rules();
        rules.routes.iter_mut().for_each(|route| route.life.ping_ticks += number);
        rules.routes[0].exclude_self = false;
        obey(&mut world, number, &rules);
        world.live(1);
    }
    assert!(world.endings.is_empty(), "{:?}", world.endings);
    world.check_complete(&rooms);
    world.check_complete(&[echo]);
    world.drain(20);
}

#[test]
fn a_smaller_bound_counts_from_the_next_message_and_a_new_route_from_the_next_request() {
    let mut world = World::new(Weather::fair(), 6);
    let (long, short) = (world.open(0, "/echo"), world.open(0, "/echo"));
    world.say(long, 500);
    world.rest();
    let mut rules = rules();
    rules.routes[4].limits.message_bytes = 300;
    let mut new = rules.routes[4].clone();
    new.path = vec![Segment::Literal("new".into())];
    assert_eq!(new.inbound, Inbound::Echo);
    rules.routes.push(new);
    obey(&mut world, 2, &rules);
    world.check_complete(&[long, short]);
    world.say(short, 10);
    world.rest();
    world.check_complete(&[short]);
    world.clients[long].facts.violated = Some(1009);
    let bytes = crate::frames::whole(crate::frames::BINARY, &[0; 500]);
    world.clients[long].tcp.send(&bytes);
    world.live(15);
    assert_eq!(world.ending(long).unwrap().reason, EndReason::MessageTooBig);
    world.open(0, "/new");
    world.drain(20);
}
