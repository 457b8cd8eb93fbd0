//! The shard's network over real sockets.

use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use nix::sys::uio::writev;
use shard::net::{Accepted, Hangup, Net, Read, Wrote};

use crate::listener::Listener;

/// A connected socket: four bytes, registered by its number.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One shard's listener and registry.
#[derive(Debug)]
pub struct SocketNet {
    registry: Registry,
    listener: Option<Listener>,
}

impl SocketNet {
    /// A network whose events arrive at `registry`. The listener is registered by the event loop.
    #[must_use]
    pub const fn new(registry: Registry, listener: Listener) -> Self {
        Self { registry, listener: Some(listener) }
    }
}

impl Net for SocketNet {
    type Socket = Socket;

    fn accept(&mut self) -> Accepted<Socket> {
        let Some(listener) = &self.listener else { return Accepted::WouldBlock };
        match listener.0.accept() {
            Ok((stream, peer)) => Accepted::Socket(Socket(OwnedFd::from(stream)), ip(peer.ip())),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => Accepted::WouldBlock,
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => Accepted::Exhausted,
                // ECONNABORTED, EINTR, and the errors of its own that Linux hands on here: that one is lost.
                _ => Accepted::Lost,
            },
        }
    }

    fn register(&mut self, socket: &Socket, token: u64) -> bool {
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut SourceFd(&socket.raw()), Token(token as usize), interests).is_ok()
    }

    fn read(&mut self, socket: &mut Socket, into: &mut [u8]) -> Read {
        loop {
            return match recv(socket.raw(), into, MsgFlags::empty()) {
                Ok(0) => Read::Closed,
                Ok(bytes) => Read::Bytes(bytes),
                Err(Errno::EAGAIN) => Read::WouldBlock,
                Err(Errno::EINTR) => continue,
                Err(_) => Read::Reset,
            };
        }
    }

    fn write(&mut self, socket: &mut Socket, slices: &[IoSlice<'_>]) -> Wrote {
        wrote(|| writev(&socket.0, slices))
    }

    fn write_one(&mut self, socket: &mut Socket, bytes: &[u8]) -> Wrote {
        wrote(|| send(socket.raw(), bytes, MsgFlags::MSG_NOSIGNAL))
    }

    fn finish(&mut self, socket: &mut Socket) {
        // It fails when the peer is gone already, which the next read will tell.
        let _ = shutdown(socket.raw(), Shutdown::Write);
    }

    fn close(&mut self, socket: Socket, how: Hangup) {
        if how == Hangup::Reset {
            // Without this the close is only gentler.
            let _ = socket2::SockRef::from(&socket.0).set_linger(Some(std::time::Duration::ZERO));
        }
        drop(socket);
    }

    fn bar(&mut self) {
        // Without it, closing resets those whose handshake with the kernel is under way: no worse than not to bar.
        if let Some(listener) = &self.listener {
            let _ = listener.bar();
        }
    }

    fn stop_listening(&mut self) {
        self.listener = None;
    }
}

/// An IPv4 client of a dual-stack listener is an IPv4 client.
fn ip(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn wrote(mut call: impl FnMut() -> nix::Result<usize>) -> Wrote {
    loop {
        return match call() {
            Ok(bytes) => Wrote::Bytes(bytes),
            Err(Errno::EAGAIN) => Wrote::WouldBlock,
            Err(Errno::EINTR) => continue,
            Err(_) => Wrote::Reset,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_its_proof_fits_the_record() {
        assert_eq!(size_of::<Option<Socket>>(), 4);
        assert!(size_of::<store::Conn<Socket, shard::limit::Admitted>>() <= 64);
    }
}
