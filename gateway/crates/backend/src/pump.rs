//! Takes the shards' batches and hands each event to whom it concerns. It is the only reader of the outboxes: when
//! it is slow they fill, and the shards stop making events.

use bridge::event::Batch;
use bridge::{Event, Inbound};
use tokio::sync::mpsc;

use crate::upstream::Intake;

/// Runs until every shard has dropped its outbox. `upstreams` are by number. `observe` gets the shard's number and
/// every event that is of no upstream, in the order of that shard.
///
/// The tasks of upstreams take what they are given without waiting for anybody, so a full feed is a matter of
/// microseconds. An upstream whose task is gone gets nothing; its events are never settled, and its connections wait.
pub async fn pump(
    mut batches: mpsc::Receiver<Batch>,
    upstreams: Vec<Intake>,
    mut observe: impl FnMut(u16, Event),
) {
    let mut sorted: Vec<Vec<Inbound>> = upstreams.iter().map(|_| Vec::new()).collect();
    while let Some(batch) = batches.recv().await {
        for event in batch.events {
            match event {
                Event::Inbound(inbound) => {
                    if let Some(events) = sorted.get_mut(usize::from(inbound.upstream.0)) {
                        events.push(inbound);
                    }
                }
                Event::Authorize(question) => {
                    if let Some(intake) = upstreams.get(usize::from(question.upstream.0)) {
                        let _ = intake.questions.send(question).await;
                    }
                }
                Event::Ended(_) | Event::Limited(_) => observe(batch.shard, event),
            }
        }
        for (intake, events) in upstreams.iter().zip(&mut sorted) {
            if !events.is_empty() {
                let _ = intake.events.send(std::mem::take(events)).await;
            }
        }
        // A flood of endings must not keep the executor from its other tasks.
        tokio::task::yield_now().await;
    }
}
