//! What can go wrong with one connection, as a closed set that is counted.
//!
//! It owns the names under which faults are reported. It refuses detail per connection: a million failures
//! must fit a table of a few lines. Called by the client threads, merged by the conductor.

use std::collections::BTreeMap;
use std::fmt;

use nix::errno::Errno;

/// One thing that went wrong with one connection or one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `socket`, `bind` or `connect` said no, with this errno.
    Connect(i32),
    /// The upgrade was answered with this status instead of 101.
    Refused(u16),
    /// Ended with a reset before the upgrade was answered: the server let nobody in, and read nothing.
    Unanswered,
    /// The answer to the upgrade breaks RFC 6455 section 4.1.
    Upgrade(&'static str),
    /// This stage took longer than the deadline.
    Late(&'static str),
    /// The server ended a silent connection before its pong could have been missed.
    Early,
    /// The server closed with this code while we wanted the connection (1005: it gave none).
    Closed(u16),
    /// The stream ended without a closing handshake.
    Ended,
    /// Reading or writing failed with this errno.
    Broken(i32),
    /// A frame breaks RFC 6455 section 5, or is of a shape no server under test should send.
    Frame(&'static str),
    /// An echo is not what was sent, or not in the order it was sent.
    WrongEcho,
    /// A subscriber got a message that is none of ours.
    Stranger,
    /// A subscriber missed this message: a later one of the same publisher came.
    Gap,
    /// A subscriber got a message it already had.
    Double,
    /// A message was sent and did not arrive before the run ended.
    Lost,
    /// More waits to be sent to one connection than the harness keeps.
    Unsent,
    /// The server closed the connection and did not say when to come back.
    NoRetry,
    /// An app server was told something out of order, or twice without a word.
    Disorder,
    /// A publish over HTTP was answered with this status.
    Publish(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::Connect(errno) => write!(f, "connect: {}", Errno::from_raw(errno).desc()),
            Fault::Refused(status) => write!(f, "refused with status {status}"),
            Fault::Unanswered => f.write_str("reset before the upgrade was answered"),
            Fault::Upgrade(what) => write!(f, "bad upgrade: {what}"),
            Fault::Late(stage) => write!(f, "too slow: {stage}"),
            Fault::Early => f.write_str("ended before its time"),
            Fault::Closed(code) => write!(f, "closed by the server with {code}"),
            Fault::Ended => f.write_str("stream ended without a close frame"),
            Fault::Broken(errno) => write!(f, "socket: {}", Errno::from_raw(errno).desc()),
            Fault::Frame(what) => write!(f, "bad frame: {what}"),
            Fault::WrongEcho => f.write_str("echo differs from what was sent"),
            Fault::Stranger => f.write_str("message that nobody published"),
            Fault::Gap => f.write_str("message missing in a sequence"),
            Fault::Double => f.write_str("message delivered twice"),
            Fault::Lost => f.write_str("message never arrived"),
            Fault::Unsent => f.write_str("server stopped reading"),
            Fault::NoRetry => f.write_str("told to go without a time to come back"),
            Fault::Disorder => f.write_str("event out of order at the app server"),
            Fault::Publish(status) => write!(f, "publish answered with status {status}"),
        }
    }
}

/// Faults by kind. Bounded by the kinds there are: statuses, codes and errnos are all small sets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    counts: BTreeMap<Fault, u64>,
}

impl Faults {
    /// Counts one more of this kind.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.note_many(fault, 1);
    }

    /// Counts `count` more of this kind; none leaves no entry.
    pub(crate) fn note_many(&mut self, fault: Fault, count: u64) {
        if count > 0 {
            *self.counts.entry(fault).or_default() += count;
        }
    }

    /// Adds what another thread saw.
    pub(crate) fn merge(&mut self, other: &Faults) {
        for (&fault, &count) in &other.counts {
            self.note_many(fault, count);
        }
    }

    /// Takes out what this picks and says how much that was.
    pub(crate) fn take(&mut self, picks: impl Fn(&Fault) -> bool) -> u64 {
        let before = self.total();
        self.counts.retain(|fault, _| !picks(fault));
        before - self.total()
    }

    /// All faults together.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Each kind that occurred, in a fixed order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        self.counts.iter().map(|(&fault, &count)| (fault, count))
    }
}
