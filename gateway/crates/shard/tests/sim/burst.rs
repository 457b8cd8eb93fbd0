//! Single cases of much at once for somebody who takes all of it: more than a backlog holds becomes due in one turn, and
//! nobody is a slow consumer for that, whatever the policy of its route.

use bridge::Kind;
use shard::rules::SlowConsumer;
use store::QueueLimit;

use crate::frames::TEXT;
use crate::weather::Weather;
use crate::world::World;

const POLICIES: [SlowConsumer; 4] =
    [SlowConsumer::Close, SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::KeepLatest];

/// A world with room for so many frames and bytes behind each socket, in which listeners have this policy.
fn with_backlog(policy: SlowConsumer, entries: u32, bytes: u32) -> World {
    let mut weather = Weather::fair();
    weather.rules.backlog = QueueLimit { entries, bytes };
    weather.rules.routes[3].slow_consumer = policy;
    World::new(weather, 12)
}

fn dropped(world: &World) -> u64 {
    world
        .nodes
        .iter()
        .flat_map(|node| &node.stats.deliveries_dropped)
        .map(bridge::stats::Counter::value)
        .sum()
}

#[test]
fn more_than_a_backlog_holds_may_become_due_to_a_member_of_two_rooms() {
    for policy in POLICIES {
        for (entries, bytes) in [(10, 1 << 20), (100_000, 1000)] {
            let mut world = with_backlog(policy, entries, bytes);
            let number = world.open(0, "/hear/a");
            world.subscribe(number, "room.b");
            world.rest();
            // In one turn, and in several walks of each room.
            for _ in 0..200 {
                world.publish(0, 50);
                world.publish(1, 50);
            }
            world.rest();
            world.check_complete(&[number]);
            assert_eq!(dropped(&world), 0, "{policy:?} {entries} {bytes}");
        }
    }
}

#[test]
fn more_than_a_backlog_holds_may_be_said_to_one_alone() {
    for policy in POLICIES {
        let mut world = with_backlog(policy, 10, 2000);
        let number = world.open(0, "/hear/a");
        for _ in 0..200 {
            world.send(number, 50);
        }
        // Behind those that only wait for the end of the turn.
        (0..100).for_each(|_| world.publish(0, 50));
        world.rest();
        world.check_complete(&[number]);
        assert_eq!(dropped(&world), 0, "{policy:?}");
    }
}

#[test]
fn an_answer_finds_room_behind_what_became_due_in_the_same_turn() {
    let mut world = with_backlog(SlowConsumer::Close, 2, 100_000);
    let number = world.open(0, "/echo");
    world.send(number, 50);
    world.send(number, 50);
    world.say(number, 50);
    world.rest();
    world.check_complete(&[number]);
    assert_eq!(world.nodes[0].stats.paused.value(), 0);
    world.say(number, 50);
    world.rest();
    world.check_complete(&[number]);
}

#[test]
fn whoever_takes_everything_needs_nothing_of_what_others_have_filled() {
    for policy in POLICIES {
        let mut weather = Weather::fair();
        weather.rules.routes[3].slow_consumer = policy;
        weather.backlog_bytes = 4000;
        let mut world = World::new(weather, 12);
        let (slow, quick) = (world.open(0, "/echo"), world.open(0, "/hear/a"));
        world.subscribe(quick, "room.b");
        world.clients[slow].stop_reading();
        world.clients[slow].tcp.resize(100);
        world.send(slow, 3800);
        world.rest();
        for _ in 0..20 {
            world.publish(0, 500);
            world.publish(1, 500);
        }
        world.rest();
        world.check_complete(&[quick]);
        assert_eq!(dropped(&world), 0, "{policy:?}");
        assert!(world.ending(slow).is_none());
    }
}

#[test]
fn room_that_no_event_has_told_of_yet_is_found_before_anybody_is_closed() {
    let mut world = with_backlog(SlowConsumer::Close, 5, 100_000);
    let number = world.open(0, "/hear/a");
    world.clients[number].stop_reading();
    world.clients[number].tcp.resize(300);
    for _ in 0..5 {
        world.publish(0, 200);
        world.rest();
    }
    (0..2).for_each(|_| world.send(number, 200));
    world.clients[number].reading = true;
    world.act(number);
    // Orders come before events in a turn.
    world.rest();
    assert!(world.ending(number).is_none() && world.clients[number].close.is_none());
    world.check_complete(&[number]);
}

/// So many listeners of two rooms on a node whose bytes for backlogs somebody else has used up.
fn crowd_on_a_full_node(kind: Option<Kind>, count: usize) -> (World, Vec<usize>) {
    let mut weather = Weather::fair();
    weather.rules.routes[3].kind = kind;
    weather.backlog_bytes = 4000;
    let mut world = World::new(weather, 12);
    let slow = world.open(0, "/echo");
    let crowd = world.open_crowd(count, "/hear/a", |_| 0);
    crowd.iter().for_each(|number| world.subscribe(*number, "room.b"));
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(100);
    world.send(slow, 3800);
    world.rest();
    (world, crowd)
}

fn writes(world: &World, crowd: &[usize]) -> usize {
    crowd.iter().map(|number| world.clients[*number].tcp.writes()).sum()
}

#[test]
fn what_is_due_leaves_together_though_the_node_has_no_room_for_it() {
    let (mut world, crowd) = crowd_on_a_full_node(None, 20);
    let before = writes(&world, &crowd);
    for _ in 0..20 {
        world.publish(0, 500);
        world.publish(1, 500);
    }
    world.rest();
    world.check_complete(&crowd);
    let writes = writes(&world, &crowd) - before;
    // One for each and room, and for the first, who finds that out, one for each frame.
    assert!((40..=80).contains(&writes), "{writes} for 800 deliveries");
}

#[test]
fn a_turn_is_no_longer_where_frames_must_leave_one_by_one() {
    // What they are is up to the route of each, so that there is nothing to write for all of them.
    let (mut world, crowd) = crowd_on_a_full_node(Some(Kind::Binary), 20);
    for _ in 0..20 {
        world.publish_as(0, 500, TEXT, true);
        world.publish_as(1, 500, TEXT, true);
    }
    let mut most = 0;
    for _ in 0..100 {
        let before = writes(&world, &crowd);
        world.run(0);
        most = most.max(writes(&world, &crowd) - before);
    }
    assert!((16..=100).contains(&most), "{most} in one turn, of 800");
    world.rest();
    world.check_complete(&crowd);
}

#[test]
fn nothing_is_delivered_to_somebody_who_turns_out_to_be_gone() {
    let mut world = with_backlog(SlowConsumer::Close, 10, 1 << 20);
    let number = world.open(0, "/hear/a");
    world.subscribe(number, "room.b");
    world.rest();
    // The shard hears of the reset by the write, at the bound, and of no event.
    world.clients[number].reset(true);
    let events = std::mem::replace(&mut world.weather.events_per_poll, 0);
    for _ in 0..30 {
        world.publish(0, 50);
        world.publish(1, 50);
    }
    world.run(0);
    world.weather.events_per_poll = events;
    world.rest();
    assert_eq!(world.nodes[0].stats.deliveries.value(), 10, "those that were queued before");
    assert_eq!(world.nodes[0].stats.messages_out.value(), 10);
}
