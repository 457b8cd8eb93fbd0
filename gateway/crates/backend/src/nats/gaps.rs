//! Gaps: after each loss of NATS app servers are told from when to when what they and clients said may have reached nobody,
//! and routes that want it so close their connections. A gap that cannot be told before the next loss becomes part of the next.
//!
//! Over JetStream a gap is told when the stream has it, within a bounded number of attempts; in core mode when it is handed to
//! the socket, as everything is there.

use std::sync::Arc;

use async_nats::HeaderMap;
use bridge::{Mailbox, Switchboard};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::inbound::{Failed, Teller};
use super::patience::{RETRY_MAX, RETRY_MIN};
use super::subjects;
use crate::joint::close_gap;

/// Attempts to tell one partition, over a minute or so. Beyond that it is left out, and counted.
const ATTEMPTS: u32 = 60;
/// Partitions that are told at once.
pub(super) const TOLD_AT_ONCE: usize = 64;

/// Nothing said in between is sure to have reached anybody; milliseconds since 1970.
#[derive(Clone, Copy)]
struct Gap {
    from_ms: u64,
    to_ms: u64,
}

/// Tells of gaps.
pub(super) struct Gaps {
    teller: Arc<Teller>,
    jetstream: bool,
    mailboxes: Vec<Mailbox>,
}

/// The bus was lost again before all was told.
struct LostAgain;

impl Gaps {
    /// As this teller tells events, and to the shards behind this switchboard.
    pub(super) fn new(teller: &Arc<Teller>, jetstream: bool, switchboard: &Switchboard) -> Self {
        Self { teller: Arc::clone(teller), jetstream, mailboxes: switchboard.mailboxes().to_vec() }
    }

    /// Runs for as long as the program does.
    pub(super) async fn run(self) {
        let mut standing = self.teller.link.watch();
        let mut known = *standing.borrow_and_update();
        let wall_ms = self.teller.node.wall_ms;
        let mut seen_up_ms = wall_ms();
        // From when on nobody has been told.
        let mut untold = (!known.is_up).then_some(known.heard_until_ms);
        loop {
            if let (true, Some(from_ms)) = (known.is_up, untold) {
                let gap = Gap { from_ms, to_ms: wall_ms() };
                tracing::warn!(away_ms = gap.to_ms.saturating_sub(from_ms), "the bus is back: nats");
                close_gap(&self.teller.routes, &self.mailboxes).await;
                if self.tell(gap, known.losses).await.is_ok() {
                    untold = None;
                }
            }
            if standing.changed().await.is_err() {
                return;
            }
            let now = *standing.borrow_and_update();
            if now.losses > known.losses {
                if known.is_up {
                    tracing::warn!("the bus is away: nats");
                }
                // Of several only the last is known exactly.
                let is_one = now.losses == known.losses + 1;
                let from_ms = if is_one { now.heard_until_ms } else { seen_up_ms.min(now.heard_until_ms) };
                untold = Some(untold.map_or(from_ms, |untold| untold.min(from_ms)));
            }
            if now.is_up {
                seen_up_ms = wall_ms();
            }
            known = now;
        }
    }

    /// Tells all partitions of all routes, as long as the bus has been lost so often and not again.
    async fn tell(&self, gap: Gap, losses: u64) -> Result<(), LostAgain> {
        let partitions = self.teller.node.partitions;
        let mut all: Vec<(Arc<str>, u16)> = Vec::new();
        for route in self.teller.routes.now().iter().filter(|route| route.tells_bus) {
            all.extend((0..partitions).map(|partition| (Arc::clone(&route.name), partition)));
        }
        let mut told = stream::iter(all)
            .map(|(route, partition)| self.tell_one(gap, losses, route, partition))
            .buffer_unordered(TOLD_AT_ONCE);
        while let Some(told) = told.next().await {
            told?;
        }
        Ok(())
    }

    async fn tell_one(
        &self,
        gap: Gap,
        losses: u64,
        route: Arc<str>,
        partition: u16,
    ) -> Result<(), LostAgain> {
        let Teller { link, subjects, stats, .. } = &*self.teller;
        let subject = subjects.inbound(&route, partition);
        let body = serde_json::json!({ "from_ms": gap.from_ms, "to_ms": gap.to_ms }).to_string();
        let headers = self.headers(gap, &route, partition);
        let mut pause = RETRY_MIN;
        for _ in 0..ATTEMPTS {
            let (subject, headers, body) = (subject.clone(), headers.clone(), body.clone().into());
            let done = if self.jetstream {
                self.teller.store(subject, headers, body).await
            } else {
                let publish = link.client.publish_with_headers(subject, headers, body);
                match link.unless_lost(publish).await {
                    Some(published) => published.map_err(|_| Failed::Never),
                    None => Err(Failed::Lost),
                }
            };
            match done {
                Ok(()) => return Ok(()),
                Err(Failed::Never) => break,
                Err(Failed::Lost | Failed::Refused) => stats.inbound_retries.add(1),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = link.lost_since(losses) => return Err(LostAgain),
            }
        }
        tracing::warn!(%route, partition, "nobody could be told that the bus was away");
        stats.inbound_left_out.add(1);
        Ok(())
    }

    fn headers(&self, Gap { to_ms, .. }: Gap, route: &str, partition: u16) -> HeaderMap {
        let node = &self.teller.node;
        let mut headers = HeaderMap::new();
        headers.insert(subjects::EVENT, "gap");
        headers.insert(subjects::NODE, node.name.as_str());
        headers.insert(subjects::EPOCH, node.epoch.to_string());
        headers.insert(subjects::ROUTE, route);
        headers.insert(subjects::CONTENT_TYPE, "application/json");
        // One stream may have the events of several routes.
        let id = format!("{}.{}.{to_ms}.{route}.{partition}", node.name, node.epoch);
        headers.insert(subjects::MESSAGE_ID, id);
        headers
    }
}
