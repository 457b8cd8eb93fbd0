//! Single cases of messages that do not say whether they are text or binary, under routes that do.

use bridge::Kind;

use crate::frames::{BINARY, TEXT};
use crate::weather::Weather;
use crate::world::World;

/// `/room/*` asks for text, `/hear/*` for binary, and `/quiet/*` for nothing.
fn world() -> World {
    let mut weather = Weather::fair();
    weather.rules.routes[0].kind = Some(Kind::Text);
    weather.rules.routes[3].kind = Some(Kind::Binary);
    World::new(weather, 5)
}

#[test]
fn in_one_channel_each_hears_what_its_route_asks_for() {
    let mut world = world();
    let (texts, binary) = (world.open(0, "/room/a"), world.open(0, "/hear/a"));
    let (auto, far) = (world.open(0, "/quiet/a"), world.open(1, "/hear/a"));
    let all = [texts, binary, auto, far];
    world.rest();
    let mut lines = 0;
    // Alone, when the frame is written as it comes, and several in one walk.
    for together in [1, 4] {
        for (opcode, is_undeclared) in [(TEXT, true), (BINARY, true), (TEXT, false), (BINARY, false)] {
            for _ in 0..together {
                world.publish_as(0, 30, opcode, is_undeclared);
            }
            world.rest();
            lines += together;
            // The model compares what each hears with what its route asks for.
            world.check_complete(&all);
        }
    }
    let heard = all.map(|client| world.model.count_heard(client));
    assert_eq!(heard, [lines - 5, lines, lines, lines], "five were no text and did not say so");
    let counted: Vec<u64> = world.nodes.iter().map(|node| node.stats.deliveries_not_text.value()).collect();
    assert_eq!(counted.iter().sum::<u64>(), 5);
    world.drain(20);
}

#[test]
fn a_slow_client_gets_the_rest_of_the_frame_that_its_route_asks_for() {
    let mut world = world();
    let (slow, other) = (world.open(0, "/hear/a"), world.open(0, "/quiet/a"));
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(100);
    for _ in 0..5 {
        world.publish_as(0, 200, TEXT, true);
        world.rest();
    }
    world.clients[slow].reading = true;
    world.clients[slow].tcp.resize(1 << 20);
    world.live(2);
    world.check_complete(&[slow, other]);
    assert_eq!(world.nodes[0].stats.backlog_bytes.value(), 0);
    world.drain(20);
}

#[test]
fn a_message_to_one_connection_obeys_its_route_and_is_refused_where_it_cannot() {
    let mut world = world();
    let (texts, binary) = (world.open(0, "/room/a"), world.open(0, "/hear/a"));
    for _ in 0..40 {
        for client in [texts, binary] {
            world.send(client, 50);
            world.rest();
        }
    }
    world.check_complete(&[texts, binary]);
    let refused = world.nodes[0].stats.commands_refused[bridge::command::NotDone::NotText as usize].value();
    assert_eq!(world.model.count_heard(binary), 40);
    assert_eq!(world.model.count_heard(texts), 40 - refused as usize);
    assert!((1..40).contains(&refused), "{refused}");
    world.drain(20);
}
