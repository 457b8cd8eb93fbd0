//! What a backend's session counts: written by its one task, read by whoever scrapes.

use bridge::stats::{Counter, Gauge};

use super::order::Status;

/// Why the gateway ended a stream, or lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamEnd {
    /// Its connection broke, or it could not be opened.
    Broken,
    /// The app server ended it.
    EndedByPeer,
    /// It was not answered in time.
    Unanswered,
    /// Nothing at all was acknowledged for the ack timeout.
    Silent,
    /// It acknowledged what was never sent, or sent something that is no message of the protocol.
    Nonsense,
    /// Its endpoint is not listed any more, or not healthy.
    Withdrawn,
    /// The gateway is ending.
    Ending,
}

impl StreamEnd {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Broken,
        Self::EndedByPeer,
        Self::Unanswered,
        Self::Silent,
        Self::Nonsense,
        Self::Withdrawn,
        Self::Ending,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::EndedByPeer => "ended_by_peer",
            Self::Unanswered => "unanswered",
            Self::Silent => "silent",
            Self::Nonsense => "nonsense",
            Self::Withdrawn => "withdrawn",
            Self::Ending => "ending",
        }
    }
}

/// Why events were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GivenUp {
    /// The connection's were not acknowledged for the ack timeout; it was closed.
    AckTimeout,
    /// The gateway ended before they were acknowledged.
    Ending,
}

impl GivenUp {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::AckTimeout, Self::Ending];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::AckTimeout => "ack_timeout",
            Self::Ending => "ending",
        }
    }
}

/// Counters and gauges of one backend.
#[derive(Debug, Default)]
pub struct SessionStats {
    /// Addresses that its name stands for, as far as they are tried.
    pub endpoints: Gauge,
    /// Of these, those with at least one stream that is open.
    pub endpoints_up: Gauge,
    /// Streams that were answered and are open.
    pub streams_up: Gauge,
    /// Events held: under way, or waiting for a stream.
    pub events_held: Gauge,
    /// Of these, those under way.
    pub events_under_way: Gauge,
    /// Connections with events held.
    pub connections_held: Gauge,
    /// Partitions without a stream.
    pub partitions_waiting: Gauge,
    /// Streams that were answered.
    pub opened: Counter,
    /// Streams that ended, by [`StreamEnd`].
    pub ended: [Counter; StreamEnd::ALL.len()],
    /// Events sent for the first time.
    pub sent: Counter,
    /// Events sent again.
    pub sent_again: Counter,
    /// Events acknowledged.
    pub acknowledged: Counter,
    /// Events given up, by [`GivenUp`].
    pub given_up: [Counter; GivenUp::ALL.len()],
    /// Partitions that changed their stream.
    pub moved: Counter,
    /// Orders by what became of them, by [`Status`]. One without an id is counted as it is passed on.
    pub orders: [Counter; Status::ALL.len()],
    /// Ids of orders that were forgotten early, because there were too many.
    pub ids_forgotten: Counter,
}
