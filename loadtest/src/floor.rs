//! The floor: a server that does the system calls its work needs and hardly anything else.
//!
//! One thread, one epoll, one read and one write per message. It owns what a figure is compared with: the
//! physical limit of the machine at hand. It refuses everything a real server must do: it trusts its clients,
//! keeps no state beyond "upgraded", has no timers, no limits and no backlog. A frame in pieces or a write
//! that would block ends the connection, which the harness then reports. Never for production; started by
//! `main` as `loadtest floor`.

use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::failure::Failure;
use crate::sockets;

/// Bytes of the one read buffer; longer messages do not belong here.
const SCRATCH: usize = 256 * 1024;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// It goes back.
    Echo,
    /// It goes to every connection.
    Fanout,
    /// Nothing: the handshake is the work.
    Handshake,
}

/// Serves as the physical limit to compare with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What happens to a message.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddrV4,
}

/// Serves until the process is ended.
///
/// # Errors
/// The address cannot be listened on, or epoll fails.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() {
        return Err(Failure::Asked(format!(
            "--listen {}: loopback only, it trusts its clients",
            args.listen
        )));
    }
    let failed = || Failure::machine(format!("the floor on {}", args.listen));
    sockets::connections_per_table().map_err(failed())?;
    let mut floor = Floor::listen(args.mode, args.listen).map_err(failed())?;
    let address: SocketAddr = floor.listener.local_addr().map_err(failed())?;
    println!("listening ws={address}");
    floor.serve().map_err(failed())
}

/// A connection: its socket, and whether its upgrade is done.
struct Link {
    socket: TcpStream,
    upgraded: bool,
}

struct Floor {
    mode: Mode,
    poll: Poll,
    listener: TcpListener,
    /// By descriptor number: the kernel gives the lowest free one, so the table stays dense.
    links: Vec<Option<Link>>,
    out: Vec<u8>,
}

impl Floor {
    fn listen(mode: Mode, address: SocketAddrV4) -> io::Result<Floor> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        listener.set_reuse_address(true)?;
        // Accepted sockets inherit it.
        listener.set_tcp_nodelay(true)?;
        listener.bind(&SockAddr::from(address))?;
        listener.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(listener.into());
        let poll = Poll::new()?;
        let number = listener.as_raw_fd();
        poll.registry().register(&mut listener, token(number), Interest::READABLE)?;
        Ok(Floor { mode, poll, listener, links: Vec::new(), out: Vec::new() })
    }

    fn serve(&mut self) -> io::Result<()> {
        let listener = token(self.listener.as_raw_fd());
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; SCRATCH];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == listener {
                    self.accept()?;
                } else {
                    self.ready(event.token().0, event.is_read_closed(), &mut scratch);
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let index = token(socket.as_raw_fd()).0;
            self.poll.registry().register(&mut socket, Token(index), Interest::READABLE)?;
            if index >= self.links.len() {
                self.links.resize_with(index + 1, || None);
            }
            self.links[index] = Some(Link { socket, upgraded: false });
        }
    }

    /// Reads once, or until the end when the stream ends, and answers.
    fn ready(&mut self, index: usize, ends: bool, scratch: &mut [u8]) {
        while let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) {
            let goes_on = match (&link.socket).read(scratch) {
                Ok(0) => false,
                Ok(count) if link.upgraded => self.messages(index, &mut scratch[..count]),
                Ok(count) => link.upgrade(&scratch[..count], &mut self.out),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => false,
            };
            if !goes_on {
                self.links[index] = None;
            } else if !ends {
                return;
            }
        }
    }

    /// Answers every frame in `bytes`; `false` ends the connection.
    fn messages(&mut self, index: usize, bytes: &mut [u8]) -> bool {
        self.out.clear();
        let mut at = 0;
        let mut goes_on = true;
        while at < bytes.len() && goes_on {
            let mut cursor = Cursor::new(&bytes[at..]);
            let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) else { return false };
            let start = at + usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            let Some(payload) = bytes.get_mut(start..end) else { return false };
            unmask(payload, header.mask.unwrap_or_default());
            at = end;
            match header.opcode {
                OpCode::Data(_) if self.mode != Mode::Handshake => {
                    push(&mut self.out, header.opcode, payload)
                }
                OpCode::Control(Control::Close) => {
                    push(&mut self.out, header.opcode, payload);
                    goes_on = false;
                }
                _ => {}
            }
        }
        if self.mode == Mode::Fanout && goes_on {
            self.write_to_all();
            return true;
        }
        let wrote = self.links[index].as_ref().is_some_and(|link| link.write(&self.out));
        goes_on && wrote
    }

    fn write_to_all(&mut self) {
        if self.out.is_empty() {
            return;
        }
        for link in &mut self.links {
            if link.as_ref().is_some_and(|link| link.upgraded && !link.write(&self.out)) {
                *link = None;
            }
        }
    }
}

impl Link {
    /// Answers an upgrade that came in one piece.
    fn upgrade(&mut self, head: &[u8], out: &mut Vec<u8>) -> bool {
        let name = b"Sec-WebSocket-Key: ";
        let Some(start) = head.windows(name.len()).position(|window| window == name) else { return false };
        let key = head[start + name.len()..].split(|&byte| byte == b'\r').next().unwrap_or_default();
        out.clear();
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.extend_from_slice(derive_accept_key(key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        self.upgraded = true;
        self.write(out)
    }

    /// One write; what does not fit is a failure.
    fn write(&self, bytes: &[u8]) -> bool {
        bytes.is_empty() || (&self.socket).write(bytes).is_ok_and(|count| count == bytes.len())
    }
}

fn token(number: i32) -> Token {
    // Descriptor numbers are not negative.
    Token(usize::try_from(number).unwrap_or(usize::MAX))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

fn push(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let written = header.format(payload.len() as u64, out);
    debug_assert!(written.is_ok(), "a vector takes every header");
    out.extend_from_slice(payload);
}
