//! Cases of looking at a shard from outside: what is shown of a connection is what it does, and the largest are found.

use bridge::command::{RankBy, Ranking};
use bridge::id::Address;
use bridge::{Channel, Command, Description, EndReason, Pause};
use tokio::sync::oneshot;

use crate::weather::Weather;
use crate::world::World;

impl World {
    /// Asks a shard, lets it run once, and takes its answer.
    fn look<T>(&mut self, shard: usize, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (sender, mut reply) = oneshot::channel();
        assert!(self.command(shard, command(sender)), "the mailbox has room");
        self.run(shard);
        reply.try_recv().unwrap()
    }

    pub(crate) fn described(&mut self, number: usize) -> Option<Box<Description>> {
        let (whom, shard) = (self.clients[number].id.unwrap(), self.clients[number].shard);
        self.look(shard, |reply| Command::Describe { whom, reply })
    }

    fn ranked(&mut self, by: RankBy, limit: usize) -> Vec<(u64, Address)> {
        let Ranking { top, next } = self.look(0, |reply| Command::Rank { by, after: None, limit, reply });
        assert_eq!(next, None, "a small table is one slice");
        top
    }
}

#[test]
fn a_publisher_that_waits_is_shown_with_its_reason() {
    let weather = Weather { mailbox_commands: 2, ..Weather::fair() };
    let mut world = World::new(weather, 6);
    let far = world.open(1, "/hear/a");
    let speaker = world.open(0, "/say/a");
    assert!(world.described(speaker).unwrap().paused.is_empty());
    for _ in 0..4 {
        world.say(speaker, 100);
        (0..2).for_each(|_| world.run(0));
    }
    let seen = world.described(speaker).unwrap();
    assert_eq!((seen.phase, seen.paused), ("open", vec![Pause::Mailbox]));
    assert_eq!(world.nodes[0].stats.paused_by[Pause::Mailbox as usize].value(), 1);
    world.rest();
    assert!(world.described(speaker).unwrap().paused.is_empty());
    world.check_complete(&[far]);
}

#[test]
fn a_connection_is_shown_until_it_has_ended_and_says_why_it_goes() {
    let mut world = World::new(Weather::fair(), 6);
    let slow = world.open(0, "/hear/a");
    world.clients[slow].stop_reading();
    world.clients[slow].tcp.resize(10);
    world.publish(0, 300);
    world.rest();
    let seen = world.described(slow).unwrap();
    assert_eq!((seen.phase, seen.backlog_frames), ("open", 1));
    assert!(
        seen.backlog_bytes > 290 && seen.paused.is_empty(),
        "it is slow to listen, not kept from speaking"
    );
    let whom = world.clients[slow].id.unwrap();
    let close = |reply| Command::Close { whom, code: 4000, reason: "".into(), by: None, reply: Some(reply) };
    world.look(0, close).unwrap();
    world.clients[slow].facts.api_codes.push(4000);
    let seen = world.described(slow).unwrap();
    assert_eq!((seen.phase, seen.closing), ("closing", Some((EndReason::ApiClose, Some(4000)))));
    world.live(world.weather.rules.close_ticks + 5);
    assert!(world.described(slow).is_none());
}

#[test]
fn the_busiest_are_those_who_moved_most_and_the_quiet_are_not_among_them() {
    let mut world = World::new(Weather::fair(), 6);
    let clients: Vec<usize> = (0..5).map(|_| world.open(0, "/echo")).collect();
    for (place, number) in clients.iter().enumerate() {
        (0..place).for_each(|_| world.say(*number, 1000 / place));
    }
    world.rest();
    let id = |world: &World, place: usize| world.clients[clients[place]].id.unwrap();
    let by_messages = world.ranked(RankBy::Messages, 3);
    let expected = [(8, id(&world, 4)), (6, id(&world, 3)), (4, id(&world, 2))];
    assert_eq!(by_messages, expected);
    let by_bytes = world.ranked(RankBy::Bytes, 10);
    assert_eq!(by_bytes.len(), 4, "one has said nothing");
    assert!(by_bytes.is_sorted_by(|one, next| one.0 >= next.0));
}

#[test]
fn the_largest_channels_are_named_and_the_floor_bounds_the_others() {
    let mut world = World::new(Weather::fair(), 6);
    for (path, count) in [("/hear/a", 3), ("/hear/b", 2), ("/hear/c", 1)] {
        for _ in 0..count {
            world.open(0, path);
        }
    }
    let ranking = world.look(0, |reply| Command::RankChannels { after: None, limit: 2, reply });
    let top: Vec<(u64, &str)> = ranking.top.iter().map(|(count, name)| (*count, name.as_str())).collect();
    assert_eq!((top, ranking.floor, ranking.next), (vec![(3, "room.a"), (2, "room.b")], 1, None));
    let channels: Vec<Channel> = ["room.c", "room.none"].map(|name| Channel::parse(name).unwrap()).into();
    let counts = world.look(0, |reply| Command::CountSubscribers { channels: channels.into(), reply });
    assert_eq!(counts, [1, 0]);
}
