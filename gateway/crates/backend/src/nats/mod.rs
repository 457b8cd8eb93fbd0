//! The NATS bus: joins nodes, and app servers that listen and answer.
//!
//! Owns the connection and the tasks around it: `link` keeps it, `login` says who we are, `channels` follow the node's interests and carry
//! publishes, `inbound` tells events of routes and `gaps` from when to when it was away, `replies` deliver to single connections,
//! `peers` ask other nodes and hear them. Delivery between nodes is at most
//! once, as core NATS is; inbound events are at least once where JetStream is asked for. Refuses to publish inbound events
//! where a stream listens that nobody asked for (`capture`): its acknowledgement would go to the client's address.

mod capture;
mod channels;
mod direct;
mod gaps;
mod inbound;
mod lane;
mod link;
mod login;
mod patience;
mod peers;
mod replies;
mod requests;
mod subjects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bridge::{Beyond, Channel, ConnId, Message};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::channels::{Speaker, Subscriptions};
use self::gaps::Gaps;
use self::inbound::Teller;
use self::link::{Link, Standing, Watcher};
pub use self::login::Login;
use self::peers::Nodes;
use self::replies::{Answers, Replies};
use self::requests::Requests;
use self::subjects::Subjects;
use crate::arrivals::Arrivals;
use crate::bus::{Bus, BusFuture, BusState, PublishError};
use crate::bus_stats::BusStats;
use crate::closing::Closing;
use crate::complaints::Complaints;
use crate::joint::{Joint, RouteOnBus, Routes};
use crate::peers::Peers;
use crate::trouble::Trouble;

/// How long the end waits for what is still on its way.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What our headers may take of a message, in bytes: those of an event with the longest names there are.
const HEADERS_BYTES_MAX: usize = 1024;

/// What a server is taken to take, headers and payload, before one has said: what it takes unless it is told otherwise. Guessing
/// more would let messages reach this node alone.
const MESSAGE_BYTES_AT_FIRST: usize = 1 << 20;

/// How NATS is reached.
#[derive(Clone, Default)]
pub struct Options {
    /// Addresses of one cluster, each with its scheme and port; at least one.
    pub servers: Vec<String>,
    /// What the server shows of us beside an address.
    pub client_name: String,
    /// Whether inbound events go into JetStream.
    pub jetstream: bool,
    /// Who we are.
    pub login: Login,
    /// PEM file of the authorities that are believed.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate of our own and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Tasks that end when the shards have.
struct Last {
    /// Has told all events when the pump ends.
    teller: JoinHandle<()>,
    /// Has carried all publishes of clients when it is stopped.
    carrier: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// The bus.
pub struct Nats {
    link: Link,
    speaker: Speaker,
    stats: Arc<BusStats>,
    nodes: Nodes,
    /// Those that end when the shards have.
    last: Mutex<Option<Last>>,
    /// Those that end with the program.
    tasks: Vec<JoinHandle<()>>,
}

impl Nats {
    /// Connects and starts the tasks. Where no server answers, the bus is away and is called again and again.
    ///
    /// # Errors
    /// In words: a server does not let us in, a file cannot be read, or a stream captures what core mode publishes.
    pub async fn start(options: &Options, joint: Joint) -> Result<Self, String> {
        let Joint { node, switchboard, beyond, interests, outgoing, incoming, feed, settler, routes, stats } =
            joint;
        let (link, watcher) = Link::connect(options, &stats, node.wall_ms).await?;
        let (subjects, answers) = (Subjects::new(&node), Answers::new(link.clone(), Arc::clone(&stats)));
        let most = link.standing().message_bytes_max.unwrap_or(MESSAGE_BYTES_AT_FIRST);
        beyond.carry_at_most(most.saturating_sub(HEADERS_BYTES_MAX));
        let asked_max = lane::under_way_max(node.partitions) + gaps::TOLD_AT_ONCE;
        let (requests, inbox) = Requests::subscribe(&link, asked_max).await?;
        let inbox = tokio::spawn(inbox.run());
        // Until it is known that no stream takes them, events of core mode wait.
        let (clear, is_clear) = watch::channel(false);
        if !options.jetstream {
            match capture::ask(&link, &requests, &subjects, &routes).await {
                Ok(Some(stream)) => return Err(capture::advice(&stream)),
                found => drop(clear.send_replace(found.is_ok())),
            }
        }
        let (of_connections, to_connections) = Arrivals::new(&stats);
        let replies = Replies::subscribe(&link, &subjects, &answers, of_connections, &stats).await?;
        let (nodes, listener) = Nodes::subscribe(&link, &subjects, &stats).await?;
        let speaker = Speaker::new(link.clone(), subjects.clone(), &node, Arc::clone(&stats));
        let (ears, heard) = Subscriptions::ears();
        let (of_channels, to_channels) = Arrivals::new(&stats);
        let subscriptions = Subscriptions {
            link: link.clone(),
            subjects: subjects.clone(),
            interests,
            switchboard: Arc::clone(&switchboard),
            stats: Arc::clone(&stats),
            ears,
        };
        let teller = Arc::new(Teller {
            link: link.clone(),
            requests: requests.clone(),
            subjects: subjects.clone(),
            node: node.clone(),
            routes: Arc::clone(&routes),
            closing: Closing::new(switchboard.mailboxes().to_vec()),
            complaints: Complaints::default(),
            stats: Arc::clone(&stats),
            is_clear,
        });
        let mut tasks = vec![
            inbox,
            watch(watcher, Arc::clone(&stats), beyond, Arc::clone(&routes)),
            tokio::spawn(subscriptions.run()),
            tokio::spawn(listener.run()),
            tokio::spawn(channels::listen(heard, of_channels)),
            tokio::spawn(channels::deliver(
                to_channels,
                subjects.clone(),
                incoming.clone(),
                Arc::clone(&stats),
            )),
            tokio::spawn(replies.listen()),
            tokio::spawn(answers.deliver(to_connections, incoming)),
            tokio::spawn(Gaps::new(&teller, options.jetstream, &switchboard).run()),
        ];
        let (stop, stopped) = watch::channel(false);
        let carrier = tokio::spawn(speaker.clone().carry(outgoing, stopped));
        let teller = if options.jetstream {
            tokio::spawn(teller.jetstream(feed, settler))
        } else {
            tasks.push(tokio::spawn(capture::watch(link.clone(), requests, subjects, routes, clear)));
            tokio::spawn(direct::run(teller, feed, settler))
        };
        let last = Mutex::new(Some(Last { teller, carrier, stop }));
        Ok(Self { link, speaker, stats, nodes, last, tasks })
    }
}

impl Bus for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn state(&self) -> BusState {
        if self.link.standing().is_up { BusState::Up } else { BusState::Away }
    }

    fn is_deaf(&self) -> bool {
        self.link.is_deaf()
    }

    fn trouble(&self) -> Option<Trouble> {
        self.link.trouble()
    }

    fn forward<'a>(
        &'a self,
        channel: &'a Channel,
        message: &'a Message,
        exclude: Option<&'a ConnId>,
    ) -> BusFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let published = self.link.unless_lost(self.speaker.publish(channel, message, exclude)).await;
            published.unwrap_or_else(|| {
                self.stats.left_out.add(1);
                Err(PublishError::Away)
            })
        })
    }

    fn stats(&self) -> Option<&BusStats> {
        Some(&self.stats)
    }

    fn peers(&self) -> Option<&dyn Peers> {
        Some(&self.nodes)
    }

    fn stop(&self) -> BusFuture<'_, ()> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            let Some(Last { teller, carrier, stop }) = last else { return };
            // Nobody publishes any more.
            stop.send_replace(true);
            let said = |task: JoinHandle<()>| async {
                let _ = task.await;
                let _ = self.link.client.flush().await;
            };
            let orderly = async { tokio::join!(said(teller), said(carrier)) };
            let _ = tokio::time::timeout(STOP_WITHIN, orderly).await;
            self.tasks.iter().for_each(JoinHandle::abort);
        })
    }
}

/// Tells shards how the link stands, and how much it carries.
fn watch(watcher: Watcher, stats: Arc<BusStats>, beyond: Arc<Beyond>, routes: Arc<Routes>) -> JoinHandle<()> {
    let mut known = None;
    tokio::spawn(watcher.run(move |standing: Standing| {
        beyond.cut_off(!standing.is_up);
        stats.losses.set(standing.losses);
        if let Some(most) = standing.message_bytes_max
            && known.replace(most) != Some(most)
        {
            beyond.carry_at_most(most.saturating_sub(HEADERS_BYTES_MAX));
            tell_of_size(most, &routes.now());
        }
    }))
}

/// Tells the log which routes allow messages that the server does not take. Those are closed with 1009, as by the route.
fn tell_of_size(server_takes: usize, routes: &[RouteOnBus]) {
    let carried = server_takes.saturating_sub(HEADERS_BYTES_MAX);
    let beyond = |most: usize| -> Vec<&str> {
        routes.iter().filter(|route| route.message_bytes > most).map(|route| &*route.name).collect()
    };
    let (much, little) = (beyond(server_takes), beyond(carried));
    if !much.is_empty() {
        tracing::warn!(
            server_takes,
            carried,
            routes = much.join(", "),
            "clients of these routes may send more than the NATS server takes (max_payload): who does is closed with 1009; \
             lower message_bytes, or raise max_payload"
        );
    } else if !little.is_empty() {
        let routes = little.join(", ");
        tracing::info!(
            server_takes,
            carried,
            routes,
            "who sends more than `carried` bytes is closed with 1009: the NATS server takes `server_takes` (max_payload) with headers"
        );
    }
}
