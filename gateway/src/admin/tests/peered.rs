//! A bus with one other node, `m`, which gives the same answer to whatever it is asked, and notes what is said to others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::bus::BusFuture;
use backend::peers::{Beat, CallError, Heard, News};
use backend::proto;
use backend::{Bus, BusState, BusStats, Peers, PublishError, Publisher, Trouble};
use bridge::{Channel, ConnId, Epoch, Mailbox, Message, NodeName};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::node_with_mailboxes;
use crate::admin::Admin;

/// The bus.
#[derive(Default)]
pub(crate) struct Peered {
    answer: proto::Answer,
    stats: BusStats,
    /// Beats of the node, oldest first.
    pub(crate) beats: Mutex<Vec<Beat>>,
    /// Where answers went, oldest first.
    pub(crate) answered: Mutex<Vec<String>>,
}

impl Peered {
    /// With an answer of the other node.
    pub(crate) fn answering(answer: proto::Answer) -> Arc<Self> {
        Arc::new(Self { answer, ..Self::default() })
    }

    /// A node on it, with a shard for each mailbox, which knows the other one.
    pub(crate) fn node(self: &Arc<Self>, mailboxes: Vec<Mailbox>) -> Admin {
        let mut admin = node_with_mailboxes(mailboxes);
        admin.publisher = Publisher::new(Arc::clone(&admin.switchboard), Arc::<Self>::clone(self));
        admin.nodes.set(vec![(NodeName::parse("m").unwrap(), Epoch(9))]);
        admin
    }
}

impl Bus for Peered {
    fn name(&self) -> &'static str {
        "peered"
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn trouble(&self) -> Option<Trouble> {
        None
    }

    fn forward<'a>(
        &'a self,
        _: &'a Channel,
        _: &'a Message,
        _: Option<&'a ConnId>,
    ) -> BusFuture<'a, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn stats(&self) -> Option<&BusStats> {
        Some(&self.stats)
    }

    fn peers(&self) -> Option<&dyn Peers> {
        Some(self)
    }

    fn stop(&self) -> BusFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Peers for Peered {
    fn ask<'a>(
        &'a self,
        _: &'a NodeName,
        _: proto::Command,
        _: Duration,
    ) -> BusFuture<'a, Result<proto::Answer, CallError>> {
        Box::pin(async {
            // It takes its time, or who asks for ever could not be interrupted.
            tokio::task::yield_now().await;
            Ok(self.answer.clone())
        })
    }

    fn is_away(&self) -> bool {
        false
    }

    fn counts(&self) -> &BusStats {
        &self.stats
    }

    fn may_answer(&self, _: &str) -> bool {
        true
    }

    fn answer<'a>(&'a self, reply_to: &'a str, _: Bytes) -> BusFuture<'a, ()> {
        self.answered.lock().unwrap().push(reply_to.to_owned());
        Box::pin(std::future::ready(()))
    }

    fn beat(&self, beat: Beat) -> BusFuture<'_, ()> {
        self.beats.lock().unwrap().push(beat);
        Box::pin(std::future::ready(()))
    }

    fn tell(&self, _: News) -> BusFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn bytes_max(&self) -> usize {
        usize::MAX
    }

    fn hear(&self) -> Option<mpsc::Receiver<Heard>> {
        None
    }
}
