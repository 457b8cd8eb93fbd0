//! Owns the calls of the admin role that are about the node as a whole: what it is and holds (the page asks every
//! second), and its drain.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use serde_json::json;

use super::Admin;
use super::call::{Answer, empty, json};

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

/// `POST /v1/drain`: what SIGTERM does. Asking again changes nothing.
pub(super) fn drain(admin: &Admin) -> Response<Full<Bytes>> {
    // Keeps one ring for a listener that is not waiting yet.
    admin.drain.notify_one();
    empty(StatusCode::ACCEPTED)
}
