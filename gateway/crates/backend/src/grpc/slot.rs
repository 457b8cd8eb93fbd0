//! One stream to one address, opened again whenever it ends: connect, ask for health, open, hand on what comes. Owns the
//! pauses between attempts; refuses to understand what it hands on. Run as a task by `dial`, listened to by `client`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use super::dial::{Calls, Server};
use super::health;
use super::session::{RESULTS_MAX, StreamId};
use super::stats::StreamEnd;
use crate::proto::backend_client::BackendClient;
use crate::proto::{FromGateway, ToGateway, to_gateway};

/// Batches that wait to be encoded.
const BATCHES_MAX: usize = 4;
/// Messages of an app server that are handed on together.
const WORDS_MAX: usize = 256;
/// Between two questions for health on a stream that is open.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

/// What slots tell the task of their backend.
pub(super) enum News {
    /// A stream is open.
    Opened { id: StreamId, address: SocketAddr, line: Line },
    /// The app server has said something.
    Heard { id: StreamId, words: Vec<ToGateway> },
    /// Its address is withdrawn, or it is not healthy: no new events for it.
    Withdrawn { id: StreamId },
    /// It is no more.
    Lost { id: StreamId, why: StreamEnd, detail: String },
}

/// The gateway's end of a stream. Dropping it cancels the stream; dropping `says` half-closes it.
pub(super) struct Line {
    /// Takes what is to be said.
    pub(super) says: Option<mpsc::Sender<Vec<FromGateway>>>,
    /// A permit goes back for each result that is told.
    pub(super) results: Arc<Semaphore>,
    /// The stream is cancelled when this is dropped.
    pub(super) _held: oneshot::Sender<()>,
}

/// One stream's place.
pub(super) struct Slot {
    pub(super) calls: Arc<Calls>,
    pub(super) server: Server,
    pub(super) address: SocketAddr,
    pub(super) withdrawn: watch::Receiver<bool>,
    pub(super) ids: Arc<AtomicU64>,
    pub(super) news: mpsc::Sender<News>,
    /// Rung when a batch has left: there is room for another.
    pub(super) room: Arc<Notify>,
}

impl Slot {
    /// Keeps the stream open until its address is withdrawn, or nobody listens any more.
    pub(super) async fn run(mut self) {
        let (min, max) = self.calls.backoff;
        let mut pause = min;
        let mut is_known_bad = false;
        while !*self.withdrawn.borrow() && !self.news.is_closed() {
            let started = Instant::now();
            match self.connect().await {
                Ok(channel) => {
                    is_known_bad = false;
                    self.serve(channel).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_known_bad, true) {
                        let (backend, server, address) = (&self.calls.backend, &self.server, self.address);
                        tracing::warn!(%backend, %server, %address, error, "cannot reach a server");
                    }
                }
            }
            // One that held for a while is called again soon, one that did not later and later.
            pause = if started.elapsed() >= max { min } else { (pause * 2).min(max) };
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.news.closed() => return,
                changed = self.withdrawn.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn connect(&self) -> Result<Channel, String> {
        let channel = self.calls.connect(&self.server, self.address).await?;
        if self.calls.health && !health::serves(&self.calls, channel.clone()).await {
            return Err("it says that it does not serve".to_owned());
        }
        Ok(channel)
    }

    /// Opens a stream and hands on what comes until it ends.
    async fn serve(&mut self, channel: Channel) {
        let id = StreamId(self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        let (says, batches) = mpsc::channel(BATCHES_MAX);
        let (held, mut let_go) = oneshot::channel();
        let results = Arc::new(Semaphore::new(RESULTS_MAX as usize));
        let line = Line { says: Some(says), results: Arc::clone(&results), _held: held };
        if self.news.send(News::Opened { id, address: self.address, line }).await.is_err() {
            return;
        }
        let mut request =
            Request::new(Says { batches, batch: Vec::new().into_iter(), room: Arc::clone(&self.room) });
        *request.metadata_mut() = self.calls.metadata.clone();
        let mut client =
            BackendClient::new(channel.clone()).max_decoding_message_size(self.calls.message_bytes_max);
        let (why, detail) = tokio::select! {
            _ = &mut let_go => return,
            response = client.session(request) => match response {
                Err(status) => ended_by(&status),
                Ok(response) => {
                    let mut replies = response.into_inner();
                    tokio::select! {
                        _ = &mut let_go => return,
                        ended = self.hand_on(id, &mut replies, &results, channel) => ended,
                    }
                }
            },
        };
        let _ = self.news.send(News::Lost { id, why, detail }).await;
    }

    async fn hand_on(
        &mut self,
        id: StreamId,
        replies: &mut Streaming<ToGateway>,
        results: &Semaphore,
        channel: Channel,
    ) -> (StreamEnd, String) {
        let mut health = tokio::time::interval(HEALTH_EVERY);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_withdrawn = false;
        loop {
            tokio::select! {
                words = next_words(replies) => {
                    let (words, end) = words;
                    let orders = words.iter().filter(|word| wants_result(word)).count() as u32;
                    if orders > 0 {
                        // As many results as it has not been told: no more of it is read before it has listened.
                        match results.acquire_many(orders).await {
                            Ok(permit) => permit.forget(),
                            Err(_) => return (StreamEnd::Broken, String::new()),
                        }
                    }
                    if !words.is_empty() && self.news.send(News::Heard { id, words }).await.is_err() {
                        return (StreamEnd::Ending, String::new());
                    }
                    if let Some(end) = end {
                        return end;
                    }
                }
                changed = self.withdrawn.changed(), if !is_withdrawn => {
                    is_withdrawn = true;
                    if changed.is_ok() || *self.withdrawn.borrow() {
                        let _ = self.news.send(News::Withdrawn { id }).await;
                    }
                }
                _ = health.tick(), if self.calls.health && !is_withdrawn => {
                    if !health::serves(&self.calls, channel.clone()).await {
                        is_withdrawn = true;
                        let _ = self.news.send(News::Withdrawn { id }).await;
                    }
                }
            }
        }
    }
}

const fn wants_result(word: &ToGateway) -> bool {
    matches!(&word.content, Some(to_gateway::Content::Command(command)) if command.id != 0)
}

/// What has come, at least one word unless the stream ends, and how it ended. Nothing is lost when it is dropped.
async fn next_words(replies: &mut Streaming<ToGateway>) -> (Vec<ToGateway>, Option<(StreamEnd, String)>) {
    let mut words = Vec::new();
    let end = std::future::poll_fn(|context| {
        while words.len() < WORDS_MAX {
            match Pin::new(&mut *replies).poll_next(context) {
                Poll::Ready(Some(Ok(word))) => words.push(word),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(ended_by(&status))),
                Poll::Ready(None) => return Poll::Ready(Some((StreamEnd::EndedByPeer, String::new()))),
                Poll::Pending if words.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(None),
            }
        }
        Poll::Ready(None)
    })
    .await;
    (words, end)
}

/// What a status at the end of a stream means.
fn ended_by(status: &tonic::Status) -> (StreamEnd, String) {
    let is_undecodable = status.message().starts_with("failed to decode Protobuf message");
    let why = match status.code() {
        Code::OutOfRange => StreamEnd::Nonsense,
        _ if is_undecodable => StreamEnd::Nonsense,
        _ => StreamEnd::Broken,
    };
    (why, format!("{:?}: {}", status.code(), status.message()))
}

/// What is said on a stream: batches, one message after the other, so that one wake is made for many.
struct Says {
    batches: mpsc::Receiver<Vec<FromGateway>>,
    batch: std::vec::IntoIter<FromGateway>,
    room: Arc<Notify>,
}

impl Stream for Says {
    type Item = FromGateway;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FromGateway>> {
        loop {
            if let Some(one) = self.batch.next() {
                return Poll::Ready(Some(one));
            }
            match self.batches.poll_recv(context) {
                Poll::Ready(Some(batch)) => {
                    self.batch = batch.into_iter();
                    self.room.notify_one();
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
