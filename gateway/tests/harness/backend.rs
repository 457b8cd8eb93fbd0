//! An app server as users write them: `gateway.v1.Backend` over real sockets, on a thread with a runtime of its own. What
//! it does with an event is the test's; what it saw is kept. It can be killed at any moment and started again on its port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use backend::proto::backend_server::{Backend, BackendServer};
use backend::proto::command::Order;
use backend::proto::{
    Ack, AuthorizeRequest, AuthorizeResponse, Command, Event, FromGateway, GoAway, Hello, Message,
    Result as Done, ToGateway, event, from_gateway, message, to_gateway,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::eventually;
use super::servers::free_port;

/// What an app server may say ahead of the gateway's reading.
const WORDS_MAX: usize = 65_536;

/// What is to be done with an event.
pub(crate) type Conduct = Arc<dyn Fn(&Line, Event) + Send + Sync>;

/// What all processes of an app server have seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Every event, in the order they came.
    pub(crate) events: Vec<Event>,
    /// Results by the id of their command.
    pub(crate) results: HashMap<u64, Done>,
    /// Sessions that were opened.
    pub(crate) sessions: usize,
    /// Of the last session.
    pub(crate) metadata: MetadataMap,
    /// What the gateway said first in it.
    pub(crate) hello: Option<Hello>,
}

/// What an app server has beside sessions.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    /// Answers for health; `None` knows nothing of it.
    pub(crate) health: Option<HealthReporter>,
    /// Speaks TLS.
    pub(crate) tls: Option<TlsAcceptor>,
}

/// The app server's end of a stream.
#[derive(Clone)]
pub(crate) struct Line {
    words: mpsc::Sender<Result<ToGateway, Status>>,
    number: usize,
}

/// A process that listens.
pub(crate) struct AppServer {
    /// Where.
    pub(crate) address: SocketAddr,
    /// What it has seen; survives it.
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// The lines that are open, the newest last.
    lines: Arc<Mutex<Vec<Line>>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Says anything.
    pub(crate) fn say(&self, content: to_gateway::Content) {
        // The stream may be gone; nobody is left to tell.
        let _ = self.words.try_send(Ok(ToGateway { content: Some(content) }));
    }

    /// Acknowledges one event.
    pub(crate) fn ack(&self, event: &Event) {
        self.ack_range(event.position, event.position);
    }

    /// Acknowledges a range.
    pub(crate) fn ack_range(&self, first: u64, last: u64) {
        let ranges = vec![backend::proto::ack::Range { first, last }];
        self.say(to_gateway::Content::Ack(Ack { through: 0, ranges }));
    }

    /// Gives an order.
    pub(crate) fn order(&self, id: u64, order: Order) {
        self.say(to_gateway::Content::Command(Command { id, order: Some(order), ..Command::default() }));
    }

    /// Sends text to a connection.
    pub(crate) fn send(&self, id: u64, connection: &str, text: &str) {
        let message = Some(Message { payload: Some(message::Payload::Text(text.to_owned())) });
        self.order(
            id,
            Order::Send(backend::proto::command::Send { connection: connection.to_owned(), message }),
        );
    }

    /// Says goodbye.
    pub(crate) fn go_away(&self) {
        self.say(to_gateway::Content::GoAway(GoAway {}));
    }
}

/// The text of a message event.
pub(crate) fn text(event: &Event) -> Option<&str> {
    match &event.occurrence {
        Some(event::Occurrence::Message(Message { payload: Some(message::Payload::Text(text)) })) => {
            Some(text)
        }
        _ => None,
    }
}

/// Answers a message with its text and acknowledges everything.
pub(crate) fn echo() -> Conduct {
    Arc::new(|line, event| {
        if let Some(text) = text(&event) {
            line.send(0, &event.connection, text);
        }
        line.ack(&event);
    })
}

struct Service {
    conduct: Conduct,
    lines: Arc<Mutex<Vec<Line>>>,
    seen: Arc<Mutex<Seen>>,
}

/// What is said to the gateway.
struct Words(mpsc::Receiver<Result<ToGateway, Status>>);

impl Stream for Words {
    type Item = Result<ToGateway, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[tonic::async_trait]
impl Backend for Service {
    async fn authorize(&self, _: Request<AuthorizeRequest>) -> Result<Response<AuthorizeResponse>, Status> {
        Err(Status::unimplemented("nobody is asked"))
    }

    type SessionStream = Words;

    async fn session(&self, request: Request<Streaming<FromGateway>>) -> Result<Response<Words>, Status> {
        let (words, receiver) = mpsc::channel(WORDS_MAX);
        let (conduct, seen) = (Arc::clone(&self.conduct), Arc::clone(&self.seen));
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.sessions += 1;
            seen.metadata.clone_from(request.metadata());
            seen.sessions
        };
        let line = Line { words, number };
        let lines = Arc::clone(&self.lines);
        let mut stream = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(FromGateway { content: Some(content) })) = stream.message().await {
                match content {
                    from_gateway::Content::Hello(hello) => {
                        seen.lock().unwrap().hello = Some(hello);
                        lines.lock().unwrap().push(line.clone());
                        line.say(to_gateway::Content::Ack(Ack::default()));
                    }
                    from_gateway::Content::Event(event) => {
                        seen.lock().unwrap().events.push(event.clone());
                        conduct(&line, event);
                    }
                    from_gateway::Content::Result(result) => {
                        seen.lock().unwrap().results.insert(result.command_id, result);
                    }
                    from_gateway::Content::Gap(_) => {}
                }
            }
            // The gateway has no more to say, so the stream ends.
            lines.lock().unwrap().retain(|one| one.number != line.number);
        });
        Ok(Response::new(Words(receiver)))
    }
}

impl AppServer {
    /// One on a port of its own.
    pub(crate) fn start(conduct: Conduct) -> Self {
        Self::start_at(anywhere(), conduct, Arc::default())
    }

    /// One at this address, which goes on with what another has seen.
    pub(crate) fn start_at(address: SocketAddr, conduct: Conduct, seen: Arc<Mutex<Seen>>) -> Self {
        Self::start_as(address, conduct, seen, Manner::default())
    }

    /// One on a port of its own that has more than sessions.
    pub(crate) fn start_with(conduct: Conduct, manner: Manner) -> Self {
        Self::start_as(anywhere(), conduct, Arc::default(), manner)
    }

    fn start_as(address: SocketAddr, conduct: Conduct, seen: Arc<Mutex<Seen>>, manner: Manner) -> Self {
        let (kill, killed) = oneshot::channel();
        let (report, reported) = std::sync::mpsc::sync_channel(1);
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let service = Arc::new(Service { conduct, seen: Arc::clone(&seen), lines: Arc::clone(&lines) });
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                report.send(listener.local_addr().unwrap()).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        tokio::spawn(admit(stream, Arc::clone(&service), manner.clone()));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = killed => {}
                }
            });
            // Everything that was under way is dropped, as when a process is killed.
            runtime.shutdown_background();
        });
        let address = reported.recv().unwrap();
        Self { address, seen, lines, kill: Some(kill), thread: Some(thread) }
    }

    /// Ends it without a word. What it has seen stays.
    pub(crate) fn kill(mut self) -> (SocketAddr, Arc<Mutex<Seen>>) {
        self.end();
        (self.address, Arc::clone(&self.seen))
    }

    fn end(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Looks at what it has seen.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until it has seen this.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        eventually(what, || look(&self.seen.lock().unwrap()))
    }

    /// The newest line that is open, as soon as there is one.
    #[track_caller]
    pub(crate) fn line(&self) -> Line {
        eventually("a session", || self.lines.lock().unwrap().last().cloned())
    }

    /// The result of an order with this id.
    #[track_caller]
    pub(crate) fn result(&self, id: u64) -> backend::proto::result::Status {
        self.until("a result", |seen| seen.results.get(&id).map(Done::status))
    }
}

/// An address that stays free for another process of it when this one was killed.
pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

async fn admit(stream: TcpStream, service: Arc<Service>, manner: Manner) {
    match manner.tls {
        None => serve(stream, service, manner.health).await,
        Some(tls) => {
            // Whoever does not believe us is not served.
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, service, manner.health).await;
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: Arc<Service>,
    health: Option<HealthReporter>,
) {
    let backend = BackendServer::from_arc(service);
    let health = health.map(|reporter| HealthServer::new(HealthService::from_health_reporter(reporter)));
    let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (mut backend, mut health) = (backend.clone(), health.clone());
        async move {
            match &mut health {
                Some(health) if request.uri().path().starts_with("/grpc.health.v1.") => {
                    health.call(request).await
                }
                _ => backend.call(request).await,
            }
        }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}

impl Drop for AppServer {
    fn drop(&mut self) {
        self.end();
    }
}
