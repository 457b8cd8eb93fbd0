//! Owns the choice of the bus: what the configuration says becomes the ends that shards meet it at, and the bus itself.
//! Refuses to know any protocol. Called once by `app`; routes are told again at every reload.

use std::sync::Arc;

use backend::joint::{Ends, Node, OnLoss, RouteOnBus};
use backend::redis::{self, RedisBus};
use backend::{Bus, Embedded, Intake, Nats, nats};
use bridge::{Epoch, NodeName, Switchboard};
use config::{BusKind, OnBusLoss, OnGap, Settings};

use crate::in_force::Live;

/// The shards' side of a bus that joins nodes, before there is a switchboard; nothing for the embedded one.
pub(crate) struct BusEnds(Option<Ends>);

impl BusEnds {
    /// This switchboard, with other nodes beyond it if there may be any.
    pub(crate) fn beside(settings: &Settings, switchboard: Switchboard) -> (Arc<Switchboard>, Self) {
        if settings.bus.kind == BusKind::Embedded {
            return (Arc::new(switchboard), Self(None));
        }
        let ends = Ends::new(settings.bus.queue.get() as usize);
        (Arc::new(switchboard.with_beyond(Arc::clone(&ends.beyond))), Self(Some(ends)))
    }

    /// Starts the bus; with it comes the pump's end of its upstream.
    ///
    /// # Errors
    /// In words, with the key to look at.
    pub(crate) async fn start(
        self,
        settings: &Settings,
        (name, epoch): (&NodeName, Epoch),
        switchboard: &Arc<Switchboard>,
        live: &Live,
    ) -> Result<(Arc<dyn Bus>, Option<Intake>), String> {
        let Some(ends) = self.0 else { return Ok((Arc::new(Embedded), None)) };
        let (intake, feed, _) = Intake::new();
        let bus = &settings.bus;
        let partitions = u16::try_from(bus.partitions.get()).unwrap_or(bridge::inbound::PARTITIONS_MAX);
        let node =
            Node { name: name.clone(), epoch, prefix: bus.prefix.to_string().into(), partitions, wall_ms };
        let joint = ends.join(node, Arc::clone(switchboard), feed, Arc::clone(live.bus_routes()));
        let bus: Arc<dyn Bus> = match bus.kind {
            BusKind::Embedded => Arc::new(Embedded),
            BusKind::Nats => Arc::new(Nats::start(&nats_options(settings, name), joint).await?),
            BusKind::Redis => {
                let entries = u64::from(settings.bus_redis.stream_entries.get());
                let started = RedisBus::start(joint, redis_server(settings), entries);
                started.await.map_err(|problem| format!("bus.redis: {problem}"))?
            }
        };
        Ok((bus, Some(intake)))
    }
}

/// What routes do while the bus is away, by their numbers.
pub(crate) fn routes(settings: &Settings) -> Arc<[RouteOnBus]> {
    let route = |route: &config::Route| RouteOnBus {
        name: route.name.as_str().into(),
        tells_bus: route.inbound == config::Inbound::Bus,
        on_loss: match route.on_bus_loss {
            OnBusLoss::Pause => OnLoss::Pause,
            OnBusLoss::Drop => OnLoss::Drop,
            OnBusLoss::Close => OnLoss::Close,
        },
        closes_on_gap: route.on_gap == OnGap::Close,
        message_bytes: match route.inbound {
            config::Inbound::Bus | config::Inbound::Publish(_) => route.message_bytes.as_usize(),
            _ => 0,
        },
    };
    settings.routes.iter().map(route).collect()
}

fn redis_server(settings: &Settings) -> redis::Server {
    let from = &settings.bus_redis;
    let identity = from.certificate_file.clone().zip(from.key_file.clone());
    redis::Server {
        host: from.server.host().to_owned(),
        port: from.server.port(),
        tls: from.server.is_tls().then(|| redis::Tls { ca_file: from.ca_file.clone(), identity }),
        database: u16::try_from(from.database).unwrap_or(u16::MAX),
        user: from.user.as_ref().map(ToString::to_string),
        password_file: from.password_file.clone(),
    }
}

fn nats_options(settings: &Settings, name: &NodeName) -> nats::Options {
    let from = &settings.bus_nats;
    // The configuration has at most one of them.
    let login = match (&from.credentials_file, &from.token_file, &from.user_file) {
        (Some(file), _, _) => nats::Login::Credentials(file.clone()),
        (_, Some(file), _) => nats::Login::Token(file.clone()),
        (_, _, Some(file)) => nats::Login::User(file.clone()),
        (None, None, None) => nats::Login::Nobody,
    };
    nats::Options {
        servers: from.servers.iter().map(ToString::to_string).collect(),
        client_name: name.to_string(),
        jetstream: from.jetstream,
        login,
        ca_file: from.ca_file.clone(),
        certificate: from.certificate_file.clone().zip(from.key_file.clone()),
    }
}

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
