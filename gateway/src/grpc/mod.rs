//! Owns the gRPC listener of a node: the service `gateway.v1.Gateway`, `grpc.health.v1` and reflection. It speaks HTTP/2
//! by prior knowledge only, which no browser does without TLS, so no web page can reach it. What a call does is in `api`,
//! and the tokens are those of the HTTP side. Run by the start of the program through [`serve`].
//!
//! Bounds: [`CONNECTIONS_MAX`] connections, [`STREAMS_MAX`] calls of one at a time, [`dispatch::CALLS_MAX`] calls of all
//! that are being read or done; a message has at most `http.request_bytes`. Windows bound what arrives of calls that wait.
//! A connection has to make a call within [`FIRST_CALL`] and answer pings, and is asked to end after [`LIFETIME`], so that
//! clients spread over nodes again.

mod answers;
mod dispatch;
mod health;
mod service;
mod status;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::admin::Admin;
use crate::listener::{Ended, LAST_ANSWER, converse_until};
pub(crate) use answers::Answers;
use dispatch::Desk;

/// Most connections at a time: one is enough for a client. Descriptors to keep free for it.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Most calls of a connection at a time.
const STREAMS_MAX: u32 = 128;
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
const SEND_BUFFER_BYTES: usize = 256 * 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Within this the first call has to come.
const FIRST_CALL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const LIFETIME: Duration = Duration::from_secs(600);

/// Answers calls until `stop` is done; then finishes those under way, for at most ten seconds.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: impl Future<Output = ()> + Send) {
    let address = listener.local_addr().map_err(|error| error.to_string());
    let desk = match address.and_then(|address| Desk::new(admin, address)) {
        Ok(desk) => Arc::new(desk),
        Err(error) => {
            tracing::error!(%error, "gRPC is not served");
            return;
        }
    };
    let following = tokio::spawn(Arc::clone(&desk).follow());
    let stop = async {
        stop.await;
        following.abort();
        desk.forget_health().await;
    };
    converse_until(listener, CONNECTIONS_MAX, stop, |stream, ended| {
        converse(stream, Arc::clone(&desk), ended)
    })
    .await;
}

async fn converse(stream: TcpStream, desk: Arc<Desk>, mut ended: Ended) {
    let counted = Arc::clone(&desk);
    let _held = counted.answers().hold();
    let called = Arc::new(AtomicBool::new(false));
    let calling = Arc::clone(&called);
    let service = service_fn(move |request| {
        calling.store(true, Ordering::Relaxed);
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let silent = async {
        sleep(FIRST_CALL).await;
        if called.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // An error is the client's leaving or its bad HTTP/2.
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => {}
        () = silent => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}
