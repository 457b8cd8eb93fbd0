//! Owns what `/metrics` shows: the name, help text and labels of every figure, in tables, and reading them from the
//! shards' counters when somebody scrapes. It refuses unbounded labels (peers, users, channels) and counts nothing
//! itself. Called by the health role.
//!
//! Counters and gauges go through the recorder of `metrics-exporter-prometheus`, kept here rather than installed
//! for the process. Histograms do not: the recorder takes samples one at a time and keeps each until it renders,
//! where a busy shard makes a hundred thousand turns a second. They are written from the shards' buckets instead,
//! which are exact already; so is the one counter that is no integer.

mod authorizers;
mod backends;
mod bus;
mod histogram;
mod process;

use std::sync::Arc;

use backend::Publisher;
use backend::grpc::{AuthorizeStats, SessionStats};
use bridge::command::NotDone;
use bridge::ending::Turned;
use bridge::limited::Kind;
use bridge::stats::{BUDGETS, DROPPED_BY, TOLD_BY};
use bridge::{EndReason, Pause, Stats, Switchboard};
use config::units::Bytes;
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use shard::limit::Gate;

use crate::admin::Requests;
use crate::answers::{self, Labels};
use crate::cluster::Nodes;
use crate::grpc::Answers;
use crate::in_force::Live;
use crate::recent::Recent;
pub(crate) use process::{Descriptors, resident_bytes};

/// Where the figures come from.
pub(crate) struct Sources {
    /// Counters, by shard.
    pub(crate) stats: Vec<Arc<Stats>>,
    /// Mailboxes, for their depth: a stalled shard does not report it.
    pub(crate) switchboard: Arc<Switchboard>,
    /// For the bound of connections and the peers.
    pub(crate) gate: Arc<Gate>,
    /// For the bound of memory.
    pub(crate) live: Arc<Live>,
    /// What the HTTP side has answered.
    pub(crate) requests: Arc<Requests>,
    /// What was answered over gRPC.
    pub(crate) answers: Arc<Answers>,
    /// Milliseconds since the process started, on the clock of [`Stats::last_turn_ms`].
    pub(crate) clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// For the endings that the log left out.
    pub(crate) recent: Arc<Recent>,
    /// Other nodes of the bus.
    pub(crate) nodes: Arc<Nodes>,
    /// For the state of the bus.
    pub(crate) publisher: Publisher,
    /// Names and counters of backends.
    pub(crate) backends: Vec<(String, Arc<SessionStats>)>,
    /// The same of authorizers.
    pub(crate) authorizers: Vec<(String, Arc<AuthorizeStats>)>,
    /// Labels of [`Stats::refused`], by number; counters beyond them are not shown.
    pub(crate) refusal_labels: &'static [&'static str],
    /// How the process's descriptor tables are laid out.
    pub(crate) descriptors: Descriptors,
}

/// The figures of the node, ready to be rendered as often as asked.
pub(crate) struct Metrics {
    sources: Sources,
    process: process::Process,
    handle: PrometheusHandle,
    series: Vec<Series>,
}

/// One figure that is a sum over all shards.
type Sum = (&'static str, fn(&Stats) -> u64, &'static str);

#[rustfmt::skip]
const COUNTERS: &[Sum] = &[
    ("gateway_connections_accepted_total", |s| s.accepted.value(), "Connections accepted from the listeners."),
    ("gateway_connections_opened_total", |s| s.opened.value(), "Handshakes answered with 101."),
    ("gateway_messages_received_total", |s| s.messages_in.value(), "Messages from clients."),
    ("gateway_received_payload_bytes_total", |s| s.bytes_in.value(), "Payload bytes from clients, without frame headers."),
    ("gateway_messages_sent_total", |s| s.messages_out.value(), "Messages to clients that were handed to the kernel, or to the backlog of a slow one."),
    ("gateway_sent_bytes_total", |s| s.bytes_out.value(), "Bytes to clients that were handed to the kernel, frame headers included."),
    ("gateway_messages_ignored_total", |s| s.ignored.value(), "Messages from clients that their route ignores."),
    ("gateway_pings_sent_total", |s| s.pings.value(), "Heartbeat pings sent."),
    ("gateway_pongs_received_total", |s| s.pongs.value(), "Pongs received."),
    ("gateway_auto_replies_total", |s| s.auto_replies.value(), "Messages from clients that their route answered at once, and nobody else heard."),
    ("gateway_inbound_events_total", |s| s.inbound.value(), "Events of connections handed to backends and the bus."),
    ("gateway_inbound_given_up_total", |s| s.inbound_given_up.value(), "Closed events that nobody had taken when a drain was over."),
    ("gateway_bus_left_out_total", |s| s.bus_left_out.value(), "Publishes of clients that only subscribers of this node got, because the bus was away."),
    ("gateway_publishes_delayed_total", |s| s.publishes_delayed.value(), "Publishes of clients that waited because a mailbox was full."),
    ("gateway_deliveries_total", |s| s.deliveries.value(), "Subscribers that messages were due to, summed over messages."),
    ("gateway_deliveries_queued_total", |s| s.deliveries_queued.value(), "Deliveries that waited for a socket that took no more."),
    ("gateway_deliveries_not_text_total", |s| s.deliveries_not_text.value(), "Subscribers that a message from the bus without a kind was not sent to, because their route wants text and it is none."),
    ("gateway_goodbyes_total", |s| s.goodbyes.value(), "Connections told to go by a drain, a shed or a gap of the bus."),
    ("gateway_connections_cut_total", |s| s.cut.value(), "Connections cut because they were still there at a drain's deadline."),
];

#[rustfmt::skip]
const GAUGES: &[Sum] = &[
    ("gateway_connections", |s| s.connections.value(), "Connections held, those in their handshake included."),
    ("gateway_handshakes", |s| s.handshakes.value(), "Connections that have not finished their handshake."),
    ("gateway_connections_paused", |s| s.paused.value(), "Connections not read until something has drained."),
    ("gateway_connections_cold", |s| s.cold.value(), "Connections with rare state: half a frame, a backlog, a handshake."),
    ("gateway_channels", |s| s.channels.value(), "Channels with a subscriber, counted once for each shard that has one."),
    ("gateway_subscriptions", |s| s.subscriptions.value(), "Subscriptions of connections to channels."),
    ("gateway_fanouts_pending", |s| s.fanout_pending.value(), "Messages that wait for, or are in, a fan-out, counted once for each shard."),
    ("gateway_backlog_bytes", |s| s.backlog_bytes.value(), "Bytes that wait for slow sockets; a shared frame counts once a shard."),
    ("gateway_backlog_entries", |s| s.backlog_entries.value(), "Frames that wait for slow sockets."),
    ("gateway_publishes_waiting", |s| s.unplaced.value(), "Publishes of clients that wait for a place in a mailbox."),
    ("gateway_publishes_waiting_bytes", |s| s.unplaced_bytes.value(), "Payload bytes of publishes that wait for a place in a mailbox."),
    ("gateway_inbound_events_unsettled", |s| s.inbound_unsettled.value(), "Events that backends and the bus have and have not acknowledged."),
    ("gateway_assembly_bytes", |s| s.assembly_bytes.value(), "Bytes of messages that have not arrived whole."),
];

#[rustfmt::skip]
const SHARD_COUNTERS: &[Sum] = &[
    ("gateway_shard_turns_total", |s| s.turns.value(), "Turns of the shard's loop."),
    ("gateway_shard_connections_accepted_total", |s| s.accepted.value(), "Connections the shard accepted; the kernel spreads them unevenly."),
];

#[rustfmt::skip]
const SHARD_GAUGES: &[Sum] = &[
    ("gateway_shard_connections", |s| s.connections.value(), "Connections the shard holds."),
    ("gateway_shard_outbox_events", |s| s.outbox_events.value(), "Events that the shard has and nobody has taken yet."),
    ("gateway_shard_rules", |s| s.rules.value(), "Number of the rules the shard obeys; each reload counts one up."),
    ("gateway_shard_listening", |s| s.listening.value(), "Whether the shard's listener is open: 1 or 0."),
];

const BUILD_INFO: &str = "gateway_build_info";
const MEMORY_LIMIT: &str = "gateway_memory_limit_bytes";
const CONNECTIONS_LIMIT: &str = "gateway_connections_limit";
const PAUSED_BY_REASON: &str = "gateway_connections_paused_by_reason";
const LAST_TURN_AGE: &str = "gateway_shard_last_turn_age_seconds";
const HTTP_CONNECTIONS: &str = "gateway_http_connections";
const HTTP_REQUESTS: &str = "gateway_http_requests_total";
const GRPC_CONNECTIONS: &str = "gateway_grpc_connections";
const GRPC_REQUESTS: &str = "gateway_grpc_requests_total";
const LEFT_OUT: &str = "gateway_log_endings_left_out_total";
const PEERS: &str = "gateway_peers";
const DELIVERIES_DROPPED: &str = "gateway_deliveries_dropped_total";
const PEERS_TOLD: &str = "gateway_peers_told_total";
const LIMITED: &str = "gateway_limited_total";
const FORGOTTEN: &str = "gateway_peers_forgotten_total";
const RECENT: &str = "gateway_peers_recent";
const MAILBOX_DEPTH: &str = "gateway_shard_mailbox_depth";

/// One line of the exposition: where its value comes from, and where it goes.
enum Series {
    Counter(metrics::Counter, Read),
    Gauge(metrics::Gauge, Read),
    /// In milliseconds, shown in seconds.
    Seconds(metrics::Gauge, Read),
}

type Read = Box<dyn Fn(&Sources) -> u64 + Send + Sync>;

impl Metrics {
    /// Describes every figure and makes its series, so that all of them are shown from the first scrape on.
    pub(crate) fn new(sources: Sources) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut register = Register { recorder: &recorder, series: Vec::new() };
        register.all(&sources);
        let series = register.series;
        let process = process::Process::new(&recorder, sources.descriptors);
        Self { sources, process, handle: recorder.handle(), series }
    }

    /// The exposition in Prometheus text format, version 0.0.4. Reads `/proc`, so it may block for a moment.
    pub(crate) fn render(&self) -> String {
        for series in &self.series {
            match series {
                Series::Counter(counter, read) => counter.absolute(read(&self.sources)),
                Series::Gauge(gauge, read) => gauge.set(read(&self.sources) as f64),
                Series::Seconds(gauge, read) => gauge.set(read(&self.sources) as f64 / 1000.0),
            }
        }
        self.process.sample();
        let mut exposition = self.handle.render();
        histogram::write(&mut exposition, &self.sources.stats);
        authorizers::write(&mut exposition, &self.sources.authorizers);
        self.process.write(&mut exposition);
        exposition
    }
}

struct Register<'a> {
    recorder: &'a PrometheusRecorder,
    series: Vec<Series>,
}

impl Register<'_> {
    fn all(&mut self, sources: &Sources) {
        // Read in this order, gauges first: a scrape that shows that somebody has gone shows what he had done, too.
        for (name, read, help) in GAUGES.iter().copied() {
            self.describe_gauge(name, help);
            self.gauge(name, Vec::new(), Box::new(move |from| sum(from, read)));
        }
        for (name, read, help) in COUNTERS.iter().copied() {
            self.describe_counter(name, help);
            self.counter(name, Vec::new(), Box::new(move |from| sum(from, read)));
        }
        self.by_reason(
            "gateway_handshakes_refused_total",
            "Requests refused because of what they asked, by reason.",
            sources.refusal_labels.iter().copied(),
            |stats, place| stats.refused.get(place).map_or(0, bridge::stats::Counter::value),
        );
        self.by_reason(
            "gateway_connections_turned_away_total",
            "Connections turned away before they were opened, for reasons of ours or because they left.",
            Turned::ALL.iter().map(|turned| turned.label()),
            |stats, place| stats.turned[place].value(),
        );
        self.by_reason(
            "gateway_connections_ended_total",
            "Opened connections that ended, by reason.",
            EndReason::ALL.iter().map(|reason| reason.label()),
            |stats, place| stats.ended[place].value(),
        );
        self.by_reason(
            "gateway_commands_refused_total",
            "Commands to a connection that were not done, by reason.",
            NotDone::ALL.iter().map(|why| why.label()),
            |stats, place| stats.commands_refused[place].value(),
        );
        self.describe_gauge(PAUSED_BY_REASON, "Connections not read, by reason; one may have several.");
        for pause in Pause::ALL {
            let labels = vec![Label::from_static_parts("reason", pause.label())];
            let read = move |from: &Sources| sum(from, |stats| stats.paused_by[pause as usize].value());
            self.gauge(PAUSED_BY_REASON, labels, Box::new(read));
        }
        self.describe_counter(PEERS_TOLD, "What told the peer of connections from trusted proxies.");
        self.describe_counter(
            DELIVERIES_DROPPED,
            "Deliveries not made to slow clients, or queued and then dropped, by what gave way.",
        );
        for (place, by) in DROPPED_BY.into_iter().enumerate() {
            let read = move |from: &Sources| sum(from, |stats| stats.deliveries_dropped[place].value());
            self.counter(DELIVERIES_DROPPED, vec![Label::from_static_parts("policy", by)], Box::new(read));
        }
        for (place, by) in TOLD_BY.into_iter().enumerate() {
            let labels = vec![Label::from_static_parts("by", by)];
            let read = move |from: &Sources| sum(from, |stats| stats.peers_told[place].value());
            self.counter(PEERS_TOLD, labels, Box::new(read));
        }
        self.limits();
        for shard in 0..sources.stats.len() {
            self.shard(shard);
        }
        self.node(sources);
        self.backends(sources);
        self.authorizers(sources);
        self.http();
        self.grpc();
    }

    fn http(&mut self) {
        self.describe_gauge(HTTP_CONNECTIONS, "Connections of the HTTP side.");
        self.gauge(HTTP_CONNECTIONS, Vec::new(), Box::new(|from| from.requests.connections()));
        self.describe_counter(
            HTTP_REQUESTS,
            "Requests to the HTTP side, by role and the status of the answer.",
        );
        self.answers(HTTP_REQUESTS, ["role", "code"], |from| &from.requests);
    }

    fn grpc(&mut self) {
        self.describe_gauge(GRPC_CONNECTIONS, "Connections of app servers and tools to the gRPC listener.");
        self.gauge(GRPC_CONNECTIONS, Vec::new(), Box::new(|from| from.answers.connections()));
        self.describe_counter(GRPC_REQUESTS, "Calls over gRPC, by method and the code of the answer.");
        self.answers(GRPC_REQUESTS, ["method", "code"], |from| &from.answers);
    }

    /// Registers the cells of a table, each with its two labels.
    fn answers<L: Labels + 'static>(
        &mut self,
        name: &'static str,
        [asked, answered]: [&'static str; 2],
        of: fn(&Sources) -> &answers::Answers<L>,
    ) {
        for (place, one, other) in answers::Answers::<L>::series() {
            let labels =
                vec![Label::from_static_parts(asked, one), Label::from_static_parts(answered, other)];
            self.counter(name, labels, Box::new(move |from| of(from).value(place)));
        }
    }

    fn limits(&mut self) {
        self.describe_counter(LIMITED, "Times a limit was hit, by what was done; with dry_run nothing was.");
        for kind in Kind::all() {
            let labels = vec![
                Label::from_static_parts("limit", kind.limit.label()),
                Label::from_static_parts("action", kind.action.label()),
                Label::from_static_parts("dry_run", if kind.dry_run { "true" } else { "false" }),
            ];
            let read = move |stats: &Stats| stats.limited[kind.place()].value();
            self.counter(LIMITED, labels, Box::new(move |from| sum(from, read)));
        }
        self.describe_counter(FORGOTTEN, "Peers that were forgotten before a rate of theirs had run out.");
        self.counter(FORGOTTEN, Vec::new(), Box::new(|from| from.gate.peers().forgotten()));
        self.describe_gauge(RECENT, "Peers without a connection that are remembered for their rates.");
        self.gauge(RECENT, Vec::new(), Box::new(|from| from.gate.peers().recent()));
    }

    fn by_reason(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: impl Iterator<Item = &'static str>,
        read: fn(&Stats, usize) -> u64,
    ) {
        self.describe_counter(name, help);
        for (place, label) in labels.enumerate().take(bridge::stats::REFUSALS_MAX) {
            let labels = vec![Label::from_static_parts("reason", label)];
            self.counter(name, labels, Box::new(move |from| sum(from, |stats| read(stats, place))));
        }
    }

    fn shard(&mut self, shard: usize) {
        let label = || Label::new("shard", shard.to_string());
        for (name, read, help) in SHARD_COUNTERS.iter().copied() {
            self.describe_counter(name, help);
            self.counter(name, vec![label()], Box::new(move |from| read(&from.stats[shard])));
        }
        for (name, read, help) in SHARD_GAUGES.iter().copied() {
            self.describe_gauge(name, help);
            self.gauge(name, vec![label()], Box::new(move |from| read(&from.stats[shard])));
        }
        let budget_hits = "gateway_shard_budget_hits_total";
        self.describe_counter(budget_hits, "Steps of a turn that ended by their budget, by step.");
        for (place, step) in BUDGETS.into_iter().enumerate() {
            let labels = vec![label(), Label::from_static_parts("step", step)];
            self.counter(
                budget_hits,
                labels,
                Box::new(move |from| from.stats[shard].budget_hits[place].value()),
            );
        }
        self.describe_gauge(MAILBOX_DEPTH, "Commands waiting in the shard's mailbox.");
        let depth =
            move |from: &Sources| from.switchboard.mailboxes().get(shard).map_or(0, |m| m.depth() as u64);
        self.gauge(MAILBOX_DEPTH, vec![label()], Box::new(depth));
        self.describe_gauge(LAST_TURN_AGE, "Time since the shard's last turn ended.");
        let age = move |from: &Sources| (from.clock)().saturating_sub(from.stats[shard].last_turn_ms.value());
        let gauge = self.recorder.register_gauge(&Key::from_parts(LAST_TURN_AGE, vec![label()]), &METADATA);
        self.series.push(Series::Seconds(gauge, Box::new(age)));
    }

    fn node(&mut self, sources: &Sources) {
        self.describe_gauge(CONNECTIONS_LIMIT, "Connections the node takes before it refuses more.");
        let limit = |from: &Sources| u64::from(from.gate.connections_max());
        self.gauge(CONNECTIONS_LIMIT, Vec::<Label>::new(), Box::new(limit));
        self.describe_gauge(MEMORY_LIMIT, "Resident memory beyond which nobody new comes in; 0: no limit.");
        let limit = |from: &Sources| from.live.now().settings.node_limits.memory.map_or(0, Bytes::as_u64);
        self.gauge(MEMORY_LIMIT, Vec::<Label>::new(), Box::new(limit));
        self.describe_gauge(PEERS, "Peers (IPv4 addresses, IPv6 /64s) with a connection.");
        self.gauge(PEERS, Vec::<Label>::new(), Box::new(|from| from.gate.peers().len() as u64));
        self.describe_counter(
            LEFT_OUT,
            "Endings without a log line, because there were too many in a second.",
        );
        self.counter(LEFT_OUT, Vec::new(), Box::new(|from| from.recent.left_out()));
        self.describe_gauge(BUILD_INFO, "Always 1; the version is the label.");
        let version = Label::from_static_parts("version", env!("CARGO_PKG_VERSION"));
        self.gauge(BUILD_INFO, vec![version], Box::new(|_| 1));
        self.bus(sources);
    }

    fn describe_counter(&self, name: &'static str, help: &'static str) {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
    }

    fn describe_gauge(&self, name: &'static str, help: &'static str) {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
    }

    fn counter(&mut self, name: &'static str, labels: Vec<Label>, read: Read) {
        let counter = self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA);
        self.series.push(Series::Counter(counter, read));
    }

    fn gauge(&mut self, name: &'static str, labels: Vec<Label>, read: Read) {
        let gauge = self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA);
        self.series.push(Series::Gauge(gauge, read));
    }
}

/// What the recorder wants to know of whoever registers; it has no filter that would look at it.
const METADATA: Metadata<'static> = Metadata::new("gateway", Level::INFO, None);

fn sum(sources: &Sources, read: impl Fn(&Stats) -> u64) -> u64 {
    sources.stats.iter().map(|stats| read(stats)).sum()
}

#[cfg(test)]
mod tests;
