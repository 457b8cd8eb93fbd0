//! Some threads work while the others hold quiet connections, so that neither kind disturbs the other here.
//!
//! It owns who is which, and whose the conductor's goal is: the first connections are the workers', the rest
//! idle. It refuses to know the work. Used by `churn` and `mixed`.

use crate::client::{Desk, Lot, Scenario, Slot, share};
use crate::crew::thread_count;
use crate::failure::Failure;
use crate::fault::Fault;
use crate::ramp::Ramp;
use crate::sockets;

/// Who does what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party {
    /// Threads that work; they come first.
    pub(crate) workers: u32,
    /// Connections of the workers that the goal speaks of.
    pub(crate) working: u32,
    /// Threads with quiet connections.
    pub(crate) idlers: u32,
    /// Quiet connections.
    pub(crate) idle: u32,
}

impl Party {
    /// A party of `workers` threads for `working` connections, and as many threads as `idle` ones need.
    ///
    /// # Errors
    /// The workers cannot hold so many.
    pub(crate) fn new(workers: Option<u32>, working: u32, idle: u32) -> Result<Party, Failure> {
        let workers = thread_count(workers, working, 10_000)?;
        let idlers = if idle == 0 { 0 } else { thread_count(None, idle, sockets::PER_TABLE)? };
        Ok(Party { workers, working, idlers, idle })
    }

    /// How many threads there are in all.
    pub(crate) fn threads(&self) -> u32 {
        self.workers + self.idlers
    }

    /// What a thread does, with its number of slots. `work(number)` makes a worker; idle connections open at
    /// `rate` per second, all together.
    pub(crate) fn part<W>(
        &self,
        thread: u32,
        rate: f64,
        work: impl FnOnce(u32) -> (W, u32),
    ) -> (Part<W>, u32) {
        if thread < self.workers {
            let (work, slots) = work(thread);
            let lot = Lot { first: 0, last: self.working, part: thread, parts: self.workers };
            return (Part { lot, role: Role::Work(work) }, slots);
        }
        let part = thread - self.workers;
        let lot = Lot { first: self.working, last: u32::MAX, part, parts: self.idlers };
        let ramp = Ramp::new(rate / f64::from(self.idlers));
        (Part { lot, role: Role::Idle(ramp) }, share(self.idle, part, self.idlers))
    }
}

/// One thread of a party.
#[derive(Debug)]
pub(crate) struct Part<W> {
    lot: Lot,
    role: Role<W>,
}

#[derive(Debug)]
enum Role<W> {
    Work(W),
    Idle(Ramp),
}

impl<W> Part<W> {
    /// The work of this thread, if that is what it does.
    pub(crate) fn work(&self) -> Option<&W> {
        match &self.role {
            Role::Work(work) => Some(work),
            Role::Idle(_) => None,
        }
    }
}

impl<W: Scenario> Scenario for Part<W> {
    fn lot(&self, _thread: u32, _threads: u32) -> Lot {
        self.lot
    }

    fn turn(&mut self, desk: &mut Desk) -> u64 {
        match &mut self.role {
            Role::Work(work) => work.turn(desk),
            Role::Idle(ramp) => ramp.turn(desk),
        }
    }

    fn opened(&mut self, desk: &mut Desk, slot: Slot) {
        if let Role::Work(work) = &mut self.role {
            work.opened(desk, slot);
        }
    }

    fn message(&mut self, desk: &mut Desk, slot: Slot, payload: &[u8]) {
        if let Role::Work(work) = &mut self.role {
            work.message(desk, slot, payload);
        }
    }

    fn closed(&mut self, desk: &mut Desk, slot: Slot, fault: Option<Fault>) {
        if let Role::Work(work) = &mut self.role {
            work.closed(desk, slot, fault);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_connection_of_a_goal_is_somebodys() {
        let party = Party { workers: 2, working: 10, idlers: 3, idle: 100 };
        let lots: Vec<Lot> =
            (0..party.threads()).map(|thread| party.part(thread, 1.0, |_| ((), 5)).0.lot).collect();
        for goal in [0, 4, 10, 11, 110] {
            assert_eq!(lots.iter().map(|lot| lot.of(goal)).sum::<u32>(), goal);
        }
        let slots: u32 = (2..5).map(|thread| party.part(thread, 1.0, |_| ((), 5)).1).sum();
        assert_eq!(slots, 100);
    }

    #[test]
    fn nobody_idles_when_nothing_is_to_be_idle() {
        assert_eq!(Party::new(Some(2), 10, 0).unwrap().threads(), 2);
    }
}
