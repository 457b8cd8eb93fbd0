//! What the kernel says about the server and the harness, read from `/proc`.
//!
//! It owns the parsing of those files and the measured window. It refuses to keep them open: the descriptor
//! tables of the client threads must stay theirs. Called by the conductor only.

use std::fs;
use std::io;

use nix::unistd::{SysconfVar, sysconf};

use crate::board::Board;
use crate::clock;
use crate::failure::Failure;

/// A server process by its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pid: u32,
}

impl Server {
    /// A process that exists now.
    ///
    /// # Errors
    /// There is no such process, or its accounts cannot be read.
    pub(crate) fn new(pid: u32) -> Result<Server, Failure> {
        let server = Server { pid };
        server.cpu_ns()?;
        server.resident_bytes()?;
        Ok(server)
    }

    /// User and system time of all its threads, those that ended included, ns. The kernel counts in ticks of
    /// 10 ms.
    pub(crate) fn cpu_ns(self) -> Result<u64, Failure> {
        cpu_ns(&format!("/proc/{}/stat", self.pid)).map_err(|error| self.unreadable(error))
    }

    /// Resident memory, bytes: `smaps_rollup`, which counts pages, or `statm` where that is not ours to read.
    pub(crate) fn resident_bytes(self) -> Result<u64, Failure> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid));
        if let Some(kib) = rollup.ok().and_then(|text| kib_field(&text, "Rss:")) {
            return Ok(kib * 1024);
        }
        self.resident_bytes_counted()
    }

    /// The same as the kernel counts along the way (`statm`): nothing is walked, so that it may be asked again
    /// and again while the server works.
    pub(crate) fn resident_bytes_counted(self) -> Result<u64, Failure> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid))
            .map_err(|error| self.unreadable(error))?;
        let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
        pages
            .map(|pages| pages * page_bytes())
            .ok_or_else(|| self.unreadable(io::ErrorKind::InvalidData.into()))
    }

    /// The file name of its program; `None` where that is not ours to read.
    pub(crate) fn program(self) -> Option<String> {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    }

    fn unreadable(self, error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::NotFound {
            return Failure::Server(format!("there is no process {}, or no more", self.pid));
        }
        Failure::Machine(format!("reading the accounts of process {}", self.pid), error)
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn ending(self) -> Option<Ending> {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(text) => status_of_dead(&text).map(Ending::Status),
            Err(_) => Some(Ending::Gone),
        }
    }

    /// The process id.
    pub(crate) fn pid(self) -> u32 {
        self.pid
    }
}

/// How a process ended, as far as somebody sees it who did not start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It has ended and whoever started it has taken its status.
    Gone,
    /// It has ended and waits for that: its exit code, 128 and the signal where one ended it.
    Status(i32),
}

/// Kernel slab memory of the whole machine, bytes: sockets, inodes, epoll entries. `None` where it is hidden.
pub(crate) fn slab_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    kib_field(&text, "Slab:").map(|kib| kib * 1024)
}

/// Kinds of kernel objects that connections are made of, by how their names begin.
const KINDS: [&str; 8] =
    ["TCP", "sock_inode_cache", "filp", "eventpoll_", "request_sock_", "tw_sock_", "nf_conntrack", "skbuff_"];

/// Kernel objects of the whole machine of which connections are made: sockets, inodes, files, epoll entries,
/// what a firewall remembers, packets that wait. Not counted is what other work moves more than connections
/// do, such as names of files. `None` where `/proc/slabinfo` is not ours to read.
pub(crate) fn socket_objects() -> Option<u64> {
    objects_in_use(&fs::read_to_string("/proc/slabinfo").ok()?)
}

/// Second field of the lines of those kinds, behind the two of the head.
fn objects_in_use(text: &str) -> Option<u64> {
    let lines = text.lines().skip(2).filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)));
    lines.map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// Memory of all TCP buffers of the machine, bytes, as `/proc/net/sockstat` counts it in pages.
pub(crate) fn tcp_bytes() -> Option<u64> {
    tcp_pages(&fs::read_to_string("/proc/net/sockstat").ok()?).map(|pages| pages * page_bytes())
}

fn tcp_pages(text: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|&word| word == "mem")?;
    words.next()?.parse().ok()
}

/// A moment from which usage is measured.
#[derive(Debug)]
pub(crate) struct Window {
    server: Option<Server>,
    began_ns: u64,
    server_ns: u64,
    clients: Vec<Option<Times>>,
}

/// What was used within a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Length of the window, seconds.
    pub(crate) seconds: f64,
    /// The server's CPU time, seconds; `None` when no process was named.
    pub(crate) server_cpu_s: Option<f64>,
    /// CPU share of the busiest client thread, percent: near 100 the harness was the bottleneck.
    pub(crate) busiest_client_percent: f64,
    /// Share of the window in which a client thread was ready and had no processor, percent, of the one that waited
    /// longest; `None` where the kernel does not say.
    pub(crate) longest_client_wait_percent: Option<f64>,
}

/// What a thread has had of the processors so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    ran_ns: u64,
    waited_ns: u64,
}

impl Window {
    /// Opens a window now.
    ///
    /// # Errors
    /// The server is gone.
    pub(crate) fn open(server: Option<Server>, board: &Board) -> Result<Window, Failure> {
        let server_ns = server.map_or(Ok(0), Server::cpu_ns)?;
        Ok(Window { server, began_ns: clock::now_ns(), server_ns, clients: client_times(board) })
    }

    /// Closes it now.
    ///
    /// # Errors
    /// The server is gone.
    pub(crate) fn close(&self, board: &Board) -> Result<Usage, Failure> {
        let server_cpu_s = match self.server {
            Some(server) => Some(server.cpu_ns()?.saturating_sub(self.server_ns) as f64 / 1e9),
            None => None,
        };
        let seconds = (clock::now_ns() - self.began_ns).max(1) as f64 / 1e9;
        let ends = client_times(board);
        let spent =
            || self.clients.iter().zip(&ends).filter_map(|(begin, end)| begin.as_ref().zip(end.as_ref()));
        let percent = |ns: u64| ns as f64 / 1e9 / seconds * 100.0;
        let busiest = spent().map(|(begin, end)| end.ran_ns.saturating_sub(begin.ran_ns)).max();
        let longest = spent().map(|(begin, end)| end.waited_ns.saturating_sub(begin.waited_ns)).max();
        Ok(Usage {
            seconds,
            server_cpu_s,
            busiest_client_percent: busiest.map_or(0.0, percent),
            longest_client_wait_percent: longest.map(percent),
        })
    }
}

fn client_times(board: &Board) -> Vec<Option<Times>> {
    let read = |id| fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok();
    board.thread_ids().into_iter().map(|id| times(&read(id)?)).collect()
}

/// The first two fields of `/proc/PID/task/ID/schedstat`.
fn times(text: &str) -> Option<Times> {
    let mut fields = text.split_whitespace();
    let mut field = || fields.next()?.parse().ok();
    Some(Times { ran_ns: field()?, waited_ns: field()? })
}

fn cpu_ns(path: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let ticks = cpu_ticks(&text).ok_or(io::ErrorKind::InvalidData)?;
    let per_second =
        sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100).max(1);
    Ok(ticks * (1_000_000_000 / per_second))
}

/// Fields 14 and 15 of `/proc/PID/stat`; the name in field 2 may hold spaces and parentheses.
fn cpu_ticks(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The exit code of a process that has ended (state `Z` or `X`), from field 52 of its `stat`; `None` while it runs.
fn status_of_dead(text: &str) -> Option<i32> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if !matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let status: i32 = fields.nth(48)?.parse().ok()?;
    Some(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
}

/// A field of a file such as `/proc/meminfo`, in KiB.
pub(crate) fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn page_bytes() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let fields = "R 1 1 1 0 -1 4194304 90 0 0 0 250 50 0 0 20 0 1 0 100";
        assert_eq!(cpu_ticks(&format!("42 (a) b (c) {fields}")), Some(300));
        assert_eq!(cpu_ticks("42 (cut"), None);
    }

    #[test]
    fn a_thread_ran_and_waited() {
        assert_eq!(times("1200 34 5\n"), Some(Times { ran_ns: 1_200, waited_ns: 34 }));
        assert_eq!(times("1200"), None);
    }

    #[test]
    fn the_status_of_a_process_is_known_once_it_has_ended() {
        let stat = |state: &str, status: i32| format!("42 (a) b) {state}{} {status}\n", " 0".repeat(48));
        assert_eq!(status_of_dead(&stat("S", 0)), None);
        assert_eq!(status_of_dead(&stat("Z", 0)), Some(0));
        assert_eq!(status_of_dead(&stat("Z", 2 << 8)), Some(2));
        assert_eq!(status_of_dead(&stat("Z", 9)), Some(137));
    }

    #[test]
    fn sizes_are_read_in_kib() {
        let text = "Rss:              1234 kB\nPss: 5 kB\n";
        assert_eq!(kib_field(text, "Rss:"), Some(1234));
        assert_eq!(kib_field(text, "Swap:"), None);
    }

    #[test]
    fn objects_of_connections_are_added_up() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs>\nTCPv6 12 13 2368\nfilp 30 42 192\n\
                    dentry 100 100 192\n";
        assert_eq!(objects_in_use(text), Some(42));
        assert_eq!(objects_in_use("a\nb\nTCP\n"), None);
    }

    #[test]
    fn buffers_of_tcp_are_counted_in_pages() {
        let text = "sockets: used 4\nTCP: inuse 4 orphan 0 tw 6 alloc 4 mem 946\nUDP: inuse 0 mem 3\n";
        assert_eq!(tcp_pages(text), Some(946));
        assert_eq!(tcp_pages("UDP: inuse 0 mem 3\n"), None);
    }

    #[test]
    fn this_process_can_be_probed() {
        let server = Server::new(std::process::id()).unwrap();
        assert!(server.resident_bytes().unwrap() > 0);
        assert!(Server::new(u32::MAX).is_err());
    }
}
