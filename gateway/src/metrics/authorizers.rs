//! The figures of authorizers: one series for each backend, by its name. Owns their names and help texts.

use std::sync::Arc;

use backend::grpc::{AuthorizeStats, Outcome};
use metrics::Label;

use super::{Register, Sources, histogram};

type Figure = (&'static str, fn(&AuthorizeStats) -> u64, &'static str);

#[rustfmt::skip]
const GAUGES: &[Figure] = &[
    ("gateway_authorize_calls_under_way", |s| s.under_way.value(), "Authorize calls that have not been answered."),
    ("gateway_authorize_queued", |s| s.queued.value(), "Requests that wait for an Authorize call."),
    ("gateway_authorize_servers_up", |s| s.servers_up.value(), "Addresses of the backend that Authorize calls may go to; 0 before the first request asks."),
];

const TOTAL: &str = "gateway_authorize_total";

/// Calls by how long they took.
const DURATION: histogram::Shape = histogram::Shape {
    name: "gateway_authorize_duration_seconds",
    help: "How long Authorize calls took, those that failed among them.",
    per_unit: 1_000_000.0,
};

impl Register<'_> {
    /// Every figure of every authorizer but the histogram.
    pub(super) fn authorizers(&mut self, sources: &Sources) {
        for (name, stats) in &sources.authorizers {
            let label = || Label::new("backend", name.clone());
            for (name, read, help) in GAUGES.iter().copied() {
                self.describe_gauge(name, help);
                let stats = Arc::clone(stats);
                self.gauge(name, vec![label()], Box::new(move |_| read(&stats)));
            }
            self.describe_counter(TOTAL, "Requests by what became of the question whether they may come in.");
            for outcome in Outcome::ALL {
                let labels = vec![label(), Label::from_static_parts("outcome", outcome.label())];
                let stats = Arc::clone(stats);
                self.counter(TOTAL, labels, Box::new(move |_| stats.outcomes[outcome as usize].value()));
            }
        }
    }
}

/// Appends the histogram.
pub(super) fn write(exposition: &mut String, authorizers: &[(String, Arc<AuthorizeStats>)]) {
    let series = authorizers
        .iter()
        .map(|(name, stats)| (format!("backend=\"{name}\""), histogram::readings(&stats.duration_us)));
    let series: Vec<_> = series.collect();
    if !series.is_empty() {
        histogram::write_family(exposition, &DURATION, &backend::grpc::DURATION_BOUNDS_US, &series);
    }
}
