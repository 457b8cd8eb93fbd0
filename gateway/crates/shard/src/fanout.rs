//! A message to everybody in a channel, in slices: one job per channel, jobs take turns, so that a small room does not
//! wait behind a huge one. All messages of a channel that wait when a walk over its subscribers begins are sent in
//! that walk, to each subscriber in one write.
//!
//! A message that does not say whether it is text or binary goes out as each subscriber's route asks (`frame_as`); where
//! no route asks, nothing is looked at.
//!
//! When several jobs are at work in one turn, what they send becomes due and leaves together at the turn's end, because
//! a connection may be in more than one of their channels. A lone job writes directly, and so do all while the node has no
//! room for what is due: it would leave frame by frame.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use bridge::message::Kind;
use bridge::{Delivered, Message, Publish, Receipt};
use store::{ChannelIndex, Flags, FrameIndex, Key};

use crate::egress::{Left, SLICES_MAX};
use crate::net::Net;
use crate::rules::SlowConsumer;
use crate::turn::{Shard, budget};

/// Subscribers visited per turn, over all jobs. A visit that wakes a client takes some 10 us of processor, so whoever else
/// wants something of this shard waits for less than a millisecond, and the turn's own cost is still lost in it.
const VISITS_PER_TURN: usize = 64;
/// Subscribers a job visits before the next job has its turn.
const VISITS_PER_SLICE: usize = 16;
/// Frames sent in one walk.
const BATCH_FRAMES: usize = SLICES_MAX;
/// Bytes sent in one walk, unless a single frame is larger.
const BATCH_BYTES: usize = 64 * 1024;
/// Messages, and their bytes, that may wait; beyond it the mailbox is left alone.
const PENDING_MAX: usize = 4096;
const PENDING_BYTES_MAX: usize = 64 << 20;

/// The fan-outs of a shard.
#[derive(Default)]
pub(crate) struct Fanout {
    jobs: HashMap<ChannelIndex, Job>,
    /// Whose turn it is, each job once.
    order: VecDeque<ChannelIndex>,
    pending: usize,
    pending_bytes: usize,
}

/// What goes to one channel.
#[derive(Default)]
struct Job {
    waiting: VecDeque<Due>,
    batch: Vec<Due>,
    /// The frames of the batch end to end, when that saves slices.
    joined: Vec<u8>,
    bytes: usize,
    payload: usize,
    /// Somebody in the batch must not hear himself.
    excludes: bool,
    /// Something in the batch does not say what it is, and there are routes that do.
    is_for_routes: bool,
}

/// One message on its way.
struct Due {
    frame: FrameIndex,
    /// Where routes decide what it is: the message, and its other frame as soon as somebody needed it.
    undeclared: Option<(Message, Option<FrameIndex>)>,
    bytes: usize,
    payload: usize,
    exclude: Option<Key>,
    receipt: Option<Receipt>,
    since: u32,
    delivered: Delivered,
}

impl Due {
    fn other_frame(&self) -> Option<FrameIndex> {
        self.undeclared.as_ref().and_then(|(_, frame)| *frame)
    }
}

impl Fanout {
    pub(crate) fn has_room(&self) -> bool {
        self.pending < PENDING_MAX && self.pending_bytes < PENDING_BYTES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) const fn pending(&self) -> usize {
        self.pending
    }

    /// The frames it holds.
    pub(crate) fn held(&self) -> impl Iterator<Item = FrameIndex> {
        let dues = self.jobs.values().flat_map(|job| job.waiting.iter().chain(&job.batch));
        dues.flat_map(|due| std::iter::once(due.frame).chain(due.other_frame()))
    }
}

impl<N: Net> Shard<N> {
    /// Takes a publish; who subscribes later does not hear it.
    pub(crate) fn start_fan_out(&mut self, publish: Publish) {
        let Some(channel) = self.channels.find(publish.channel.as_str()) else { return };
        let bytes = publish.message.websocket().clone();
        let due = Due {
            bytes: bytes.len(),
            payload: publish.message.payload().len(),
            frame: self.backlog.hold(bytes, channel.tag()),
            exclude: publish.exclude.and_then(|address| self.key(address)),
            receipt: publish.receipt,
            since: self.now,
            delivered: Delivered::default(),
            undeclared: (!publish.message.is_declared()
                && self.rules.routes.iter().any(|r| r.kind.is_some()))
            .then_some((publish.message, None)),
        };
        self.fanout.pending += 1;
        self.fanout.pending_bytes += due.bytes;
        let job = self.fanout.jobs.entry(channel).or_insert_with(|| {
            self.fanout.order.push_back(channel);
            Job::default()
        });
        job.waiting.push_back(due);
    }

    /// One slice of every job that has its turn, within the budget of visits.
    pub(crate) fn fan_out(&mut self) {
        let alone = self.fanout.order.len() == 1;
        let mut visits = VISITS_PER_TURN;
        while visits > 0 {
            let Some(channel) = self.fanout.order.pop_front() else { return };
            let Some(mut job) = self.fanout.jobs.remove(&channel) else { continue };
            let slice = if alone { visits } else { visits.min(VISITS_PER_SLICE) };
            let (visited, over) = self.walk(channel, &mut job, slice, alone);
            visits = visits.saturating_sub(visited.max(1));
            if over && job.waiting.is_empty() {
                continue;
            }
            self.fanout.jobs.insert(channel, job);
            self.fanout.order.push_back(channel);
        }
        if !self.fanout.order.is_empty() {
            self.stats.budget_hits[budget::FANOUT].add(1);
        }
    }

    /// Goes on with a job. Says how many subscribers it visited, and whether its batch is done. A write that did not wait
    /// for the end of the turn, because a bound was met, is as dear as a visit and counts like one.
    fn walk(&mut self, channel: ChannelIndex, job: &mut Job, most: usize, direct: bool) -> (usize, bool) {
        if job.batch.is_empty() {
            self.begin(channel, job);
        }
        let before = self.offers;
        let mut visited = 0;
        while visited + (self.offers - before) < most {
            let Some(index) = self.channels.walk(channel) else {
                self.finish_batch(job);
                return (visited + (self.offers - before), true);
            };
            if let Some(key) = self.conns.key_at(index) {
                self.deliver(key, job, direct);
            }
            visited += 1;
        }
        (visited + (self.offers - before), false)
    }

    /// Takes the messages that wait into a batch, and starts the walk.
    fn begin(&mut self, channel: ChannelIndex, job: &mut Job) {
        (job.bytes, job.payload, job.excludes, job.is_for_routes) = (0, 0, false, false);
        while let Some(due) = job.waiting.front() {
            let fits = job.batch.is_empty()
                || (job.batch.len() < BATCH_FRAMES && job.bytes + due.bytes <= BATCH_BYTES);
            if !fits {
                break;
            }
            job.bytes += due.bytes;
            job.payload += due.payload;
            job.excludes |= due.exclude.is_some();
            job.is_for_routes |= due.undeclared.is_some();
            job.batch.extend(job.waiting.pop_front());
        }
        job.joined.clear();
        if job.batch.len() > 1 {
            for due in &job.batch {
                job.joined.extend_from_slice(self.backlog.bytes(due.frame));
            }
        }
        self.channels.start_walk(channel);
    }

    fn finish_batch(&mut self, job: &mut Job) {
        for due in job.batch.drain(..) {
            self.fanout.pending -= 1;
            self.fanout.pending_bytes -= due.bytes;
            self.backlog.release(due.frame);
            if let Some(other) = due.other_frame() {
                self.backlog.release(other);
            }
            self.stats.fanout_subscribers.record(due.delivered.subscribers);
            self.stats.fanout_ticks.record(u64::from(self.now.saturating_sub(due.since)));
            if let Some(receipt) = due.receipt {
                receipt.add(due.delivered);
            }
        }
    }

    fn deliver(&mut self, key: Key, job: &mut Job, direct: bool) {
        let kind = if job.is_for_routes { self.kind_of(key) } else { None };
        if job.excludes && job.batch.iter().any(|due| due.exclude == Some(key)) {
            return self.deliver_queued(key, job, 0, kind);
        }
        let count = job.batch.len() as u32;
        if !direct && self.node_full_at != Some(self.now) {
            return self.deliver_queued(key, job, 0, kind);
        }
        let left = match &mut job.batch[..] {
            [one] => {
                let Some(frame) = self.frame_as(one, kind) else { return };
                // The frame table is not touched while the write borrows from it.
                let bytes = self.backlog.shared(frame).clone();
                self.write_through(key, &[IoSlice::new(&bytes)])
            }
            _ if kind.is_some() => return self.deliver_queued(key, job, 0, kind),
            _ => self.write_through(key, &[IoSlice::new(&job.joined)]),
        };
        match left {
            Left::Nothing => {
                for due in &mut job.batch {
                    due.delivered.subscribers += 1;
                }
                self.stats.deliveries.add(u64::from(count));
                self.count_out(key, count, job.payload);
            }
            Left::Behind(written) => self.deliver_queued(key, job, written, kind),
            Left::Gone => {}
        }
    }

    /// What the route of a connection wants messages to be that do not say so themselves.
    pub(crate) fn kind_of(&self, key: Key) -> Option<Kind> {
        let route = self.conns.get(key).and_then(|conn| self.rules.routes.get(usize::from(conn.route)));
        route.and_then(|route| route.kind)
    }

    /// The frame of a message for a subscriber whose route wants this. Both are of one length, and are made once.
    fn frame_as(&mut self, due: &mut Due, kind: Option<Kind>) -> Option<FrameIndex> {
        let (Some(kind), Some((message, other))) = (kind, &mut due.undeclared) else {
            return Some(due.frame);
        };
        if message.kind() == kind {
            return Some(due.frame);
        }
        let Some(bytes) = message.websocket_as(kind) else {
            self.stats.deliveries_not_text.add(1);
            return None;
        };
        let backlog = &mut self.backlog;
        Some(*other.get_or_insert_with(|| backlog.hold(bytes.clone(), backlog.tag(due.frame))))
    }

    /// Queues the batch for one subscriber, but for what has left already, what is its own, and what its route cannot take.
    fn deliver_queued(&mut self, key: Key, job: &mut Job, mut written: usize, kind: Option<Kind>) {
        for due in &mut job.batch {
            if due.exclude == Some(key) {
                continue;
            }
            let Some(frame) = self.frame_as(due, kind) else { continue };
            let has_left = written >= due.bytes;
            let queued = if has_left { Ok(()) } else { self.queue(key, frame, written) };
            if queued.is_ok() && !self.is_open(key) {
                // It was gone when it was offered what waits: nobody has this one, or those behind it.
                return;
            }
            due.delivered.subscribers += 1;
            self.stats.deliveries.add(1);
            if has_left {
                written -= due.bytes;
                self.count_out(key, 1, due.payload);
                continue;
            }
            match queued {
                Ok(()) => {
                    // Whoever only waits for the end of the turn is not said to wait.
                    if self.conns.get(key).is_some_and(|conn| conn.flags.contains(Flags::UNWRITABLE)) {
                        due.delivered.queued += 1;
                        self.stats.deliveries_queued.add(1);
                    }
                    self.count_out(key, 1, due.payload);
                }
                Err(_) => {
                    due.delivered.dropped += 1;
                    let policy = self.policy(key);
                    if policy != SlowConsumer::Close && written == 0 && self.is_open(key) {
                        self.count_dropped(policy, 1);
                        continue;
                    }
                    self.count_dropped(SlowConsumer::Close, 1);
                    self.overflowed(key, written);
                    return;
                }
            }
            written = 0;
        }
    }
}
