//! Where the servers of a backend are, and one slot for each stream to each of them: names are resolved again and again,
//! what is new is called, what has gone is let go. Owns addresses and slots; refuses to know events. Run as a task.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::slot::{News, Slot};
use super::stats::SessionStats;

/// Addresses that are called; what names stand for beyond that is left out.
const ADDRESSES_MAX: usize = 256;
/// A name that could not be resolved yet is tried again after this.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
/// What an app server may send ahead of our reading, for a stream and for a connection.
const RECEIVE_WINDOW: u32 = 1 << 20;

/// A server, or several behind one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// PEM texts and a name.
#[derive(Clone, Debug, Default)]
pub struct TlsTexts {
    /// Authorities that are believed. `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// Our certificate chain and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that certificates have to have. `None`: the host.
    pub server_name: Option<String>,
}

/// How the servers of a backend are called.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Name of the backend, for the log.
    pub backend: Arc<str>,
    /// Whom.
    pub servers: Vec<Server>,
    /// Streams to each address.
    pub streams: u32,
    /// From the first packet to a connection that can be used.
    pub connect_timeout: Duration,
    /// HTTP/2 pings: from one to the next, and how long one may go unanswered.
    pub keep_alive: (Duration, Duration),
    /// Pauses between attempts: the shortest and the longest.
    pub backoff: (Duration, Duration),
    /// Between two times that names are resolved.
    pub resolve: Duration,
    /// Whether `grpc.health.v1` is asked.
    pub health: bool,
    /// What goes with every call.
    pub metadata: MetadataMap,
    /// How TLS is spoken.
    pub tls: TlsTexts,
    /// Largest message that is received.
    pub message_bytes_max: usize,
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(out, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl Calls {
    /// Connects to one address of a server.
    ///
    /// # Errors
    /// In words.
    pub async fn connect(&self, server: &Server, address: SocketAddr) -> Result<Channel, String> {
        let endpoint = self.endpoint(server, address).map_err(|error| in_words(&error))?;
        match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| in_words(&error)),
            Err(_) => Err("it takes too long".to_owned()),
        }
    }

    fn endpoint(&self, server: &Server, address: SocketAddr) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = if server.tls { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keep_alive.0)
            .keep_alive_timeout(self.keep_alive.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW);
        if let Ok(origin) = server.to_string().parse::<Uri>() {
            endpoint = endpoint.origin(origin);
        }
        if server.tls {
            let name = self.tls.server_name.clone().unwrap_or_else(|| server.host.clone());
            let mut tls = ClientTlsConfig::new().domain_name(name);
            tls = match &self.tls.ca {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some((chain, key)) = &self.tls.identity {
                tls = tls.identity(Identity::from_pem(chain, key));
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        Ok(endpoint)
    }

    /// Checks what can be checked without calling anybody: certificates and keys.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        self.servers
            .iter()
            .try_for_each(|server| self.endpoint(server, nowhere).map(drop).map_err(|error| in_words(&error)))
    }
}

/// An error and what is behind it.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let deeper = error.to_string();
        if !words.contains(&deeper) {
            words.push_str(": ");
            words.push_str(&deeper);
        }
        cause = error.source();
    }
    words
}

/// Calls servers until nobody listens to the news.
pub(super) async fn dial(
    calls: Arc<Calls>,
    news: mpsc::Sender<News>,
    room: Arc<Notify>,
    stats: Arc<SessionStats>,
) {
    let ids = Arc::<AtomicU64>::default();
    let mut known: BTreeMap<(Server, SocketAddr), watch::Sender<bool>> = BTreeMap::new();
    let mut unresolved: Vec<Server> = Vec::new();
    loop {
        let mut found: Vec<(Server, SocketAddr)> = Vec::new();
        let mut failed = Vec::new();
        for server in &calls.servers {
            match resolve(&calls, server).await {
                Ok(addresses) => found.extend(addresses.into_iter().map(|address| (server.clone(), address))),
                Err(error) => {
                    if !unresolved.contains(server) {
                        tracing::warn!(backend = %calls.backend, %server, error, "cannot resolve the name of a server");
                    }
                    failed.push(server.clone());
                }
            }
        }
        unresolved = failed;
        found.truncate(ADDRESSES_MAX);
        // A name that cannot be resolved now stands for what it stood for before.
        known.retain(|whom, withdrawn| {
            let stays = found.contains(whom) || unresolved.contains(&whom.0);
            if !stays {
                let _ = withdrawn.send(true);
            }
            stays
        });
        for (server, address) in found {
            known.entry((server.clone(), address)).or_insert_with(|| {
                let (withdraw, withdrawn) = watch::channel(false);
                for _ in 0..calls.streams {
                    let slot = Slot {
                        calls: Arc::clone(&calls),
                        server: server.clone(),
                        address,
                        withdrawn: withdrawn.clone(),
                        ids: Arc::clone(&ids),
                        news: news.clone(),
                        room: Arc::clone(&room),
                    };
                    tokio::spawn(slot.run());
                }
                withdraw
            });
        }
        stats.endpoints.set(known.len() as u64);
        let pause = if known.is_empty() { RESOLVE_AGAIN.min(calls.resolve) } else { calls.resolve };
        tokio::select! {
            () = news.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

pub(super) async fn resolve(calls: &Calls, server: &Server) -> Result<Vec<SocketAddr>, String> {
    let looked_up = tokio::net::lookup_host((server.host.as_str(), server.port));
    match tokio::time::timeout(calls.connect_timeout, looked_up).await {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses.collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes too long".to_owned()),
    }
}
