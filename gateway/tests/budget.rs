//! Promise: a connection that only answers heartbeats costs what the README says: a record, and in the kernel nothing
//! beyond what a socket costs anybody. Counts memory and never time, so that a busy machine changes nothing.
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "who reads the log of a run should learn what it left out")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use harness::{Gateway, PATIENCE, PING, PONG, eventually, frame, upgrade_request};
use nix::libc::linger;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

/// Connections between which memory is compared: the first have paid for what the process needs once.
const FEW: usize = 1_000;
const MANY: usize = 15_000;
/// Resident bytes that one of them may cost: the record of 64, and what allocations round up.
const BYTES_MAX: f64 = 72.0;
/// What may come once between the two counts, all of it together: buffers of a burst, pages begun.
const ONCE_BYTES: f64 = 128.0 * 1024.0;
/// Bytes of a page, in which the kernel counts its slabs.
const PAGE_BYTES: f64 = 4_096.0;
/// Bare connections that the kernel's objects are compared with; they have both ends in this process.
const BARE: usize = 4_000;
/// How much the count of objects may be off, per connection: the whole machine is counted.
const OBJECTS_OFF: f64 = 0.25;
/// Connections whose handshakes are under way at once.
const BATCH: usize = 100;
/// Descriptors of this process that are no connections.
const BESIDE: usize = 300;

/// Kinds of kernel objects that connections consist of, by how their names begin. What is left of those that other tests
/// ended a minute ago (`tw_sock_`) is none of them, and goes at any moment.
const KINDS: [&str; 6] = ["TCP", "sock_inode_cache", "filp", "eventpoll_", "request_sock_", "nf_conntrack"];

#[test]
fn an_idle_connection_stays_within_its_budget_of_memory() {
    let many = MANY.min(descriptors() - BESIDE);
    assert!(
        many > 5 * FEW,
        "raise the hard descriptor limit (ulimit -Hn): it leaves room for {many} connections"
    );
    if many < MANY {
        eprintln!(
            "budget: {many} connections instead of {MANY}, for so many descriptors: what comes once hides more"
        );
    }
    let bare = objects_of_bare_connections();
    // Nobody is closed for being slow to answer, however busy the machine is.
    let gateway = Gateway::start(
        "[shards]\ncount = 2\nown_descriptors = true\n[heartbeat]\ninterval = '4s'\npong_deadline = '10m'\n\
         [limits.peer]\nconnections = 'off'\nconnects_per_second = 'off'\n",
    );
    let mut clients = Vec::new();
    open(&mut clients, FEW, gateway.ws);
    answer_one_ping_each(&mut clients);
    let (few_bytes, few_objects) = (resident(gateway.pid()), objects());
    open(&mut clients, many, gateway.ws);
    answer_one_ping_each(&mut clients[FEW..]);
    let more = (many - FEW) as f64;

    // Memory goes down a while after a burst; it never has to go up.
    let most = few_bytes + allowed(more);
    let bytes = least(|| resident(gateway.pid()), most);
    let each = (bytes - few_bytes) / more;
    eprintln!("budget: {each:.1} resident bytes per connection");
    assert!(bytes <= most, "{each:.1} resident bytes per connection, {BYTES_MAX} are the most");

    match few_objects.zip(bare) {
        None => eprintln!("budget: kernel objects are not compared: /proc/slabinfo is not ours to read"),
        Some((before, bare)) => {
            let each = || objects().unwrap().since(before).each(more);
            let count = least(|| each().count, bare.count + OBJECTS_OFF);
            eprintln!(
                "budget: {count:.2} kernel objects and {:.0} bytes of slabs per connection, both ends; {:.2} and {:.0} \
                 without the gateway",
                each().bytes,
                bare.count,
                bare.bytes
            );
            assert!(
                count <= bare.count + OBJECTS_OFF,
                "{count:.2} kernel objects per connection, bare ones have {:.2}",
                bare.count
            );
        }
    }
    assert_eq!(gateway.metrics().value("gateway_connections"), many as f64);
    for client in clients {
        reset(&client);
    }
    gateway.until_only(0);
    gateway.stop();
}

#[test]
fn what_may_come_once_does_not_hide_a_record_that_grew_by_a_third() {
    let more = (MANY - FEW) as f64;
    assert!(allowed(more) < more * 64.0 * 4.0 / 3.0, "{} bytes each", allowed(more) / more);
}

/// Resident bytes that so many more connections may cost.
fn allowed(more: f64) -> f64 {
    more * BYTES_MAX + ONCE_BYTES
}

/// Looks until a figure is at most this, or for as long as patience lasts; the least that was seen.
fn least(mut look: impl FnMut() -> f64, enough: f64) -> f64 {
    let started = std::time::Instant::now();
    let mut least = look();
    while least > enough && started.elapsed() < PATIENCE / 3 {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        least = least.min(look());
    }
    least
}

/// Raises this process's descriptor limit as far as it goes.
fn descriptors() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard).unwrap()
}

/// Opens connections until there are so many, a batch at a time.
fn open(clients: &mut Vec<TcpStream>, until: usize, address: SocketAddr) {
    let request = upgrade_request("/echo");
    while clients.len() < until {
        let first = clients.len();
        for _ in first..until.min(first + BATCH) {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            clients.push(client);
        }
        for client in &mut clients[first..] {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let count = client.read(&mut piece).unwrap();
                assert!(count > 0, "refused: {}", String::from_utf8_lossy(&head));
                head.extend(&piece[..count]);
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        }
    }
}

/// Waits for a ping on every connection, and answers it.
fn answer_one_ping_each(clients: &mut [TcpStream]) {
    for client in clients {
        let mut ping = [0; 6];
        client.read_exact(&mut ping).unwrap();
        assert_eq!(ping[..2], [0x80 | PING, 4], "a ping with the gateway's clock");
        client.write_all(&frame(0x80 | PONG, &ping[2..])).unwrap();
    }
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib =
        text.lines().find_map(|line| line.strip_prefix("Rss:")?.split_whitespace().next()?.parse().ok());
    kib.map_or_else(|| panic!("no Rss in {text}"), |kib: f64| kib * 1024.0)
}

/// Kernel objects of those kinds on this machine.
#[derive(Clone, Copy)]
struct Objects {
    /// In use.
    count: f64,
    /// Of the slabs that they are in. Told and not judged: slabs are filled by everybody, and given back late.
    bytes: f64,
}

impl Objects {
    fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, bytes: self.bytes - before.bytes }
    }

    fn each(self, connections: f64) -> Self {
        Self { count: self.count / connections, bytes: self.bytes / connections }
    }
}

/// Those there are now; `None` where that is hidden.
fn objects() -> Option<Objects> {
    let text = std::fs::read_to_string("/proc/slabinfo").ok()?;
    let mut all = Objects { count: 0.0, bytes: 0.0 };
    for line in text.lines().filter(|line| KINDS.iter().any(|kind| line.starts_with(kind))) {
        // name active_objs num_objs objsize objperslab pagesperslab : tunables L B S : slabdata active_slabs num_slabs ...
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words[place].parse::<f64>().unwrap();
        all.count += number(1);
        all.bytes += number(5) * number(14) * PAGE_BYTES;
    }
    Some(all)
}

/// What a connection with nothing above it costs: two sockets, of which one is watched by an epoll.
fn objects_of_bare_connections() -> Option<Objects> {
    let before = objects()?;
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let pairs: Vec<(TcpStream, TcpStream)> = (0..BARE)
        .map(|_| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            epoll.add(&server, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
            (client, server)
        })
        .collect();
    let each = objects()?.since(before).each(BARE as f64);
    for (client, _) in &pairs {
        reset(client);
    }
    drop(pairs);
    // What is freed is freed a while later, and must not be taken for that of the next connections.
    eventually("bare connections are gone", || {
        (objects()?.since(before).count < BARE as f64 / 4.0).then_some(())
    });
    Some(each)
}

/// Makes the end of a connection a reset, which leaves nothing behind on either side.
fn reset(client: &TcpStream) {
    setsockopt(client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
}
