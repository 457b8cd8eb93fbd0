//! Owns the calls of the admin role that are about the node as a whole: what it is and holds (the page asks every
//! second), its drain, and shedding a part of what it holds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bridge::Command;
use hyper::StatusCode;
use serde_json::json;

use super::Admin;
use super::call::{Answer, Call, SHARD_DEADLINE, empty, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::lifecycle::Order;

/// Longest drain or shed by request: the longest that the configuration takes.
const SECONDS_MAX: u16 = 3600;

/// `GET /v1/node`. Counts are sums since start, for whoever asks twice to make rates of.
pub(super) fn describe(admin: &Admin) -> Answer {
    let bus = admin.publisher.bus();
    let body = json!({
        "node": admin.node.as_str(),
        "epoch": admin.epoch.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": (admin.clock)(),
        "draining": admin.is_draining(),
        "websocket": admin.websocket_address.to_string(),
        "routes": admin.routes,
        "shards": admin.stats.len(),
        "connections": admin.sum(|stats| stats.connections.value()),
        "connections_limit": admin.gate.connections_max(),
        "channels": admin.switchboard.channels(),
        "subscriptions": admin.sum(|stats| stats.subscriptions.value()),
        "messages_in": admin.sum(|stats| stats.messages_in.value()),
        "messages_out": admin.sum(|stats| stats.messages_out.value()),
        "bus": { "name": bus.name(), "up": bus.state() == backend::BusState::Up },
    });
    json(StatusCode::OK, &body)
}

/// `POST /v1/drain?seconds=`: what SIGTERM does, within this time or that of `[drain]`. Asking again changes nothing,
/// unless it is with a shorter time.
pub(super) fn drain(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["seconds"])?;
    let within = query.number("seconds", 0..=SECONDS_MAX)?.map(|seconds| Duration::from_secs(seconds.into()));
    admin.orders.try_send(Order::Drain(within)).map_err(|_| Problem::busy())?;
    // Whoever asks /readyz after this answer sees it.
    admin.draining.store(true, Ordering::Release);
    Ok(empty(StatusCode::ACCEPTED))
}

/// `POST /v1/shed?fraction=&seconds=`: that share of the connections is told to go, evenly over this time. The answer
/// says how many. A new one replaces what is left of the one before; a fraction of 0 ends it.
pub(super) async fn shed(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["fraction", "seconds"])?;
    let per_ten_thousand = query.fraction("fraction")?;
    let seconds = query.number("seconds", 0..=SECONDS_MAX)?;
    let (Some(per_ten_thousand), Some(seconds)) = (per_ten_thousand, seconds) else {
        let detail = "Say how many and how fast, as in POST /v1/shed?fraction=0.2&seconds=60.";
        return Err(Problem::new(Reason::BadRequest, detail));
    };
    let draining = || {
        let detail = "The node drains, and everybody is told to go; there is nothing to do.";
        Problem::new(Reason::Draining, detail)
    };
    if admin.is_draining() {
        return Err(draining());
    }
    let ticks = crate::rules::ticks(Duration::from_secs(seconds.into()));
    let mut connections = 0;
    for shard in 0..admin.stats.len() {
        let command = |reply| Command::Shed { per_ten_thousand, ticks, reply };
        connections += admin.ask(shard as u16, SHARD_DEADLINE, command).await?.ok_or_else(draining)?;
    }
    tracing::info!(connections, seconds, "shedding by request");
    json(StatusCode::ACCEPTED, &json!({ "connections": connections, "seconds": seconds }))
}
