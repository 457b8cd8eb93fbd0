//! Waking a shard from another thread: an event counter (eventfd) in its epoll.
//!
//! mio's own waker does not tell its descriptor, and a shard with its own descriptor table has to keep the wakers of
//! all others: a number that means another file there would put 8 bytes into a stranger's socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use bridge::Wake;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one shard.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// A waker whose wakes arrive at this registry under this token.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let counter = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: every write is an event, so the counter need not be read.
        registry.register(&mut SourceFd(&counter.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(counter))
    }

    /// Its descriptor, for the list of those to keep.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // It can fail only when 2^64 wakes were never read, and then the shard has an event waiting anyway.
        let _ = self.0.write(1);
    }
}
