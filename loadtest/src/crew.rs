//! The client threads as one: starting them with a descriptor table each, steering them, gathering what they
//! saw.
//!
//! It owns the order in which descriptors come to be: all epolls and wakers first, then every thread splits
//! off its own table, all meet at a barrier, and only then is any socket opened. It refuses to know what a
//! scenario does. Called by the scenarios, from the main thread: the conductor.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Poll, Waker};

use crate::board::{Board, Counts, Phase};
use crate::client::{Client, Desk, Plan, Scenario, Slot};
use crate::clock;
use crate::failure::Failure;
use crate::fault::Faults;
use crate::progress::Progress;
use crate::sockets;
use crate::timeline::Timeline;

/// How often the conductor looks at the tallies.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long threads may take to follow into a phase; then the run goes on without them.
const FOLLOW_WITHIN_NS: u64 = 5_000_000_000;

/// How often the conductor looks whether they have.
const FOLLOW_STEP: Duration = Duration::from_millis(1);

/// A client thread needs little: its buffers are on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// Client threads at work.
pub(crate) struct Crew<S> {
    board: Arc<Board>,
    wakers: Arc<[Waker]>,
    threads: Vec<JoinHandle<std::io::Result<(S, Faults)>>>,
}

/// What is left when the threads have ended.
pub(crate) struct Gathered<S> {
    /// The scenario of each thread, in order.
    pub(crate) scenarios: Vec<S>,
    /// What went wrong, all threads together.
    pub(crate) faults: Faults,
    /// The last counts.
    pub(crate) counts: Counts,
    /// The run over time.
    pub(crate) timeline: Timeline,
}

/// How many threads `connections` need when each may hold `per_thread` at most; `asked` wins when it suffices, and there
/// is never one without a connection: a rate is shared among all.
///
/// # Errors
/// The asked number of threads cannot hold the connections.
pub(crate) fn thread_count(asked: Option<u32>, connections: u32, per_thread: u32) -> Result<u32, Failure> {
    let table = sockets::connections_per_table().map_err(Failure::machine("the descriptor limit"))?;
    let needed = connections.div_ceil(table).max(1);
    match asked {
        Some(asked) if asked < needed => Err(Failure::Asked(format!(
            "{connections} connections need --threads {needed}: one descriptor table holds {table} here"
        ))),
        Some(asked) => Ok(asked.min(connections).max(1)),
        None => Ok(connections.div_ceil(per_thread.min(table)).max(1)),
    }
}

impl<S: Scenario> Crew<S> {
    /// Starts `threads` threads. `scenario(thread)` makes what each does and says how many slots it needs.
    ///
    /// # Errors
    /// A thread, an epoll or a descriptor table could not be made.
    pub(crate) fn start(
        threads: u32,
        plan: &Plan,
        mut scenario: impl FnMut(u32) -> (S, u32),
    ) -> Result<Crew<S>, Failure> {
        let failed = || Failure::machine("starting the client threads");
        let mut polls = Vec::new();
        let mut wakers = Vec::new();
        for _ in 0..threads {
            let poll = Poll::new().map_err(failed())?;
            wakers.push(Waker::new(poll.registry(), Slot::WAKER).map_err(failed())?);
            polls.push(poll);
        }
        let wakers: Arc<[Waker]> = wakers.into();
        let board = Arc::new(Board::new(threads as usize));
        let barrier = Arc::new(Barrier::new(threads as usize + 1));
        let epolls: Vec<_> = polls.iter().map(AsRawFd::as_raw_fd).collect();
        let mut handles = Vec::new();
        for (thread, poll) in (0..).zip(polls) {
            let (scenario, slots) = scenario(thread);
            let lot = scenario.lot(thread, threads);
            let mut plan = plan.clone();
            if let Some(path) = scenario.path() {
                plan.target = plan.target.with_path(path)?;
            }
            let (board, wakers, barrier) = (board.clone(), wakers.clone(), barrier.clone());
            let body = move || {
                let split = sockets::split_descriptor_table(poll.as_raw_fd());
                board.set_thread_id(thread as usize, nix::unistd::gettid().as_raw());
                barrier.wait();
                split?;
                let desk = Desk::new(plan, lot, (thread, slots), board, wakers, poll.registry().try_clone()?);
                Client::new(desk, scenario, poll).run()
            };
            let builder = thread::Builder::new().name(format!("client-{thread}")).stack_size(STACK_BYTES);
            handles.push(builder.spawn(body).map_err(failed())?);
        }
        barrier.wait();
        for epoll in epolls {
            // Each thread has its own copy; ours would only pile up over the runs of a comparison.
            let _ = nix::unistd::close(epoll);
        }
        Ok(Crew { board, wakers, threads: handles })
    }

    /// The board, for windows and ledgers.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// States the goal and wakes everybody.
    pub(crate) fn set_goal(&self, goal: u32) {
        self.board.set_goal(goal);
        self.wake();
    }

    /// States the phase, wakes everybody, and waits until each has taken a turn in it: then the counts hold all
    /// that the phase before it did.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.board.set_phase(phase);
        self.wake();
        let end_ns = clock::now_ns() + FOLLOW_WITHIN_NS;
        let ended = || self.threads.iter().any(JoinHandle::is_finished);
        while phase != Phase::Finish && !self.board.all_saw(phase) && !ended() && clock::now_ns() < end_ns {
            clock::pause(FOLLOW_STEP);
        }
    }

    /// Wakes everybody, for what a scenario has to say by itself.
    pub(crate) fn wake(&self) {
        for waker in &*self.wakers {
            let _ = waker.wake();
        }
    }

    /// Waits until `done` or until nothing has changed for `patience`; says whether it was done. A ping is no change: a
    /// server goes on with those whatever else it has stopped doing.
    ///
    /// # Errors
    /// A client thread ended by itself.
    pub(crate) fn wait_until(
        &self,
        progress: &Progress,
        patience: Duration,
        done: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, Failure> {
        self.wait_while_it_moves(progress, patience, |counts| Counts { pings: 0, ..*counts }, done)
    }

    /// The same where other work goes on beside: only what `it` says counts as a change.
    ///
    /// # Errors
    /// A client thread ended by itself.
    pub(crate) fn wait_while_it_moves<T: PartialEq>(
        &self,
        progress: &Progress,
        patience: Duration,
        mut it: impl FnMut(&Counts) -> T,
        mut done: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, Failure> {
        let mut stand = Stand { at: it(&self.board.counts()), since_ns: clock::now_ns() };
        loop {
            let counts = self.board.counts();
            progress.look(&self.board, &counts);
            if done(&counts) {
                return Ok(true);
            }
            if stand.lasts(it(&counts), clock::now_ns()) > patience {
                return Ok(false);
            }
            self.check()?;
            clock::pause(LOOK_EVERY);
        }
    }

    /// Lets `length` pass, or less when `enough`.
    ///
    /// # Errors
    /// A client thread ended by itself.
    pub(crate) fn let_pass(
        &self,
        progress: &Progress,
        length: Duration,
        mut enough: impl FnMut(&Counts) -> bool,
    ) -> Result<(), Failure> {
        let end_ns = clock::now_ns() + u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 2);
        loop {
            let counts = self.board.counts();
            progress.look(&self.board, &counts);
            let left = Duration::from_nanos(end_ns.saturating_sub(clock::now_ns()));
            if left.is_zero() || enough(&counts) {
                return Ok(());
            }
            self.check()?;
            clock::pause(left.min(LOOK_EVERY));
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err(Failure::Machine(
                "a client thread".into(),
                std::io::Error::other(
                    "ended before its time: no descriptor table of its own, or epoll failed",
                ),
            ));
        }
        Ok(())
    }

    /// Closes all connections politely, ends the threads and gathers what they hold.
    ///
    /// # Errors
    /// A client thread failed or panicked.
    pub(crate) fn finish(self, progress: &Progress) -> Result<Gathered<S>, Failure> {
        self.set_phase(Phase::Ramp);
        self.set_goal(0);
        self.wait_until(progress, Duration::from_secs(25), |counts| counts.open == 0 && counts.busy == 0)?;
        self.set_phase(Phase::Finish);
        let counts = self.board.counts();
        let timeline = progress.take_timeline();
        let mut gathered = Gathered { scenarios: Vec::new(), faults: Faults::default(), counts, timeline };
        for thread in self.threads {
            let ended = thread.join().map_err(|_| {
                Failure::Machine("a client thread".into(), std::io::Error::other("panicked, see above"))
            })?;
            let (scenario, faults) = ended.map_err(Failure::machine("a client thread"))?;
            gathered.scenarios.push(scenario);
            gathered.faults.merge(&faults);
        }
        Ok(gathered)
    }
}

/// Where something stands, and since when.
struct Stand<T> {
    at: T,
    since_ns: u64,
}

impl<T: PartialEq> Stand<T> {
    /// How long it has stood there, now that it is at `at`.
    fn lasts(&mut self, at: T, now_ns: u64) -> Duration {
        if at != self.at {
            *self = Stand { at, since_ns: now_ns };
        }
        Duration::from_nanos(now_ns.saturating_sub(self.since_ns))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stand_begins_anew_with_each_who_comes_or_goes() {
        let mut stand = Stand { at: 5, since_ns: 1_000 };
        assert_eq!(stand.lasts(5, 1_900), Duration::from_nanos(900));
        assert_eq!(stand.lasts(6, 2_000), Duration::ZERO);
        assert_eq!(stand.lasts(6, 2_700), Duration::from_nanos(700));
        assert_eq!(stand.lasts(5, 3_000), Duration::ZERO);
    }

    #[test]
    fn threads_follow_from_connections_unless_asked() {
        let table = sockets::connections_per_table().unwrap();
        assert_eq!(thread_count(None, 0, 10_000).unwrap(), 1);
        assert_eq!(thread_count(None, 10 * table, table).unwrap(), 10);
        assert_eq!(thread_count(Some(3), 100, 10_000).unwrap(), 3);
        assert_eq!(
            thread_count(Some(8), 4, 10_000).unwrap(),
            4,
            "nobody has a share of the rate and no connection"
        );
        assert!(thread_count(Some(1), table + 1, table).is_err());
    }
}
