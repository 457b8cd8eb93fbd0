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

/// Something on its way.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) content: Content,
    /// It was sent before and not confirmed: it may be in the stream already.
    pub(crate) again: bool,
}

/// What an entry says.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// What a client did.
    Event(Inbound),
    /// The bus was away, and what app servers published meanwhile did not reach clients of this node.
    Gap(Gap),
}

/// A time, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

impl Content {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Event(inbound) => inbound.payload_bytes() as usize,
            Self::Gap(_) => 0,
        }
    }
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
        self.put(key, Content::Event(inbound));
    }

    /// Tells a stream of a gap. One that still waits behind an earlier gap becomes part of it, so gaps do not pile up.
    pub(crate) fn tell_gap(&mut self, key: StreamKey, gap: Gap) {
        let last = self.table.get_mut(&key).and_then(|stream| stream.events.back_mut());
        match last.map(|last| &mut last.content) {
            Some(Content::Gap(earlier)) => earlier.to_ms = gap.to_ms,
            _ => self.put(key, Content::Gap(gap)),
        }
    }

    fn put(&mut self, key: StreamKey, content: Content) {
        let stream = self.table.entry(key).or_default();
        stream.events.push_back(Waiting { content, again: false });
        self.waiting += 1;
        if !stream.is_listed {
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

    /// Takes out all events of some routes: they are not waited for. Gaps stay, those of a stream as one. To be called when
    /// nothing is under way.
    pub(crate) fn take_out(&mut self, is_out: impl Fn(u16) -> bool) -> Vec<Inbound> {
        debug_assert!(self.under_way.is_empty(), "what is under way may be in");
        let mut out = Vec::new();
        for (_, stream) in self.table.iter_mut().filter(|(key, _)| is_out(key.route)) {
            let mut kept: Option<(Gap, bool)> = None;
            for Waiting { content, again } in stream.events.drain(..) {
                self.waiting -= 1;
                match content {
                    Content::Event(inbound) => out.push(inbound),
                    Content::Gap(gap) => match &mut kept {
                        Some((earlier, _)) => earlier.to_ms = gap.to_ms,
                        None => kept = Some((gap, again)),
                    },
                }
            }
            if let Some((gap, again)) = kept {
                stream.events.push_back(Waiting { content: Content::Gap(gap), again });
                self.waiting += 1;
            }
        }
        out
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
                    for event in &events {
                        if let Content::Event(inbound) = &event.content {
                            settle(inbound.settled());
                        }
                    }
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

    /// Whether its events wait until there is room for them.
    pub(crate) fn is_held(&self, key: StreamKey) -> bool {
        self.held.iter().any(|(_, held)| *held == key)
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
                let size = next.content.payload_bytes();
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
mod tests;
