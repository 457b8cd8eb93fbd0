//! The floor: a server that does the system calls its work needs and hardly anything else.
//!
//! One epoll for each thread, one read and one write per message. It owns what a figure is compared with: the
//! physical limit of the machine at hand. It refuses everything a real server must do: it trusts its clients,
//! keeps no state beyond "upgraded", has one timer for all, no limits and no backlog. A frame in pieces or a
//! write that would block ends the connection, which the harness then reports. Never for production; started
//! by `main` as `loadtest floor`.

mod link;
mod post;

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use config::units::parse_duration;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::args;
use crate::clock;
use crate::failure::Failure;
use crate::sockets;
use link::{Link, Place, frames};
use post::Post;

/// Bytes of the one read buffer; longer messages do not belong here.
const SCRATCH: usize = 256 * 1024;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// How often pings that are due leave.
const PING_STEP: Duration = Duration::from_millis(100);

/// What the gateway's pings look like, too: four bytes.
const PING: [u8; 6] = [0x89, 4, 0, 0, 0, 0];

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// It goes back.
    Echo,
    /// It goes to every connection.
    Fanout,
    /// Nothing: the handshake is the work.
    Handshake,
    /// What the path says: at `/echo` it goes back, from anywhere else to everybody who is not at `/echo`.
    Paths,
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
    /// Threads. With more than one, each has a descriptor table and a listener of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Ping every connection so often, evenly spread; by default never.
    #[arg(long, value_parser = parse_duration)]
    ping_every: Option<Duration>,
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
    serve(args).map_err(failed())
}

/// All threads; returns when one of them fails.
fn serve(args: &Args) -> io::Result<()> {
    let shared = args.threads > 1;
    // Takes the port without listening, so that all threads get the same one.
    let place = bind(args.listen, shared)?;
    let address = place.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
    let polls = (0..args.threads).map(|_| Poll::new()).collect::<io::Result<Vec<Poll>>>()?;
    let posts = Post::connect(polls.iter().map(Poll::registry))?;
    if !shared {
        drop(place);
        let floor = polls
            .into_iter()
            .zip(posts)
            .next()
            .map(|(poll, post)| Floor::listen(args, address, shared, poll, post));
        println!("listening ws={address}");
        return floor.map_or(Ok(()), |floor| floor?.serve());
    }
    let threads = polls.len();
    let (say, listening) = sync_channel(threads);
    let (end, ended) = sync_channel(threads);
    for (number, (poll, post)) in polls.into_iter().zip(posts).enumerate() {
        let (args, say, end) = (args.clone(), say.clone(), end.clone());
        let body = move || {
            let split = sockets::split_descriptor_table(poll.as_raw_fd());
            let floor = split.and_then(|()| Floor::listen(&args, address, shared, poll, post));
            let (here, served) = match floor {
                Ok(floor) => (Ok(()), Some(floor)),
                Err(error) => (Err(error), None),
            };
            // Nobody listens any more when another one has failed.
            let _ = say.send(here);
            if let Some(floor) = served {
                let _ = end.send(floor.serve());
            }
        };
        thread::Builder::new().name(format!("floor-{number}")).spawn(body)?;
    }
    // Their own ends alone are left: a thread that panics drops them.
    drop((say, end));
    let gone = |_| io::Error::other("a thread panicked, see above");
    for _ in 0..threads {
        listening.recv().map_err(gone)??;
    }
    drop(place);
    println!("listening ws={address}");
    // The first that fails ends all: the rest alone is no reference.
    ended.recv().map_err(gone)?
}

/// A socket with this address; it does not listen.
fn bind(address: impl Into<SocketAddr>, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address.into()))?;
    Ok(socket)
}

/// One thread.
struct Floor {
    mode: Mode,
    poll: Poll,
    post: Post,
    listener: TcpListener,
    /// By descriptor number: the kernel gives the lowest free one, so the table stays dense.
    links: Vec<Option<Link>>,
    out: Vec<u8>,
    pings: Option<Pings>,
}

/// Which connections are pinged when: the table is gone round once an interval.
struct Pings {
    every_ns: u64,
    /// Until when everybody has been pinged who was due.
    until_ns: u64,
    /// The slot that comes next.
    next: usize,
}

impl Floor {
    fn listen(args: &Args, address: SocketAddr, shared: bool, poll: Poll, post: Post) -> io::Result<Floor> {
        let listener = bind(address, shared)?;
        listener.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(listener.into());
        let number = listener.as_raw_fd();
        poll.registry().register(&mut listener, token(number), Interest::READABLE)?;
        let pings = args.ping_every.map(|every| Pings {
            every_ns: args::ns(every).max(1),
            until_ns: clock::now_ns(),
            next: 0,
        });
        Ok(Floor { mode: args.mode, poll, post, listener, links: Vec::new(), out: Vec::new(), pings })
    }

    fn serve(mut self) -> io::Result<()> {
        let listener = token(self.listener.as_raw_fd());
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; SCRATCH];
        let mut next_ns = clock::now_ns();
        loop {
            let wait = self.pings.as_ref().map(|_| until(next_ns));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == listener {
                    self.accept()?;
                } else if event.token() == Post::TOKEN {
                    while let Some(frames) = self.post.take() {
                        self.write_to_all(&frames);
                    }
                } else {
                    self.ready(event.token().0, event.is_read_closed(), &mut scratch);
                }
            }
            // In one go, as a step is for: one by one behind every pong, each would find its client asleep.
            if wait.is_some() && until(next_ns).is_zero() {
                next_ns = clock::now_ns() + args::ns(PING_STEP);
                self.ping();
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
            self.links[index] = Some(Link::new(socket));
        }
    }

    /// Reads once, or until the end when the stream ends, and answers.
    fn ready(&mut self, index: usize, ends: bool, scratch: &mut [u8]) {
        while let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) {
            let goes_on = match link.socket().read(scratch) {
                Ok(0) => false,
                Ok(count) => match link.place {
                    Place::Nowhere => link.upgrade(&scratch[..count], self.mode, &mut self.out),
                    place => self.messages(index, place, &mut scratch[..count]),
                },
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
    fn messages(&mut self, index: usize, place: Place, bytes: &mut [u8]) -> bool {
        self.out.clear();
        let Some(goes_on) = frames(bytes, self.mode != Mode::Handshake, &mut self.out) else { return false };
        if place == Place::Room && goes_on {
            if !self.out.is_empty() {
                let out = std::mem::take(&mut self.out);
                self.write_to_all(&out);
                self.post.send(&out);
                self.out = out;
            }
            return true;
        }
        let wrote = self.links[index].as_ref().is_some_and(|link| link.write(&self.out));
        goes_on && wrote
    }

    fn write_to_all(&mut self, frames: &[u8]) {
        for link in &mut self.links {
            if link.as_ref().is_some_and(|link| link.place == Place::Room && !link.write(frames)) {
                *link = None;
            }
        }
    }

    /// Pings those whose turn has come.
    fn ping(&mut self) {
        let Some(pings) = &mut self.pings else { return };
        let slots = self.links.len();
        let due = pings.due(clock::now_ns(), slots);
        for _ in 0..due {
            let index = pings.next % slots;
            pings.next = index + 1;
            if let Some(link) = &mut self.links[index]
                && link.place != Place::Nowhere
                && !link.write(&PING)
            {
                self.links[index] = None;
            }
        }
    }
}

impl Pings {
    /// How many slots are due now, one round at most.
    fn due(&mut self, now_ns: u64, slots: usize) -> usize {
        let since_ns = now_ns.saturating_sub(self.until_ns);
        let each_ns = self.every_ns / (slots as u64).max(1);
        if slots == 0 || since_ns >= self.every_ns || each_ns == 0 {
            self.until_ns = now_ns;
            return slots;
        }
        let due = since_ns / each_ns;
        self.until_ns += due * each_ns;
        usize::try_from(due).unwrap_or(slots).min(slots)
    }
}

/// How long it is until then.
fn until(then_ns: u64) -> Duration {
    Duration::from_nanos(then_ns.saturating_sub(clock::now_ns()))
}

fn token(number: i32) -> Token {
    // Descriptor numbers are not negative.
    Token(usize::try_from(number).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_pinged_once_an_interval_however_often_one_looks() {
        for step_ns in [1_000_000, 100_000_000, 333_333_333] {
            let mut pings = Pings { every_ns: 25_000_000_000, until_ns: 0, next: 0 };
            let looks = 250_000_000_000 / step_ns;
            let pinged: usize = (1..=looks).map(|look| pings.due(look * step_ns, 18_000)).sum();
            assert!((179_000..=180_100).contains(&pinged), "{pinged} in ten rounds of 18,000");
        }
    }

    #[test]
    fn after_a_stall_nobody_is_pinged_twice() {
        let mut pings = Pings { every_ns: 1_000, until_ns: 0, next: 0 };
        assert_eq!(pings.due(1_000_000, 10), 10);
        assert_eq!(pings.due(1_000_050, 10), 0);
        assert_eq!(pings.due(1_000_060, 0), 0);
    }
}
