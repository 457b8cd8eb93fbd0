//! Single cases of how long connections live: their own heartbeats, idleness, age, and what is answered at once.

use bridge::EndReason;
use shard::rules::{AutoReply, Life};

use crate::frames::{self, BINARY, Said, TEXT};
use crate::weather::{LIFE, Weather};
use crate::world::World;

/// A world in which clients of `/echo` live like this.
fn lives(life: Life) -> World {
    let mut weather = Weather::fair();
    weather.rules.routes[4].life = life;
    World::new(weather, 11)
}

#[test]
fn each_route_has_its_own_heartbeat() {
    let mut world = lives(Life { ping_ticks: 4, pong_ticks: 3, ..LIFE });
    let (quick, slow) = (world.open(0, "/echo"), world.open(0, "/hear/a"));
    world.clients[quick].go_mute();
    world.live(4 + 4 + 3 + 2);
    assert_eq!(world.ending(quick).unwrap().reason, EndReason::PongTimeout);
    assert!(world.clients[slow].is_live());
    world.live(LIFE.ping_ticks);
    assert!(world.clients[slow].pings_heard > 0);
}

#[test]
fn patience_with_a_pong_that_is_longer_than_the_interval_delays_no_ping() {
    let mut world = lives(Life { ping_ticks: 5, pong_ticks: 50, ..LIFE });
    let (quick, mute) = (world.open(0, "/echo"), world.open(0, "/echo"));
    world.clients[mute].go_mute();
    world.live(52);
    let pings = world.clients[quick].pings_heard;
    assert!((9..=11).contains(&pings), "{pings} in 52 ticks");
    assert!(world.ending(mute).is_none(), "it has its time");
    world.live(5);
    assert_eq!(world.ending(mute).unwrap().reason, EndReason::PongTimeout);
}

#[test]
fn frames_that_are_merely_due_delay_no_ping() {
    let mut weather = Weather::fair();
    weather.rules.routes[3].life = Life { ping_ticks: 5, pong_ticks: 50, ..LIFE };
    let mut world = World::new(weather, 11);
    let listener = world.open(0, "/hear/a");
    world.subscribe(listener, "room.b");
    for _ in 0..52 {
        // Two rooms at once, so that what they hear waits for the end of the turn, and that is the turn of the timer.
        world.pass(1);
        world.publish(0, 10);
        world.publish(1, 10);
        world.rest();
    }
    let pings = world.clients[listener].pings_heard;
    assert!((9..=11).contains(&pings), "{pings} in 52 ticks");
    world.check_complete(&[listener]);
}

#[test]
fn a_round_trip_is_measured_by_the_clock_that_the_client_sends_back() {
    let mut world = World::new(Weather::fair(), 12);
    let number = world.open(0, "/echo");
    world.clients[number].answers = Some(3);
    world.live(LIFE.ping_ticks + 5);
    let measured = |world: &World| {
        let buckets = world.nodes[0].stats.ping_us.buckets();
        buckets.fold((0, 0), |(count, sum), bucket| (count + bucket.count.value(), sum + bucket.sum.value()))
    };
    assert_eq!(measured(&world), (1, 300_000));
    // What is no stamp of ours is no round trip.
    world.clients[number].say(&frames::whole(frames::PONG, b""));
    world.clients[number].say(&frames::whole(frames::PONG, b"12345678"));
    world.rest();
    assert_eq!(measured(&world).0, 1);
}

#[test]
fn a_connection_without_messages_is_closed_1000_however_many_pongs_come() {
    let mut world = lives(Life { idle_ticks: Some(70), ..LIFE });
    let (idle, used) = (world.open(0, "/echo"), world.open(0, "/echo"));
    world.live(50);
    world.say(used, 10);
    world.live(19);
    assert!(world.clients[idle].is_live(), "not early");
    world.live(3);
    assert_eq!(world.clients[idle].close, Some(Some(1000)), "and not late");
    let ending = world.ending(idle).unwrap();
    assert_eq!((ending.reason, ending.sent_code), (EndReason::Idle, Some(1000)));
    assert!(world.clients[idle].pings_heard > 0 && world.clients[used].is_live());
    world.live(50);
    assert_eq!(world.ending(used).unwrap().reason, EndReason::Idle);
}

#[test]
fn what_others_say_to_it_is_use_too() {
    let mut weather = Weather::fair();
    weather.rules.routes[3].life.idle_ticks = Some(20);
    let mut world = World::new(weather, 13);
    let listener = world.open(0, "/hear/a");
    for _ in 0..6 {
        world.live(15);
        world.publish(0, 10);
    }
    world.rest();
    assert!(world.clients[listener].is_live());
    world.check_complete(&[listener]);
}

#[test]
fn a_message_that_came_during_a_stall_of_ours_is_use() {
    let mut world = lives(Life { idle_ticks: Some(20), ..LIFE });
    let number = world.open(0, "/echo");
    world.live(15);
    world.say(number, 10);
    // The shard sleeps past the idle timeout, with the message in its socket.
    world.pass(30);
    world.rest();
    assert!(world.clients[number].is_live());
}

#[test]
fn a_crowd_that_came_at_once_leaves_in_its_own_time_and_is_told_when_to_come_again() {
    let mut world = lives(Life { age_ticks: Some(100), jitter_ticks: 50, ..LIFE });
    let crowd: Vec<usize> = (0..40).map(|_| world.open(0, "/echo")).collect();
    world.live(99);
    assert!(crowd.iter().all(|number| world.clients[*number].is_live()), "not early");
    world.live(53);
    let mut ages: Vec<u32> = Vec::new();
    for number in &crowd {
        assert_eq!(world.clients[*number].close, Some(Some(1001)));
        let ending = world.ending(*number).unwrap();
        assert_eq!(ending.reason, EndReason::MaxAge);
        ages.push(ending.age_ticks);
    }
    ages.sort_unstable();
    assert!(ages[0] < 115 && ages[39] > 135 && *ages.last().unwrap() <= 152, "{ages:?}");
}

#[test]
fn what_is_answered_at_once_reaches_nobody_else_and_is_no_use() {
    let mut weather = Weather::fair();
    let reply =
        |question: &[u8], answer: &[u8]| AutoReply { question: question.into(), answer: answer.into() };
    weather.rules.routes[0].auto_replies = vec![reply(b"ping", b"pong"), reply(b"2", b"")];
    weather.rules.routes[0].life.idle_ticks = Some(40);
    let mut world = World::new(weather, 14);
    let (asker, other) = (world.open(0, "/room/a"), world.open(0, "/hear/a"));
    world.live(30);
    for (opcode, question) in [(TEXT, &b"ping"[..]), (BINARY, b"ping"), (TEXT, b"2")] {
        world.clients[asker].say(&frames::whole(opcode, question));
    }
    (0..3).for_each(|_| world.run(0));
    // Not by way of the world, whose model knows nothing of answers.
    let client = &mut world.clients[asker];
    client.read(world.now, usize::MAX).unwrap();
    let answers: Vec<Said> =
        client.heard.drain(..).filter(|said| matches!(said, Said::Message { .. })).collect();
    let said = |opcode, payload: &[u8]| Said::Message { opcode, payload: payload.to_vec() };
    assert_eq!(answers, [said(TEXT, b"pong"), said(BINARY, b"pong"), said(TEXT, b"")]);
    world.clients[asker].say(&frames::whole(TEXT, b"ping "));
    let stats = std::sync::Arc::clone(&world.nodes[0].stats);
    assert_eq!((stats.auto_replies.value(), stats.deliveries.value()), (3, 0));
    assert!(world.clients[other].heard.is_empty());
}
