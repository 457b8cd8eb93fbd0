//! Owns the calls that keep a network out for a while: set, lift, look at. The list is the gate's; here it is named and
//! bounded in time, and shards are told to end who is already in. Called by the dispatch; it refuses to know records.

use std::time::Duration;

use bridge::Command;
use hyper::StatusCode;
use serde_json::{Value, json};
use shard::limit::{BLOCKS_MAX, Block, Network};

use super::Admin;
use super::call::{Answer, Call, empty, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::limits;

/// How long a block lasts when nobody says, in seconds.
const TTL_DEFAULT_S: u32 = 3_600;
/// Longest block, in seconds: a year. What is to last belongs into the configuration.
const TTL_MAX_S: u32 = 31_536_000;
/// Ticks in a second.
const TICKS: u32 = 1000 / shard::TICK_MS;
/// How often a full mailbox is asked to take the order, and how long it is left alone in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// `PUT /v1/blocks/{cidr}?ttl=`, in seconds. From the answer on nobody of it comes in; who is in is being closed.
pub(super) async fn put(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["ttl"])?;
    let ttl_s = query.value("ttl").map_or(Ok(TTL_DEFAULT_S), ttl)?;
    let network = network(admin, call)?;
    let now = tick(admin);
    let block = Block { network, until: now.saturating_add(ttl_s.saturating_mul(TICKS)) };
    admin.gate.blocks().put(network, block.until, now).map_err(|_| {
        Problem::new(
            Reason::BlocksFull,
            format!("{BLOCKS_MAX} networks are blocked already; lift one, or block a network around them."),
        )
    })?;
    for mailbox in admin.switchboard.mailboxes() {
        let mut tries = 0;
        while mailbox.send(Command::EnforceBlocks).is_err() {
            tries += 1;
            if tries > TRIES {
                return Err(Problem::new(
                    Reason::Busy,
                    "Nobody of it comes in any more, but a mailbox is full and who is in may stay; send it again.",
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    tracing::info!(%network, ttl_seconds = ttl_s, "network blocked");
    json(StatusCode::OK, &shown(&block, now))
}

/// `DELETE /v1/blocks/{cidr}`.
pub(super) fn lift(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let network = network(admin, call)?;
    if !admin.gate.blocks().remove(network, tick(admin)) {
        return Err(not_blocked());
    }
    tracing::info!(%network, "network no longer blocked");
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

/// `GET /v1/blocks`: all of them; there are at most [`BLOCKS_MAX`].
pub(super) fn list(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let now = tick(admin);
    let blocks: Vec<Value> = admin.gate.blocks().list(now).iter().map(|block| shown(block, now)).collect();
    json(StatusCode::OK, &json!({ "blocks": blocks }))
}

fn shown(block: &Block, now: u32) -> Value {
    json!({ "cidr": block.network.to_string(), "expires_in_s": (block.until - now).div_ceil(TICKS) })
}

/// The tick the shards are in, or are about to be.
fn tick(admin: &Admin) -> u32 {
    (admin.clock)() as u32 / shard::TICK_MS + 1
}

fn ttl(text: &str) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|seconds| digits && (1..=TTL_MAX_S).contains(seconds));
    seconds.ok_or_else(|| {
        Problem::new(Reason::BadRequest, format!("ttl is in seconds, from 1 to {TTL_MAX_S}; mend the query."))
    })
}

/// The network of the path: `10.0.0.0%2F8`, or its two halves as segments.
fn network(admin: &Admin, call: &Call) -> Result<Network, Problem> {
    let text = call.variables.join("/");
    let bad = |detail| Problem::new(Reason::BadNetwork, detail);
    let cidr = config::Network::parse(&text).map_err(|expected| bad(format!("Send {expected}.")))?;
    let most = admin.gate.peers().ipv6_prefix();
    let alone = cidr.address().is_ipv6() && cidr.prefix() > most;
    limits::network(cidr).filter(|_| !alone).ok_or_else(|| {
        bad(format!(
            "An IPv6 network has a prefix of at most {most} (limits.peer.ipv6_prefix): clients choose the other bits."
        ))
    })
}

fn not_blocked() -> Problem {
    Problem::new(Reason::NotBlocked, "This network is not blocked; GET /v1/blocks lists those that are.")
}
