//! The last order about each network, blocked or let in again, and when it was given: so that orders which reach a node
//! twice, late, or by way of a node that had been cut off come to the same everywhere. Of two orders about a network the
//! later one counts, by the clocks of the nodes that took them.
//!
//! Owns no list of blocks: the gate's is written under this lock, by [`super::blocks`]. Bounded by it: there are as many
//! blocks as the gate takes, and [`LIFTS_MAX`] networks that were let in again, or whose block is over; the one to be
//! forgotten first goes first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shard::limit::Network;

/// Networks that were let in again and are remembered.
pub(super) const LIFTS_MAX: usize = 1024;

/// An order about a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockOrder {
    /// Who.
    pub(super) network: Network,
    /// When it was given, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// The tick at which the block is over; of a network let in again, at which that may be forgotten.
    pub(super) until: u32,
    /// It keeps the network out.
    pub(super) is_block: bool,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obeyed<T> {
    /// It was done.
    Done(T),
    /// Nothing: a later one is known, or it is known itself. Whether the network is blocked by what is known.
    Known {
        /// It is.
        is_block: bool,
    },
}

/// The last order about a network.
#[derive(Debug)]
struct Known {
    order: BlockOrder,
    /// When it may be forgotten: until then an earlier one, which lasts longer, may come back from a node that was cut off.
    keep_until: u32,
}

/// The orders.
#[derive(Debug, Default)]
pub(crate) struct BlockOrders {
    known: Mutex<Vec<Known>>,
    /// Blocks that were put into the list so far; and how many of these the shards were told of.
    put: AtomicU64,
    enforced: AtomicU64,
}

impl BlockOrders {
    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment of an order that is given here and now: later than all that is known about the network, also where the
    /// clock of another node is ahead.
    pub(super) fn moment(&self, network: Network, unix_ms: u64) -> u64 {
        let orders = self.lock();
        let known = orders.iter().find(|known| known.order.network == network).map(|known| known.order.at_ms);
        known.map_or(unix_ms, |known| unix_ms.max(known.saturating_add(1)))
    }

    /// Does what an order says, unless a later one is known or it is known itself. It is remembered for as long as each
    /// block of the network that it ends, or makes shorter, would have lasted.
    ///
    /// # Errors
    /// Those of the deed; then nothing is remembered.
    pub(super) fn obey<T, E>(
        &self,
        mut order: BlockOrder,
        now: u32,
        deed: impl FnOnce() -> Result<T, E>,
    ) -> Result<Obeyed<T>, E> {
        let mut orders = self.lock();
        age(&mut orders, now);
        let place = orders.iter().position(|known| known.order.network == order.network);
        if let Some(known) = place.map(|place| orders[place].order).filter(|known| known.at_ms >= order.at_ms)
        {
            return Ok(Obeyed::Known { is_block: known.is_block });
        }
        let done = deed()?;
        let earlier = place.map(|place| orders.swap_remove(place));
        let keep_until = earlier.map_or(order.until, |earlier| earlier.keep_until.max(order.until));
        if !order.is_block {
            order.until = keep_until;
            forget(&mut orders, LIFTS_MAX - 1);
        }
        orders.push(Known { order, keep_until });
        self.put.fetch_add(u64::from(order.is_block), Ordering::Release);
        Ok(Obeyed::Done(done))
    }

    /// A digest of the networks that are kept out, the same on all nodes that keep out the same: whatever the moments of the
    /// orders, which differ when each node took one from the bus.
    pub(crate) fn digest(&self, now: u32) -> u64 {
        let kept_out = self.known(now).into_iter().filter(|order| order.is_block);
        kept_out.fold(0, |sum, order| sum.wrapping_add(digest_of(order.network)))
    }

    /// How many blocks were put into the list so far, when the shards were not told of the last of them.
    pub(super) fn unenforced(&self) -> Option<u64> {
        let put = self.put.load(Ordering::Acquire);
        (put > self.enforced.load(Ordering::Acquire)).then_some(put)
    }

    /// The shards were told when so many had been put into the list.
    pub(super) fn enforced(&self, put: u64) {
        self.enforced.fetch_max(put, Ordering::AcqRel);
    }

    /// All that are remembered. A block that is over is one that was lifted: nobody may take an earlier one for the last.
    pub(super) fn known(&self, now: u32) -> Vec<BlockOrder> {
        let mut orders = self.lock();
        age(&mut orders, now);
        orders.iter().map(|known| known.order).collect()
    }
}

/// Of one network. Every version has to come to the same: FNV-1a of its name, with its bits mixed, because these are summed.
fn digest_of(network: Network) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = network.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// Forgets what may be forgotten, and turns blocks that are over into lifts.
fn age(orders: &mut Vec<Known>, now: u32) {
    orders.retain(|known| known.keep_until > now);
    for Known { order, keep_until } in orders.iter_mut() {
        if order.is_block && order.until <= now {
            (order.is_block, order.until) = (false, *keep_until);
        }
    }
    forget(orders, LIFTS_MAX);
}

/// Keeps no more lifts than that.
fn forget(orders: &mut Vec<Known>, lifts_max: usize) {
    loop {
        let lifts = orders.iter().enumerate().filter(|(_, known)| !known.order.is_block);
        if lifts.clone().count() <= lifts_max {
            return;
        }
        let first = lifts.min_by_key(|(_, known)| known.keep_until).map(|(place, _)| place);
        first.map(|place| orders.swap_remove(place));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::net::IpAddr;

    use super::*;

    const DIGEST_OF_10_1_2_0_24: u64 = 12_437_384_741_237_901_490;

    fn order(number: u16, at_ms: u64, until: u32, is_block: bool) -> BlockOrder {
        let [upper, lower] = number.to_be_bytes();
        let network = Network::new(IpAddr::from([10, upper, lower, 0]), 24).unwrap();
        BlockOrder { network, at_ms, until, is_block }
    }

    fn obey(orders: &BlockOrders, order: BlockOrder, now: u32) -> bool {
        orders.obey(order, now, || Ok::<_, Infallible>(())).unwrap() == Obeyed::Done(())
    }

    #[test]
    fn the_later_order_counts_in_whatever_order_and_however_often_they_come() {
        let all = [order(1, 10, 100, true), order(1, 20, 90, false), order(1, 30, 80, true)];
        for sequence in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let orders = BlockOrders::default();
            for place in sequence.into_iter().chain(sequence) {
                obey(&orders, all[place], 0);
            }
            assert_eq!(orders.known(0), [all[2]], "{sequence:?}");
        }
    }

    #[test]
    fn an_order_given_here_counts_whatever_the_clock_says() {
        let orders = BlockOrders::default();
        assert!(obey(&orders, order(1, 1000, 100, true), 0));
        let network = order(1, 0, 0, true).network;
        for _ in 0..3 {
            let now = orders.moment(network, 5);
            assert!(obey(&orders, order(1, now, 100, false), 0));
        }
        assert_eq!(orders.moment(order(2, 0, 0, true).network, 5), 5);
    }

    #[test]
    fn who_was_let_in_is_remembered_for_as_long_as_the_block_would_have_lasted() {
        let orders = BlockOrders::default();
        assert!(obey(&orders, order(1, 1, 100, true), 0));
        assert!(obey(&orders, order(1, 2, 10, false), 0));
        assert!(!obey(&orders, order(1, 1, 100, true), 99), "it comes back from a node that was cut off");
        assert!(orders.known(100).is_empty());
        assert!(obey(&orders, order(1, 1, 200, true), 100));
    }

    #[test]
    fn a_block_that_was_made_shorter_does_not_come_back_at_its_old_length() {
        let orders = BlockOrders::default();
        let (long, short) = (order(1, 1, 100, true), order(1, 2, 10, true));
        assert!(obey(&orders, long, 0) && obey(&orders, short, 5));
        assert_eq!(orders.known(9), [short]);
        assert!(!obey(&orders, long, 20), "it comes back from a node that was cut off");
        let over = orders.known(20);
        assert_eq!(over, [BlockOrder { until: 100, is_block: false, ..short }]);
        let cut_off = BlockOrders::default();
        assert!(obey(&cut_off, long, 0) && obey(&cut_off, over[0], 20), "and lifts it");
        assert!(orders.known(100).is_empty());
    }

    #[test]
    fn no_more_blocks_that_are_over_are_remembered_than_the_bound() {
        let orders = BlockOrders::default();
        for number in 0..LIFTS_MAX as u16 + 5 {
            assert!(obey(&orders, order(number, 1, 1000 + u32::from(number), true), 0));
            assert!(obey(&orders, order(number, 2, 10, true), 0));
        }
        let known = orders.known(10);
        assert_eq!(known.len(), LIFTS_MAX);
        assert!(
            known.iter().all(|known| !known.is_block && known.until >= 1005),
            "the first to end go first"
        );
    }

    #[test]
    fn nodes_that_keep_out_the_same_have_the_same_digest_and_others_have_not() {
        let (here, there) = (BlockOrders::default(), BlockOrders::default());
        assert_eq!(here.digest(0), 0);
        for number in 0..100 {
            obey(&here, order(number, 10, 100, true), 0);
            obey(&there, order(99 - number, 17, 130, true), 0);
        }
        let all = here.digest(0);
        assert_eq!(there.digest(0), all, "in another order, at other moments");
        obey(&there, order(3, 20, 130, false), 0);
        assert_ne!(there.digest(0), all, "one was let in");
        obey(&here, order(3, 20, 130, false), 0);
        assert_eq!(here.digest(0), there.digest(0));
        assert_eq!(here.digest(100), 0, "all are over");
        // What older and newer nodes say, too.
        obey(&here, order(258, 200, 300, true), 100);
        assert_eq!(here.digest(100), DIGEST_OF_10_1_2_0_24);
    }

    #[test]
    fn an_order_that_could_not_be_obeyed_is_not_remembered() {
        let orders = BlockOrders::default();
        assert_eq!(orders.obey(order(1, 1, 100, true), 0, || Err::<(), _>("full")), Err("full"));
        assert!(orders.known(0).is_empty());
    }

    #[test]
    fn a_block_waits_for_the_shards_until_they_were_told_after_it() {
        let orders = BlockOrders::default();
        obey(&orders, order(1, 1, 100, false), 0);
        assert_eq!(orders.unenforced(), None);
        obey(&orders, order(1, 2, 100, true), 0);
        let first = orders.unenforced().unwrap();
        assert!(!obey(&orders, order(1, 2, 100, true), 0), "a repetition changes nothing");
        assert_eq!(orders.unenforced(), Some(first));
        obey(&orders, order(2, 2, 100, true), 0);
        orders.enforced(first);
        let second = orders.unenforced().unwrap();
        orders.enforced(second);
        orders.enforced(first);
        assert_eq!(orders.unenforced(), None);
    }

    #[test]
    fn no_more_networks_that_were_let_in_are_remembered_than_the_bound() {
        let orders = BlockOrders::default();
        obey(&orders, order(9_999, 1, 100, true), 0);
        for number in 0..LIFTS_MAX as u16 + 5 {
            assert!(obey(&orders, order(number, 1, 1000 + u32::from(number), false), 0));
        }
        let known = orders.known(0);
        assert_eq!(known.len(), LIFTS_MAX + 1);
        assert!(known.iter().any(|known| known.is_block), "no block gives way");
        assert!(known.iter().all(|known| known.is_block || known.until >= 1005), "the first to end go first");
    }
}
