//! Owns the way to a connection: whether it is here, on which shard, or on which other node; and asking a shard with a
//! deadline. Used by every call that is
//! about connections.

use std::time::Duration;

use bridge::command::NotDone;
use bridge::{Address, Command, ConnId, Epoch, NodeName};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Error, Reason};
use crate::admin::Admin;

/// How long a shard may take to answer one command. Its turn lasts milliseconds; what is silent for this long
/// is stuck, and the liveness probe will say so.
pub(crate) const SHARD_DEADLINE: Duration = Duration::from_secs(2);

/// Where a connection is.
pub(super) enum Whereabouts {
    /// On this node.
    Here(Address),
    /// On another one, if it is still there.
    There(ConnId),
}

fn read(id: &str) -> Result<ConnId, Error> {
    id.parse().map_err(|error| {
        let detail = format!("{error}; send it as the header Gateway-Connection gave it.");
        Error::new(Reason::BadConnectionId, detail)
    })
}

impl Admin {
    /// Where a connection of this node is, or `None` for one of another node or another life of it.
    pub(crate) fn own(&self, id: &ConnId) -> Option<Address> {
        let known = usize::from(id.address.shard) < self.stats.len();
        (id.node == self.node && id.epoch == self.epoch && known).then_some(id.address)
    }

    /// Reads a connection id and finds it: here, or on another node that may be asked.
    ///
    /// # Errors
    /// `bad_connection_id` for what is no id, `gone` for one of an earlier life of this node, or of another node where there
    /// is no bus to ask it over.
    pub(super) fn locate(&self, id: &str) -> Result<Whereabouts, Error> {
        let id = read(id)?;
        match self.own(&id) {
            Some(address) => Ok(Whereabouts::Here(address)),
            None if id.node != self.node && self.publisher.bus().peers().is_some() => {
                Ok(Whereabouts::There(id))
            }
            None => Err(Error::gone()),
        }
    }

    /// Whether an id is of this life of this node.
    ///
    /// # Errors
    /// `bad_connection_id`, `gone`.
    pub(super) fn hold(&self, id: &str) -> Result<(), Error> {
        self.own(&read(id)?).map(|_| ()).ok_or_else(Error::gone)
    }

    /// Whether an id is of another life of this node that is there, too: it hears what this one hears, and knows better.
    pub(super) fn is_of_a_twin(&self, id: &ConnId) -> bool {
        let is_it = |(node, epoch): &(NodeName, Epoch)| *node == id.node && *epoch == id.epoch;
        id.node == self.node && self.nodes.now().iter().any(is_it)
    }

    /// Puts a command into a shard's mailbox and waits for its reply, at most `within`.
    ///
    /// # Errors
    /// `busy` when the mailbox is full, `shard_silent` when the shard is silent or ending.
    pub(crate) async fn ask<T>(
        &self,
        shard: u16,
        within: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command + Send,
    ) -> Result<T, Error> {
        let mailbox = self.switchboard.mailboxes().get(usize::from(shard)).ok_or_else(Error::gone)?;
        let (reply, answer) = oneshot::channel();
        mailbox.send(command(reply)).map_err(|_| Error::busy())?;
        match timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::new(
                Reason::ShardSilent,
                "The shard is ending and dropped the command; the node is going away, ask another one.",
            )),
            Err(_) => Err(Error::new(
                Reason::ShardSilent,
                format!(
                    "Shard {shard} did not answer in time and may still do what was asked; look at /livez."
                ),
            )),
        }
    }

    /// Has something done to a connection by its shard.
    ///
    /// # Errors
    /// As [`Admin::ask`], and what the shard says.
    pub(super) async fn order(
        &self,
        whom: Address,
        command: impl FnOnce(oneshot::Sender<Result<(), NotDone>>) -> Command + Send,
    ) -> Result<(), Error> {
        self.ask(whom.shard, SHARD_DEADLINE, command).await?.map_err(|not_done| match not_done {
            // The API is nobody's upstream: no shard answers it that it is not the owner.
            NotDone::Gone | NotDone::NotOwner => Error::gone(),
            NotDone::Full => Error::new(
                Reason::ChannelsFull,
                "The connection has as many channels as it may, or the node has; unsubscribe one, or raise \
                 limits.subscriptions_per_connection or limits.channels.",
            ),
            NotDone::Reserved => super::connections::of_users(),
            NotDone::NotText => Error::new(
                Reason::BadPayload,
                "The connection's route wants text, and this is none; say that it is binary.",
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admin::tests::node_with_mailboxes;

    #[test]
    fn a_connection_of_another_life_is_that_ones_only_while_it_is_there() {
        let admin = node_with_mailboxes(Vec::new());
        let id = |name: &str, epoch: u32| format!("{name}-{epoch:08x}-0-1-1").parse::<ConnId>().unwrap();
        assert!(admin.hold(&id("n-1", 8).to_string()).is_err() && !admin.is_of_a_twin(&id("n-1", 8)));
        admin.nodes.set(vec![(admin.node.clone(), Epoch(8)), (NodeName::parse("n-2").unwrap(), Epoch(9))]);
        assert!(admin.is_of_a_twin(&id("n-1", 8)));
        for other in [id("n-1", 7), id("n-1", 9), id("n-2", 9)] {
            assert!(!admin.is_of_a_twin(&other), "{other}");
        }
    }
}
