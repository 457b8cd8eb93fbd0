//! Takes the shards' batches and hands each event to whom it concerns. It is the only reader of the outboxes: when
//! it is slow they fill, and the shards stop making events.

use bridge::Event;
use bridge::event::Batch;
use tokio::sync::mpsc;

/// Runs until every shard has dropped its outbox. `observe` gets the shard's number and the event, in the order of
/// that shard.
pub async fn pump(mut batches: mpsc::Receiver<Batch>, mut observe: impl FnMut(u16, Event)) {
    while let Some(batch) = batches.recv().await {
        for event in batch.events {
            observe(batch.shard, event);
        }
        // A flood of endings must not keep the executor from its other tasks.
        tokio::task::yield_now().await;
    }
}
