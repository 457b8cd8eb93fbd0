//! The question whether a request may become a connection, and its answer. It leaves a shard as an event and comes
//! back as a command; meanwhile the handshake waits, under its deadline. Refuses to know who answers.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::channel::Channel;
use crate::id::Address;
use crate::inbound::Upstream;
use crate::principal::User;

/// A request that asks to come in.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// Who decides.
    pub upstream: Upstream,
    /// Whom the answer is for.
    pub address: Address,
    /// Number of the route.
    pub route: u16,
    /// Whose: the address that limits see.
    pub peer: IpAddr,
    /// The path, as it was sent.
    pub path: Box<str>,
    /// What follows the `?`, as it was sent.
    pub query: Option<Box<str>>,
    /// The header fields that the route lets through, names in lower case, in the order they were sent.
    pub headers: Vec<(Box<str>, Bytes)>,
    /// The subprotocols that the client offers.
    pub protocols: Vec<Box<str>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It comes in.
    Allow(Allowed),
    /// It does not.
    Refuse(Refused),
}

/// As whom, and into what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The user, whose channel it joins.
    pub user: Option<User>,
    /// Channels it joins beside those of its route.
    pub channels: Vec<Channel>,
    /// Comes back with every event; checked to be at most [`crate::principal::STATE_BYTES_MAX`] bytes.
    pub state: Bytes,
    /// It is closed (1008) after so long.
    pub expires: Option<Duration>,
    /// The subprotocol; has to be one of those it offers. `None` leaves the choice to the route.
    pub protocol: Option<Box<str>>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status of the answer: 400 to 599.
    pub status: u16,
    /// For the client's eyes; printable ASCII, at most 256 bytes.
    pub reason: Box<str>,
    /// Seconds after which it may ask again.
    pub retry_after_s: Option<u32>,
    /// Nobody decided: the backend is away, slow or overloaded. Counted apart.
    pub is_ours: bool,
}
