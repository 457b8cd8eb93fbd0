//! Owns the numbers of upstreams: the bus first, where app servers can listen on one, then the backends in the order of
//! the configuration, which keeps it for as long as the program runs. Shards, the pump and the clients of backends all
//! ask here. Owns how much shards may hand out, too; refuses to know how anybody is reached.

use std::time::Duration;

use backend::joint::BUS;
use bridge::{Quota, Upstream};
use config::{Backend, BackendName, BusKind, Settings};
use shard::rules::Authorizer;

use crate::rules::ticks;

/// Fewest events that a shard may hand to one partition: with fewer, each would wait for the one before.
const EVENTS_MIN: u64 = 8;
/// Fewest payload bytes of those, for the same reason.
const BYTES_MIN: u64 = 16 << 10;

/// Whom a route tells its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom<'s> {
    /// Whoever listens on the bus.
    Bus,
    /// The backend of this name.
    Name(&'s BackendName),
}

/// Every upstream; its place is its number.
pub(crate) struct Upstreams<'s> {
    /// The one that app servers can listen on, if there is one.
    bus: Option<&'s config::Bus>,
    backends: Vec<&'s Backend>,
}

impl<'s> Upstreams<'s> {
    /// Those of these settings.
    pub(crate) fn of(settings: &'s Settings) -> Self {
        let bus = Some(&settings.bus).filter(|bus| bus.kind != BusKind::Embedded);
        Self { bus, backends: settings.backends.iter().collect() }
    }

    /// The number of an upstream.
    ///
    /// # Errors
    /// It is not there, which the configuration has refused already.
    pub(crate) fn number(&self, whom: Whom<'_>) -> Result<Upstream, String> {
        let place = match whom {
            Whom::Bus => self.bus.map(|_| usize::from(BUS.0)),
            Whom::Name(name) => {
                let place = self.backends.iter().position(|backend| backend.name == *name);
                place.map(|place| place + usize::from(self.bus.is_some()))
            }
        };
        let place = place.and_then(|place| u16::try_from(place).ok());
        place.map(Upstream).ok_or_else(|| format!("no upstream is {whom:?}"))
    }

    /// The authorizer that a backend is, and what it is shown.
    ///
    /// # Errors
    /// It is not there, which the configuration has refused already.
    pub(crate) fn authorizer(&self, name: &BackendName) -> Result<Authorizer, String> {
        let upstream = self.number(Whom::Name(name))?;
        let backend = self.backends.iter().find(|backend| backend.name == *name);
        let backend = backend.ok_or_else(|| format!("no upstream is {name}"))?;
        let headers = backend.authorize.headers.iter().map(|header| header.as_str().into()).collect();
        Ok(Authorizer { upstream, headers })
    }

    /// What each of so many shards may hand to each upstream.
    pub(crate) fn quotas(&self, shards: u16) -> Vec<Quota> {
        let bus = self.bus.map(|bus| bus_quota(bus, shards));
        bus.into_iter().chain(self.backends.iter().map(|backend| quota(backend, shards))).collect()
    }
}

/// The window of the bus, split evenly over the partitions and shards that feed it. Whoever has something to say waits for
/// as long as the bus is away: what else is done then is the route's `on_bus_loss`.
fn bus_quota(bus: &config::Bus, shards: u16) -> Quota {
    let lanes = u64::from(bus.partitions.get()) * u64::from(shards.max(1));
    let share = |window: u64, least: u64| u32::try_from((window / lanes).max(least)).unwrap_or(u32::MAX);
    let events = share(u64::from(bus.window.get()), EVENTS_MIN);
    Quota {
        partitions: u16::try_from(bus.partitions.get()).unwrap_or(bridge::inbound::PARTITIONS_MAX),
        events,
        bytes: share(bus.window_bytes.as_u64(), BYTES_MIN),
        connection_events: connection_events(bus.connection_window.get(), events),
        patience_ticks: u32::MAX,
    }
}

/// What one connection may have under way of its lane's share: half of it at most. One whose handler is slow fills its own
/// window, and would fill the lane with it, in which others wait then.
fn connection_events(window: u32, lane: u32) -> u16 {
    u16::try_from(window.min(lane / 2).max(1)).unwrap_or(u16::MAX)
}

/// The windows of all streams, split evenly over the partitions and shards that feed them.
fn quota(backend: &Backend, shards: u16) -> Quota {
    let streams = u64::from(backend.streams.get()) * backend.endpoints.len() as u64;
    let lanes = u64::from(backend.partitions.get()) * u64::from(shards.max(1));
    let share = |window: u64, least: u64| {
        let share = (window.saturating_mul(streams) / lanes).max(least);
        u32::try_from(share).unwrap_or(u32::MAX)
    };
    let events = share(u64::from(backend.window.get()), EVENTS_MIN);
    Quota {
        partitions: u16::try_from(backend.partitions.get()).unwrap_or(bridge::inbound::PARTITIONS_MAX),
        events,
        bytes: share(backend.window_bytes.as_u64(), BYTES_MIN),
        connection_events: connection_events(backend.connection_window.get(), events),
        patience_ticks: ticks(backend.patience.max(Duration::from_millis(1))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn quotas(text: &str, shards: u16) -> Vec<Quota> {
        let text = format!("[[backend]]\nname = 'a'\nendpoints = ['http://a:1', 'http://b:1']\n{text}");
        Upstreams::of(&config::load(&text, []).unwrap()).quotas(shards)
    }

    #[test]
    fn the_windows_of_all_streams_are_shared_by_all_lanes() {
        let quotas = quotas("window = 4096\nstreams = 2\npartitions = 16\npatience = '30s'", 4);
        let quota = Quota {
            partitions: 16,
            events: 4096 * 4 / 64,
            bytes: (16 << 20) * 4 / 64,
            connection_events: 32,
            patience_ticks: 300,
        };
        assert_eq!(quotas, [quota]);
    }

    #[test]
    fn the_bus_is_number_zero_where_there_is_one() {
        let backend = "[[backend]]\nname = 'a'\nendpoints = ['http://a:1']\n";
        let (alone, beside) = (backend.to_owned(), format!("[bus]\nkind = 'nats'\nwindow = 6400\n{backend}"));
        let number = |text: &str, whom| {
            let settings = config::load(text, []).unwrap();
            Upstreams::of(&settings).number(whom).ok().map(|upstream| upstream.0)
        };
        let name = BackendName::parse("a").unwrap();
        assert_eq!((number(&alone, Whom::Bus), number(&alone, Whom::Name(&name))), (None, Some(0)));
        assert_eq!((number(&beside, Whom::Bus), number(&beside, Whom::Name(&name))), (Some(0), Some(1)));
        let settings = config::load(&beside, []).unwrap();
        let quotas = Upstreams::of(&settings).quotas(4);
        assert_eq!((quotas.len(), quotas[0].partitions, quotas[0].events), (2, 16, 100));
    }

    #[test]
    fn a_share_is_never_so_small_that_one_waits_for_the_other() {
        let quotas =
            quotas("window = 1\nwindow_bytes = '64KiB'\nconnection_window = 1\npartitions = 1024", 64);
        assert_eq!((u64::from(quotas[0].events), u64::from(quotas[0].bytes)), (EVENTS_MIN, BYTES_MIN));
        let told = config::reference();
        for least in
            [format!("at least {EVENTS_MIN} for each partition"), format!("at least {} KiB", BYTES_MIN >> 10)]
        {
            assert_eq!(told.matches(&least).count(), 2, "the bus and backends say: {least}");
        }
    }

    #[test]
    fn one_connection_never_takes_the_whole_share_of_its_lane() {
        for shards in [1, 2, 4, 16, 64] {
            let quota = quotas("window = 2048", shards)[0];
            assert!(u32::from(quota.connection_events) <= quota.events / 2, "{shards}: {quota:?}");
        }
    }

    #[test]
    fn partitions_of_the_configuration_are_those_of_shards() {
        let quotas = quotas("partitions = 1024", 1);
        assert_eq!(quotas[0].partitions, bridge::inbound::PARTITIONS_MAX);
    }
}
