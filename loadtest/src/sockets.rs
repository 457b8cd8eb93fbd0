//! Client sockets and descriptor tables: every system call that makes a connection or room for one.
//!
//! It owns the connect from a chosen source address, the descriptor limit, and a thread's split from the
//! descriptor table of the process. It refuses reading and writing, which is the client's. Called by `crew`
//! once per thread and by `client` once per connection.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections in one descriptor table at most. Hard limits of 20,000 are usual; this leaves room for the
/// rest.
pub(crate) const PER_TABLE: u32 = 18_000;

/// Descriptors of a thread that are not connections: standard streams, epoll, wakers of the whole crew.
const RESERVE: u64 = 512;

/// Begins to connect to `target` from `source` and returns at once.
///
/// The port is chosen by the kernel at connect, per pair of addresses (`IP_BIND_ADDRESS_NO_PORT`): a port
/// taken at bind would be taken for every destination.
///
/// # Errors
/// The errno of the call that failed, `EADDRNOTAVAIL` when the source has no port left.
pub(crate) fn connect(
    source: SocketAddr,
    target: SocketAddrV4,
    receive_buffer: Option<usize>,
) -> Result<Socket, i32> {
    let begin = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = receive_buffer {
            // Before connecting: a window once offered is not taken back.
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(&SockAddr::from(source))?;
        match socket.connect(&SockAddr::from(SocketAddr::V4(target))) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(socket),
        }
    };
    begin().map_err(|error| errno(&error))
}

/// The errno behind an I/O error; 0 when there is none, which the standard library's own errors have not.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Raises the soft descriptor limit to the hard one and says how many connections one table may hold.
///
/// # Errors
/// What the kernel said; a hard limit that leaves no room at all.
pub(crate) fn connections_per_table() -> io::Result<u32> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match u32::try_from(hard.saturating_sub(RESERVE)).unwrap_or(u32::MAX).min(PER_TABLE) {
        0 => Err(io::Error::other(format!(
            "the hard descriptor limit is {hard}, at least {} are needed",
            RESERVE + 1
        ))),
        room => Ok(room),
    }
}

/// Gives the calling thread a descriptor table of its own that keeps only the standard streams, all wakers,
/// and the epoll instance `own_epoll`.
///
/// Everything else is closed in the copy: a socket that stays in a second table never sends its FIN. Wakers
/// stay because threads wake each other by the numbers they had before the split.
///
/// # Errors
/// `unshare` failed, or `/proc` is not there to list the table.
pub(crate) fn split_descriptor_table(own_epoll: RawFd) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let mut surplus: Vec<RawFd> = Vec::new();
    for entry in fs::read_dir("/proc/thread-self/fd")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let waker = fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventfd]");
        if number > 2 && number != own_epoll && !waker {
            surplus.push(number);
        }
    }
    for number in surplus {
        // The directory that was being listed is among them and already closed: EBADF is no news.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
