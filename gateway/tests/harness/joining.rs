//! A bus that joins gateways, whichever it is, and an app server on it: so that one promise is tried over each of them.

use backend::proto;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Gateway, Nats, NatsServer, Redis, RedisServer};

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BusKind {
    /// `nats-server`.
    Nats,
    /// `redis-server`.
    Redis,
}

/// A server of it.
pub(crate) enum BusServer {
    /// A `nats-server`.
    Nats(NatsServer),
    /// A `redis-server`.
    Redis(RedisServer),
}

impl BusServer {
    /// Starts one.
    #[track_caller]
    pub(crate) fn start(kind: BusKind) -> Self {
        match kind {
            BusKind::Nats => Self::Nats(NatsServer::start()),
            BusKind::Redis => Self::Redis(RedisServer::start()),
        }
    }

    /// Where it listens, on loopback.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Nats(server) => server.port,
            Self::Redis(server) => server.port,
        }
    }

    /// Its name in configuration and metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Nats(_) => "nats",
            Self::Redis(_) => "redis",
        }
    }

    /// A gateway on it, with `more` in its configuration.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, more: &str) -> Gateway {
        self.node_at(self.port(), name, more)
    }

    /// The same, by a cable to it.
    #[track_caller]
    pub(crate) fn node_at(&self, port: u16, name: &str, more: &str) -> Gateway {
        let kind = self.name();
        let place = match self {
            Self::Nats(_) => format!("servers = ['nats://127.0.0.1:{port}']"),
            Self::Redis(_) => format!("server = 'redis://127.0.0.1:{port}'"),
        };
        Gateway::start(&format!(
            "[node]\nname = '{name}'\n[grpc]\naddress = '127.0.0.1:0'\n[bus]\nkind = '{kind}'\n\
             [bus.{kind}]\n{place}\n{more}"
        ))
    }

    /// Waits until a gateway says that the bus is there, or away.
    #[track_caller]
    pub(crate) fn is_up(&self, gateway: &Gateway, is_up: bool) {
        let series = format!("gateway_bus_up{{bus=\"{}\"}}", self.name());
        let what = if is_up { "the bus is there" } else { "the bus is away" };
        gateway.until(what, |metrics| metrics.value(&series) == f64::from(u8::from(is_up)));
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Nats(server) => server.kill(),
            Self::Redis(server) => server.kill(),
        }
    }

    /// Starts it again.
    #[track_caller]
    pub(crate) fn run(&mut self) {
        match self {
            Self::Nats(server) => server.run(),
            Self::Redis(server) => server.run(),
        }
    }

    /// An app server on it.
    #[track_caller]
    pub(crate) fn app(&self) -> BusApp {
        match self {
            Self::Nats(server) => BusApp::Nats(Nats::connect(server.port)),
            Self::Redis(server) => {
                let mut ear = Redis::connect(server.port);
                ear.subscribe(ANSWERS);
                BusApp::Redis { mouth: Redis::connect(server.port), ear }
            }
        }
    }
}

/// Where an app server on Redis has its answers sent.
const ANSWERS: &str = "gateway:answer:test";

/// An app server.
pub(crate) enum BusApp {
    /// On NATS.
    Nats(Nats),
    /// On Redis, where who listens cannot speak.
    Redis {
        /// Speaks.
        mouth: Redis,
        /// Listens.
        ear: Redis,
    },
}

impl BusApp {
    /// Publishes to a name below the prefix, its parts joined as this bus does.
    pub(crate) fn say(&mut self, parts: &[&str], payload: &[u8]) {
        match self {
            Self::Nats(nats) => nats.publish(&format!("gateway.{}", parts.join(".")), payload),
            Self::Redis { mouth, .. } => {
                mouth.publish(&format!("gateway:{}", parts.join(":")), payload);
            }
        }
    }

    /// Commands in JSON; the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, parts: &[&str], mut command: Value) -> Value {
        let answer = match self {
            Self::Nats(nats) => {
                nats.ask(&format!("gateway.{}", parts.join(".")), command.to_string().as_bytes()).payload
            }
            Self::Redis { .. } => {
                command["reply_to"] = json!(ANSWERS);
                self.say(parts, command.to_string().as_bytes());
                self.hear()
            }
        };
        serde_json::from_slice(&answer).unwrap()
    }

    /// Commands in Protobuf; the answer.
    #[track_caller]
    pub(crate) fn ask_protobuf(&mut self, parts: &[&str], command: proto::Command) -> proto::Answer {
        let answer = match self {
            Self::Nats(nats) => {
                nats.ask(&format!("gateway.{}", parts.join(".")), command.encode_to_vec()).payload
            }
            Self::Redis { .. } => {
                let command = proto::Command { reply_to: ANSWERS.to_owned(), ..command };
                self.say(parts, &command.encode_to_vec());
                self.hear()
            }
        };
        proto::Answer::decode(&answer[..]).unwrap()
    }

    /// Listens to what becomes of nodes from now on.
    #[track_caller]
    pub(crate) fn listen_to_nodes(&mut self) {
        match self {
            Self::Nats(nats) => nats.subscribe("gateway.node"),
            Self::Redis { ear, .. } => ear.subscribe("gateway:node"),
        }
    }

    /// Listens to beats of nodes from now on.
    #[track_caller]
    pub(crate) fn listen_to_beats(&mut self) {
        match self {
            Self::Nats(nats) => nats.subscribe("gateway.presence"),
            Self::Redis { ear, .. } => ear.subscribe("gateway:presence"),
        }
    }

    /// What comes next of all that is listened to.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Vec<u8> {
        match self {
            Self::Nats(nats) => nats.hear().payload,
            Self::Redis { ear, .. } => ear.hear(),
        }
    }
}
