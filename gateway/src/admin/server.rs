//! Owns the connections of one HTTP listener: accepting them within a bound, reading heads under a deadline, ending
//! them when the node stops. What a request means is the dispatch's affair. Run by the start of the program, once
//! per listener.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections at a time, further ones wait in the kernel's queue; a head has
//! [`HEAD_DEADLINE`] (so has the silence between two requests) and at most [`HEAD_BYTES_MAX`]; a connection is
//! asked to end after [`LIFETIME`], which also ends one that never reads its answers.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::dispatch::Endpoint;
use super::{Admin, RoleSet};

/// Most connections of one listener at a time: descriptors to keep free for it.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 32 * 1024;
const LIFETIME: Duration = Duration::from_secs(600);
/// How long a connection may take to finish the answer it is at, once it is asked to end.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// The pause after a failed accept: descriptors come back when connections end, not when we ask again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests for these roles until `stop` is done; then finishes the answers under way, for at most ten
/// seconds.
pub(crate) async fn serve(
    listener: TcpListener,
    roles: RoleSet,
    admin: Arc<Admin>,
    stop: impl Future<Output = ()> + Send,
) {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => {
            tracing::error!(%error, "an HTTP listener has no address");
            return;
        }
    };
    let endpoint = Arc::new(Endpoint::new(admin, roles, address));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = stop.as_mut() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (endpoint, ended) = (Arc::clone(&endpoint), ended.clone());
                connections.spawn(async move {
                    converse(stream, endpoint, ended).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, %address, "an HTTP connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = ending.send(true);
    // What is left after the deadline is cut with the set.
    let _ = timeout(LAST_ANSWER, async { while connections.join_next().await.is_some() {} }).await;
}

/// A place first, then a connection: at the bound they wait in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are written whole; waiting for more would only delay them. A socket that refuses is about to fail.
    let _ = stream.set_nodelay(true);
    Ok((stream, place))
}

async fn converse(stream: TcpStream, endpoint: Arc<Endpoint>, mut ended: watch::Receiver<bool>) {
    let counted = Arc::clone(&endpoint);
    let _held = counted.requests().hold();
    let service = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // An error is the client's leaving or its bad HTTP; the answer, if one was due, has been sent.
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}
