//! One measured span of a run: messages flow, then they are measured, and what is under way at the end still comes back.
//!
//! It owns that order, so that every scenario measures alike. It refuses to know what flows, and what must have come back:
//! scenarios say it. Called by their conductors.

use std::time::Duration;

use crate::board::{Counts, Phase};
use crate::client::Scenario;
use crate::crew::Crew;
use crate::failure::Failure;
use crate::probe::{Server, Usage, Window};
use crate::progress::Progress;

/// An open loop beside a closed one runs at this share of the rate that the closed one reached.
const OPEN_SHARE: f64 = 0.5;

/// The rate of an open loop by that of the closed one before it, per second.
pub(crate) fn open_rate_per_s(closed_per_s: f64) -> f64 {
    (closed_per_s * OPEN_SHARE).max(1.0)
}

/// How to measure.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    /// Whose processor time is told.
    pub(crate) server: Option<Server>,
    pub(crate) progress: &'a Progress,
    /// How long messages flow before they are measured.
    pub(crate) warm_up: Duration,
    /// How long what is under way at the end may stand still.
    pub(crate) patience: Duration,
    /// Messages per second of an open loop; `None` in a closed one, and where scenarios have a pace of their own.
    pub(crate) rate_per_s: Option<f64>,
}

/// What a span showed.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) usage: Usage,
    /// The counts at its beginning and at its end.
    pub(crate) begin: Counts,
    pub(crate) end: Counts,
    /// Opened where it ended.
    pub(crate) after: Window,
}

impl Measured {
    /// Messages that came back within it.
    pub(crate) fn messages(&self) -> u64 {
        self.end.received - self.begin.received
    }

    /// The same per second.
    pub(crate) fn rate_per_s(&self) -> f64 {
        self.messages() as f64 / self.usage.seconds
    }

    /// Server CPU for each of them, microseconds; `None` without a server, or without one of them.
    pub(crate) fn cpu_per_message_us(&self) -> Option<f64> {
        let messages = self.messages();
        self.usage.server_cpu_s.filter(|_| messages > 0).map(|cpu| cpu * 1e6 / messages as f64)
    }
}

impl Span<'_> {
    /// Measures while `during` goes on, and then lets `settle` wait for what is under way.
    ///
    /// # Errors
    /// A client thread ended by itself, the server is gone, or what the scenario does fails.
    pub(crate) fn measure<S: Scenario>(
        &self,
        crew: &Crew<S>,
        name: &str,
        during: impl FnOnce() -> Result<(), Failure>,
        settle: impl FnOnce() -> Result<bool, Failure>,
    ) -> Result<Measured, Failure> {
        crew.board().set_rate_per_s(self.rate_per_s);
        self.progress.step(format!("{name}: warming up"));
        crew.set_phase(Phase::Warm);
        crew.let_pass(self.progress, self.warm_up, |_| false)?;
        self.progress.step(name);
        crew.set_phase(Phase::Measure);
        let begin = crew.board().counts();
        let window = Window::open(self.server, crew.board())?;
        during()?;
        let usage = window.close(crew.board())?;
        let after = Window::open(self.server, crew.board())?;
        let end = crew.board().counts();
        self.progress.step(format!("{name}: what is under way"));
        crew.set_phase(Phase::Settle);
        settle()?;
        Ok(Measured { usage, begin, end, after })
    }

    /// Measures echoes for so long.
    ///
    /// # Errors
    /// As [`Span::measure`].
    pub(crate) fn echoes<S: Scenario>(
        &self,
        crew: &Crew<S>,
        name: &str,
        length: Duration,
    ) -> Result<Measured, Failure> {
        let during = || crew.let_pass(self.progress, length, |_| false);
        self.measure(crew, name, during, || self.echoes_back(crew))
    }

    /// Waits until all that was sent has come back, or nothing comes any more, whatever else goes on.
    ///
    /// # Errors
    /// A client thread ended by itself.
    pub(crate) fn echoes_back<S: Scenario>(&self, crew: &Crew<S>) -> Result<bool, Failure> {
        let moved = |counts: &Counts| (counts.sent, counts.received);
        let back = |counts: &Counts| counts.received >= counts.sent;
        crew.wait_while_it_moves(self.progress, self.patience, moved, back)
    }
}
