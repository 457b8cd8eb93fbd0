//! Waiting for events to the microsecond.
//!
//! It owns a timer that ends a wait which is no whole number of milliseconds, because epoll counts in those: rounding
//! up would send everything of an open loop late, and spinning through the rest would take a processor from those
//! who share it with the server. It refuses to know what is waited for. Used by `client`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry};
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use crate::client::Slot;

const MILLISECOND_NS: u64 = 1_000_000;

/// A timer among the events of a poll.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: TimerFd,
}

impl Alarm {
    /// A timer that wakes `registry`'s poll as its waker does.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new(registry: &Registry) -> io::Result<Alarm> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let descriptor = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), Slot::WAKER, Interest::READABLE)?;
        Ok(Alarm { timer })
    }

    /// Polls for events, for `wait_ns` at most.
    ///
    /// # Errors
    /// Epoll or the timer failed, or a signal came.
    pub(crate) fn poll(&self, poll: &mut Poll, events: &mut Events, wait_ns: u64) -> io::Result<()> {
        let whole = wait_ns / MILLISECOND_NS;
        if wait_ns == 0 || whole > 0 {
            return poll.poll(events, Some(Duration::from_millis(whole)));
        }
        // Each setting is an edge of its own: nobody has to read what the last one left.
        let wait = Expiration::OneShot(Duration::from_nanos(wait_ns).into());
        self.timer.set(wait, TimerSetTimeFlags::empty())?;
        poll.poll(events, Some(Duration::from_nanos(MILLISECOND_NS)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock;

    #[test]
    fn a_wait_ends_by_itself_time_after_time_and_never_early() {
        let mut poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry()).unwrap();
        let mut events = Events::with_capacity(4);
        for wait_ns in [300_000, 1, 999_999, 0] {
            let before_ns = clock::now_ns();
            alarm.poll(&mut poll, &mut events, wait_ns).unwrap();
            assert!(clock::now_ns() - before_ns >= wait_ns);
            assert!(wait_ns == 0 || !events.is_empty(), "the timer of {wait_ns} ns ended the wait");
            assert!(events.iter().all(|event| event.token() == Slot::WAKER));
        }
    }
}
