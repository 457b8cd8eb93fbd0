//! Owns the connections of one listener of the runtime: accepting them within a bound, and ending them when the node
//! stops. What is said on a connection is the caller's affair. Run by the HTTP side and by gRPC, once per listener.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a connection may take to finish the answers it is at, once it is asked to end.
pub(crate) const LAST_ANSWER: Duration = Duration::from_secs(10);
/// The pause after a failed accept: descriptors come back when connections end, not when we ask again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Becomes true when connections are to end.
pub(crate) type Ended = watch::Receiver<bool>;

/// Hands every connection to `converse`, `connections_max` at a time (further ones wait in the kernel's queue), until
/// `stop` is done; then closes the listener and gives those that are left [`LAST_ANSWER`].
pub(crate) async fn converse_until<C, F>(
    listener: TcpListener,
    connections_max: usize,
    stop: impl Future<Output = ()> + Send,
    converse: C,
) where
    C: Fn(TcpStream, Ended) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
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
                let conversation = converse(stream, ended.clone());
                connections.spawn(async move {
                    conversation.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, address = ?listener.local_addr(), "a connection was not accepted");
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
