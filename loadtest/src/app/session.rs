//! The two calls of `gateway.v1.Backend`: deciding who comes in, and one stream of events for thousands of connections.
//!
//! It owns handling: every message is sent back, slow ones later, and what is done is acknowledged in batches, whenever
//! no further event is at hand. It refuses to keep state of clients; what waits for slow handlers is bounded by the
//! windows that the gateway keeps.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::accounts::{Accounts, sender_of};
use crate::proto::ack::Range;
use crate::proto::authorize_response::Decision;
use crate::proto::backend_server::Backend;
use crate::proto::command::{Order, Send};
use crate::proto::event::Occurrence;
use crate::proto::from_gateway::Content as From;
use crate::proto::to_gateway::Content as To;
use crate::proto::{
    Ack, Allow, AuthorizeRequest, AuthorizeResponse, Command, Event, FromGateway, GoAway, Message, ToGateway,
};

/// Messages to the gateway that wait for the stream; at the bound events wait.
const ANSWERS_MAX: usize = 1024;

/// Events after which an acknowledgement goes out, however many more are at hand.
const BATCH_MAX: usize = 256;

/// Implements `gateway.v1.Backend`.
pub(super) struct Service {
    pub(super) slow: u32,
    pub(super) slow_for: Duration,
    pub(super) authorize_for: Duration,
    pub(super) accounts: Arc<Accounts>,
    /// True once the process is to end.
    pub(super) left: watch::Receiver<bool>,
}

/// Counts a decision for as long as somebody waits for it.
struct Deciding(Arc<Accounts>);

impl Drop for Deciding {
    fn drop(&mut self) {
        self.0.end_decision();
    }
}

#[tonic::async_trait]
impl Backend for Service {
    async fn authorize(&self, _: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        self.accounts.begin_decision();
        let _deciding = Deciding(self.accounts.clone());
        if !self.authorize_for.is_zero() {
            tokio::time::sleep(self.authorize_for).await;
        }
        let decision = Some(Decision::Allow(Allow::default()));
        Ok(Response::new(AuthorizeResponse { decision }))
    }

    type SessionStream = ReceiverStream<Result<ToGateway, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.accounts.begin_stream();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let (done, late) = mpsc::channel(ANSWERS_MAX);
        let session = Session {
            slow: self.slow,
            slow_for: self.slow_for,
            accounts: self.accounts.clone(),
            answers,
            done,
            position: 0,
            batch: Vec::new(),
            open: BTreeSet::new(),
            busy_until: HashMap::new(),
        };
        tokio::spawn(session.run(request.into_inner(), late, self.left.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A slow message that has been handled.
type Late = (u64, String, Message);

/// One stream.
struct Session {
    slow: u32,
    slow_for: Duration,
    accounts: Arc<Accounts>,
    answers: mpsc::Sender<Result<ToGateway, Status>>,
    done: mpsc::Sender<Late>,
    /// That of the last event.
    position: u64,
    /// Positions that are handled and not acknowledged, in the order they were done.
    batch: Vec<u64>,
    /// Positions that are being handled.
    open: BTreeSet<u64>,
    /// When the slow messages of a connection that came so far will be done.
    busy_until: HashMap<String, Instant>,
}

/// The stream is at its end: nobody takes answers any more, or the journal takes no lines.
struct Over;

impl Session {
    async fn run(
        mut self,
        mut events: Streaming<FromGateway>,
        mut late: mpsc::Receiver<Late>,
        mut left: watch::Receiver<bool>,
    ) {
        let mut going = false;
        loop {
            let step = match self.at_hand(&mut events).await {
                Some(event) => self.take(event).await,
                None => self.acknowledge().await,
            };
            if step.is_err() {
                return;
            }
            if !self.batch.is_empty() {
                continue;
            }
            let step = tokio::select! {
                event = events.message() => self.take(event).await,
                Some((position, connection, message)) = late.recv() => {
                    self.open.remove(&position);
                    self.batch.push(position);
                    self.send_back(connection, message).await
                }
                () = told_to_go(&mut left), if !going => {
                    going = true;
                    self.say(To::GoAway(GoAway {})).await
                }
            };
            if step.is_err() {
                return;
            }
        }
    }

    /// The next event, if it has come already and the batch is not full.
    async fn at_hand(
        &self,
        events: &mut Streaming<FromGateway>,
    ) -> Option<Result<Option<FromGateway>, Status>> {
        if self.batch.len() >= BATCH_MAX {
            return None;
        }
        poll_fn(|context| match Pin::new(&mut *events).poll_next(context) {
            Poll::Ready(event) => Poll::Ready(Some(event.transpose())),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn take(&mut self, event: Result<Option<FromGateway>, Status>) -> Result<(), Over> {
        match event {
            Ok(Some(FromGateway { content: Some(From::Event(event)) })) => self.handle(event).await,
            // Any answer says that we are ready.
            Ok(Some(FromGateway { content: Some(From::Hello(_)) })) => {
                self.say(To::Ack(Ack::default())).await
            }
            Ok(Some(FromGateway { content: Some(From::Gap(_)) })) => {
                self.accounts.note_gap();
                Ok(())
            }
            Ok(Some(_)) => Ok(()),
            // The gateway has no more to say, or the stream broke: what is done is acknowledged still.
            Ok(None) | Err(_) => {
                self.acknowledge().await?;
                Err(Over)
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), Over> {
        self.accounts.note(&event, self.position);
        self.position = event.position;
        let Some(Occurrence::Message(message)) = event.occurrence else {
            if matches!(event.occurrence, Some(Occurrence::Closed(_))) {
                self.busy_until.remove(&event.connection);
            }
            self.batch.push(event.position);
            return Ok(());
        };
        let sender = if self.slow > 0 { message.payload.as_ref().and_then(sender_of) } else { None };
        if sender.is_some_and(|(sender, _)| sender < self.slow) {
            self.open.insert(event.position);
            self.later(event.position, event.connection, message);
            return Ok(());
        }
        self.batch.push(event.position);
        self.send_back(event.connection, message).await
    }

    /// Handles a slow message behind those of its connection that came before.
    fn later(&mut self, position: u64, connection: String, message: Message) {
        let now = Instant::now();
        let until = self.busy_until.entry(connection.clone()).or_insert(now);
        *until = now.max(*until) + self.slow_for;
        let (until, done) = (*until, self.done.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            // The stream may have ended meanwhile: the event comes again on another.
            let _ = done.send((position, connection, message)).await;
        });
    }

    async fn send_back(&self, connection: String, message: Message) -> Result<(), Over> {
        let order = Order::Send(Send { connection, message: Some(message) });
        self.say(To::Command(Command { id: 0, order: Some(order), ..Command::default() })).await
    }

    /// Says what is done: all up to a position while nothing is being handled, else by ranges.
    async fn acknowledge(&mut self) -> Result<(), Over> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.accounts.flush().is_err() {
            return Err(Over);
        }
        let ack = if self.open.is_empty() {
            Ack { through: self.position, ranges: Vec::new() }
        } else {
            self.batch.sort_unstable();
            Ack { through: 0, ranges: ranges(&self.batch) }
        };
        self.batch.clear();
        self.say(To::Ack(ack)).await
    }

    async fn say(&self, content: To) -> Result<(), Over> {
        self.answers.send(Ok(ToGateway { content: Some(content) })).await.map_err(|_| Over)
    }
}

/// Returns when the process is to end.
async fn told_to_go(left: &mut watch::Receiver<bool>) {
    if left.wait_for(|&left| left).await.is_err() {
        // Whoever could say so is gone, and never will.
        std::future::pending::<()>().await;
    }
}

/// Positions in ascending order as ranges; never more than there are positions in a batch.
fn ranges(positions: &[u64]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for &position in positions {
        match ranges.last_mut() {
            Some(range) if range.last + 1 == position => range.last = position,
            _ => ranges.push(Range { first: position, last: position }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges(&[]), []);
        let range = |first, last| Range { first, last };
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), [range(1, 3), range(7, 7), range(9, 10)]);
    }
}
