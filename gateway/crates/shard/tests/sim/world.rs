//! Two shards behind one gate and one switchboard, their kernels, their clients, and a clock.
//!
//! Owns the loop that `net` has in the real program: poll, mail, events, turn, and no turn for a shard that asked for
//! none. After every turn it compares everything that is kept twice. Refuses to decide what happens: the random run and
//! the single cases do that. Panics with what is wrong, which fails the test.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bridge::event::Batch;
use bridge::id::{Address, Epoch, NodeName};
use bridge::mailbox::{Wake, mailbox};
use bridge::{
    Beyond, Channel, Command, DrainPlan, EndReason, Ending, Event, Inbox, Interest, Kind, Limited, Mailbox,
    Outbox, Stats, Switchboard,
};
use fastrand::Rng;
use shard::limit::{Gate, Network, NodeBytes};
use shard::rules::SlowConsumer;
use shard::{Identity, Next, Parts, Shard};
use tokio::sync::mpsc;

use crate::api::Orders;
use crate::authorize::{Judge, is_guarded};
use crate::client::{Client, Stage, request};
use crate::frames::{self, BINARY, Said, TEXT};
use crate::model::{Model, Place};
use crate::proxied::NOBODY;
use crate::script::{Host, Knock, ScriptNet};
use crate::upstream::{App, tells_app};
use crate::weather::{Weather, publishes_to};

pub(crate) const SHARDS: usize = 2;

#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Interest for Bell {
    fn changed(&self, _channel: &Channel) {}
}

/// The switchboard, and where what goes to the bus lies if the weather has one.
fn way_to_channels(weather: &Weather, mailboxes: Vec<Mailbox>) -> (Arc<Switchboard>, Option<Inbox>) {
    let switchboard = Switchboard::new(mailboxes);
    let Some(bytes) = weather.bus_carries else { return (Arc::new(switchboard), None) };
    let (mailbox, inbox) = mailbox(1000, 1 << 20, Arc::<Bell>::default());
    let beyond = Beyond::new(Arc::<Bell>::default(), mailbox);
    beyond.carry_at_most(bytes);
    (Arc::new(switchboard.with_beyond(Arc::new(beyond))), Some(inbox))
}

/// One shard and what is around it.
pub(crate) struct Node {
    pub(crate) shard: Shard<ScriptNet>,
    pub(crate) host: Rc<RefCell<Host>>,
    pub(crate) stats: Arc<Stats>,
    batches: mpsc::Receiver<Batch>,
    /// Nobody takes its batches.
    pub(crate) blocked: bool,
    bell: Arc<Bell>,
    pub(crate) next: Next,
    ran_at: u32,
}

/// Everything.
pub(crate) struct World {
    pub(crate) weather: Weather,
    pub(crate) now: u32,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) node_bytes: Arc<NodeBytes>,
    pub(crate) switchboard: Arc<Switchboard>,
    /// What has gone to the bus.
    _bus: Option<Inbox>,
    pub(crate) clients: Vec<Client>,
    /// Those that are not over.
    pub(crate) around: Vec<usize>,
    pub(crate) model: Model,
    pub(crate) orders: Orders,
    /// What each client says goes here.
    pub(crate) voices: Vec<usize>,
    pub(crate) endings: HashMap<Address, Ending>,
    pub(crate) app: App,
    pub(crate) judge: Judge,
    /// What the log was told of limits.
    pub(crate) limited: Vec<Limited>,
    /// Networks that are or were blocked.
    pub(crate) blocked: Vec<Network>,
    pub(crate) draining: bool,
    pub(crate) shedding: bool,
    runs: u64,
    /// What happened lately, for whoever reads a failure.
    pub(crate) diary: std::collections::VecDeque<String>,
}

impl World {
    pub(crate) fn new(weather: Weather, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = 1000;
        let gate = Arc::new(Gate::new(weather.gate_sizes()));
        let node_bytes = Arc::new(NodeBytes::new(weather.backlog_bytes));
        let bells: Vec<Arc<Bell>> = (0..SHARDS).map(|_| Arc::default()).collect();
        let boxes = bells.iter().map(|bell| {
            let wake: Arc<dyn Wake> = Arc::<Bell>::clone(bell);
            mailbox(weather.mailbox_commands, weather.mailbox_bytes, wake)
        });
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = boxes.unzip();
        let (switchboard, bus) = way_to_channels(&weather, mailboxes);
        let mut nodes = Vec::new();
        for (number, (inbox, bell)) in inboxes.into_iter().zip(bells).enumerate() {
            let host = Host::new(rng.u64(..));
            (host.borrow_mut().talkative, host.borrow_mut().stutters) = (weather.talkative, weather.stutters);
            let (sender, batches) = mpsc::channel(1);
            let stats = Arc::new(Stats::default());
            let shard = Shard::new(Parts {
                net: ScriptNet(Rc::clone(&host)),
                identity: Identity {
                    node: NodeName::parse("sim").unwrap(),
                    epoch: Epoch(7),
                    shard: number as u16,
                },
                sizes: weather.sizes(),
                rules: weather.rules.clone(),
                upstreams: weather.upstreams.clone(),
                gate: Arc::clone(&gate),
                node_bytes: Arc::clone(&node_bytes),
                switchboard: Arc::clone(&switchboard),
                inbox,
                outbox: Outbox::new(number as u16, weather.outbox_events, sender),
                stats: Arc::clone(&stats),
                seed: rng.u64(..),
                now,
            });
            let (next, blocked) = (Next::Now, false);
            nodes.push(Node { shard, host, stats, batches, blocked, bell, next, ran_at: now });
        }
        let mut model = Model::default();
        let orders = Orders::new(&mut model);
        Self {
            weather,
            now,
            rng,
            nodes,
            gate,
            node_bytes,
            switchboard,
            _bus: bus,
            clients: Vec::new(),
            around: Vec::new(),
            model,
            orders,
            voices: Vec::new(),
            endings: HashMap::new(),
            app: App::default(),
            judge: Judge::default(),
            limited: Vec::new(),
            blocked: Vec::new(),
            draining: false,
            shedding: false,
            runs: 0,
            diary: std::collections::VecDeque::new(),
        }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        self.model.step += 1;
        if self.diary.len() >= 300 {
            self.diary.pop_front();
        }
        let line = format!("{} @{} {}", self.model.step, self.now, text());
        self.diary.push_back(line);
    }

    /// A client comes to a listener with this request.
    pub(crate) fn come(&mut self, shard: usize, path: &str, request: &[u8], capacity: usize) -> usize {
        self.come_by(Self::peer_of(self.clients.len()), shard, path, request, capacity)
    }

    /// The peer that a client is.
    pub(crate) fn peer_of(number: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, (number % 5) as u8])
    }

    /// The same, by a socket of this address.
    pub(crate) fn come_by(
        &mut self,
        socket: IpAddr,
        shard: usize,
        path: &str,
        request: &[u8],
        capacity: usize,
    ) -> usize {
        let number = self.clients.len();
        let mut client = Client::new(number, shard, Self::peer_of(number), path, request, capacity);
        client.drops = self.weather.drops;
        let knock = Knock::Client(client.tcp.clone(), socket);
        let place = match publishes_to(path) {
            Some(channel) => Place::Channel(channel),
            None if path == "/echo" => Place::Client(number),
            None => Place::Nowhere,
        };
        let excluded = path.starts_with("/quiet/").then_some(number);
        let voice = self.model.stream(place, excluded);
        if self.weather.drops {
            self.model.may_drop(voice);
        }
        self.voices.push(voice);
        self.clients.push(client);
        self.around.push(number);
        self.nodes[shard].host.borrow_mut().knock(knock);
        number
    }

    /// A client that has come in.
    pub(crate) fn open(&mut self, shard: usize, path: &str) -> usize {
        let number = self.come(shard, path, request(path).as_bytes(), 1 << 20);
        self.rest();
        assert_eq!(self.clients[number].stage, Stage::Open);
        number
    }

    /// Many clients that have come in.
    pub(crate) fn open_crowd(
        &mut self,
        count: usize,
        path: &str,
        shard_of: impl Fn(usize) -> usize,
    ) -> Vec<usize> {
        let come = |place| self.come(shard_of(place), path, request(path).as_bytes(), 1 << 20);
        let numbers: Vec<usize> = (0..count).map(come).collect();
        self.rest();
        assert!(numbers.iter().all(|number| self.clients[*number].stage == Stage::Open));
        numbers
    }

    /// A client says a line of its stream. Nobody hears of it before the world goes on.
    pub(crate) fn say(&mut self, number: usize, padding: usize) {
        let stream = self.voices[number];
        let payload = self.model.compose(stream, BINARY, padding);
        self.clients[number].say(&frames::whole(BINARY, &payload));
        self.model.step += 1;
        self.model.said(stream, BINARY, payload);
    }

    /// How a client's connection has ended, if it has been told.
    pub(crate) fn ending(&self, number: usize) -> Option<&Ending> {
        self.clients[number].id.and_then(|id| self.endings.get(&id))
    }

    /// These clients have heard everything they should have.
    pub(crate) fn check_complete(&self, numbers: &[usize]) {
        for number in numbers {
            if let Err(wrong) = self.model.check_complete(*number) {
                panic!("{wrong}");
            }
        }
    }

    /// Every client does what is due; nobody healthy is late.
    pub(crate) fn everybody_acts(&mut self) {
        for number in self.around.clone() {
            self.act(number);
        }
        let clients = &self.clients;
        self.around.retain(|number| !clients[*number].is_over());
    }

    pub(crate) fn act(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let halves = client.is_between_halves();
        if let Err(wrong) = client.act(self.now) {
            panic!("client {number} {}: {wrong}", client.path);
        }
        if halves && !client.is_between_halves() {
            self.model.completed(self.voices[number]);
        }
        self.take_in(number);
    }

    /// Holds what a client has just heard against the model.
    pub(crate) fn take_in(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.stage == Stage::Open && !self.model.knows(number) {
            let allowed = self.judge.allowed(number);
            // Who is over a limit may be let in to be told so, and hears nothing else.
            let is_in = allowed.is_some() || !is_guarded(&client.path) || self.weather.is_strict;
            assert!(is_in, "client {number} is in, and nobody let it in");
            if let Some(channel) = crate::weather::subscribed_by(&client.path) {
                self.model.joined(number, &channel);
            }
            for granted in allowed.into_iter().flat_map(|allowed| &allowed.channels) {
                self.model.joined(number, granted.as_str());
            }
        }
        // Whose socket was full on a route where messages give way may miss some; what it hears is in order all the same.
        if self.weather.policy(&client.path) != SlowConsumer::Close && client.tcp.was_full() {
            self.model.may_miss(number);
        }
        if let Some(kind) = self.weather.kind(&client.path) {
            self.model.asks(number, if kind == Kind::Text { TEXT } else { BINARY });
        }
        while let Some(said) = client.heard.pop_front() {
            if let Said::Message { opcode, payload } = said
                && let Err(wrong) = self.model.hear(number, opcode, &payload)
            {
                panic!("{wrong}");
            }
        }
        let (weather, facts) = (&self.weather, &self.clients[number].facts);
        let client = &self.clients[number];
        let limits = weather.is_strict || self.was_blocked(client.peer);
        if let Stage::Refused(status) = client.stage {
            // A head of which the rest arrives just after the last look is late, and one cut off by a FIN may be.
            let late = status == 408 && (weather.stutters || facts.hung_up);
            let limited = status == 429 && limits;
            let decided = self.judge.refused(number, status);
            let earned = facts.refusals.contains(&status) || status == 503 || late || limited || decided;
            assert!(earned, "client {number} was refused with {status}, for {:?}", facts.refusals);
        }
        if let Some(code) = client.close {
            let fine = match code {
                None => false,
                Some(1013) => {
                    let may_be_slow = facts.stopped_reading || weather.is_tight;
                    (may_be_slow && client.tcp.was_full()) || tells_app(&client.path) || self.shedding
                }
                Some(1001) if self.draining || self.shedding => true,
                Some(1008) => limits || self.judge.expires(number),
                Some(1000) if weather.life(&client.path).idle_ticks.is_some() => true,
                Some(1001) if weather.life(&client.path).age_ticks.is_some() => true,
                Some(code) => {
                    facts.api_codes.contains(&code)
                        || facts.violated == Some(code)
                        || facts.said_close == Some(code)
                }
            };
            assert!(fine, "client {number} was closed with {code:?}: {facts:?}");
        }
    }

    /// Whether the shard's loop would wake up.
    pub(crate) fn is_due(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        match node.next {
            Next::Finished => false,
            Next::Now | Next::Soon => true,
            Next::Tick => {
                self.now > node.ran_at
                    || node.bell.0.load(Ordering::Relaxed)
                    || node.host.borrow().has_events()
            }
        }
    }

    /// One pass of a shard's loop, and all checks.
    pub(crate) fn run(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        node.bell.0.store(false, Ordering::Relaxed);
        let events = node.host.borrow_mut().poll(self.weather.events_per_poll);
        node.shard.begin_pass(now.wrapping_mul(100_000));
        node.shard.mail(now);
        self.orders.hear_replies(&mut self.model);
        for (token, readiness) in events {
            node.shard.ready(now, token, readiness);
        }
        node.next = node.shard.turn(now);
        node.ran_at = now;
        if !node.blocked {
            self.take_batches(number);
        }
        if !self.app.away {
            let most = self.rng.usize(1..6);
            self.settle(most);
        }
        if !self.judge.away {
            let most = self.rng.usize(..3);
            self.judge(most);
        }
        if let Err(wrong) = self.nodes[number].shard.audit() {
            panic!("shard {number}: {wrong}");
        }
        self.runs += 1;
        if self.runs.is_multiple_of(8) {
            self.audit_shared();
        }
    }

    pub(crate) fn take_batches(&mut self, number: usize) {
        while let Ok(batch) = self.nodes[number].batches.try_recv() {
            assert_eq!(usize::from(batch.shard), number);
            for event in batch.events {
                match event {
                    Event::Ended(ending) => self.ended(ending),
                    Event::Limited(limited) => self.limited.push(limited),
                    Event::Inbound(inbound) => self.tell_app(inbound),
                    Event::Authorize(question) => {
                        if let Err(wrong) = self.judge.asked(*question) {
                            panic!("{wrong}");
                        }
                    }
                }
            }
        }
    }

    fn ended(&mut self, ending: Ending) {
        let client = self.clients.iter().find(|client| client.id == Some(ending.address));
        if let Some(client) = client {
            let taken = ending.traffic.messages_in as usize;
            if let Err(wrong) = self.model.ended(self.voices[client.number], taken) {
                panic!("client {}: {wrong}", client.number);
            }
            let facts = &client.facts;
            let fine = match ending.reason {
                EndReason::ClientClose => facts.said_close.is_some(),
                EndReason::ClientGone => facts.hung_up,
                EndReason::Reset => facts.reset || facts.hung_up,
                EndReason::ProtocolError => facts.violated == Some(1002),
                EndReason::InvalidUtf8 => facts.violated == Some(1007),
                EndReason::MessageTooBig => facts.violated == Some(1009),
                EndReason::PongTimeout => facts.mute || facts.stopped_reading,
                // Who takes all that it is offered is not slow, however much that is.
                EndReason::SlowConsumer => {
                    (facts.stopped_reading || self.weather.is_tight) && client.tcp.was_full()
                }
                EndReason::Limited => self.weather.is_strict || self.was_blocked(client.peer),
                EndReason::Idle => {
                    self.weather.life(&client.path).idle_ticks.is_some_and(|idle| ending.age_ticks >= idle)
                }
                EndReason::MaxAge => {
                    self.weather.life(&client.path).age_ticks.is_some_and(|age| ending.age_ticks >= age)
                }
                EndReason::ApiClose => !facts.api_codes.is_empty(),
                EndReason::GoingAway => self.draining,
                EndReason::Shed | EndReason::Gap => self.shedding,
                EndReason::Upstream => tells_app(&client.path),
                EndReason::Expired => self.judge.expires(client.number),
                EndReason::Internal => false,
            };
            assert!(fine, "{ending:?} at {}: {client:?}", self.now);
            assert_eq!(ending.peer, client.peer);
            let user = ending.principal.as_ref().and_then(|principal| principal.user.as_ref());
            assert_eq!(user, self.judge.user_of(ending.address), "client {}", client.number);
        }
        let twice = self.endings.insert(ending.address, ending);
        assert!(twice.is_none(), "ended twice: {twice:?}");
    }

    /// The tables that shards share.
    pub(crate) fn audit_shared(&self) {
        let mut peers: BTreeMap<IpAddr, u32> = BTreeMap::new();
        let (mut connections, mut handshakes, mut claimed) = (0, 0, 0);
        let mut channels = std::collections::BTreeSet::new();
        for node in &self.nodes {
            let census = node.shard.census();
            connections += census.connections;
            handshakes += census.handshakes;
            claimed += census.backlog_claimed;
            channels.extend(census.channels);
            for (peer, live) in census.peers {
                *peers.entry(peer).or_default() += live;
            }
        }
        assert_eq!(self.node_bytes.left() + claimed, self.weather.backlog_bytes, "bytes of backlogs");
        assert_eq!(self.gate.connections(), connections, "connections at the gate");
        assert_eq!(self.gate.handshakes(), handshakes, "handshakes at the gate");
        assert_eq!(self.gate.peers().len(), peers.len(), "peers at the gate");
        for (peer, live) in peers {
            assert_eq!(self.gate.peers().live(peer), live, "connections of {peer}");
        }
        assert_eq!(self.gate.peers().live(NOBODY), 0, "somebody passes for another");
        assert_eq!(self.switchboard.channels(), channels.len(), "channels on the switchboard");
    }

    /// Time passes. Shards may sleep through it, healthy clients do not.
    pub(crate) fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.everybody_acts();
            self.now += 1;
        }
        self.everybody_acts();
    }

    /// Runs shards and clients until nobody has anything to do at this tick.
    pub(crate) fn rest(&mut self) {
        for round in 0.. {
            let nexts: Vec<Next> = self.nodes.iter().map(|node| node.next).collect();
            assert!(round < 20_000, "the shards never come to rest: {nexts:?}");
            self.everybody_acts();
            let due: Vec<usize> = (0..SHARDS).filter(|number| self.is_due(*number)).collect();
            if due.is_empty() {
                self.check_blocks();
                return self.check_read();
            }
            due.into_iter().for_each(|number| self.run(number));
        }
    }

    /// A shard at rest that pauses nobody has read everybody to the end.
    fn check_read(&self) {
        for number in &self.around {
            let client = &self.clients[*number];
            let reads_all = self.nodes[client.shard].stats.paused.value() == 0;
            assert!(!reads_all || !client.tcp.is_overlooked(), "client {number} is overlooked");
        }
    }

    /// So many ticks, with everything at rest in between.
    pub(crate) fn live(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.rest();
            self.everybody_acts();
            self.now += 1;
        }
        self.rest();
    }

    pub(crate) fn command(&mut self, shard: usize, command: Command) -> bool {
        self.switchboard.mailboxes()[shard].send(command).is_ok()
    }

    /// Everybody is asked to leave; in the end nothing is left.
    pub(crate) fn drain(&mut self, ticks: u32) {
        let plan = DrainPlan::within(ticks, self.rng.u32(..ticks), self.weather.rules.close_ticks);
        self.begin_drain(plan);
        self.end_drain(ticks);
    }

    /// Everybody is asked to leave, by this plan.
    pub(crate) fn begin_drain(&mut self, plan: DrainPlan) {
        self.draining = true;
        for shard in 0..SHARDS {
            self.insist(shard, || Command::Drain(plan));
        }
    }

    /// Gives an order, and again until the mailbox has room.
    pub(crate) fn insist(&mut self, shard: usize, order: impl Fn() -> Command) {
        for _ in 0..1000 {
            if self.command(shard, order()) {
                return;
            }
            self.run(shard);
        }
        panic!("the mailbox never had room");
    }

    /// By the deadline, and the time that the last one who was refused may take, nothing is left.
    pub(crate) fn end_drain(&mut self, ticks: u32) {
        let patience = ticks + self.weather.rules.close_ticks + self.weather.rules.linger_ticks + 10;
        self.live(patience);
        for (number, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.next, Next::Finished, "shard {number} is not drained");
            if let Err(wrong) = node.shard.audit_empty() {
                panic!("shard {number} kept something: {wrong}");
            }
        }
        assert_eq!((self.gate.connections(), self.gate.handshakes()), (0, 0));
        assert!(self.gate.peers().is_empty(), "somebody is still at the gate");
        assert_eq!(self.switchboard.channels(), 0);
        let given_up: u64 = self.nodes.iter().map(|node| node.stats.inbound_given_up.value()).sum();
        assert_eq!(self.app.unclosed() as u64, given_up, "whoever was told of an opening is told of the end");
        let opened: u64 = self.nodes.iter().map(|node| node.stats.opened.value()).sum();
        assert_eq!(self.endings.len() as u64, opened, "everybody who was opened has one ending");
        for client in &self.clients {
            if let Some(id) = client.id {
                assert!(self.endings.contains_key(&id), "client {} has no ending", client.number);
            }
        }
    }
}
