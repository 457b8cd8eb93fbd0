//! One line of live progress on standard error, only on a terminal.
//!
//! It owns the line. It refuses to be part of the results. Fed by the conductor whenever it looks at the
//! tallies.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::board::Counts;

/// A line that says what the run is doing.
pub(crate) struct Progress {
    line: ProgressBar,
}

impl Progress {
    /// A line; nothing is drawn where standard error is no terminal.
    pub(crate) fn new() -> Progress {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {prefix}: {msg}") {
            line.set_style(style);
        }
        Progress { line }
    }

    /// Names the step that begins.
    pub(crate) fn step(&self, name: impl Into<String>) {
        self.line.set_prefix(name.into());
    }

    /// Shows the counts of this moment.
    pub(crate) fn show(&self, counts: &Counts) {
        if self.line.is_hidden() {
            return;
        }
        self.line.set_message(format!(
            "{} open, {} under way, {} failed, {} lost, {} received",
            counts.open, counts.busy, counts.failures, counts.lost, counts.received
        ));
        self.line.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
