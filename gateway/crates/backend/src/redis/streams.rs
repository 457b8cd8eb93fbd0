//! What goes into the streams of the bus, and when: queues of events by stream, one batch under way at a time, and the
//! bound of each stream. Sans-IO: it is told what Redis answered and says what to ask next.
//!
//! Promises: events of one stream go in the order in which they came; what was not confirmed is sent again, in that
//! order, so every event is there at least once; a stream is never trimmed beyond an entry that some group has not
//! acknowledged, so at its bound its events wait here, unsettled, and the connections that feed it are not read.
//! Refuses to bound what waits: the shards' quota does. Driven by [`super::inbound`].

use std::collections::{HashMap, VecDeque};

use bridge::Inbound;
use bridge::inbound::Settled;

use super::entry::EntryId;

/// One stream: of a route, by number, and a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    pub(crate) route: u16,
    pub(crate) partition: u16,
}

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Entries of a stream, acknowledged ones that are not trimmed yet included.
    pub(crate) stream_entries: u64,
    /// Events in one batch.
    pub(crate) batch_events: usize,
    /// Payload bytes in one batch. A larger event goes alone.
    pub(crate) batch_bytes: usize,
}

/// An event on its way.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) inbound: Inbound,
    /// It was sent before and not confirmed: it may be in the stream already.
    pub(crate) again: bool,
}

/// What became of a stream's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// All of it is in, and the stream is so long now.
    Length(u64),
    /// Redis refused all of it.
    Refused,
}

/// A consumer group, as far as trimming is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The last entry that any of its consumers was given.
    pub(crate) last_delivered: EntryId,
    /// The first entry that was given and is not acknowledged.
    pub(crate) least_pending: Option<EntryId>,
}

/// What to ask Redis next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Add what [`Streams::under_way`] holds, and answer with [`Streams::added`] or [`Streams::lost`].
    Add,
    /// Ask for the length of this stream and for its groups; answer with [`Streams::surveyed`].
    Survey(StreamKey),
    /// Trim everything before this entry; answer with [`Streams::trimmed`].
    Trim(StreamKey, EntryId),
    /// Nothing to do until then, or until an event comes. In milliseconds of the caller's clock.
    Wait(Option<u64>),
}

/// Looks at a full stream come at this interval at first, twice as long each time, and at last at the longest one.
const LOOK_MS: u64 = 50;
const LOOK_MS_MAX: u64 = 1_000;

/// All streams of a node.
pub(crate) struct Streams {
    bounds: Bounds,
    table: HashMap<StreamKey, Stream>,
    /// Streams with events that may go, in turn.
    ready: VecDeque<StreamKey>,
    /// Streams that have to be looked at before more may go.
    unsure: VecDeque<StreamKey>,
    /// Streams at their bound, or that refuse, and when to look again.
    held: Vec<(u64, StreamKey)>,
    /// What was decided to trim.
    trim: Option<(StreamKey, EntryId)>,
    under_way: Vec<(StreamKey, Vec<Waiting>)>,
    waiting: usize,
}

#[derive(Default)]
struct Stream {
    events: VecDeque<Waiting>,
    /// `None`: not known, as after a break.
    length: Option<u64>,
    /// At this length it is worth looking for something to trim.
    look_at: u64,
    /// How long to wait for the next look; zero when it is not held.
    look_ms: u64,
    /// Whether it is in `ready`, `unsure`, `held`, `trim` or under way: at most in one of them.
    is_listed: bool,
}

/// The first entry that some group still needs; everything before it may go. `None` when there is no group: then
/// nobody has acknowledged anything.
pub(crate) fn first_needed(groups: &[Group]) -> Option<EntryId> {
    groups.iter().map(|group| group.least_pending.unwrap_or_else(|| group.last_delivered.next())).min()
}

impl Streams {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            table: HashMap::new(),
            ready: VecDeque::new(),
            unsure: VecDeque::new(),
            held: Vec::new(),
            trim: None,
            under_way: Vec::new(),
            waiting: 0,
        }
    }

    /// Takes an event.
    pub(crate) fn push(&mut self, inbound: Inbound) {
        let key = StreamKey { route: inbound.route, partition: inbound.partition };
        let stream = self.table.entry(key).or_default();
        stream.events.push_back(Waiting { inbound, again: false });
        self.waiting += 1;
        if !stream.is_listed {
            stream.is_listed = true;
            self.list(key);
        }
    }

    /// Events that are not confirmed, those under way included.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Streams that take nothing for now.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.len()
    }

    /// The batch of [`Step::Add`], in the order in which it has to be added.
    pub(crate) fn under_way(&self) -> &[(StreamKey, Vec<Waiting>)] {
        &self.under_way
    }

    /// Events in that batch.
    pub(crate) fn events_under_way(&self) -> usize {
        self.under_way.iter().map(|(_, events)| events.len()).sum()
    }

    /// Takes out all events of some routes: they are not waited for. To be called when nothing is under way.
    pub(crate) fn take_out(&mut self, is_out: impl Fn(u16) -> bool) -> Vec<Inbound> {
        debug_assert!(self.under_way.is_empty(), "what is under way may be in");
        let streams = self.table.iter_mut().filter(|(key, _)| is_out(key.route));
        let out: Vec<_> = streams.flat_map(|(_, stream)| stream.events.drain(..)).collect();
        self.waiting -= out.len();
        out.into_iter().map(|event| event.inbound).collect()
    }

    /// What to do now. The caller does it and answers before it asks again.
    pub(crate) fn step(&mut self, now_ms: u64) -> Step {
        debug_assert!(self.under_way.is_empty(), "answer first");
        if let Some((key, before)) = self.trim.take() {
            return Step::Trim(key, before);
        }
        // Looks at held streams first: with many others busy they would never be released.
        let unsure = &mut self.unsure;
        self.held.retain(|(at, key)| {
            let is_due = *at <= now_ms;
            if is_due {
                unsure.push_back(*key);
            }
            !is_due
        });
        if let Some(key) = self.unsure.pop_front() {
            return Step::Survey(key);
        }
        self.gather();
        if self.under_way.is_empty() {
            Step::Wait(self.held.iter().map(|(at, _)| *at).min())
        } else {
            Step::Add
        }
    }

    /// What became of the batch, stream by stream in its order.
    pub(crate) fn added(&mut self, outcomes: &[Added], now_ms: u64, mut settle: impl FnMut(Settled)) {
        debug_assert_eq!(outcomes.len(), self.under_way.len(), "one outcome for each stream");
        for ((key, events), outcome) in std::mem::take(&mut self.under_way).into_iter().zip(outcomes) {
            match *outcome {
                Added::Length(length) => {
                    self.waiting -= events.len();
                    events.iter().for_each(|event| settle(event.inbound.settled()));
                    if let Some(stream) = self.table.get_mut(&key) {
                        stream.length = Some(length);
                        stream.look_ms = 0;
                    }
                    self.list(key);
                }
                Added::Refused => {
                    self.put_back(key, events, false);
                    self.hold(key, now_ms);
                }
            }
        }
    }

    /// The connection broke: what was under way may be in or not, and nothing is known of any stream.
    pub(crate) fn lost(&mut self) {
        for (key, events) in std::mem::take(&mut self.under_way) {
            self.put_back(key, events, true);
        }
        (self.trim, self.held) = (None, Vec::new());
        self.ready.clear();
        self.unsure.clear();
        let mut keys: Vec<StreamKey> = Vec::with_capacity(self.table.len());
        for (key, stream) in &mut self.table {
            (stream.length, stream.look_ms) = (None, 0);
            stream.is_listed = !stream.events.is_empty();
            if stream.is_listed {
                keys.push(*key);
            }
        }
        keys.sort_unstable();
        self.unsure.extend(keys);
    }

    /// What a survey found. The stream may be trimmed before it goes on.
    pub(crate) fn surveyed(&mut self, key: StreamKey, length: u64, groups: &[Group], now_ms: u64) {
        let worthwhile = length >= self.bounds.stream_entries / 2;
        match first_needed(groups) {
            Some(needed) if worthwhile => {
                if let Some(stream) = self.table.get_mut(&key) {
                    stream.length = Some(length);
                }
                self.trim = Some((key, needed));
            }
            _ => self.trimmed(key, length, now_ms),
        }
    }

    /// The stream is so long, and cannot be made shorter at the moment.
    pub(crate) fn trimmed(&mut self, key: StreamKey, length: u64, now_ms: u64) {
        let bound = self.bounds.stream_entries;
        let Some(stream) = self.table.get_mut(&key) else { return };
        stream.length = Some(length);
        // Looking again pays when an eighth of the bound has been added, or nothing more fits.
        stream.look_at = bound.min((bound / 2).max(length + (bound / 8).max(1)));
        if length >= bound {
            self.hold(key, now_ms);
        } else {
            stream.look_ms = 0;
            self.list(key);
        }
    }

    /// The stream could not be looked at.
    pub(crate) fn hold(&mut self, key: StreamKey, now_ms: u64) {
        let Some(stream) = self.table.get_mut(&key) else { return };
        stream.look_ms = (stream.look_ms * 2).clamp(LOOK_MS, LOOK_MS_MAX);
        self.held.push((now_ms + stream.look_ms, key));
    }

    /// Puts a stream where it has to wait for its turn.
    fn list(&mut self, key: StreamKey) {
        let Some(stream) = self.table.get_mut(&key) else { return };
        if stream.events.is_empty() {
            stream.is_listed = false;
            return;
        }
        stream.is_listed = true;
        match stream.length {
            Some(length) if length < stream.look_at.max(1) => self.ready.push_back(key),
            _ => self.unsure.push_back(key),
        }
    }

    fn put_back(&mut self, key: StreamKey, events: Vec<Waiting>, may_be_in: bool) {
        let Some(stream) = self.table.get_mut(&key) else { return };
        for mut event in events.into_iter().rev() {
            event.again |= may_be_in;
            stream.events.push_front(event);
        }
    }

    /// Fills the batch from the streams that may go on, each in turn.
    fn gather(&mut self) {
        let (mut events, mut bytes) = (self.bounds.batch_events, self.bounds.batch_bytes);
        while events > 0
            && let Some(key) = self.ready.pop_front()
        {
            let Some(stream) = self.table.get_mut(&key) else { continue };
            let room = self.bounds.stream_entries.saturating_sub(stream.length.unwrap_or(0));
            let most = usize::try_from(room).unwrap_or(usize::MAX).min(events);
            let mut part = Vec::new();
            while part.len() < most
                && let Some(next) = stream.events.front()
            {
                let size = next.inbound.payload_bytes() as usize;
                let is_first = self.under_way.is_empty() && part.is_empty();
                if size > bytes && !is_first {
                    break;
                }
                bytes = bytes.saturating_sub(size);
                part.extend(stream.events.pop_front());
            }
            if part.is_empty() {
                if stream.events.is_empty() {
                    stream.is_listed = false;
                    continue;
                }
                self.ready.push_front(key);
                break;
            }
            events -= part.len();
            self.under_way.push((key, part));
        }
    }
}

#[cfg(test)]
mod tests {
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
        let again: Vec<_> =
            streams.under_way()[0].1.iter().map(|event| (event.inbound.sequence, event.again)).collect();
        assert_eq!(again, [(1, true), (2, true), (3, true), (4, false)]);
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
                    let (slot, sequence) = (event.inbound.address.slot, event.inbound.sequence);
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
}
