//! Limits that were hit: which, what was done about it, and whether it was only counted. One closed set, used as
//! metric labels, log fields and close reasons alike. Refuses to know figures; those are the shard's rules.

use std::net::IpAddr;

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Limit {
    /// The peer is in a network that may not come in.
    Blocked,
    /// Connections of one peer.
    PeerConnections,
    /// New connections of one peer in a second.
    PeerConnects,
    /// Messages of one peer in a second.
    PeerMessages,
    /// Bytes of one peer in a second.
    PeerBytes,
    /// Messages of one connection in a second.
    ConnectionMessages,
    /// Connections of the node, or of one shard's table.
    NodeConnections,
    /// Handshakes in flight.
    NodeHandshakes,
    /// Resident memory of the process.
    NodeMemory,
}

impl Limit {
    /// Every limit, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Blocked,
        Self::PeerConnections,
        Self::PeerConnects,
        Self::PeerMessages,
        Self::PeerBytes,
        Self::ConnectionMessages,
        Self::NodeConnections,
        Self::NodeHandshakes,
        Self::NodeMemory,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::PeerConnections => "peer_connections",
            Self::PeerConnects => "peer_connects",
            Self::PeerMessages => "peer_messages",
            Self::PeerBytes => "peer_bytes",
            Self::ConnectionMessages => "connection_messages",
            Self::NodeConnections => "node_connections",
            Self::NodeHandshakes => "node_handshakes",
            Self::NodeMemory => "node_memory",
        }
    }

    /// What a close frame gives as the reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::PeerConnections => "connections",
            Self::PeerConnects => "connect_rate",
            Self::PeerMessages | Self::ConnectionMessages => "message_rate",
            Self::PeerBytes => "byte_rate",
            Self::NodeConnections | Self::NodeHandshakes | Self::NodeMemory => "overloaded",
        }
    }

    /// Whether it is the node's, and so nobody's fault who comes.
    #[must_use]
    pub const fn is_of_node(self) -> bool {
        matches!(self, Self::NodeConnections | Self::NodeHandshakes | Self::NodeMemory)
    }
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// It does not come in.
    Refuse,
    /// It is not read for a while.
    Pause,
    /// The message is read and forgotten.
    Drop,
    /// It is told to go, with 1008.
    Close,
}

impl Action {
    /// Every action, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refuse, Self::Pause, Self::Drop, Self::Close];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Pause => "pause",
            Self::Drop => "drop",
            Self::Close => "close",
        }
    }
}

/// A limit, what was done at it, and whether that was only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Which.
    pub limit: Limit,
    /// What.
    pub action: Action,
    /// Whether nothing was done.
    pub dry_run: bool,
}

impl Kind {
    /// How many there can be.
    pub const COUNT: usize = Limit::ALL.len() * Action::ALL.len() * 2;

    /// Its place in a table of all.
    #[must_use]
    pub const fn place(self) -> usize {
        (self.limit as usize * Action::ALL.len() + self.action as usize) * 2 + self.dry_run as usize
    }

    /// Those that can happen: who comes in is refused or closed, by the node refused only, what is sent is paused,
    /// dropped or closed. A block has no dry run, nor have the sizes of tables.
    pub fn all() -> impl Iterator<Item = Self> {
        let coming = [Action::Refuse, Action::Close];
        let sending = [Action::Pause, Action::Drop, Action::Close];
        Limit::ALL.into_iter().flat_map(move |limit| {
            let actions: &[Action] = match limit {
                Limit::Blocked | Limit::PeerConnections | Limit::PeerConnects => &coming,
                Limit::PeerMessages | Limit::PeerBytes | Limit::ConnectionMessages => &sending,
                Limit::NodeConnections | Limit::NodeHandshakes | Limit::NodeMemory => &coming[..1],
            };
            let actions = actions.to_vec();
            let has_no_dry_run =
                matches!(limit, Limit::Blocked | Limit::NodeConnections | Limit::NodeHandshakes);
            actions.into_iter().flat_map(move |action| {
                let dry = [false, true].into_iter().filter(move |dry| !*dry || !has_no_dry_run);
                dry.map(move |dry_run| Self { limit, action, dry_run })
            })
        })
    }
}

/// How often one peer hit one limit, within about a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Whose; `None` for all those who did not fit into the second's list, and where the limit is the node's.
    pub peer: Option<IpAddr>,
    /// Which limit, and what was done.
    pub kind: Kind,
    /// Times.
    pub times: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        let places: HashSet<usize> = Kind::all().map(Kind::place).collect();
        assert_eq!(places.len(), Kind::all().count());
        assert!(places.iter().all(|place| *place < Kind::COUNT));
    }
}
