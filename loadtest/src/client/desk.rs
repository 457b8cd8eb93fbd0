//! The connections of one client thread and everything that may be done with them.
//!
//! It owns sockets, half-read and half-written bytes, late pongs, counts and faults. A quiet connection is
//! one 16-byte link; the rare rest lies aside in maps. It refuses to decide: scenarios open, send and close,
//! `client` reads.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};
use nix::errno::Errno;
use socket2::Socket;

use super::late_pongs::{LatePong, LatePongs};
use super::link::{Dialogue, Farewell, Link, Manner, Slot, Stage};
use super::lot::Lot;
use crate::board::{Board, Counts, Phase};
use crate::clock;
use crate::fault::{Fault, Faults};
use crate::frames;
use crate::sockets;
use crate::target::{Sources, Target};
use crate::upgrade::Key;

/// Bytes that may wait for one connection's socket; more means that the server has stopped reading.
const UNSENT_MAX: usize = 2 << 20;

/// A connection must be open, and a closed one gone, within this time.
const DEADLINE_NS: u64 = 20_000_000_000;

/// What a thread must know before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The WebSocket server.
    pub(crate) target: Target,
    /// Where HTTP connections go; the target's address when there is none.
    pub(crate) publish: Option<Target>,
    /// Where connections come from.
    pub(crate) sources: Sources,
    /// Pings are answered this much later, ns; 0 is at once.
    pub(crate) pong_delay_ns: u64,
}

/// A connection to end once the scenario has returned.
pub(super) struct Broken {
    pub(super) slot: Slot,
    serial: u32,
    pub(super) fault: Option<Fault>,
}

/// The connections of one thread.
pub(crate) struct Desk {
    plan: Plan,
    lot: Lot,
    thread: u32,
    board: Arc<Board>,
    wakers: Arc<[Waker]>,
    registry: Registry,
    key: Key,
    links: Vec<Link>,
    partial: HashMap<Slot, Vec<u8>>,
    unsent: HashMap<Slot, Vec<u8>>,
    late: LatePongs,
    broken: Vec<Broken>,
    request: String,
    frame: Vec<u8>,
    faults: Faults,
    /// How the connections of this thread behave.
    pub(crate) manner: Manner,
    /// Counts of this thread; scenarios add what they verified.
    pub(crate) counts: Counts,
}

impl Desk {
    /// A desk with `slots` free slots, for thread number `thread` of those on the board.
    pub(crate) fn new(
        plan: Plan,
        lot: Lot,
        (thread, slots): (u32, u32),
        board: Arc<Board>,
        wakers: Arc<[Waker]>,
        registry: Registry,
    ) -> Desk {
        let late = LatePongs::new(plan.pong_delay_ns);
        Desk {
            plan,
            lot,
            thread,
            board,
            wakers,
            registry,
            key: Key::random(),
            links: (0..slots).map(|_| Link::free()).collect(),
            partial: HashMap::new(),
            unsent: HashMap::new(),
            late,
            broken: Vec::new(),
            request: String::new(),
            frame: Vec::new(),
            faults: Faults::default(),
            manner: Manner::default(),
            counts: Counts::default(),
        }
    }

    // What scenarios may ask.

    /// Where the run stands.
    pub(crate) fn phase(&self) -> Phase {
        self.board.phase()
    }

    /// This thread's share of the conductor's goal: connections are dealt to threads in turn.
    pub(crate) fn goal(&self) -> u32 {
        self.lot.of(self.board.goal())
    }

    /// Work per second that is wanted from all threads together; `None` is as much as the server does.
    pub(crate) fn rate_per_s(&self) -> Option<f64> {
        self.board.rate_per_s()
    }

    /// Shows a latency to whoever watches the run; results are the scenario's own histograms.
    pub(crate) fn observe(&self, ns: u64) {
        self.board.observe(self.thread as usize, ns);
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> u32 {
        u32::try_from(self.board.threads()).unwrap_or(u32::MAX)
    }

    /// The number of a slot among the connections of all threads.
    pub(crate) fn number(&self, slot: Slot) -> u32 {
        slot.0 * self.threads() + self.thread
    }

    /// What a slot is doing.
    pub(crate) fn stage(&self, slot: Slot) -> Stage {
        self.links[slot.index()].stage
    }

    /// Whether bytes for this connection wait for its socket.
    pub(crate) fn is_clogged(&self, slot: Slot) -> bool {
        self.unsent.contains_key(&slot)
    }

    /// When a connection last began to connect, sent its request, a pong or a close, ns; milliseconds count.
    pub(crate) fn spoke_ns(&self, slot: Slot) -> u64 {
        u64::from(self.links[slot.index()].since_ms) * 1_000_000
    }

    // What scenarios may do. Failures come back as `Scenario::closed`.

    /// Begins to connect a free slot.
    pub(crate) fn open(&mut self, slot: Slot, dialogue: Dialogue) {
        debug_assert_eq!(self.stage(slot), Stage::Free, "a slot is opened once at a time");
        let address = match (dialogue, &self.plan.publish) {
            (Dialogue::Http, Some(publish)) => publish.address,
            _ => self.plan.target.address,
        };
        self.counts.attempts += 1;
        self.counts.busy += 1;
        let number = self.number(slot);
        let link = &mut self.links[slot.index()];
        link.stage = Stage::Connecting;
        link.dialogue = dialogue;
        link.since_ms = now_ms();
        link.serial = link.serial.wrapping_add(1);
        match sockets::connect(self.plan.sources.of(number), address, self.manner.receive_buffer) {
            Ok(socket) => {
                let registered = self.registry.register(
                    &mut SourceFd(&socket.as_raw_fd()),
                    Token(slot.index()),
                    Interest::READABLE | Interest::WRITABLE,
                );
                link.socket = Some(socket);
                if let Err(error) = registered {
                    self.condemn(slot, Some(Fault::Connect(sockets::errno(&error))));
                }
            }
            Err(errno) => self.condemn(slot, Some(Fault::Connect(errno))),
        }
    }

    /// Sends `bytes`, whole frames, after what already waits for this connection.
    pub(crate) fn send(&mut self, slot: Slot, bytes: &[u8]) {
        let result = match self.unsent.get_mut(&slot) {
            Some(waiting) if waiting.len() + bytes.len() > UNSENT_MAX => Err(Fault::Unsent),
            Some(waiting) => {
                waiting.extend_from_slice(bytes);
                Ok(())
            }
            None => self.write(slot, bytes).map(|written| {
                if written < bytes.len() {
                    self.unsent.insert(slot, bytes[written..].to_vec());
                }
            }),
        };
        if let Err(fault) = result {
            self.condemn(slot, Some(fault));
        }
    }

    /// Ends a connection that is wanted no more; `Scenario::closed` follows.
    pub(crate) fn finish(&mut self, slot: Slot, farewell: Farewell) {
        let stage = self.stage(slot);
        if stage == Stage::Open && farewell == Farewell::Frame {
            self.close(slot, 1000);
        } else if !matches!(stage, Stage::Free | Stage::Closing) {
            if farewell == Farewell::Reset
                && let Some(socket) = self.socket(slot)
            {
                // Where this fails the socket is closed with a FIN, which the server takes as well.
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            self.condemn(slot, None);
        }
    }

    /// Stops reading a connection, or goes on; only a reset is noticed in between.
    pub(crate) fn set_reading(&mut self, slot: Slot, reads: bool) {
        let Some(socket) = self.socket(slot) else { return };
        let readable = if reads { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
        // Asking anew brings an event for what has come meanwhile.
        let done =
            self.registry.reregister(&mut SourceFd(&socket.as_raw_fd()), Token(slot.index()), readable);
        if let Err(error) = done {
            self.condemn(slot, Some(Fault::Broken(sockets::errno(&error))));
        }
    }

    /// Counts a fault that ends no connection.
    pub(crate) fn note(&mut self, fault: Fault, count: u64) {
        self.faults.note_many(fault, count);
    }

    /// Wakes another client thread.
    pub(crate) fn wake(&self, thread: u32) {
        if thread != self.thread
            && let Some(waker) = self.wakers.get(thread as usize)
        {
            // A full eventfd counter means that the thread is being woken already.
            let _ = waker.wake();
        }
    }

    fn close(&mut self, slot: Slot, code: u16) {
        let link = &mut self.links[slot.index()];
        link.stage = Stage::Closing;
        link.since_ms = now_ms();
        self.counts.open -= 1;
        self.counts.busy += 1;
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frames::push_close(&mut frame, code);
        self.send(slot, &frame);
        self.frame = frame;
    }

    // What `client` asks and does.

    /// Answers the server's close with its own code (RFC 6455 section 5.5.1); 1005 stands for none and is never sent.
    pub(super) fn answer_close(&mut self, slot: Slot, code: u16) {
        if self.stage(slot) == Stage::Open {
            self.close(slot, if code == 1005 { 1000 } else { code });
        }
    }

    pub(super) fn socket(&self, slot: Slot) -> Option<&Socket> {
        self.links[slot.index()].socket.as_ref()
    }

    /// Looks whether a connect is through and begins the dialogue; `false` while it is not.
    pub(super) fn connected(&mut self, slot: Slot) -> Result<bool, Fault> {
        let Some(socket) = self.socket(slot) else { return Ok(false) };
        if let Some(error) = socket.take_error().ok().flatten() {
            return Err(Fault::Connect(sockets::errno(&error)));
        }
        if socket.peer_addr().is_err() {
            return Ok(false);
        }
        if self.links[slot.index()].dialogue == Dialogue::Http {
            self.links[slot.index()].stage = Stage::Http;
            self.counts.busy -= 1;
            self.counts.open += 1;
            return Ok(true);
        }
        self.links[slot.index()].stage = Stage::Upgrading;
        self.links[slot.index()].since_ms = now_ms();
        let mut request = std::mem::take(&mut self.request);
        request.clear();
        let path = self.plan.target.path_of(self.number(slot));
        self.key.push_request(&mut request, self.plan.target.address, &path);
        self.send(slot, request.as_bytes());
        self.request = request;
        Ok(true)
    }

    pub(super) fn check_upgrade(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        self.key.check(bytes)
    }

    pub(super) fn upgraded(&mut self, slot: Slot) {
        self.links[slot.index()].stage = Stage::Open;
        self.counts.upgrades += 1;
        self.counts.busy -= 1;
        self.counts.open += 1;
    }

    /// Writes what waits for this connection.
    pub(super) fn flush(&mut self, slot: Slot) -> Result<(), Fault> {
        let Some(mut waiting) = self.unsent.remove(&slot) else { return Ok(()) };
        let written = self.write(slot, &waiting)?;
        if written < waiting.len() {
            waiting.drain(..written);
            self.unsent.insert(slot, waiting);
        }
        Ok(())
    }

    /// Puts the bytes of an incomplete frame back at the start of the read buffer.
    pub(super) fn take_partial(&mut self, slot: Slot, scratch: &mut [u8]) -> usize {
        if self.partial.is_empty() {
            return 0;
        }
        let Some(held) = self.partial.remove(&slot) else { return 0 };
        scratch[..held.len()].copy_from_slice(&held);
        held.len()
    }

    /// Keeps the bytes of an incomplete frame until more come; bounded by the longest frame, which parsing
    /// enforces.
    pub(super) fn keep_partial(&mut self, slot: Slot, bytes: &[u8]) {
        if !bytes.is_empty() && self.stage(slot) != Stage::Free {
            debug_assert!(bytes.len() <= frames::LONGEST_FRAME, "a longer frame was a fault");
            self.partial.insert(slot, bytes.to_vec());
        }
    }

    pub(super) fn pinged(&mut self, slot: Slot, payload: &[u8]) {
        if self.manner.silent {
            return;
        }
        if self.late.delay_ns() == 0 {
            return self.pong(slot, payload);
        }
        let serial = self.links[slot.index()].serial;
        if let Some(oldest) = self.late.push(clock::now_ns(), slot, serial, payload) {
            self.pong_late(&oldest);
        }
    }

    pub(super) fn pongs_due_in_ns(&self) -> u64 {
        self.late.due_in_ns(clock::now_ns())
    }

    pub(super) fn answer_late_pings(&mut self) {
        while let Some(due) = self.late.pop_due(clock::now_ns()) {
            self.pong_late(&due);
        }
    }

    fn pong_late(&mut self, late: &LatePong) {
        if self.stage(late.slot) == Stage::Open && self.links[late.slot.index()].serial == late.serial {
            self.pong(late.slot, &late.payload);
        }
    }

    fn pong(&mut self, slot: Slot, payload: &[u8]) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frames::push_pong(&mut frame, payload);
        self.counts.pings += 1;
        self.links[slot.index()].since_ms = now_ms();
        self.send(slot, &frame);
        self.frame = frame;
    }

    /// Publishes the counts after a turn that began in this phase.
    pub(super) fn publish(&self, phase: Phase) {
        self.board.publish(self.thread as usize, &self.counts);
        self.board.set_seen(self.thread as usize, phase);
    }

    pub(super) fn take_faults(&mut self) -> Faults {
        std::mem::take(&mut self.faults)
    }

    /// The connections to end now.
    pub(super) fn take_broken(&mut self) -> Vec<Broken> {
        std::mem::take(&mut self.broken)
    }

    /// Whether the slot still holds the connection that broke, and not its successor.
    pub(super) fn is_current(&self, broken: &Broken) -> bool {
        let link = &self.links[broken.slot.index()];
        link.stage != Stage::Free && link.serial == broken.serial
    }

    pub(super) fn has_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    fn condemn(&mut self, slot: Slot, fault: Option<Fault>) {
        self.broken.push(Broken { slot, serial: self.links[slot.index()].serial, fault });
    }

    /// Frees a slot and counts how it ended. Returns the fault that counts: a connection that we were closing
    /// may end in any way.
    pub(super) fn end(&mut self, slot: Slot, fault: Option<Fault>) -> Option<Fault> {
        let link = &mut self.links[slot.index()];
        let stage = std::mem::replace(&mut link.stage, Stage::Free);
        link.socket = None;
        self.partial.remove(&slot);
        self.unsent.remove(&slot);
        match stage {
            Stage::Open | Stage::Http => self.counts.open -= 1,
            Stage::Connecting | Stage::Upgrading | Stage::Closing => self.counts.busy -= 1,
            Stage::Free => return None,
        }
        let fault = fault.filter(|fault| stage != Stage::Closing || matches!(fault, Fault::Late(_)));
        let expected = self.manner.forsaken && matches!(stage, Stage::Open | Stage::Http);
        if let Some(fault) = fault.filter(|_| !expected) {
            self.faults.note(fault);
            match stage {
                Stage::Open | Stage::Http => self.counts.lost += 1,
                Stage::Connecting | Stage::Upgrading => self.counts.failures += 1,
                Stage::Closing | Stage::Free => {}
            }
        }
        fault
    }

    /// The slots that were too slow to open or to close, with the stage they were in.
    pub(super) fn overdue(&self, now_ns: u64) -> Vec<(Slot, Fault)> {
        let limit_ms = u32::try_from(now_ns.saturating_sub(DEADLINE_NS) / 1_000_000).unwrap_or(u32::MAX);
        if self.counts.busy == 0 {
            return Vec::new();
        }
        let late = |link: &Link| match link.stage {
            Stage::Connecting => Some(Fault::Late("connect")),
            Stage::Upgrading => Some(Fault::Late("upgrade")),
            Stage::Closing => Some(Fault::Late("close")),
            Stage::Free | Stage::Open | Stage::Http => None,
        };
        (0..)
            .zip(&self.links)
            .filter(|(_, link)| link.since_ms < limit_ms)
            .filter_map(|(index, link)| late(link).map(|fault| (Slot(index), fault)))
            .collect()
    }

    /// Writes as much as the socket takes.
    fn write(&self, slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(mut socket) = self.socket(slot) else { return Ok(bytes.len()) };
        let mut written = 0;
        while written < bytes.len() {
            match socket.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A closed connection may still hold the server's reason in its receive buffer: reading finds
                // it.
                Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => return Ok(bytes.len()),
                Err(error) => return Err(Fault::Broken(sockets::errno(&error))),
            }
        }
        Ok(written)
    }
}

fn now_ms() -> u32 {
    u32::try_from(clock::now_ns() / 1_000_000).unwrap_or(u32::MAX)
}
