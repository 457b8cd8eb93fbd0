//! Messages that come back, as one client thread sends and checks them: closed loop or open, window by window.
//!
//! It owns what is under way on each connection, and the latencies of every measured window. In a closed loop
//! each connection has one message under way. In an open loop messages have an intended time: the corrected
//! latency counts from there, so that a stall is not hidden by the messages it held up (coordinated
//! omission), the raw one from the moment of sending. What was meant for a window is sent after its end where a
//! stall has held it up, and what never came back counts with the time until it was given up. It refuses to open
//! connections. Used by the scenarios whose work is an echo.

use hdrhistogram::Histogram;

use crate::board::Phase;
use crate::client::{Desk, Farewell, Slot, Stage};
use crate::clock;
use crate::fault::Fault;
use crate::frames::{self, MessageKind};
use crate::pace::Pace;
use crate::payload;
use crate::priority;
use crate::scenarios::latencies;

/// Messages of one connection under way at once in an open loop; more wait, and their corrected latency
/// counts the wait.
const UNDER_WAY_MAX: usize = 16;

/// Latencies of one measured window.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    /// From sending to the echo, ns.
    pub(crate) raw: Histogram<u64>,
    /// From the intended time to the echo, ns; in a closed loop the same as raw.
    pub(crate) corrected: Histogram<u64>,
    /// From the intended time to sending where nothing of the connection was under way: how late the harness
    /// itself was, ns.
    pub(crate) late: Histogram<u64>,
    /// Messages that were meant for the window; in a closed loop none is.
    pub(crate) meant: u64,
    /// Those that were never sent: their connections were gone, or full until they were given up.
    pub(crate) unsent: u64,
}

impl Latencies {
    /// Nothing yet.
    pub(crate) fn new() -> Latencies {
        Latencies { raw: latencies(), corrected: latencies(), late: latencies(), meant: 0, unsent: 0 }
    }

    /// Adds what another thread saw in the same window.
    pub(crate) fn add(&mut self, other: &Latencies) {
        for (sum, more) in [
            (&mut self.raw, &other.raw),
            (&mut self.corrected, &other.corrected),
            (&mut self.late, &other.late),
        ] {
            let added = sum.add(more);
            debug_assert!(added.is_ok(), "same bounds everywhere");
        }
        self.meant += other.meant;
        self.unsent += other.unsent;
    }
}

/// Window `number` of all threads as one.
pub(crate) fn window<'a>(traffics: impl Iterator<Item = &'a Traffic>, number: usize) -> Latencies {
    let mut sum = Latencies::new();
    for latencies in traffics.filter_map(|traffic| traffic.windows.get(number)) {
        sum.add(latencies);
    }
    sum
}

/// What one connection has sent and got back since traffic began to flow.
#[derive(Debug, Clone, Copy, Default)]
struct Flight {
    sent: u32,
    received: u32,
}

/// The messages of one thread.
#[derive(Debug)]
pub(crate) struct Traffic {
    size: usize,
    kind: MessageKind,
    pace: Option<Pace>,
    phase: Phase,
    flights: Vec<Flight>,
    /// When each message under way was sent, ns: a ring for every connection.
    sent_ns: Vec<u64>,
    /// Threads that share the board's rate.
    sharers: u32,
    windows: Vec<Latencies>,
    message: Vec<u8>,
    frame: Vec<u8>,
}

impl Traffic {
    /// Traffic over slots `0..slots`; `sharers` threads share the rate that the board states.
    pub(crate) fn new(size: usize, kind: MessageKind, slots: u32, sharers: u32) -> Traffic {
        Traffic {
            size,
            kind,
            pace: None,
            phase: Phase::Ramp,
            flights: vec![Flight::default(); slots as usize],
            sent_ns: vec![0; slots as usize * UNDER_WAY_MAX],
            sharers,
            windows: Vec::new(),
            message: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Follows the phase and sends what is due; returns how long the thread may wait, ns.
    pub(crate) fn turn(&mut self, desk: &mut Desk) -> u64 {
        let before = std::mem::replace(&mut self.phase, desk.phase());
        if before != self.phase {
            self.follow(desk, before);
        }
        let Some(pace) = self.pace.as_mut().filter(|_| flows(self.phase)) else { return u64::MAX };
        let dealt = pace.deal(clock::now_ns());
        // More than one round is due after a stall: each connection is looked at once.
        for number in dealt.take(self.flights.len()) {
            if let Some(pace) = &self.pace {
                let slot = Slot(pace.slot_of(number));
                self.catch_up(desk, slot);
            }
        }
        // Asked now: sending may have taken longer than it is until the next one.
        self.pace.as_ref().map_or(u64::MAX, |pace| pace.next_in_ns(clock::now_ns()))
    }

    /// Checks what came back, and sends the next message that is due.
    pub(crate) fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        let flight = &mut self.flights[slot.index()];
        if payload::read(bytes, self.size) != Some((desk.number(slot), flight.received)) {
            desk.note(Fault::WrongEcho, 1);
            desk.finish(slot, Farewell::Fin);
            return;
        }
        let nth = flight.received;
        flight.received = flight.received.wrapping_add(1);
        desk.counts.received += 1;
        let sent_ns = self.sent_ns[ring_place(slot, nth)];
        let meant_ns = self.pace.as_ref().map_or(sent_ns, |pace| pace.intended_ns(slot.0, nth));
        if is_measured(self.phase)
            && let Some(window) = self.windows.last_mut()
        {
            let now_ns = clock::now_ns();
            let corrected_ns = now_ns.saturating_sub(meant_ns);
            window.raw.saturating_record(now_ns.saturating_sub(sent_ns));
            window.corrected.saturating_record(corrected_ns);
            desk.observe(corrected_ns);
        }
        match self.pace {
            // Once the window is over nothing more is dealt, and this sends what is left of it.
            Some(_) if flows(self.phase) || is_measured(self.phase) => self.catch_up(desk, slot),
            None if flows(self.phase) => self.send(desk, slot),
            _ => {}
        }
    }

    /// A connection begins anew.
    pub(crate) fn opened(&mut self, slot: Slot) {
        self.flights[slot.index()] = Flight::default();
    }

    /// Another phase begins than `before`.
    fn follow(&mut self, desk: &mut Desk, before: Phase) {
        if before == Phase::Settle || (before == Phase::Measure && self.phase != Phase::Settle) {
            self.give_up();
        }
        if flows(self.phase) && !flows(before) {
            self.begin(desk);
        }
        match (before, self.phase) {
            (_, Phase::Measure) => {
                // What was dealt before it began, to be taken off at its end.
                let meant = self.pace.as_ref().map_or(0, Pace::dealt);
                self.windows.push(Latencies { meant, ..Latencies::new() });
            }
            (Phase::Measure, Phase::Settle) => self.deal_the_last(desk),
            _ => {}
        }
    }

    /// Deals what was meant for the window that ends now, and sends what of it may be sent.
    fn deal_the_last(&mut self, desk: &mut Desk) {
        let Some((pace, window)) = self.pace.as_mut().zip(self.windows.last_mut()) else { return };
        window.meant = pace.deal(clock::now_ns()).end - window.meant;
        for slot in (0..).map(Slot).take(self.flights.len()) {
            self.catch_up(desk, slot);
        }
    }

    /// Ends the last window: what has not come back now took at least as long as until now.
    fn give_up(&mut self) {
        let Some(window) = self.windows.last_mut() else { return };
        let now_ns = clock::now_ns();
        for (slot, flight) in (0..).map(Slot).zip(&self.flights) {
            let sent = u64::from(flight.sent);
            let due = self.pace.as_ref().map_or(sent, |pace| pace.due(slot.0).max(sent));
            window.unsent += due - sent;
            for nth in (flight.received..u32::MAX).take_while(|&nth| u64::from(nth) < due) {
                let sent_ns = (nth < flight.sent).then(|| self.sent_ns[ring_place(slot, nth)]);
                let meant_ns = self.pace.as_ref().map(|pace| pace.intended_ns(slot.0, nth)).or(sent_ns);
                for (histogram, since_ns) in [(&mut window.raw, sent_ns), (&mut window.corrected, meant_ns)] {
                    if let Some(since_ns) = since_ns {
                        histogram.saturating_record(now_ns.saturating_sub(since_ns));
                    }
                }
            }
        }
    }

    /// Everybody begins at zero: all sends once in a closed loop, nobody yet in an open one.
    fn begin(&mut self, desk: &mut Desk) {
        self.flights.fill(Flight::default());
        let slots = u32::try_from(self.flights.len()).unwrap_or(u32::MAX);
        self.pace = desk
            .rate_per_s()
            .map(|rate_per_s| Pace::new(rate_per_s / f64::from(self.sharers), slots, clock::now_ns()));
        priority::run_ahead(self.pace.is_some());
        if self.pace.is_none() {
            for slot in (0..slots).map(Slot) {
                if desk.stage(slot) == Stage::Open {
                    self.send(desk, slot);
                }
            }
        }
    }

    /// Sends what the pace has dealt to this connection and its bound allows.
    fn catch_up(&mut self, desk: &mut Desk, slot: Slot) {
        let Some(due) = self.pace.as_ref().map(|pace| pace.due(slot.0)) else { return };
        while desk.stage(slot) == Stage::Open {
            let flight = self.flights[slot.index()];
            let under_way = flight.sent.wrapping_sub(flight.received) as usize;
            if u64::from(flight.sent) >= due || under_way >= UNDER_WAY_MAX || desk.is_clogged(slot) {
                return;
            }
            if under_way == 0
                && is_measured(self.phase)
                && let Some((pace, window)) = self.pace.as_ref().zip(self.windows.last_mut())
            {
                let meant_ns = pace.intended_ns(slot.0, flight.sent);
                window.late.saturating_record(clock::now_ns().saturating_sub(meant_ns));
            }
            self.send(desk, slot);
        }
    }

    fn send(&mut self, desk: &mut Desk, slot: Slot) {
        let flight = &mut self.flights[slot.index()];
        self.sent_ns[ring_place(slot, flight.sent)] = clock::now_ns();
        payload::write(&mut self.message, desk.number(slot), flight.sent, self.size);
        flight.sent = flight.sent.wrapping_add(1);
        self.frame.clear();
        frames::push_message(&mut self.frame, self.kind, &self.message);
        desk.counts.sent += 1;
        desk.send(slot, &self.frame);
    }
}

fn flows(phase: Phase) -> bool {
    matches!(phase, Phase::Warm | Phase::Measure)
}

/// Whether a message that comes back belongs to the last window. What was meant for it and comes after its end does: a
/// stall there would hide those that it held up.
fn is_measured(phase: Phase) -> bool {
    matches!(phase, Phase::Measure | Phase::Settle)
}

/// Where the moment of sending a connection's `nth` message is kept.
fn ring_place(slot: Slot, nth: u32) -> usize {
    slot.index() * UNDER_WAY_MAX + nth as usize % UNDER_WAY_MAX
}
