//! A server on tokio-tungstenite that does what the gateway's routes do in a comparison: `/echo` answers every
//! message with itself, `/rooms/{room}` publishes every message to everybody in the room, its sender included.
//!
//! It owns being the usual way: a task and a stream per connection, a broadcast channel per room, one thread. It
//! refuses to be tuned. Started by `tungstenite.sh` with a port.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages that a room keeps for whoever is slow.
const ROOM_BACKLOG: usize = 1024;

/// The rooms by name; one thread, so no lock.
type Rooms = Rc<RefCell<HashMap<String, broadcast::Sender<Message>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let rooms = Rooms::default();
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let rooms = rooms.clone();
                tokio::task::spawn_local(async move {
                    // A connection that fails ends; the harness counts it.
                    let _ = serve(stream, rooms).await;
                });
            }
        })
        .await
}

// The shape of the callback is the library's: its error is a whole answer.
#[allow(clippy::result_large_err)]
async fn serve(stream: TcpStream, rooms: Rooms) -> Result<(), Error> {
    let mut path = String::new();
    let note_path = |request: &Request, answer: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().path().to_owned();
        Ok(answer)
    };
    let stream = tokio_tungstenite::accept_hdr_async(stream, note_path).await?;
    match path.strip_prefix("/rooms/") {
        Some(room) => chat(stream, room, &rooms).await,
        None => echo(stream).await,
    }
}

async fn echo(mut stream: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = stream.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            stream.send(message).await?;
        }
    }
    Ok(())
}

async fn chat(stream: WebSocketStream<TcpStream>, room: &str, rooms: &Rooms) -> Result<(), Error> {
    let room = rooms
        .borrow_mut()
        .entry(room.to_owned())
        .or_insert_with(|| broadcast::channel(ROOM_BACKLOG).0)
        .clone();
    let mut published = room.subscribe();
    let (mut sink, mut incoming) = stream.split();
    loop {
        tokio::select! {
            message = published.recv() => match message {
                Ok(message) => sink.send(message).await?,
                // Too slow: what was missed is missing, which the harness sees.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            message = incoming.next() => match message.transpose()? {
                Some(message) if message.is_text() || message.is_binary() => {
                    // Nobody may be listening any more.
                    let _ = room.send(message);
                }
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}
