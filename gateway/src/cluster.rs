//! This node among others of its bus: says that it is there, knows who else is, tells app servers of those that are lost,
//! tells newcomers which networks are blocked, and obeys commands that come over the bus. Who is lost is judged by
//! [`backend::Presence`]; commands are obeyed by [`crate::api::command`]. Refuses to know any bus. Started once by `app`; ends at once where there are no other nodes.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use backend::bus_stats::Count;
use backend::peers::{Asked, Beat, Heard};
use backend::presence::{BEAT_EVERY, NODES_MAX};
use backend::{BusState, BusStats, Lines, Peers, Presence};
use bridge::{Epoch, NodeName};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::admin::Admin;
use crate::api::blocks;
use crate::api::command::{self, Reply};
use crate::node;

/// Between two looks at who is lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that comes may not know this one either, and hears of it at once; but not for each that comes more often than so.
const GREET_EVERY: Duration = Duration::from_millis(200);
/// Lines in the log about nodes that come, about those that go or return, and about those that differ, within five seconds.
const LINES_MAX: u32 = 32;
/// Commands that are obeyed at once; those beyond are answered busy.
const COMMANDS_MAX: usize = 256;
/// Such answers under way; beyond them nothing is answered.
const REFUSALS_MAX: usize = 256;
/// What this node keeps out is looked at so often at most, to be compared with what others do.
const KEPT_OUT_EVERY: Duration = Duration::from_millis(200);
/// Nodes that are being told of blocks at once; others wait.
const TELLINGS_MAX: usize = 16;

/// Other nodes that are there, by name. One name may be there twice for a while: a node that died, and its next life.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    there: RwLock<Arc<[(NodeName, Epoch)]>>,
    /// Those that may not know which networks are blocked.
    untold: Mutex<Vec<NodeName>>,
}

impl Nodes {
    /// Names and epochs.
    pub(crate) fn now(&self) -> Arc<[(NodeName, Epoch)]> {
        Arc::clone(&self.there.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a node of this name is there.
    pub(crate) fn knows(&self, name: &NodeName) -> bool {
        self.now().iter().any(|(node, _)| node == name)
    }

    /// The names of all but this one, each once, in order.
    pub(crate) fn others(&self, own: &NodeName) -> Vec<NodeName> {
        let now = self.now();
        let mut names: Vec<_> = now.iter().map(|(node, _)| node.clone()).filter(|node| node != own).collect();
        names.dedup();
        names
    }

    /// A node may have missed which networks are blocked: it is told at the next look. Beyond [`NODES_MAX`] none is.
    pub(crate) fn missed(&self, node: &NodeName) {
        let mut untold = self.untold();
        if !untold.contains(node) && untold.len() < NODES_MAX {
            untold.push(node.clone());
        }
    }

    /// The one that waits longest to be told, to be told now.
    fn next_untold(&self) -> Option<NodeName> {
        let mut untold = self.untold();
        (!untold.is_empty()).then(|| untold.remove(0))
    }

    fn untold(&self) -> MutexGuard<'_, Vec<NodeName>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are there.
    pub(crate) fn set(&self, nodes: Vec<(NodeName, Epoch)>) {
        *self.there.write().unwrap_or_else(PoisonError::into_inner) = nodes.into();
    }
}

/// Runs until `stopped`, and then takes its leave.
pub(crate) async fn run(admin: Arc<Admin>, stopped: impl Future<Output = ()>) {
    let bus = admin.publisher.clone();
    let Some(peers) = bus.bus().peers() else { return };
    let Some(heard) = peers.hear() else { return };
    Cluster::new(&admin, peers).run(heard, stopped).await;
}

/// How often the bus was lost.
fn losses(admin: &Admin) -> u64 {
    admin.publisher.bus().stats().map_or(0, |stats| stats.losses.value())
}

/// A digest of the networks that are kept out by order.
fn kept_out(admin: &Admin) -> u64 {
    admin.block_orders.digest(blocks::tick(admin))
}

struct Cluster<'a> {
    admin: &'a Arc<Admin>,
    peers: &'a dyn Peers,
    presence: Presence,
    commands: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    tellings: Arc<Semaphore>,
    beats: u64,
    /// When it beat.
    beat_at: Instant,
    /// A node has come since then, and is to hear it soon.
    greets: bool,
    coming: Lines,
    going: Lines,
    differing: Lines,
    losses: u64,
    /// What is kept out, and when that was looked at.
    kept_out: (Instant, u64),
    was_away: bool,
}

impl<'a> Cluster<'a> {
    fn new(admin: &'a Arc<Admin>, peers: &'a dyn Peers) -> Self {
        let room = |places| Arc::new(Semaphore::new(places));
        Self {
            admin,
            peers,
            presence: Presence::new(Instant::now(), node::random()),
            commands: room(COMMANDS_MAX),
            refusals: room(REFUSALS_MAX),
            tellings: room(TELLINGS_MAX),
            beats: 0,
            beat_at: Instant::now(),
            greets: false,
            coming: Lines::new(LINES_MAX),
            going: Lines::new(LINES_MAX),
            differing: Lines::new(LINES_MAX),
            losses: losses(admin),
            kept_out: (Instant::now(), kept_out(admin)),
            was_away: admin.publisher.bus().state() == BusState::Away,
        }
    }

    async fn run(mut self, mut heard: mpsc::Receiver<Heard>, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        let (mut beats, mut looks) = (interval(BEAT_EVERY), interval(LOOK_EVERY));
        for interval in [&mut beats, &mut looks] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let greeting = self.beat_at + GREET_EVERY;
            tokio::select! {
                () = &mut stopped => return self.beat(true).await,
                _ = beats.tick() => self.beat(false).await,
                () = sleep_until(greeting), if self.greets => self.beat(false).await,
                _ = looks.tick() => self.look().await,
                heard = heard.recv() => match heard {
                    Some(heard) => self.hear(heard).await,
                    None => return,
                },
            }
        }
    }

    async fn beat(&mut self, leaves: bool) {
        self.beats += 1;
        (self.beat_at, self.greets) = (Instant::now(), false);
        let Admin { node, epoch, .. } = &**self.admin;
        let (node, epoch, number) = (node.clone(), *epoch, self.beats);
        self.peers.beat(Beat { node, epoch, number, leaves, kept_out: Some(kept_out(self.admin)) }).await;
    }

    async fn look(&mut self) {
        let losses = losses(self.admin);
        let bus = self.admin.publisher.bus();
        let is_away = bus.state() == BusState::Away;
        let was_lost = losses != self.losses;
        let is_back = !is_away && (self.was_away || was_lost);
        (self.losses, self.was_away) = (losses, is_away);
        let lost = self.presence.judge(Instant::now(), bus.is_deaf() || was_lost);
        // Those whose loss another observer told go without news.
        self.show();
        if is_back {
            self.beat(false).await;
            // They have not heard what was said meanwhile.
            for node in self.admin.nodes.others(&self.admin.node) {
                self.admin.nodes.missed(&node);
            }
        }
        self.tell_of_blocks();
        for news in lost {
            if let Some(left_out) = self.going.next(Instant::now()) {
                tracing::warn!(node = %news.node, epoch = %news.epoch, left_out, "a node is lost");
            }
            self.peers.tell(news).await;
        }
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Asked(asked) => self.obey(asked),
            Heard::Told(news) => self.presence.told(&news),
            Heard::Beat(beat) if beat.node == self.admin.node && beat.epoch == self.admin.epoch => {}
            Heard::Beat(beat) => {
                let now = Instant::now();
                let change = self.presence.heard(&beat, now);
                if change.nodes {
                    self.show();
                }
                if change.came {
                    self.tell_of_coming(&beat, now);
                    self.greets = true;
                    if beat.node != self.admin.node {
                        self.admin.nodes.missed(&beat.node);
                    }
                    self.tell_of_blocks();
                }
                self.compare(&beat);
                if let Some(news) = change.news {
                    if let Some(left_out) = self.going.next(now) {
                        tracing::warn!(node = %news.node, epoch = %news.epoch, left_out, "a node has returned");
                    }
                    self.peers.tell(news).await;
                }
            }
        }
    }

    fn tell_of_coming(&mut self, Beat { node, epoch, .. }: &Beat, now: Instant) {
        let Some(left_out) = self.coming.next(now) else { return };
        if *node == self.admin.node {
            tracing::warn!(%epoch, left_out, "another node of the bus has this one's name");
        } else {
            tracing::info!(%node, %epoch, left_out, "a node is there");
        }
    }

    /// A node that keeps out other networks than this one has missed an order, or knows of one that was missed here.
    fn compare(&mut self, beat: &Beat) {
        let now = Instant::now();
        if now.duration_since(self.kept_out.0) >= KEPT_OUT_EVERY {
            self.kept_out = (now, kept_out(self.admin));
        }
        if beat.node != self.admin.node && self.presence.disagrees(beat, self.kept_out.1, now) {
            if let Some(left_out) = self.differing.next(now) {
                tracing::info!(node = %beat.node, left_out, "keeps out other networks; it is told what is known here");
            }
            self.admin.nodes.missed(&beat.node);
            self.tell_of_blocks();
        }
    }

    fn show(&self) {
        let nodes = self.presence.nodes();
        if *nodes != *self.admin.nodes.now() {
            self.admin.nodes.set(nodes);
        }
    }

    fn tell_of_blocks(&self) {
        while let Ok(permit) = Arc::clone(&self.tellings).try_acquire_owned()
            && let Some(node) = self.admin.nodes.next_untold()
        {
            let admin = Arc::clone(self.admin);
            tokio::spawn(async move {
                blocks::tell(&admin, &node).await;
                drop(permit);
            });
        }
    }

    fn obey(&self, asked: Asked) {
        let admin = Arc::clone(self.admin);
        if let Ok(permit) = Arc::clone(&self.commands).try_acquire_owned() {
            tokio::spawn(async move {
                let reply = command::obey(&admin, &asked).await;
                answer(&admin, reply).await;
                drop((permit, asked));
            });
        } else if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            self.count(|stats| &stats.commands_refused);
            tokio::spawn(async move {
                answer(&admin, command::refuse_busy(&admin, &asked)).await;
                drop(permit);
            });
        } else {
            self.count(|stats| &stats.undelivered);
        }
    }

    fn count(&self, of: impl Fn(&BusStats) -> &Count) {
        if let Some(stats) = self.admin.publisher.bus().stats() {
            of(stats).add(1);
        }
    }
}

async fn answer(admin: &Admin, reply: Option<Reply>) {
    if let (Some(Reply { to, answer }), Some(peers)) = (reply, admin.publisher.bus().peers()) {
        peers.answer(&to, answer).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use backend::{Bus as _, proto};
    use bridge::Wake;
    use bridge::mailbox::mailbox;
    use bytes::Bytes;

    use super::*;
    use crate::admin::tests::peered::Peered;

    struct Deaf;
    impl Wake for Deaf {
        fn wake(&self) {}
    }

    #[tokio::test]
    async fn commands_beyond_those_that_may_be_obeyed_at_once_are_answered_busy_and_counted() {
        let (mailbox, _inbox) = mailbox(2 * COMMANDS_MAX, 1 << 20, Arc::new(Deaf));
        let bus = Peered::answering(proto::Answer::default());
        let admin = Arc::new(bus.node(vec![mailbox]));
        let cluster = Cluster::new(&admin, &*bus);
        let room = Arc::new(Semaphore::new(1));
        for _ in 0..COMMANDS_MAX + REFUSALS_MAX + 1 {
            let command = Bytes::from_static(br#"{"describe": {"connection": "n-1-00000007-0-0-1"}}"#);
            let room = Arc::clone(&room).try_acquire_many_owned(0).unwrap();
            cluster.obey(Asked { command, to_all: false, reply_to: Some("who asks".to_owned()), room });
        }
        let stats = bus.stats().unwrap();
        assert_eq!((stats.commands_refused.value(), stats.undelivered.value()), (REFUSALS_MAX as u64, 1));
        while bus.answered.lock().unwrap().len() < REFUSALS_MAX {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        assert_eq!(bus.answered.lock().unwrap().len(), REFUSALS_MAX, "the others wait for their shard");
    }

    #[test]
    fn a_name_that_is_there_twice_is_asked_once_and_ours_never() {
        let nodes = Nodes::default();
        let node = |name: &str, epoch| (NodeName::parse(name).unwrap(), Epoch(epoch));
        nodes.set(vec![node("a", 1), node("b", 1), node("b", 2), node("c", 1)]);
        let others = nodes.others(&node("a", 9).0);
        assert_eq!(others, [node("b", 0).0, node("c", 0).0]);
        assert!(nodes.knows(&node("c", 0).0) && !nodes.knows(&node("d", 0).0));
    }

    #[test]
    fn nodes_that_missed_something_wait_once_each_in_turn_and_no_more_than_the_bound() {
        let nodes = Nodes::default();
        let node = |number: usize| NodeName::parse(&format!("n{number}")).unwrap();
        for number in (0..NODES_MAX + 5).chain(0..5) {
            nodes.missed(&node(number));
        }
        for number in 0..NODES_MAX {
            assert_eq!(nodes.next_untold(), Some(node(number)));
        }
        assert_eq!(nodes.next_untold(), None);
    }
}
