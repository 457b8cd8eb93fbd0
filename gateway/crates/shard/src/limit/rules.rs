//! What limits there are, as a shard obeys them: rates, bounds and what happens beyond, for connections and for peers.
//!
//! Owns the closed sets [`Limit`] and [`Action`] that counters and log lines are labelled with. Refuses to count; that
//! is `gate`'s and `traffic`'s. Part of the rules, so swapped whole with them.

use super::gcra::Rate;
use super::networks::{Networks, PeerKey};

pub use bridge::limited::{Action, Limit};

/// What happens to who may not come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// An HTTP answer, 429 with `Retry-After`, which browsers do not show to their pages.
    #[default]
    Answer,
    /// The upgrade, and a close frame at once, which they do.
    Close,
}

/// How many messages one connection may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// How many.
    pub messages: Rate,
    /// What happens beyond.
    pub action: Action,
    /// Only count what would happen.
    pub dry_run: bool,
}

/// What one peer may do. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLimits {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// New connections.
    pub connects: Option<Rate>,
    /// Messages of all its connections.
    pub messages: Option<Rate>,
    /// Bytes of all its connections, as they come off the socket.
    pub bytes: Option<Rate>,
    /// It may not come in at all.
    pub is_blocked: bool,
}

impl PeerLimits {
    /// Its rates, in the order of a slot.
    pub(super) const fn rates(&self) -> [Option<Rate>; 3] {
        [self.connects, self.messages, self.bytes]
    }
}

/// What peers may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRules {
    /// By class; at least one, and the first is that of everybody who is in no network.
    pub classes: Vec<PeerLimits>,
    /// Which peers have another.
    pub networks: Networks,
    /// What happens to connections beyond.
    pub refuse: Refuse,
    /// What happens to messages and bytes beyond.
    pub action: Action,
    /// Only count what would happen. Blocks are blocks nevertheless.
    pub dry_run: bool,
}

/// No limits, which every class number finds.
static NO_LIMITS: PeerLimits =
    PeerLimits { connections: None, connects: None, messages: None, bytes: None, is_blocked: false };

impl Default for PeerRules {
    fn default() -> Self {
        Self {
            classes: vec![NO_LIMITS],
            networks: Networks::default(),
            refuse: Refuse::Answer,
            action: Action::Pause,
            dry_run: false,
        }
    }
}

impl PeerRules {
    /// What this peer may do.
    #[must_use]
    pub fn limits_of(&self, peer: PeerKey) -> &PeerLimits {
        let class = if self.classes.len() > 1 { self.networks.class_of(peer) } else { 0 };
        self.classes.get(usize::from(class)).unwrap_or(&NO_LIMITS)
    }

    fn limit_traffic(&self) -> bool {
        self.classes.iter().any(|class| class.messages.is_some() || class.bytes.is_some())
    }
}

/// All of it, as part of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRules {
    connection: Option<ConnectionLimit>,
    peers: PeerRules,
    /// Whether any peer has a limit on what it sends: otherwise messages need not look at its slot.
    peers_send: bool,
}

impl LimitRules {
    /// These limits.
    #[must_use]
    pub fn new(connection: Option<ConnectionLimit>, peers: PeerRules) -> Self {
        Self { connection, peers_send: peers.limit_traffic(), peers }
    }

    /// What one connection may send.
    #[must_use]
    pub const fn connection(&self) -> Option<ConnectionLimit> {
        self.connection
    }

    /// What peers may do.
    #[must_use]
    pub const fn peers(&self) -> &PeerRules {
        &self.peers
    }

    /// What a peer may send, if anybody has a limit on that.
    pub(crate) fn sending(&self, peer: impl FnOnce() -> PeerKey) -> Option<&PeerLimits> {
        self.peers_send.then(|| self.peers.limits_of(peer()))
    }
}
