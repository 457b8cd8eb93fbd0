//! One thread's loop: poll, hand the news to the shard, let it have its turn, sleep as long as it allows.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bridge::Stats;
use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};
use shard::net::Readiness;
use shard::{LISTENER, Next, Shard};

use crate::clock::{self, Clock};
use crate::listener::Listener;
use crate::socket::SocketNet;
use crate::waker::Waker;

/// Events per poll: large, or a few loud connections crowd out quiet ones.
const EVENTS: usize = 1024;
/// The waker's token: a key of generation zero, which is nobody's. The listener's is [`LISTENER`].
const WAKER: Token = Token(1);

/// A poll and its waker, made before any shard takes its own descriptor table.
#[derive(Debug)]
pub struct Prepared {
    poll: Poll,
    waker: Arc<Waker>,
}

impl Prepared {
    /// Opens both.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self { poll, waker })
    }

    /// What wakes this shard.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// The descriptor of the poll, to be kept in the shard's own table.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    /// The registry that the shard's network registers with. Opens a descriptor: call it in the shard's thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn registry(&self) -> io::Result<Registry> {
        self.poll.registry().try_clone()
    }

    /// Asks for the listener's events.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn listen(&self, listener: &mut Listener) -> io::Result<()> {
        self.poll.registry().register(&mut listener.0, Token(LISTENER as usize), Interest::READABLE)
    }
}

/// Runs a shard until it has drained.
///
/// # Errors
/// Polling failed, which leaves nothing to do but to end.
pub fn run(
    mut prepared: Prepared,
    clock: Clock,
    stats: &Stats,
    mut shard: Shard<SocketNet>,
) -> io::Result<()> {
    let mut events = Events::with_capacity(EVENTS);
    let mut next = Next::Now;
    while next != Next::Finished {
        let timeout = match next {
            Next::Now | Next::Finished => Duration::ZERO,
            Next::Soon => Duration::from_millis(1),
            Next::Tick => clock::to_next_tick(clock.elapsed()),
        };
        match prepared.poll.poll(&mut events, Some(timeout)) {
            Ok(()) => {}
            // A stopped and continued process is interrupted here; there are no news then.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(error),
        }
        let started = clock.elapsed();
        let now = clock::tick(started);
        shard.begin_pass(started.as_micros() as u32);
        shard.mail(now);
        for event in events.iter().filter(|event| event.token() != WAKER) {
            shard.ready(now, event.token().0 as u64, readiness(event));
        }
        next = shard.turn(now);
        let ended = clock.elapsed();
        stats.turn_us.record((ended - started).as_micros() as u64);
        stats.last_turn_ms.set(ended.as_millis() as u64);
    }
    Ok(())
}

fn readiness(event: &Event) -> Readiness {
    Readiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        hung_up: event.is_read_closed() || event.is_write_closed() || event.is_error(),
    }
}
