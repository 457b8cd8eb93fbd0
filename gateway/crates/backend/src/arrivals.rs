//! What came over a bus, on its way to the shards: a bounded queue between the task that reads the bus, and must not wait for
//! anybody, and the one that delivers in order and may.
//!
//! At the bound the newest is dropped and counted: what buses carry to channels and connections is at most once, and a reader
//! that stops would be cut off for everything. Bounded by messages and by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::bus_stats::BusStats;

/// Messages that may wait.
pub(crate) const MESSAGES_MAX: usize = 16_384;
/// Their bytes.
const BYTES_MAX: usize = 64 << 20;

/// The end that a reader fills.
pub(crate) struct Arrivals<T> {
    sender: mpsc::Sender<(T, usize)>,
    bytes: Arc<AtomicUsize>,
    stats: Arc<BusStats>,
}

impl<T> Clone for Arrivals<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bytes: Arc::clone(&self.bytes), stats: Arc::clone(&self.stats) }
    }
}

impl<T> Arrivals<T> {
    /// Both ends.
    pub(crate) fn new(stats: &Arc<BusStats>) -> (Self, Queue<T>) {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let bytes = Arc::<AtomicUsize>::default();
        let queue = Queue { receiver, bytes: Arc::clone(&bytes), out: 0 };
        (Self { sender, bytes, stats: Arc::clone(stats) }, queue)
    }

    /// Takes a message of so many bytes, or gives it back, counted as dropped, when too much waits. One that is larger than
    /// all that may wait is taken when nothing does.
    pub(crate) fn offer(&self, message: T, bytes: usize) -> Result<(), T> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_too_much = before > 0 && before + bytes > BYTES_MAX;
        let offered = if is_too_much {
            Err(message)
        } else {
            self.sender.try_send((message, bytes)).map_err(|error| error.into_inner().0)
        };
        if offered.is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.stats.overrun.add(1);
        }
        offered
    }
}

/// What waits for the shards.
pub(crate) struct Queue<T> {
    receiver: mpsc::Receiver<(T, usize)>,
    bytes: Arc<AtomicUsize>,
    /// Bytes of the one that was taken last, which are held until it is delivered.
    out: usize,
}

impl<T> Queue<T> {
    /// The next message, when the one before is delivered. `None` when the other end is gone and nothing waits.
    pub(crate) async fn next(&mut self) -> Option<T> {
        self.bytes.fetch_sub(std::mem::take(&mut self.out), Ordering::Relaxed);
        let (message, bytes) = self.receiver.recv().await?;
        self.out = bytes;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn no_more_waits_than_the_bounds_in_order_and_what_is_dropped_is_counted_and_given_back() {
        let stats = Arc::<BusStats>::default();
        let (arrivals, mut queue) = Arrivals::new(&stats);
        assert_eq!(arrivals.offer(0, BYTES_MAX + 1), Ok(()), "alone");
        assert_eq!(arrivals.offer(1, 1), Err(1));
        assert_eq!(queue.next().await, Some(0));
        assert_eq!(arrivals.offer(2, 1), Err(2), "it is not delivered yet");
        assert!(tokio::time::timeout(std::time::Duration::ZERO, queue.next()).await.is_err());
        for number in 0..MESSAGES_MAX {
            assert_eq!(arrivals.offer(number, 1), Ok(()));
        }
        assert_eq!(arrivals.offer(0, 0), Err(0));
        assert_eq!(stats.overrun.value(), 3);
        for number in 0..MESSAGES_MAX {
            assert_eq!(queue.next().await, Some(number));
        }
        assert!(tokio::time::timeout(std::time::Duration::ZERO, queue.next()).await.is_err());
        assert_eq!(arrivals.bytes.load(Ordering::Relaxed), 0);
        drop(arrivals);
        assert_eq!(queue.next().await, None);
    }
}
