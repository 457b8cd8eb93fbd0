//! App servers: they are told what connections do, and settle it when they please. The books of what they were told,
//! and single cases of upstreams that are slow, full or away.
//!
//! Owns what must hold of events: one order per connection, opened first, closed last, nothing left out, nothing twice,
//! and never more under way than the quota. Refuses to know how a shard does it.

use std::collections::HashMap;

use bridge::inbound::{Occurrence, Settled};
use bridge::{Address, Command, EndReason, Inbound, Kind, Quota, Upstream};
use fastrand::Rng;

use crate::client::Stage;
use crate::frames::{BINARY, TEXT};
use crate::weather::Weather;
use crate::world::{SHARDS, World};

/// What was told of one connection.
#[derive(Debug, Default)]
struct Story {
    last: u32,
    messages: usize,
    voice: Option<usize>,
    /// Messages that are not settled.
    in_hand: u16,
    is_closed: bool,
}

/// All app servers.
#[derive(Default)]
pub(crate) struct App {
    stories: HashMap<Address, Story>,
    unsettled: Vec<(Upstream, Settled)>,
    /// Nothing is settled.
    pub(crate) away: bool,
    /// Peers may be dropped messages of.
    pub(crate) messages: usize,
}

/// Whether app servers are told what clients on this path do.
pub(crate) fn tells_app(path: &str) -> bool {
    path.starts_with("/app/") || path.starts_with("/member/")
}

impl App {
    /// Takes an event. A message comes back: the speaker's stream, its line, and what was said.
    pub(crate) fn told(
        &mut self,
        inbound: Inbound,
        quotas: &[Quota],
    ) -> Result<Option<(u8, Vec<u8>)>, String> {
        let Inbound { upstream, partition, address, sequence, .. } = inbound;
        let quota = quotas[usize::from(upstream.0)];
        if partition != address.partition(quota.partitions) {
            return Err(format!("{address:?} is told as of partition {partition}"));
        }
        let settled = inbound.settled();
        self.unsettled.push((upstream, settled));
        self.check_quota(&inbound, quota)?;
        let story = self.stories.entry(address).or_default();
        if sequence != story.last + 1 || story.is_closed {
            return Err(format!("{address:?}: event {sequence} behind {story:?}"));
        }
        story.last = sequence;
        story.in_hand += settled.messages;
        if story.in_hand > quota.connection_events {
            return Err(format!("{address:?}: more than its window"));
        }
        match inbound.occurrence {
            Occurrence::Opened(_) if sequence == 1 => Ok(None),
            Occurrence::Closed { .. } if sequence > 1 => {
                story.is_closed = true;
                Ok(None)
            }
            Occurrence::Message { kind, payload } if sequence > 1 => {
                self.messages += 1;
                let opcode = if kind == Kind::Text { TEXT } else { BINARY };
                Ok(Some((opcode, payload.to_vec())))
            }
            other => Err(format!("{address:?}: event {sequence} is {other:?}")),
        }
    }

    fn check_quota(&self, inbound: &Inbound, quota: Quota) -> Result<(), String> {
        let is_same = |(upstream, settled): &&(Upstream, Settled)| {
            let same_shard = settled.address.shard == inbound.address.shard;
            *upstream == inbound.upstream && same_shard && settled.partition == inbound.partition
        };
        let lane: Vec<&Settled> = self.unsettled.iter().filter(is_same).map(|(_, settled)| settled).collect();
        let bytes: u32 = lane.iter().map(|settled| settled.bytes).sum();
        let before = bytes - inbound.payload_bytes();
        let fits = lane.len() as u32 <= quota.events && (lane.len() == 1 || before < quota.bytes);
        if fits { Ok(()) } else { Err(format!("{} events, {bytes} bytes under way", lane.len())) }
    }

    /// The next line of this connection's speaker must be this one.
    pub(crate) fn follows(
        &mut self,
        address: Address,
        voice: usize,
        line: usize,
        may_skip: bool,
    ) -> Result<(), String> {
        let story = self.stories.entry(address).or_default();
        let known = *story.voice.get_or_insert(voice);
        let fits = line == story.messages || (may_skip && line > story.messages);
        if known != voice || !fits {
            return Err(format!("line {line} of {voice} is told as of {story:?}"));
        }
        story.messages = line + 1;
        Ok(())
    }

    /// Lets go of up to so many, in any order.
    fn release(&mut self, rng: &mut Rng, most: usize) -> Vec<(Upstream, Settled)> {
        let count = most.min(self.unsettled.len());
        let mut released = Vec::with_capacity(count);
        for _ in 0..count {
            let (upstream, settled) = self.unsettled.swap_remove(rng.usize(..self.unsettled.len()));
            if let Some(story) = self.stories.get_mut(&settled.address) {
                story.in_hand -= settled.messages;
            }
            released.push((upstream, settled));
        }
        released
    }

    /// Of so many connections it was never told that they had ended.
    pub(crate) fn unclosed(&self) -> usize {
        self.stories.values().filter(|story| !story.is_closed).count()
    }

    pub(crate) fn has_all_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Messages told of a connection.
    pub(crate) fn messages_of(&self, address: Address) -> usize {
        self.stories.get(&address).map_or(0, |story| story.messages)
    }
}

impl World {
    /// App servers settle up to so many events; what a mailbox does not take stays with them.
    pub(crate) fn settle(&mut self, most: usize) {
        for (upstream, settled) in self.app.release(&mut self.rng, most) {
            let shard = usize::from(settled.address.shard);
            let command = Command::Settle { upstream, settled: vec![settled] };
            if !self.command(shard, command) {
                if let Some(story) = self.app.stories.get_mut(&settled.address) {
                    story.in_hand += settled.messages;
                }
                self.app.unsettled.push((upstream, settled));
            }
        }
    }

    /// An event for app servers.
    pub(crate) fn tell_app(&mut self, inbound: Inbound) {
        let address = inbound.address;
        let user = inbound.principal.as_ref().and_then(|principal| principal.user.as_ref());
        assert_eq!(user, self.judge.user_of(address), "{address:?} is told as of another user");
        let told = self.app.told(inbound, &self.weather.upstreams);
        let outcome = told.and_then(|message| {
            let Some((opcode, payload)) = message else { return Ok(()) };
            let (voice, line) = self.model.find(opcode, &payload)?;
            self.app.follows(address, voice, line, self.weather.drops)
        });
        if let Err(wrong) = outcome {
            panic!("{wrong}");
        }
    }
}

/// Quotas of an upstream with one partition.
const NARROW: Quota =
    Quota { partitions: 1, events: 4, bytes: 1000, connection_events: 2, patience_ticks: 1000 };

fn world(quota: Quota) -> World {
    let weather = Weather { upstreams: vec![quota], outbox_events: 100, ..Weather::fair() };
    let mut world = World::new(weather, 11);
    world.app.away = true;
    world
}

#[test]
fn a_connection_at_its_window_is_not_read_and_others_are() {
    let mut world = world(Quota { events: 100, ..NARROW });
    let (busy, other) = (world.open(0, "/app/a"), world.open(0, "/app/b"));
    (0..5).for_each(|_| world.say(busy, 10));
    world.say(other, 10);
    world.rest();
    assert_eq!(world.app.messages, 3, "two of the busy one, one of the other");
    assert_eq!(world.nodes[0].stats.paused.value(), 1);
    world.say(other, 10);
    world.rest();
    assert_eq!(world.app.messages, 4);
    world.app.away = false;
    world.live(5);
    assert_eq!((world.app.messages, world.nodes[0].stats.paused.value()), (7, 0));
    assert!(world.app.has_all_settled());
}

#[test]
fn what_one_read_brings_beyond_the_room_waits_unparsed_and_in_order() {
    let mut world = world(NARROW);
    let client = world.open(0, "/app/a");
    (0..200).for_each(|_| world.say(client, 3));
    world.rest();
    assert_eq!(world.app.messages, 2);
    assert!(world.nodes[0].stats.assembly_bytes.value() > 0, "the rest of the read is kept");
    world.app.away = false;
    world.live(300);
    assert_eq!(world.app.messages, 200);
    assert_eq!(world.nodes[0].stats.assembly_bytes.value(), 0);
}

#[test]
fn those_who_wait_for_a_full_upstream_are_served_by_turns() {
    let mut world = world(NARROW);
    let clients = world.open_crowd(12, "/app/a", |_| 0);
    for client in &clients {
        (0..50).for_each(|_| world.say(*client, 10));
    }
    let heard = |world: &World| -> Vec<usize> {
        let of = |client: &usize| world.app.messages_of(world.clients[*client].id.unwrap());
        clients.iter().map(of).collect()
    };
    world.app.away = false;
    for _ in 0..2000 {
        world.run(0);
        let heard = heard(&world);
        let (least, most) = (heard.iter().min().unwrap(), heard.iter().max().unwrap());
        if *most == 50 {
            assert!(*least >= 30, "some are served before others: {heard:?}");
            return;
        }
    }
    panic!("never done: {:?}", heard(&world));
}

#[test]
fn an_upstream_that_takes_nothing_costs_patience_and_then_1013_for_those_who_speak() {
    let mut world = world(Quota { patience_ticks: 50, ..NARROW });
    let speakers = world.open_crowd(8, "/app/a", |_| 0);
    world.live(2);
    assert_eq!(world.nodes[0].stats.inbound.value(), 4, "four were told of, four wait");
    let quiet = speakers.iter().filter(|client| world.clients[**client].is_live()).count();
    assert_eq!(quiet, 8);
    world.live(48);
    assert!(speakers.iter().all(|client| world.clients[*client].stage == Stage::Open), "it is patient");
    world.live(10);
    let closed: Vec<_> = speakers.iter().filter_map(|client| world.ending(*client)).collect();
    assert_eq!(closed.len(), 4);
    assert!(
        closed.iter().all(|ending| ending.reason == EndReason::Upstream && ending.sent_code == Some(1013))
    );
    world.app.away = false;
    world.live(5);
    assert_eq!(world.app.unclosed(), 4, "whom nobody knew nobody needs to forget");
}

#[test]
fn a_record_stays_until_its_upstream_knows_that_it_is_gone() {
    let mut world = world(NARROW);
    let clients = world.open_crowd(4, "/app/a", |_| 0);
    for client in &clients {
        let whom = world.clients[*client].id.unwrap();
        world.clients[*client].facts.api_codes.push(4000);
        world.command(0, Command::Close { whom, code: 4000, reason: "".into(), by: None, reply: None });
    }
    world.live(5);
    assert_eq!(world.endings.len(), 4, "the log knows at once");
    assert_eq!(world.nodes[0].shard.connections(), 4);
    world.app.away = false;
    world.live(5);
    assert_eq!((world.nodes[0].shard.connections(), world.app.unclosed()), (0, 0));
}

#[test]
fn a_drain_gives_up_on_an_upstream_that_is_away() {
    let mut world = world(NARROW);
    world.open_crowd(8, "/app/a", |client| client % SHARDS);
    world.drain(40);
    let given_up: u64 = world.nodes.iter().map(|node| node.stats.inbound_given_up.value()).sum();
    assert!(given_up > 0);
    assert_eq!(world.app.unclosed() as u64, given_up);
}
