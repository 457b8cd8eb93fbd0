//! Owns the series of the bus: whether it is there, and what it counts. Those of the embedded bus, which counts nothing,
//! stay at 0, so that a dashboard does not depend on the configuration.

use backend::{BusState, BusStats, Trouble};
use metrics::Label;

use super::{Register, Sources};

const BUS_UP: &str = "gateway_bus_up";
const TROUBLE: &str = "gateway_bus_trouble";
const NODES: &str = "gateway_nodes";
const SUBSCRIPTIONS: &str = "gateway_bus_subscriptions";

type Figure = (&'static str, fn(&BusStats) -> u64, &'static str);

#[rustfmt::skip]
const COUNTERS: [Figure; 22] = [
    ("gateway_bus_forwarded_total", |s| s.forwarded.value(), "Messages for channels handed to the bus."),
    ("gateway_bus_forwards_left_out_total", |s| s.left_out.value(), "Messages for channels that the bus was not there for, or that are larger than it takes."),
    ("gateway_bus_received_total", |s| s.received.value(), "Messages taken from the bus for subscribers or connections of this node."),
    ("gateway_bus_undelivered_total", |s| s.undelivered.value(), "Messages taken from the bus that found no room in a shard's mailbox in time."),
    ("gateway_bus_overrun_total", |s| s.overrun.value(), "Messages that came from the bus faster than they were taken and were dropped at a bound; at least so many."),
    ("gateway_bus_own_copies_total", |s| s.own_copies.value(), "Own messages that came back from the bus."),
    ("gateway_bus_malformed_total", |s| s.malformed.value(), "Messages from the bus whose subject, id or content is not ours."),
    ("gateway_bus_stale_total", |s| s.stale.value(), "Messages and commands from the bus to a connection of another life of this node, or of a node that is not there."),
    ("gateway_bus_no_responders_total", |s| s.no_responders.value(), "Inbound events that nobody on the bus listened to."),
    ("gateway_bus_inbound_total", |s| s.inbound.value(), "Inbound events that the bus has."),
    ("gateway_bus_inbound_retries_total", |s| s.inbound_retries.value(), "Attempts to hand an inbound event to the bus that failed and were made again."),
    ("gateway_bus_inbound_left_out_total", |s| s.inbound_left_out.value(), "Inbound events given up, because the bus was away and the route says so, or because they are larger than it takes; and gaps that nobody could be told of."),
    ("gateway_bus_calls_total", |s| s.calls.value(), "Calls to other nodes."),
    ("gateway_bus_calls_unanswered_total", |s| s.calls_unanswered.value(), "Calls to other nodes that had no answer in time."),
    ("gateway_bus_calls_left_out_total", |s| s.calls_left_out.value(), "Calls to other nodes that were not made, because too many waited for answers."),
    ("gateway_bus_commands_total", |s| s.commands.value(), "Commands of other nodes and of app servers taken from the bus."),
    ("gateway_bus_commands_refused_total", |s| s.commands_refused.value(), "Commands from the bus that were answered busy, because too many were being obeyed."),
    ("gateway_bus_answers_left_out_total", |s| s.answers_left_out.value(), "Messages to connections that were requests and had no answer, because too many waited for one."),
    ("gateway_bus_words_left_out_total", |s| s.words_left_out.value(), "Words about who is there that found no room on their way to the bus."),
    ("gateway_bus_connects_failed_total", |s| s.connects_failed.value(), "Attempts to reach the bus that failed."),
    ("gateway_bus_losses_total", |s| s.losses.value(), "Times the bus was lost."),
    ("gateway_bus_subscription_operations_total", |s| s.subscription_operations.value(), "Operations that began or ended a subscription on the bus."),
];

impl Register<'_> {
    pub(super) fn bus(&mut self, sources: &Sources) {
        self.describe_gauge(BUS_UP, "Whether the bus carries messages: 1 or 0.");
        let bus = Label::from_static_parts("bus", sources.publisher.bus().name());
        let is_up = |from: &Sources| u64::from(from.publisher.bus().state() == BusState::Up);
        self.gauge(BUS_UP, vec![bus], Box::new(is_up));
        self.describe_gauge(TROUBLE, "Why the bus is away, if it is: 1 at the reason.");
        for trouble in Trouble::ALL {
            let reason = vec![Label::from_static_parts("reason", trouble.label())];
            let is_it = move |from: &Sources| u64::from(from.publisher.bus().trouble() == Some(trouble));
            self.gauge(TROUBLE, reason, Box::new(is_it));
        }
        for (name, read, help) in COUNTERS {
            self.describe_counter(name, help);
            self.counter(
                name,
                Vec::new(),
                Box::new(move |from| from.publisher.bus().stats().map_or(0, read)),
            );
        }
        self.describe_gauge(NODES, "Nodes that are there, this one included.");
        self.gauge(NODES, Vec::new(), Box::new(|from| from.nodes.now().len() as u64 + 1));
        self.describe_gauge(SUBSCRIPTIONS, "Channels that the node is subscribed to on the bus.");
        let subscriptions =
            |from: &Sources| from.publisher.bus().stats().map_or(0, |stats| stats.subscriptions.value());
        self.gauge(SUBSCRIPTIONS, Vec::new(), Box::new(subscriptions));
    }
}
