//! The connection that is subscribed: it follows the channels that the node cares for, in batches, and hands messages to
//! [`super::deliver`], and what is about nodes to [`super::peers`].
//!
//! At most once: what is published while the connection is away is not heard. After a break everything is subscribed
//! again before the bus counts as up. Refuses to wait for whoever delivers: Redis cuts off a subscriber that does not
//! read, for all its channels; so what finds no room is dropped here, and counted.

use std::collections::HashSet;
use std::sync::Arc;

use bridge::{Channel, Switchboard};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisResult, Value};

use super::deliver::Received;
use super::health::{Health, Part};
use super::keys::Keys;
use super::link::{Backoff, Link, Problem};
use super::peers::Ears;
use crate::bus_stats::BusStats;
use crate::interests::{Changes, Interests, reconcile};

/// Channels in one command. Redis does all of a command at once, so this bounds how long others wait for it.
const CHANNELS_PER_COMMAND: usize = 1_000;

/// Follows the node's interests.
pub(crate) struct Listener {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) interests: Arc<Interests>,
    pub(crate) health: Arc<Health>,
    pub(crate) stats: Arc<BusStats>,
    pub(crate) received: Received,
    pub(crate) ears: Ears,
}

impl Listener {
    /// Goes on until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let problem = match self.session(&mut backoff).await {
                Ok(never) => match never {},
                Err(problem) => problem,
            };
            self.stats.subscriptions.set(0);
            self.health.lost(Part::Listening, problem);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One connection, from its making to its loss.
    async fn session(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Problem> {
        let connected = self.link.connect_to_hear(self.ear()).await?;
        let mut connection = connected.connection.clone();
        let complaint = |error: redis::RedisError| error.to_string();
        connected.unless_over(connection.subscribe(self.keys.of_the_node())).await?.map_err(complaint)?;
        let mut subscribed: HashSet<Channel> = HashSet::new();
        self.interests.look_at_everything();
        let changes = self.interests.changes().await;
        let follow = self.follow(&mut connection, &mut subscribed, changes);
        connected.unless_over(follow).await?.map_err(complaint)?;
        backoff.reset();
        self.health.up(Part::Listening, Arc::clone(&connected.heard));
        loop {
            let changes = connected.unless_over(self.interests.changes()).await?;
            let follow = self.follow(&mut connection, &mut subscribed, changes);
            connected.unless_over(follow).await?.map_err(complaint)?;
        }
    }

    /// Begins and ends subscriptions, until they are what the node cares for.
    async fn follow(
        &self,
        connection: &mut MultiplexedConnection,
        subscribed: &mut HashSet<Channel>,
        changes: Changes,
    ) -> RedisResult<()> {
        let had = subscribed.iter().cloned();
        let (begin, end) = reconcile(&self.switchboard, changes, |channel| subscribed.contains(channel), had);
        for channels in end.chunks(CHANNELS_PER_COMMAND) {
            connection.unsubscribe(self.names(channels)).await?;
            self.stats.subscription_operations.add(1);
            channels.iter().for_each(|channel| {
                subscribed.remove(channel);
            });
        }
        for channels in begin.chunks(CHANNELS_PER_COMMAND) {
            connection.subscribe(self.names(channels)).await?;
            self.stats.subscription_operations.add(1);
            subscribed.extend(channels.iter().cloned());
        }
        self.interests.has_followed();
        self.stats.subscriptions.set(subscribed.len() as u64);
        Ok(())
    }

    fn names(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.keys.channel(channel)).collect()
    }

    /// What the connection calls for whatever comes unasked.
    fn ear(&self) -> impl Fn(PushInfo) + Send + Sync + 'static {
        let (keys, received, ears) = (self.keys.clone(), self.received.clone(), self.ears.clone());
        move |push| {
            let mut data = push.data.into_iter();
            if push.kind == PushKind::Message
                && let (Some(Value::BulkString(name)), Some(Value::BulkString(payload))) =
                    (data.next(), data.next())
            {
                // Those about nodes do not queue behind messages: a node that is late seems lost.
                match keys.about_nodes(&name) {
                    Some(what) => ears.hear(what, payload),
                    None => received.take(name, payload),
                }
            }
        }
    }
}
