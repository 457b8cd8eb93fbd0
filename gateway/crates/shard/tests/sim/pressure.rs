//! Single cases at the bounds: slow consumers, full mailboxes, full outboxes, half-written frames.

use bridge::EndReason;
use shard::rules::SlowConsumer;
use store::QueueLimit;

use crate::client::Stage;
use crate::frames::{self, BINARY, PING};
use crate::weather::{LIFE, Weather};
use crate::world::World;

/// A backlog of so many frames and bytes for each connection.
fn narrow(entries: u32, bytes: u32) -> World {
    let mut weather = Weather::fair();
    weather.is_tight = true;
    weather.rules.backlog = QueueLimit { entries, bytes };
    World::new(weather, 5)
}

#[test]
fn a_client_that_never_reads_is_closed_1013_at_the_bound() {
    let mut world = narrow(10, 10_000);
    let (slow, other) = (world.open(0, "/hear/a"), world.open(0, "/hear/a"));
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(100);
    for _ in 0..10 {
        world.publish(0, 200);
        world.rest();
    }
    assert_eq!(world.nodes[0].stats.backlog_entries.value(), 10, "the bound is reached");
    world.publish(0, 200);
    world.rest();
    assert_eq!(world.nodes[0].stats.backlog_entries.value(), 2, "half a frame, and the goodbye");
    world.publish(0, 200);
    world.rest();
    world.check_complete(&[other]);
    world.clients[slow].reading = true;
    world.live(2);
    assert_eq!(world.clients[slow].close, Some(Some(1013)), "it reads that when it reads again");
    assert_eq!(world.ending(slow).unwrap().reason, EndReason::SlowConsumer);
    assert_eq!(world.nodes[0].stats.backlog_bytes.value(), 0);
}

#[test]
fn a_backlog_that_does_not_move_is_closed_though_it_is_small() {
    let mut world = World::new(Weather::fair(), 5);
    let slow = world.open(0, "/hear/a");
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(100);
    world.publish(0, 200);
    let rules = world.weather.rules.clone();
    world.live(LIFE.ping_ticks + LIFE.pong_ticks + rules.close_ticks + 5);
    assert_eq!(world.ending(slow).unwrap().reason, EndReason::SlowConsumer);
}

#[test]
fn a_frame_cut_in_half_by_the_bound_is_followed_by_a_reset_and_not_by_a_goodbye() {
    // The whole backlog is smaller than the rest of the frame, and larger than a close frame.
    let mut weather = Weather::fair();
    (weather.is_tight, weather.backlog_bytes) = (true, 500);
    let mut world = World::new(weather, 5);
    for path in ["/hear/a", "/echo"] {
        let slow = world.open(0, path);
        world.clients[slow].stop_reading();
        world.clients[slow].tcp.resize(1000);
        if path == "/echo" {
            world.say(slow, 1500)
        } else {
            world.publish(0, 1500)
        }
        world.live(1);
        world.clients[slow].reading = true;
        world.live(2);
        let ending = world.ending(slow).unwrap();
        assert_eq!((ending.reason, ending.sent_code), (EndReason::SlowConsumer, None), "{path}");
    }
}

#[test]
fn nothing_follows_a_goodbye_that_a_reply_led_to() {
    let mut world = narrow(2, 100_000);
    let slow = world.open(0, "/echo");
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(50);
    // Two frames wait; the pong is one too many, and a large echo comes behind it.
    world.send(slow, 100);
    world.send(slow, 100);
    world.rest();
    assert_eq!(world.nodes[0].stats.backlog_entries.value(), 2);
    let voice = world.voices[slow];
    let echo = world.model.compose(voice, BINARY, 20_000);
    world.clients[slow].say(&[frames::whole(PING, b"?"), frames::whole(BINARY, &echo)].concat());
    world.model.said(voice, BINARY, echo);
    world.rest();
    world.clients[slow].reading = true;
    world.clients[slow].tcp.resize(1 << 20);
    world.live(2);
    assert_eq!(world.clients[slow].close, Some(Some(1013)));
    assert_eq!(world.ending(slow).unwrap().reason, EndReason::SlowConsumer);
}

#[test]
fn a_full_mailbox_pauses_the_publisher_and_loses_nothing() {
    let weather = Weather { mailbox_commands: 2, ..Weather::fair() };
    let mut world = World::new(weather, 6);
    let near = world.open(0, "/hear/a");
    let far = world.open(1, "/hear/a");
    let speaker = world.open(0, "/room/a");
    // The other shard does not run: its mailbox fills, and with it the patience for this speaker.
    for _ in 0..10 {
        world.say(speaker, 100);
        (0..5).for_each(|_| world.run(0));
    }
    assert_eq!(world.nodes[0].stats.paused.value(), 1);
    assert!(world.clients[speaker].tcp.unread() > 500, "it is not read meanwhile");
    world.rest();
    assert_eq!(world.nodes[0].stats.paused.value(), 0);
    world.check_complete(&[near, far, speaker]);
}

#[test]
fn publishers_that_wait_for_the_same_mailbox_go_on_by_turns() {
    const MESSAGES: u32 = 300;
    const ONE_READ: u32 = 66;
    let weather = Weather { mailbox_commands: 2, ..Weather::fair() };
    let mut world = World::new(weather, 6);
    let far = world.open(1, "/hear/a");
    let speakers: Vec<usize> = (0..3).map(|_| world.open(0, "/say/a")).collect();
    for speaker in &speakers {
        (0..MESSAGES).for_each(|_| world.say(*speaker, 1000));
    }
    for _ in 0..2000 {
        world.run(0);
        world.run(1);
        let counts: Vec<u32> =
            speakers.iter().map(|speaker| world.described(*speaker).unwrap().traffic.messages_in).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= ONE_READ, "nobody is a read ahead of the others: {counts:?}");
        if *least == MESSAGES {
            break;
        }
    }
    assert!(world.nodes[0].stats.publishes_delayed.value() > 500, "they had to wait");
    world.rest();
    world.check_complete(&[far]);
    assert!(
        speakers.iter().all(|speaker| world.described(*speaker).unwrap().traffic.messages_in == MESSAGES)
    );
}

#[test]
fn what_a_publisher_left_behind_is_placed_after_its_end() {
    let weather = Weather { mailbox_commands: 1, outbox_events: 1, ..Weather::fair() };
    let mut world = World::new(weather, 6);
    let far = world.open(1, "/hear/a");
    let speaker = world.open(0, "/say/a");
    // Others leave first and fill the outbox, so that the speaker's record outlives its connection.
    let others = world.open_crowd(3, "/echo", |_| 0);
    world.nodes[0].blocked = true;
    for number in others {
        world.clients[number].say_close(1000);
    }
    (0..3).for_each(|_| world.run(0));
    (0..5).for_each(|_| world.say(speaker, 100));
    world.clients[speaker].say_close(1000);
    world.run(0);
    assert_eq!(world.nodes[0].stats.publishes_delayed.value(), 4);
    assert!(world.clients[speaker].tcp.closed().is_some(), "it has ended with its messages waiting");
    for _ in 0..10 {
        world.run(1);
        world.run(0);
    }
    world.act(far);
    world.check_complete(&[far]);
    world.nodes[0].blocked = false;
    world.take_batches(0);
    world.live(3);
    assert_eq!(world.ending(speaker).unwrap().traffic.messages_in, 5);
}

#[test]
fn a_publisher_is_put_off_once_however_often_it_is_written_to() {
    let weather = Weather { mailbox_commands: 1, ..Weather::fair() };
    let mut world = World::new(weather, 7);
    let far = world.open(1, "/hear/a");
    let flood = world.open(0, "/say/a");
    let second = world.open(0, "/room/b");
    (0..1100).for_each(|_| world.say(flood, 0));
    (0..3).for_each(|_| world.run(0));
    // As many wait as may: the second one, whose room has nothing to do with it, is put off unread.
    world.say(second, 10);
    world.run(0);
    assert_eq!(world.nodes[0].stats.paused.value(), 2);
    for _ in 0..20 {
        world.send(second, 10);
        (0..2).for_each(|_| world.run(0));
    }
    assert_eq!(world.nodes[0].stats.paused.value(), 2, "what it is told does not put it on");
    world.rest();
    world.check_complete(&[far, second]);
}

#[test]
fn endings_wait_for_a_full_outbox_and_none_is_lost() {
    let weather = Weather { outbox_events: 2, ..Weather::fair() };
    let mut world = World::new(weather, 8);
    let numbers = world.open_crowd(20, "/room/a", |_| 0);
    world.nodes[0].blocked = true;
    for number in &numbers {
        world.clients[*number].say_close(1000);
    }
    (0..30).for_each(|_| world.run(0));
    assert!(world.nodes[0].shard.connections() >= 16, "records stay until their endings are taken");
    assert_eq!(world.gate.connections(), world.nodes[0].shard.connections());
    world.nodes[0].blocked = false;
    world.take_batches(0);
    world.live(2);
    assert!(numbers.iter().all(|number| world.ending(*number).is_some()));
    assert_eq!(world.nodes[0].shard.connections(), 0);
}

#[test]
fn a_refusal_that_does_not_fit_the_socket_is_finished_later() {
    let mut world = World::new(Weather::fair(), 9);
    let number = world.come(0, "/nowhere", crate::client::request("/nowhere").as_bytes(), 10);
    world.clients[number].facts.refusals = vec![404];
    world.rest();
    assert_eq!(world.clients[number].stage, Stage::Refused(404));
    assert!(world.clients[number].tcp.closed().is_some());
    assert_eq!(world.gate.connections(), 0);
}

/// A listener that stops reading under this policy, with room for so many frames, and what has been said to it since.
fn deaf(policy: SlowConsumer, entries: u32) -> (World, usize) {
    let mut weather = Weather::fair();
    weather.rules.routes[3].slow_consumer = policy;
    weather.rules.backlog = QueueLimit { entries, bytes: 100_000 };
    let mut world = World::new(weather, 10);
    let slow = world.open(0, "/hear/a");
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(300);
    world.take_in(slow);
    (world, slow)
}

/// Says so many lines of about 200 bytes to the room, lets the client read, and tells which it heard.
fn heard_of(world: &mut World, slow: usize, lines: usize) -> Vec<String> {
    for _ in 0..lines {
        world.publish(0, 200);
        world.rest();
    }
    world.send(slow, 10);
    world.rest();
    world.clients[slow].tcp.resize(1 << 20);
    // The world would take in what it hears, so it reads by itself here.
    let mut heard = Vec::new();
    for _ in 0..3 {
        world.clients[slow].read(world.now, usize::MAX).unwrap();
        while let Some(said) = world.clients[slow].heard.pop_front() {
            if let frames::Said::Message { payload, .. } = said {
                let start: Vec<_> = payload.split(|byte| *byte == b' ').take(2).map(<[u8]>::to_vec).collect();
                heard.push(String::from_utf8(start.join(&b' ')).unwrap());
            }
        }
        world.run(0);
    }
    assert!(world.ending(slow).is_none());
    heard
}

fn dropped(world: &World, policy: SlowConsumer) -> u64 {
    world.nodes[0].stats.deliveries_dropped[policy as usize].value()
}

#[test]
fn what_is_started_or_direct_stays_whatever_gives_way() {
    // Ten lines; two are in the socket, the second in part, so three places are left for the others and the direct one.
    for (policy, expected) in
        [(SlowConsumer::DropNewest, [0, 1, 2, 3]), (SlowConsumer::DropOldest, [0, 1, 8, 9])]
    {
        let (mut world, slow) = deaf(policy, 4);
        let heard = heard_of(&mut world, slow, 10);
        let numbers: Vec<&str> = heard.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        let (direct, lines) = numbers.split_last().unwrap();
        assert_eq!(*direct, "0", "{policy:?} {heard:?}");
        let lines: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
        // The direct message took a place, by which the oldest that waited gave way.
        let expected =
            if policy == SlowConsumer::DropNewest { vec![0, 1, 3, 4] } else { vec![expected[0], 1, 8, 9] };
        assert_eq!(lines, expected, "{policy:?}");
        assert_eq!(dropped(&world, policy), 6);
        assert_eq!(dropped(&world, SlowConsumer::Close), 0);
    }
}

#[test]
fn of_each_channel_the_latest_waits() {
    let (mut world, slow) = deaf(SlowConsumer::KeepLatest, 50);
    let heard = heard_of(&mut world, slow, 10);
    let numbers: Vec<&str> = heard.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(numbers, ["0", "1", "9", "0"]);
    assert_eq!(dropped(&world, SlowConsumer::KeepLatest), 7);
}

#[test]
fn direct_messages_alone_can_still_be_too_many() {
    let (mut world, slow) = deaf(SlowConsumer::DropOldest, 4);
    world.weather.is_tight = true;
    for _ in 0..8 {
        world.send(slow, 200);
        world.rest();
    }
    world.clients[slow].reading = true;
    world.live(2);
    assert_eq!(world.ending(slow).unwrap().reason, EndReason::SlowConsumer);
}

#[test]
fn one_shard_may_hold_what_the_others_do_not_need() {
    let mut weather = Weather::fair();
    weather.backlog_bytes = 300_000;
    let mut world = World::new(weather, 10);
    let slow = [world.open(0, "/hear/a"), world.open(1, "/hear/b")];
    for number in slow {
        world.clients[number].stop_reading();
        world.clients[number].tcp.resize(100);
    }
    (0..35).for_each(|_| {
        world.publish(0, 7000);
        world.rest();
    });
    assert!(world.nodes[0].stats.backlog_bytes.value() > 240_000, "more than an even part of the bytes");
    world.clients[slow[0]].tcp.resize(1 << 20);
    world.clients[slow[0]].reading = true;
    world.live(2);
    assert!(world.node_bytes.left() >= 300_000 - 2 * 65_536, "what is not needed is given back");
    world.check_complete(&slow[..1]);
}
