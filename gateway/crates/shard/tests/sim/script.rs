//! The network by script: sockets that are two byte queues, a listener that is a queue of them, and the events that
//! an edge-triggered kernel would give. Implements [`Net`] for the shard and the other end for the clients.
//!
//! Owns what the kernel would: room, edges, resets, what a close does to bytes on their way. Refuses to be kinder than
//! a kernel: an event comes on an edge only (bytes or a FIN arrived, or room came back after a write met its end), data
//! and FIN that arrive together are one event, and what is said twice is said once. Misuse of a socket panics.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::rc::Rc;

use fastrand::Rng;
use shard::LISTENER;
use shard::net::{Accepted, Hangup, Net, Read, Readiness, Wrote};

/// Who waits at a listener.
#[derive(Debug)]
pub(crate) enum Knock {
    /// A connection and its peer.
    Client(Tcp, IpAddr),
    /// One that leaves before it is accepted.
    Lost,
}

/// One connection, seen from both ends.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// Bytes on their way to the shard.
    inbound: VecDeque<u8>,
    /// The client sends no more.
    fin: bool,
    /// The connection is broken, as the shard will find out.
    broken: bool,
    /// The client is gone: the first write is taken and brings a reset back.
    gone: bool,
    /// Bytes on their way to the client.
    outbound: VecDeque<u8>,
    /// How many of those fit.
    capacity: usize,
    token: Option<u64>,
    /// Edges that were not delivered yet.
    edge: Readiness,
    /// A write met its end: room will be an edge.
    wants_room: bool,
    /// A write has ever met its end.
    was_full: bool,
    /// The shard writes no more.
    finished: bool,
    closed: Option<Hangup>,
    /// The client sees a reset instead of an end.
    torn: bool,
    writes: usize,
}

/// A handle on a connection; both ends have one.
#[derive(Clone, Debug)]
pub(crate) struct Tcp(Rc<RefCell<Pipe>>);

/// How the stream to a client stands when there is nothing more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Open,
    Ended,
    Torn,
}

/// The client's end.
impl Tcp {
    /// A connection whose way to the client holds so many bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Rc::new(RefCell::new(Pipe { capacity, ..Pipe::default() })))
    }

    fn edge(pipe: &mut Pipe, readable: bool, writable: bool, hung_up: bool) {
        pipe.edge.readable |= readable;
        pipe.edge.writable |= writable;
        pipe.edge.hung_up |= hung_up;
    }

    /// Sends bytes to the shard.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let pipe = &mut *self.0.borrow_mut();
        assert!(!pipe.fin, "a client sends nothing behind its FIN");
        if !bytes.is_empty() && !pipe.broken && pipe.closed.is_none() {
            pipe.inbound.extend(bytes);
            Self::edge(pipe, true, false, false);
        }
    }

    /// Half-closes, or closes for good: then nobody reads what the shard writes.
    pub(crate) fn hang_up(&self, for_good: bool) {
        let pipe = &mut *self.0.borrow_mut();
        pipe.gone |= for_good;
        if !std::mem::replace(&mut pipe.fin, true) {
            Self::edge(pipe, true, false, true);
        }
    }

    /// Breaks the connection; what is on its way to the shard may be lost with it.
    pub(crate) fn reset(&self, lose: bool) {
        let pipe = &mut *self.0.borrow_mut();
        (pipe.fin, pipe.gone, pipe.broken) = (true, true, true);
        if lose {
            pipe.inbound.clear();
        }
        Self::edge(pipe, true, true, true);
    }

    /// Reads up to so many bytes. Room that comes back is an edge if a write has met its end.
    pub(crate) fn receive(&self, most: usize) -> (Vec<u8>, Stream) {
        let pipe = &mut *self.0.borrow_mut();
        let taken = most.min(pipe.outbound.len());
        let bytes = pipe.outbound.make_contiguous()[..taken].to_vec();
        pipe.outbound.drain(..taken);
        if pipe.wants_room && pipe.outbound.len() < pipe.capacity && pipe.closed.is_none() {
            pipe.wants_room = false;
            Self::edge(pipe, false, true, false);
        }
        let stream = match (pipe.outbound.is_empty(), pipe.torn, pipe.finished || pipe.closed.is_some()) {
            (true, true, _) => Stream::Torn,
            (true, false, true) => Stream::Ended,
            _ => Stream::Open,
        };
        (bytes, stream)
    }

    /// Another size for the way to the client.
    pub(crate) fn resize(&self, capacity: usize) {
        self.0.borrow_mut().capacity = capacity;
    }

    /// Whether it has ever taken less than it was offered.
    pub(crate) fn was_full(&self) -> bool {
        self.0.borrow().was_full
    }

    /// How the shard closed it, if it has.
    pub(crate) fn closed(&self) -> Option<Hangup> {
        self.0.borrow().closed
    }

    /// Whether there is something to read that the shard does not know of, once it has come to rest.
    pub(crate) fn is_overlooked(&self) -> bool {
        let pipe = self.0.borrow();
        pipe.token.is_some() && pipe.closed.is_none() && (!pipe.inbound.is_empty() || pipe.fin)
    }

    /// Bytes that the shard has not read.
    pub(crate) fn unread(&self) -> usize {
        self.0.borrow().inbound.len()
    }

    /// Calls of `write` and `write_one` so far.
    pub(crate) fn writes(&self) -> usize {
        self.0.borrow().writes
    }
}

/// What one shard's kernel holds.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) knocks: VecDeque<Knock>,
    listener_edge: bool,
    pub(crate) listening: bool,
    /// Who knocks now is not heard.
    barred: bool,
    /// No descriptor is left.
    pub(crate) exhausted: bool,
    /// The next registrations fail.
    pub(crate) register_failures: u32,
    pub(crate) attempts: u32,
    /// Events say all that is true, as epoll does, and not only what is new.
    pub(crate) talkative: bool,
    /// Reads may be cut short, with an edge for the rest.
    pub(crate) stutters: bool,
    pub(crate) rng: Rng,
    registered: Vec<Tcp>,
}

impl Host {
    pub(crate) fn new(seed: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            knocks: VecDeque::new(),
            listener_edge: false,
            listening: true,
            barred: false,
            exhausted: false,
            register_failures: 0,
            attempts: 0,
            talkative: false,
            stutters: false,
            rng: Rng::with_seed(seed),
            registered: Vec::new(),
        }))
    }

    /// Somebody comes to the listener. When it is barred or closed nobody answers.
    pub(crate) fn knock(&mut self, knock: Knock) {
        if self.listening && !self.barred {
            self.knocks.push_back(knock);
            self.listener_edge = true;
        } else if let Knock::Client(tcp, _) = knock {
            tcp.0.borrow_mut().torn = true;
        }
    }

    /// Whether a poll would return at once.
    pub(crate) fn has_events(&self) -> bool {
        self.listener_edge || self.registered.iter().any(|tcp| tcp.0.borrow().edge != Readiness::default())
    }

    /// Up to so many events, in any order.
    pub(crate) fn poll(&mut self, most: usize) -> Vec<(u64, Readiness)> {
        self.registered.retain(|tcp| tcp.0.borrow().closed.is_none());
        self.rng.shuffle(&mut self.registered);
        let mut events = Vec::new();
        if std::mem::take(&mut self.listener_edge) {
            events.push((LISTENER, Readiness { readable: true, ..Readiness::default() }));
        }
        for tcp in &self.registered {
            let pipe = &mut *tcp.0.borrow_mut();
            if events.len() >= most || pipe.edge == Readiness::default() {
                continue;
            }
            let mut readiness = std::mem::take(&mut pipe.edge);
            if self.talkative {
                readiness.readable |= !pipe.inbound.is_empty() || pipe.fin;
                readiness.writable |= pipe.outbound.len() < pipe.capacity;
                readiness.hung_up |= pipe.fin;
            }
            events.push((pipe.token.unwrap(), readiness));
        }
        events
    }
}

/// A shard's network.
pub(crate) struct ScriptNet(pub(crate) Rc<RefCell<Host>>);

impl ScriptNet {
    fn put(pipe: &mut Pipe, slices: &[IoSlice<'_>]) -> Wrote {
        assert!(pipe.closed.is_none() && !pipe.finished, "written to after the last word");
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "a write of nothing");
        pipe.writes += 1;
        if pipe.broken {
            return Wrote::Reset;
        }
        if pipe.gone {
            pipe.broken = true;
            Tcp::edge(pipe, true, true, true);
            return Wrote::Bytes(offered);
        }
        let room = pipe.capacity.saturating_sub(pipe.outbound.len()).min(offered);
        pipe.wants_room |= room < offered;
        pipe.was_full |= room < offered;
        if room == 0 {
            return Wrote::WouldBlock;
        }
        let mut left = room;
        for slice in slices {
            let taken = left.min(slice.len());
            pipe.outbound.extend(&slice[..taken]);
            left -= taken;
        }
        Wrote::Bytes(room)
    }
}

impl Net for ScriptNet {
    type Socket = Tcp;

    fn accept(&mut self) -> Accepted<Tcp> {
        let host = &mut *self.0.borrow_mut();
        assert!(host.listening, "accepts from a closed listener");
        if host.knocks.is_empty() {
            return Accepted::WouldBlock;
        }
        host.attempts += 1;
        if host.exhausted {
            return Accepted::Exhausted;
        }
        match host.knocks.pop_front() {
            Some(Knock::Client(tcp, peer)) => Accepted::Socket(tcp, peer),
            _ => Accepted::Lost,
        }
    }

    fn register(&mut self, socket: &Tcp, token: u64) -> bool {
        let host = &mut *self.0.borrow_mut();
        if host.register_failures > 0 {
            host.register_failures -= 1;
            return false;
        }
        let pipe = &mut *socket.0.borrow_mut();
        assert!(pipe.token.replace(token).is_none(), "registered twice");
        // Whatever is true at that moment is the first event.
        pipe.edge =
            Readiness { readable: !pipe.inbound.is_empty() || pipe.fin, writable: true, hung_up: pipe.fin };
        host.registered.push(socket.clone());
        true
    }

    fn read(&mut self, socket: &mut Tcp, into: &mut [u8]) -> Read {
        let host = &mut *self.0.borrow_mut();
        let pipe = &mut *socket.0.borrow_mut();
        assert!(pipe.closed.is_none(), "read after its close");
        if pipe.inbound.is_empty() {
            return match (pipe.broken, pipe.fin) {
                (true, _) => Read::Reset,
                (false, true) => Read::Closed,
                (false, false) => Read::WouldBlock,
            };
        }
        let mut bytes = pipe.inbound.len().min(into.len());
        if host.stutters && bytes > 1 && host.rng.u8(..4) == 0 {
            // The rest arrives just after the read.
            bytes = host.rng.usize(1..bytes);
            Tcp::edge(pipe, true, false, pipe.fin);
        }
        into[..bytes].copy_from_slice(&pipe.inbound.make_contiguous()[..bytes]);
        pipe.inbound.drain(..bytes);
        Read::Bytes(bytes)
    }

    fn write(&mut self, socket: &mut Tcp, slices: &[IoSlice<'_>]) -> Wrote {
        Self::put(&mut socket.0.borrow_mut(), slices)
    }

    fn write_one(&mut self, socket: &mut Tcp, bytes: &[u8]) -> Wrote {
        Self::put(&mut socket.0.borrow_mut(), &[IoSlice::new(bytes)])
    }

    fn finish(&mut self, socket: &mut Tcp) {
        let pipe = &mut *socket.0.borrow_mut();
        assert!(pipe.closed.is_none(), "finished after its close");
        pipe.finished = true;
    }

    fn close(&mut self, socket: Tcp, how: Hangup) {
        let pipe = &mut *socket.0.borrow_mut();
        assert!(pipe.closed.replace(how).is_none(), "closed twice");
        pipe.edge = Readiness::default();
        // Who closes with bytes unread sends a reset, and the peer's kernel may forget what it was about to hand over.
        if how == Hangup::Reset || !pipe.inbound.is_empty() || pipe.broken {
            pipe.torn = true;
            let kept = pipe.outbound.len() / 2;
            pipe.outbound.truncate(kept);
        }
    }

    fn bar(&mut self) {
        let host = &mut *self.0.borrow_mut();
        assert!(
            host.listening && !std::mem::replace(&mut host.barred, true),
            "barred once, while it listens"
        );
    }

    fn stop_listening(&mut self) {
        let host = &mut *self.0.borrow_mut();
        assert!(std::mem::replace(&mut host.listening, false), "stopped listening twice");
        assert!(host.barred, "a listener is barred first");
        for knock in host.knocks.drain(..) {
            if let Knock::Client(tcp, _) = knock {
                assert!(host.exhausted, "somebody in the queue is lost");
                tcp.0.borrow_mut().torn = true;
            }
        }
        host.listener_edge = false;
    }
}
