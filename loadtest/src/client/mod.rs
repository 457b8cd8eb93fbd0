//! One client thread: thousands of connections, one epoll, one read buffer.
//!
//! It owns the turn (scenario, deadlines, readiness) and turns bytes into calls of a [`Scenario`]. It refuses
//! policy: how many connections, what is sent and what is right is the scenario's. Started by `crew`, one per
//! thread.

mod alarm;
mod desk;
mod late_pongs;
mod link;
mod lot;

use std::io::{self, Read};

use mio::event::Event;
use mio::{Events, Poll};
use nix::errno::Errno;

use alarm::Alarm;
pub(crate) use desk::{Desk, Plan};
pub(crate) use link::{Dialogue, Farewell, Manner, Slot, Stage};
pub(crate) use lot::{Lot, share};

use crate::board::Phase;
use crate::clock;
use crate::fault::{Fault, Faults};
use crate::frames::{self, Incoming, LONGEST_FRAME};
use crate::sockets;

/// One read takes at most this much, bytes; one buffer per thread.
const SCRATCH: usize = 256 * 1024;

/// Readiness taken from the kernel in one turn.
const EVENTS: usize = 1024;

/// How often overdue handshakes and closes are looked for.
const SWEEP_EVERY_NS: u64 = 500_000_000;

/// What the connections of one thread do. The calling order per slot is `opened`, `message`…, `closed`; a
/// slot that never opens gets `closed` alone.
pub(crate) trait Scenario: Send + 'static {
    /// The part of the conductor's goal that is this thread's, asked once before the first turn.
    fn lot(&self, thread: u32, threads: u32) -> Lot {
        Lot::even(thread, threads)
    }

    /// Where this thread's connections go, instead of the plan's path; asked once before the first turn.
    fn path(&self) -> Option<&str> {
        None
    }

    /// Once per turn, before waiting: opens, sends what is due, and says how long the thread may wait, in ns.
    fn turn(&mut self, desk: &mut Desk) -> u64;

    /// The upgrade was answered (or, for HTTP, the connection stands).
    fn opened(&mut self, _desk: &mut Desk, _slot: Slot) {}

    /// A whole message came.
    fn message(&mut self, _desk: &mut Desk, _slot: Slot, _payload: &[u8]) {}

    /// The server closes an open connection; `true` when that is in order. Then its close is answered, and however
    /// the connection ends is no fault.
    fn told(&mut self, _desk: &mut Desk, _slot: Slot, _code: u16, _reason: &[u8]) -> bool {
        false
    }

    /// Bytes came on an HTTP connection; returns how many of them were whole answers.
    fn answer(&mut self, _desk: &mut Desk, _slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        Ok(bytes.len())
    }

    /// The connection is gone; the slot is free again. `fault` is already counted.
    fn closed(&mut self, _desk: &mut Desk, _slot: Slot, _fault: Option<Fault>) {}
}

/// One client thread's whole state.
pub(crate) struct Client<S> {
    desk: Desk,
    scenario: S,
    poll: Poll,
    scratch: Vec<u8>,
    next_sweep_ns: u64,
}

impl<S: Scenario> Client<S> {
    /// A client without connections.
    pub(crate) fn new(desk: Desk, scenario: S, poll: Poll) -> Client<S> {
        Client { desk, scenario, poll, scratch: vec![0; SCRATCH.max(2 * LONGEST_FRAME)], next_sweep_ns: 0 }
    }

    /// Turns until the conductor says [`Phase::Finish`]; returns what the scenario gathered.
    ///
    /// # Errors
    /// Only when epoll itself fails.
    pub(crate) fn run(mut self) -> io::Result<(S, Faults)> {
        let mut events = Events::with_capacity(EVENTS);
        let alarm = Alarm::new(self.poll.registry())?;
        loop {
            let phase = self.desk.phase();
            if phase == Phase::Finish {
                break;
            }
            let wait_ns = self.scenario.turn(&mut self.desk).min(self.desk.pongs_due_in_ns());
            self.bury_broken();
            self.sweep();
            self.desk.publish(phase);
            let wait_ns = if self.desk.has_broken() { 0 } else { wait_ns.min(SWEEP_EVERY_NS) };
            match alarm.poll(&mut self.poll, &mut events, wait_ns) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if let Some(slot) = Slot::of(event.token()) {
                    self.ready(slot, event);
                }
            }
            self.desk.answer_late_pings();
            self.bury_broken();
        }
        self.desk.publish(Phase::Finish);
        Ok((self.scenario, self.desk.take_faults()))
    }

    fn ready(&mut self, slot: Slot, event: &Event) {
        if self.desk.stage(slot) == Stage::Connecting {
            match self.desk.connected(slot) {
                Ok(true) if self.desk.stage(slot) == Stage::Http => {
                    self.scenario.opened(&mut self.desk, slot)
                }
                Ok(true) => {}
                Ok(false) => return,
                Err(fault) => return self.end(slot, Some(fault)),
            }
        }
        if event.is_writable()
            && let Err(fault) = self.desk.flush(slot)
        {
            return self.end(slot, Some(fault));
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            let to_the_end = event.is_read_closed() || event.is_error();
            if let Err(fault) = self.read(slot, to_the_end) {
                self.end(slot, Some(fault));
            }
        }
    }

    /// Reads until the socket has no more. A short read is the end, unless the event said that the stream
    /// ends too: then no further event follows.
    fn read(&mut self, slot: Slot, to_the_end: bool) -> Result<(), Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.read_into(&mut scratch, slot, to_the_end);
        self.scratch = scratch;
        result
    }

    fn read_into(&mut self, scratch: &mut [u8], slot: Slot, to_the_end: bool) -> Result<(), Fault> {
        loop {
            let held = self.desk.take_partial(slot, scratch);
            let Some(mut socket) = self.desk.socket(slot) else { return Ok(()) };
            let room = scratch.len() - held;
            let (count, over) = match socket.read(&mut scratch[held..]) {
                Ok(0) => return Err(Fault::Ended),
                Ok(count) => (count, count < room && !to_the_end),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true),
                Err(error) => return Err(Fault::Broken(sockets::errno(&error))),
            };
            let bytes = &scratch[..held + count];
            let used = if count > 0 { self.take_apart(slot, bytes)? } else { 0 };
            self.desk.keep_partial(slot, &bytes[used..]);
            if over {
                return Ok(());
            }
        }
    }

    /// Hands on every whole thing in `bytes` and says how much that was.
    fn take_apart(&mut self, slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.desk.stage(slot) {
                Stage::Free | Stage::Connecting => return Ok(bytes.len()),
                Stage::Http => return Ok(used + self.scenario.answer(&mut self.desk, slot, rest)?),
                Stage::Upgrading => {
                    let Some(length) = self.desk.check_upgrade(rest)? else { return Ok(used) };
                    used += length;
                    self.desk.upgraded(slot);
                    self.scenario.opened(&mut self.desk, slot);
                }
                stage @ (Stage::Open | Stage::Closing) => {
                    let Some((frame, length)) = frames::parse(rest)? else { return Ok(used) };
                    used += length;
                    self.frame(slot, stage, frame)?;
                }
            }
        }
    }

    fn frame(&mut self, slot: Slot, stage: Stage, frame: Incoming<'_>) -> Result<(), Fault> {
        match frame {
            Incoming::Message(payload) if stage == Stage::Open => {
                self.scenario.message(&mut self.desk, slot, payload);
            }
            Incoming::Ping(payload) if stage == Stage::Open => self.desk.pinged(slot, payload),
            // The answer to our close: now the server ends the stream (RFC 6455 section 7.1.1).
            Incoming::Close(..) if stage == Stage::Closing => {}
            Incoming::Close(code, reason) => {
                if !self.scenario.told(&mut self.desk, slot, code, reason) {
                    return Err(Fault::Closed(code));
                }
                self.desk.answer_close(slot, code);
            }
            Incoming::Message(_) | Incoming::Ping(_) | Incoming::Pong => {}
        }
        Ok(())
    }

    fn end(&mut self, slot: Slot, fault: Option<Fault>) {
        let fault = match fault {
            Some(Fault::Broken(errno))
                if errno == Errno::ECONNRESET as i32 && self.desk.stage(slot) == Stage::Upgrading =>
            {
                Some(Fault::Unanswered)
            }
            other => other,
        };
        let counted = self.desk.end(slot, fault);
        self.scenario.closed(&mut self.desk, slot, counted);
    }

    /// Ends the slots whose sockets failed, or were dropped, while the scenario was using them. What breaks
    /// meanwhile waits for the next turn, so that a scenario which opens again and again never holds up the
    /// phase.
    fn bury_broken(&mut self) {
        for broken in self.desk.take_broken() {
            if self.desk.is_current(&broken) {
                self.end(broken.slot, broken.fault);
            }
        }
    }

    fn sweep(&mut self) {
        let now = clock::now_ns();
        if now < self.next_sweep_ns {
            return;
        }
        self.next_sweep_ns = now + SWEEP_EVERY_NS;
        for (slot, fault) in self.desk.overdue(now) {
            self.end(slot, Some(fault));
        }
    }
}
