//! The last order about each network, blocked or let in again, and when it was given: so that orders which reach a node
//! twice, late, or by way of a node that had been cut off come to the same everywhere. Of two orders about a network the
//! later one counts, by the clocks of the nodes that took them.
//!
//! Owns no list of blocks: the gate's is written under this lock, by [`super::blocks`]. Bounded by it: there are as many
//! blocks as the gate takes, and [`LIFTS_MAX`] networks that were let in again; the one to be forgotten first goes first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use shard::limit::Network;

/// Networks that were let in again and are remembered.
pub(super) const LIFTS_MAX: usize = 1024;
/// No order of others is later than this, so that there is always a later one.
pub(super) const AT_MS_MAX: u64 = u64::MAX / 2;

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

/// The orders.
#[derive(Debug, Default)]
pub(crate) struct BlockOrders(Mutex<Vec<BlockOrder>>);

impl BlockOrders {
    fn lock(&self) -> MutexGuard<'_, Vec<BlockOrder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment of an order that is given here and now: later than all that is known about the network, also where the
    /// clock of another node is ahead.
    pub(super) fn moment(&self, network: Network, unix_ms: u64) -> u64 {
        let known = self.lock().iter().find(|known| known.network == network).map(|known| known.at_ms);
        known.map_or(unix_ms, |known| unix_ms.max(known.saturating_add(1)))
    }

    /// Does what an order says, unless a later one is known or it is known itself; then `None`. A network that is let in
    /// is remembered for as long as its block would have lasted, if that is longer than the order says.
    ///
    /// # Errors
    /// Those of the deed; then nothing is remembered.
    pub(super) fn obey<T, E>(
        &self,
        mut order: BlockOrder,
        now: u32,
        deed: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let mut orders = self.lock();
        orders.retain(|known| known.until > now);
        let place = orders.iter().position(|known| known.network == order.network);
        if place.is_some_and(|place| orders[place].at_ms >= order.at_ms) {
            return Ok(None);
        }
        let done = deed()?;
        if let Some(place) = place {
            let known = orders.swap_remove(place);
            if !order.is_block {
                order.until = order.until.max(known.until);
            }
        }
        let lifts = orders.iter().enumerate().filter(|(_, known)| !known.is_block);
        if !order.is_block && lifts.clone().count() >= LIFTS_MAX {
            let first = lifts.min_by_key(|(_, known)| known.until).map(|(place, _)| place);
            first.map(|place| orders.swap_remove(place));
        }
        orders.push(order);
        Ok(Some(done))
    }

    /// All that are remembered.
    pub(super) fn known(&self, now: u32) -> Vec<BlockOrder> {
        self.lock().iter().filter(|known| known.until > now).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::net::IpAddr;

    use super::*;

    fn order(number: u16, at_ms: u64, until: u32, is_block: bool) -> BlockOrder {
        let [upper, lower] = number.to_be_bytes();
        let network = Network::new(IpAddr::from([10, upper, lower, 0]), 24).unwrap();
        BlockOrder { network, at_ms, until, is_block }
    }

    fn obey(orders: &BlockOrders, order: BlockOrder, now: u32) -> bool {
        orders.obey(order, now, || Ok::<_, Infallible>(())).unwrap().is_some()
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
        assert!(obey(&orders, order(1, AT_MS_MAX, 100, true), 0));
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
    fn an_order_that_could_not_be_obeyed_is_not_remembered() {
        let orders = BlockOrders::default();
        assert_eq!(orders.obey(order(1, 1, 100, true), 0, || Err::<(), _>("full")), Err("full"));
        assert!(orders.known(0).is_empty());
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
