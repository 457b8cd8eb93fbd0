//! Asks app servers who may come in: the task of one backend's authorizer.
//!
//! One queue, first come first served, of a bounded length; a bounded number of calls under way; whoever finds no room, or
//! waits longer than a decision may take, is refused at once with a time to come again. Calls go round the servers that
//! are up. One that cannot be reached is left alone for a while, longer each time, and the question goes to another.
//! Owns all of that; refuses to judge answers, which `words` does, and to find servers, which `places` does.

mod places;
mod stats;
mod words;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bridge::authorize::Refused;
use bridge::{Address, Authorize, Command, Decision, Epoch, Mailbox, NodeName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use tonic::transport::Channel;

pub use stats::{AuthorizeStats, DURATION_BOUNDS_US, Outcome};

use self::places::Places;
use self::words::Words;
use super::dial::Calls;
use super::translate::RouteNames;
use crate::proto::backend_client::BackendClient;
use crate::proto::{AuthorizeRequest, AuthorizeResponse};
use crate::upstream::Questions;

/// Servers that one question is put to.
const ATTEMPTS_MAX: u32 = 3;
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// News of servers that may wait.
const SEEN_MAX: usize = 64;
/// Decisions that found a full mailbox are offered again after this.
const OFFER_AGAIN: Duration = Duration::from_millis(2);
/// Whoever is refused for want of room is asked to come again within so many seconds, each at another one.
const RETRY_SPREAD_S: u64 = 5;

/// What an authorizer's task is made of.
pub struct Authorizer {
    /// How servers are called.
    pub calls: Arc<Calls>,
    /// How long a decision may take; and how long a question may wait for a call.
    pub timeout: Duration,
    /// Calls under way.
    pub concurrency: usize,
    /// Questions that wait for one of those.
    pub queue: usize,
    /// The node's name.
    pub node: NodeName,
    /// The node's epoch.
    pub epoch: Epoch,
    /// Names of routes.
    pub route_names: RouteNames,
    /// What shards ask.
    pub questions: Questions,
    /// Of the shards, by number.
    pub mailboxes: Vec<Mailbox>,
    /// What it counts.
    pub stats: Arc<AuthorizeStats>,
}

/// A question that waits for a call.
struct Waiting {
    question: Box<Authorize>,
    since: Instant,
    attempts: u32,
}

/// How a call went.
struct Done {
    waiting: Waiting,
    place: SocketAddr,
    took: Duration,
    answer: Result<AuthorizeResponse, Outcome>,
}

struct Task {
    calls: Arc<Calls>,
    timeout: Duration,
    concurrency: usize,
    queue_max: usize,
    words: Words,
    places: Places,
    queue: VecDeque<Waiting>,
    under_way: JoinSet<Done>,
    /// Decisions whose shard had no room. The shards' bound of handshakes bounds them.
    unsent: VecDeque<(Address, Decision)>,
    mailboxes: Vec<Mailbox>,
    /// Refusals of ours so far, to spread those who come again.
    sent_away: u64,
    stats: Arc<AuthorizeStats>,
}

impl Authorizer {
    /// Runs until nobody asks any more.
    pub async fn run(self) {
        let mut questions = self.questions;
        let mut task = Task {
            places: Places::new(self.calls.backoff),
            calls: self.calls,
            timeout: self.timeout,
            concurrency: self.concurrency,
            queue_max: self.queue,
            words: Words::new(self.node, self.epoch, self.route_names),
            queue: VecDeque::new(),
            under_way: JoinSet::new(),
            unsent: VecDeque::new(),
            mailboxes: self.mailboxes,
            sent_away: 0,
            stats: self.stats,
        };
        // Nobody is called before the first question: a backend may be there for events alone.
        let Some(first) = questions.recv().await else { return };
        let (seen, mut news) = mpsc::channel(SEEN_MAX);
        tokio::spawn(places::scout(Arc::clone(&task.calls), seen));
        task.take(first);
        loop {
            task.act();
            let next_look = task.next_look();
            tokio::select! {
                question = questions.recv() => match question {
                    Some(question) => task.take(question),
                    None => return,
                },
                Some(Ok(done)) = task.under_way.join_next() => task.done(done),
                Some(seen) = news.recv() => task.places.see(seen),
                () = tokio::time::sleep_until(next_look) => {}
            }
        }
    }
}

impl Task {
    /// Somebody asks.
    fn take(&mut self, question: Box<Authorize>) {
        let waiting = Waiting { question, since: Instant::now(), attempts: 0 };
        if self.queue.len() < self.queue_max || self.has_a_call_for_one_more() {
            self.queue.push_back(waiting);
            self.ask();
        } else {
            self.send_away(&waiting, Outcome::QueueFull);
        }
    }

    /// Whether a question would not have to wait.
    fn has_a_call_for_one_more(&self) -> bool {
        self.queue.len() + self.under_way.len() < self.concurrency
    }

    /// Does what is due.
    fn act(&mut self) {
        let now = Instant::now();
        while let Some(waiting) = self.queue.pop_front_if(|front| now >= front.since + self.timeout) {
            let outcome = if self.places.is_empty() { Outcome::Unavailable } else { Outcome::QueueTimeout };
            self.send_away(&waiting, outcome);
        }
        self.ask();
        self.offer_unsent();
        self.stats.queued.set(self.queue.len() as u64);
        self.stats.under_way.set(self.under_way.len() as u64);
        self.stats.servers_up.set(self.places.len() as u64);
    }

    /// When it has to be looked at again, whatever happens until then.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let offer = (!self.unsent.is_empty()).then(|| now + OFFER_AGAIN);
        let expiry = self.queue.front().map(|front| front.since + self.timeout);
        let place = (!self.queue.is_empty()).then(|| self.places.next_up(now)).flatten();
        let times = [offer, expiry, place];
        times.into_iter().flatten().min().unwrap_or_else(|| now + Duration::from_secs(3600))
    }

    /// Puts the questions that have waited longest to servers, as many as may be.
    fn ask(&mut self) {
        while self.under_way.len() < self.concurrency && !self.queue.is_empty() {
            let now = Instant::now();
            let Some((place, channel)) = self.places.next(now) else { return };
            let Some(mut waiting) = self.queue.pop_front() else { return };
            waiting.attempts += 1;
            let mut request = Request::new(self.words.request(&waiting.question));
            *request.metadata_mut() = self.calls.metadata.clone();
            request.set_timeout(self.timeout);
            let deadline = now + self.timeout;
            self.under_way.spawn(async move {
                let answer = call(channel, request, deadline).await;
                Done { waiting, place, took: now.elapsed(), answer }
            });
        }
    }

    fn done(&mut self, done: Done) {
        let Done { waiting, place, took, answer } = done;
        self.stats.duration_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let now = Instant::now();
        match answer {
            Err(outcome @ (Outcome::Unavailable | Outcome::Timeout)) => {
                self.places.failed(place, now);
                let may_ask_again = outcome == Outcome::Unavailable
                    && waiting.attempts < ATTEMPTS_MAX
                    && now < waiting.since + self.timeout;
                if may_ask_again {
                    // It was the first of its time, and still is.
                    self.queue.push_front(waiting);
                } else {
                    self.send_away(&waiting, outcome);
                }
            }
            Err(outcome) => {
                self.places.answered(place);
                self.send_away(&waiting, outcome);
            }
            Ok(answer) => {
                self.places.answered(place);
                match words::decision(&waiting.question, answer) {
                    Ok(decision) => {
                        let is_in = matches!(decision, Decision::Allow(_));
                        self.count(if is_in { Outcome::Allowed } else { Outcome::Refused });
                        self.tell(waiting.question.address, decision);
                    }
                    Err(nonsense) => {
                        tracing::warn!(backend = %self.calls.backend, server = %place, nonsense, "an answer that is none");
                        self.send_away(&waiting, Outcome::Nonsense);
                    }
                }
            }
        }
    }

    /// Nobody decided: 503, and another time to come again for each.
    fn send_away(&mut self, waiting: &Waiting, outcome: Outcome) {
        self.count(outcome);
        self.sent_away += 1;
        let retry_after_s = Some(1 + (self.sent_away % RETRY_SPREAD_S) as u32);
        let refused = Refused { status: 503, reason: "".into(), retry_after_s, is_ours: true };
        self.tell(waiting.question.address, Decision::Refuse(refused));
    }

    fn count(&self, outcome: Outcome) {
        self.stats.outcomes[outcome as usize].add(1);
    }

    fn tell(&mut self, whom: Address, decision: Decision) {
        self.unsent.push_back((whom, decision));
        self.offer_unsent();
    }

    /// Decisions go out in their order, as far as mailboxes have room.
    fn offer_unsent(&mut self) {
        while let Some((whom, _)) = self.unsent.front() {
            let Some(mailbox) = self.mailboxes.get(usize::from(whom.shard)) else {
                debug_assert!(false, "only shards ask");
                self.unsent.pop_front();
                continue;
            };
            let Ok(place) = mailbox.reserve(0) else { return };
            if let Some((whom, decision)) = self.unsent.pop_front() {
                place.send(Command::Authorized { whom, decision: Box::new(decision) });
            }
        }
    }
}

/// One call, with a deadline of our own: a server that does not keep to it may not answer at all.
async fn call(
    channel: Channel,
    request: Request<AuthorizeRequest>,
    deadline: Instant,
) -> Result<AuthorizeResponse, Outcome> {
    let mut client = BackendClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    match timeout_at(deadline, client.authorize(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Outcome::of(&status)),
        Err(_) => Err(Outcome::Timeout),
    }
}
