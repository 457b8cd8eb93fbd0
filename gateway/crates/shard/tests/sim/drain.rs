//! Single cases of ending gracefully: the pace of goodbyes, the listener, what was accepted before, and a share of the
//! table that goes while the rest stays.

use bridge::limited::Action;
use bridge::{Command, DrainPlan, EndReason, Quota};
use shard::limit::Rate;
use shard::limit::rules::{ConnectionLimit, LimitRules, PeerRules};
use tokio::sync::oneshot;

use crate::client::{Stage, request};
use crate::weather::Weather;
use crate::world::{SHARDS, World};

fn world() -> World {
    World::new(Weather::fair(), 5)
}

/// Goodbyes that a shard has said so far.
fn goodbyes(world: &World, shard: usize) -> u64 {
    world.nodes[shard].stats.goodbyes.value()
}

#[test]
fn goodbyes_are_even_over_the_window() {
    let mut world = world();
    let numbers: Vec<usize> = (0..100).map(|_| world.open(0, "/room/a")).collect();
    world.rest();
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 20, deadline_ticks: 60 });
    world.rest();
    let mut before = goodbyes(&world, 0);
    assert_eq!(before, 5);
    for tick in 1..20 {
        world.live(1);
        let now = goodbyes(&world, 0);
        assert_eq!(now - before, 5, "in tick {tick}");
        before = now;
    }
    assert_eq!(before, 100);
    world.end_drain(60);
    assert!(numbers.iter().all(|number| world.ending(*number).unwrap().reason == EndReason::GoingAway));
    assert_eq!(world.nodes[0].stats.cut.value(), 0);
}

#[test]
fn who_comes_while_balancers_are_late_is_served_and_then_told() {
    let mut world = world();
    let early = world.open(0, "/room/a");
    world.begin_drain(DrainPlan { accept_ticks: 20, spread_ticks: 5, deadline_ticks: 60 });
    world.live(10);
    assert_eq!(goodbyes(&world, 0), 0, "nobody is told while new ones come");
    let late = world.open(0, "/room/a");
    world.say(early, 10);
    world.rest();
    world.check_complete(&[early, late]);
    world.end_drain(60);
    for number in [early, late] {
        assert_eq!(world.clients[number].close, Some(Some(1001)));
    }
}

#[test]
fn who_was_in_the_queue_when_the_listener_was_barred_is_let_in() {
    let mut world = world();
    // Nothing can be accepted at first, so they wait in the queue.
    world.nodes[0].host.borrow_mut().exhausted = true;
    let queued: Vec<usize> =
        (0..10).map(|_| world.come(0, "/room/a", request("/room/a").as_bytes(), 1 << 20)).collect();
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 5, deadline_ticks: 60 });
    world.live(2);
    assert!(world.nodes[0].host.borrow().listening, "somebody waits");
    world.nodes[0].host.borrow_mut().exhausted = false;
    world.end_drain(60);
    for number in queued {
        assert_eq!(world.clients[number].close, Some(Some(1001)), "{:?}", world.clients[number].stage);
    }
}

#[test]
fn half_a_request_is_answered_503_when_the_listener_has_been_closed_for_a_while() {
    let mut world = world();
    let half = world.come(0, "/room/a", b"GET ", 1 << 20);
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 5, deadline_ticks: 100 });
    world.live(25);
    assert_eq!(world.clients[half].stage, Stage::Refused(503));
    world.end_drain(100);
}

#[test]
fn what_was_accepted_before_the_goodbyes_reaches_everybody() {
    let mut world = world();
    let crowd: Vec<usize> = (0..900).map(|number| world.open(number % SHARDS, "/hear/a")).collect();
    let speaker = world.open(0, "/say/a");
    (0..5).for_each(|_| world.publish(0, 100));
    world.say(speaker, 50);
    world.run(0);
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 0, deadline_ticks: 60 });
    world.rest();
    world.check_complete(&crowd);
    world.end_drain(60);
}

/// A speaker on shard 0 that is told to go by `order`, and has said so many lines before it read that; and a listener.
fn late_lines(world: &mut World, lines: usize, order: impl FnOnce(&mut World, usize)) -> (usize, usize) {
    let (speaker, hearer) = (world.open(0, "/say/a"), world.open(1, "/hear/a"));
    order(world, speaker);
    world.run(0);
    for _ in 0..lines {
        // Each in a read of its own, behind our close frame and before the answer to it.
        world.say(speaker, 50);
        world.run(0);
    }
    assert_eq!(world.clients[speaker].close, None, "it has not read our close frame yet");
    world.live(5);
    let ending = world.ending(speaker).unwrap();
    assert_eq!((ending.sent_code, ending.received_code.is_some()), (Some(1001), true), "{ending:?}");
    (hearer, ending.traffic.messages_in as usize)
}

fn shed_all(world: &mut World, _: usize) {
    let (reply, _) = oneshot::channel();
    world.shedding = true;
    assert!(world.command(0, Command::Shed { per_ten_thousand: 10_000, ticks: 0, reply }));
}

#[test]
fn what_was_sent_before_our_close_frame_was_read_is_published() {
    let mut world = world();
    let (hearer, taken) = late_lines(&mut world, 5, shed_all);
    assert_eq!((taken, world.model.count_heard(hearer)), (5, 5));
    world.drain(20);
}

#[test]
fn what_was_sent_before_our_close_frame_was_read_is_told_as_far_as_the_upstream_has_room() {
    // Room for what is told of it: that it was opened, and three messages.
    for (lines, events, taken) in [(5, 100, 5), (5, 4, 3)] {
        let quota =
            Quota { partitions: 1, events, bytes: 10_000, connection_events: 50, patience_ticks: 1000 };
        let weather = Weather { upstreams: vec![quota], outbox_events: 100, ..Weather::fair() };
        let mut world = World::new(weather, 5);
        world.app.away = true;
        let speaker = world.open(0, "/app/a");
        world.rest();
        shed_all(&mut world, speaker);
        world.run(0);
        for _ in 0..lines {
            world.say(speaker, 50);
            world.run(0);
        }
        world.live(5);
        let ending = world.ending(speaker).unwrap();
        assert_eq!((ending.sent_code, ending.received_code.is_some()), (Some(1001), true), "{ending:?}");
        assert_eq!((ending.traffic.messages_in as usize, world.app.messages), (taken, taken));
        world.app.away = false;
        world.drain(20);
        assert_eq!((world.app.messages, world.app.unclosed()), (taken, 0), "its end is told last");
    }
}

#[test]
fn whoever_goes_on_beyond_its_rate_after_our_close_frame_is_heard_up_to_there() {
    let mut weather = Weather::fair();
    weather.is_strict = true;
    let limit = ConnectionLimit { messages: Rate::new(10, 3), action: Action::Pause, dry_run: false };
    weather.rules.limits = LimitRules::new(Some(limit), PeerRules::default());
    let mut world = World::new(weather, 5);
    let (hearer, taken) = late_lines(&mut world, 20, shed_all);
    assert!((3..=4).contains(&taken), "{taken}");
    assert_eq!(world.model.count_heard(hearer), taken);
    world.drain(20);
}

#[test]
fn what_is_larger_than_the_bus_carries_does_not_leave_behind_our_close_frame_either() {
    let mut world = World::new(Weather { bus_carries: Some(150), ..Weather::fair() }, 5);
    let (speaker, hearer) = (world.open(0, "/say/a"), world.open(1, "/hear/a"));
    shed_all(&mut world, speaker);
    world.run(0);
    for padding in [50, 300, 50] {
        world.say(speaker, padding);
        world.run(0);
    }
    world.live(5);
    assert_eq!(world.ending(speaker).unwrap().traffic.messages_in, 1, "nothing is taken behind it");
    assert_eq!(world.model.count_heard(hearer), 1);
    world.drain(20);
}

#[test]
fn whoever_the_api_closes_publishes_nothing_more() {
    let mut world = world();
    let (hearer, taken) = late_lines(&mut world, 5, |world, speaker| {
        let address = world.clients[speaker].id.unwrap();
        world.clients[speaker].facts.api_codes.push(1001);
        let close = Command::Close { whom: address, by: None, code: 1001, reason: "".into(), reply: None };
        assert!(world.command(0, close));
    });
    assert_eq!((taken, world.model.count_heard(hearer)), (0, 0));
    world.drain(20);
}

#[test]
fn a_second_order_makes_a_drain_shorter_and_never_longer() {
    let mut world = world();
    for _ in 0..50 {
        world.open(0, "/room/a");
    }
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 500, deadline_ticks: 600 });
    world.live(10);
    assert!(goodbyes(&world, 0) < 5);
    world.begin_drain(DrainPlan { accept_ticks: 100, spread_ticks: 900, deadline_ticks: 1000 });
    world.live(10);
    assert!(goodbyes(&world, 0) < 5);
    world.begin_drain(DrainPlan { accept_ticks: 0, spread_ticks: 10, deadline_ticks: 40 });
    world.end_drain(40);
}

#[test]
fn a_shed_tells_a_share_and_leaves_the_rest_alone() {
    let mut world = world();
    world.shedding = true;
    let numbers: Vec<usize> = (0..80).map(|_| world.open(0, "/room/a")).collect();
    let (reply, mut answer) = oneshot::channel();
    assert!(world.command(0, Command::Shed { per_ten_thousand: 2500, ticks: 10, reply }));
    world.live(4);
    assert_eq!(answer.try_recv().unwrap(), Some(20));
    assert!((9..=11).contains(&goodbyes(&world, 0)), "half of them by half of the time");
    world.live(30);
    let gone: Vec<_> = numbers.iter().filter_map(|number| world.ending(*number)).collect();
    assert_eq!(gone.len(), 20);
    assert!(gone.iter().all(|ending| ending.reason == EndReason::Shed && ending.sent_code == Some(1001)));
    let new = world.open(0, "/room/a");
    world.say(new, 10);
    world.rest();
    let rest: Vec<usize> = numbers.into_iter().filter(|number| world.ending(*number).is_none()).collect();
    world.check_complete(&rest);
    world.drain(20);
}

#[test]
fn after_a_gap_of_the_bus_just_those_go_who_were_there_and_whose_route_says_so() {
    let mut world = world();
    world.shedding = true;
    let here: Vec<usize> = (0..40).map(|_| world.open(0, "/room/a")).collect();
    let others: Vec<usize> = (0..10).map(|_| world.open(0, "/hear/a")).collect();
    world.live(2);
    assert!(world.command(0, Command::CloseGap { routes: [0].into(), ticks: 20 }));
    world.live(3);
    let new = world.open(0, "/room/a");
    assert!((4..=30).contains(&goodbyes(&world, 0)), "one after the other");
    world.live(40);
    let endings: Vec<_> = here.iter().filter_map(|number| world.ending(*number)).collect();
    assert_eq!(endings.len(), 40);
    assert!(endings.iter().all(|one| one.reason == EndReason::Gap && one.sent_code == Some(1013)));
    assert!(others.iter().chain([&new]).all(|number| world.ending(*number).is_none()));
    world.drain(20);
}

#[test]
fn a_shard_that_drains_sheds_nothing_more() {
    let mut world = world();
    world.open(0, "/room/a");
    world.begin_drain(DrainPlan { accept_ticks: 5, spread_ticks: 5, deadline_ticks: 20 });
    let (reply, mut answer) = oneshot::channel();
    assert!(world.command(0, Command::Shed { per_ten_thousand: 10_000, ticks: 1, reply }));
    world.rest();
    assert_eq!(answer.try_recv().unwrap(), None);
    world.end_drain(20);
}
