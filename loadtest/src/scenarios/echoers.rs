//! Echo traffic beside rooms: the first connections of a thread send at a fixed rate, and each must have back what it
//! sent, in order and without a hole.
//!
//! It owns that proof. It refuses to judge what is under way when a connection ends: whether the server had taken it
//! by then, nobody can know. Part of `rooms`.

use crate::client::{Desk, Slot, Stage};
use crate::clock;
use crate::fault::Fault;
use crate::frames::{self, MessageKind};
use crate::payload;

/// Messages of one connection under way at once; at the bound it is passed over.
const UNDER_WAY_MAX: u32 = 64;

/// The echo connections of one thread: its first slots.
#[derive(Debug)]
pub(crate) struct Echoers {
    flights: Vec<Flight>,
    rate_per_s: f64,
    size: usize,
    began_ns: u64,
    /// Messages that were due so far, and whose turn it is.
    done: u64,
    turn: usize,
    message: Vec<u8>,
    frame: Vec<u8>,
    /// Messages that came back.
    pub(crate) echoed: u64,
    /// Messages under way when their connection ended.
    pub(crate) under_way_at_end: u64,
}

/// Numbers of the next message to send and of the next one to come back.
#[derive(Debug, Clone, Copy, Default)]
struct Flight {
    sent: u32,
    back: u32,
}

impl Echoers {
    /// The first `slots` of a thread, at `rate_per_s` messages of `size` bytes all together.
    pub(crate) fn new(slots: u32, rate_per_s: f64, size: usize) -> Echoers {
        Echoers {
            flights: vec![Flight::default(); slots as usize],
            rate_per_s,
            size,
            began_ns: 0,
            done: 0,
            turn: 0,
            message: Vec::new(),
            frame: Vec::new(),
            echoed: 0,
            under_way_at_end: 0,
        }
    }

    /// Whether this slot is one of them.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        slot.index() < self.flights.len()
    }

    /// From now on messages are due.
    pub(crate) fn begin(&mut self) {
        self.began_ns = clock::now_ns();
    }

    /// Sends what is due; returns how long until the next one, ns.
    pub(crate) fn turn(&mut self, desk: &mut Desk) -> u64 {
        if self.flights.is_empty() || self.rate_per_s <= 0.0 {
            return u64::MAX;
        }
        let now_ns = clock::now_ns();
        let due = (self.rate_per_s * (now_ns - self.began_ns) as f64 / 1e9) as u64;
        while self.done < due {
            self.done += 1;
            self.send(desk);
        }
        let next_ns = self.began_ns + ((self.done + 1) as f64 / self.rate_per_s * 1e9) as u64;
        next_ns.saturating_sub(now_ns)
    }

    fn send(&mut self, desk: &mut Desk) {
        let slot = Slot(self.turn as u32);
        self.turn = (self.turn + 1) % self.flights.len();
        let flight = &mut self.flights[slot.index()];
        if desk.stage(slot) != Stage::Open || flight.sent.wrapping_sub(flight.back) >= UNDER_WAY_MAX {
            return;
        }
        payload::write(&mut self.message, desk.number(slot), flight.sent, self.size);
        flight.sent = flight.sent.wrapping_add(1);
        self.frame.clear();
        frames::push_message(&mut self.frame, MessageKind::Binary, &self.message);
        desk.counts.sent += 1;
        desk.send(slot, &self.frame);
    }

    /// A connection begins anew.
    pub(crate) fn opened(&mut self, slot: Slot) {
        self.flights[slot.index()] = Flight::default();
    }

    /// Something came back.
    pub(crate) fn came(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        let number = desk.number(slot);
        let flight = &mut self.flights[slot.index()];
        match payload::read(bytes, self.size).filter(|&(of, _)| of == number) {
            None => desk.note(Fault::Stranger, 1),
            Some((_, back)) if back < flight.back => desk.note(Fault::Double, 1),
            Some((_, back)) => {
                desk.note(Fault::Gap, u64::from(back - flight.back));
                flight.back = back + 1;
                self.echoed += 1;
                desk.counts.received += 1;
            }
        }
    }

    /// A connection that was open ends.
    pub(crate) fn ended(&mut self, slot: Slot) {
        let flight = std::mem::take(&mut self.flights[slot.index()]);
        self.under_way_at_end += u64::from(flight.sent.saturating_sub(flight.back));
    }
}
