//! The network as a shard sees it, owned here because the shard is who needs it. Implemented by `net` over sockets
//! and by the tests over a script.
//!
//! The contract is that of edge triggering: after [`Read::WouldBlock`], [`Wrote::WouldBlock`] or a short read an
//! event will come; whoever stops before that has to come back by himself.

use std::io::IoSlice;
use std::net::IpAddr;

/// What a readiness event said of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There may be bytes to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The peer closed its half, or the connection is broken: no event will follow for what is left to read.
    pub hung_up: bool,
}

/// One attempt to accept.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A connection and where it comes from.
    Socket(S, IpAddr),
    /// Nobody waits; an event will come.
    WouldBlock,
    /// No descriptor or memory is left. Somebody may still wait, and no event will come for them.
    Exhausted,
    /// This one was gone before it could be accepted; go on.
    Lost,
}

/// One attempt to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The peer will send no more.
    Closed,
    /// Nothing there; an event will come.
    WouldBlock,
    /// The connection is broken.
    Reset,
}

/// One attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// So many bytes; fewer than offered means that no more fits, and an event will come.
    Bytes(usize),
    /// None; an event will come.
    WouldBlock,
    /// The connection is broken.
    Reset,
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// What was written is still delivered.
    Gentle,
    /// At once, with a reset; what was not delivered is lost.
    Reset,
}

/// System calls, made for the shard. None of them blocks.
pub trait Net {
    /// One connection's socket. Dropping it is not closing it politely: hand it to [`Net::close`].
    type Socket;

    /// Takes one connection off the listener's queue.
    fn accept(&mut self) -> Accepted<Self::Socket>;

    /// Asks for events of this socket under this token, once per life of the socket, edge-triggered. `false` when the
    /// kernel has no room for it.
    fn register(&mut self, socket: &Self::Socket, token: u64) -> bool;

    /// Reads into `into`, which is not empty.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> Read;

    /// Writes the slices, in one call.
    fn write(&mut self, socket: &mut Self::Socket, slices: &[IoSlice<'_>]) -> Wrote;

    /// Writes one slice: the cheaper call for the common case.
    fn write_one(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> Wrote;

    /// Says that we will write no more; what was written is still delivered, and reading goes on.
    fn finish(&mut self, socket: &mut Self::Socket);

    /// Closes.
    fn close(&mut self, socket: Self::Socket, how: Hangup);

    /// Lets nobody begin to connect any more. Whoever has begun can finish, and be accepted.
    fn bar(&mut self);

    /// Closes the listener.
    fn stop_listening(&mut self);
}
