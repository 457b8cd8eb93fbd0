//! The world around a session: connections that say something, streams with a wire in both directions, app servers behind
//! them; and a shadow of what every event has been through, against which each thing that the session says is held.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use backend::grpc::session::Due;
use backend::grpc::{Order, Session, SessionStats, Sizes, Status, StreamEnd, StreamId, Told};
use bridge::inbound::{Occurrence, Opened};
use bridge::message::{Bytes, Kind};
use bridge::{Address, EndReason, Inbound, Message, Upstream};

pub(crate) const SIZES: Sizes = Sizes {
    partitions: 16,
    window_events: 24,
    window_bytes: 600,
    connection_events: 4,
    greet_ms: 2_000,
    ack_timeout_ms: 5_000,
    handover_ms: 250,
    ids: 50,
};

/// Something on its way to an app server.
#[derive(Debug)]
pub(crate) enum Note {
    Hello,
    Event(u64),
    Result(u64, Status),
    Gap(u64),
}

/// Something on its way back.
#[derive(Debug)]
pub(crate) enum Word {
    Ack(u64, Vec<(u64, u64)>),
    Order(u64, Order),
    GoAway,
}

/// One stream, both directions.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) endpoint: usize,
    pub(crate) to_app: VecDeque<Note>,
    /// Positions that the app server has and has not acknowledged.
    pub(crate) pending: Vec<u64>,
    pub(crate) to_gateway: VecDeque<Word>,
    /// What each position was.
    positions: HashMap<u64, (Address, u32)>,
    pub(crate) sent: u64,
    pub(crate) was_greeted: bool,
    pub(crate) half_closed: bool,
    pub(crate) said_goodbye: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay { stream: StreamId, position: u64, moves: u64 },
}

#[derive(Debug)]
struct Shadow {
    state: State,
    was_sent: bool,
    bytes: u32,
    is_closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) sequence: u32,
    pub(crate) is_closed: bool,
    /// Its handler hangs.
    pub(crate) is_stuck: bool,
    unsettled: BTreeMap<u32, Shadow>,
}

pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) stats: Arc<SessionStats>,
    pub(crate) now_ms: u64,
    pub(crate) wires: BTreeMap<StreamId, Wire>,
    pub(crate) connections: BTreeMap<u32, Connection>,
    pub(crate) condemned: Vec<Address>,
    pub(crate) ended: Vec<(StreamId, StreamEnd)>,
    pub(crate) diary: VecDeque<String>,
    given_up: u64,
    streams: u64,
    /// Of each partition, before the call.
    moves: Vec<u64>,
}

pub(crate) const fn address(slot: u32) -> Address {
    Address { shard: 0, slot, generation: 1 }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(SIZES)
    }

    pub(crate) fn with(sizes: Sizes) -> Self {
        let stats = Arc::<SessionStats>::default();
        Self {
            session: Session::new(sizes, Arc::clone(&stats)),
            stats,
            now_ms: 1_000,
            wires: BTreeMap::new(),
            connections: BTreeMap::new(),
            condemned: Vec::new(),
            ended: Vec::new(),
            diary: VecDeque::new(),
            given_up: 0,
            streams: 0,
            moves: vec![0; usize::from(SIZES.partitions)],
        }
    }

    pub(crate) fn note(&mut self, line: &str) {
        if self.diary.len() >= 80 {
            self.diary.pop_front();
        }
        self.diary.push_back(format!("{}: {line}", self.now_ms));
    }

    /// A connection says something: first that it is open.
    pub(crate) fn take_in(&mut self, slot: u32, bytes: u32, closes: bool) {
        let connection = self.connections.entry(slot).or_default();
        assert!(!connection.is_closed);
        connection.sequence += 1;
        let occurrence = if connection.sequence == 1 {
            Occurrence::Opened(Box::new(Opened {
                peer: [127, 0, 0, 1].into(),
                path: "/".into(),
                protocol: None,
            }))
        } else if closes {
            connection.is_closed = true;
            Occurrence::Closed { reason: EndReason::ClientClose, code: Some(1000) }
        } else {
            Occurrence::Message { kind: Kind::Binary, payload: Bytes::from(vec![7; bytes as usize]) }
        };
        let inbound = Inbound {
            upstream: Upstream(0),
            partition: address(slot).partition(SIZES.partitions),
            address: address(slot),
            route: 0,
            sequence: connection.sequence,
            principal: None,
            occurrence,
        };
        let shadow = Shadow {
            state: State::Waiting,
            was_sent: false,
            bytes: inbound.payload_bytes(),
            is_closed: connection.is_closed,
        };
        connection.unsettled.insert(connection.sequence, shadow);
        self.session.take_in(inbound);
        self.check(0);
    }

    /// A stream to this endpoint is open.
    pub(crate) fn open(&mut self, endpoint: usize) -> StreamId {
        self.streams += 1;
        let id = StreamId(self.streams);
        self.note(&format!("{id:?} to {endpoint}"));
        self.wires.insert(id, Wire { endpoint, ..Wire::default() });
        self.session.opened(id, self.now_ms);
        self.check(0);
        id
    }

    /// A stream is lost with all that is on its wire.
    pub(crate) fn lose(&mut self, id: StreamId) {
        self.note(&format!("{id:?} lost"));
        self.wires.remove(&id);
        self.session.lost(id, StreamEnd::Broken, self.now_ms);
        self.check(0);
    }

    /// The gateway says what it has to say.
    pub(crate) fn say(&mut self, id: StreamId, most: usize) -> usize {
        let mut told = Vec::new();
        let said = self.session.say(id, most, self.now_ms, |one| {
            told.push(match one {
                Told::Hello => (Note::Hello, None),
                Told::Gap { events } => (Note::Gap(events), None),
                Told::Result { id, status, .. } => (Note::Result(id, status), None),
                Told::Event { position, again, inbound } => {
                    (Note::Event(position), Some((again, inbound.address, inbound.sequence)))
                }
            });
        });
        assert_eq!(said, told.len());
        for (note, event) in told {
            let wire = self.wires.get_mut(&id).unwrap();
            assert!(!wire.half_closed, "{id:?}: {note:?} behind the half-close");
            match note {
                Note::Hello => assert!(!std::mem::replace(&mut wire.was_greeted, true)),
                _ => assert!(wire.was_greeted, "Hello comes first"),
            }
            if let Note::Event(position) = note {
                assert_eq!(position, wire.sent + 1, "positions count");
                wire.sent = position;
                let (again, address, sequence) = event.unwrap();
                wire.positions.insert(position, (address, sequence));
                assert!(!wire.said_goodbye, "no new event after GoAway");
                self.told(id, position, again, address, sequence);
            }
            let wire = self.wires.get_mut(&id).unwrap();
            wire.to_app.push_back(note);
        }
        self.check(0);
        said
    }

    fn is_under_way(&self, address: Address, state: State) -> bool {
        let moves = self.session.moves(address.partition(SIZES.partitions));
        matches!(state, State::UnderWay { moves: then, .. } if then == moves)
    }

    /// An event was sent: it was its turn.
    fn told(&mut self, stream: StreamId, position: u64, again: bool, address: Address, sequence: u32) {
        assert_eq!(self.session.owner(address), Some(stream), "one stream owns a connection");
        let moves = self.session.moves(address.partition(SIZES.partitions));
        let mut under_way = 1;
        for (number, shadow) in &self.connections[&address.slot].unsettled {
            let is_under_way = self.is_under_way(address, shadow.state);
            match number.cmp(&sequence) {
                std::cmp::Ordering::Less => {
                    assert!(is_under_way, "{address:?}: {sequence} was sent before {number}");
                    under_way += 1;
                }
                std::cmp::Ordering::Equal => assert!(!is_under_way, "{address:?}: {sequence} was sent twice"),
                std::cmp::Ordering::Greater => {
                    assert!(!is_under_way, "{address:?}: {sequence} was sent after {number}");
                }
            }
        }
        assert!(under_way <= u32::from(SIZES.connection_events));
        let connection = self.connections.get_mut(&address.slot).unwrap();
        let shadow = connection.unsettled.get_mut(&sequence).expect("what is settled is not sent");
        assert_eq!(again, shadow.was_sent);
        shadow.was_sent = true;
        shadow.state = State::UnderWay { stream, position, moves };
    }

    /// The gateway hears a word; an acknowledgement settles just what it names.
    pub(crate) fn hear(&mut self, id: StreamId, word: Word) {
        self.session.heard(id, self.now_ms);
        self.check(0);
        match word {
            Word::Ack(through, ranges) => self.acknowledge(id, through, &ranges),
            Word::Order(order_id, order) => {
                if let Some(order) = self.session.ordered(id, order_id, Ok(order), self.now_ms) {
                    let whom = order.whom();
                    assert!(whom.is_none_or(|whom| self.session.owner(whom) == Some(id)), "by its owner");
                    if order_id != 0 {
                        self.session.answer(id, order_id, Status::Ok, "");
                    }
                }
                self.check(0);
            }
            Word::GoAway => {
                if let Some(wire) = self.wires.get_mut(&id) {
                    wire.said_goodbye = true;
                }
                self.session.going_away(id, self.now_ms);
                self.check(0);
            }
        }
    }

    fn acknowledge(&mut self, id: StreamId, through: u64, ranges: &[(u64, u64)]) {
        let Some(wire) = self.wires.get(&id) else { return };
        let sent = wire.sent;
        let is_sound = |(first, last): &(u64, u64)| *first > 0 && first <= last && *last <= sent;
        let is_nonsense = through > sent || !ranges.iter().all(is_sound);
        let mut settled = 0;
        let mut positions: Vec<u64> = (1..=through.min(sent)).collect();
        // What comes before the nonsense counts.
        if through <= sent {
            positions.extend(
                ranges.iter().take_while(|one| is_sound(one)).flat_map(|(first, last)| *first..=*last),
            );
        } else {
            positions.clear();
        }
        for position in positions {
            let (address, sequence) = self.wires[&id].positions[&position];
            let Some(shadow) = self.connections[&address.slot].unsettled.get(&sequence) else { continue };
            let is_this = matches!(shadow.state, State::UnderWay { stream, position: at, .. } if (stream, at) == (id, position));
            if is_this && self.is_under_way(address, shadow.state) {
                self.connections.get_mut(&address.slot).unwrap().unsettled.remove(&sequence);
                settled += 1;
            }
        }
        self.session.acknowledged(id, through, ranges.iter().copied(), self.now_ms);
        if is_nonsense {
            let is_ended = |due: &Due| due.ended.contains(&(id, StreamEnd::Nonsense));
            assert!(is_ended(self.session.due()), "{through} {ranges:?} of {sent}");
        }
        self.check(settled);
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.session.tick(self.now_ms);
        self.check(0);
    }

    /// Takes what is due and holds it against the shadow: `settled` events were to be settled, and those given up.
    fn check(&mut self, settled: usize) {
        let due = std::mem::take(self.session.due());
        let mut expected = settled;
        for address in &due.condemned {
            let mut given_up = Vec::new();
            for (sequence, shadow) in &self.connections[&address.slot].unsettled {
                // Streams that ended in this call have moved already: what was under way before it counts.
                let moves = self.moves[usize::from(address.partition(SIZES.partitions))];
                let was_under_way =
                    matches!(shadow.state, State::UnderWay { moves: then, .. } if then == moves);
                if was_under_way || !shadow.is_closed {
                    given_up.push(*sequence);
                }
            }
            assert!(!given_up.is_empty());
            self.given_up += given_up.len() as u64;
            expected += given_up.len();
            let connection = self.connections.get_mut(&address.slot).unwrap();
            for sequence in given_up {
                connection.unsettled.remove(&sequence);
            }
        }
        assert_eq!(due.settled.iter().map(|one| usize::from(one.events)).sum::<usize>(), expected);
        assert_eq!(self.stats.given_up[0].value(), self.given_up);
        let held: usize = self.connections.values().map(|one| one.unsettled.len()).sum();
        assert_eq!(self.session.events(), held, "settled exactly once");
        for (id, why) in &due.ended {
            self.note(&format!("{id:?} ended: {}", why.label()));
            self.wires.remove(id);
        }
        for id in due.half_close {
            self.wires.get_mut(&id).unwrap().half_closed = true;
        }
        self.condemned.extend(due.condemned);
        self.ended.extend(due.ended);
        self.moves = (0..SIZES.partitions).map(|number| self.session.moves(number)).collect();
        self.session.audit().unwrap();
    }

    /// The connection, and the rest of what is unsettled of it.
    pub(crate) fn unsettled(&self, slot: u32) -> usize {
        self.connections.get(&slot).map_or(0, |one| one.unsettled.len())
    }

    /// Bytes of what is unsettled.
    pub(crate) fn unsettled_bytes(&self) -> u64 {
        let all = self.connections.values().flat_map(|one| one.unsettled.values());
        all.map(|shadow| u64::from(shadow.bytes)).sum()
    }

    /// Who is behind a position.
    pub(crate) fn slot_at(&self, id: StreamId, position: u64) -> u32 {
        self.wires[&id].positions[&position].0.slot
    }

    /// A message order for a connection.
    pub(crate) fn send_order(slot: u32) -> Order {
        Order::Send { to: address(slot), message: Message::copy_from(Kind::Text, b"x") }
    }
}
