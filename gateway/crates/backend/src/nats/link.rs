//! The connection to NATS and whether it stands. The client library connects again and subscribes again by itself; this
//! watches it, tells shards, and tells every task when it was lost, so that none waits for an answer that cannot come.
//!
//! A server that does not let us in when we start is a mistake, and the program ends. Later it is told once, with what to do
//! about it, and tried again more rarely than one that is only gone: each attempt costs both sides a handshake.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{AuthError, Client, ConnectErrorKind, ConnectOptions, Event, Server, ServerError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Options;
use crate::bus_stats::BusStats;
use crate::lines::Lines;
use crate::presence::{DEAF_AFTER, LOST_AFTER};
use crate::trouble::{Keys, Trouble};

/// How often it is looked at beside what the library tells, because that may be lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so much silence the server is asked for a word. The library gives a link up when it would have to ask for the third
/// time without an answer: before anybody takes the others for lost, whom it cannot hear.
const PING_EVERY: Duration = Duration::from_secs(2);
const GIVEN_UP_AFTER: Duration = PING_EVERY.saturating_mul(3);
const _: () = assert!(GIVEN_UP_AFTER.as_millis() < LOST_AFTER.as_millis());
/// How long a start waits for a server.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Messages of one subscription that may wait for its task, which waits for nobody; what comes faster than it runs is dropped,
/// counted as overrun. The library reads up to eight megabytes before it lets anybody else run, many thousand messages where
/// they are small: so a burst needs as much room here as in `arrivals`, and in bytes it is bounded by that reading.
const SUBSCRIPTION_MESSAGES_MAX: usize = crate::arrivals::MESSAGES_MAX;
/// Commands that may wait for the socket.
const CLIENT_COMMANDS_MAX: usize = 2048;
/// The pause between two attempts is this, doubled with each attempt up to so often: 320 ms at last, and 5 s where a server
/// answers and does not let us in.
const RETRY_MS: u64 = 20;
const DOUBLED_MAX: usize = 4;
const DOUBLED_WHEN_REFUSED_MAX: usize = 8;

/// The keys that mend what keeps us out.
const KEYS: Keys = Keys {
    section: "bus.nats",
    server: "servers",
    scheme: "tls://",
    login: "bus.nats.credentials_file, token_file or user_file",
};

/// How it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// It carries messages.
    pub(super) is_up: bool,
    /// How often it was lost. One that was lost and is back before anybody looked is a loss, too.
    pub(super) losses: u64,
    /// Bytes of headers and payload that the server takes in a message; `None` before one has said so.
    pub(super) message_bytes_max: Option<usize>,
    /// When the server was last heard before the last loss, or we began to call it, in milliseconds since 1970. What came
    /// later reached nobody, though it was noticed later still.
    pub(super) heard_until_ms: u64,
}

/// A clone is another handle of the same.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    standing: watch::Receiver<Standing>,
    heard: Arc<Heard>,
}

struct Heard {
    news: Notify,
    /// What the last attempts came to.
    trouble: Mutex<Option<Trouble>>,
    /// The server's complaints.
    complaints: Mutex<Lines>,
    /// When the server was last heard, as far as has been looked.
    last_word: Mutex<Option<Instant>>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            news: Notify::new(),
            trouble: Mutex::default(),
            complaints: Mutex::new(Lines::new(1)),
            last_word: Mutex::default(),
        }
    }
}

impl Heard {
    fn last_word(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server complains: of a right that we lack, for each message that it takes. Tells of one in a while.
    fn complains(&self, error: &ServerError) {
        let next = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        if let Some(left_out) = next {
            tracing::warn!(%error, left_out, "the NATS server complains");
        }
    }

    /// Looks at how the last attempts ended; comes before each. What is worse than silence is told when it begins.
    fn look_at(&self, servers: &[Server]) {
        let failed = servers.iter().filter_map(|server| Some((server, server.last_error.as_deref()?)));
        let worst = failed.max_by_key(|(_, problem)| Trouble::of(problem) as u8);
        let trouble = worst.map(|(_, problem)| Trouble::of(problem));
        let before =
            std::mem::replace(&mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble);
        if let Some((server, problem)) = worst
            && trouble != before
            && trouble != Some(Trouble::Unreachable)
        {
            let advice = KEYS.advice(problem);
            tracing::error!(%server, problem, advice, "a NATS server does not let us in; it is tried again");
        }
    }
}

impl Link {
    /// Connects. A server that is not there is waited for in the background; one that does not let us in is a mistake.
    /// `wall_ms` tells milliseconds since 1970.
    pub(super) async fn connect(
        options: &Options,
        stats: &Arc<BusStats>,
        wall_ms: fn() -> u64,
    ) -> Result<(Self, Watcher), String> {
        let began_ms = wall_ms();
        let heard = Arc::<Heard>::default();
        let servers: Vec<String> = options.servers.clone();
        let named = servers.join(", ");
        let first = connect_options(options, stats, &heard)?;
        let connected = tokio::time::timeout(CONNECT_WITHIN, first.connect(&servers[..])).await;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if is_a_mistake(error.kind(), &error.to_string()) => {
                let problem = error.to_string();
                return Err(format!(
                    "bus.nats: {named} does not let us in: {problem}; {}",
                    KEYS.advice(&problem)
                ));
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(servers = %named, "no NATS server answers; the bus is away until one does");
                let patient = connect_options(options, stats, &heard)?.retry_on_initial_connect();
                let connecting = patient.connect(&servers[..]);
                connecting.await.map_err(|error| format!("bus.nats: {named}: {error}"))?
            }
        };
        let is_up = client.connection_state() == State::Connected;
        let (standing, watched) = watch::channel(Standing {
            is_up,
            losses: 0,
            message_bytes_max: is_up.then(|| client.max_payload()),
            heard_until_ms: began_ms,
        });
        let link = Self { client: client.clone(), standing: watched, heard: Arc::clone(&heard) };
        Ok((link, Watcher { client, heard, standing, wall_ms }))
    }

    /// Why it does not stand, if so.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        (!self.standing().is_up).then(|| self.heard.trouble().unwrap_or(Trouble::Unreachable))
    }

    /// Whether nobody can have been heard lately: it does not stand, or the server says nothing though it has been asked.
    pub(super) fn is_deaf(&self) -> bool {
        let last_word = *self.heard.last_word();
        !self.standing().is_up || last_word.is_some_and(|last_word| last_word.elapsed() > DEAF_AFTER)
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits until it carries messages. `false` when the program ends.
    pub(super) async fn up(&self) -> bool {
        self.standing.clone().wait_for(|standing| standing.is_up).await.is_ok()
    }

    /// Waits until it has been lost more often than so.
    pub(super) async fn lost_since(&self, losses: u64) {
        lost_since(self.standing.clone(), losses).await;
    }

    /// Does something, unless the bus is away or is lost meanwhile: the library takes only so much for a server that is not
    /// there, and whoever hands it more waits for as long as that takes.
    pub(super) async fn unless_lost<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        unless_lost(self.standing.clone(), work).await
    }

    /// How it stands, for whoever waits for every change.
    pub(super) fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

async fn lost_since(mut standing: watch::Receiver<Standing>, losses: u64) {
    let _ = standing.wait_for(|standing| !standing.is_up || standing.losses > losses).await;
}

async fn unless_lost<T>(standing: watch::Receiver<Standing>, work: impl Future<Output = T>) -> Option<T> {
    let Standing { is_up, losses, .. } = *standing.borrow();
    if !is_up {
        return None;
    }
    tokio::select! {
        done = work => Some(done),
        () = lost_since(standing, losses) => None,
    }
}

/// Looks after the link.
pub(super) struct Watcher {
    client: Client,
    heard: Arc<Heard>,
    standing: watch::Sender<Standing>,
    wall_ms: fn() -> u64,
}

impl Watcher {
    /// Runs for as long as the program does. `told` is called at every change.
    pub(super) async fn run(self, mut told: impl FnMut(Standing)) {
        let mut known = *self.standing.borrow();
        let statistics = self.client.statistics();
        let (mut heard_bytes, mut heard_ms, mut looked_ms) = (0, (self.wall_ms)(), (self.wall_ms)());
        told(known);
        loop {
            // Only wakes sooner than the look that comes anyhow.
            let _ = tokio::time::timeout(LOOK_EVERY, self.heard.news.notified()).await;
            let connects = statistics.connects.load(Ordering::Relaxed);
            let is_up = self.client.connection_state() == State::Connected;
            let losses = losses(known, is_up, connects);
            let heard_until_ms = if losses > known.losses { heard_ms } else { known.heard_until_ms };
            let in_bytes = statistics.in_bytes.load(Ordering::Relaxed);
            if in_bytes != heard_bytes {
                // When it said that is known from look to look only: the earlier end is the safe one.
                (heard_bytes, heard_ms) = (in_bytes, looked_ms);
                *self.heard.last_word() = Some(Instant::now());
            }
            looked_ms = (self.wall_ms)();
            // Another server may take less.
            let message_bytes_max =
                if is_up { Some(self.client.max_payload()) } else { known.message_bytes_max };
            let now = Standing { is_up, losses, message_bytes_max, heard_until_ms };
            if now != known {
                known = now;
                self.standing.send_replace(now);
                told(now);
            }
        }
    }
}

/// How often it was lost, by how it stands and how often it was connected: whatever the library tells besides may be lost,
/// and a link that was lost can be back before anybody looks.
fn losses(known: Standing, is_up: bool, connects: u64) -> u64 {
    let seen = known.losses + u64::from(known.is_up && !is_up);
    if is_up { seen.max(connects.saturating_sub(1)) } else { seen }
}

fn is_a_mistake(kind: ConnectErrorKind, problem: &str) -> bool {
    kind == ConnectErrorKind::ServerParse || Trouble::of(problem) != Trouble::Unreachable
}

fn connect_options(
    options: &Options,
    stats: &Arc<BusStats>,
    heard: &Arc<Heard>,
) -> Result<ConnectOptions, String> {
    let login = options.login.clone();
    // What is wrong with a file now is a mistake; later it is a login that fails.
    login.answer(&[])?;
    let (stats, heard) = (Arc::clone(stats), Arc::clone(heard));
    let (looks, waits) = (Arc::clone(&heard), Arc::clone(&heard));
    let answer = move |nonce: Vec<u8>| std::future::ready(login.answer(&nonce).map_err(AuthError::new));
    let mut with = ConnectOptions::with_auth_callback(answer)
        .name(format!("gateway {}", options.client_name))
        // What we publish reaches our own subscribers without the bus.
        .no_echo()
        .skip_subject_validation(true)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .client_capacity(CLIENT_COMMANDS_MAX)
        .ping_interval(PING_EVERY)
        // Chooses none: it is where the library shows how the last attempts ended.
        .reconnect_to_server_callback(move |servers, _| {
            looks.look_at(&servers);
            std::future::ready(None)
        })
        .reconnect_delay_callback(move |attempt| {
            let is_refused = waits.trouble().is_some_and(|trouble| trouble != Trouble::Unreachable);
            let most = if is_refused { DOUBLED_WHEN_REFUSED_MAX } else { DOUBLED_MAX };
            Duration::from_millis(RETRY_MS << attempt.min(most))
        })
        .event_callback(move |event| {
            match event {
                Event::Disconnected | Event::Connected => heard.news.notify_one(),
                // Nothing else is one before the connection stands.
                Event::ClientError(_) => stats.connects_failed.add(1),
                Event::SlowConsumer(_) => stats.overrun.add(1),
                Event::ServerError(error) => heard.complains(&error),
                _ => {}
            }
            std::future::ready(())
        });
    if let Some(file) = &options.ca_file {
        with = with.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &options.certificate {
        with = with.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(with)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn a_loss_that_nobody_saw_is_known_by_the_connections_that_were_made_and_each_counts_once() {
        let standing = |is_up, losses| Standing { is_up, losses, ..Standing::default() };
        assert_eq!(losses(standing(false, 0), false, 0), 0, "never there");
        assert_eq!(losses(standing(false, 0), true, 1), 0, "there for the first time");
        assert_eq!(losses(standing(true, 0), true, 2), 1, "lost and back before the look");
        assert_eq!(losses(standing(true, 0), false, 1), 1, "seen");
        assert_eq!(losses(standing(false, 1), false, 2), 1, "being connected, which is not told yet");
        assert_eq!(losses(standing(false, 1), true, 2), 1, "seen before");
        assert_eq!(losses(standing(false, 1), true, 3), 2, "one seen, one not");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_bus_that_is_away_or_lost_meanwhile() {
        let up = Standing { is_up: true, ..Standing::default() };
        let (says, standing) = watch::channel(up);
        assert_eq!(unless_lost(standing.clone(), ready(1)).await, Some(1));
        let lose = async { says.send_replace(Standing { losses: 1, ..up }) };
        let (waited, _) = tokio::join!(unless_lost(standing.clone(), pending::<()>()), lose);
        assert_eq!(waited, None, "it was lost, and is back");
        assert_eq!(unless_lost(standing.clone(), ready(2)).await, Some(2), "an old loss is none");
        says.send_replace(Standing { is_up: false, losses: 2, ..up });
        assert_eq!(unless_lost(standing, ready(3)).await, None);
    }
}
