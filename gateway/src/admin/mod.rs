//! Owns the HTTP side of a node: its three roles (health, api, admin), who may call them, and what each call does.
//! Everything it needs is in [`Admin`], built once at start; it asks shards through their mailboxes and reads
//! their counters. It refuses to know records, sockets of clients or protocols. Called by the start of the program,
//! once per listener, through [`serve`].

pub(crate) mod auth;
mod blocks;
mod call;
mod connections;
mod dispatch;
mod endings;
mod guard;
mod health;
mod node;
mod page;
mod problem;
mod publish;
mod query;
mod requests;
mod router;
mod server;
mod top;

#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bridge::{Epoch, NodeName, Stats, Switchboard};
use tokio::sync::mpsc;

use crate::cluster::Nodes;
use crate::grpc::Answers;
use crate::in_force::Live;
use crate::lifecycle::Order;
use crate::metrics::Metrics;
use crate::recent::Recent;
pub(crate) use endings::unix_ms;
pub(crate) use requests::Requests;
pub(crate) use server::{CONNECTIONS_MAX, serve};

/// What one listener answers. One listener may have several roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `/livez`, `/readyz`, `/metrics`: never a token.
    Health,
    /// Publish, send, close, describe and list: tokens with scopes.
    Api,
    /// The page, the node and its drain: tokens of their own.
    Admin,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 3] = [Self::Health, Self::Api, Self::Admin];

    /// Its name in configuration and problems.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Api => "api",
            Self::Admin => "admin",
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoleSet(u8);

impl RoleSet {
    /// The set and one more role.
    #[must_use]
    pub(crate) const fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    /// Whether a role is in it.
    pub(crate) const fn contains(self, role: Role) -> bool {
        self.0 & 1 << role as u8 != 0
    }

    /// Its roles.
    pub(crate) fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

impl FromIterator<Role> for RoleSet {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::default(), Self::with)
    }
}

/// A route as the page and the connection descriptions show it. Its place in [`crate::in_force::InForce`] is its number.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RouteInfo {
    /// Its name.
    pub(crate) name: String,
    /// Its path pattern, variables in braces.
    pub(crate) path: String,
}

/// What the HTTP side works with: built once, shared by all its listeners.
pub(crate) struct Admin {
    /// This node's name.
    pub(crate) node: NodeName,
    /// This node's epoch.
    pub(crate) epoch: Epoch,
    /// Publishes to this node's shards and to the bus.
    pub(crate) publisher: backend::Publisher,
    /// Other nodes of the bus.
    pub(crate) nodes: Arc<Nodes>,
    /// The mailboxes of the shards.
    pub(crate) switchboard: Arc<Switchboard>,
    /// Which order about a blocked network was the last.
    pub(crate) block_orders: crate::api::BlockOrders,
    /// The node's gate: its bound.
    pub(crate) gate: Arc<shard::limit::Gate>,
    /// Counters, by shard.
    pub(crate) stats: Vec<Arc<Stats>>,
    /// What is in force of the configuration: tokens, routes, bounds.
    pub(crate) live: Arc<Live>,
    /// The endings of late.
    pub(crate) recent: Arc<Recent>,
    /// Held by whoever walks through all shards for the largest of something: one at a time.
    pub(crate) walk: tokio::sync::Mutex<()>,
    /// What the HTTP side has answered.
    pub(crate) requests: Arc<Requests>,
    /// What was answered over gRPC.
    pub(crate) answers: Arc<Answers>,
    /// Set by whoever drains the node, never cleared.
    pub(crate) draining: Arc<AtomicBool>,
    /// Milliseconds since the process started, on the clock of [`Stats::last_turn_ms`].
    pub(crate) clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Where WebSocket clients connect.
    pub(crate) websocket_address: SocketAddr,
    /// What `/metrics` shows.
    pub(crate) metrics: Metrics,
    /// Orders for the node as a whole, which signals give as well.
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Admin {
    /// Whether the node is going away.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        self.stats.len() as u16
    }

    /// The number of the rules that each shard obeys.
    fn rules(&self) -> Vec<u64> {
        self.stats.iter().map(|stats| stats.rules.value()).collect()
    }

    /// A sum over all shards.
    fn sum(&self, read: impl Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(|stats| read(stats)).sum()
    }
}
