//! Listening sockets: one per shard on the same address, the kernel spreads connections over them (`SO_REUSEPORT`).
//!
//! Options that every accepted socket shall have are set here, once: Linux lets them be inherited.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// A listener that has been bound.
#[derive(Debug)]
pub struct Listener(pub(crate) mio::net::TcpListener);

impl Listener {
    /// Binds and listens. Port 0 lets the kernel choose one; ask [`Listener::address`] for it.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<Self> {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // A frame leaves when it is written: whatever belongs together is written together.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(Self(mio::net::TcpListener::from_std(socket.into())))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Finds out whether somebody listens on this address already: with `SO_REUSEPORT` alone, a second gateway would take
/// half of the first one's connections without a word.
///
/// # Errors
/// `AddrInUse`, or why it cannot be bound at all.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    open(address)?.bind(&address.into())
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shards_share_a_port_and_a_stranger_is_noticed() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = first.address().unwrap();
        let _second = Listener::bind(address, 16).unwrap();
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
