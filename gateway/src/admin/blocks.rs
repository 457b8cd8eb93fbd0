//! Translates the calls about blocks between HTTP and [`crate::api::blocks`]: set, lift, look at. What is looked at is this
//! node's list.

use hyper::StatusCode;
use serde_json::{Value, json};
use shard::limit::{Block, Network};

use super::Admin;
use super::call::{Answer, Call, empty, json};
use super::problem::Problem;
use super::query::Query;
use crate::api::blocks::{self, TICKS, TTL_MAX_S, bad_ttl, not_blocked, tick};

/// How long a block lasts when nobody says, in seconds.
const TTL_DEFAULT_S: u32 = 3_600;

/// `PUT /v1/blocks/{cidr}?ttl=`, in seconds. From the answer on nobody of it comes in, on all nodes but those it names as
/// silent; who is in is being closed.
pub(super) async fn put(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["ttl"])?;
    let ttl_s = query.value("ttl").map_or(Ok(TTL_DEFAULT_S), ttl)?;
    let (block, silent) = blocks::put(admin, network(admin, call)?, ttl_s).await?;
    let mut body = shown(&block, tick(admin));
    body["silent"] = silent.into();
    json(StatusCode::OK, &body)
}

/// `DELETE /v1/blocks/{cidr}`, on all nodes.
pub(super) async fn lift(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    blocks::lift(admin, network(admin, call)?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /v1/blocks/{cidr}`: exactly this one.
pub(super) fn describe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let (network, now) = (network(admin, call)?, tick(admin));
    let blocks = admin.gate.blocks().list(now);
    let block = blocks.iter().find(|block| block.network == network).ok_or_else(not_blocked)?;
    json(StatusCode::OK, &shown(block, now))
}

/// `GET /v1/blocks`: all of this node; there are at most [`shard::limit::BLOCKS_MAX`].
pub(super) fn list(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let now = tick(admin);
    let blocks: Vec<Value> = admin.gate.blocks().list(now).iter().map(|block| shown(block, now)).collect();
    json(StatusCode::OK, &json!({ "blocks": blocks }))
}

fn shown(block: &Block, now: u32) -> Value {
    json!({ "cidr": block.network.to_string(), "expires_in_s": block.until.saturating_sub(now).div_ceil(TICKS) })
}

fn ttl(text: &str) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|seconds| digits && (1..=TTL_MAX_S).contains(seconds));
    seconds.ok_or_else(|| bad_ttl().into())
}

/// The network of the path: `10.0.0.0%2F8`, or its two halves as segments.
fn network(admin: &Admin, call: &Call) -> Result<Network, Problem> {
    Ok(blocks::network(admin, &call.variables.join("/"))?)
}
