//! The bus as the gateway needs it, and the one place that publishes: this node's subscribers first, then whoever
//! the bus reaches beyond it.
//!
//! A bus that joins nodes is given, beside what this trait asks of it, the ends of [`crate::Joint`]: it follows the node's
//! interests, carries what clients publish, delivers what others sent, and takes the events of routes that speak to it.
//! What is delivered is counted in the receipt for this node only; a bus knows nothing of subscribers elsewhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bridge::{Address, Channel, ConnId, Message, Receipt, Switchboard};

use crate::bus_stats::BusStats;
use crate::peers::Peers;
use crate::trouble::Trouble;

/// A future that a trait object returns.
pub type BusFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a bus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusState {
    /// It carries messages.
    Up,
    /// It does not, and is being called again.
    Away,
}

/// Why a publish was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// A shard's mailbox is full. Nobody got the message; try again soon.
    Busy,
    /// The bus is away. This node's subscribers got the message, nobody else did.
    Away,
    /// It is larger than the bus carries. Nobody got the message, unless the bus has just begun to carry less: then this node's
    /// subscribers alone.
    TooLarge,
}

impl fmt::Display for PublishError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Busy => "a shard's mailbox is full; nobody got the message",
            Self::Away => "the bus is away; only subscribers of this node got the message",
            Self::TooLarge => "the message is larger than the bus carries; nobody got it",
        })
    }
}

impl std::error::Error for PublishError {}

/// A connection that must not hear a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// One of this node.
    Here(Address),
    /// Any other: it hears the message by the bus, if it is still there.
    There(ConnId),
}

/// What joins nodes (and, on buses that have them, app servers).
pub trait Bus: Send + Sync {
    /// Its name in configuration, logs and metrics.
    fn name(&self) -> &'static str;

    /// How it is.
    fn state(&self) -> BusState;

    /// Whether nothing of other nodes can have been heard lately: it is away, or will turn out to be, since its server has
    /// said nothing for [`crate::presence::DEAF_AFTER`]. Then nobody is judged by the silence.
    fn is_deaf(&self) -> bool {
        self.state() == BusState::Away
    }

    /// Why it is away, when it is.
    fn trouble(&self) -> Option<Trouble>;

    /// Carries a message of the API or of a backend to the subscribers of other nodes. Order is kept per caller and
    /// channel. The excluded connection, of another node, is left out there. What clients publish goes another way, by
    /// [`crate::Outgoing`].
    ///
    /// # Errors
    /// [`PublishError::Away`], or [`PublishError::TooLarge`] where the bus has just begun to carry less.
    fn forward<'a>(
        &'a self,
        channel: &'a Channel,
        message: &'a Message,
        exclude: Option<&'a ConnId>,
    ) -> BusFuture<'a, Result<(), PublishError>>;

    /// What it counts; `None` for the embedded one, which has nothing to count.
    fn stats(&self) -> Option<&BusStats>;

    /// The way to other nodes; `None` where there are none to ask.
    fn peers(&self) -> Option<&dyn Peers> {
        None
    }

    /// Ends it: what clients have published is handed over as far as the bus takes it within a moment.
    fn stop(&self) -> BusFuture<'_, ()>;
}

/// Publishes for the API and for backends.
#[derive(Clone)]
pub struct Publisher {
    switchboard: Arc<Switchboard>,
    bus: Arc<dyn Bus>,
}

impl Publisher {
    /// A publisher to this node's shards and to a bus.
    #[must_use]
    pub fn new(switchboard: Arc<Switchboard>, bus: Arc<dyn Bus>) -> Self {
        Self { switchboard, bus }
    }

    /// The bus behind it.
    #[must_use]
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// Local first, then the bus.
    ///
    /// # Errors
    /// As [`PublishError`] says.
    pub async fn publish(
        &self,
        channel: &Channel,
        message: &Message,
        exclude: Option<&Excluded>,
        receipt: Option<&Receipt>,
    ) -> Result<(), PublishError> {
        if self.switchboard.beyond().is_some_and(|beyond| !beyond.carries(message.payload().len())) {
            return Err(PublishError::TooLarge);
        }
        let (here, there) = match exclude {
            Some(Excluded::Here(address)) => (Some(*address), None),
            Some(Excluded::There(id)) => (None, Some(id)),
            None => (None, None),
        };
        self.switchboard.publish(None, channel, message, here, receipt).map_err(|_| PublishError::Busy)?;
        self.bus.forward(channel, message, there).await
    }
}
