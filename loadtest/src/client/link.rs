//! One connection as a client thread remembers it, and the words for where it stands.
//!
//! It owns the size of a quiet connection: sixteen bytes. It refuses everything rare, which lies aside in the
//! `desk`.

use mio::Token;
use socket2::Socket;

/// Which connection of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// The waker's token; everything below is a slot.
    pub(crate) const WAKER: Token = Token(u32::MAX as usize);

    /// The slot an event speaks of; `None` for the waker.
    pub(crate) fn of(token: Token) -> Option<Slot> {
        u32::try_from(token.0).ok().filter(|&index| index != u32::MAX).map(Slot)
    }

    /// As an index into a table with one entry per slot.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// ```text
/// Free -> Connecting -> Upgrading -> Open -> Closing -> Free      WebSocket
///                   \-> Http -----------------------> Free        HTTP
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No connection.
    Free,
    /// TCP is being set up.
    Connecting,
    /// The upgrade is under way.
    Upgrading,
    /// Messages may flow.
    Open,
    /// We sent a close frame and wait for the server to end the stream.
    Closing,
    /// A plain HTTP connection.
    Http,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialogue {
    /// WebSocket to the target's path.
    WebSocket,
    /// HTTP/1.1 to the publish address.
    Http,
}

/// How we end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Farewell {
    /// A close frame with code 1000, then wait for the server to end the stream.
    Frame,
    /// Close the socket: the server sees a FIN, and this side keeps the port for a while (TIME_WAIT).
    Fin,
    /// Close the socket without lingering: the server sees a reset, and nothing stays behind on either side.
    Reset,
}

/// Where the connections of a thread behave otherwise than a good client's do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Receive buffer of connections to come, bytes as `SO_RCVBUF` takes them; `None` is the kernel's choice.
    pub(crate) receive_buffer: Option<usize>,
    /// Pings get no answer.
    pub(crate) silent: bool,
    /// That an open connection ends is no fault, the scenario judges it.
    pub(crate) forsaken: bool,
}

/// What is kept of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Option<Socket>,
    pub(super) since_ms: u32,
    /// Which connection of this slot: what waits for an earlier one must not reach this one.
    pub(super) serial: u32,
    pub(super) stage: Stage,
    pub(super) dialogue: Dialogue,
}

impl Link {
    /// A slot without a connection.
    pub(super) fn free() -> Link {
        Link { socket: None, since_ms: 0, serial: 0, stage: Stage::Free, dialogue: Dialogue::WebSocket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_connection_costs_sixteen_bytes_at_most() {
        assert!(size_of::<Link>() <= 16, "{}", size_of::<Link>());
    }

    #[test]
    fn the_waker_is_no_slot() {
        assert_eq!(Slot::of(Slot::WAKER), None);
        assert_eq!(Slot::of(Token(7)), Some(Slot(7)));
    }
}
