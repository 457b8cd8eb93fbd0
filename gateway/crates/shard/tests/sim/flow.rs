//! Single cases of everyday traffic: who is let in, what is heard, in how many writes, and what a stall does.

use bridge::EndReason;

use crate::client::{Stage, request};
use crate::frames::{self, BINARY};
use crate::weather::{LIFE, Weather};
use crate::world::World;

fn world() -> World {
    World::new(Weather::fair(), 2)
}

#[test]
fn an_eager_clients_first_frame_behind_the_head_is_heard() {
    let mut world = world();
    let listener = world.open(1, "/hear/a");
    let eager = world.come(0, "/say/a", request("/say/a").as_bytes(), 1 << 20);
    world.act(eager);
    world.say(eager, 10);
    world.say(eager, 5000 - 2000);
    world.rest();
    assert_eq!(world.clients[eager].stage, Stage::Open);
    world.check_complete(&[listener]);
}

#[test]
fn data_and_fin_in_one_edge_are_both_seen() {
    for count in [1, 30] {
        let mut world = world();
        let listener = world.open(1, "/hear/a");
        let speaker = world.open(0, "/say/a");
        // Thirty of them are more than one scratch.
        (0..count).for_each(|_| world.say(speaker, 3000));
        world.clients[speaker].hang_up(false);
        world.live(2);
        let ending = world.ending(speaker).unwrap();
        assert_eq!((ending.reason, ending.traffic.messages_in), (EndReason::ClientGone, count));
        world.check_complete(&[listener]);
    }
}

#[test]
fn one_who_never_stops_sending_does_not_keep_the_others_waiting() {
    let mut world = world();
    let (loud, quiet) = (world.open(0, "/echo"), world.open(0, "/echo"));
    for _ in 0..8 {
        world.say(loud, 100_000);
    }
    world.say(quiet, 10);
    world.run(0);
    world.act(quiet);
    assert!(world.clients[loud].tcp.unread() > 100_000, "the loud one is carried over");
    world.check_complete(&[quiet]);
    world.rest();
    world.check_complete(&[loud, quiet]);
}

#[test]
fn more_connections_than_fit_are_told_503_and_the_rest_is_served() {
    let weather = Weather { gate_connections: 5, ..Weather::fair() };
    let mut world = World::new(weather, 3);
    let numbers: Vec<usize> = (0..12)
        .map(|number| world.come(number % 2, "/room/a", request("/room/a").as_bytes(), 1 << 20))
        .collect();
    world.rest();
    let open = |world: &World| -> Vec<usize> {
        numbers.iter().copied().filter(|number| world.clients[*number].stage == Stage::Open).collect()
    };
    let told = numbers.iter().filter(|number| world.clients[**number].stage == Stage::Refused(503)).count();
    assert_eq!((open(&world).len(), told), (5, 7));
    world.say(open(&world)[0], 10);
    world.rest();
    world.check_complete(&open(&world));
    let first = open(&world)[0];
    world.clients[first].say_close(1000);
    world.rest();
    world.open(0, "/room/a");
    world.drain(10);
}

#[test]
fn a_shard_without_a_record_left_says_503_to_whoever_is_quick_enough_to_read_it() {
    let weather = Weather { connections: 1, ..Weather::fair() };
    let mut world = World::new(weather, 3);
    let inside = world.open(0, "/room/a");
    let outside = world.come(0, "/room/a", b"", 1 << 20);
    world.rest();
    assert_eq!(world.clients[outside].stage, Stage::Refused(503));
    world.say(inside, 10);
    world.rest();
    world.check_complete(&[inside]);
}

#[test]
fn descriptors_exhausted_is_tried_again_next_tick() {
    let mut world = world();
    let inside = world.open(0, "/room/a");
    world.nodes[0].host.borrow_mut().exhausted = true;
    let before = world.nodes[0].host.borrow().attempts;
    let outside = world.come(0, "/room/a", request("/room/a").as_bytes(), 1 << 20);
    world.rest();
    (0..5).for_each(|_| world.run(0));
    assert_eq!(world.nodes[0].host.borrow().attempts, before + 1, "once in a tick");
    world.live(3);
    assert_eq!(world.nodes[0].host.borrow().attempts, before + 4);
    world.say(inside, 10);
    world.rest();
    world.check_complete(&[inside]);
    world.nodes[0].host.borrow_mut().exhausted = false;
    world.live(1);
    assert_eq!(world.clients[outside].stage, Stage::Open);
}

#[test]
fn a_small_room_does_not_wait_behind_a_huge_one() {
    let mut world = world();
    let crowd = world.open_crowd(900, "/hear/a", |_| 0);
    let alone = world.open(0, "/hear/b");
    world.publish(0, 10);
    world.publish(1, 10);
    world.run(0);
    world.act(alone);
    world.check_complete(&[alone]);
    crowd.iter().for_each(|number| world.act(*number));
    let waiting = crowd.iter().filter(|number| world.model.check_complete(**number).is_err()).count();
    assert!(waiting > 500, "only {waiting} of the huge room still wait");
    world.rest();
    world.check_complete(&crowd);
}

#[test]
fn frames_due_in_one_turn_leave_in_one_write() {
    let mut world = world();
    let number = world.open(0, "/hear/a");
    world.subscribe(number, "room.b");
    world.rest();
    let before = world.clients[number].tcp.writes();
    for _ in 0..10 {
        world.publish(0, 50);
        world.publish(1, 50);
        world.send(number, 50);
    }
    world.rest();
    assert_eq!(world.clients[number].tcp.writes(), before + 1);
    world.check_complete(&[number]);
    (0..10).for_each(|_| world.publish(0, 50));
    world.rest();
    assert_eq!(world.clients[number].tcp.writes(), before + 2, "and so do those of one channel");
}

#[test]
fn a_stopped_process_blames_nobody() {
    // Few events at a time: deadlines pass while their pongs lie in the sockets.
    let weather = Weather { events_per_poll: 2, ..Weather::fair() };
    let mut world = World::new(weather, 4);
    let numbers = world.open_crowd(200, "/room/a", |place| place % 2);
    for number in &numbers {
        world.clients[*number].answers = Some(4);
    }
    for stop in 0..5 {
        world.live(37 + stop);
        world.pass(100);
    }
    world.live(100);
    assert!(world.endings.is_empty(), "{:?}", world.endings);
    assert!(numbers.iter().all(|number| world.clients[*number].pings_heard > 5));
}

#[test]
fn a_pong_that_came_before_the_stall_counts_after_it() {
    let mut world = world();
    let number = world.open(0, "/room/a");
    while world.clients[number].pings_heard == 0 {
        world.live(1);
    }
    // Answered and read; nothing lies in the socket when the deadline is long past.
    world.live(1);
    world.now += 100;
    world.live(5);
    assert!(world.endings.is_empty(), "{:?}", world.endings);
}

#[test]
fn a_client_that_answers_no_ping_is_gone_at_the_deadline() {
    let mut world = world();
    let number = world.open(0, "/room/a");
    world.clients[number].go_mute();
    while world.clients[number].pings_heard == 0 {
        world.live(1);
    }
    world.live(LIFE.pong_ticks - 2);
    assert!(world.ending(number).is_none(), "it has its time");
    world.live(4);
    assert_eq!(world.ending(number).unwrap().reason, EndReason::PongTimeout);
}

#[test]
fn a_close_is_answered_with_its_own_code_and_what_follows_it_is_ignored() {
    let mut world = world();
    let number = world.open(0, "/echo");
    world.clients[number].say_close(4321);
    let late = frames::whole(BINARY, b"too late");
    world.clients[number].tcp.send(&late);
    world.live(2);
    assert_eq!(world.clients[number].close, Some(Some(4321)));
    let ending = world.ending(number).unwrap();
    assert_eq!((ending.reason, ending.received_code), (EndReason::ClientClose, Some(4321)));
}

#[test]
fn a_drain_says_goodbye_to_everybody_and_cuts_those_who_do_not_leave() {
    let mut world = world();
    let polite = world.open_crowd(50, "/room/a", |place| place % 2);
    let rude = world.open(0, "/room/a");
    world.clients[rude].go_mute();
    let greeting = world.come(0, "/room/a", b"GET ", 1 << 20);
    world.rest();
    world.drain(15);
    for number in polite {
        assert_eq!(world.clients[number].close, Some(Some(1001)));
        assert_eq!(world.ending(number).unwrap().received_code, Some(1001));
    }
    assert_eq!(world.ending(rude).unwrap().received_code, None);
    assert!(world.clients[greeting].tcp.closed().is_some());
}
