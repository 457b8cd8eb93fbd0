//! Listening sockets: one per shard on the same address, the kernel spreads connections over them (`SO_REUSEPORT`).
//!
//! Options that every accepted socket shall have are set here, once: Linux lets them be inherited.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// Offset of the flags in a TCP header (RFC 9293, section 3.1), where a filter on a TCP socket begins to look.
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// A classic BPF program: of the flags SYN and ACK, SYN alone is dropped, all else is taken whole.
static NO_NEW: [SockFilter; 5] = [
    SockFilter::new(libc::BPF_LD as u16 | libc::BPF_B as u16 | libc::BPF_ABS as u16, 0, 0, FLAGS_AT),
    SockFilter::new(libc::BPF_ALU as u16 | libc::BPF_AND as u16 | libc::BPF_K as u16, 0, 0, SYN | ACK),
    SockFilter::new(libc::BPF_JMP as u16 | libc::BPF_JEQ as u16 | libc::BPF_K as u16, 0, 1, SYN),
    SockFilter::new(libc::BPF_RET as u16 | libc::BPF_K as u16, 0, 0, 0),
    SockFilter::new(libc::BPF_RET as u16 | libc::BPF_K as u16, 0, 0, u32::MAX),
];

/// A listener that has been bound.
#[derive(Debug)]
pub struct Listener(pub(crate) mio::net::TcpListener);

impl Listener {
    /// Binds and listens. Port 0 lets the kernel choose one; ask [`Listener::address`] for it. Of what was written to a
    /// connection and not yet sent, the kernel takes `notsent_lowat` bytes and hardly more.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub fn bind(address: SocketAddr, backlog: i32, notsent_lowat: u32) -> io::Result<Self> {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // A frame leaves when it is written: whatever belongs together is written together.
        socket.set_tcp_nodelay(true)?;
        // The rest waits with us, where a frame is kept once for all who wait for it, and is counted.
        socket.set_tcp_notsent_lowat(notsent_lowat)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(Self(mio::net::TcpListener::from_std(socket.into())))
    }

    /// Drops whatever wants to begin a connection. Handshakes under way are completed and can be accepted: closing a
    /// listener from which nobody comes any more then resets nobody.
    ///
    /// # Errors
    /// The kernel takes no socket filters.
    pub fn bar(&self) -> io::Result<()> {
        SockRef::from(&self.0).attach_filter(&NO_NEW)
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
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn shards_share_a_port_and_a_stranger_is_noticed() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap(), 16, 16_384).unwrap();
        let address = first.address().unwrap();
        let _second = Listener::bind(address, 16, 16_384).unwrap();
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_barred_listener_gives_up_its_queue_and_takes_nobody_new() {
        const QUEUED: usize = 20;
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 64, 16_384).unwrap();
        let address = listener.address().unwrap();
        let mut queued: Vec<TcpStream> = (0..QUEUED).map(|_| TcpStream::connect(address).unwrap()).collect();
        listener.bar().unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let mut accepted: Vec<_> = std::iter::from_fn(|| listener.0.accept().ok()).collect();
        assert_eq!(accepted.len(), QUEUED);
        drop(listener);
        for (served, peer) in &mut accepted {
            let client = queued.iter_mut().find(|client| client.local_addr().unwrap() == *peer).unwrap();
            client.write_all(b"hello").unwrap();
            served.write_all(b"served").unwrap();
            let mut heard = [0; 6];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"served", "the filter it inherited lets everything through");
        }
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
