//! The threads of a scale run: one speaks, some echo, the others hold a crowd that only hears.
//!
//! It owns who is which, speaking to all when the conductor orders it, and the proof that everybody heard
//! everything once and in order. It refuses to measure the server. Used by
//! `scale`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hdrhistogram::Histogram;

use crate::client::{Desk, Lot, Scenario, Slot, Stage, share};
use crate::clock;
use crate::fault::Fault;
use crate::frames::{self, MessageKind};
use crate::payload;
use crate::ramp::Ramp;
use crate::scenarios::bystanders::Party;
use crate::scenarios::echo::Echo;
use crate::scenarios::latencies;
use crate::sequence::{Ledger, Sequences};

/// What the crowd's threads share with the conductor.
#[derive(Debug)]
pub(super) struct Hall {
    /// Which broadcasts everybody has.
    pub(super) ledger: Ledger,
    /// Broadcasts ordered so far.
    ordered: AtomicU32,
    members: u32,
    size: usize,
}

impl Hall {
    /// For a crowd of so many, and messages of this size.
    pub(super) fn new(members: u32, size: usize) -> Hall {
        Hall { ledger: Ledger::new(1, members), ordered: AtomicU32::new(0), members, size }
    }

    /// Orders one more broadcast; the threads must be woken.
    pub(super) fn order(&self) {
        self.ordered.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether everybody has every broadcast that was ordered.
    pub(super) fn is_quiet(&self) -> bool {
        self.ledger.complete() >= u64::from(self.ordered.load(Ordering::Acquire))
    }
}

/// One thread.
#[derive(Debug)]
pub(super) enum Part {
    /// Its one connection speaks.
    Speaking(Speaker),
    /// Its connections echo.
    Hot(Lot, Echo),
    /// Its connections hear.
    Quiet(Lot, Crowd),
}

impl Part {
    /// Threads in all: one speaks.
    pub(super) fn threads(party: &Party) -> u32 {
        1 + party.threads()
    }

    /// What a thread does, with its number of slots. `paths` are the speaker's and the crowd's.
    pub(super) fn new(
        party: &Party,
        thread: u32,
        (speak, hear): (&str, &str),
        rate: f64,
        hall: &Arc<Hall>,
        hot: impl FnOnce(u32) -> Echo,
    ) -> (Part, u32) {
        let Some(thread) = thread.checked_sub(1) else {
            return (Part::Speaking(Speaker::new(speak, hall)), 1);
        };
        if thread < party.workers {
            let lot = Lot { first: 1, last: 1 + party.working, part: thread, parts: party.workers };
            let slots = share(party.working, thread, party.workers);
            return (Part::Hot(lot, hot(slots)), slots);
        }
        let (part, parts) = (thread - party.workers, party.idlers);
        let lot = Lot { first: 1 + party.working, last: u32::MAX, part, parts };
        let slots = share(party.idle, part, parts);
        let crowd = Crowd {
            path: hear.to_owned(),
            ramp: Ramp::new(rate / f64::from(parts)),
            hall: hall.clone(),
            sequences: Sequences::new(slots as usize, 1),
            run: None,
            to_last: latencies(),
        };
        (Part::Quiet(lot, crowd), slots)
    }

    /// The echoing connections of this thread, if that is what it has.
    pub(super) fn hot(&self) -> Option<&Echo> {
        match self {
            Part::Hot(_, echo) => Some(echo),
            Part::Speaking(_) | Part::Quiet(..) => None,
        }
    }

    /// The crowd of this thread, if that is what it has.
    pub(super) fn crowd(&self) -> Option<&Crowd> {
        match self {
            Part::Speaking(_) | Part::Hot(..) => None,
            Part::Quiet(_, crowd) => Some(crowd),
        }
    }
}

impl Scenario for Part {
    fn lot(&self, _thread: u32, _threads: u32) -> Lot {
        match self {
            Part::Speaking(_) => Lot { first: 0, last: 1, part: 0, parts: 1 },
            Part::Hot(lot, _) | Part::Quiet(lot, _) => *lot,
        }
    }

    fn path(&self) -> Option<&str> {
        match self {
            Part::Speaking(speaker) => Some(&speaker.path),
            Part::Hot(..) => None,
            Part::Quiet(_, crowd) => Some(&crowd.path),
        }
    }

    fn turn(&mut self, desk: &mut Desk) -> u64 {
        match self {
            Part::Speaking(speaker) => speaker.turn(desk),
            Part::Hot(_, echo) => echo.turn(desk),
            Part::Quiet(_, crowd) => crowd.turn(desk),
        }
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        match self {
            Part::Hot(_, echo) => echo.opened(desk, slot),
            Part::Speaking(_) | Part::Quiet(..) => {}
        }
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, payload: &[u8]) {
        match self {
            // It hears itself where the server lets it; that is nobody's delivery.
            Part::Speaking(_) => {}
            Part::Hot(_, echo) => echo.message(desk, slot, payload),
            Part::Quiet(_, crowd) => crowd.message(desk, slot, payload),
        }
    }
}

/// The connection that speaks to everybody.
#[derive(Debug)]
pub(super) struct Speaker {
    path: String,
    ramp: Ramp,
    hall: Arc<Hall>,
    message: Vec<u8>,
    frame: Vec<u8>,
}

impl Speaker {
    fn new(path: &str, hall: &Arc<Hall>) -> Speaker {
        let (path, hall) = (path.to_owned(), hall.clone());
        Speaker { path, ramp: Ramp::new(f64::INFINITY), hall, message: Vec::new(), frame: Vec::new() }
    }

    fn turn(&mut self, desk: &mut Desk) -> u64 {
        let wait_ns = self.ramp.turn(desk);
        let ordered = self.hall.ordered.load(Ordering::Acquire);
        if desk.stage(Slot(0)) == Stage::Open && self.hall.ledger.published(0) < ordered {
            self.speak(desk);
        }
        wait_ns
    }

    fn speak(&mut self, desk: &mut Desk) {
        let sequence = self.hall.ledger.publish(0, clock::now_ns());
        payload::write(&mut self.message, 0, sequence, self.hall.size);
        self.frame.clear();
        frames::push_message(&mut self.frame, MessageKind::Text, &self.message);
        // What everybody is owed, so that sent and received agree when all is delivered.
        desk.counts.sent += u64::from(self.hall.members);
        desk.send(Slot(0), &self.frame);
    }
}

/// A part of those who are held.
#[derive(Debug)]
pub(super) struct Crowd {
    path: String,
    ramp: Ramp,
    hall: Arc<Hall>,
    sequences: Sequences,
    /// Deliveries of one message that the ledger has not been told of: its number, and how many.
    run: Option<(u32, u32)>,
    to_last: Histogram<u64>,
}

impl Crowd {
    /// Times until everybody had a broadcast, of those that a connection of this thread completed, ns.
    pub(super) fn to_last(&self) -> &Histogram<u64> {
        &self.to_last
    }

    fn turn(&mut self, desk: &mut Desk) -> u64 {
        self.settle_run();
        self.ramp.turn(desk)
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) {
        let taken =
            payload::read(bytes, self.hall.size).ok_or(Fault::Stranger).and_then(|(sender, sequence)| {
                let missing = self.sequences.take(slot.index(), sender, sequence)?;
                Ok((sequence, missing))
            });
        let (sequence, missing) = match taken {
            Ok(message) => message,
            Err(fault) => return desk.note(fault, 1),
        };
        desk.note(Fault::Gap, u64::from(missing > 0));
        desk.counts.received += 1;
        match &mut self.run {
            Some((number, count)) if *number == sequence => *count += 1,
            _ => {
                self.settle_run();
                self.run = Some((sequence, 1));
            }
        }
    }

    /// Hands the deliveries counted so far to the ledger.
    fn settle_run(&mut self) {
        let Some((sequence, count)) = self.run.take() else { return };
        if let Some(since_ns) = self.hall.ledger.deliver(0, sequence, count) {
            self.to_last.saturating_record(clock::now_ns().saturating_sub(since_ns));
        }
    }
}
