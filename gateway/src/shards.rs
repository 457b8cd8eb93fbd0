//! Starting the shards' threads, in the order that descriptor tables need: polls and wakers first (the runtime's
//! among them, because shards wake its tasks), then each thread its table, its listener, and a halt until all are
//! there; only then does the rest of the program open anything.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bridge::event::Batch;
use bridge::{Inbox, Mailbox, Outbox, Quota, Stats, Switchboard, Wake};
use config::Settings;
use net::{Clock, Listener, Prepared, SocketNet, clock, descriptors, event_loop, listener};
use shard::limit::{Gate, NodeBytes};
use shard::{Identity, Parts, Rules, Shard, Sizes};
use tokio::sync::mpsc;

/// Payload bytes that may wait in one mailbox.
const MAILBOX_BYTES_MAX: usize = 64 << 20;
/// Events that a shard gathers between two batches.
const OUTBOX_EVENTS_MAX: usize = 16_384;

/// Prefix of the threads' names: their descriptor tables are counted by it.
pub(crate) const THREAD_PREFIX: &str = "shard-";

/// What all shards are built from.
#[derive(Clone)]
pub(crate) struct Blueprint {
    pub(crate) identity: Identity,
    pub(crate) sizes: Sizes,
    pub(crate) rules: Rules,
    pub(crate) upstreams: Vec<Quota>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) node_bytes: Arc<NodeBytes>,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) batches: mpsc::Sender<Batch>,
}

/// Polls, mailboxes and counters of shards that do not run yet.
pub(crate) struct Bench {
    prepared: Vec<Prepared>,
    /// Descriptors that every shard may write to by number: all wakers, and what the runtime is made of.
    shared: Vec<RawFd>,
    inboxes: Vec<Inbox>,
    /// The sending ends, by shard.
    pub(crate) mailboxes: Vec<Mailbox>,
    /// Counters, by shard.
    pub(crate) stats: Vec<Arc<Stats>>,
}

/// Threads that have bound their listeners and wait for the word to go.
pub(crate) struct Waiting {
    threads: Vec<(SyncSender<Blueprint>, JoinHandle<()>)>,
    /// Tells which shard ended, and how.
    ended: Receiver<(u16, io::Result<()>)>,
    /// Where they listen.
    pub(crate) address: SocketAddr,
}

/// Shards at work.
pub(crate) struct Running {
    threads: Vec<JoinHandle<()>>,
    ended: Receiver<(u16, io::Result<()>)>,
}

impl Bench {
    /// Opens the polls and wakers of all shards. `runtime` are the descriptors of the runtime whose tasks the shards
    /// wake.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new(settings: &Settings, shards: u16, runtime: Vec<RawFd>) -> io::Result<Self> {
        let prepared = (0..shards).map(|_| Prepared::new()).collect::<io::Result<Vec<_>>>()?;
        let mut shared = runtime;
        shared.extend(prepared.iter().map(|one| one.waker().descriptor()));
        let commands = settings.mailbox.commands.get() as usize;
        let mailbox = |prepared: &Prepared| {
            bridge::mailbox::mailbox(commands, MAILBOX_BYTES_MAX, prepared.waker() as Arc<dyn Wake>)
        };
        let (mailboxes, inboxes) = prepared.iter().map(mailbox).unzip();
        let stats = prepared.iter().map(|_| Arc::default()).collect();
        Ok(Self { prepared, shared, inboxes, mailboxes, stats })
    }

    /// Starts a thread per shard and waits until all have bound their listeners.
    ///
    /// # Errors
    /// In words: the address is taken, or a table of its own is not allowed here. No thread is left then.
    pub(crate) fn start(self, settings: &Settings, clock: Clock) -> Result<Waiting, String> {
        let wanted = settings.listen.address;
        if wanted.port() != 0 {
            listener::probe(wanted).map_err(|error| cannot_listen(wanted, &error))?;
        }
        let (report, reports) = sync_channel(1);
        let (end, ended) = sync_channel(self.prepared.len());
        let mut waiting = Waiting { threads: Vec::new(), ended, address: wanted };
        for (number, ((prepared, inbox), stats)) in
            self.prepared.into_iter().zip(self.inboxes).zip(self.stats).enumerate()
        {
            let (go, word) = sync_channel(1);
            let thread = Thread {
                number: number as u16,
                prepared,
                inbox,
                stats,
                clock,
                keep: settings.shards.own_descriptors.then(|| self.shared.clone()),
                // The first one finds the port when the kernel chooses it.
                address: waiting.address,
                backlog: settings.listen.backlog.get().min(i32::MAX as u32) as i32,
                notsent_lowat: settings.listen.notsent_lowat.as_usize().try_into().unwrap_or(u32::MAX),
            };
            let (report, end) = (report.clone(), end.clone());
            let handle = std::thread::Builder::new()
                .name(format!("{THREAD_PREFIX}{number}"))
                .spawn(move || thread.run(&report, &word, &end))
                .map_err(|error| format!("cannot start a thread for shard {number}: {error}"))?;
            waiting.threads.push((go, handle));
            waiting.address = reports.recv().map_err(|_| format!("shard {number} died at its start"))??;
        }
        Ok(waiting)
    }
}

impl Waiting {
    /// Gives the word.
    pub(crate) fn go(self, blueprint: &Blueprint) -> Running {
        let mut threads = Vec::with_capacity(self.threads.len());
        for (go, handle) in self.threads {
            // A thread that died in between reports it by its end.
            let _ = go.send(blueprint.clone());
            threads.push(handle);
        }
        Running { threads, ended: self.ended }
    }
}

impl Running {
    /// Blocks until every shard has ended. The first failure ends the wait: without one of its shards a node is
    /// broken, and says so by ending.
    ///
    /// # Errors
    /// Which shard failed, and why.
    pub(crate) fn wait(self) -> Result<(), String> {
        for _ in 0..self.threads.len() {
            match self.ended.recv() {
                Ok((_, Ok(()))) => {}
                Ok((shard, Err(error))) => return Err(format!("shard {shard} failed: {error}")),
                Err(_) => return Err("a shard died".to_owned()),
            }
        }
        for thread in self.threads {
            thread.join().map_err(|_| "a shard panicked".to_owned())?;
        }
        Ok(())
    }
}

/// Reports how a shard ended, also when it panicked: nobody may wait for a shard that is no more.
struct LastWords<'a> {
    end: &'a SyncSender<(u16, io::Result<()>)>,
    number: u16,
    result: Option<io::Result<()>>,
}

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            let _ = self.end.send((self.number, result));
        }
    }
}

/// One shard's thread before its shard exists.
struct Thread {
    number: u16,
    prepared: Prepared,
    inbox: Inbox,
    stats: Arc<Stats>,
    clock: Clock,
    /// What to keep in a table of its own, if it is to have one.
    keep: Option<Vec<RawFd>>,
    address: SocketAddr,
    backlog: i32,
    notsent_lowat: u32,
}

impl Thread {
    fn run(
        self,
        report: &SyncSender<Result<SocketAddr, String>>,
        word: &Receiver<Blueprint>,
        end: &SyncSender<(u16, io::Result<()>)>,
    ) {
        let number = self.number;
        let net = match self.listen() {
            Ok((net, address)) => {
                // The kernel queues for it from now on; a shard that is slow to start must not look closed.
                self.stats.listening.set(1);
                let _ = report.send(Ok(address));
                net
            }
            Err(mistake) => {
                let _ = report.send(Err(mistake));
                return;
            }
        };
        // No word: the start was called off.
        let Ok(blueprint) = word.recv() else { return };
        let mut last_words = LastWords { end, number, result: Some(Err(io::Error::other("it panicked"))) };
        last_words.result = Some(self.work(net, blueprint));
    }

    /// Opens all that the shard has before its first connection: from the report on, its table grows by clients only.
    fn listen(&self) -> Result<(SocketNet, SocketAddr), String> {
        descriptors::block_signals().map_err(|error| format!("cannot block signals: {error}"))?;
        if let Some(shared) = &self.keep {
            let mut keep = shared.clone();
            keep.push(self.prepared.descriptor());
            descriptors::take_own_table(&keep).map_err(|error| {
                format!(
                    "shards.own_descriptors: this system does not allow a thread its own descriptor table \
                     (close_range, unshare): {error}. Set it to false, or allow the call."
                )
            })?;
        }
        self.bind().map_err(|error| cannot_listen(self.address, &error))
    }

    fn bind(&self) -> io::Result<(SocketNet, SocketAddr)> {
        let mut listener = Listener::bind(self.address, self.backlog, self.notsent_lowat)?;
        let address = listener.address()?;
        self.prepared.listen(&mut listener)?;
        Ok((SocketNet::new(self.prepared.registry()?, listener), address))
    }

    fn work(self, net: SocketNet, blueprint: Blueprint) -> io::Result<()> {
        let shard = Shard::new(Parts {
            net,
            identity: Identity { shard: self.number, ..blueprint.identity },
            sizes: blueprint.sizes,
            rules: blueprint.rules,
            upstreams: blueprint.upstreams,
            gate: blueprint.gate,
            node_bytes: blueprint.node_bytes,
            switchboard: blueprint.switchboard,
            inbox: self.inbox,
            outbox: Outbox::new(self.number, OUTBOX_EVENTS_MAX, blueprint.batches),
            stats: Arc::clone(&self.stats),
            seed: crate::node::random(),
            now: clock::tick(self.clock.elapsed()),
        });
        event_loop::run(self.prepared, self.clock, &self.stats, shard)
    }
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "listen.address: {address} is taken. Stop what listens there (`ss -ltnp`), or set another one, \
             as in GATEWAY__LISTEN__ADDRESS=127.0.0.1:9080."
        ),
        _ => format!("listen.address: cannot listen on {address}: {error}"),
    }
}
