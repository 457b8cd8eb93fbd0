//! Owns the calls that keep a network out for a while, on all nodes: set and lift; and what nodes tell each other of that
//! when they meet. The list is the gate's; here it is named and bounded in time, and shards are told to end who is already
//! in. Which of two orders counts is [`BlockOrders`](super::BlockOrders)'s. It refuses to know records.

use std::convert::Infallible;
use std::time::Duration;

use backend::proto::command::{self as wire, Order};
use bridge::{Command, NodeName};
use shard::limit::{BLOCKS_MAX, Block, Network};

use super::block_orders::{BlockOrder, LIFTS_MAX, Obeyed};
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
/// An order may have been given so much later than it is here, in milliseconds: clocks differ. One from farther ahead would
/// count for as long, whatever is ordered meanwhile.
const AHEAD_MS_MAX: u64 = 86_400_000;
/// How often a node that has come is told of blocks until it answers, and how long it is left alone in between. Together
/// longer than a node may be away before it is lost: one that is lost is told when it comes.
const TELLINGS: u32 = 12;
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
    let (block, _) = put_here(admin, network, ttl_s, at_ms)?;
    let order = Order::Block(wire::Block { cidr: network.to_string(), ttl_s, at_ms });
    // A mailbox that is full here is no reason to let them in elsewhere.
    let (enforced, others) = tokio::join!(enforce(admin), call_all_others(admin, order));
    enforced?;
    Ok((block, silent(&others)))
}

/// Gives an order to all other nodes. Who did not obey is told again, when it answers: one that was away for too short a time
/// to be lost comes back unnoticed.
async fn call_all_others(admin: &Admin, order: Order) -> Vec<(NodeName, Result<Done, Error>)> {
    let others = call_others(admin, order).await;
    for (node, _) in others.iter().filter(|(_, answer)| answer.is_err()) {
        admin.nodes.missed(node);
    }
    others
}

/// Blocks a network on this node: nobody of it comes in any more, and who is in goes with [`enforce`]. An order that is not
/// the last one about the network changes nothing.
///
/// # Errors
/// `bad_request`, `blocks_full`.
fn put_here(admin: &Admin, network: Network, ttl_s: u32, at_ms: u64) -> Result<(Block, Obeyed<()>), Error> {
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(bad_ttl());
    }
    let (block, obeyed) = set(admin, network, ttl_s, at_ms)?;
    if obeyed == Obeyed::Done(()) {
        tracing::info!(%network, ttl_seconds = ttl_s, "network blocked");
    }
    Ok((block, obeyed))
}

/// Puts a block into the gate's list, unless a later order says otherwise.
fn set(admin: &Admin, network: Network, ttl_s: u32, at_ms: u64) -> Result<(Block, Obeyed<()>), Error> {
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
    Ok((block, admin.block_orders.obey(order, now, deed)?))
}

/// Has the shards close who is in and should not be, unless they were told since the last block: an order that is repeated
/// is no news, but who is in because of a full mailbox has to go all the same.
async fn enforce(admin: &Admin) -> Result<(), Error> {
    let Some(put) = admin.block_orders.unenforced() else { return Ok(()) };
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
    admin.block_orders.enforced(put);
    Ok(())
}

/// The time is no time for a block.
pub(crate) fn bad_ttl() -> Error {
    Error::new(Reason::BadRequest, format!("ttl is in seconds, from 1 to {TTL_MAX_S}; mend the query."))
}

/// Lifts a block on every node.
///
/// # Errors
/// `not_blocked` when no node had it; `node_silent` when a node did not answer, or knew of a later order, and may still
/// have it.
pub(crate) async fn lift(admin: &Admin, network: Network) -> Result<(), Error> {
    let at_ms = admin.block_orders.moment(network, unix_ms());
    let here = lift_here(admin, network, at_ms) == Obeyed::Done(true);
    let order = Order::Unblock(wire::Unblock { cidr: network.to_string(), at_ms });
    let others = call_all_others(admin, order).await;
    let there = others.iter().any(|(_, answer)| matches!(answer, Ok(Done::WasBlocked(true))));
    match silent(&others) {
        silent if !silent.is_empty() => Err(Error::new(
            Reason::NodeSilent,
            format!(
                "It is lifted on all nodes but {}, which did not answer or know of a later order; send it again.",
                silent.join(", ")
            ),
        )),
        _ if here || there => Ok(()),
        _ => Err(not_blocked()),
    }
}

/// Lifts a block on this node, unless a later order says otherwise; whether there was one.
fn lift_here(admin: &Admin, network: Network, at_ms: u64) -> Obeyed<bool> {
    let now = tick(admin);
    let until = now.saturating_add(LIFT_KEPT_S * TICKS);
    let order = BlockOrder { network, at_ms, until, is_block: false };
    let deed = || Ok::<_, Infallible>(admin.gate.blocks().remove(network, now));
    let Ok(obeyed) = admin.block_orders.obey(order, now, deed);
    if obeyed == Obeyed::Done(true) {
        tracing::info!(%network, "network no longer blocked");
    }
    obeyed
}

/// Blocks a network on this node, as somebody on the bus says.
///
/// # Errors
/// As [`put`], and `bad_network`; `bad_request` also for an order of tomorrow, and when a later one has lifted the block.
pub(super) async fn block(admin: &Admin, order: &wire::Block) -> Result<(), Error> {
    let network = network(admin, &order.cidr)?;
    let at_ms = said_at(admin, network, order.at_ms)?;
    match put_here(admin, network, order.ttl_s, at_ms)? {
        (_, Obeyed::Known { is_block: false }) => Err(overruled()),
        (_, Obeyed::Done(()) | Obeyed::Known { is_block: true }) => enforce(admin).await,
    }
}

/// Lets one in again; whether it was blocked.
///
/// # Errors
/// `bad_network`; `bad_request` for an order of tomorrow, and when a later one has blocked it.
pub(super) fn unblock(admin: &Admin, order: &wire::Unblock) -> Result<bool, Error> {
    let network = network(admin, &order.cidr)?;
    match lift_here(admin, network, said_at(admin, network, order.at_ms)?) {
        Obeyed::Done(was_blocked) => Ok(was_blocked),
        Obeyed::Known { is_block: false } => Ok(false),
        Obeyed::Known { is_block: true } => Err(overruled()),
    }
}

/// Nothing was done. Whoever asked has to know: it would say that it is done everywhere.
fn overruled() -> Error {
    Error::new(
        Reason::BadRequest,
        "A later order about this network is known here and says the opposite; send it again, and see whether \
         the clocks of the nodes agree.",
    )
}

/// When an order was given; one that does not say so is given now.
fn said_at(admin: &Admin, network: Network, at_ms: u64) -> Result<u64, Error> {
    if at_ms > 0 { in_time(at_ms) } else { Ok(admin.block_orders.moment(network, unix_ms())) }
}

/// The moment of an order, unless it is too far ahead.
fn in_time(at_ms: u64) -> Result<u64, Error> {
    if at_ms <= unix_ms().saturating_add(AHEAD_MS_MAX) {
        return Ok(at_ms);
    }
    Err(Error::new(
        Reason::BadRequest,
        "By the clock of this node the order is from more than a day ahead; set the clocks of the nodes.",
    ))
}

/// Takes over what another node knows of blocks.
///
/// # Errors
/// `bad_request`, `bad_network`, `blocks_full`; `busy` when who is in may stay. All but the mistakes is done.
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
        match in_time(order.at_ms).and_then(|at_ms| set(admin, network(admin, &order.cidr)?, ttl_s, at_ms)) {
            Ok((_, obeyed)) => news += u32::from(obeyed == Obeyed::Done(())),
            Err(mistake) => outcome = Err(mistake),
        }
    }
    for order in &blocks.lifted {
        let lifted =
            in_time(order.at_ms).and_then(|at_ms| Ok(lift_here(admin, network(admin, &order.cidr)?, at_ms)));
        outcome = outcome.and(lifted.map(|_| ()));
    }
    if news > 0 {
        tracing::info!(networks = news, "networks blocked, as another node knew");
    }
    enforce(admin).await?;
    outcome
}

/// Tells a node that has come what this one knows of blocks; it may have missed some. Goes on until it answers, a few times.
pub(crate) async fn tell(admin: &Admin, node: &NodeName) {
    for _ in 0..TELLINGS {
        let Some(blocks) = known(admin) else { return };
        match command::call(admin, node, Order::Blocks(blocks)).await {
            Ok(_) => return,
            Err(error) if error.reason == Reason::Gone => return,
            Err(error) => {
                tracing::warn!(%node, reason = error.reason.label(), "could not tell it of blocks");
                if matches!(error.reason, Reason::BadRequest | Reason::BadNetwork) {
                    // It took what it could read, and would say the same again.
                    return;
                }
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bridge::mailbox::mailbox;
    use bridge::{Inbox, Wake};

    use super::*;
    use crate::admin::tests::node_with_mailboxes;

    struct Asleep;

    impl Wake for Asleep {
        fn wake(&self) {}
    }

    /// A node with a shard that takes nothing from its mailbox.
    fn node(commands_max: usize) -> (Admin, Inbox) {
        let (mailbox, inbox) = mailbox(commands_max, 1 << 20, Arc::new(Asleep));
        (node_with_mailboxes(vec![mailbox]), inbox)
    }

    fn set_at(at_ms: u64) -> wire::Block {
        wire::Block { cidr: "10.1.0.0/16".to_owned(), ttl_s: 60, at_ms }
    }

    fn lift_at(at_ms: u64) -> wire::Unblock {
        wire::Unblock { cidr: "10.1.0.0/16".to_owned(), at_ms }
    }

    fn blocked(admin: &Admin) -> usize {
        admin.gate.blocks().list(tick(admin)).len()
    }

    #[tokio::test]
    async fn an_order_that_a_later_one_overrules_is_not_said_to_be_done() {
        let (admin, _inbox) = node(100);
        block(&admin, &set_at(20)).await.unwrap();
        assert_eq!(unblock(&admin, &lift_at(10)).unwrap_err().reason, Reason::BadRequest);
        assert_eq!(blocked(&admin), 1);
        block(&admin, &set_at(15)).await.unwrap();
        assert!(unblock(&admin, &lift_at(30)).unwrap());
        assert!(!unblock(&admin, &lift_at(25)).unwrap(), "it is let in");
        assert_eq!(block(&admin, &set_at(20)).await.unwrap_err().reason, Reason::BadRequest);
        assert_eq!(blocked(&admin), 0);
    }

    #[tokio::test]
    async fn what_a_full_mailbox_did_not_take_is_enforced_when_it_is_told_again() {
        let (admin, mut inbox) = node(1);
        admin.switchboard.mailboxes()[0].send(Command::EnforceBlocks).unwrap();
        let told = wire::Blocks { set: vec![set_at(20)], lifted: Vec::new() };
        assert_eq!(learn(&admin, &told).await.unwrap_err().reason, Reason::Busy);
        inbox.take().unwrap();
        learn(&admin, &told).await.unwrap();
        assert!(matches!(inbox.take(), Some(Command::EnforceBlocks)));
        learn(&admin, &told).await.unwrap();
        assert!(inbox.is_empty(), "once is enough");
    }

    #[tokio::test]
    async fn an_order_from_far_ahead_is_refused_and_others_beside_it_are_not() {
        let (admin, _inbox) = node(100);
        let ahead = unix_ms() + 2 * AHEAD_MS_MAX;
        assert_eq!(block(&admin, &set_at(ahead)).await.unwrap_err().reason, Reason::BadRequest);
        assert_eq!(unblock(&admin, &lift_at(ahead)).unwrap_err().reason, Reason::BadRequest);
        let near = wire::Block { cidr: "10.2.0.0/16".to_owned(), ..set_at(unix_ms() + AHEAD_MS_MAX / 2) };
        let told = wire::Blocks { set: vec![set_at(ahead), near], lifted: vec![lift_at(ahead)] };
        assert_eq!(learn(&admin, &told).await.unwrap_err().reason, Reason::BadRequest);
        assert_eq!(blocked(&admin), 1);
        assert!(unblock(&admin, &wire::Unblock { cidr: "10.2.0.0/16".to_owned(), at_ms: 0 }).unwrap());
    }
}
