//! Random runs: clients of every kind come, speak, misbehave and leave, the API gives orders, the kernel has moods, the
//! clock jumps. Owns what happens and how often; what must follow from it is the model's and the audit's.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use bridge::{Command, DrainPlan, Sealed};
use fastrand::Rng;
use shard::limit::Network;
use shard::rules::Segment;
use tokio::sync::oneshot;

use crate::authorize::{guarded_request, is_guarded};
use crate::client::{Stage, request};
use crate::frames::{self, BINARY, CONTINUATION, TEXT};
use crate::script::{Knock, Stream};
use crate::upstream::tells_app;
use crate::weather::{ROOM_MESSAGE_BYTES, ROOMS, Weather};
use crate::world::{SHARDS, World};

const RUNS: u64 = 300;
const STEPS: u64 = 500;
const CLIENTS_MAX: usize = 30;

struct Run {
    world: World,
    rng: Rng,
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "bounds the whole test on slow machines; the shards see a virtual clock"
)]
fn whatever_happens_the_books_balance_and_everybody_hears_what_was_said() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let steps = number("SHARD_STEPS").unwrap_or(STEPS);
    if let Some(seed) = number("SHARD_SEED") {
        return play_and_tell(seed, steps);
    }
    // A bound for slow machines; which seeds are played does not depend on it otherwise.
    let runs = number("SHARD_RUNS");
    let until = Instant::now() + Duration::from_secs(20);
    let first = fastrand::u64(..1 << 32);
    let goes_on = |_: &u64| runs.is_some() || Instant::now() < until;
    for seed in (first..first + runs.unwrap_or(RUNS)).take_while(goes_on) {
        play_and_tell(seed, steps);
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn play_and_tell(seed: u64, steps: u64) {
    let mut run = Run::new(seed);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run.play(steps))) {
        eprintln!("{:?}", run.world.weather);
        for line in &run.world.diary {
            eprintln!("{line}");
        }
        eprintln!("replay with SHARD_SEED={seed} SHARD_STEPS={steps}");
        resume_unwind(panic);
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World::new(Weather::random(&mut rng), rng.u64(..));
        Self { world, rng }
    }

    fn play(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.come_to_rest();
        let ticks = self.rng.u32(1..60);
        let plan = DrainPlan::within(ticks, self.rng.u32(..30), self.world.weather.rules.close_ticks);
        self.world.note(|| format!("all are told to go: {plan:?}"));
        self.world.begin_drain(plan);
        // Life goes on: some still come, some speak, and the kernel has its moods.
        for _ in 0..self.rng.u64(..steps) / 4 {
            self.step();
        }
        for node in &mut self.world.nodes {
            node.blocked = false;
            let mut host = node.host.borrow_mut();
            (host.exhausted, host.register_failures) = (false, 0);
        }
        (0..SHARDS).for_each(|shard| self.world.take_batches(shard));
        self.world.end_drain(ticks);
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..30 => {
                let shard = self.rng.usize(..SHARDS);
                if self.world.is_due(shard) {
                    self.world.note(|| format!("shard {shard} runs"));
                    self.world.run(shard);
                }
            }
            30..42 => {
                let ticks = if self.rng.u8(..30) == 0 { 100 } else { self.rng.u32(1..4) };
                self.world.note(|| format!("{ticks} ticks pass"));
                self.world.pass(ticks);
            }
            42..54 => self.come(),
            54..90 => self.client_does(),
            90..97 if self.rng.u8(..100) == 0 => self.shed(),
            90..97 if self.rng.u8(..50) == 0 => self.reload(),
            90..97 if self.world.weather.blocks && self.rng.u8(..15) == 0 => self.block(),
            90..97 => self.world.api(),
            _ => self.mood(),
        }
    }

    fn come(&mut self) {
        if self.world.around.len() >= CLIENTS_MAX {
            return;
        }
        let shard = self.rng.usize(..SHARDS);
        let capacity = [40, 300, 5000, 200_000][self.rng.usize(..4)];
        let kinds = ["/room/", "/room/", "/quiet/", "/say/", "/hear/"];
        let path = match self.rng.usize(..9) {
            7 => format!("/door/{}", ROOMS[self.rng.usize(..ROOMS.len())]),
            8 => format!("/member/{}", self.rng.u8(..)),
            5 => "/echo".to_string(),
            6 => format!("/app/{}", self.rng.u8(..)),
            kind => format!("{}{}", kinds[kind], ROOMS[self.rng.usize(..ROOMS.len())]),
        };
        let (mut bytes, mut pace, mut refusals) = (self.request(&path), usize::MAX, vec![]);
        match self.rng.u8(..20) {
            0 => (bytes, refusals) = (b"GET nonsense\r\n\r\n".to_vec(), vec![400]),
            1 => (bytes, refusals) = (request("/nowhere").into_bytes(), vec![404]),
            2 => {
                bytes = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(3000)).into_bytes();
                (pace, refusals) = (self.rng.usize(100..4000), vec![431, 408]);
            }
            3 => (pace, refusals) = (self.rng.usize(..2), vec![408]),
            4..8 => pace = self.rng.usize(10..60),
            _ => {}
        }
        let peer = World::peer_of(self.world.clients.len());
        let approach = self.world.weather.proxies.approach(&mut self.rng, peer, &bytes);
        if approach.is_broken {
            refusals.push(400);
        }
        let number = self.world.come_by(approach.socket, shard, &path, &approach.bytes, capacity);
        self.world.note(|| format!("client {number} comes to shard {shard} for {path}, {pace} {refusals:?}"));
        let client = &mut self.world.clients[number];
        (client.pace, client.facts.refusals) = (pace, refusals);
        client.answers = Some(self.rng.u32(..8));
        let is_good = client.facts.refusals.is_empty();
        self.world.act(number);
        // An eager one speaks before it is answered.
        if is_good && self.world.clients[number].pace == usize::MAX && self.rng.u8(..5) == 0 {
            self.world.note(|| format!("client {number} is eager"));
            self.speak(number);
        }
    }

    fn request(&self, path: &str) -> Vec<u8> {
        let number = self.world.clients.len();
        if is_guarded(path) { guarded_request(path, number) } else { request(path) }.into_bytes()
    }

    fn client_does(&mut self) {
        if self.world.around.is_empty() {
            return;
        }
        let number = self.world.around[self.rng.usize(..self.world.around.len())];
        match self.rng.u32(..100) {
            0..20 => self.world.act(number),
            20..78 => {
                if self.world.clients[number].is_live() {
                    // Where something may be dropped some say much at once.
                    let most = if self.world.weather.drops { 12 } else { 4 };
                    for _ in 0..self.rng.u32(1..most) {
                        self.speak(number);
                    }
                }
            }
            78..83 => {
                self.world.note(|| format!("client {number} stops reading"));
                self.world.clients[number].stop_reading();
            }
            83..90 => self.world.clients[number].reading = true,
            90..92 => self.world.clients[number].go_mute(),
            92..94 => self.violate(number),
            94..96 => {
                let client = &mut self.world.clients[number];
                if client.may_speak() {
                    client.say_close(1000 + self.rng.u16(..2));
                    self.world.note(|| format!("client {number} says goodbye"));
                }
            }
            96..98 => {
                let for_good = self.rng.bool();
                self.world.clients[number].hang_up(for_good);
                self.world.note(|| format!("client {number} hangs up, for good: {for_good}"));
            }
            _ => {
                let lose = self.rng.bool();
                self.world.clients[number].reset(lose);
                self.world.note(|| format!("client {number} resets"));
            }
        }
    }

    /// One message, whole, in fragments with a ping in between, or in halves; or a ping alone.
    fn speak(&mut self, number: usize) {
        let stream = self.world.voices[number];
        let client = &mut self.world.clients[number];
        let eager = client.stage == Stage::Greeting && client.stream == Stream::Open;
        if client.is_between_halves() || !(client.may_speak() || eager) {
            return;
        }
        if self.rng.u8(..6) == 0 {
            let payload = vec![self.rng.u8(..); self.rng.usize(..126)];
            let bytes = client.ping(&payload);
            client.say(&bytes);
            return;
        }
        let opcode = if self.rng.bool() { TEXT } else { BINARY };
        let padding = match self.rng.u32(..40) {
            0 if client.path == "/echo" => {
                let longest = [1000, 20_000, 100_000][self.rng.usize(..3)];
                self.rng.usize(..longest)
            }
            0..3 => self.rng.usize(..ROOM_MESSAGE_BYTES / 2 - 50),
            _ => self.rng.usize(..150),
        };
        let payload = self.world.model.compose(stream, opcode, padding);
        let now = self.world.now;
        match self.rng.u32(..10) {
            0..2 => {
                let cut = self.rng.usize(..=payload.len());
                let mut bytes = frames::frame(opcode, &payload[..cut]);
                if self.rng.bool() {
                    bytes.extend(client.ping(b"between"));
                }
                bytes.extend(frames::whole(CONTINUATION, &payload[cut..]));
                client.say(&bytes);
            }
            2 => {
                let bytes = frames::whole(opcode, &payload);
                let cut = self.rng.usize(1..bytes.len());
                client.say_in_halves(&bytes, cut, now + self.rng.u32(1..5));
            }
            _ => client.say(&frames::whole(opcode, &payload)),
        }
        let line = self.world.model.said(stream, opcode, payload);
        self.world.note(|| format!("client {number} says {line}"));
    }

    fn violate(&mut self, number: usize) {
        let client = &mut self.world.clients[number];
        if !client.may_speak() || client.is_between_halves() {
            return;
        }
        let too_big = 300_000u64.to_be_bytes();
        let cases: [(Vec<u8>, u16); 7] = [
            (vec![0xf1, 0x80, 0, 0, 0, 0], 1002),
            (vec![0x81, 0x01, b'x'], 1002),
            (frames::whole(CONTINUATION, b"nothing open"), 1002),
            (frames::whole(3, b"reserved"), 1002),
            (frames::whole(TEXT, b"\xff\xfe"), 1007),
            ([&[0x82, 0xff][..], &too_big, &[0; 20]].concat(), 1009),
            (frames::whole(frames::CLOSE, b"x"), 1002),
        ];
        let (bytes, code) = &cases[self.rng.usize(..cases.len())];
        client.violate(bytes, *code);
        self.world.note(|| format!("client {number} breaks a rule: {code}"));
    }

    /// A shard is given its rules once more, with a route behind those that it has.
    fn reload(&mut self) {
        let shard = self.rng.usize(..SHARDS);
        let rules = &mut self.world.weather.rules;
        let mut route = rules.routes[0].clone();
        route.path = vec![Segment::Literal(format!("new{}", rules.routes.len()).into())];
        rules.routes.push(route);
        let (number, rules) = (rules.routes.len() as u32, Sealed::new(rules.clone()));
        self.world.note(|| format!("shard {shard} obeys new rules"));
        self.world.command(shard, Command::Obey { number, rules });
    }

    /// A shard gives up a share of its connections.
    fn shed(&mut self) {
        let shard = self.rng.usize(..SHARDS);
        let (per_ten_thousand, ticks) = (self.rng.u16(..=10_000), self.rng.u32(..30));
        self.world.shedding = true;
        self.world.note(|| format!("shard {shard} sheds {per_ten_thousand} of 10,000 within {ticks}"));
        let (reply, _) = oneshot::channel();
        self.world.command(shard, Command::Shed { per_ten_thousand, ticks, reply });
    }

    /// A network is blocked for a while, or all are let in again.
    fn block(&mut self) {
        if self.rng.u8(..3) == 0 {
            self.world.note(|| "all blocks are lifted".into());
            return self.world.lift_blocks();
        }
        let peer = World::peer_of(self.rng.usize(..5));
        let (network, ticks) = (Network::new(peer, 32).unwrap(), self.rng.u32(1..100));
        self.world.note(|| format!("{peer} is blocked for {ticks} ticks"));
        self.world.block(network, ticks);
    }

    /// What the kernel and the reader of endings are like today.
    fn mood(&mut self) {
        let shard = self.rng.usize(..SHARDS);
        let node = &mut self.world.nodes[shard];
        let mut host = node.host.borrow_mut();
        match self.rng.u8(..9) {
            8 => self.world.judge.away = self.rng.u8(..3) == 0,
            6 => self.world.app.away = self.rng.u8(..3) == 0,
            0 => host.exhausted = true,
            1 => host.exhausted = false,
            2 => host.knock(Knock::Lost),
            3 => host.register_failures = self.rng.u32(..2),
            4 => node.blocked = true,
            _ => node.blocked = false,
        }
    }

    /// Nobody says anything new and everybody reads. Then whoever lives has heard all it should have.
    fn come_to_rest(&mut self) {
        self.world.note(|| "all come to rest".into());
        for node in &mut self.world.nodes {
            node.blocked = false;
            let mut host = node.host.borrow_mut();
            (host.exhausted, host.register_failures) = (false, 0);
        }
        for client in &mut self.world.clients {
            client.reading = true;
        }
        (self.world.app.away, self.world.judge.away) = (false, false);
        for _ in 0..120 {
            self.world.settle(usize::MAX);
            self.world.judge(usize::MAX);
            (0..SHARDS).for_each(|shard| self.world.take_batches(shard));
            self.world.live(1);
        }
        self.world.orders.check_complete();
        assert!(self.world.app.has_all_settled(), "app servers have something in hand");
        for client in &self.world.clients {
            let ended = client.id.is_some_and(|id| self.world.endings.contains_key(&id));
            // Its time may have been up just now.
            let life = self.world.weather.life(&client.path);
            let is_mortal = life.idle_ticks.is_some() || life.age_ticks.is_some();
            let leaves = client.close.is_some() && (is_mortal || self.world.judge.expires(client.number));
            if client.stage == Stage::Open && !ended && !leaves {
                self.check(client.number);
            } else if !ended && !leaves {
                // It went before it knew its id: what was taken of it nobody can say.
                self.world.model.ended(self.world.voices[client.number], 0).unwrap();
            }
        }
        self.world.check_dropped();
        for client in self.world.clients.iter().filter(|client| client.is_live()) {
            if let Err(wrong) = self.world.model.check_complete(client.number) {
                panic!("{wrong}");
            }
        }
    }

    /// A client whose connection has not ended takes part in everything still.
    fn check(&self, number: usize) {
        let client = &self.world.clients[number];
        assert!(client.is_live(), "client {number} should have ended: {:?}", client.facts);
        assert_eq!(client.stream, Stream::Open);
        assert_eq!(client.tcp.unread(), 0, "bytes of client {number} lie in its socket");
        assert!(client.drops || client.pings_open() == 0, "pings of client {number} were not answered");
        if tells_app(&client.path) && !self.world.weather.drops {
            let (said, id) = (self.world.model.lines(self.world.voices[number]), client.id.unwrap());
            assert_eq!(self.world.app.messages_of(id), said, "messages of client {number} were not told");
        }
    }
}
