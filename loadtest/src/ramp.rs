//! Opening connections at a rate and closing them again: how a thread follows the conductor's goal.
//!
//! It owns the pace. It refuses to retry: a connection that failed is reported, not hidden behind a second
//! try. Used by the scenarios that hold connections.

use crate::client::{Desk, Dialogue, Farewell, Slot, Stage};
use crate::clock;

/// Connections of a thread that may be opening or closing at once: a burst must fit the server's accept
/// queue.
const UNDER_WAY_MAX: u32 = 512;

/// How long a thread waits when only the pace holds it back, ns.
const PACE_STEP_NS: u64 = 2_000_000;

/// Follows a goal: slots are opened in order, and all closed when the goal is zero.
#[derive(Debug)]
pub(crate) struct Ramp {
    rate_per_s: f64,
    goal: u32,
    next: u32,
    from: u32,
    since_ns: u64,
    closing: u32,
}

impl Ramp {
    /// A ramp of `rate_per_s` connections per second for this thread.
    pub(crate) fn new(rate_per_s: f64) -> Ramp {
        Ramp { rate_per_s, goal: 0, next: 0, from: 0, since_ns: 0, closing: u32::MAX }
    }

    /// Opens or closes what is due; returns how long the thread may wait, ns.
    pub(crate) fn turn(&mut self, desk: &mut Desk) -> u64 {
        let goal = desk.goal();
        if goal != self.goal {
            if goal == 0 {
                self.closing = 0;
            } else if self.goal == 0 {
                self.next = 0;
            }
            self.goal = goal;
            self.from = self.next;
            self.since_ns = clock::now_ns();
        }
        if goal == 0 { self.close(desk) } else { self.open(desk) }
    }

    fn open(&mut self, desk: &mut Desk) -> u64 {
        let due = due(self.rate_per_s, clock::now_ns() - self.since_ns);
        let until = self.goal.min(self.from.saturating_add(due));
        while self.next < until && desk.counts.busy < UNDER_WAY_MAX {
            desk.open(Slot(self.next), Dialogue::WebSocket);
            self.next += 1;
        }
        if self.next < self.goal { PACE_STEP_NS } else { u64::MAX }
    }

    fn close(&mut self, desk: &mut Desk) -> u64 {
        while self.closing < self.next && desk.counts.busy < UNDER_WAY_MAX {
            let slot = Slot(self.closing);
            if desk.stage(slot) != Stage::Free {
                desk.finish(slot, Farewell::Frame);
            }
            self.closing += 1;
        }
        if self.closing < self.next { PACE_STEP_NS } else { u64::MAX }
    }
}

/// How many connections a rate allows after this time.
fn due(rate_per_s: f64, elapsed_ns: u64) -> u32 {
    // A cast saturates: an unlimited rate gives as many as there can be.
    (rate_per_s * elapsed_ns as f64 / 1e9) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_what_has_elapsed() {
        assert_eq!(due(1_000.0, 0), 0);
        assert_eq!(due(1_000.0, 500_000_000), 500);
        assert_eq!(due(f64::INFINITY, 1), u32::MAX);
    }
}
