//! The way to a Redis server: where it is, how it knows us, how a connection is made and how long to wait for the next
//! attempt. Refuses to know what a connection is for.
//!
//! Every connection speaks RESP3, so the server has to be Redis 6.2 or later, which trimming by id needs anyway.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::silence::{LastHeard, silence};

/// A connection, with TLS and login, is made within this or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is asked behind much that was is answered within this. A server that says nothing is gone sooner: see [`silence`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between two attempts to connect, from the first to the longest, which with the time that it takes to subscribe is
/// well within [`crate::outgoing::OTHERS_RETURN_WITHIN`].
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Where Redis is and who we are to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// A name or an address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, and how; `None` is plain TCP.
    pub tls: Option<Tls>,
    /// Number of the database, for streams. Publish/subscribe knows no databases.
    pub database: u16,
    /// The ACL user; `None` is Redis' user `default`.
    pub user: Option<String>,
    /// A file with the password, read again for each connection. White space around it is not part of it. `None`: the user
    /// needs none.
    pub password_file: Option<PathBuf>,
}

/// How the server is told from another one, and how we are.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM file of the authorities that may have signed its certificate; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Link {
    server: Server,
}

/// A connection that was made.
pub(crate) struct Connected {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) heard: Arc<LastHeard>,
    /// Why it is over, once it is.
    over: watch::Receiver<Option<&'static str>>,
    keeper: JoinHandle<()>,
}

const CLOSED: &str = "the server closed the connection";
const SILENT: &str = "the server says nothing any more";

impl Connected {
    /// Waits for its end: the server closes it, or says nothing any more.
    pub(crate) async fn end(&self) -> Problem {
        let mut over = self.over.clone();
        let why = over.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        why.unwrap_or(CLOSED).to_owned()
    }

    /// Does something with it, unless it ends meanwhile.
    pub(crate) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            problem = self.end() => Err(problem),
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Tells when the server says nothing any more.
async fn keep(
    connection: MultiplexedConnection,
    heard: Arc<LastHeard>,
    over: watch::Sender<Option<&'static str>>,
) {
    silence(&heard, || is_there(connection.clone())).await;
    over.send_replace(Some(SILENT));
}

/// Whether the other end is there. A refusal is an answer, too.
async fn is_there(mut connection: MultiplexedConnection) -> bool {
    match redis::cmd("PING").query_async::<Value>(&mut connection).await {
        Ok(_) => true,
        Err(error) => !is_loss(&error),
    }
}

/// Why there is no connection, for people.
pub(crate) type Problem = String;

impl Link {
    pub(crate) const fn new(server: Server) -> Self {
        Self { server }
    }

    /// The server as the configuration names it.
    pub(crate) fn name(&self) -> String {
        let Server { host, port, tls, .. } = &self.server;
        let scheme = if tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{host}:{port}")
    }

    /// One connection.
    pub(crate) async fn connect(&self) -> Result<Connected, Problem> {
        self.connect_to_hear(|_| ()).await
    }

    /// One connection. `hear` gets what the server sends unasked; it runs where the connection is read, and must not block.
    pub(crate) async fn connect_to_hear(
        &self,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<Connected, Problem> {
        let heard = Arc::new(LastHeard::now());
        let (over, is_over) = watch::channel(None);
        let (hears, closed) = (Arc::clone(&heard), over.clone());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    closed.send_replace(Some(CLOSED));
                } else {
                    hears.note();
                    hear(push);
                }
                Ok(())
            });
        let client = self.client()?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connecting.await.map_err(|error| error.to_string())?;
        heard.note();
        let keeper = tokio::spawn(keep(connection.clone(), Arc::clone(&heard), over));
        Ok(Connected { connection, heard, over: is_over, keeper })
    }

    /// Whether the settings make sense and the files are there.
    pub(crate) fn client(&self) -> Result<Client, Problem> {
        let Server { host, port, tls, database, user, password_file } = &self.server;
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("gateway", env!("CARGO_PKG_VERSION"))
            .set_db(i64::from(*database));
        if let Some(user) = user {
            login = login.set_username(user);
        }
        match (password_file, user) {
            (Some(file), _) => login = login.set_password(String::from_utf8_lossy(&read(file)?).trim()),
            // The library says who we are only beside a password. Redis takes any for a user who needs none.
            (None, Some(_)) => login = login.set_password(""),
            (None, None) => {}
        }
        let address = match tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(_) => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
        };
        let complaint = |error: RedisError| error.to_string();
        let info = address.into_connection_info().map_err(complaint)?.set_redis_settings(login);
        match tls {
            None => Client::open(info).map_err(complaint),
            Some(Tls { ca_file, identity }) => {
                let root_cert = ca_file.as_ref().map(read).transpose()?;
                let client_tls = match identity {
                    None => None,
                    Some((cert, key)) => {
                        Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
                    }
                };
                Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(complaint)
            }
        }
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>, Problem> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// Whether an error means that the connection is of no use any more, rather than that the server refused something.
pub(crate) fn is_loss(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error()
}

/// How long to wait before the next attempt: ever longer, and never in step with other nodes.
#[derive(Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let longest = RETRY.saturating_mul(1 << self.attempts.min(16)).min(RETRY_MAX);
        self.attempts += 1;
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(crate) const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attempts_become_rare_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(waits[0] >= RETRY / 2 && waits[0] <= RETRY);
        assert!(waits[30..].iter().all(|wait| *wait >= RETRY_MAX / 2 && *wait <= RETRY_MAX));
        backoff.reset();
        assert!(backoff.next() <= RETRY);
    }

    #[test]
    fn files_that_are_missing_are_named() {
        let server = Server {
            host: "localhost".to_owned(),
            port: 6379,
            tls: Some(Tls { ca_file: Some("/no/such/ca.pem".into()), identity: None }),
            database: 0,
            user: None,
            password_file: None,
        };
        let problem = Link::new(server.clone()).client().unwrap_err();
        assert!(problem.contains("/no/such/ca.pem"), "{problem}");
        let server = Server { tls: None, password_file: Some("/no/such/password".into()), ..server };
        let problem = Link::new(server).client().unwrap_err();
        assert!(problem.contains("/no/such/password"), "{problem}");
    }
}
