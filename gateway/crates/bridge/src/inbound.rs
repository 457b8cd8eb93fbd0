//! What clients do, on its way to app servers: opened, message, closed, in one order per connection; and the bounds
//! under which a shard hands it out.
//!
//! An *upstream* is whom a route tells its events: a backend, or the bus. A shard hands an upstream no more than the
//! [`Quota`] allows until [`crate::Command::Settle`] says that some of it is off its hands; beyond that the
//! connections that feed it are not read. So whatever waits anywhere for an upstream is bounded by the quota.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::ending::EndReason;
use crate::id::Address;
use crate::message::Kind;
use crate::principal::Principal;

/// Whom a route tells its events, by number: the configuration gives each backend and the bus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Upstream(pub u16);

/// Most partitions of an upstream.
pub const PARTITIONS_MAX: u16 = 1024;

/// How much a shard may have handed to an upstream that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Connections are spread over so many partitions, by [`Address::partition`]; each has its own share.
    pub partitions: u16,
    /// Events of one partition on one shard. Opened and closed events count, too.
    pub events: u32,
    /// Payload bytes of one partition on one shard. A larger message goes when nothing else is under way.
    pub bytes: u32,
    /// Messages of one connection.
    pub connection_events: u16,
    /// A connection that has something to say and could not for so many ticks of 100 ms is closed 1013.
    pub patience_ticks: u32,
}

/// One event of one connection.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// For whom.
    pub upstream: Upstream,
    /// The partition of the connection.
    pub partition: u16,
    /// Which connection.
    pub address: Address,
    /// Number of its route.
    pub route: u16,
    /// Counts the events of the connection: 1 is opened, the highest is closed.
    pub sequence: u32,
    /// What app servers have said of it.
    pub principal: Option<Arc<Principal>>,
    /// What happened.
    pub occurrence: Occurrence,
}

/// What a connection did.
#[derive(Clone, Debug)]
pub enum Occurrence {
    /// It is open.
    Opened(Box<Opened>),
    /// It sent a message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// The application's bytes.
        payload: Bytes,
    },
    /// It has ended; the last event.
    Closed {
        /// Why.
        reason: EndReason,
        /// The close code that was received or, where none was, sent.
        code: Option<u16>,
    },
}

/// How a connection was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whose: the address that limits see.
    pub peer: IpAddr,
    /// The path of its request, without the query, as it was sent.
    pub path: Box<str>,
    /// The subprotocol it speaks.
    pub protocol: Option<Box<str>>,
}

impl Inbound {
    /// What it counts against [`Quota::bytes`].
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        match &self.occurrence {
            Occurrence::Message { payload, .. } => payload.len() as u32,
            _ => 0,
        }
    }

    /// What has to be said when it is off the upstream's hands.
    #[must_use]
    pub fn settled(&self) -> Settled {
        let is_message = matches!(self.occurrence, Occurrence::Message { .. });
        Settled {
            address: self.address,
            partition: self.partition,
            events: 1,
            messages: u16::from(is_message),
            bytes: self.payload_bytes(),
        }
    }
}

/// The number of the bus among upstreams, where one joins this node to others.
pub const BUS: Upstream = Upstream(0);

/// So much of a connection's events is off the upstream's hands: acknowledged, or given up. It does not matter which
/// ones, and those of one connection may be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whose they were; it may be gone by now.
    pub address: Address,
    /// Its partition.
    pub partition: u16,
    /// How many.
    pub events: u16,
    /// Of these, messages.
    pub messages: u16,
    /// Their payload bytes.
    pub bytes: u32,
}
