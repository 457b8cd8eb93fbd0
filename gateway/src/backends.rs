//! Builds the tasks of backends from the configuration: files are read and certificates looked at before anything
//! starts, tasks run between the shards' start and their end. Owns the translation of settings; refuses to know gRPC.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend::grpc::translate::RouteNames;
use backend::grpc::{self, AuthorizeStats, Authorizer, Calls, Server, SessionStats, Sizes, TlsTexts};
use backend::upstream::{Feed, Questions};
use backend::{Intake, Publisher};
use bridge::{Epoch, Mailbox, NodeName, Quota, Upstream};
use config::{AuthorizeCalls, Backend, MetadataValue, Settings};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::admin::Admin;
use crate::in_force::Live;
use crate::upstreams::{Upstreams, Whom};

/// When the node ends, what is under way to app servers is awaited so long.
const GRACE: Duration = Duration::from_secs(5);
/// A partition that moves waits so long for acknowledgements: well below the second that a restart may cost.
const HANDOVER_MS: u64 = 300;
/// Ids of orders that each backend's session remembers.
const IDS_MAX: usize = 65_536;
/// What a message of a stream may have beyond the largest payload.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// Backends whose settings have been read.
pub(crate) struct Backends(Vec<Ready>);

/// Everything of one backend but the node around it.
struct Ready {
    upstream: Upstream,
    sizes: Sizes,
    calls: Calls,
    payload_bytes_max: usize,
    stats: Arc<SessionStats>,
    intake: Intake,
    feed: Feed,
    authorizer: Asking,
}

/// What an authorizer is made of, the node around it apart.
struct Asking {
    calls: Arc<Calls>,
    settings: AuthorizeCalls,
    questions: Questions,
    stats: Arc<AuthorizeStats>,
}

/// What the tasks of backends meet.
pub(crate) struct Around {
    node: NodeName,
    epoch: Epoch,
    mailboxes: Vec<Mailbox>,
    publisher: Publisher,
    live: Arc<Live>,
    /// What a shard may hand to each upstream, by number.
    quotas: Vec<Quota>,
}

impl Around {
    /// What the HTTP side knows, too.
    pub(crate) fn of(admin: &Admin) -> Self {
        let mailboxes = admin.switchboard.mailboxes().to_vec();
        let shards = u16::try_from(mailboxes.len()).unwrap_or(u16::MAX);
        Self {
            node: admin.node.clone(),
            epoch: admin.epoch,
            quotas: Upstreams::of(&admin.live.now().settings).quotas(shards),
            mailboxes,
            publisher: admin.publisher.clone(),
            live: Arc::clone(&admin.live),
        }
    }
}

impl Backends {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// A file that cannot be read, or is no certificate, key or value; in words.
    pub(crate) fn read(settings: &Settings) -> Result<Self, String> {
        let upstreams = Upstreams::of(settings);
        let ready = |backend: &Backend| {
            let upstream = upstreams.number(Whom::Name(&backend.name))?;
            Ready::read(backend, upstream, settings)
                .map_err(|mistake| format!("backend {}: {mistake}", backend.name))
        };
        settings.backends.iter().map(ready).collect::<Result<_, _>>().map(Self)
    }

    /// Names and counters.
    pub(crate) fn stats(&self) -> Vec<(String, Arc<SessionStats>)> {
        self.0.iter().map(|ready| (ready.calls.backend.to_string(), Arc::clone(&ready.stats))).collect()
    }

    /// The same of authorizers.
    pub(crate) fn authorize_stats(&self) -> Vec<(String, Arc<AuthorizeStats>)> {
        let stats = |ready: &Ready| (ready.calls.backend.to_string(), Arc::clone(&ready.authorizer.stats));
        self.0.iter().map(stats).collect()
    }

    /// The pump's ends, in the order of the upstreams' numbers.
    pub(crate) fn intakes(&self) -> Vec<Intake> {
        self.0.iter().map(|ready| ready.intake.clone()).collect()
    }

    /// Starts the tasks. Each ends by itself after the last clone of its intake is gone.
    pub(crate) fn start(self, runtime: &Runtime, around: &Around) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for ready in self.0 {
            let (parts, authorizer) = ready.parts(around);
            tasks.push(runtime.spawn(grpc::run(parts)));
            tasks.push(runtime.spawn(authorizer.run()));
        }
        tasks
    }
}

impl Ready {
    fn read(backend: &Backend, upstream: Upstream, settings: &Settings) -> Result<Self, String> {
        let payload_bytes_max = settings.http.request_bytes.as_usize();
        let calls = calls(backend, payload_bytes_max + ENVELOPE_BYTES_MAX)?;
        calls.check()?;
        let (intake, feed, questions) = Intake::new();
        let authorizer = Asking {
            calls: Arc::new(calls.clone()),
            settings: backend.authorize.clone(),
            questions,
            stats: Arc::default(),
        };
        Ok(Self {
            upstream,
            sizes: sizes(backend),
            calls,
            payload_bytes_max,
            stats: Arc::default(),
            intake,
            feed,
            authorizer,
        })
    }

    fn parts(self, around: &Around) -> (grpc::Parts, Authorizer) {
        let mut sizes = self.sizes;
        // What shards keep to is what the app server is told, whatever the configuration would allow.
        if let Some(quota) = around.quotas.get(usize::from(self.upstream.0)) {
            sizes.connection_events = quota.connection_events;
        }
        let parts = grpc::Parts {
            upstream: self.upstream,
            node: around.node.clone(),
            epoch: around.epoch,
            sizes,
            calls: self.calls,
            payload_bytes_max: self.payload_bytes_max,
            grace: GRACE,
            route_names: around.route_names(),
            feed: self.feed,
            mailboxes: around.mailboxes.clone(),
            publisher: around.publisher.clone(),
            stats: self.stats,
        };
        (parts, self.authorizer.build(around))
    }
}

impl Asking {
    fn build(self, around: &Around) -> Authorizer {
        let AuthorizeCalls { timeout, concurrency, queue, .. } = self.settings;
        Authorizer {
            calls: self.calls,
            timeout,
            concurrency: concurrency.get() as usize,
            queue: queue as usize,
            node: around.node.clone(),
            epoch: around.epoch,
            route_names: around.route_names(),
            questions: self.questions,
            mailboxes: around.mailboxes.clone(),
            stats: self.stats,
        }
    }
}

impl Around {
    fn route_names(&self) -> RouteNames {
        let live = Arc::clone(&self.live);
        Box::new(move |number| {
            let now = live.now();
            now.routes.get(usize::from(number)).map(|route| route.name.clone()).unwrap_or_default()
        })
    }
}

fn sizes(backend: &Backend) -> Sizes {
    Sizes {
        partitions: u16::try_from(backend.partitions.get()).unwrap_or(bridge::inbound::PARTITIONS_MAX),
        window_events: backend.window.get(),
        window_bytes: backend.window_bytes.as_u64(),
        connection_events: u16::try_from(backend.connection_window.get()).unwrap_or(u16::MAX),
        greet_ms: ms(backend.connect_timeout),
        ack_timeout_ms: ms(backend.ack_timeout),
        handover_ms: HANDOVER_MS,
        ids: IDS_MAX,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn calls(backend: &Backend, message_bytes_max: usize) -> Result<Calls, String> {
    let server = |endpoint: &config::Endpoint| Server {
        tls: endpoint.tls,
        host: endpoint.host.clone(),
        port: endpoint.port,
    };
    Ok(Calls {
        backend: backend.name.to_string().into(),
        servers: backend.endpoints.iter().map(server).collect(),
        streams: backend.streams.get(),
        connect_timeout: backend.connect_timeout,
        keep_alive: (backend.keep_alive.interval, backend.keep_alive.timeout),
        backoff: (backend.backoff.min, backend.backoff.max),
        resolve: backend.resolve,
        health: backend.health,
        metadata: metadata(backend)?,
        tls: tls(backend)?,
        message_bytes_max,
    })
}

fn metadata(backend: &Backend) -> Result<MetadataMap, String> {
    let mut map = MetadataMap::new();
    for entry in &backend.metadata {
        let value = match &entry.value {
            MetadataValue::Text(text) => text.clone(),
            MetadataValue::File(path) => {
                let content = read(path)?;
                String::from_utf8(content)
                    .map_err(|_| format!("{} is no text", path.display()))?
                    .trim()
                    .to_owned()
            }
        };
        let key = AsciiMetadataKey::from_bytes(entry.name.as_bytes());
        let key = key.map_err(|_| format!("{} cannot be the name of metadata", entry.name))?;
        let mut value = AsciiMetadataValue::try_from(value)
            .map_err(|_| format!("the value of metadata {} is not printable ASCII", entry.name))?;
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}

fn tls(backend: &Backend) -> Result<TlsTexts, String> {
    let tls = &backend.tls;
    let identity = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    Ok(TlsTexts {
        ca: tls.ca.as_deref().map(read).transpose()?,
        identity,
        server_name: tls.server_name.as_ref().map(ToString::to_string),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
