//! Two kinds of clients in one run: those that behave, and those that do not, each on threads of their own.
//!
//! It owns who is which, whose the conductor's goal is, and the names under which endings are reported: the
//! first connections are those that behave. It refuses to know what either does. Used by the scenarios with
//! bad clients.

use nix::errno::Errno;

use crate::client::{Desk, Lot, Scenario, Slot, share};
use crate::fault::{Fault, Faults};
use crate::report::{Report, Unit};
use crate::scenarios::bystanders::Party;

/// One thread of either side.
#[derive(Debug)]
pub(crate) enum Side<W, I> {
    /// Its connections behave.
    Well(Lot, W),
    /// Its connections do not.
    Ill(Lot, I),
}

impl<W, I> Side<W, I> {
    /// What a thread does, with its number of slots. `well(thread, threads)` makes one that behaves with its
    /// slots, `ill(slots, threads)` one that does not.
    pub(crate) fn new(
        party: &Party,
        thread: u32,
        well: impl FnOnce(u32, u32) -> (W, u32),
        ill: impl FnOnce(u32, u32) -> I,
    ) -> (Side<W, I>, u32) {
        if thread < party.workers {
            let lot = Lot { first: 0, last: party.working, part: thread, parts: party.workers };
            let (well, slots) = well(thread, party.workers);
            return (Side::Well(lot, well), slots);
        }
        let (part, parts) = (thread - party.workers, party.idlers);
        let slots = share(party.idle, part, parts);
        (Side::Ill(Lot { first: party.working, last: u32::MAX, part, parts }, ill(slots, parts)), slots)
    }

    /// The work of this thread, if it behaves.
    pub(crate) fn well(&self) -> Option<&W> {
        match self {
            Side::Well(_, well) => Some(well),
            Side::Ill(..) => None,
        }
    }

    /// The doing of this thread, if it does not.
    pub(crate) fn ill(&self) -> Option<&I> {
        match self {
            Side::Well(..) => None,
            Side::Ill(_, ill) => Some(ill),
        }
    }
}

impl<W: Scenario, I: Scenario> Scenario for Side<W, I> {
    fn lot(&self, _thread: u32, _threads: u32) -> Lot {
        let (Side::Well(lot, _) | Side::Ill(lot, _)) = self;
        *lot
    }

    fn turn(&mut self, desk: &mut Desk) -> u64 {
        match self {
            Side::Well(_, well) => well.turn(desk),
            Side::Ill(_, ill) => ill.turn(desk),
        }
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        match self {
            Side::Well(_, well) => well.opened(desk, slot),
            Side::Ill(_, ill) => ill.opened(desk, slot),
        }
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, payload: &[u8]) {
        match self {
            Side::Well(_, well) => well.message(desk, slot, payload),
            Side::Ill(_, ill) => ill.message(desk, slot, payload),
        }
    }

    fn answer(&mut self, desk: &mut Desk, slot: Slot, bytes: &[u8]) -> Result<usize, Fault> {
        match self {
            Side::Well(_, well) => well.answer(desk, slot, bytes),
            Side::Ill(_, ill) => ill.answer(desk, slot, bytes),
        }
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        match self {
            Side::Well(_, well) => well.closed(desk, slot, fault),
            Side::Ill(_, ill) => ill.closed(desk, slot, fault),
        }
    }
}

/// Tells how connections were ended by the server: by close code, by reset, or otherwise.
pub(crate) fn tell_endings(report: &mut Report, name: &str, endings: &Faults) {
    let mut others = 0;
    for (ending, count) in endings.iter() {
        let how = match ending {
            Fault::Closed(code) => format!("closed_with_{code}"),
            Fault::Ended => "ended_without_close_frame".to_owned(),
            Fault::Broken(errno) if errno == Errno::ECONNRESET as i32 => "reset".to_owned(),
            _ => {
                others += count;
                continue;
            }
        };
        report.figure(format!("{name}_{how}"), count as f64, Unit::Count);
    }
    report.maybe(format!("{name}_ended_otherwise"), (others > 0).then_some(others as f64), Unit::Count);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_connection_is_on_one_side() {
        let party = Party { workers: 2, working: 7, idlers: 3, idle: 100 };
        let (mut well_slots, mut ill_slots) = (0, 0);
        for thread in 0..party.threads() {
            let well = |thread, threads| ((), share(7, thread, threads));
            match Side::new(&party, thread, well, |slots, _| slots) {
                (Side::Well(lot, ()), slots) => {
                    assert_eq!((lot.of(7), lot.of(107)), (slots, slots));
                    well_slots += slots;
                }
                (Side::Ill(lot, told), slots) => {
                    assert_eq!((lot.of(7), lot.of(107), told), (0, slots, slots));
                    ill_slots += slots;
                }
            }
        }
        assert_eq!((well_slots, ill_slots), (7, 100));
    }
}
