//! Owns the connections of one HTTP listener: reading heads under a deadline, ending them when the node stops. Accepting
//! is the affair of [`crate::listener`], what a request means that of the dispatch. Run by the start of the program, once
//! per listener.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections at a time, further ones wait in the kernel's queue; a head has
//! [`HEAD_DEADLINE`] (so has the silence between two requests) and at most [`HEAD_BYTES_MAX`]; a connection is
//! asked to end after [`LIFETIME`], which also ends one that never reads its answers.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::dispatch::Endpoint;
use super::{Admin, RoleSet};
use crate::listener::{Ended, LAST_ANSWER, converse_until};

/// Most connections of one listener at a time: descriptors to keep free for it.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 32 * 1024;
const LIFETIME: Duration = Duration::from_secs(600);

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
    converse_until(listener, CONNECTIONS_MAX, stop, |stream, ended| {
        converse(stream, Arc::clone(&endpoint), ended)
    })
    .await;
}

async fn converse(stream: TcpStream, endpoint: Arc<Endpoint>, mut ended: Ended) {
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
