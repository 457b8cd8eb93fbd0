//! One line of live progress on standard error, only on a terminal, and the samples behind it.
//!
//! It owns the line and the sampler. It refuses to be part of the results, apart from the timeline. Fed by the
//! conductor whenever it looks at the tallies.

use std::cell::RefCell;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::board::{Board, Counts};
use crate::probe::Server;
use crate::timeline::{Sample, Sampler, Timeline};

/// A line that says what the run is doing.
pub(crate) struct Progress {
    line: ProgressBar,
    sampler: RefCell<Sampler>,
}

impl Progress {
    /// A line for a run that begins now, and a timeline of it; nothing is drawn where standard error is no
    /// terminal.
    pub(crate) fn new(server: Option<Server>) -> Progress {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {prefix}: {wide_msg}") {
            line.set_style(style);
        }
        Progress { line, sampler: RefCell::new(Sampler::new(server)) }
    }

    /// Names the step that begins.
    pub(crate) fn step(&self, name: impl Into<String>) {
        let name = name.into();
        self.sampler.borrow_mut().step(&name);
        self.line.set_prefix(name);
    }

    /// Looks at the tallies of this moment.
    pub(crate) fn look(&self, board: &Board, counts: &Counts) {
        let sample = self.sampler.borrow_mut().look(board, counts);
        if let Some(sample) = sample.filter(|_| !self.line.is_hidden()) {
            self.line.set_message(words(counts, &sample));
            self.line.tick();
        }
    }

    /// The run over time, so far.
    pub(crate) fn take_timeline(&self) -> Timeline {
        self.sampler.borrow_mut().take()
    }
}

/// A moment in words; what is not known is left out.
fn words(counts: &Counts, sample: &Sample) -> String {
    let mut parts = vec![format!("{} open", HumanCount(u64::from(counts.open)))];
    let mut part = |wanted: bool, text: String| {
        if wanted {
            parts.push(text);
        }
    };
    part(counts.busy > 0, format!("{} under way", HumanCount(u64::from(counts.busy))));
    part(sample.opens_per_s >= 1.0, format!("{} opens/s", HumanCount(sample.opens_per_s as u64)));
    part(sample.received_per_s >= 1.0, format!("{} messages/s", HumanCount(sample.received_per_s as u64)));
    if let Some((p50, p99)) = sample.p50_us.zip(sample.p99_us) {
        part(true, format!("p50 {p50:.0} us, p99 {p99:.0} us"));
    }
    if let Some(bytes) = sample.resident_bytes {
        part(true, format!("server {}", HumanBytes(bytes)));
    }
    if let Some(bytes) = sample.slab_per_socket_bytes {
        part(true, format!("slab {bytes:.0} B/socket"));
    }
    part(counts.failures > 0, format!("{} failed", HumanCount(counts.failures)));
    part(counts.lost > 0, format!("{} lost", HumanCount(counts.lost)));
    parts.join(", ")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known_and_no_more() {
        let counts = Counts { open: 12_000, ..Counts::default() };
        assert_eq!(words(&counts, &Sample::default()), "12,000 open");
        let sample = Sample {
            received_per_s: 1_500.4,
            p50_us: Some(40.2),
            p99_us: Some(900.0),
            resident_bytes: Some(3 << 20),
            ..Sample::default()
        };
        let line = words(&counts, &sample);
        assert_eq!(line, "12,000 open, 1,500 messages/s, p50 40 us, p99 900 us, server 3.00 MiB");
    }
}
