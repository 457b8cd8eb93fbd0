//! The connection that writes streams: does what [`super::streams`] says, and settles what Redis has.
//!
//! Nothing is written while the bus is away, though this connection may stand: an app server would answer at once, and
//! this node not hear it. Whatever happens, the feed is read on: the pump must not wait. What waits meanwhile is bounded by
//! the shards' quota. A route that does not want to wait while the bus is away says so; its events are given up then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bridge::inbound::Occurrence;
use bridge::{Command, Inbound};
use redis::RedisResult;
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::Writer;
use super::health::{Health, Part, Standing};
use super::keys::Keys;
use super::link::{Backoff, Connected, Link, Problem, is_loss};
use super::orders;
use super::streams::{Added, Gap, Group, Step, StreamKey, Streams};
use crate::bus_stats::BusStats;
use crate::closing::Closing;
use crate::complaints::Complaints;
use crate::joint::{OnLoss, RouteOnBus, Routes};
use crate::upstream::{Feed, Settler};

/// What shards could not be told they are told so much later.
const SETTLE_RETRY: Duration = Duration::from_millis(5);
/// When the program ends, so long is waited for what is not in a stream yet.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// What it works with.
pub(crate) struct InboundTask {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    pub(crate) writer: Writer,
    pub(crate) streams: Streams,
    pub(crate) feed: Feed,
    pub(crate) settler: Settler,
    pub(crate) closing: Closing,
    pub(crate) routes: Arc<Routes>,
    pub(crate) partitions: u16,
    pub(crate) health: Arc<Health>,
    pub(crate) stats: Arc<BusStats>,
}

/// How what was under way ended.
enum Outcome {
    Connected(Result<Connected, Problem>),
    Added(RedisResult<(Vec<Added>, Option<String>)>),
    Surveyed(StreamKey, RedisResult<(u64, Vec<Group>)>),
    Trimmed(StreamKey, RedisResult<u64>),
}

type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How things are between two pieces of work.
struct Stage {
    started: Instant,
    connected: Option<Connected>,
    backoff: Backoff,
    routes: Arc<[RouteOnBus]>,
    standing: watch::Receiver<Standing>,
    /// The loss at which events of routes that do not wait were given up.
    given_up: Option<u64>,
    complaints: Complaints,
}

impl Stage {
    /// All of the bus is there.
    fn is_up(&self) -> bool {
        self.standing.borrow().is_up
    }
}

impl InboundTask {
    /// Goes on until the feed ends and everything is in its stream, or a moment has passed since.
    pub(crate) async fn run(mut self) {
        let now = Instant::now();
        let routes = self.routes.now();
        let mut stage = Stage {
            started: now,
            connected: None,
            backoff: Backoff::default(),
            routes,
            standing: self.health.standing(),
            given_up: None,
            complaints: Complaints::default(),
        };
        let mut work: Option<Work> = Some(self.connect(Duration::ZERO));
        let mut rest_until = None;
        let mut gaps = self.health.gaps();
        let (mut is_fed, mut end) = (true, now);
        loop {
            let is_told = self.settler.flush();
            if !is_fed && is_told && self.streams.waiting() == 0 {
                return;
            }
            self.give_up_what_waits(&mut stage);
            if work.is_none() {
                match self.next(&mut stage) {
                    Next::Work(next) => work = Some(next),
                    Next::Rest(until) => rest_until = until,
                }
            }
            tokio::select! {
                outcome = finished(&mut work, &stage.connected) => {
                    work = None;
                    match outcome {
                        Ok(outcome) => self.heard(outcome, &mut stage),
                        Err(problem) => self.lost(problem, &mut stage),
                    }
                }
                events = self.feed.recv(), if is_fed => match events {
                    Some(events) => self.take(events, &mut stage),
                    None => (is_fed, end) = (false, Instant::now() + LAST_EVENTS),
                },
                () = rest(rest_until), if work.is_none() => {}
                Ok(()) = stage.standing.changed() => {}
                Ok(()) = gaps.changed() => {
                    let gap = self.health.take_gap();
                    self.tell(gap, &mut stage);
                }
                () = tokio::time::sleep(SETTLE_RETRY), if !is_told => {}
                () = tokio::time::sleep_until(end), if !is_fed => return,
            }
        }
    }

    fn take(&mut self, events: Vec<Inbound>, stage: &mut Stage) {
        stage.routes = self.routes.now();
        let is_away = !stage.is_up();
        for inbound in events {
            let on_loss = on_loss(&stage.routes, inbound.route);
            if is_away && on_loss != OnLoss::Pause {
                self.give_up(&inbound, on_loss);
            } else {
                self.streams.push(inbound);
            }
        }
    }

    /// App servers hear of a gap in every stream of theirs.
    fn tell(&mut self, gap: Option<Gap>, stage: &mut Stage) {
        stage.routes = self.routes.now();
        let Some(gap) = gap else { return };
        for (route, _) in (0u16..).zip(&*stage.routes).filter(|(_, route)| route.tells_bus) {
            for partition in 0..self.partitions {
                self.streams.tell_gap(StreamKey { route, partition }, gap);
            }
        }
    }

    /// It is not waited for.
    fn give_up(&mut self, inbound: &Inbound, on_loss: OnLoss) {
        self.stats.inbound_left_out.add(1);
        self.settler.settle(inbound.settled());
        if on_loss == OnLoss::Close && matches!(inbound.occurrence, Occurrence::Message { .. }) {
            self.closing.send(inbound.address, |whom| Command::GiveUp { whom });
        }
    }

    fn connect(&self, pause: Duration) -> Work {
        let link = self.link.clone();
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Outcome::Connected(link.connect().await)
        })
    }

    fn next(&mut self, stage: &mut Stage) -> Next {
        let Some(connection) = stage.connected.as_ref().map(|connected| connected.connection.clone()) else {
            return Next::Work(self.connect(stage.backoff.next()));
        };
        let now_ms = stage.started.elapsed().as_millis() as u64;
        let step = if stage.is_up() { self.streams.step(now_ms) } else { Step::Wait(None) };
        let work: Work = match step {
            Step::Add => {
                let order = orders::Add::new(&self.keys, &self.writer, &stage.routes, &self.streams);
                Box::pin(async move { Outcome::Added(order.run(connection).await) })
            }
            Step::Survey(key) => {
                let stream = self.stream(&stage.routes, key);
                Box::pin(async move { Outcome::Surveyed(key, orders::survey(connection, &stream).await) })
            }
            Step::Trim(key, before) => {
                let stream = self.stream(&stage.routes, key);
                Box::pin(
                    async move { Outcome::Trimmed(key, orders::trim(connection, &stream, before).await) },
                )
            }
            Step::Wait(until) => {
                return Next::Rest(until.map(|ms| stage.started + Duration::from_millis(ms)));
            }
        };
        Next::Work(work)
    }

    fn stream(&self, routes: &[RouteOnBus], key: StreamKey) -> String {
        orders::stream(&self.keys, routes, key)
    }

    fn heard(&mut self, outcome: Outcome, stage: &mut Stage) {
        let now_ms = stage.started.elapsed().as_millis() as u64;
        let loss = match outcome {
            Outcome::Connected(Ok(connected)) => {
                self.health.up(Part::Adding, Arc::clone(&connected.heard));
                stage.connected = Some(connected);
                stage.backoff.reset();
                None
            }
            Outcome::Connected(Err(problem)) => Some(problem),
            Outcome::Added(Ok((outcomes, refusal))) => {
                if let Some(refusal) = refusal {
                    stage.complaints.hear(&refusal);
                }
                let (streams, settler, stats) = (&mut self.streams, &mut self.settler, &self.stats);
                streams.added(&outcomes, now_ms, |settled| {
                    stats.inbound.add(u64::from(settled.events));
                    settler.settle(settled);
                });
                None
            }
            Outcome::Added(Err(error)) if is_loss(&error) => Some(error.to_string()),
            Outcome::Added(Err(error)) => {
                self.stats.inbound_retries.add(self.streams.events_under_way() as u64);
                stage.complaints.hear(&error.to_string());
                let refused = vec![Added::Refused; self.streams.under_way().len()];
                self.streams.added(&refused, now_ms, |_| ());
                None
            }
            Outcome::Surveyed(key, Ok((length, groups))) => {
                self.streams.surveyed(key, length, &groups, now_ms);
                self.tell_if_full(key, length, stage);
                None
            }
            Outcome::Trimmed(key, Ok(length)) => {
                self.streams.trimmed(key, length, now_ms);
                self.tell_if_full(key, length, stage);
                None
            }
            Outcome::Surveyed(_, Err(error)) | Outcome::Trimmed(_, Err(error)) if is_loss(&error) => {
                Some(error.to_string())
            }
            Outcome::Surveyed(key, Err(error)) | Outcome::Trimmed(key, Err(error)) => {
                stage.complaints.hear(&error.to_string());
                self.streams.hold(key, now_ms);
                None
            }
        };
        if let Some(problem) = loss {
            self.lost(problem, stage);
        }
    }

    /// There was nothing to trim, and there is no room.
    fn tell_if_full(&self, key: StreamKey, length: u64, stage: &Stage) {
        if self.streams.is_held(key) {
            let stream = self.stream(&stage.routes, key);
            stage.complaints.hear(&format!(
                "{stream} is full: {length} entries that some group has not acknowledged, or that no group is there for"
            ));
        }
    }

    fn lost(&mut self, problem: Problem, stage: &mut Stage) {
        stage.connected = None;
        self.health.lost(Part::Adding, problem);
        self.stats.inbound_retries.add(self.streams.events_under_way() as u64);
        self.streams.lost();
    }

    /// After each loss, once: events of routes that do not want to wait. What is under way may be in.
    fn give_up_what_waits(&mut self, stage: &mut Stage) {
        let Standing { is_up, losses } = *stage.standing.borrow();
        if is_up || stage.given_up == Some(losses) || !self.streams.under_way().is_empty() {
            return;
        }
        stage.given_up = Some(losses);
        let routes = self.routes.now();
        for inbound in self.streams.take_out(|route| on_loss(&routes, route) != OnLoss::Pause) {
            self.give_up(&inbound, on_loss(&routes, inbound.route));
        }
    }
}

/// How the work ends, or the connection before it; never without either.
async fn finished(work: &mut Option<Work>, connected: &Option<Connected>) -> Result<Outcome, Problem> {
    let work = async {
        match work {
            Some(work) => work.await,
            None => std::future::pending().await,
        }
    };
    match connected {
        Some(connected) => connected.unless_over(work).await,
        None => Ok(work.await),
    }
}

/// Waits until then; without an end when nothing is due.
async fn rest(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

enum Next {
    Work(Work),
    /// Until then, if something is due then.
    Rest(Option<Instant>),
}

fn on_loss(routes: &[RouteOnBus], route: u16) -> OnLoss {
    routes.get(usize::from(route)).map_or(OnLoss::Pause, |route| route.on_loss)
}
