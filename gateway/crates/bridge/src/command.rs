//! What the rest of the program asks of a shard. Every command that wants an answer carries the way to it; a shard
//! that ends drops it, and the asker sees that.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::authorize::Decision;
use crate::channel::Channel;
use crate::ending::EndReason;
use crate::id::Address;
use crate::inbound::{Settled, Upstream};
use crate::message::Message;
use crate::principal::User;
use crate::stats::Pause;

/// Why something was not done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NotDone {
    /// It ended, or never was.
    Gone,
    /// Its route tells its events somebody else.
    NotOwner,
    /// It has as many channels as one may, or the shard's tables are full.
    Full,
    /// The channel is a user's: those are joined by being authorised, and never left.
    Reserved,
    /// The message does not say what it is, its route wants text, and this is none.
    NotText,
}

impl NotDone {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Gone, Self::NotOwner, Self::Full, Self::Reserved, Self::NotText];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NotOwner => "not_owner",
            Self::Full => "full",
            Self::Reserved => "reserved",
            Self::NotText => "not_text",
        }
    }
}

/// Where the outcome goes; `None` when nobody waits for it. What was not done is counted either way.
pub type Reply = Option<oneshot::Sender<Result<(), NotDone>>>;

/// Where a number goes.
pub type Count = oneshot::Sender<u32>;

/// One order for a shard.
#[derive(Debug)]
pub enum Command {
    /// A message to all subscribers of a channel on this shard.
    Publish(Publish),
    /// A message to one connection.
    Send {
        /// To whom.
        to: Address,
        /// What.
        message: Message,
        /// Only if its route tells its events this one.
        by: Option<Upstream>,
        /// Whether it was there; not whether it has read it.
        reply: Reply,
    },
    /// Close one connection politely.
    Close {
        /// Whom.
        whom: Address,
        /// The close code; the sender has checked that it may be sent.
        code: u16,
        /// At most 123 bytes; longer ones are cut.
        reason: Box<str>,
        /// Only if its route tells its events this one.
        by: Option<Upstream>,
        /// Whether it was there.
        reply: Reply,
    },
    /// Close one connection because its upstream does not take what it says: 1013, and when to come again.
    GiveUp {
        /// Whom; it may be gone.
        whom: Address,
    },
    /// Close one connection because its upstream can never take what it said: 1009.
    TooBig {
        /// Whom; it may be gone.
        whom: Address,
    },
    /// Put a connection into a channel. Being in it already is success.
    Subscribe {
        /// Whom.
        whom: Address,
        /// Into what.
        channel: Channel,
        /// Only if its route tells its events this one.
        by: Option<Upstream>,
        /// How it went.
        reply: Reply,
    },
    /// Take a connection out of a channel. Not being in it is success.
    Unsubscribe {
        /// Whom.
        whom: Address,
        /// Out of what.
        channel: Channel,
        /// Only if its route tells its events this one.
        by: Option<Upstream>,
        /// Whether the connection was there.
        reply: Reply,
    },
    /// Give a connection another opaque state, for the events that are to come.
    SetState {
        /// Whose.
        whom: Address,
        /// At most [`crate::principal::STATE_BYTES_MAX`] bytes; the sender has checked it.
        state: Bytes,
        /// Only if its route tells its events this one.
        by: Option<Upstream>,
        /// Whether the connection was there.
        reply: Reply,
    },
    /// Close all connections of a user politely.
    CloseUser {
        /// Whose.
        user: User,
        /// The close code; the sender has checked that it may be sent.
        code: u16,
        /// At most 123 bytes; longer ones are cut.
        reason: Box<str>,
        /// How many there were.
        reply: Count,
    },
    /// The answer to [`crate::Event::Authorize`]. Whoever asked may be gone.
    Authorized {
        /// Who asked.
        whom: Address,
        /// May it come in?
        decision: Box<Decision>,
    },
    /// So much is off the hands of an upstream, and there is room for as much again.
    Settle {
        /// Whose hands.
        upstream: Upstream,
        /// What; at most some thousands.
        settled: Vec<Settled>,
    },
    /// Describe one connection.
    Describe {
        /// Which.
        whom: Address,
        /// What it is, or `None` when gone.
        reply: oneshot::Sender<Option<Box<Description>>>,
    },
    /// Describe up to `limit` open connections in slot order.
    List {
        /// Start behind this slot; `None` starts at the first.
        after: Option<u32>,
        /// Most descriptions in the answer.
        limit: usize,
        /// The page.
        reply: oneshot::Sender<Page>,
    },
    /// The node's list of blocked networks has grown: close everybody who is of one of them, a slice at a time.
    EnforceBlocks,
    /// Name the busiest connections among the next slots; a slice of a walk over the table.
    Rank {
        /// Busy with what.
        by: RankBy,
        /// Start behind this slot; `None` starts at the first.
        after: Option<u32>,
        /// Most connections in the answer.
        limit: usize,
        /// They.
        reply: oneshot::Sender<Ranking>,
    },
    /// Name the channels with most subscribers on the shard among the next slots; a slice of a walk over the channels.
    RankChannels {
        /// Start behind this slot; `None` starts at the first.
        after: Option<u32>,
        /// Most channels in the answer.
        limit: usize,
        /// They.
        reply: oneshot::Sender<ChannelRanking>,
    },
    /// Count the subscribers of these channels on the shard.
    CountSubscribers {
        /// Which; at most some hundreds, each is looked up.
        channels: Arc<[Channel]>,
        /// As many numbers, in the same order.
        reply: oneshot::Sender<Vec<u32>>,
    },
    /// Obey these rules from now on, and show their number in `Stats::rules`. No connection is touched.
    Obey {
        /// Counts up.
        number: u32,
        /// The shard's own type.
        rules: Sealed,
    },
    /// Stop accepting and close everybody politely; then the shard ends.
    Drain(DrainPlan),
    /// Close the connections of these routes politely, those that are open now: they may have missed messages.
    CloseGap {
        /// Numbers of routes.
        routes: Arc<[u16]>,
        /// Ticks of 100 ms that the goodbyes are spread over.
        ticks: u32,
    },
    /// Close a share of the open connections politely, spread evenly, and go on listening. Replaces what is left of an
    /// earlier one; a share of zero only ends that.
    Shed {
        /// Of 10,000 connections, so many go.
        per_ten_thousand: u16,
        /// Ticks of 100 ms that the goodbyes are spread over.
        ticks: u32,
        /// How many will be told to go; `None` when the shard drains and everybody is.
        reply: oneshot::Sender<Option<u32>>,
    },
}

/// Something for a shard that is of the shard's own making, which this layer carries and cannot look into.
#[derive(Debug)]
pub struct Sealed(Box<dyn Any + Send>);

impl Sealed {
    /// Seals it.
    #[must_use]
    pub fn new<T: Any + Send>(content: T) -> Self {
        Self(Box::new(content))
    }

    /// What is in it; `None` when it is of another type.
    #[must_use]
    pub fn open<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|content| *content)
    }
}

/// The times of a drain, in ticks of 100 ms from its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPlan {
    /// The listener goes on accepting for so long, because balancers are late.
    pub accept_ticks: u32,
    /// From there the goodbyes are spread evenly over this.
    pub spread_ticks: u32,
    /// Those that are still there after this are cut.
    pub deadline_ticks: u32,
}

impl DrainPlan {
    /// A drain that takes `deadline_ticks` in all. Accepting has at most half of it. Of the rest a quarter, and no
    /// more than `close_ticks`, is kept behind the last goodbye, for its answer.
    #[must_use]
    pub fn within(deadline_ticks: u32, accept_ticks: u32, close_ticks: u32) -> Self {
        let accept_ticks = accept_ticks.min(deadline_ticks / 2);
        let rest = deadline_ticks - accept_ticks;
        Self { accept_ticks, spread_ticks: rest - close_ticks.min(rest / 4), deadline_ticks }
    }
}

impl Command {
    /// Payload bytes it keeps alive, for the mailbox's byte bound.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.message.payload().len(),
            Self::Send { message, .. } => message.payload().len(),
            _ => 0,
        }
    }
}

/// A message to a channel.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Where to.
    pub channel: Channel,
    /// What.
    pub message: Message,
    /// Who must not hear it: its publisher, when the route says so.
    pub exclude: Option<Address>,
    /// Where the outcome is added up, when somebody asked.
    pub receipt: Option<Receipt>,
}

/// What became of a publish on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Connections that were subscribed, the excluded one left out.
    pub subscribers: u64,
    /// Of these, those it waits for in their backlog.
    pub queued: u64,
    /// Of these, those that did not get it.
    pub dropped: u64,
}

/// Adds up what the shards report; the sum is sent when the last of them lets go of it.
#[derive(Clone, Debug)]
pub struct Receipt(Arc<Sum>);

#[derive(Debug)]
struct Sum {
    subscribers: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    done: Option<oneshot::Sender<Delivered>>,
}

impl Receipt {
    /// A receipt and the end at which the sum arrives.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Delivered>) {
        let (done, sum) = oneshot::channel();
        let zero = AtomicU64::new;
        (
            Self(Arc::new(Sum { subscribers: zero(0), queued: zero(0), dropped: zero(0), done: Some(done) })),
            sum,
        )
    }

    /// Adds one shard's part.
    pub fn add(&self, part: Delivered) {
        self.0.subscribers.fetch_add(part.subscribers, Ordering::Relaxed);
        self.0.queued.fetch_add(part.queued, Ordering::Relaxed);
        self.0.dropped.fetch_add(part.dropped, Ordering::Relaxed);
    }
}

impl Drop for Sum {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The asker may have gone; then nobody wants to know.
            let _ = done.send(Delivered {
                subscribers: *self.subscribers.get_mut(),
                queued: *self.queued.get_mut(),
                dropped: *self.dropped.get_mut(),
            });
        }
    }
}

/// One connection, as the API shows it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Where it is.
    pub address: Address,
    /// The peer's address as limits see it.
    pub peer: String,
    /// Number of its route.
    pub route: u16,
    /// Its user, if an app server has named one.
    pub user: Option<User>,
    /// Its opaque state.
    pub state: Bytes,
    /// Events of it that its upstream has not settled.
    pub unsettled: u32,
    /// Ticks of 100 ms since it was accepted.
    pub age_ticks: u32,
    /// Ticks of 100 ms since anything was received from it.
    pub quiet_ticks: u32,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// Messages and payload bytes in both directions.
    pub traffic: Traffic,
    /// Frames that wait for its socket.
    pub backlog_frames: u32,
    /// Bytes that wait for its socket.
    pub backlog_bytes: u32,
    /// Memory held for what has arrived of it in part.
    pub partial_bytes: u64,
    /// `open`, `pong_wait` (silent, a ping is out), `closing`, `lingering` or `ended`.
    pub phase: &'static str,
    /// Why it is being closed, and the code it was sent.
    pub closing: Option<(EndReason, Option<u16>)>,
    /// Why it is not read; empty when it is.
    pub paused: Vec<Pause>,
    /// Connections of its peer, itself included.
    pub peer_connections: u32,
    /// How much of its own message rate is used, if it has one.
    pub limiter: Option<Limiter>,
}

/// What a connection has moved so far; payload bytes, without frame headers, counted when handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages from the client.
    pub messages_in: u32,
    /// Messages to the client.
    pub messages_out: u32,
    /// Payload bytes from the client.
    pub bytes_in: u64,
    /// Payload bytes to the client.
    pub bytes_out: u64,
}

/// A page of a shard's connections.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In slot order.
    pub connections: Vec<Description>,
    /// The slot to go on behind, or `None` at the end.
    pub next: Option<u32>,
}

/// A connection's own message rate, at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limiter {
    /// Messages that count against the burst; they become fewer with time.
    pub messages: u32,
    /// So many there may be.
    pub burst: u32,
    /// Ticks of 100 ms until there is room for one more; zero when there is.
    pub wait_ticks: u32,
}

/// What makes a connection a busy one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBy {
    /// Payload bytes in both directions.
    Bytes,
    /// Messages in both directions.
    Messages,
}

/// The busiest connections of a slice of a shard's table.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    /// How much, and who; the most first.
    pub top: Vec<(u64, Address)>,
    /// The slot to go on behind, or `None` at the end.
    pub next: Option<u32>,
}

/// The channels with most subscribers of a slice of a shard's channels.
#[derive(Clone, Debug, Default)]
pub struct ChannelRanking {
    /// How many on this shard, and which; the most first.
    pub top: Vec<(u64, Channel)>,
    /// Most subscribers of any channel of the slice that is not named.
    pub floor: u64,
    /// The slot to go on behind, or `None` at the end.
    pub next: Option<u32>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_drain_keeps_time_for_the_last_answer() {
        let plan = |accept_ticks, spread_ticks, deadline_ticks| DrainPlan {
            accept_ticks,
            spread_ticks,
            deadline_ticks,
        };
        assert_eq!(DrainPlan::within(200, 20, 10), plan(20, 170, 200));
        assert_eq!(
            DrainPlan::within(100, 0, 600),
            plan(0, 75, 100),
            "closing slowly leaves most of it to goodbyes"
        );
        assert_eq!(DrainPlan::within(10, 50, 50), plan(5, 4, 10), "half of it is for those who are here");
        assert_eq!(DrainPlan::within(0, 50, 50), plan(0, 0, 0));
    }

    #[test]
    fn the_sum_arrives_when_the_last_shard_lets_go() {
        let (receipt, mut sum) = Receipt::new();
        let other = receipt.clone();
        receipt.add(Delivered { subscribers: 2, queued: 1, dropped: 0 });
        drop(receipt);
        assert!(sum.try_recv().is_err());
        other.add(Delivered { subscribers: 3, queued: 0, dropped: 1 });
        drop(other);
        assert_eq!(sum.try_recv().unwrap(), Delivered { subscribers: 5, queued: 1, dropped: 1 });
    }
}
