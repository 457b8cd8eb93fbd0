//! The peers of the node: who has how many connections, and how fast each has gone on lately.
//!
//! One of the two tables that shards share. As many slots as the node may hold connections, so that who is connected
//! always has one and is counted exactly, and some for peers that have left while a rate of theirs is not yet forgotten:
//! coming back makes nobody a stranger. Those alone can be forgotten before their time, the oldest of a stripe first.
//!
//! A slot is 28 bytes and never moves; with the lookup and the pages' directory it comes to 30 to 32. Who comes and
//! goes is written down under one stripe's lock. Rates are words of their own: a message takes no lock.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::gcra::{HORIZON_TICKS_MIN, Rate, Room};
use super::networks::PeerKey;
use super::rules::{PeerLimits, PeerRules};

/// Stripes of a small table; larger ones have more, so that a number within a stripe fits into 16 bits.
const STRIPES_MIN: u32 = 64;
/// Slots a stripe is meant to hold. The hash is keyed, so none holds many more.
const STRIPE_SLOTS: u32 = 1 << 14;
/// Slots allocated together.
const PAGE_SLOTS: usize = 64;
/// They never move: a message finds its own without a lock.
type Page = Box<[Slot; PAGE_SLOTS]>;
/// No slot.
const END: u16 = u16::MAX;
/// In [`Slot::live`]: nobody is connected; the lower half is the next younger of those who left.
const RECENT: u32 = 1 << 31;
/// Keyed by chance: whoever could work out the stripe of an address could fill one. Tests have one key, or the sizes that
/// they measure would be of another table each time.
#[cfg(not(test))]
type Keyed = std::hash::RandomState;
#[cfg(test)]
type Keyed = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
/// Of so many who left first, one whose rates are forgotten anyway goes before the others.
const EVICTION_LOOKS: usize = 8;
/// Every state of a rate is looked at once in so many ticks, before its clock comes round.
const SWEEP_TICKS: u32 = HORIZON_TICKS_MIN / 3;

/// One peer. All but the rates is written under the stripe's lock only.
#[derive(Debug, Default)]
struct Slot {
    high: AtomicU32,
    low: AtomicU32,
    live: AtomicU32,
    connects: AtomicU32,
    messages: AtomicU32,
    bytes: AtomicU32,
    /// The next slot of the same bucket, or of the free list.
    chain: AtomicU16,
    /// Of a recent one, who left before.
    older: AtomicU16,
}

impl Slot {
    fn key(&self) -> PeerKey {
        let (high, low) = (self.high.load(Ordering::Relaxed), self.low.load(Ordering::Relaxed));
        PeerKey::from_bits(u64::from(high) << 32 | u64::from(low))
    }

    fn rates(&self) -> [&AtomicU32; 3] {
        [&self.connects, &self.messages, &self.bytes]
    }

    /// Whether a rate of it still means something.
    fn is_remembered(&self, limits: &PeerLimits, now: u32) -> bool {
        self.rates()
            .into_iter()
            .zip(limits.rates())
            .any(|(state, rate)| rate.is_some_and(|rate| !rate.is_empty(state.load(Ordering::Relaxed), now)))
    }
}

/// What a stripe's lock guards, besides its slots.
#[derive(Debug)]
struct Books {
    heads: Box<[u16]>,
    /// Slots that were ever used; behind them are new ones.
    used: u16,
    free: u16,
    oldest: u16,
    newest: u16,
    recent: u32,
    recent_max: u32,
    /// Peers with a connection.
    live: u32,
    forgotten: u64,
}

#[derive(Debug)]
struct Stripe {
    books: Mutex<Books>,
    pages: Box<[OnceLock<Page>]>,
}

/// How large the table is.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSizes {
    /// Most peers with a connection.
    pub live: u32,
    /// Most peers without one that are remembered for their rates.
    pub recent: u32,
}

/// The table.
#[derive(Debug)]
pub struct Peers {
    stripes: Box<[Stripe]>,
    hasher: Keyed,
    ipv6_prefix: u8,
    /// The tick of the last sweep, and the page where the next one goes on.
    swept: AtomicU32,
    sweep_at: AtomicU32,
}

/// What a peer has too much of at its coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Connections,
    /// Ticks until one more may come.
    Connects(u32),
}

impl Peers {
    /// Room for so many, without any yet. Memory comes with them.
    pub(super) fn new(sizes: PeerSizes, ipv6_prefix: u8) -> Self {
        let slots = sizes.live.saturating_add(sizes.recent);
        let stripes = slots.div_ceil(STRIPE_SLOTS).next_power_of_two().max(STRIPES_MIN);
        let even = slots.div_ceil(stripes);
        let most = (even + even / 2).saturating_add(512).min(u32::from(END)).min(slots.max(1));
        let stripe = |number: u32| Stripe {
            books: Mutex::new(Books {
                heads: vec![END; (even as usize / 2).max(16)].into(),
                used: 0,
                free: END,
                oldest: END,
                newest: END,
                recent: 0,
                recent_max: sizes.recent / stripes + u32::from(number < sizes.recent % stripes),
                live: 0,
                forgotten: 0,
            }),
            pages: (0..most.div_ceil(PAGE_SLOTS as u32)).map(|_| OnceLock::new()).collect(),
        };
        Self {
            stripes: (0..stripes).map(stripe).collect(),
            hasher: Keyed::default(),
            ipv6_prefix,
            swept: AtomicU32::new(0),
            sweep_at: AtomicU32::new(0),
        }
    }

    /// The peer of an address.
    #[must_use]
    pub fn key(&self, address: IpAddr) -> PeerKey {
        PeerKey::new(address, self.ipv6_prefix)
    }

    /// How many leading bits of an IPv6 address are one peer.
    #[must_use]
    pub const fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    /// Counts a connection in: the peer's slot, and what it has too much of; the caller judges. `None` when its stripe
    /// is full.
    pub(super) fn enter(&self, key: PeerKey, rules: &PeerRules, now: u32) -> Option<(u32, Option<Over>)> {
        let limits = rules.limits_of(key);
        let (number, bucket) = self.place(key);
        let stripe = &self.stripes[number as usize];
        let books = &mut *stripe.lock();
        let head = Books::head(&books.heads, bucket);
        let found = stripe.find(books.heads[head], key);
        let local = match found {
            Some(local) => local,
            None => stripe.settle_in(books, head, key)?,
        };
        let slot = stripe.slot(local)?;
        let live = slot.live.load(Ordering::Relaxed);
        if live & RECENT != 0 {
            stripe.leave_recent(books, local);
        }
        let live = if live & RECENT == 0 { live } else { 0 };
        books.live += u32::from(live == 0);
        slot.live.store(live + 1, Ordering::Relaxed);
        let over = if limits.connections.is_some_and(|most| live >= most) {
            Some(Over::Connections)
        } else {
            limits.connects.and_then(|rate| {
                let state = slot.connects.load(Ordering::Relaxed);
                match rate.take(state, now, 1) {
                    Some(next) => {
                        slot.connects.store(next, Ordering::Relaxed);
                        None
                    }
                    None => Some(Over::Connects(rate.wait_ticks(state, now))),
                }
            })
        };
        Some((number << 16 | u32::from(local), over))
    }

    /// Counts a connection of this slot's peer out. After the last one the peer is remembered while a rate of it means
    /// something, if there is room for one more.
    pub(super) fn leave(&self, slot: u32, rules: &PeerRules, now: u32) {
        let (stripe, local) = self.split(slot);
        let books = &mut *stripe.lock();
        let Some(slot) = stripe.slot(local) else { return };
        let live = slot.live.load(Ordering::Relaxed);
        debug_assert!(live & RECENT == 0 && live > 0, "who leaves had entered");
        slot.live.store(live - 1, Ordering::Relaxed);
        if live > 1 {
            return;
        }
        books.live -= 1;
        let key = slot.key();
        if slot.is_remembered(rules.limits_of(key), now) {
            stripe.join_recent(books, local);
            if books.recent > books.recent_max {
                self.evict(stripe, books, rules, now);
            }
        } else {
            self.vacate(stripe, books, local);
        }
    }

    /// Makes room: of those who left, one whose rates are forgotten, else the one who left first.
    fn evict(&self, stripe: &Stripe, books: &mut Books, rules: &PeerRules, now: u32) {
        let mut at = books.oldest;
        for _ in 0..EVICTION_LOOKS {
            let Some(slot) = stripe.slot(at) else { break };
            if !slot.is_remembered(rules.limits_of(slot.key()), now) {
                stripe.leave_recent(books, at);
                return self.vacate(stripe, books, at);
            }
            at = slot.live.load(Ordering::Relaxed) as u16;
        }
        let oldest = books.oldest;
        if oldest != END {
            books.forgotten += 1;
            stripe.leave_recent(books, oldest);
            self.vacate(stripe, books, oldest);
        }
    }

    /// Takes a slot that is on no list out of its bucket.
    fn vacate(&self, stripe: &Stripe, books: &mut Books, local: u16) {
        let Some(slot) = stripe.slot(local) else { return };
        let (_, bucket) = self.place(slot.key());
        let head = Books::head(&books.heads, bucket);
        let next = slot.chain.load(Ordering::Relaxed);
        let mut at = books.heads[head];
        if at == local {
            books.heads[head] = next;
        }
        while at != local && at != END {
            let Some(before) = stripe.slot(at) else { break };
            at = before.chain.load(Ordering::Relaxed);
            if at == local {
                before.chain.store(next, Ordering::Relaxed);
            }
        }
        slot.chain.store(books.free, Ordering::Relaxed);
        slot.live.store(0, Ordering::Relaxed);
        books.free = local;
    }

    fn place(&self, key: PeerKey) -> (u32, u32) {
        let hash = self.hasher.hash_one(key);
        ((hash as u32) & (self.stripes.len() as u32 - 1), (hash >> 32) as u32)
    }

    fn split(&self, slot: u32) -> (&Stripe, u16) {
        (&self.stripes[(slot >> 16) as usize], slot as u16)
    }

    fn at(&self, slot: u32) -> Option<&Slot> {
        let (stripe, local) = self.split(slot);
        stripe.slot(local)
    }

    /// The peer of a slot in use.
    #[must_use]
    pub fn key_at(&self, slot: u32) -> PeerKey {
        self.at(slot).map_or(PeerKey::from_bits(0), Slot::key)
    }

    /// The address of a slot in use.
    #[must_use]
    pub fn address(&self, slot: u32) -> IpAddr {
        self.key_at(slot).address()
    }

    /// How much of this rate the peer has left, and the ticks until there is some.
    pub(crate) fn room(&self, slot: u32, rate: Rate, of: Traffic, now: u32) -> (Room, u32) {
        let Some(state) = self.state(slot, of) else { return (Room::Plenty, 0) };
        let state = state.load(Ordering::Relaxed);
        match rate.room(state, now) {
            Room::None => (Room::None, rate.wait_ticks(state, now)),
            room => (room, 0),
        }
    }

    /// Adds to a rate if that fits.
    pub(crate) fn take(&self, slot: u32, rate: Rate, of: Traffic, now: u32, amount: u32) -> bool {
        let Some(state) = self.state(slot, of) else { return true };
        state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| rate.take(old, now, amount)).is_ok()
    }

    /// Adds to a rate whether it fits or not.
    pub(crate) fn owe(&self, slot: u32, rate: Rate, of: Traffic, now: u32, amount: u32) {
        if let Some(state) = self.state(slot, of) {
            let owe = |old| Some(rate.owe(old, now, amount));
            let _ = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, owe);
        }
    }

    fn state(&self, slot: u32, of: Traffic) -> Option<&AtomicU32> {
        let slot = self.at(slot)?;
        Some(match of {
            Traffic::Messages => &slot.messages,
            Traffic::Bytes => &slot.bytes,
        })
    }

    /// Looks at a share of all rates and empties those that have run out, so that none is taken for a new one when its
    /// clock has come round. Called by every shard at every tick; one of them does it: the first that has come to it, and not
    /// one that is still at the tick before.
    pub(crate) fn sweep(&self, rules: &PeerRules, now: u32) {
        let last = self.swept.fetch_max(now, Ordering::Relaxed);
        if now <= last {
            return;
        }
        let pages = self.stripes[0].pages.len() as u32;
        let all = pages * self.stripes.len() as u32;
        let ticks = (now - last).min(SWEEP_TICKS);
        let share = (u64::from(all) * u64::from(ticks)).div_ceil(u64::from(SWEEP_TICKS)) as u32;
        let from = self.sweep_at.fetch_add(share, Ordering::Relaxed);
        for page in (from..from.saturating_add(share)).map(|page| page % all) {
            let page = self.stripes[(page / pages) as usize].pages[(page % pages) as usize].get();
            page.iter().flat_map(|page| page.iter()).for_each(|slot| empty_old(slot, rules, now));
        }
    }

    /// Connections of an address.
    #[must_use]
    pub fn live(&self, address: IpAddr) -> u32 {
        let key = self.key(address);
        let (number, bucket) = self.place(key);
        let stripe = &self.stripes[number as usize];
        let books = stripe.lock();
        let found = stripe.find(books.heads[Books::head(&books.heads, bucket)], key);
        let live =
            found.and_then(|local| stripe.slot(local)).map_or(0, |slot| slot.live.load(Ordering::Relaxed));
        if live & RECENT == 0 { live } else { 0 }
    }

    fn sum(&self, of: impl Fn(&Books) -> u64) -> u64 {
        self.stripes.iter().map(|stripe| of(&stripe.lock())).sum()
    }

    /// Peers with a connection.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sum(|books| books.live.into()) as usize
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Peers without a connection that are remembered for their rates.
    #[must_use]
    pub fn recent(&self) -> u64 {
        self.sum(|books| books.recent.into())
    }

    /// Peers that were forgotten before their time, since start.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.sum(|books| books.forgotten)
    }

    /// Bytes the table holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let stripe = |stripe: &Stripe| {
            let pages = stripe.pages.iter().filter(|page| page.get().is_some()).count();
            size_of::<Stripe>()
                + stripe.lock().heads.len() * size_of::<u16>()
                + size_of_val(&*stripe.pages)
                + pages * PAGE_SLOTS * size_of::<Slot>()
        };
        self.stripes.iter().map(stripe).sum()
    }
}

/// Which rate of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    Messages,
    Bytes,
}

fn empty_old(slot: &Slot, rules: &PeerRules, now: u32) {
    if slot.rates().into_iter().all(|state| state.load(Ordering::Relaxed) == 0) {
        return;
    }
    for (state, rate) in slot.rates().into_iter().zip(rules.limits_of(slot.key()).rates()) {
        let old = state.load(Ordering::Relaxed);
        if old != 0 && rate.is_none_or(|rate| rate.is_empty(old, now)) {
            // Who has just added to it keeps what was added.
            let _ = state.compare_exchange(old, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Books {
    fn head(heads: &[u16], bucket: u32) -> usize {
        ((u64::from(bucket) * heads.len() as u64) >> 32) as usize
    }
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, local: u16) -> Option<&Slot> {
        let page = self.pages.get(usize::from(local) / PAGE_SLOTS)?.get()?;
        page.get(usize::from(local) % PAGE_SLOTS)
    }

    fn find(&self, head: u16, key: PeerKey) -> Option<u16> {
        let mut at = head;
        while let Some(slot) = self.slot(at) {
            if slot.key() == key {
                return Some(at);
            }
            at = slot.chain.load(Ordering::Relaxed);
        }
        None
    }

    /// Gives a new peer a slot. A stripe has room for half as many again as its even share, and 512 more: none is full unless the
    /// hash fails us.
    fn settle_in(&self, books: &mut Books, head: usize, key: PeerKey) -> Option<u16> {
        let local = match self.slot(books.free) {
            Some(slot) => std::mem::replace(&mut books.free, slot.chain.load(Ordering::Relaxed)),
            None => {
                let page = self.pages.get(usize::from(books.used) / PAGE_SLOTS)?;
                page.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::default())));
                books.used += 1;
                books.used - 1
            }
        };
        let slot = self.slot(local)?;
        slot.high.store((key.bits() >> 32) as u32, Ordering::Relaxed);
        slot.low.store(key.bits() as u32, Ordering::Relaxed);
        slot.live.store(0, Ordering::Relaxed);
        slot.rates().into_iter().for_each(|state| state.store(0, Ordering::Relaxed));
        slot.chain.store(books.heads[head], Ordering::Relaxed);
        books.heads[head] = local;
        Some(local)
    }

    fn join_recent(&self, books: &mut Books, local: u16) {
        let Some(slot) = self.slot(local) else { return };
        slot.live.store(RECENT | u32::from(END), Ordering::Relaxed);
        slot.older.store(books.newest, Ordering::Relaxed);
        match self.slot(books.newest) {
            Some(newest) => newest.live.store(RECENT | u32::from(local), Ordering::Relaxed),
            None => books.oldest = local,
        }
        books.newest = local;
        books.recent += 1;
    }

    fn leave_recent(&self, books: &mut Books, local: u16) {
        let Some(slot) = self.slot(local) else { return };
        let (younger, older) = (slot.live.load(Ordering::Relaxed) as u16, slot.older.load(Ordering::Relaxed));
        match self.slot(older) {
            Some(slot) => slot.live.store(RECENT | u32::from(younger), Ordering::Relaxed),
            None => books.oldest = younger,
        }
        match self.slot(younger) {
            Some(slot) => slot.older.store(older, Ordering::Relaxed),
            None => books.newest = older,
        }
        books.recent -= 1;
    }
}

mod largest;
#[cfg(test)]
mod tests;
