//! Owns the calls that keep a network out for a while, on all nodes: set and lift. The list is the gate's; here it is named
//! and bounded in time, and shards are told to end who is already in. It refuses to know records.

use std::time::Duration;

use backend::proto::command::{self as wire, Order};
use bridge::Command;
use shard::limit::{BLOCKS_MAX, Block, Network};

use super::command::{Done, call_others, silent};
use super::{Error, Reason};
use crate::admin::Admin;
use crate::limits;

/// Longest block, in seconds: a year. What is to last belongs into the configuration.
pub(crate) const TTL_MAX_S: u32 = 31_536_000;
/// Ticks in a second.
pub(crate) const TICKS: u32 = 1000 / shard::TICK_MS;
/// How often a full mailbox is asked to take the order, and how long it is left alone in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// The tick the shards are in, or are about to be.
pub(crate) fn tick(admin: &Admin) -> u32 {
    (admin.clock)() as u32 / shard::TICK_MS + 1
}

/// Blocks a network on every node. The block of this node, and the names of nodes that did not answer.
///
/// # Errors
/// `bad_request`, `blocks_full`; `busy` when who is in may stay.
pub(crate) async fn put(admin: &Admin, network: Network, ttl_s: u32) -> Result<(Block, Vec<String>), Error> {
    let block = put_here(admin, network, ttl_s).await?;
    let order = Order::Block(wire::Block { cidr: network.to_string(), ttl_s });
    let others = call_others(admin, order).await;
    Ok((block, silent(&others)))
}

/// Blocks a network on this node. From the answer on nobody of it comes in; who is in is being closed.
///
/// # Errors
/// As [`put`].
async fn put_here(admin: &Admin, network: Network, ttl_s: u32) -> Result<Block, Error> {
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(bad_ttl());
    }
    let now = tick(admin);
    let block = Block { network, until: now.saturating_add(ttl_s.saturating_mul(TICKS)) };
    admin.gate.blocks().put(network, block.until, now).map_err(|_| {
        Error::new(
            Reason::BlocksFull,
            format!("{BLOCKS_MAX} networks are blocked already; lift one, or block a network around them."),
        )
    })?;
    for mailbox in admin.switchboard.mailboxes() {
        let mut tries = 0;
        while mailbox.send(Command::EnforceBlocks).is_err() {
            tries += 1;
            if tries > TRIES {
                return Err(Error::new(
                    Reason::Busy,
                    "Nobody of it comes in any more, but a mailbox is full and who is in may stay; send it again.",
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    tracing::info!(%network, ttl_seconds = ttl_s, "network blocked");
    Ok(block)
}

/// The time is no time for a block.
pub(crate) fn bad_ttl() -> Error {
    Error::new(Reason::BadRequest, format!("ttl is in seconds, from 1 to {TTL_MAX_S}; mend the query."))
}

/// Lifts a block on every node.
///
/// # Errors
/// `not_blocked` when no node had it; `node_silent` when a node did not answer and may still have it.
pub(crate) async fn lift(admin: &Admin, network: Network) -> Result<(), Error> {
    let here = lift_here(admin, network);
    let order = Order::Unblock(wire::Unblock { cidr: network.to_string() });
    let others = call_others(admin, order).await;
    let there = others.iter().any(|(_, answer)| matches!(answer, Ok(Done::WasBlocked(true))));
    match silent(&others) {
        silent if !silent.is_empty() => Err(Error::new(
            Reason::NodeSilent,
            format!(
                "It is lifted on all nodes but {}, which did not answer; send it again.",
                silent.join(", ")
            ),
        )),
        _ if here || there => Ok(()),
        _ => Err(not_blocked()),
    }
}

/// Lifts a block on this node; `false` when there was none.
fn lift_here(admin: &Admin, network: Network) -> bool {
    let was_blocked = admin.gate.blocks().remove(network, tick(admin));
    if was_blocked {
        tracing::info!(%network, "network no longer blocked");
    }
    was_blocked
}

/// Blocks a network on this node, as somebody on the bus says.
///
/// # Errors
/// As [`put`], and `bad_network`.
pub(super) async fn block(admin: &Admin, order: &wire::Block) -> Result<(), Error> {
    put_here(admin, network(admin, &order.cidr)?, order.ttl_s).await.map(|_| ())
}

/// Lets one in again; whether it was blocked.
///
/// # Errors
/// `bad_network`.
pub(super) fn unblock(admin: &Admin, order: &wire::Unblock) -> Result<bool, Error> {
    Ok(lift_here(admin, network(admin, &order.cidr)?))
}

/// There is no such block.
pub(crate) fn not_blocked() -> Error {
    Error::new(Reason::NotBlocked, "This network is not blocked; GET /v1/blocks lists those that are.")
}

/// Reads a network of peers.
///
/// # Errors
/// `bad_network`.
pub(crate) fn network(admin: &Admin, text: &str) -> Result<Network, Error> {
    let bad = |detail| Error::new(Reason::BadNetwork, detail);
    let cidr = config::Network::parse(text).map_err(|expected| bad(format!("Send {expected}.")))?;
    let most = admin.gate.peers().ipv6_prefix();
    let alone = cidr.address().is_ipv6() && cidr.prefix() > most;
    limits::network(cidr).filter(|_| !alone).ok_or_else(|| {
        bad(format!(
            "An IPv6 network has a prefix of at most {most} (limits.peer.ipv6_prefix): clients choose the other bits."
        ))
    })
}
