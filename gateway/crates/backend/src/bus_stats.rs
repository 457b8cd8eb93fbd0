//! What a bus counts. Many tasks write, so these are true atomics; none is touched per delivery to a client.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, with many writers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets; for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! bus_stats {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Everything a bus counts.
        #[derive(Debug, Default)]
        pub struct BusStats {
            $($(#[$doc])* pub $field: Count,)*
        }
    };
}

bus_stats! {
    /// Messages handed to the bus for channels.
    forwarded,
    /// Messages for channels that were not handed to the bus, because it was away.
    left_out,
    /// Messages taken from the bus and put into mailboxes of shards.
    received,
    /// Messages taken from the bus that found no room in some mailbox in time.
    undelivered,
    /// Messages that were dropped at a bound, ours or the client library's, because they came faster than they were taken; a
    /// lower bound.
    overrun,
    /// Our own copies that came back.
    own_copies,
    /// Messages whose subject, channel name, id or envelope is not ours.
    malformed,
    /// Messages and commands to a connection of another life of this node, or of a node that is not there.
    stale,
    /// Answers of the bus that nobody listens to an inbound subject.
    no_responders,
    /// Inbound events that the bus has.
    inbound,
    /// Attempts to hand over an inbound event that failed and were made again.
    inbound_retries,
    /// Inbound events given up because the bus was away and the route says so; and gaps that nobody could be told of.
    inbound_left_out,
    /// Calls to other nodes.
    calls,
    /// Calls that had no answer.
    calls_unanswered,
    /// Calls that were not made, because as many as may be waited for answers.
    calls_left_out,
    /// Commands taken from the bus.
    commands,
    /// Commands that were answered busy, because too many were being obeyed.
    commands_refused,
    /// Messages to connections that were requests and had no answer, because too many waited for one.
    answers_left_out,
    /// Words about who is there that found no room on their way to the bus.
    words_left_out,
    /// Attempts to reach the bus that failed.
    connects_failed,
    /// Times the bus was lost.
    losses,
    /// Operations that began or ended a subscription.
    subscription_operations,
    /// Channels subscribed to; a gauge.
    subscriptions,
}
