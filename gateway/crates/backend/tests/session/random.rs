//! Random runs. Owns what happens and how often; what must follow from it is the world's.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use backend::grpc::StreamId;
use fastrand::Rng;

use crate::world::{Note, Word, World};

const RUNS: u64 = 100;
const STEPS: u64 = 600;
const ENDPOINTS: usize = 3;
const STREAMS_PER_ENDPOINT: usize = 2;
const UNSETTLED_MAX: usize = 200;

/// How an app server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// Acknowledges one in a while.
    Slow,
    /// Takes everything and says nothing.
    HalfOpen,
    /// Refuses connections.
    Dead,
    /// Has said GoAway, and ends when it has done what it has.
    Leaving,
}

struct Run {
    world: World,
    rng: Rng,
    moods: [Mood; ENDPOINTS],
    slots: u32,
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "bounds the whole test on slow machines; the session sees a virtual clock"
)]
fn whatever_app_servers_do_each_event_arrives_in_order_and_is_settled_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let steps = number("SESSION_STEPS").unwrap_or(STEPS);
    if let Some(seed) = number("SESSION_SEED") {
        return play_and_tell(seed, steps);
    }
    let runs = number("SESSION_SEEDS");
    // A bound for slow machines; which seeds are played does not depend on it otherwise.
    let until = Instant::now() + Duration::from_secs(if runs.is_some() { 3600 } else { 10 });
    let first = fastrand::u64(..1 << 32);
    for seed in (first..first + runs.unwrap_or(RUNS)).take_while(|_| Instant::now() < until) {
        play_and_tell(seed, steps);
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn play_and_tell(seed: u64, steps: u64) {
    let mut run =
        Run { world: World::new(), rng: Rng::with_seed(seed), moods: [Mood::Well; ENDPOINTS], slots: 0 };
    let played = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            run.step();
        }
        run.rest();
    }));
    if let Err(panic) = played {
        eprintln!("moods {:?}", run.moods);
        for line in &run.world.diary {
            eprintln!("{line}");
        }
        eprintln!("replay with SESSION_SEED={seed} SESSION_STEPS={steps}");
        resume_unwind(panic);
    }
}

impl Run {
    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..30 => self.somebody_says_something(),
            30..50 => self.gateway_speaks(),
            50..62 => self.app_reads(),
            62..76 => self.app_acknowledges(),
            76..88 => self.gateway_hears(),
            88..91 => self.order(),
            91..95 => self.dial(),
            95 => self.change_a_mood(),
            96 => self.break_a_stream(),
            97 if self.rng.u32(..10) == 0 => self.nonsense(),
            _ => {
                let ms = if self.rng.u32(..30) == 0 { 3_000 } else { self.rng.u64(1..200) };
                self.world.pass(ms);
            }
        }
    }

    fn any_stream(&mut self) -> Option<StreamId> {
        let ids: Vec<StreamId> = self.world.wires.keys().copied().collect();
        self.rng.choice(ids)
    }

    fn somebody_says_something(&mut self) {
        // A shard hands out no more than its quota.
        if self.world.session.events() >= UNSETTLED_MAX {
            return;
        }
        let open: Vec<u32> =
            self.world.connections.iter().filter(|(_, one)| !one.is_closed).map(|(slot, _)| *slot).collect();
        let is_new = open.len() < 3 || (open.len() < 30 && self.rng.u32(..5) == 0);
        let slot = if is_new {
            self.slots += 1;
            self.slots
        } else {
            // Some talk more than others.
            open[self.rng.usize(..open.len()).min(self.rng.usize(..open.len()))]
        };
        let bytes = if self.rng.u32(..40) == 0 { 2_000 } else { self.rng.u32(..60) };
        let closes = self.rng.u32(..12) == 0;
        self.world.take_in(slot, bytes, closes);
        if is_new {
            let is_stuck = self.rng.u32(..40) == 0;
            self.world.connections.get_mut(&slot).unwrap().is_stuck = is_stuck;
        }
    }

    fn gateway_speaks(&mut self) {
        if let Some(id) = self.any_stream() {
            let most = self.rng.usize(1..20);
            self.world.say(id, most);
        }
    }

    fn mood(&self, id: StreamId) -> Mood {
        self.moods[self.world.wires[&id].endpoint]
    }

    fn app_reads(&mut self) {
        let Some(id) = self.any_stream() else { return };
        let (mood, most) = (self.mood(id), self.rng.usize(1..20));
        let wire = self.world.wires.get_mut(&id).unwrap();
        for _ in 0..most {
            let Some(note) = wire.to_app.pop_front() else { return };
            match note {
                Note::Hello if mood != Mood::HalfOpen => wire.to_gateway.push_back(Word::Ack(0, Vec::new())),
                Note::Event(position) => wire.pending.push(position),
                _ => {}
            }
        }
    }

    fn app_acknowledges(&mut self) {
        let Some(id) = self.any_stream() else { return };
        let mood = self.mood(id);
        if mood == Mood::HalfOpen || (mood == Mood::Slow && self.rng.u32(..8) > 0) {
            return;
        }
        let pending = std::mem::take(&mut self.world.wires.get_mut(&id).unwrap().pending);
        let is_stuck = |run: &Self, position: u64| {
            let slot = run.world.slot_at(id, position);
            run.world.connections.get(&slot).is_some_and(|one| one.is_stuck)
        };
        let (stuck, mut free): (Vec<u64>, Vec<u64>) =
            pending.into_iter().partition(|position| is_stuck(self, *position));
        let in_order = self.rng.bool();
        if !in_order {
            self.rng.shuffle(&mut free);
        }
        let many = self.rng.usize(..=free.len());
        let mut done: Vec<u64> = free.drain(..many).collect();
        if let Some(one) = done.first().copied().filter(|_| self.rng.u32(..5) == 0) {
            // Twice does no harm.
            done.push(one);
        }
        let wire = self.world.wires.get_mut(&id).unwrap();
        wire.pending = stuck;
        wire.pending.extend(free);
        let rest = wire.pending.iter().min().copied();
        let through = match rest {
            Some(first) if in_order => first - 1,
            None if self.rng.bool() => done.iter().max().copied().unwrap_or(0),
            _ => 0,
        };
        let ranges = done.iter().map(|position| (*position, *position)).collect();
        wire.to_gateway.push_back(Word::Ack(through, ranges));
    }

    fn gateway_hears(&mut self) {
        let Some(id) = self.any_stream() else { return };
        let wire = self.world.wires.get_mut(&id).unwrap();
        if let Some(word) = wire.to_gateway.pop_front() {
            self.world.hear(id, word);
        }
        // Whoever said goodbye ends its stream when the gateway has nothing more to say.
        if self.world.wires.get(&id).is_some_and(|wire| wire.half_closed && wire.to_gateway.is_empty()) {
            self.world.lose(id);
        }
    }

    fn order(&mut self) {
        let Some(id) = self.any_stream() else { return };
        if self.mood(id) == Mood::HalfOpen {
            return;
        }
        let (order_id, slot) = (self.rng.u64(..80), self.rng.u32(..=self.slots));
        let wire = self.world.wires.get_mut(&id).unwrap();
        wire.to_gateway.push_back(Word::Order(order_id, World::send_order(slot)));
    }

    fn dial(&mut self) {
        for endpoint in 0..ENDPOINTS {
            let streams = self.world.wires.values().filter(|wire| wire.endpoint == endpoint).count();
            let answers = matches!(self.moods[endpoint], Mood::Well | Mood::Slow | Mood::HalfOpen);
            if answers && streams < STREAMS_PER_ENDPOINT && self.rng.bool() {
                self.world.open(endpoint);
            }
        }
    }

    fn streams_of(&self, endpoint: usize) -> Vec<StreamId> {
        let of = self.world.wires.iter().filter(|(_, wire)| wire.endpoint == endpoint);
        of.map(|(id, _)| *id).collect()
    }

    fn change_a_mood(&mut self) {
        let endpoint = self.rng.usize(..ENDPOINTS);
        let mood = match self.rng.u32(..8) {
            0..3 => Mood::Well,
            3 => Mood::Slow,
            4 => Mood::HalfOpen,
            5 => Mood::Dead,
            _ => Mood::Leaving,
        };
        self.world.note(&format!("endpoint {endpoint} is {mood:?}"));
        self.moods[endpoint] = mood;
        for id in self.streams_of(endpoint) {
            match mood {
                Mood::Dead => self.world.lose(id),
                Mood::Leaving => self.world.wires.get_mut(&id).unwrap().to_gateway.push_back(Word::GoAway),
                _ => {}
            }
        }
    }

    fn break_a_stream(&mut self) {
        if let Some(id) = self.any_stream() {
            self.world.lose(id);
        }
    }

    fn nonsense(&mut self) {
        let Some(id) = self.any_stream() else { return };
        let wire = self.world.wires.get_mut(&id).unwrap();
        let beyond = wire.sent + self.rng.u64(1..5);
        let word = match self.rng.u32(..4) {
            0 => Word::Ack(beyond, Vec::new()),
            1 => Word::Ack(0, vec![(beyond, beyond)]),
            2 => Word::Ack(0, vec![(0, 0)]),
            _ => Word::Ack(0, vec![(2, 1)]),
        };
        wire.to_gateway.push_back(word);
    }

    /// Everybody is well and nobody is stuck: all that was said arrives.
    fn rest(&mut self) {
        self.world.note("rest");
        self.moods = [Mood::Well; ENDPOINTS];
        for connection in self.world.connections.values_mut() {
            connection.is_stuck = false;
        }
        for id in self.world.wires.keys().copied().collect::<Vec<_>>() {
            self.world.lose(id);
        }
        let open: Vec<u32> =
            self.world.connections.iter().filter(|(_, one)| !one.is_closed).map(|(slot, _)| *slot).collect();
        for slot in open {
            self.world.take_in(slot, 0, true);
        }
        for _ in 0..300 {
            self.dial();
            self.world.pass(20);
            for id in self.world.wires.keys().copied().collect::<Vec<_>>() {
                while self.world.say(id, 100) > 0 {}
                let Some(wire) = self.world.wires.get_mut(&id) else { continue };
                let mut words: Vec<Word> = Vec::new();
                while let Some(note) = wire.to_app.pop_front() {
                    match note {
                        Note::Hello => words.push(Word::Ack(0, Vec::new())),
                        Note::Event(position) => words.push(Word::Ack(position, Vec::new())),
                        _ => {}
                    }
                }
                for word in words {
                    self.world.hear(id, word);
                }
            }
            if self.world.session.events() == 0 {
                assert_eq!(self.world.unsettled_bytes(), 0);
                return;
            }
        }
        panic!("{} events never arrived", self.world.session.events());
    }
}
