//! Owns `[limits.connection]` and `[limits.peer]`: how fast clients may go on, and what happens beyond.
//! Refuses rates that their bursts cannot keep up with. Read by the program, which makes rules of them.

use std::num::NonZeroU32;

use crate::forms::{AutoOr, Count, Flag, Number, OneOf, OrOff, Size, quoted};
use crate::reader::Reader;
use crate::schema::section;
use crate::sections::{Limits, Settings, count};
use crate::units::Bytes;

/// What happens to messages that are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// The connection is not read for a while.
    Pause,
    /// They are read and forgotten.
    Drop,
    /// The connection is closed with 1008.
    Close,
}

const ACTIONS: OneOf<LimitAction> =
    OneOf(&[("pause", LimitAction::Pause), ("drop", LimitAction::Drop), ("close", LimitAction::Close)]);

/// How connections that are too many are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseBy {
    /// 429 with `Retry-After`.
    Answer,
    /// The upgrade, and then 1008.
    Close,
}

const REFUSALS: OneOf<RefuseBy> = OneOf(&[("answer", RefuseBy::Answer), ("close", RefuseBy::Close)]);

/// A rate or a burst of messages or connections.
const PER_SECOND: Count = Count { min: 1, max: 100_000_000 };
/// A rate or a burst of bytes.
const BYTES_PER_SECOND: Size = Size { min: Bytes::kib(1), max: Bytes::gib(1) };

section! {
    /// `[limits.node]`
    NodeLimits ["limits.node"]
    /// Resident memory beyond which nobody new comes in. `None`: any amount.
    memory: Option<Bytes> = None, OrOff(Size { min: Bytes::mib(1), max: Bytes::gib(1024) });
    /// Only count what would happen.
    dry_run: bool = false, Flag;
}

section! {
    /// `[limits.connection]`
    ConnectionLimits ["limits.connection"]
    /// Messages, and pings, that one connection may send in a second. `None`: any number.
    messages_per_second: Option<NonZeroU32> = Some(count(5000)), OrOff(PER_SECOND);
    /// Of these, how many at once.
    messages_burst: NonZeroU32 = count(10_000), PER_SECOND;
    /// What happens to more.
    action: LimitAction = LimitAction::Pause, ACTIONS;
    /// Only count what would happen.
    dry_run: bool = false, Flag;
}

section! {
    /// `[limits.peer]`
    PeerLimits ["limits.peer"]
    /// Connections of one peer. `None`: any number.
    connections: Option<NonZeroU32> = Some(count(1000)), OrOff(PER_SECOND);
    /// New connections of one peer in a second.
    connects_per_second: Option<NonZeroU32> = Some(count(100)), OrOff(PER_SECOND);
    /// Of these, how many at once.
    connects_burst: NonZeroU32 = count(1000), PER_SECOND;
    /// Messages of all connections of one peer in a second.
    messages_per_second: Option<NonZeroU32> = None, OrOff(PER_SECOND);
    /// Of these, how many at once.
    messages_burst: NonZeroU32 = count(10_000), PER_SECOND;
    /// Bytes of all connections of one peer in a second.
    bytes_per_second: Option<Bytes> = None, OrOff(BYTES_PER_SECOND);
    /// Of these, how many at once.
    bytes_burst: Bytes = Bytes::mib(4), BYTES_PER_SECOND;
    /// How connections that are too many are refused.
    refuse: RefuseBy = RefuseBy::Answer, REFUSALS;
    /// What happens to messages and bytes that are too many.
    action: LimitAction = LimitAction::Pause, ACTIONS;
    /// Only count what would happen.
    dry_run: bool = true, Flag;
    /// Peers without a connection that are remembered, so that coming back does not reset a rate.
    recent: u32 = 65_536, Number { min: 0, max: 100_000_000 };
    /// Leading bits of an IPv6 address that are one peer.
    ipv6_prefix: NonZeroU32 = count(64), Count { min: 16, max: 64 };
}

/// Notes contradictions between keys of these sections, and with the tables.
pub(crate) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    rates_have_their_bursts(settings, reader);
    a_message_fits_the_burst(settings, reader);
    a_peer_fits_the_node(settings, reader);
    a_part_fits_its_whole(settings, reader);
    networks_are_of_peers(settings, reader);
}

/// A paused connection goes on at a tick, ten times a second: with less than that of its rate it never reaches it.
fn rates_have_their_bursts(settings: &Settings, reader: &mut Reader<'_>) {
    let (one, peer) = (&settings.connection_limits, &settings.peer_limits);
    let number = |rate: Option<NonZeroU32>| rate.map(|rate| u64::from(rate.get()));
    for (section, what, rate, burst) in [
        ("limits.connection", "messages", number(one.messages_per_second), one.messages_burst.get().into()),
        ("limits.peer", "connects", number(peer.connects_per_second), peer.connects_burst.get().into()),
        ("limits.peer", "messages", number(peer.messages_per_second), peer.messages_burst.get().into()),
        ("limits.peer", "bytes", peer.bytes_per_second.map(Bytes::as_u64), peer.bytes_burst.as_u64()),
    ] {
        let Some(rate) = rate.filter(|rate| burst * 10 < *rate) else { continue };
        let (key, of) = (format!("{section}.{what}_burst"), format!("{section}.{what}_per_second"));
        let expected =
            format!("at least a tenth of {of}, which is {rate}: limits are looked at every 100 ms");
        reader.contradiction(&[&key, &of], &key, burst.to_string(), expected);
    }
}

fn a_message_fits_the_burst(settings: &Settings, reader: &mut Reader<'_>) {
    let limits = &settings.peer_limits;
    let longest = settings.routes.iter().map(|route| route.message_bytes).max();
    let (Some(longest), Some(_)) = (longest, limits.bytes_per_second) else { return };
    if limits.action != LimitAction::Pause && limits.bytes_burst < longest {
        reader.contradiction(
            &["limits.peer.bytes_burst", "websocket.message_bytes", "limits.peer.action"],
            "limits.peer.bytes_burst",
            quoted(&limits.bytes_burst.to_string()),
            format!(
                "at least the longest message a route takes, \"{longest}\", which else never gets through"
            ),
        );
    }
}

fn a_peer_fits_the_node(settings: &Settings, reader: &mut Reader<'_>) {
    let AutoOr::Set(all) = settings.limits.connections else { return };
    if let Some(one) = settings.peer_limits.connections.filter(|one| *one > all)
        && one != PeerLimits::default().connections.unwrap_or(one)
    {
        reader.contradiction(
            &["limits.peer.connections", "limits.connections"],
            "limits.peer.connections",
            one.to_string(),
            format!("at most limits.connections, which is {all}, or \"off\""),
        );
    }
}

/// A bound that another one meets first would never be met. A default is no mistake of whoever set the other.
fn a_part_fits_its_whole(settings: &Settings, reader: &mut Reader<'_>) {
    let (limits, defaults) = (&settings.limits, Limits::default());
    let all = match limits.connections {
        AutoOr::Set(all) => all.get(),
        AutoOr::Auto => u32::MAX,
    };
    let (channels, own) = (limits.channels.get(), "limits.subscriptions_per_connection");
    for (key, part, default, whole_key, whole) in [
        ("limits.handshakes", limits.handshakes, defaults.handshakes, "limits.connections", all),
        (
            own,
            limits.subscriptions_per_connection,
            defaults.subscriptions_per_connection,
            "limits.channels",
            channels,
        ),
    ] {
        if part.get() > whole && part != default {
            let expected = format!("at most {whole_key}, which is {whole}");
            reader.contradiction(&[key, whole_key], key, part.to_string(), expected);
        }
    }
}

/// Bits that tell clients of one peer apart cannot tell networks apart.
fn networks_are_of_peers(settings: &Settings, reader: &mut Reader<'_>) {
    let most = settings.peer_limits.ipv6_prefix.get();
    for (position, network) in settings.networks.iter().enumerate() {
        if network.cidr.address().is_ipv6() && u32::from(network.cidr.prefix()) > most {
            let key = format!("limits.network[{position}].cidr");
            reader.contradiction(
                &[&key, "limits.peer.ipv6_prefix"],
                &key,
                quoted(&network.cidr.to_string()),
                format!(
                    "a prefix of at most limits.peer.ipv6_prefix, which is {most}: longer ones are one peer"
                ),
            );
        }
    }
}
