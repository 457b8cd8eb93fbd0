//! Owns the calls that keep a network out for a while, on all nodes: set and lift; and what nodes tell each other of that
//! when they meet. The list is the gate's; here it is named and bounded in time, and shards are told to end who is already
//! in. Which of two orders counts is [`BlockOrders`](super::BlockOrders)'s. It refuses to know records.

use std::convert::Infallible;
use std::time::Duration;

use backend::proto::command::{self as wire, Order};
use bridge::{Command, NodeName};
use shard::limit::{BLOCKS_MAX, Block, Network};

use super::block_orders::{AT_MS_MAX, BlockOrder, LIFTS_MAX};
use super::command::{self, Done, call_others, silent};
use super::{Error, Reason};
use crate::admin::{Admin, unix_ms};
use crate::limits;

/// Longest block, in seconds: a year. What is to last belongs into the configuration.
pub(crate) const TTL_MAX_S: u32 = 31_536_000;
/// Ticks in a second.
pub(crate) const TICKS: u32 = 1000 / shard::TICK_MS;
/// How often a full mailbox is asked to take the order, and how long it is left alone in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);
/// That a network was let in again is remembered for so long at least, in seconds.
const LIFT_KEPT_S: u32 = 3_600;
/// How often a node that has come is told of blocks until it answers, and how long it is left alone in between.
const TELLINGS: u32 = 5;
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The tick the shards are in, or are about to be.
pub(crate) fn tick(admin: &Admin) -> u32 {
    (admin.clock)() as u32 / shard::TICK_MS + 1
}

/// Blocks a network on every node. The block of this node, and the names of nodes that did not answer.
///
/// # Errors
/// `bad_request`, `blocks_full`; `busy` when who is in may stay.
pub(crate) async fn put(admin: &Admin, network: Network, ttl_s: u32) -> Result<(Block, Vec<String>), Error> {
    let at_ms = admin.block_orders.moment(network, unix_ms());
    let block = put_here(admin, network, ttl_s, at_ms).await?;
    let order = Order::Block(wire::Block { cidr: network.to_string(), ttl_s, at_ms });
    let others = call_others(admin, order).await;
    Ok((block, silent(&others)))
}

/// Blocks a network on this node. From the answer on nobody of it comes in; who is in is being closed. An order that is
/// not the last one about the network changes nothing.
///
/// # Errors
/// As [`put`].
async fn put_here(admin: &Admin, network: Network, ttl_s: u32, at_ms: u64) -> Result<Block, Error> {
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(bad_ttl());
    }
    let (block, is_new) = set(admin, network, ttl_s, at_ms)?;
    if is_new {
        tracing::info!(%network, ttl_seconds = ttl_s, "network blocked");
        enforce(admin).await?;
    }
    Ok(block)
}

/// Puts a block into the gate's list; whether that was news.
fn set(admin: &Admin, network: Network, ttl_s: u32, at_ms: u64) -> Result<(Block, bool), Error> {
    let now = tick(admin);
    let block = Block { network, until: now.saturating_add(ttl_s.saturating_mul(TICKS)) };
    let order = BlockOrder { network, at_ms, until: block.until, is_block: true };
    let deed = || {
        admin.gate.blocks().put(network, block.until, now).map_err(|_| {
            Error::new(
                Reason::BlocksFull,
                format!(
                    "{BLOCKS_MAX} networks are blocked already; lift one, or block a network around them."
                ),
            )
        })
    };
    Ok((block, admin.block_orders.obey(order, now, deed)?.is_some()))
}

/// Has the shards close who is in and should not be.
async fn enforce(admin: &Admin) -> Result<(), Error> {
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
    Ok(())
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
    let at_ms = admin.block_orders.moment(network, unix_ms());
    let here = lift_here(admin, network, at_ms);
    let order = Order::Unblock(wire::Unblock { cidr: network.to_string(), at_ms });
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

/// Lifts a block on this node; `false` when there was none, or a later order says that there is.
fn lift_here(admin: &Admin, network: Network, at_ms: u64) -> bool {
    let now = tick(admin);
    let until = now.saturating_add(LIFT_KEPT_S * TICKS);
    let order = BlockOrder { network, at_ms, until, is_block: false };
    let deed = || Ok::<_, Infallible>(admin.gate.blocks().remove(network, now));
    let Ok(was_blocked) = admin.block_orders.obey(order, now, deed);
    let was_blocked = was_blocked.unwrap_or(false);
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
    let network = network(admin, &order.cidr)?;
    put_here(admin, network, order.ttl_s, said_at(admin, network, order.at_ms)).await.map(|_| ())
}

/// Lets one in again; whether it was blocked.
///
/// # Errors
/// `bad_network`.
pub(super) fn unblock(admin: &Admin, order: &wire::Unblock) -> Result<bool, Error> {
    let network = network(admin, &order.cidr)?;
    Ok(lift_here(admin, network, said_at(admin, network, order.at_ms)))
}

/// When an order was given; one that does not say so is given now.
fn said_at(admin: &Admin, network: Network, at_ms: u64) -> u64 {
    if at_ms > 0 { at_ms.min(AT_MS_MAX) } else { admin.block_orders.moment(network, unix_ms()) }
}

/// Takes over what another node knows of blocks.
///
/// # Errors
/// `bad_request`, `bad_network`, `blocks_full`; `busy` when who is in may stay. What stands before the mistake is done.
pub(super) async fn learn(admin: &Admin, blocks: &wire::Blocks) -> Result<(), Error> {
    if blocks.set.len() > BLOCKS_MAX || blocks.lifted.len() > LIFTS_MAX {
        let detail =
            format!("A node knows of at most {BLOCKS_MAX} blocks, and {LIFTS_MAX} that were lifted.");
        return Err(Error::new(Reason::BadRequest, detail));
    }
    let mut news = 0;
    let mut outcome = Ok(());
    for order in &blocks.set {
        let ttl_s = order.ttl_s.clamp(1, TTL_MAX_S);
        match network(admin, &order.cidr)
            .and_then(|network| set(admin, network, ttl_s, order.at_ms.min(AT_MS_MAX)))
        {
            Ok((_, is_new)) => news += u32::from(is_new),
            Err(mistake) => outcome = Err(mistake),
        }
    }
    for order in &blocks.lifted {
        let lifted =
            network(admin, &order.cidr).map(|network| lift_here(admin, network, order.at_ms.min(AT_MS_MAX)));
        outcome = outcome.and(lifted.map(|_| ()));
    }
    if news > 0 {
        tracing::info!(networks = news, "networks blocked, as another node knew");
        enforce(admin).await?;
    }
    outcome
}

/// Tells a node that has come what this one knows of blocks; it may have missed some. Goes on until it answers, a few times.
pub(crate) async fn tell(admin: &Admin, node: &NodeName) {
    for _ in 0..TELLINGS {
        let Some(blocks) = known(admin) else { return };
        match command::call(admin, node, Order::Blocks(blocks)).await {
            Ok(_) => return,
            Err(error) if error.reason == Reason::Gone => return,
            Err(error) => tracing::warn!(%node, reason = error.reason.label(), "could not tell it of blocks"),
        }
        tokio::time::sleep(TELL_AGAIN).await;
    }
}

/// What this node knows of blocks; `None` for nothing.
fn known(admin: &Admin) -> Option<wire::Blocks> {
    let now = tick(admin);
    let mut blocks = wire::Blocks::default();
    for BlockOrder { network, at_ms, until, is_block } in admin.block_orders.known(now) {
        let cidr = network.to_string();
        if is_block {
            let ttl_s = until.saturating_sub(now).div_ceil(TICKS);
            blocks.set.push(wire::Block { cidr, ttl_s, at_ms });
        } else {
            blocks.lifted.push(wire::Unblock { cidr, at_ms });
        }
    }
    (!blocks.set.is_empty() || !blocks.lifted.is_empty()).then_some(blocks)
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
