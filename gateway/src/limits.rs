//! From the configuration to the limits that shards obey: rates, classes of peers, and the networks that have them.
//! Owns the translation; what is allowed was checked when the configuration was read. Called by `rules`.

use std::num::NonZeroU32;

use config::{LimitAction, NetworkRule, RefuseBy, Settings};
use shard::limit::rules::{Action, ConnectionLimit, LimitRules, PeerLimits, PeerRules, Refuse};
use shard::limit::{Network, Networks, Rate};

/// The limits of these settings.
///
/// # Errors
/// A network that is none of peers, named.
pub(crate) fn limits(settings: &Settings) -> Result<LimitRules, String> {
    let own = &settings.connection_limits;
    let connection = own.messages_per_second.map(|messages| ConnectionLimit {
        messages: Rate::new(messages.get(), own.messages_burst.get()),
        action: action(own.action),
        dry_run: own.dry_run,
    });
    Ok(LimitRules::new(connection, peers(settings)?))
}

fn peers(settings: &Settings) -> Result<PeerRules, String> {
    let limits = &settings.peer_limits;
    let mut classes = vec![class(limits, |number| number)];
    let mut networks = Vec::with_capacity(settings.networks.len());
    for entry in &settings.networks {
        let network = network(entry.cidr).ok_or_else(|| format!("{} is within one peer", entry.cidr))?;
        networks.push((network, classes.len() as u8));
        classes.push(match entry.rule {
            NetworkRule::Factor(factor) => class(limits, |number| factor.of(number)),
            NetworkRule::Exempt => PeerLimits::default(),
            NetworkRule::Block => PeerLimits { is_blocked: true, ..PeerLimits::default() },
        });
    }
    Ok(PeerRules {
        classes,
        networks: Networks::new(&networks),
        refuse: match limits.refuse {
            RefuseBy::Answer => Refuse::Answer,
            RefuseBy::Close => Refuse::Close,
        },
        action: action(limits.action),
        dry_run: limits.dry_run,
    })
}

fn class(limits: &config::PeerLimits, times: impl Fn(u32) -> u32) -> PeerLimits {
    let rate = |rate: Option<NonZeroU32>, burst: NonZeroU32| {
        rate.map(|rate| Rate::new(times(rate.get()), times(burst.get())))
    };
    let number =
        |bytes: config::units::Bytes| NonZeroU32::new(u32::try_from(bytes.as_u64()).unwrap_or(u32::MAX));
    PeerLimits {
        connections: limits.connections.map(|most| times(most.get())),
        connects: rate(limits.connects_per_second, limits.connects_burst),
        messages: rate(limits.messages_per_second, limits.messages_burst),
        bytes: limits
            .bytes_per_second
            .and_then(|bytes| rate(number(bytes), number(limits.bytes_burst).unwrap_or(NonZeroU32::MAX))),
        is_blocked: false,
    }
}

/// The peers of a network.
pub(crate) fn network(cidr: config::Network) -> Option<Network> {
    Network::new(cidr.address(), cidr.prefix())
}

const fn action(action: LimitAction) -> Action {
    match action {
        LimitAction::Pause => Action::Pause,
        LimitAction::Drop => Action::Drop,
        LimitAction::Close => Action::Close,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shard::limit::PeerKey;

    use super::*;

    fn load(text: &str) -> LimitRules {
        limits(&config::load(text, []).unwrap()).unwrap()
    }

    fn peer(address: &str) -> PeerKey {
        PeerKey::new(address.parse().unwrap(), 64)
    }

    #[test]
    fn by_default_connections_are_limited_and_peers_only_counted() {
        let rules = load("");
        assert!(rules.connection().is_some_and(|limit| !limit.dry_run && limit.action == Action::Pause));
        assert!(rules.peers().dry_run);
        let loopback = rules.peers().limits_of(peer("127.0.0.1"));
        assert_eq!((loopback.connections, loopback.messages), (Some(1000), None));
        assert!(load("[limits.connection]\nmessages_per_second = 'off'").connection().is_none());
    }

    #[test]
    fn networks_have_a_factor_an_exemption_or_a_block() {
        let rules = load(
            "[limits.peer]\nconnections = 10\nmessages_per_second = 100\nmessages_burst = 50
             [[limits.network]]\ncidr = '10.0.0.0/8'\nfactor = 10
             [[limits.network]]\ncidr = '10.9.0.0/16'\nexempt = true
             [[limits.network]]\ncidr = '10.9.9.0/24'\nblock = true",
        );
        let of = |address| *rules.peers().limits_of(peer(address));
        assert_eq!(of("9.0.0.1").connections, Some(10));
        assert_eq!(of("10.0.0.1").connections, Some(100));
        assert_eq!(of("10.0.0.1").messages, Some(Rate::new(1000, 500)));
        assert_eq!(of("10.9.0.1"), PeerLimits::default());
        assert!(of("10.9.9.1").is_blocked);
    }
}
