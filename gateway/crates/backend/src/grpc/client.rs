//! The task of one backend: it runs the [`Session`] between the shards' events and the streams, and passes orders on.
//!
//! Everything of a backend happens here, one thing after the other and many in one wake: events are gathered into
//! batches, what is settled goes out once a wake, an order without an id costs no task and no channel. Bounds: the feed
//! and the news are bounded channels, `ORDERS_WAITING_MAX` orders wait for a shard's mailbox and `ORDER_PATIENCE`
//! long, `PUBLISHES_MAX` publishes for the bus. Refuses to decide what the session decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bridge::command::NotDone;
use bridge::{Command, Epoch, Inbound, Mailbox, NodeName, Upstream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dial::{Calls, dial};
use super::order::{Order, Refusal, Status};
use super::publish::{Wanted, publish_in_turn};
use super::session::{Session, Sizes, StreamId};
use super::slot::{Line, News};
use super::stats::{SessionStats, StreamEnd};
use super::translate::{RouteNames, Translator};
use crate::bus::Publisher;
use crate::proto::{ToGateway, to_gateway};
use crate::upstream::{Feed, Settler};

/// News that may wait.
const NEWS_MAX: usize = 64;
/// Things said in one batch.
const BATCH_MAX: usize = 256;
/// Batches of events, and pieces of news, that are taken in one wake.
const TAKEN_PER_WAKE: usize = 64;
/// Orders that wait for one shard's mailbox.
const ORDERS_WAITING_MAX: usize = 4096;
/// So long an order waits for it.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);
/// Publishes that wait for their turn.
const PUBLISHES_MAX: usize = 1024;
/// A stream on which nothing more is said may go on for so long.
const LINGER: Duration = Duration::from_secs(10);
/// Between two looks at the time.
const TICK: Duration = Duration::from_millis(20);
/// The same while something waits for a mailbox.
const SHORT_TICK: Duration = Duration::from_millis(2);

/// What a backend's task is made of.
pub struct Parts {
    /// Its number.
    pub upstream: Upstream,
    /// The node's name.
    pub node: NodeName,
    /// The node's epoch.
    pub epoch: Epoch,
    /// Bounds and times.
    pub sizes: Sizes,
    /// How servers are called.
    pub calls: Calls,
    /// Largest payload of an order.
    pub payload_bytes_max: usize,
    /// How long what is under way is awaited when the node ends.
    pub grace: Duration,
    /// Names of routes.
    pub route_names: RouteNames,
    /// Events of the shards.
    pub feed: Feed,
    /// Of the shards, by number.
    pub mailboxes: Vec<Mailbox>,
    /// Publishes for it.
    pub publisher: Publisher,
    /// What it counts.
    pub stats: Arc<SessionStats>,
}

/// A stream as the task sees it.
struct Stream {
    address: SocketAddr,
    line: Line,
    is_answered: bool,
    /// Its address is not one of the backend's any more, or not healthy.
    is_withdrawn: bool,
    /// Nothing more is said on it since then.
    half_closed: Option<Instant>,
}

/// An order that waits for a mailbox.
struct Waiting {
    since: Instant,
    stream: StreamId,
    id: u64,
    order: Order,
}

/// What became of an order, and whom it concerns.
pub(super) struct Done {
    pub(super) stream: StreamId,
    pub(super) id: u64,
    pub(super) outcome: Result<(), Refusal>,
}

/// The task's state.
struct Task {
    upstream: Upstream,
    backend: Arc<str>,
    session: Session,
    translator: Translator,
    settler: Settler,
    mailboxes: Vec<Mailbox>,
    streams: BTreeMap<StreamId, Stream>,
    waiting: Vec<VecDeque<Waiting>>,
    condemned: VecDeque<bridge::Address>,
    replies: JoinSet<Done>,
    publishes: mpsc::Sender<Wanted>,
    started: Instant,
    is_all_told: bool,
    stats: Arc<SessionStats>,
}

/// Runs until the feed ends and what is under way is acknowledged, or the grace is over.
pub async fn run(parts: Parts) {
    let Parts { mut feed, grace, .. } = parts;
    let (news_sender, mut news) = mpsc::channel(NEWS_MAX);
    let (publishes, wanted) = mpsc::channel(PUBLISHES_MAX);
    let (done_sender, mut done) = mpsc::channel(NEWS_MAX);
    let room = Arc::<Notify>::default();
    let stats = Arc::clone(&parts.stats);
    tokio::spawn(publish_in_turn(parts.publisher, wanted, done_sender));
    let mut task = Task {
        upstream: parts.upstream,
        backend: Arc::clone(&parts.calls.backend),
        session: Session::new(parts.sizes, Arc::clone(&stats)),
        translator: Translator::new(
            parts.node,
            parts.epoch,
            parts.sizes,
            parts.payload_bytes_max,
            parts.route_names,
        ),
        settler: Settler::new(parts.upstream, &parts.mailboxes),
        waiting: parts.mailboxes.iter().map(|_| VecDeque::new()).collect(),
        mailboxes: parts.mailboxes,
        streams: BTreeMap::new(),
        condemned: VecDeque::new(),
        replies: JoinSet::new(),
        publishes,
        started: Instant::now(),
        is_all_told: true,
        stats: Arc::clone(&stats),
    };
    tokio::spawn(dial(Arc::new(parts.calls), news_sender, Arc::clone(&room), stats));
    let mut ending: Option<Instant> = None;
    let tick = tokio::time::sleep(TICK);
    tokio::pin!(tick);
    while !ending.is_some_and(|deadline| task.session.events() == 0 || Instant::now() >= deadline) {
        tokio::select! {
            batch = feed.recv(), if ending.is_none() => match batch {
                Some(batch) => task.take_in(batch),
                None => ending = Some(Instant::now() + grace),
            },
            Some(one) = news.recv() => task.hear(one),
            Some(one) = done.recv() => task.answer(one),
            Some(Ok(one)) = task.replies.join_next(), if !task.replies.is_empty() => task.answer(one),
            () = room.notified() => {}
            () = &mut tick => {
                task.tick();
                tick.as_mut().reset(Instant::now() + TICK);
            }
        }
        for _ in 0..TAKEN_PER_WAKE {
            let Ok(batch) = feed.try_recv() else { break };
            task.take_in(batch);
        }
        for _ in 0..TAKEN_PER_WAKE {
            let Ok(one) = news.try_recv() else { break };
            task.hear(one);
        }
        while let Some(Ok(one)) = task.replies.try_join_next() {
            task.answer(one);
        }
        task.act();
        let soon = Instant::now() + SHORT_TICK;
        if task.waits() && tick.deadline() > soon {
            tick.as_mut().reset(soon);
        }
    }
    task.finish(&mut news).await;
}

impl Task {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether something waits for a mailbox.
    fn waits(&self) -> bool {
        !self.is_all_told || !self.condemned.is_empty() || self.waiting.iter().any(|one| !one.is_empty())
    }

    fn take_in(&mut self, batch: Vec<Inbound>) {
        for inbound in batch {
            self.session.take_in(inbound);
        }
    }

    fn hear(&mut self, news: News) {
        let now_ms = self.now_ms();
        match news {
            News::Opened { id, address, line } => {
                self.session.opened(id, now_ms);
                self.streams.insert(
                    id,
                    Stream { address, line, is_answered: false, is_withdrawn: false, half_closed: None },
                );
            }
            News::Heard { id, words } => {
                let Some(stream) = self.streams.get_mut(&id) else { return };
                if !std::mem::replace(&mut stream.is_answered, true) {
                    tracing::info!(backend = %self.backend, address = %stream.address, "a stream is open");
                }
                self.session.heard(id, now_ms);
                for word in words {
                    self.obey(id, word, now_ms);
                }
            }
            News::Withdrawn { id } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.is_withdrawn = true;
                }
                self.session.going_away(id, now_ms);
            }
            News::Lost { id, why, detail } => {
                let Some(stream) = self.streams.remove(&id) else { return };
                let why = if stream.is_withdrawn { StreamEnd::Withdrawn } else { why };
                let (backend, address) = (&self.backend, stream.address);
                tracing::info!(%backend, %address, reason = why.label(), detail, "a stream has ended");
                self.session.lost(id, why, now_ms);
            }
        }
    }

    fn obey(&mut self, stream: StreamId, word: ToGateway, now_ms: u64) {
        match word.content {
            Some(to_gateway::Content::Ack(ack)) => {
                let ranges = ack.ranges.iter().map(|range| (range.first, range.last));
                self.session.acknowledged(stream, ack.through, ranges, now_ms);
            }
            Some(to_gateway::Content::Command(command)) => {
                let id = command.id;
                let order = self.translator.read(command);
                if let Some(order) = self.session.ordered(stream, id, order, now_ms) {
                    self.pass_on(stream, id, order);
                }
            }
            Some(to_gateway::Content::GoAway(_)) => self.session.going_away(stream, now_ms),
            // Of a newer protocol: it says that the stream lives.
            None => {}
        }
    }

    fn pass_on(&mut self, stream: StreamId, id: u64, order: Order) {
        let Some(whom) = order.whom() else {
            if self.publishes.try_send(Wanted { stream, id, order }).is_err() {
                self.refuse(
                    stream,
                    id,
                    Refusal::new(Status::Unavailable, "too many publishes wait for the bus"),
                );
            }
            return;
        };
        let shard = usize::from(whom.shard);
        let Some(waiting) = self.waiting.get_mut(shard) else {
            return self.refuse(stream, id, Refusal::from(NotDone::Gone));
        };
        let waits = Waiting { since: Instant::now(), stream, id, order };
        // In the order they came: behind those that wait.
        if waiting.len() >= ORDERS_WAITING_MAX {
            return self.refuse(stream, id, BUSY);
        }
        waiting.push_back(waits);
        if waiting.len() == 1 {
            self.post(shard);
        }
    }

    /// Puts orders that wait into a shard's mailbox, as far as it has room.
    fn post(&mut self, shard: usize) {
        let (Some(waiting), Some(mailbox)) = (self.waiting.get_mut(shard), self.mailboxes.get(shard)) else {
            return;
        };
        while let Some(one) = waiting.front() {
            let bytes =
                if let Order::Send { message, .. } = &one.order { message.payload().len() } else { 0 };
            let Ok(place) = mailbox.reserve(bytes) else { return };
            let Some(Waiting { stream, id, order, .. }) = waiting.pop_front() else { return };
            let reply = (id != 0).then(|| {
                let (reply, outcome) = oneshot::channel::<Result<(), NotDone>>();
                self.replies.spawn(async move {
                    let outcome = match outcome.await {
                        Ok(outcome) => outcome.map_err(Refusal::from),
                        Err(_) => Err(Refusal::new(Status::Unavailable, "the gateway is ending")),
                    };
                    Done { stream, id, outcome }
                });
                reply
            });
            match order.command(self.upstream, reply) {
                Some(command) => place.send(command),
                None => debug_assert!(false, "a publish goes another way"),
            }
        }
    }

    fn answer(&mut self, Done { stream, id, outcome }: Done) {
        match outcome {
            Ok(()) => self.session.answer(stream, id, Status::Ok, ""),
            Err(refusal) => self.refuse(stream, id, refusal),
        }
    }

    fn refuse(&mut self, stream: StreamId, id: u64, refusal: Refusal) {
        self.session.answer(stream, id, refusal.status, refusal.detail);
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.session.tick(now_ms);
        for shard in 0..self.waiting.len() {
            self.post(shard);
            while let Some(one) =
                self.waiting[shard].pop_front_if(|one| one.since.elapsed() >= ORDER_PATIENCE)
            {
                self.refuse(one.stream, one.id, BUSY);
            }
        }
        let lingering = |stream: &Stream| stream.half_closed.is_some_and(|since| since.elapsed() >= LINGER);
        let over: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| lingering(stream)).map(|(id, _)| *id).collect();
        for id in over {
            self.streams.remove(&id);
            self.session.lost(id, StreamEnd::EndedByPeer, now_ms);
        }
        let up: BTreeSet<SocketAddr> = self
            .streams
            .values()
            .filter(|stream| stream.is_answered && stream.half_closed.is_none())
            .map(|stream| stream.address)
            .collect();
        self.stats.endpoints_up.set(up.len() as u64);
    }

    /// Does what the session wants done, and says what is to be said.
    fn act(&mut self) {
        let now_ms = self.now_ms();
        let due = std::mem::take(self.session.due());
        for settled in due.settled {
            self.settler.settle(settled);
        }
        self.is_all_told = self.settler.flush();
        for (id, why) in due.ended {
            if let Some(stream) = self.streams.remove(&id) {
                let (backend, address) = (&self.backend, stream.address);
                tracing::warn!(%backend, %address, reason = why.label(), "ended a stream");
            }
        }
        self.condemned.extend(due.condemned);
        self.close_condemned();
        for (id, stream) in &mut self.streams {
            let Some(says) = &stream.line.says else { continue };
            while self.session.has_more(*id) {
                let Ok(place) = says.try_reserve() else { break };
                let mut batch = Vec::new();
                let mut results = 0;
                self.session.say(*id, BATCH_MAX, now_ms, |told| {
                    results += usize::from(matches!(told, super::session::Told::Result { .. }));
                    batch.push(self.translator.write(told));
                });
                stream.line.results.add_permits(results);
                if batch.is_empty() {
                    break;
                }
                place.send(batch);
            }
        }
        for id in due.half_close {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.line.says = None;
                stream.half_closed = Some(Instant::now());
            }
        }
    }

    /// Closes connections for which the backend does not answer.
    fn close_condemned(&mut self) {
        while let Some(whom) = self.condemned.front().copied() {
            let Some(mailbox) = self.mailboxes.get(usize::from(whom.shard)) else { return };
            let Ok(place) = mailbox.reserve(0) else { return };
            self.condemned.pop_front();
            place.send(Command::GiveUp { whom });
        }
    }

    /// Half-closes all streams and gives app servers a moment to end them.
    async fn finish(mut self, news: &mut mpsc::Receiver<News>) {
        self.act();
        self.session.finish();
        for stream in self.streams.values_mut() {
            stream.line.says = None;
        }
        let deadline = Instant::now() + ORDER_PATIENCE;
        while !self.streams.is_empty() {
            match tokio::time::timeout_at(deadline, news.recv()).await {
                Ok(Some(News::Lost { id, .. })) => {
                    self.streams.remove(&id);
                    let now_ms = self.now_ms();
                    self.session.lost(id, StreamEnd::Ending, now_ms);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

const BUSY: Refusal = Refusal::new(Status::Unavailable, "a shard's mailbox is full");
