//! The connection to NATS and whether it stands. The client library connects again and subscribes again by itself; this
//! watches it, tells shards, and tells every task when it was lost, so that none waits for an answer that cannot come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::{Notify, watch};

use super::Options;
use crate::bus_stats::BusStats;

/// How often it is looked at beside what the library tells, because that may be lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a start waits for a server.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Messages of one subscription that may wait for its task. A slower task loses what comes, counted as overrun.
const SUBSCRIPTION_MESSAGES_MAX: usize = 16_384;
/// Commands that may wait for the socket.
const CLIENT_COMMANDS_MAX: usize = 2048;

/// How it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// It carries messages.
    pub(super) is_up: bool,
    /// How often it was lost. One that was lost and is back before anybody looked is a loss, too.
    pub(super) losses: u64,
}

/// A clone is another handle of the same.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    standing: watch::Receiver<Standing>,
}

#[derive(Default)]
struct Heard {
    losses: AtomicU64,
    news: Notify,
}

impl Link {
    /// Connects. A server that is not there is waited for in the background; one that does not let us in is a mistake.
    pub(super) async fn connect(options: &Options, stats: &Arc<BusStats>) -> Result<(Self, Watcher), String> {
        let heard = Arc::<Heard>::default();
        let servers: Vec<String> = options.servers.clone();
        let named = servers.join(", ");
        let first = connect_options(options, stats, &heard).await?;
        let connected = tokio::time::timeout(CONNECT_WITHIN, first.connect(&servers[..])).await;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if is_a_mistake(error.kind()) => {
                return Err(format!("bus.nats: {named} does not let us in: {error}"));
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(servers = %named, "no NATS server answers; the bus is away until one does");
                let patient = connect_options(options, stats, &heard).await?.retry_on_initial_connect();
                let connecting = patient.connect(&servers[..]);
                connecting.await.map_err(|error| format!("bus.nats: {named}: {error}"))?
            }
        };
        let is_up = client.connection_state() == State::Connected;
        let (standing, watched) = watch::channel(Standing { is_up, losses: 0 });
        Ok((Self { client: client.clone(), standing: watched }, Watcher { client, heard, standing }))
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
        let lost = |standing: &Standing| !standing.is_up || standing.losses > losses;
        let _ = self.standing.clone().wait_for(lost).await;
    }

    /// The same for whoever waits for every change.
    pub(super) fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

/// Looks after the link.
pub(super) struct Watcher {
    client: Client,
    heard: Arc<Heard>,
    standing: watch::Sender<Standing>,
}

impl Watcher {
    /// Runs for as long as the program does. `told` is called at every change.
    pub(super) async fn run(self, mut told: impl FnMut(Standing)) {
        let mut known = *self.standing.borrow();
        told(known);
        loop {
            // Only wakes sooner than the look that comes anyhow.
            let _ = tokio::time::timeout(LOOK_EVERY, self.heard.news.notified()).await;
            let heard = self.heard.losses.load(Ordering::Relaxed);
            let is_up = self.client.connection_state() == State::Connected;
            let unheard = known.is_up && !is_up && heard <= known.losses;
            let losses = if unheard { known.losses + 1 } else { heard.max(known.losses) };
            let now = Standing { is_up, losses };
            if now != known {
                if unheard {
                    self.heard.losses.fetch_max(losses, Ordering::Relaxed);
                }
                known = now;
                self.standing.send_replace(now);
                told(now);
            }
        }
    }
}

fn is_a_mistake(kind: ConnectErrorKind) -> bool {
    matches!(
        kind,
        ConnectErrorKind::ServerParse
            | ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::Tls
    )
}

async fn connect_options(
    options: &Options,
    stats: &Arc<BusStats>,
    heard: &Arc<Heard>,
) -> Result<ConnectOptions, String> {
    let (stats, heard) = (Arc::clone(stats), Arc::clone(heard));
    let mut with = ConnectOptions::new()
        .name(format!("gateway {}", options.client_name))
        // What we publish reaches our own subscribers without the bus.
        .no_echo()
        .skip_subject_validation(true)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .client_capacity(CLIENT_COMMANDS_MAX)
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempt| Duration::from_millis(20 << attempt.min(4)))
        .event_callback(move |event| {
            match event {
                Event::Disconnected => {
                    heard.losses.fetch_add(1, Ordering::Relaxed);
                    heard.news.notify_one();
                }
                Event::Connected => heard.news.notify_one(),
                Event::SlowConsumer(_) => stats.overrun.add(1),
                Event::ServerError(error) => tracing::warn!(%error, "the NATS server complains"),
                _ => {}
            }
            std::future::ready(())
        });
    if let Some(file) = &options.credentials_file {
        let cannot = |error| format!("bus.nats.credentials_file: {}: {error}", file.display());
        with = with.credentials_file(file).await.map_err(cannot)?;
    }
    if let Some(token) = &options.token {
        with = with.token(token.clone());
    }
    if let Some((user, password)) = &options.user {
        with = with.user_and_password(user.clone(), password.clone());
    }
    if let Some(file) = &options.ca_file {
        with = with.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &options.certificate {
        with = with.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(with)
}
