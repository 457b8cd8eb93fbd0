//! A WebSocket client as users have them: tungstenite over a socket. It answers pings whenever it reads.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use tungstenite::protocol::CloseFrame;
use tungstenite::{ClientRequestBuilder, Error, HandshakeError, Message, WebSocket};

use super::PATIENCE;

/// A connected client.
pub(crate) struct Client {
    /// Its protocol machine.
    pub(crate) socket: WebSocket<TcpStream>,
    /// What the 101 called it.
    pub(crate) id: String,
    /// The subprotocol that was chosen.
    pub(crate) protocol: Option<String>,
}

impl Client {
    /// Connects and upgrades, with further headers.
    ///
    /// # Errors
    /// The handshake failed; an answer other than 101 is in [`Error::Http`].
    pub(crate) fn connect(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let uri = format!("ws://{address}{path}").parse().unwrap();
        let mut request = ClientRequestBuilder::new(uri);
        for (name, value) in headers {
            request = if *name == "Sec-WebSocket-Protocol" {
                value.split(',').fold(request, |request, one| request.with_sub_protocol(one.trim()))
            } else {
                request.with_header(*name, *value)
            };
        }
        let (socket, response) = tungstenite::client(request, stream).map_err(|error| match error {
            HandshakeError::Failure(error) => error,
            HandshakeError::Interrupted(_) => Error::Io(std::io::ErrorKind::TimedOut.into()),
        })?;
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Ok(Self {
            socket,
            id: header("gateway-connection").expect("every 101 names its connection"),
            protocol: header("sec-websocket-protocol"),
        })
    }

    /// Which shard it is on: the third number from the right of its id.
    pub(crate) fn shard(&self) -> u16 {
        u16::from_str_radix(self.id.rsplit('-').nth(2).unwrap(), 16).unwrap()
    }

    /// Sends text.
    #[track_caller]
    pub(crate) fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends binary.
    #[track_caller]
    pub(crate) fn say_bytes(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// The next message, a close included.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Message {
        let started = Instant::now();
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) if started.elapsed() < PATIENCE => {}
                Ok(message) => return message,
                Err(error) => panic!("{}: {error}", self.id),
            }
        }
    }

    /// The next message, which is text.
    #[track_caller]
    pub(crate) fn hear_text(&mut self) -> String {
        match self.hear() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("{}: not text: {other:?}", self.id),
        }
    }

    /// Expects this text, and nothing before it.
    #[track_caller]
    pub(crate) fn hears(&mut self, text: &str) {
        assert_eq!(self.hear_text(), text, "{}", self.id);
    }

    /// Sends text and expects it back, and nothing before it.
    #[track_caller]
    pub(crate) fn echoes(&mut self, text: &str) {
        self.say(text);
        self.hears(text);
    }

    /// Reads the gateway's goodbye, which is the next message, and answers it. Code and reason.
    #[track_caller]
    pub(crate) fn told_to_go(mut self) -> (u16, String) {
        match self.hear() {
            Message::Close(Some(CloseFrame { code, reason })) => {
                let end = self.socket.read();
                assert!(matches!(end, Err(Error::ConnectionClosed)), "{end:?}");
                (code.into(), reason.as_str().to_owned())
            }
            other => panic!("{}: not a goodbye: {other:?}", self.id),
        }
    }

    /// Says goodbye and waits for the answer and the end.
    #[track_caller]
    pub(crate) fn leave(mut self) {
        self.socket.close(None).unwrap();
        let started = Instant::now();
        loop {
            match self.socket.read() {
                Ok(_) => assert!(started.elapsed() < PATIENCE, "{}: no answer to a goodbye", self.id),
                Err(Error::ConnectionClosed) => return,
                Err(error) => panic!("{}: {error}", self.id),
            }
        }
    }
}
