//! An app server that only decides who comes in: `Authorize` over a real socket, on a runtime of its own. It decides as
//! the test says, and notes what it was asked and how much at a time. Sessions it does not know.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::proto::authorize_response::Decision;
use backend::proto::backend_server::{Backend, BackendServer};
use backend::proto::{Allow, AuthorizeRequest, AuthorizeResponse, FromGateway, Refuse, ToGateway};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::servers::free_port;

/// What is answered, and after how long.
pub(crate) type Verdict = (Duration, Result<AuthorizeResponse, Status>);
type Decide = dyn Fn(&AuthorizeRequest) -> Verdict + Send + Sync;

/// A server that runs until it is dropped; then its connections break.
pub(crate) struct Decider {
    runtime: Option<Runtime>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    notes: Arc<Notes>,
}

#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<AuthorizeRequest>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
    /// Of the last question.
    metadata: Mutex<MetadataMap>,
    /// Nobody is answered while this is so.
    holds: watch::Sender<bool>,
}

struct Service {
    decide: Box<Decide>,
    notes: Arc<Notes>,
}

/// A call that is under way, until it is dropped.
struct UnderWay(Arc<Notes>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Backend for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ToGateway, Status>> + Send>>;

    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        let notes = Arc::clone(&self.notes);
        let now = notes.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        notes.most.fetch_max(now, Ordering::SeqCst);
        let _under_way = UnderWay(Arc::clone(&notes));
        notes.metadata.lock().unwrap().clone_from(request.metadata());
        let (after, answer) = (self.decide)(request.get_ref());
        notes.asked.lock().unwrap().push(request.into_inner());
        let _ = notes.holds.subscribe().wait_for(|holds| !holds).await;
        // It takes this long to know.
        let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
        answer.map(Response::new)
    }

    async fn session(
        &self,
        _: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("only decides"))
    }
}

impl Decider {
    /// A server that decides so, on any port.
    pub(crate) fn start(decide: impl Fn(&AuthorizeRequest) -> Verdict + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], free_port())), decide)
    }

    /// The same at this address.
    pub(crate) fn start_at(
        address: SocketAddr,
        decide: impl Fn(&AuthorizeRequest) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let notes = Arc::<Notes>::default();
        let service = Arc::new(Service { decide: Box::new(decide), notes: Arc::clone(&notes) });
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(BackendServer::from_arc(Arc::clone(&service)));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        Self { runtime: Some(runtime), address, notes }
    }

    /// Answers nobody from now on, or all of them again.
    pub(crate) fn hold(&self, holds: bool) {
        self.notes.holds.send_replace(holds);
    }

    /// What it was asked, in the order of coming.
    pub(crate) fn asked(&self) -> Vec<AuthorizeRequest> {
        self.notes.asked.lock().unwrap().clone()
    }

    /// An entry of the metadata of the last question.
    pub(crate) fn metadata(&self, name: &str) -> Option<String> {
        let metadata = self.notes.metadata.lock().unwrap();
        metadata.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    /// Most questions that it had at a time.
    pub(crate) fn most_at_a_time(&self) -> usize {
        self.notes.most.load(Ordering::SeqCst)
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// It comes in like this.
pub(crate) fn allow(allow: Allow) -> Result<AuthorizeResponse, Status> {
    Ok(AuthorizeResponse { decision: Some(Decision::Allow(allow)) })
}

/// It does not come in.
pub(crate) fn refuse(
    status: u32,
    reason: &str,
    retry_after_seconds: u32,
) -> Result<AuthorizeResponse, Status> {
    let refuse = Refuse { status, reason: reason.to_owned(), retry_after_seconds };
    Ok(AuthorizeResponse { decision: Some(Decision::Refuse(refuse)) })
}
