//! The counters of one shard: written by that shard alone, read by whoever scrapes.
//!
//! A single writer needs no read-modify-write: adding is a relaxed load and a relaxed store, as cheap as a plain
//! field, so counters are always published and the shard keeps no second copy.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::NotDone;
use crate::ending::{EndReason, Turned};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the owning shard only.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes both ways.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets; for the owning shard only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts and sums of samples by bucket: enough to feed any histogram without losing the exact sum.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// Upper bounds, inclusive, ascending; samples above the last fall into one more bucket.
    bounds: &'static [u64; N],
    buckets: [Bucket; N],
    above: Bucket,
}

/// One bucket.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Samples.
    pub count: Counter,
    /// Their sum.
    pub sum: Counter,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram.
    #[must_use]
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, buckets: std::array::from_fn(|_| Bucket::default()), above: Bucket::default() }
    }

    /// Adds a sample; for the owning shard only.
    pub fn record(&self, sample: u64) {
        let place = self.bounds.partition_point(|bound| *bound < sample);
        let bucket = self.buckets.get(place).unwrap_or(&self.above);
        bucket.count.add(1);
        bucket.sum.add(sample);
    }

    /// The upper bounds.
    #[must_use]
    pub const fn bounds(&self) -> &'static [u64; N] {
        self.bounds
    }

    /// All buckets in ascending order, the one above the last bound included.
    pub fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.buckets.iter().chain(std::iter::once(&self.above))
    }
}

/// Upper bounds of turn durations, in microseconds.
pub const TURN_BOUNDS_US: [u64; 12] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000];
/// Upper bounds of fan-out sizes, in subscribers of one shard.
pub const FANOUT_BOUNDS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
/// Upper bounds of handshake durations, in ticks of 100 ms.
pub const HANDSHAKE_BOUNDS_TICKS: [u64; 7] = [0, 1, 2, 5, 10, 50, 100];
/// Upper bounds of fan-out durations, in ticks of 100 ms.
pub const FANOUT_BOUNDS_TICKS: [u64; 8] = [0, 1, 2, 5, 10, 50, 100, 600];

/// What told the peer of a connection from a trusted proxy; the label of the counter.
pub const TOLD_BY: [&str; 3] = ["proxy_protocol", "header", "nobody"];
/// Upper bounds of ping round trips, in microseconds.
pub const PING_BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// What a delivery to a slow consumer gave way to; the label of the counter. The order is that of the shard's policies.
pub const DROPPED_BY: [&str; 4] = ["close", "drop_newest", "drop_oldest", "keep_latest"];

/// Which budget ended a step of the turn early; the label of the counter.
pub const BUDGETS: [&str; 5] = ["mail", "carried", "fanout", "timers", "accepts"];
/// Why a connection is not read for a while, so that TCP carries the pressure back to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pause {
    /// A reply to it waits for its own socket: it asks faster than it listens.
    Reply,
    /// A message of it waits for a place in a mailbox.
    Mailbox,
    /// So many messages of all publishers wait for places that it may not bring another.
    Publishers,
    /// It, or its peer, has sent more than its rate allows.
    Limit,
    /// As many of its messages are with its upstream as one connection may have there.
    Window,
    /// So much of its partition is with its upstream that there is no room for more.
    Upstream,
    /// Whether it may come in is being decided.
    Authorize,
}

impl Pause {
    /// Every reason, in the order of their numbers; at most eight, which share a byte of the record.
    pub const ALL: [Self; 7] = [
        Self::Reply,
        Self::Mailbox,
        Self::Publishers,
        Self::Limit,
        Self::Window,
        Self::Upstream,
        Self::Authorize,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Mailbox => "mailbox",
            Self::Publishers => "publishers",
            Self::Limit => "limit",
            Self::Window => "window",
            Self::Upstream => "upstream",
            Self::Authorize => "authorize",
        }
    }
}

const _: () = assert!(Pause::ALL.len() <= 8, "a connection keeps its reasons in one byte");

/// Labels of the refusals that are the request's fault; their order is the shard's affair.
pub const REFUSALS_MAX: usize = 24;

/// Everything one shard counts.
#[derive(Debug)]
pub struct Stats {
    /// Records in the table.
    pub connections: Gauge,
    /// Of these, those whose handshake is not finished.
    pub handshakes: Gauge,
    /// Records the table has room for.
    pub capacity: Gauge,
    /// Connections accepted from the listener.
    pub accepted: Counter,
    /// Handshakes answered with 101.
    pub opened: Counter,
    /// Ticks from accept to 101.
    pub handshake_ticks: Histogram<{ HANDSHAKE_BOUNDS_TICKS.len() }>,
    /// Requests refused, by the number the shard gives each refusal.
    pub refused: [Counter; REFUSALS_MAX],
    /// Connections turned away for our reasons, by [`Turned`].
    pub turned: [Counter; Turned::ALL.len()],
    /// Opened connections that ended, by [`EndReason`].
    pub ended: [Counter; EndReason::ALL.len()],
    /// How connections of trusted proxies told their peer, by [`TOLD_BY`].
    pub peers_told: [Counter; TOLD_BY.len()],
    /// Times a limit was hit, by the place of its [`crate::limited::Kind`].
    pub limited: [Counter; crate::limited::Kind::COUNT],
    /// Messages from clients.
    pub messages_in: Counter,
    /// Payload bytes from clients.
    pub bytes_in: Counter,
    /// Messages to clients that were handed to the kernel or to their backlog.
    pub messages_out: Counter,
    /// Bytes to clients that were handed to the kernel.
    pub bytes_out: Counter,
    /// Messages from clients that their route ignores.
    pub ignored: Counter,
    /// Events handed to upstreams.
    pub inbound: Counter,
    /// Closed events that no upstream had taken when a drain was over.
    pub inbound_given_up: Counter,
    /// Events that upstreams have not settled.
    pub inbound_unsettled: Gauge,
    /// Pings sent.
    pub pings: Counter,
    /// Pongs received.
    pub pongs: Counter,
    /// From a ping to its pong, in microseconds; a turn's length is in it at both ends.
    pub ping_us: Histogram<{ PING_BOUNDS_US.len() }>,
    /// Messages from clients that their route answers at once.
    pub auto_replies: Counter,
    /// Commands to a connection that were not done, by [`NotDone`].
    pub commands_refused: [Counter; NotDone::ALL.len()],
    /// Publishes that waited because a mailbox had no room.
    pub publishes_delayed: Counter,
    /// Publishes of clients that subscribers of this node got, and others did not because the bus was away.
    pub bus_left_out: Counter,
    /// Publishes that wait because a mailbox has no room.
    pub unplaced: Gauge,
    /// Their payload bytes.
    pub unplaced_bytes: Gauge,
    /// Events in the outbox, and endings that wait for room in it.
    pub outbox_events: Gauge,
    /// Subscribers a message was due to, summed over messages.
    pub deliveries: Counter,
    /// Of these, those that waited for a socket that took no more.
    pub deliveries_queued: Counter,
    /// Of these, those that were not made, or were queued and then gave way, by [`DROPPED_BY`].
    pub deliveries_dropped: [Counter; DROPPED_BY.len()],
    /// Subscribers that a message without a kind was not sent to, because their route wants text and it is none.
    pub deliveries_not_text: Counter,
    /// Subscribers per message on this shard.
    pub fanout_subscribers: Histogram<{ FANOUT_BOUNDS.len() }>,
    /// Ticks from taking a message out of the mailbox to its last subscriber.
    pub fanout_ticks: Histogram<{ FANOUT_BOUNDS_TICKS.len() }>,
    /// Messages that wait for, or are in, a fan-out.
    pub fanout_pending: Gauge,
    /// Bytes in backlogs: each shared frame once, and 8 per entry.
    pub backlog_bytes: Gauge,
    /// Entries in backlogs.
    pub backlog_entries: Gauge,
    /// Connections with something rare about them: half a frame, a backlog, a handshake.
    pub cold: Gauge,
    /// Bytes held for messages that have not arrived whole.
    pub assembly_bytes: Gauge,
    /// Connections that are not read until something has drained.
    pub paused: Gauge,
    /// The same by [`Pause`]; one connection may have several reasons.
    pub paused_by: [Gauge; Pause::ALL.len()],
    /// Channels with a subscriber on this shard.
    pub channels: Gauge,
    /// Subscriptions on this shard.
    pub subscriptions: Gauge,
    /// Commands waiting in the mailbox.
    pub mailbox_depth: Gauge,
    /// Turns.
    pub turns: Counter,
    /// How long turns took, in microseconds, polling left out.
    pub turn_us: Histogram<{ TURN_BOUNDS_US.len() }>,
    /// Steps that ended by their budget, by [`BUDGETS`].
    pub budget_hits: [Counter; BUDGETS.len()],
    /// When the last turn ended, in milliseconds of the process clock.
    pub last_turn_ms: Gauge,
    /// Connections told to go by a drain or a shed.
    pub goodbyes: Counter,
    /// Connections cut because they were still there at a drain's deadline.
    pub cut: Counter,
    /// Number of the rules it obeys.
    pub rules: Gauge,
    /// Whether the listener is open: 0 or 1.
    pub listening: Gauge,
}

impl Default for Stats {
    fn default() -> Self {
        macro_rules! zero {
            ($($field:ident)*; $($table:ident)*) => {
                Self {
                    $($field: Default::default(),)*
                    $($table: std::array::from_fn(|_| Counter::default()),)*
                    paused_by: Default::default(),
                    handshake_ticks: Histogram::new(&HANDSHAKE_BOUNDS_TICKS),
                    fanout_subscribers: Histogram::new(&FANOUT_BOUNDS),
                    fanout_ticks: Histogram::new(&FANOUT_BOUNDS_TICKS),
                    turn_us: Histogram::new(&TURN_BOUNDS_US),
                    ping_us: Histogram::new(&PING_BOUNDS_US),
                }
            };
        }
        zero!(connections handshakes capacity accepted opened messages_in bytes_in messages_out bytes_out ignored
              pings pongs auto_replies publishes_delayed bus_left_out deliveries deliveries_queued
              deliveries_not_text fanout_pending
              backlog_bytes backlog_entries cold assembly_bytes paused channels subscriptions mailbox_depth turns
              unplaced unplaced_bytes outbox_events inbound inbound_given_up inbound_unsettled
              last_turn_ms goodbyes cut rules listening;
              refused commands_refused turned ended peers_told limited deliveries_dropped budget_hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stand_in_the_order_of_their_numbers() {
        for (number, pause) in Pause::ALL.iter().enumerate() {
            assert_eq!(*pause as usize, number);
        }
    }

    #[test]
    fn a_sample_falls_into_the_bucket_of_its_bound_and_none_is_lost() {
        let histogram = Histogram::new(&[1, 10]);
        for sample in [0, 1, 2, 10, 11, 1000] {
            histogram.record(sample);
        }
        let counts: Vec<_> = histogram.buckets().map(|b| (b.count.value(), b.sum.value())).collect();
        assert_eq!(counts, [(2, 1), (2, 12), (2, 1011)]);
    }
}
