//! Owns the calls of the admin role that are about the node as a whole: what it is and holds (the page asks every
//! second), its drain, shedding a part of what it holds, and reading its configuration again.

use std::time::Duration;

use bridge::{Command, Epoch, NodeName};
use hyper::StatusCode;
use serde_json::json;
use tokio::sync::oneshot;

use super::Admin;
use super::call::{Answer, Call, empty, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::api::node::SECONDS_MAX;
use crate::api::{self, Error, SHARD_DEADLINE};
use crate::lifecycle::Order;
use crate::reload::NotReloaded;

/// `GET /v1/node`. Counts are sums since start, for whoever asks twice to make rates of.
pub(super) fn describe(admin: &Admin) -> Answer {
    let (bus, live) = (admin.publisher.bus(), admin.live.now());
    let mut nodes = admin.nodes.now().to_vec();
    nodes.push((admin.node.clone(), admin.epoch));
    nodes.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    let shown =
        |(node, epoch): &(NodeName, Epoch)| json!({ "node": node.as_str(), "epoch": epoch.to_string() });
    let nodes: Vec<_> = nodes.iter().map(shown).collect();
    let body = json!({
        "node": admin.node.as_str(),
        "epoch": admin.epoch.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": (admin.clock)(),
        "draining": admin.is_draining(),
        "websocket": admin.websocket_address.to_string(),
        "routes": live.routes,
        "rules": { "number": live.number, "shards": admin.rules() },
        "shards": admin.stats.len(),
        "connections": admin.sum(|stats| stats.connections.value()),
        "connections_limit": admin.gate.connections_max(),
        "channels": admin.switchboard.channels(),
        "subscriptions": admin.sum(|stats| stats.subscriptions.value()),
        "messages_in": admin.sum(|stats| stats.messages_in.value()),
        "messages_out": admin.sum(|stats| stats.messages_out.value()),
        "nodes": nodes,
        "bus": { "name": bus.name(), "up": bus.state() == backend::BusState::Up },
    });
    json(StatusCode::OK, &body)
}

/// `POST /v1/drain?seconds=`: what SIGTERM does, within this time or that of `[drain]`. Asking again changes nothing,
/// unless it is with a shorter time.
pub(super) fn drain(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["seconds"])?;
    let within = query.number("seconds", 0..=SECONDS_MAX)?.map(|seconds| Duration::from_secs(seconds.into()));
    api::node::drain(admin, within)?;
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

/// `POST /v1/reload`: what SIGHUP does. The answer says what has changed, and which rules each shard obeys now.
pub(super) async fn reload(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let (reply, answer) = oneshot::channel();
    admin.orders.try_send(Order::Reload(Some(reply))).map_err(|_| Error::busy())?;
    let outcome = answer.await.map_err(|_| Error::busy())?;
    let done = outcome.map_err(|refusal| {
        let reason = match &refusal {
            NotReloaded::Wrong(_) => Reason::BadConfiguration,
            NotReloaded::Fixed(_) => Reason::CannotChange,
            NotReloaded::Draining => Reason::Draining,
        };
        Problem::new(reason, format!("Nothing was changed: {refusal}."))
    })?;
    let change = |change: &config::Change| json!({ "key": change.key, "old": change.old, "new": change.new });
    let changed: Vec<_> = done.changes.iter().map(change).collect();
    json(StatusCode::OK, &json!({ "number": done.number, "changed": changed, "shards": done.shards }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::sync::mpsc;

    use super::*;
    use crate::admin::auth::Tokens;
    use crate::admin::tests::{ask, endpoint, node, refusal};
    use crate::reload::Reloaded;

    #[tokio::test]
    async fn a_drain_is_ordered_once_it_is_known_how_long_it_may_take() {
        let (order, mut orders) = mpsc::channel(1);
        let endpoint = endpoint(Admin { orders: order, ..node(Tokens::none()) });
        for bad in ["seconds=x", "seconds=3601", "second=1", "seconds=1&seconds=2"] {
            let request = format!("POST /v1/drain?{bad}");
            assert_eq!(refusal(&endpoint, &request, "").await, (400, "bad_request".to_owned()), "{bad}");
        }
        assert!(orders.try_recv().is_err());
        assert_eq!(ask(&endpoint, "GET /readyz", "").await.0, 200);
        assert_eq!(ask(&endpoint, "POST /v1/drain?seconds=20", "").await.0, 202);
        assert_eq!(ask(&endpoint, "GET /readyz", "").await.1["reason"], "draining", "at once");
        assert_eq!(refusal(&endpoint, "POST /v1/drain", "").await, (503, "busy".to_owned()));
        let ordered = orders.try_recv().unwrap();
        assert!(matches!(ordered, Order::Drain(Some(within)) if within.as_secs() == 20), "{ordered:?}");
        assert_eq!(refusal(&endpoint, "POST /v1/shed?fraction=1&seconds=1", "").await.1, "draining");
    }

    #[tokio::test]
    async fn a_reload_is_answered_with_what_came_of_it() {
        let (order, mut orders) = mpsc::channel(1);
        let endpoint = endpoint(Admin { orders: order, ..node(Tokens::none()) });
        let change =
            |live| config::Change { key: "a.b".to_owned(), old: None, new: Some("7".to_owned()), live };
        let done = Reloaded { number: 2, changes: vec![change(true)], shards: vec![2, 2] };
        let outcomes = [
            (Ok(done), 200, None),
            (Err(NotReloaded::Wrong("line 3".to_owned())), 422, Some("bad_configuration")),
            (Err(NotReloaded::Fixed(vec![change(false)])), 409, Some("cannot_change")),
            (Err(NotReloaded::Draining), 409, Some("draining")),
        ];
        for (outcome, status, reason) in outcomes {
            let (answer, ()) = tokio::join!(ask(&endpoint, "POST /v1/reload", ""), async {
                let Some(Order::Reload(Some(asker))) = orders.recv().await else { panic!("no reload") };
                asker.send(outcome).unwrap();
            });
            assert_eq!((answer.0, answer.1["reason"].as_str()), (status, reason), "{}", answer.1);
            match reason {
                None => assert_eq!(answer.1["changed"][0]["key"], "a.b"),
                Some("cannot_change") => {
                    assert!(answer.1["detail"].as_str().unwrap().contains("a.b (nothing to 7)"))
                }
                Some(_) => {}
            }
        }
        let node = ask(&endpoint, "GET /v1/node", "").await.1;
        assert_eq!(
            (&node["rules"]["number"], &node["rules"]["shards"]),
            (&1.into(), &serde_json::json!([0, 0]))
        );
    }

    #[tokio::test]
    async fn a_shed_says_how_many_it_tells_on_all_shards() {
        let endpoint = endpoint(node(Tokens::none()));
        for bad in ["", "fraction=0.5", "seconds=5", "fraction=1.1&seconds=5", "fraction=0.5&seconds=-1"] {
            let request = format!("POST /v1/shed?{bad}");
            assert_eq!(refusal(&endpoint, &request, "").await, (400, "bad_request".to_owned()), "{bad}");
        }
        let (status, body) = ask(&endpoint, "POST /v1/shed?fraction=0.5&seconds=5", "").await;
        assert_eq!((status, &body["connections"]), (202, &6.into()));
        assert_eq!(
            refusal(&endpoint, "POST /v1/shed?fraction=0&seconds=5", "").await,
            (409, "draining".to_owned())
        );
    }
}
