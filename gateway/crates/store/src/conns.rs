//! Who is connected: one 64-byte record per connection in a table of fixed size, found by keys that go stale.
//!
//! Owns the records, their generations and the counters beside them. Refuses to close, time out or decide anything: it hands
//! out records and takes them back. Whoever removes a record must have taken everything off it first (timer, subscriptions,
//! cold entry), which is checked in debug builds. The shard is the caller; only its `close` removes.

use std::num::NonZeroU32;

use slab::Slab;

use crate::generation::Generations;
use crate::tally::{Tallies, Tally};
use crate::wheel::{Links, WheelLink};

/// "No index", in every link and every field that refers to a slot.
pub const NONE: u32 = u32::MAX;

/// Tables are smaller than this: the wheel needs the top bit of an index for itself.
const CAPACITY_LIMIT: u32 = 1 << 31;

/// Names one connection for as long as it lives, and nobody afterwards: the slot, and which use of the slot.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Key {
    index: u32,
    generation: NonZeroU32,
}

impl Key {
    /// The slot in the table.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Which insertion of the table this was; never zero.
    pub fn generation(self) -> u32 {
        self.generation.get()
    }

    /// Both in one word, for tokens and ids: generation in the upper half, index in the lower.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.index)
    }

    /// The reverse of [`Key::to_bits`]. Any word whose upper half is not zero is a key, though perhaps nobody's.
    pub fn from_bits(bits: u64) -> Option<Key> {
        let generation = NonZeroU32::new((bits >> 32) as u32)?;
        Some(Key { index: bits as u32, generation })
    }
}

/// What a connection is in the middle of, and so what its one timer means.
///
/// ```text
///              ┌─────── bytes ───────┐
///              ▼                     │
///  Handshake ─▶ Open ── silence ─▶ PongWait
///      │         │                   │
///      │         ├───────────────────┤ we say close
///      │         │                   ▼
///      │         │                Closing
///      │         │ peer said close   │ peer answers
///      │ refused └──────────┬────────┘
///      │                    ▼
///      └──────────────▶ Lingering ── peer hangs up, or deadline ──▶ Ended
///
///  every phase ── reset, or deadline ──▶ Ended
/// ```
#[repr(u8)]
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Phase {
    /// Accepted, the request head is not complete or not answered. Timer: handshake deadline.
    Handshake,
    /// Messages go both ways. Timer: heartbeat.
    Open,
    /// Silent for a heartbeat, a ping is out. Timer: pong deadline.
    PongWait,
    /// Our close frame is out or queued, the peer's has not come. Timer: close deadline.
    Closing,
    /// All is said; what is queued drains and the peer may hang up first. Timer: linger deadline.
    Lingering,
    /// The socket is closed; the record stays until the outbox has taken its closed event.
    Ended,
}

impl Phase {
    /// Whether the diagram above has an arrow from `self` to `next`.
    pub fn may_become(self, next: Phase) -> bool {
        use Phase::{Closing, Ended, Handshake, Lingering, Open, PongWait};
        match self {
            Handshake => matches!(next, Open | Lingering | Ended),
            Open => matches!(next, PongWait | Closing | Lingering | Ended),
            PongWait => matches!(next, Open | Closing | Lingering | Ended),
            Closing => matches!(next, Lingering | Ended),
            Lingering => matches!(next, Ended),
            Ended => false,
        }
    }
}

/// Which protocol carries the connection's messages. One byte here, one file each in the shard.
#[repr(u8)]
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Transport {
    /// RFC 6455.
    WebSocket,
}

/// Small facts about a connection that the steps of a turn leave for each other.
#[derive(Copy, Clone, Eq, PartialEq, Default, Debug)]
pub struct Flags(u8);

impl Flags {
    /// Nothing noted.
    pub const EMPTY: Flags = Flags(0);
    /// On the carry-over list, to be put there once.
    pub const CARRIED: Flags = Flags(1);
    /// Has frames to flush in this turn.
    pub const DIRTY: Flags = Flags(1 << 1);
    /// Reading stopped before `WouldBlock`: no edge will come for what is left.
    pub const UNREAD: Flags = Flags(1 << 3);
    /// The last write met `WouldBlock`: an edge will come.
    pub const UNWRITABLE: Flags = Flags(1 << 4);
    /// The peer has hung up: no event follows for what is still to be read.
    pub const HUNG_UP: Flags = Flags(1 << 5);
    /// Its handshake was answered with success, so its end is an event.
    pub const OPENED: Flags = Flags(1 << 6);

    /// Whether all of `other` are noted.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Notes `other`.
    pub fn insert(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Forgets `other`.
    pub fn remove(&mut self, other: Flags) {
        self.0 &= !other.0;
    }

    /// Whether nothing is noted.
    pub fn is_empty(self) -> bool {
        self == Flags::EMPTY
    }
}

/// Why a connection is not read: a set of reasons, by the numbers the shard gives them. While one is left it is paused.
#[derive(Copy, Clone, Eq, PartialEq, Default, Debug)]
pub struct Pauses(u8);

impl Pauses {
    /// Whether it is read.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is one of the reasons, of which there are at most eight.
    pub fn contains(self, reason: u8) -> bool {
        self.0 & 1 << reason != 0
    }

    /// Adds a reason; says whether it is new.
    pub fn insert(&mut self, reason: u8) -> bool {
        let is_new = !self.contains(reason);
        self.0 |= 1 << reason;
        is_new
    }

    /// Takes a reason away; says whether it was one.
    pub fn remove(&mut self, reason: u8) -> bool {
        let was_one = self.contains(reason);
        self.0 &= !(1 << reason);
        was_one
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// One connection in 64 bytes. What does not fit is rare, and lives in the cold entry.
///
/// `S` is the socket (8 bytes inside an `Option`), `A` the proof of admission (4 bytes): a value only the limits can make. It
/// stays with the record, so that whoever leaves gives back what was counted for them. Times are ticks.
#[derive(Debug)]
pub struct Conn<S, A> {
    /// `None` once it is closed, while the record waits for its closed event to leave.
    pub socket: Option<S>,
    /// What the limits want back at the end.
    pub admission: A,
    /// Slot of the cold entry, or [`NONE`].
    pub cold: u32,
    /// Slot of the identity, or [`NONE`].
    pub identity: u32,
    link: WheelLink,
    /// When bytes last came.
    pub last_received: u32,
    /// When it was accepted.
    pub opened: u32,
    /// Head of its list of subscriptions, or [`NONE`]. Handed to `Channels`, which keeps it.
    pub first_subscription: u32,
    /// Number of its last event.
    pub sequence: u32,
    /// State of its message-rate limiter; zero: nothing to remember.
    pub limiter: u32,
    /// Which route it came by.
    pub route: u16,
    /// Which partition of its upstream its events belong to.
    pub partition: u16,
    /// What it is in the middle of.
    pub phase: Phase,
    /// Which protocol it speaks.
    pub transport: Transport,
    /// Notes between the steps of a turn.
    pub flags: Flags,
    /// Why it is not read, so that its sender feels the pressure.
    pub pauses: Pauses,
    generation: NonZeroU32,
}

/// The table of one shard: at most `capacity` records, never grown.
#[derive(Debug)]
pub struct Conns<S, A> {
    slots: Slab<Conn<S, A>>,
    tallies: Tallies,
    generations: Generations,
    capacity: u32,
    /// One past the highest slot ever used: walks end there.
    end: u32,
}

impl<S, A> Conns<S, A> {
    /// Reserves address space for `capacity` records.
    ///
    /// # Panics
    /// When `capacity` is 2³¹ or more.
    pub fn new(capacity: u32) -> Self {
        assert!(capacity < CAPACITY_LIMIT, "the wheel needs the top bit of an index");
        Conns {
            slots: Slab::with_capacity(capacity as usize),
            tallies: Tallies::new(capacity),
            generations: Generations::default(),
            capacity,
            end: 0,
        }
    }

    /// Takes a connection in: handshake phase, nothing armed, no subscriptions, counters at zero.
    ///
    /// # Errors
    /// Both come back when the table is full, so that the socket can be answered and the admission returned.
    pub fn insert(&mut self, socket: S, admission: A, now: u32) -> Result<Key, (S, A)> {
        if self.is_full() {
            return Err((socket, admission));
        }
        let generation = self.generations.next();
        let index = self.slots.insert(Conn {
            socket: Some(socket),
            admission,
            cold: NONE,
            identity: NONE,
            link: WheelLink::default(),
            last_received: now,
            opened: now,
            first_subscription: NONE,
            sequence: 0,
            limiter: 0,
            route: 0,
            partition: 0,
            phase: Phase::Handshake,
            transport: Transport::WebSocket,
            flags: Flags::EMPTY,
            pauses: Pauses::default(),
            generation,
        }) as u32;
        self.end = self.end.max(index + 1);
        Ok(Key { index, generation })
    }

    /// The record of the key; none if that connection has gone, whoever has its slot now.
    pub fn get(&self, key: Key) -> Option<&Conn<S, A>> {
        self.at(key.index).filter(|conn| conn.generation == key.generation)
    }

    /// As [`Conns::get`], to change it.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Conn<S, A>> {
        self.at_mut(key.index).filter(|conn| conn.generation == key.generation)
    }

    /// Whoever has the slot. For walks along links, which never outlive what they link; all else comes by key.
    pub fn at(&self, index: u32) -> Option<&Conn<S, A>> {
        self.slots.get(index as usize)
    }

    /// As [`Conns::at`], to change it.
    pub fn at_mut(&mut self, index: u32) -> Option<&mut Conn<S, A>> {
        self.slots.get_mut(index as usize)
    }

    /// The key of whoever has the slot.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        self.at(index).map(|conn| Key { index, generation: conn.generation })
    }

    /// Takes the record out and clears its counters. The key and all its copies are stale from here on.
    pub fn remove(&mut self, key: Key) -> Option<Conn<S, A>> {
        self.get(key)?;
        let conn = self.slots.try_remove(key.index as usize)?;
        self.tallies.clear(key.index);
        debug_assert!(!conn.link.is_armed(), "removed with its timer armed");
        debug_assert!(conn.first_subscription == NONE, "removed with subscriptions");
        debug_assert!(conn.cold == NONE, "removed with a cold entry");
        Some(conn)
    }

    /// What the connection has moved so far; zeros for a stale key.
    pub fn tally(&self, key: Key) -> Tally {
        self.get(key).map(|_| self.tallies.read(key.index)).unwrap_or_default()
    }

    /// The same, to count. The first call brings 3 KiB of counters for it and its neighbours into being: an idle connection
    /// should not be counted.
    pub fn tally_mut(&mut self, key: Key) -> Option<&mut Tally> {
        self.get(key)?;
        Some(self.tallies.write(key.index))
    }

    /// Connections in the table.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next insertion will fail.
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// The bound given to [`Conns::new`].
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// One past the highest slot ever used.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Everybody, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Conn<S, A>)> {
        self.slots
            .iter()
            .map(|(index, conn)| (Key { index: index as u32, generation: conn.generation }, conn))
    }

    /// At most `limit` keys in slot order, from the slot behind `after` (from the first if `None`). The index of the last one
    /// is the `after` of the next page: who stays is listed once, whatever comes and goes between pages. The walk also passes
    /// over vacant slots; who must bound that too takes [`Conns::keys_in`].
    pub fn page(&self, after: Option<u32>, limit: usize) -> impl Iterator<Item = Key> {
        let first = after.map_or(0, |index| index.saturating_add(1));
        self.keys_in(first..self.end).take(limit)
    }

    /// The keys in a range of slots: a slice of a walk over the whole table, which is over at [`Conns::end`].
    pub fn keys_in(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = Key> {
        (slots.start..slots.end.min(self.end)).filter_map(|index| self.key_at(index))
    }
}

impl<S, A> Links for Conns<S, A> {
    fn link(&self, index: u32) -> &WheelLink {
        &self.slots[index as usize].link
    }

    fn link_mut(&mut self, index: u32) -> &mut WheelLink {
        &mut self.slots[index as usize].link
    }
}
