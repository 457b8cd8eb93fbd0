//! What an authorizer counts: written by its one task, read by whoever scrapes.

use bridge::stats::{Counter, Gauge, Histogram};
use tonic::{Code, Status, TimeoutExpired};

/// Upper bounds of how long calls took, in microseconds.
pub const DURATION_BOUNDS_US: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The app server let it in.
    Allowed,
    /// The app server did not.
    Refused,
    /// No server could be reached.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// A gRPC status other than OK, or an answer that cannot be decoded.
    Status,
    /// An answer that breaks the rules of the proto.
    Nonsense,
    /// As many questions waited as may.
    QueueFull,
    /// It waited for a call for as long as a decision may take.
    QueueTimeout,
}

impl Outcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Allowed,
        Self::Refused,
        Self::Unavailable,
        Self::Timeout,
        Self::Status,
        Self::Nonsense,
        Self::QueueFull,
        Self::QueueTimeout,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Nonsense => "nonsense",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
        }
    }

    /// What a status that is not OK stands for. One that has a cause was made on this side: the call was not answered.
    pub(super) fn of(status: &Status) -> Self {
        let first = std::error::Error::source(status);
        let mut causes = std::iter::successors(first, |cause| cause.source());
        // The transport keeps to the deadline, too, and may come first.
        if status.code() == Code::DeadlineExceeded || causes.any(|cause| cause.is::<TimeoutExpired>()) {
            Self::Timeout
        } else if status.code() == Code::Unavailable || first.is_some() {
            Self::Unavailable
        } else {
            Self::Status
        }
    }
}

/// Counters and gauges of one backend's authorizer.
#[derive(Debug)]
pub struct AuthorizeStats {
    /// Calls under way.
    pub under_way: Gauge,
    /// Questions that wait for a call.
    pub queued: Gauge,
    /// Addresses that may be called.
    pub servers_up: Gauge,
    /// Questions by what became of them, by [`Outcome`].
    pub outcomes: [Counter; Outcome::ALL.len()],
    /// How long calls took, those that failed among them.
    pub duration_us: Histogram<12>,
}

impl Default for AuthorizeStats {
    fn default() -> Self {
        Self {
            under_way: Gauge::default(),
            queued: Gauge::default(),
            servers_up: Gauge::default(),
            outcomes: Default::default(),
            duration_us: Histogram::new(&DURATION_BOUNDS_US),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_stand_in_the_order_of_their_numbers() {
        for (number, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, number);
        }
    }
}
