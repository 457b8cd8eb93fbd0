//! The figures of backends: one series for each of them, by its name. Owns their names and help texts.

use std::sync::Arc;

use backend::grpc::{GivenUp, SessionStats, Status, StreamEnd};
use metrics::Label;

use super::{Register, Sources};

type Figure = (&'static str, fn(&SessionStats) -> u64, &'static str);

#[rustfmt::skip]
const COUNTERS: &[Figure] = &[
    ("gateway_backend_streams_opened_total", |s| s.opened.value(), "Streams to app servers that were answered."),
    ("gateway_backend_events_sent_total", |s| s.sent.value(), "Events sent for the first time."),
    ("gateway_backend_events_sent_again_total", |s| s.sent_again.value(), "Events sent again, because they were not acknowledged where they were sent before."),
    ("gateway_backend_events_acknowledged_total", |s| s.acknowledged.value(), "Events acknowledged."),
    ("gateway_backend_partitions_moved_total", |s| s.moved.value(), "Times a partition left its stream."),
    ("gateway_backend_command_ids_forgotten_total", |s| s.ids_forgotten.value(), "Ids of commands forgotten before their minute, because there were too many."),
];

#[rustfmt::skip]
const GAUGES: &[Figure] = &[
    ("gateway_backend_endpoints", |s| s.endpoints.value(), "Addresses that the backend's endpoints stand for."),
    ("gateway_backend_endpoints_up", |s| s.endpoints_up.value(), "Addresses with a stream that is open."),
    ("gateway_backend_streams_up", |s| s.streams_up.value(), "Streams that were answered and are open."),
    ("gateway_backend_events_held", |s| s.events_held.value(), "Events that are not acknowledged, under way or waiting for a stream."),
    ("gateway_backend_events_under_way", |s| s.events_under_way.value(), "Events sent and not acknowledged."),
    ("gateway_backend_connections_held", |s| s.connections_held.value(), "Connections with events that are not acknowledged."),
    ("gateway_backend_partitions_waiting", |s| s.partitions_waiting.value(), "Partitions without a stream."),
];

const STREAMS_ENDED: &str = "gateway_backend_streams_ended_total";
const GIVEN_UP: &str = "gateway_backend_events_given_up_total";
const COMMANDS: &str = "gateway_backend_commands_total";

impl Register<'_> {
    /// Every figure of every backend.
    pub(super) fn backends(&mut self, sources: &Sources) {
        for (name, stats) in &sources.backends {
            self.backend(name, stats);
        }
    }

    fn backend(&mut self, name: &str, stats: &Arc<SessionStats>) {
        let label = || Label::new("backend", name.to_owned());
        for (name, read, help) in COUNTERS.iter().copied() {
            self.describe_counter(name, help);
            let stats = Arc::clone(stats);
            self.counter(name, vec![label()], Box::new(move |_| read(&stats)));
        }
        for (name, read, help) in GAUGES.iter().copied() {
            self.describe_gauge(name, help);
            let stats = Arc::clone(stats);
            self.gauge(name, vec![label()], Box::new(move |_| read(&stats)));
        }
        self.describe_counter(STREAMS_ENDED, "Streams to app servers that ended, by reason.");
        for why in StreamEnd::ALL {
            let labels = vec![label(), Label::from_static_parts("reason", why.label())];
            let stats = Arc::clone(stats);
            self.counter(STREAMS_ENDED, labels, Box::new(move |_| stats.ended[why as usize].value()));
        }
        self.describe_counter(GIVEN_UP, "Events given up, by reason.");
        for why in GivenUp::ALL {
            let labels = vec![label(), Label::from_static_parts("reason", why.label())];
            let stats = Arc::clone(stats);
            self.counter(GIVEN_UP, labels, Box::new(move |_| stats.given_up[why as usize].value()));
        }
        self.describe_counter(COMMANDS, "Commands of app servers, by what became of them.");
        for status in Status::ALL {
            let labels = vec![label(), Label::from_static_parts("outcome", status.label())];
            let stats = Arc::clone(stats);
            self.counter(COMMANDS, labels, Box::new(move |_| stats.orders[status as usize].value()));
        }
    }
}
