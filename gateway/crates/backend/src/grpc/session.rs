//! The protocol of one backend as a state machine: events of connections over acknowledged streams, and orders back.
//!
//! One sentence is the contract: an event that comes in by [`Session::take_in`] is offered to one stream at a time, in
//! its connection's order, until it is acknowledged or given up, and then settled exactly once. It reads no clock and
//! touches no socket: `now_ms` is an argument, what is to be done is asked for. `client` runs it; the simulation in
//! `backend/tests/session` plays the streams.
//!
//! * **Partitions** are pinned to streams, evenly and with as few moves as can be (`pinning`). One that is to move is no
//!   longer fed; when its events are acknowledged, or [`Sizes::handover_ms`] are over, it goes, and what is not
//!   acknowledged is sent again by its new stream, each connection from its first.
//! * **Windows**: events and bytes of a stream, events of a connection. A connection whose window is used waits alone.
//! * **Time-outs**: a connection of which nothing is acknowledged for [`Sizes::ack_timeout_ms`], while its stream goes on,
//!   is to be closed, and its events are given up. When the whole stream says nothing for so long, the stream is ended,
//!   and its events go elsewhere; a connection to which that happens [`STRIKES_MAX`] times is given up as well.
//!
//! Bounds: events and lanes by the shards' quotas, positions by twice the window of each stream, results by
//! [`RESULTS_MAX`] of a stream, ids by [`Sizes::ids`].

mod audit;
mod lanes;
mod pinning;
mod repeats;
mod sending;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bridge::inbound::Settled;
use bridge::{Address, Inbound};

use super::order::{Order, Refusal, Status};
use super::stats::{GivenUp, SessionStats, StreamEnd};
use lanes::Lanes;
use pinning::Partition;
use repeats::Repeats;
use window::Window;

/// Orders of one stream that want a result and were not told it: whoever runs the session reads no more of a stream at it.
pub const RESULTS_MAX: u32 = 1024;
/// Most ranges in one acknowledgement; more are nonsense.
pub const RANGES_MAX: usize = 1024;
/// Streams that may end in silence under a connection before it is given up.
pub const STRIKES_MAX: u8 = 2;
/// An order's id is remembered for so long.
pub const ID_KEPT_MS: u64 = 60_000;
/// Time between two looks for connections that do not move.
const LOOK_EVERY_MS: u64 = 500;

/// Bounds and times of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// As in the shards' quota.
    pub partitions: u16,
    /// Unacknowledged events of one stream.
    pub window_events: u32,
    /// Their payload bytes. A larger message goes alone.
    pub window_bytes: u64,
    /// Unacknowledged events of one connection.
    pub connection_events: u16,
    /// A stream has to answer `Hello` within this.
    pub greet_ms: u64,
    /// As the module says.
    pub ack_timeout_ms: u64,
    /// Acknowledgements of a partition that moves are awaited so long; well below a second.
    pub handover_ms: u64,
    /// Ids of orders that are remembered.
    pub ids: usize,
}

/// A stream, by a number that its opener never uses twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The next thing to say on a stream.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// The first of all.
    Hello,
    /// An event.
    Event {
        /// On the stream.
        position: u64,
        /// It was sent before.
        again: bool,
        /// What.
        inbound: &'a Inbound,
    },
    /// What became of an order.
    Result {
        /// Its id.
        id: u64,
        /// What.
        status: Status,
        /// In words.
        detail: &'static str,
    },
    /// Events were given up.
    Gap {
        /// So many in this epoch.
        events: u64,
    },
}

/// What whoever runs the session has to do; take it after each call.
#[derive(Debug, Default)]
pub struct Due {
    /// Tell the shards.
    pub settled: Vec<Settled>,
    /// Cancel these streams.
    pub ended: Vec<(StreamId, StreamEnd)>,
    /// Say no more on these, once what was said has left.
    pub half_close: Vec<StreamId>,
    /// Close these connections: the backend does not answer for them.
    pub condemned: Vec<Address>,
}

/// ```text
/// Greeting ─▶ Live ─▶ Leaving ─▶ Finished ─▶ gone
///     └─────────┴────────┴──────────────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Opened then, and not answered.
    Greeting(u64),
    /// Gets events.
    Live,
    /// Said that it goes away: its partitions leave it.
    Leaving,
    /// Nothing more is said to it.
    Finished,
}

#[derive(Debug)]
struct Stream {
    phase: Phase,
    window: Window,
    bytes: u64,
    /// Partitions with something to send, in turn.
    ready: VecDeque<u16>,
    /// What goes before events.
    says: VecDeque<Say>,
    /// Results that are not handed out.
    owed: u32,
    /// When something was acknowledged, or sent while nothing was under way.
    moved_ms: u64,
}

#[derive(Debug)]
enum Say {
    Hello,
    Gap,
    Result { id: u64, status: Status, detail: &'static str },
}

/// One backend's.
#[derive(Debug)]
pub struct Session {
    sizes: Sizes,
    lanes: Lanes,
    partitions: Vec<Partition>,
    streams: BTreeMap<StreamId, Stream>,
    /// Partitions that are not fed until they have moved.
    leaving: Vec<u16>,
    repeats: Repeats,
    given_up: u64,
    looked_ms: u64,
    due: Due,
    /// Kept for its memory.
    taken: Vec<(u64, u32)>,
    stats: Arc<SessionStats>,
}

impl Session {
    /// A session without streams and events.
    #[must_use]
    pub fn new(sizes: Sizes, stats: Arc<SessionStats>) -> Self {
        debug_assert!(sizes.partitions > 0 && sizes.window_events > 0 && sizes.connection_events > 0);
        Self {
            sizes,
            lanes: Lanes::default(),
            partitions: (0..sizes.partitions).map(|_| Partition::default()).collect(),
            streams: BTreeMap::new(),
            leaving: Vec::new(),
            repeats: Repeats::new(sizes.ids, ID_KEPT_MS),
            given_up: 0,
            looked_ms: 0,
            due: Due::default(),
            taken: Vec::new(),
            stats,
        }
    }

    // Events come in.

    /// An event of a shard; those of a connection in their order.
    pub fn take_in(&mut self, inbound: Inbound) {
        if usize::from(inbound.partition) >= self.partitions.len() {
            debug_assert!(false, "shards know how many partitions there are");
            return;
        }
        let lane = self.lanes.push(inbound);
        self.make_ready(lane);
    }

    // Streams come and go.

    /// A stream is open; nothing was said on it.
    pub fn opened(&mut self, id: StreamId, now_ms: u64) {
        let mut says = VecDeque::from([Say::Hello]);
        if self.given_up > 0 {
            says.push_back(Say::Gap);
        }
        let stream = Stream {
            phase: Phase::Greeting(now_ms),
            window: Window::default(),
            bytes: 0,
            ready: VecDeque::new(),
            says,
            owed: 0,
            moved_ms: now_ms,
        };
        let before = self.streams.insert(id, stream);
        debug_assert!(before.is_none(), "a number is used once");
    }

    /// A stream is no more, because of what its opener saw.
    pub fn lost(&mut self, id: StreamId, why: StreamEnd, now_ms: u64) {
        self.end(id, why, false, now_ms);
    }

    // Messages of streams. One of a stream that is no more says nothing.

    /// Something came: the stream is answered.
    pub fn heard(&mut self, id: StreamId, now_ms: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if matches!(stream.phase, Phase::Greeting(_)) {
            stream.phase = Phase::Live;
            stream.moved_ms = now_ms;
            self.stats.opened.add(1);
            self.pin(now_ms);
        }
    }

    /// These positions are done: all through the first number, and those of the ranges.
    pub fn acknowledged(
        &mut self,
        id: StreamId,
        through: u64,
        ranges: impl ExactSizeIterator<Item = (u64, u64)>,
        now_ms: u64,
    ) {
        let mut is_sound = ranges.len() <= RANGES_MAX;
        let through = (through > 0).then_some((1, through));
        for (first, last) in through.into_iter().chain(ranges) {
            is_sound = is_sound && self.acknowledge(id, first, last, now_ms);
            if !is_sound {
                break;
            }
        }
        if !is_sound {
            self.end(id, StreamEnd::Nonsense, true, now_ms);
        }
        self.finish_moves(now_ms);
    }

    /// The app server is about to end.
    pub fn going_away(&mut self, id: StreamId, now_ms: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if matches!(stream.phase, Phase::Leaving | Phase::Finished) {
            return;
        }
        stream.phase = Phase::Leaving;
        self.pin(now_ms);
        self.finish_moves(now_ms);
        self.finish_streams();
    }

    /// An order, if it could be read. Returns it when it is to be obeyed; otherwise its result is on its way. Whoever
    /// obeys one with an id says how it went by [`Session::answer`].
    pub fn ordered(
        &mut self,
        id: StreamId,
        order_id: u64,
        order: Result<Order, Refusal>,
        now_ms: u64,
    ) -> Option<Order> {
        let stream = self.streams.get_mut(&id)?;
        stream.owed += u32::from(order_id != 0 && stream.phase != Phase::Finished);
        match order.and_then(|order| self.judge(id, order_id, order, now_ms)) {
            Ok(order) => {
                if order_id == 0 {
                    self.stats.orders[Status::Ok as usize].add(1);
                }
                Some(order)
            }
            Err(Refusal { status, detail }) => {
                self.answer(id, order_id, status, detail);
                None
            }
        }
    }

    /// What became of an order. The stream may be gone; then nobody is told.
    pub fn answer(&mut self, id: StreamId, order_id: u64, status: Status, detail: &'static str) {
        self.stats.orders[status as usize].add(1);
        if order_id != 0
            && let Some(stream) = self.streams.get_mut(&id)
            // Behind the half-close nobody can be told.
            && stream.phase != Phase::Finished
        {
            stream.says.push_back(Say::Result { id: order_id, status, detail });
        }
    }

    // Time.

    /// Looks for what has waited too long. Call it every few tens of milliseconds.
    pub fn tick(&mut self, now_ms: u64) {
        let greet_ms = self.sizes.greet_ms;
        let is_late = |stream: &Stream| matches!(stream.phase, Phase::Greeting(since) if now_ms.saturating_sub(since) >= greet_ms);
        let late: Vec<StreamId> =
            self.streams.iter().filter(|(_, one)| is_late(one)).map(|(id, _)| *id).collect();
        for id in late {
            self.end(id, StreamEnd::Unanswered, true, now_ms);
        }
        if now_ms.saturating_sub(self.looked_ms) >= LOOK_EVERY_MS.min(self.sizes.ack_timeout_ms) {
            self.looked_ms = now_ms;
            self.give_up_stuck_lanes(now_ms);
            self.end_silent_streams(now_ms);
        }
        self.finish_moves(now_ms);
        self.finish_streams();
        self.show();
    }

    // What is to be done.

    /// What is due; take it, and do it.
    pub const fn due(&mut self) -> &mut Due {
        &mut self.due
    }

    /// Says what is next on a stream, at most `most` things. Returns how many.
    pub fn say(&mut self, id: StreamId, most: usize, now_ms: u64, mut tell: impl FnMut(Told<'_>)) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        let mut said = 0;
        while said < most
            && let Some(say) = stream.says.pop_front()
        {
            said += 1;
            tell(match say {
                Say::Hello => Told::Hello,
                Say::Gap => Told::Gap { events: self.given_up },
                Say::Result { id, status, detail } => {
                    stream.owed -= 1;
                    Told::Result { id, status, detail }
                }
            });
        }
        while said < most && self.send_next(id, now_ms, &mut tell) {
            said += 1;
        }
        said
    }

    /// Whether there is something to say on a stream, its window left out.
    #[must_use]
    pub fn has_more(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            !stream.says.is_empty() || (!stream.ready.is_empty() && self.has_window(stream))
        })
    }

    /// Events that are neither acknowledged nor given up.
    #[must_use]
    pub const fn events(&self) -> usize {
        self.lanes.events()
    }

    /// The stream that a connection's events go to.
    #[must_use]
    pub fn owner(&self, address: Address) -> Option<StreamId> {
        self.partitions.get(usize::from(address.partition(self.sizes.partitions)))?.owner
    }

    /// How often a partition was taken from a stream.
    #[must_use]
    pub fn moves(&self, partition: u16) -> u64 {
        self.partitions.get(usize::from(partition)).map_or(0, |partition| partition.moves)
    }

    /// The end of all: what is not acknowledged is counted as given up.
    pub fn finish(&mut self) {
        self.stats.given_up[GivenUp::Ending as usize].add(self.lanes.events() as u64);
    }
}
