//! Why connections end: one closed set, used as metric label, log field and event field alike.

/// Why a connection that had been opened ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// The client said goodbye with a close frame.
    ClientClose,
    /// The client's half was closed without a close frame.
    ClientGone,
    /// The connection was reset, or a write failed.
    Reset,
    /// The client broke RFC 6455 (1002).
    ProtocolError,
    /// Text that is not UTF-8 (1007).
    InvalidUtf8,
    /// A message, frame or fragment count over its limit (1009).
    MessageTooBig,
    /// No sign of life within the pong deadline.
    PongTimeout,
    /// Its backlog reached the bound, or nothing of it could be written for too long (1013).
    SlowConsumer,
    /// It exceeded a limit whose action is to close, or its network was blocked (1008).
    Limited,
    /// No message went either way for the route's idle timeout (1000).
    Idle,
    /// It was as old as its route allows (1001).
    MaxAge,
    /// Closed through the API or by an app server.
    ApiClose,
    /// The node is going away (1001).
    GoingAway,
    /// The node goes on with fewer connections (1001).
    Shed,
    /// Its upstream took nothing of it for too long (1013).
    Upstream,
    /// The bus was away, it may have missed messages, and its route says so (1013).
    Gap,
    /// It was authorised for so long and no longer (1008).
    Expired,
    /// A fault of ours (1011).
    Internal,
}

impl EndReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::ClientClose,
        Self::ClientGone,
        Self::Reset,
        Self::ProtocolError,
        Self::InvalidUtf8,
        Self::MessageTooBig,
        Self::PongTimeout,
        Self::SlowConsumer,
        Self::Limited,
        Self::Idle,
        Self::MaxAge,
        Self::ApiClose,
        Self::GoingAway,
        Self::Shed,
        Self::Upstream,
        Self::Gap,
        Self::Expired,
        Self::Internal,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::ClientGone => "client_gone",
            Self::Reset => "reset",
            Self::ProtocolError => "protocol_error",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MessageTooBig => "message_too_big",
            Self::PongTimeout => "pong_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::Limited => "limited",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::ApiClose => "api_close",
            Self::GoingAway => "going_away",
            Self::Shed => "shed",
            Self::Upstream => "upstream",
            Self::Gap => "gap",
            Self::Expired => "expired",
            Self::Internal => "internal",
        }
    }
}

/// Why a connection was turned away before it was opened, where it is not the request's fault (those are
/// `wire`'s refusals, counted under their own labels).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Turned {
    /// The node or the shard holds as many connections as it may.
    TableFull,
    /// Too many handshakes in flight.
    Handshakes,
    /// The process holds as much memory as it may.
    Memory,
    /// The process has no descriptor left.
    Descriptors,
    /// The client left, or was reset, before its head was complete.
    Left,
    /// No room for its channels.
    Channels,
    /// The node is going away.
    GoingAway,
    /// Its peer has as many connections as it may, or had too many in a second.
    PeerLimit,
    /// Its network is blocked.
    Blocked,
    /// Registering the socket failed.
    Internal,
}

impl Turned {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::TableFull,
        Self::Handshakes,
        Self::Memory,
        Self::Descriptors,
        Self::Left,
        Self::Channels,
        Self::GoingAway,
        Self::PeerLimit,
        Self::Blocked,
        Self::Internal,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TableFull => "table_full",
            Self::Handshakes => "handshakes",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
            Self::Left => "left",
            Self::Channels => "channels",
            Self::GoingAway => "going_away",
            Self::PeerLimit => "peer_limit",
            Self::Blocked => "blocked",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_order_of_their_numbers() {
        for (number, reason) in EndReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
        for (number, reason) in Turned::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
