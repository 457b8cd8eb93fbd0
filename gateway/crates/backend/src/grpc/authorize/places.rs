//! Which servers of a backend may be asked now. Owns whose turn it is, and the pauses of those that failed; refuses to
//! know questions. The scout finds servers, connects and asks for their health; a connection that breaks later is made
//! again by the next call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::grpc::dial::{Calls, Server, resolve};
use crate::grpc::health;

/// Addresses that are called; what names stand for beyond that is left out.
const ADDRESSES_MAX: usize = 256;
/// Between two questions for the health of a server.
const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Without any address, names are resolved again after this.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// What the scout has seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// This one may be called.
    Up { address: SocketAddr, channel: Channel },
    /// No longer.
    Down { address: SocketAddr },
}

/// The servers that are up, in the order of their turns.
pub(super) struct Places {
    list: Vec<Place>,
    turn: usize,
    backoff: (Duration, Duration),
}

struct Place {
    address: SocketAddr,
    channel: Channel,
    failures: u32,
    /// It is left alone until then.
    rests: Option<Instant>,
}

impl Places {
    /// None yet. The first pause and the longest.
    pub(super) const fn new(backoff: (Duration, Duration)) -> Self {
        Self { list: Vec::new(), turn: 0, backoff }
    }

    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes news.
    pub(super) fn see(&mut self, seen: Seen) {
        let (Seen::Up { address, .. } | Seen::Down { address }) = seen;
        self.list.retain(|place| place.address != address);
        if let Seen::Up { address, channel } = seen {
            self.list.push(Place { address, channel, failures: 0, rests: None });
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<(SocketAddr, Channel)> {
        for _ in 0..self.list.len() {
            self.turn = (self.turn + 1) % self.list.len();
            let place = self.list.get(self.turn)?;
            if place.rests.is_none_or(|until| now >= until) {
                return Some((place.address, place.channel.clone()));
            }
        }
        None
    }

    /// When the first of those that rest has rested, if all do.
    pub(super) fn next_up(&self, now: Instant) -> Option<Instant> {
        let rests = self.list.iter().map(|place| place.rests.filter(|until| *until > now));
        rests.collect::<Option<Vec<Instant>>>()?.into_iter().min()
    }

    /// It could not be reached, or did not answer in time.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        let (min, max) = self.backoff;
        let Some(place) = self.list.iter_mut().find(|place| place.address == address) else { return };
        // Those that were under way together fail together, and count once.
        if place.rests.is_some_and(|until| now < until) {
            return;
        }
        let pause = min.saturating_mul(1 << place.failures.min(16)).min(max);
        place.failures += 1;
        place.rests = Some(now + pause);
    }

    /// It has answered.
    pub(super) fn answered(&mut self, address: SocketAddr) {
        if let Some(place) = self.list.iter_mut().find(|place| place.address == address) {
            (place.failures, place.rests) = (0, None);
        }
    }
}

/// Finds servers and tells which may be called, until nobody listens.
pub(super) async fn scout(calls: Arc<Calls>, seen: mpsc::Sender<Seen>) {
    let mut known: BTreeMap<(Server, SocketAddr), watch::Sender<()>> = BTreeMap::new();
    loop {
        let (mut found, mut unresolved) = (Vec::new(), Vec::new());
        for server in &calls.servers {
            match resolve(&calls, server).await {
                Ok(addresses) => found.extend(addresses.into_iter().map(|address| (server.clone(), address))),
                Err(_) => unresolved.push(server),
            }
        }
        found.truncate(ADDRESSES_MAX);
        // A name that cannot be resolved now stands for what it stood for before. Who is let go sees its sender go.
        known.retain(|whom, _| found.contains(whom) || unresolved.contains(&&whom.0));
        for (server, address) in found {
            known.entry((server.clone(), address)).or_insert_with(|| {
                let (keep, let_go) = watch::channel(());
                tokio::spawn(watch_over(Arc::clone(&calls), server, address, seen.clone(), let_go));
                keep
            });
        }
        let pause = if known.is_empty() { RESOLVE_AGAIN.min(calls.resolve) } else { calls.resolve };
        tokio::select! {
            () = seen.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Connects to one address, tells, and watches over its health until it is let go.
async fn watch_over(
    calls: Arc<Calls>,
    server: Server,
    address: SocketAddr,
    seen: mpsc::Sender<Seen>,
    mut let_go: watch::Receiver<()>,
) {
    let watches = async {
        let channel = reach(&calls, &server, address).await;
        let mut is_up = false;
        loop {
            let serves = !calls.health || health::serves(&calls, channel.clone()).await;
            if serves != is_up {
                is_up = serves;
                let channel = channel.clone();
                let news = if serves { Seen::Up { address, channel } } else { Seen::Down { address } };
                if seen.send(news).await.is_err() {
                    return;
                }
            }
            if calls.health {
                tokio::time::sleep(HEALTH_EVERY).await;
            } else {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = watches => return,
        () = seen.closed() => return,
        _ = let_go.changed() => {}
    }
    let _ = seen.send(Seen::Down { address }).await;
}

/// Tries until it is connected.
async fn reach(calls: &Calls, server: &Server, address: SocketAddr) -> Channel {
    let (mut pause, max) = calls.backoff;
    loop {
        if let Ok(channel) = calls.connect(server, address).await {
            return channel;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(max);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tonic::transport::Endpoint;

    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_millis(350);

    fn places(count: u16) -> Places {
        let mut places = Places::new((MIN, MAX));
        for port in 1..=count {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
            places.see(Seen::Up { address, channel });
        }
        places
    }

    fn ports(places: &mut Places, count: usize, now: Instant) -> Vec<u16> {
        let mut ports: Vec<u16> = (0..count).map(|_| places.next(now).unwrap().0.port()).collect();
        ports.sort_unstable();
        ports
    }

    #[tokio::test]
    async fn servers_are_asked_by_turns_and_those_that_failed_rest() {
        let now = Instant::now();
        let mut places = places(3);
        assert_eq!(ports(&mut places, 6, now), [1, 1, 2, 2, 3, 3]);
        places.failed(SocketAddr::from(([127, 0, 0, 1], 2)), now);
        assert_eq!(ports(&mut places, 4, now), [1, 1, 3, 3]);
        assert_eq!(places.next_up(now), None, "two do not rest");
        assert_eq!(ports(&mut places, 3, now + MIN), [1, 2, 3]);
        places.see(Seen::Down { address: SocketAddr::from(([127, 0, 0, 1], 1)) });
        assert_eq!(ports(&mut places, 2, now + MIN), [2, 3]);
    }

    #[tokio::test]
    async fn who_fails_again_rests_longer_until_it_answers() {
        let mut now = Instant::now();
        let mut places = places(1);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for pause in [MIN, MIN * 2, MAX, MAX] {
            places.failed(address, now);
            places.failed(address, now);
            assert!(places.next(now + pause - Duration::from_millis(1)).is_none());
            assert_eq!(places.next_up(now), Some(now + pause));
            now += pause;
            assert!(places.next(now).is_some());
        }
        places.answered(address);
        places.failed(address, now);
        assert_eq!(places.next_up(now), Some(now + MIN));
    }
}
