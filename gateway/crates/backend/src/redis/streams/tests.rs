//! Streams by themselves, and against a Redis that a seed plays: losses, refusals, groups that fall behind.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use bridge::inbound::Occurrence;
use bridge::message::Bytes;
use bridge::{Address, Kind, Upstream};

use super::*;

const BOUNDS: Bounds = Bounds { stream_entries: 8, batch_events: 4, batch_bytes: 100 };
const KEY: StreamKey = StreamKey { route: 0, partition: 0 };

fn event(slot: u32, sequence: u32, bytes: usize) -> Inbound {
    Inbound {
        upstream: Upstream(0),
        partition: (slot % 3) as u16,
        address: Address { shard: 0, slot, generation: 1 },
        route: 0,
        sequence,
        principal: None,
        occurrence: Occurrence::Message { kind: Kind::Binary, payload: Bytes::from(vec![0; bytes]) },
    }
}

/// Slot and sequence.
fn of(waiting: &Waiting) -> (u32, u32) {
    match &waiting.content {
        Content::Event(inbound) => (inbound.address.slot, inbound.sequence),
        Content::Gap(gap) => panic!("{gap:?}"),
    }
}

fn id(text: &str) -> EntryId {
    text.parse().unwrap()
}

fn group(last: &str, pending: Option<&str>) -> Group {
    Group { last_delivered: id(last), least_pending: pending.map(id) }
}

#[test]
fn nothing_that_a_group_needs_is_trimmed() {
    assert_eq!(first_needed(&[]), None, "nobody has acknowledged anything");
    assert_eq!(first_needed(&[group("5-0", None)]), Some(id("5-1")));
    assert_eq!(first_needed(&[group("5-0", Some("3-7"))]), Some(id("3-7")));
    let slow_and_fast = [group("9-0", None), group("4-2", None), group("9-0", Some("4-3"))];
    assert_eq!(first_needed(&slow_and_fast), Some(id("4-3")));
    assert_eq!(id(&format!("7-{}", u64::MAX)).next(), id("8-0"));
}

#[test]
fn a_large_event_goes_alone_and_a_batch_is_bounded() {
    let mut streams = Streams::new(Bounds { stream_entries: 1000, ..BOUNDS });
    for (sequence, bytes) in (1..).zip([60, 60, 500, 1, 1, 1, 1, 1]) {
        streams.push(event(0, sequence, bytes));
    }
    assert_eq!(streams.step(0), Step::Survey(KEY), "nothing is known of it");
    streams.surveyed(KEY, 0, &[], 0);
    let mut sizes = Vec::new();
    while streams.step(0) == Step::Add {
        sizes.push(streams.under_way()[0].1.len());
        streams.added(&[Added::Length(1)], 0, |_| ());
    }
    assert_eq!(sizes, [1, 1, 1, 4, 1]);
    assert_eq!(streams.waiting(), 0);
}

#[test]
fn a_full_stream_holds_its_own_events_only_and_is_looked_at_ever_more_rarely() {
    let mut streams = Streams::new(BOUNDS);
    streams.push(event(0, 1, 1));
    streams.push(event(1, 1, 1));
    assert_eq!(streams.step(0), Step::Survey(KEY));
    streams.surveyed(KEY, 8, &[], 0);
    let other = StreamKey { route: 0, partition: 1 };
    assert_eq!(streams.step(0), Step::Survey(other));
    streams.surveyed(other, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Add);
    assert_eq!(streams.under_way()[0].0, other);
    streams.added(&[Added::Length(1)], 0, |_| ());

    let (mut now, mut waits) = (0, Vec::new());
    for _ in 0..7 {
        let Step::Wait(Some(at)) = streams.step(now) else { panic!("it is held") };
        waits.push(at - now);
        now = at;
        assert_eq!(streams.step(now), Step::Survey(KEY));
        streams.surveyed(KEY, 8, &[group("1-0", Some("1-0"))], now);
        assert_eq!(streams.step(now), Step::Trim(KEY, id("1-0")));
        streams.trimmed(KEY, 8, now);
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!(streams.held(), 1);
    let Step::Wait(Some(at)) = streams.step(now) else { panic!("it is held") };
    assert_eq!(streams.step(at), Step::Survey(KEY));
    streams.surveyed(KEY, 8, &[group("5-0", None)], at);
    assert_eq!(streams.step(at), Step::Trim(KEY, id("5-1")));
    streams.trimmed(KEY, 3, at);
    assert_eq!(streams.step(at), Step::Add);
}

#[test]
fn what_was_refused_waits_and_what_was_lost_goes_again_and_says_so() {
    let mut streams = Streams::new(BOUNDS);
    (1..=3).for_each(|sequence| streams.push(event(0, sequence, 1)));
    streams.step(0);
    streams.surveyed(KEY, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Add);
    streams.added(&[Added::Refused], 0, |_| panic!("nothing is settled"));
    assert_eq!(streams.step(0), Step::Wait(Some(50)));
    assert_eq!(streams.step(50), Step::Survey(KEY));
    streams.surveyed(KEY, 0, &[], 50);
    assert_eq!(streams.step(50), Step::Add);
    assert!(streams.under_way()[0].1.iter().all(|event| !event.again), "it certainly is not in");
    streams.lost();
    assert_eq!(streams.step(50), Step::Survey(KEY), "it may be another server");
    streams.surveyed(KEY, 3, &[], 50);
    streams.push(event(0, 4, 1));
    assert_eq!(streams.step(50), Step::Add);
    let again: Vec<_> = streams.under_way()[0].1.iter().map(|event| (of(event).1, event.again)).collect();
    assert_eq!(again, [(1, true), (2, true), (3, true), (4, false)]);
}

#[test]
fn gaps_that_nobody_was_told_of_become_one() {
    let mut streams = Streams::new(BOUNDS);
    streams.push(event(0, 1, 1));
    streams.tell_gap(KEY, Gap { from_ms: 10, to_ms: 20 });
    streams.tell_gap(KEY, Gap { from_ms: 30, to_ms: 40 });
    assert_eq!(streams.waiting(), 2);
    streams.step(0);
    streams.surveyed(KEY, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Add);
    let told = &streams.under_way()[0].1[1].content;
    assert!(matches!(told, Content::Gap(Gap { from_ms: 10, to_ms: 40 })), "{told:?}");
    let mut settled = 0;
    streams.added(&[Added::Length(2)], 0, |_| settled += 1);
    assert_eq!((settled, streams.waiting()), (1, 0), "a gap is nobody's event");
}

#[test]
fn gaps_outlast_the_events_that_are_given_up_and_become_one_however_often_that_happens() {
    let mut streams = Streams::new(BOUNDS);
    let (gap, other) = (|from_ms| Gap { from_ms, to_ms: from_ms + 5 }, StreamKey { route: 1, partition: 0 });
    streams.tell_gap(KEY, gap(10));
    streams.step(0);
    streams.surveyed(KEY, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Add);
    streams.push(event(0, 1, 1));
    // It is lost again before anybody said that the first gap is in.
    streams.lost();
    let out = streams.take_out(|route| route == 0);
    assert_eq!((out.len(), streams.waiting()), (1, 1));
    streams.tell_gap(KEY, gap(20));
    streams.push(event(0, 2, 1));
    streams.tell_gap(KEY, gap(30));
    streams.tell_gap(other, gap(30));
    assert_eq!(streams.take_out(|route| route == 0).len(), 1);
    assert_eq!(streams.waiting(), 2, "one for each stream");
    streams.step(0);
    streams.surveyed(KEY, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Survey(other));
    streams.surveyed(other, 0, &[], 0);
    assert_eq!(streams.step(0), Step::Add);
    let told = &streams.under_way()[0].1;
    assert!(matches!(told[0].content, Content::Gap(Gap { from_ms: 10, to_ms: 35 })), "{told:?}");
    assert!(told[0].again, "the first part of it may be in");
    streams.added(&[Added::Length(1), Added::Length(1)], 0, |_| panic!("a gap is nobody's event"));
    assert_eq!(streams.waiting(), 0);
}

/// Redis as far as it matters: streams whose entries are (connection, sequence), and one group each that falls behind.
#[derive(Default)]
struct Server {
    streams: BTreeMap<StreamKey, Vec<(EntryId, u32, u32)>>,
    counter: u64,
    /// How far each stream's group has read, and what it has not acknowledged.
    groups: BTreeMap<StreamKey, (EntryId, Vec<EntryId>)>,
    /// Every entry ever added, by stream.
    history: BTreeMap<StreamKey, Vec<(u32, u32)>>,
}

impl Server {
    fn add(&mut self, batch: &[(StreamKey, Vec<Waiting>)]) -> Vec<Added> {
        let mut outcomes = Vec::new();
        for (key, events) in batch {
            for event in events {
                self.counter += 1;
                let (slot, sequence) = of(event);
                let entry = (id(&format!("{}-0", self.counter)), slot, sequence);
                self.streams.entry(*key).or_default().push(entry);
                self.history.entry(*key).or_default().push((slot, sequence));
            }
            outcomes.push(Added::Length(self.streams[key].len() as u64));
        }
        outcomes
    }

    fn consume(&mut self, random: &mut fastrand::Rng) {
        for (key, entries) in &self.streams {
            let (last, pending) = self.groups.entry(*key).or_default();
            if let Some((next, ..)) = entries.iter().find(|(entry, ..)| *entry > *last)
                && random.bool()
            {
                *last = *next;
                pending.push(*next);
            }
            if !pending.is_empty() && random.bool() {
                pending.swap_remove(random.usize(..pending.len()));
            }
        }
    }

    fn survey(&self, key: StreamKey) -> (u64, Vec<Group>) {
        let length = self.streams.get(&key).map_or(0, Vec::len) as u64;
        let group = self.groups.get(&key).map(|(last, pending)| Group {
            last_delivered: *last,
            least_pending: pending.iter().min().copied(),
        });
        (length, group.into_iter().collect())
    }

    fn trim(&mut self, key: StreamKey, before: EntryId) -> u64 {
        let entries = self.streams.entry(key).or_default();
        let (last, pending) = &self.groups[&key];
        for (entry, ..) in entries.iter().filter(|(entry, ..)| *entry < before) {
            assert!(entry <= last && !pending.contains(entry), "{entry} is not acknowledged");
        }
        entries.retain(|(entry, ..)| *entry >= before);
        entries.len() as u64
    }
}

#[test]
fn whatever_happens_every_event_is_in_its_stream_in_order_and_none_is_trimmed_unread() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut streams, mut server) = (Streams::new(BOUNDS), Server::default());
        let mut sent: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut settled, mut now) = (0, 0);
        for round in 0..3_000 {
            if round < 1_500 && streams.waiting() < 20 {
                let slot = random.u32(..6);
                let sequence = sent.entry(slot).or_default();
                *sequence += 1;
                streams.push(event(slot, *sequence, random.usize(..60)));
            }
            server.consume(&mut random);
            now += random.u64(..20);
            match streams.step(now) {
                Step::Wait(_) => {}
                Step::Survey(key) => {
                    let (length, groups) = server.survey(key);
                    streams.surveyed(key, length, &groups, now);
                }
                Step::Trim(key, before) => {
                    let length = server.trim(key, before);
                    streams.trimmed(key, length, now);
                }
                Step::Add => {
                    let batch = streams.under_way().to_vec();
                    let is_calm = round > 1_500;
                    match random.u32(..10) {
                        0 if !is_calm => streams.lost(),
                        1 if !is_calm => {
                            server.add(&batch);
                            streams.lost();
                        }
                        2 if !is_calm => {
                            streams.added(&vec![Added::Refused; batch.len()], now, |_| unreachable!());
                        }
                        _ => {
                            let outcomes = server.add(&batch);
                            streams.added(&outcomes, now, |one| settled += u32::from(one.events));
                        }
                    }
                }
            }
            for (key, entries) in &server.streams {
                assert!(entries.len() <= 8, "seed {seed}: {key:?} is beyond its bound");
            }
        }
        assert_eq!(streams.waiting(), 0, "seed {seed}");
        assert_eq!(settled, sent.values().sum::<u32>(), "seed {seed}: each is settled once");
        for (slot, last) in &sent {
            let key = StreamKey { route: 0, partition: (slot % 3) as u16 };
            let mut next = 1;
            for (_, sequence) in server.history[&key].iter().filter(|(of, _)| of == slot) {
                assert!(*sequence <= next, "seed {seed}: {slot} skips to {sequence}");
                next = next.max(sequence + 1);
            }
            assert_eq!(next - 1, *last, "seed {seed}: all of {slot} is in");
        }
    }
}
