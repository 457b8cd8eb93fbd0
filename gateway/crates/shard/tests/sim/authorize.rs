//! Who decides who comes in: late, never, twice, yes and no. The books of what was asked and said, and single cases.
//!
//! Owns what must hold of decisions: each request is asked about once, nobody is in who was not let in, whoever is told
//! no hears it in the words of the decision, and events name the user that was decided. Refuses to know how a shard waits.

use std::collections::HashMap;
use std::time::Duration;

use bridge::authorize::{Allowed, Authorize, Decision, Refused};
use bridge::message::Bytes;
use bridge::{Address, Channel, Command, EndReason, Principal, User};
use tokio::sync::oneshot;

use crate::client::{Stage, request};
use crate::weather::{ROOMS, Weather};
use crate::world::World;

/// Whoever decides.
#[derive(Default)]
pub(crate) struct Judge {
    questions: Vec<Authorize>,
    /// What was said of each client, by its number; the first word counts.
    verdicts: HashMap<usize, (Address, Option<Decision>)>,
    /// Nothing is decided.
    pub(crate) away: bool,
}

/// The request of a client for a guarded path: the query tells which client.
pub(crate) fn guarded_request(path: &str, number: usize) -> String {
    request(&format!("{path}?n={number}"))
}

/// Whether somebody decides who comes to this path.
pub(crate) fn is_guarded(path: &str) -> bool {
    path.starts_with("/door/") || path.starts_with("/member/")
}

impl Judge {
    /// Somebody asks to come in.
    pub(crate) fn asked(&mut self, question: Authorize) -> Result<(), String> {
        let query = question.query.as_deref().and_then(|query| query.strip_prefix("n="));
        let number: usize = query.and_then(|number| number.parse().ok()).ok_or("a query that nobody sent")?;
        let before = self.verdicts.insert(number, (question.address, None));
        self.questions.push(question);
        if before.is_some() { Err(format!("client {number} is asked about twice")) } else { Ok(()) }
    }

    /// What was said of a client.
    pub(crate) fn verdict(&self, number: usize) -> Option<&Decision> {
        self.verdicts.get(&number)?.1.as_ref()
    }

    /// As whom a client was let in.
    pub(crate) fn allowed(&self, number: usize) -> Option<&Allowed> {
        match self.verdict(number) {
            Some(Decision::Allow(allowed)) => Some(allowed),
            _ => None,
        }
    }

    /// As whom a connection was let in.
    pub(crate) fn user_of(&self, address: Address) -> Option<&User> {
        let number = self.verdicts.iter().find(|(_, (of, _))| *of == address)?.0;
        self.allowed(*number)?.user.as_ref()
    }

    /// Whether a client may be refused with this status, nobody having decided apart.
    pub(crate) fn refused(&self, number: usize, status: u16) -> bool {
        matches!(self.verdict(number), Some(Decision::Refuse(refused)) if refused.status == status)
    }

    /// Whether a client may stay for a while only.
    pub(crate) fn expires(&self, number: usize) -> bool {
        self.allowed(number).is_some_and(|allowed| allowed.expires.is_some())
    }

    fn number_of(question: &Authorize) -> usize {
        question.query.as_deref().unwrap()[2..].parse().unwrap()
    }
}

impl World {
    /// Decides up to so many questions, or forgets them, or decides twice.
    pub(crate) fn judge(&mut self, most: usize) {
        for _ in 0..most.min(self.judge.questions.len()) {
            let place = self.rng.usize(..self.judge.questions.len());
            let question = self.judge.questions.swap_remove(place);
            let times = match self.rng.u8(..10) {
                0 => 0,
                1 => 2,
                _ => 1,
            };
            for _ in 0..times {
                let decision = self.random_decision();
                if !self.decide(&question, decision) {
                    self.judge.questions.push(question);
                    break;
                }
            }
        }
    }

    /// Says what is decided, if the mailbox has room.
    fn decide(&mut self, question: &Authorize, decision: Decision) -> bool {
        let (whom, number) = (question.address, Judge::number_of(question));
        let command = Command::Authorized { whom, decision: Box::new(decision.clone()) };
        let sent = self.command(usize::from(whom.shard), command);
        if sent {
            self.note(|| format!("client {number}: {decision:?}"));
            let verdict = &mut self.judge.verdicts.get_mut(&number).unwrap().1;
            verdict.get_or_insert(decision);
        }
        sent
    }

    fn random_decision(&mut self) -> Decision {
        let rng = &mut self.rng;
        if rng.u8(..4) == 0 {
            let status = [401, 403, 404, 418, 429, 500, 599][rng.usize(..7)];
            let retry_after_s = rng.bool().then_some(3);
            let is_ours = false;
            return Decision::Refuse(Refused { status, reason: "no".into(), retry_after_s, is_ours });
        }
        let room = |room: &str| Channel::parse(&format!("room.{room}")).unwrap();
        let count = rng.usize(..3);
        Decision::Allow(Allowed {
            user: (rng.u8(..4) > 0).then(|| user(rng.u8(..3))),
            channels: (0..count).map(|_| room(ROOMS[rng.usize(..ROOMS.len())])).collect(),
            state: Bytes::from(vec![7; rng.usize(..20)]),
            expires: (rng.u8(..4) == 0).then(|| Duration::from_millis(rng.u64(1..20_000))),
            protocol: None,
        })
    }

    /// All of a user on a shard are told to go.
    pub(crate) fn close_some_user(&mut self, shard: usize) {
        let (user, code) = (user(self.rng.u8(..3)), 4100 + self.rng.u16(..100));
        let (reply, _) = oneshot::channel();
        let command = Command::CloseUser { user: user.clone(), code, reason: "".into(), reply };
        if self.command(shard, command) {
            self.note(|| format!("all of {user} on shard {shard} are told to go"));
            for client in self.clients.iter_mut().filter(|client| client.shard == shard) {
                let allowed = self.judge.allowed(client.number);
                if allowed.is_none_or(|allowed| allowed.user.as_ref() == Some(&user)) {
                    client.facts.api_codes.push(code);
                }
            }
        }
    }
}

fn user(number: u8) -> User {
    User::parse(&format!("u@{number}")).unwrap()
}

/// A world in which nobody decides unless a test does.
fn undecided(weather: Weather) -> World {
    let mut world = World::new(weather, 5);
    world.judge.away = true;
    world
}

impl World {
    /// A client comes to a guarded path and is asked about.
    fn knock(&mut self, path: &str) -> usize {
        let number = self.clients.len();
        let request = guarded_request(path, number);
        self.come(0, path, request.as_bytes(), 1 << 20);
        self.rest();
        number
    }

    fn let_in(&mut self, number: usize, allowed: Allowed) {
        let of = |question: &Authorize| Judge::number_of(question) == number;
        let place = self.judge.questions.iter().position(of).unwrap();
        let question = self.judge.questions.remove(place);
        assert!(self.decide(&question, Decision::Allow(allowed)));
        self.rest();
    }
}

#[test]
fn a_request_waits_for_the_decision_and_says_nothing_meanwhile() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/door/a");
    let question = &world.judge.questions[0];
    assert_eq!((&*question.path, question.peer), ("/door/a", World::peer_of(0)));
    // It speaks before it is answered.
    world.say(number, 10);
    world.live(20);
    let stats = &world.nodes[0].stats;
    assert_eq!((world.clients[number].stage, stats.paused.value()), (Stage::Greeting, 1));
    assert_eq!((stats.opened.value(), stats.channels.value()), (0, 0), "it is in no channel yet");
    let bob = User::parse("bob").unwrap();
    let channels = vec![Channel::parse("room.b").unwrap()];
    world.let_in(number, Allowed { user: Some(bob.clone()), channels, ..Allowed::default() });
    assert!(world.clients[number].is_live());
    assert_eq!(
        world.nodes[0].stats.channels.value(),
        3,
        "that of its route, that of the decision, its user's"
    );
    world.publish(1, 10);
    world.live(3);
    assert_eq!(world.model.count_heard(number), 2, "what it said itself, and what was said in room.b");
    world.clients[number].say_close(1000);
    world.live(3);
    let principal = world.ending(number).unwrap().principal.clone().unwrap();
    assert_eq!(*principal, Principal { user: Some(bob), state: Bytes::new() });
}

#[test]
fn a_request_that_nobody_decides_about_is_refused_in_time() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/member/a");
    let question = world.judge.questions.remove(0);
    world.live(40);
    assert_eq!(world.clients[number].stage, Stage::Refused(503));
    assert!(world.decide(&question, Decision::Allow(Allowed::default())), "too late");
    world.live(20);
    let node = &world.nodes[0];
    assert_eq!((node.shard.connections(), node.stats.opened.value()), (0, 0));
    let place = shard::refusal_labels().iter().position(|label| *label == "authorizer").unwrap();
    assert_eq!(node.stats.refused[place].value(), 1);
}

#[test]
fn whoever_leaves_while_it_waits_is_forgotten_at_once() {
    let mut world = undecided(Weather::fair());
    let (gone, reset) = (world.knock("/member/a"), world.knock("/member/b"));
    world.clients[gone].hang_up(true);
    world.clients[reset].reset(false);
    world.rest();
    assert_eq!(world.nodes[0].shard.connections(), 0);
    // The decisions reach nobody.
    while let Some(question) = world.judge.questions.pop() {
        assert!(world.decide(&question, Decision::Allow(Allowed::default())));
    }
    world.rest();
    assert_eq!(world.nodes[0].stats.opened.value(), 0);
}

#[test]
fn without_room_for_the_question_nobody_waits() {
    let mut world = undecided(Weather { outbox_events: 1, ..Weather::fair() });
    world.nodes[0].blocked = true;
    let knock = |world: &mut World| {
        let number = world.clients.len();
        world.come(0, "/member/a", guarded_request("/member/a", number).as_bytes(), 1 << 20)
    };
    let clients: Vec<usize> = (0..4).map(|_| knock(&mut world)).collect();
    for _ in 0..10 {
        world.everybody_acts();
        world.run(0);
    }
    world.everybody_acts();
    let refused = |number: &&usize| world.clients[**number].stage == Stage::Refused(503);
    assert_eq!(clients.iter().filter(refused).count(), 3, "one question fits");
}

#[test]
fn what_was_allowed_for_a_while_ends_with_1008() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/member/a");
    let expires = Some(Duration::from_secs(10));
    world.let_in(number, Allowed { expires, ..Allowed::default() });
    world.live(99);
    assert!(world.clients[number].is_live());
    world.live(3);
    assert_eq!(world.clients[number].close, Some(Some(1008)));
    assert_eq!(world.ending(number).unwrap().reason, EndReason::Expired);
}

#[test]
fn a_subprotocol_that_was_not_offered_is_no_decision() {
    for (chosen, stage) in [("chat.v2", Stage::Open), ("other", Stage::Refused(503))] {
        let mut world = undecided(Weather::fair());
        let request = guarded_request("/member/a", 0);
        let offers = "\r\nSec-WebSocket-Protocol: chat.v1, chat.v2\r\nCookie: id=7\r\nX-Other: x\r\n\r\n";
        let request = request.replace("\r\n\r\n", offers);
        world.come(0, "/member/a", request.as_bytes(), 1 << 20);
        world.rest();
        let question = &world.judge.questions[0];
        assert_eq!(question.protocols, ["chat.v1".into(), "chat.v2".into()]);
        assert_eq!(question.headers, [("cookie".into(), Bytes::from_static(b"id=7"))]);
        world.let_in(0, Allowed { protocol: Some(chosen.into()), ..Allowed::default() });
        assert_eq!(world.clients[0].stage, stage);
    }
}

#[test]
fn a_user_is_told_to_go_on_all_connections_and_nobody_else_is() {
    let mut world = undecided(Weather { outbox_events: 1000, ..Weather::fair() });
    let come = |number| world.come(0, "/member/a", guarded_request("/member/a", number).as_bytes(), 1 << 20);
    let many: Vec<usize> = (0..700).map(come).collect();
    world.rest();
    while let Some(question) = world.judge.questions.pop() {
        assert!(
            world.decide(&question, Decision::Allow(Allowed { user: Some(user(1)), ..Allowed::default() }))
        );
    }
    let other = world.knock("/member/a");
    many.iter().for_each(|number| world.clients[*number].facts.api_codes.push(4001));
    world.let_in(other, Allowed { user: Some(user(2)), ..Allowed::default() });
    let (reply, mut told) = oneshot::channel();
    world.command(0, Command::CloseUser { user: user(1), code: 4001, reason: "".into(), reply });
    world.live(2);
    assert_eq!(told.try_recv().unwrap(), 700);
    assert!(many.iter().all(|number| world.clients[*number].close == Some(Some(4001))));
    assert!(world.clients[other].is_live());
    let (reply, mut told) = oneshot::channel();
    world.command(0, Command::CloseUser { user: user(1), code: 4001, reason: "".into(), reply });
    world.live(2);
    assert_eq!(told.try_recv().unwrap(), 0);
}

#[test]
fn another_state_is_told_with_the_events_that_follow() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/member/a");
    let state = Bytes::from_static(b"one");
    world.let_in(number, Allowed { user: Some(user(1)), state, ..Allowed::default() });
    let whom = world.clients[number].id.unwrap();
    for (by, outcome) in [(Some(bridge::Upstream(9)), false), (Some(bridge::Upstream(0)), true)] {
        let (reply, mut done) = oneshot::channel();
        let state = Bytes::from_static(b"two");
        world.command(0, Command::SetState { whom, state, by, reply: Some(reply) });
        world.live(1);
        assert_eq!(done.try_recv().unwrap().is_ok(), outcome);
    }
    world.clients[number].say_close(1000);
    world.live(3);
    let principal = world.ending(number).unwrap().principal.clone().unwrap();
    assert_eq!(*principal, Principal { user: Some(user(1)), state: Bytes::from_static(b"two") });
}

#[test]
fn channels_of_users_are_neither_joined_nor_left_by_command() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/member/a");
    world.let_in(number, Allowed { user: Some(user(1)), ..Allowed::default() });
    let whom = world.clients[number].id.unwrap();
    for of in [1, 2] {
        let channel = user(of).channel();
        let (reply, mut done) = oneshot::channel();
        let (reply2, mut done2) = oneshot::channel();
        let by = None;
        let (join, leave) = (channel.clone(), channel);
        world.command(0, Command::Subscribe { whom, channel: join, by, reply: Some(reply) });
        world.command(0, Command::Unsubscribe { whom, channel: leave, by, reply: Some(reply2) });
        world.rest();
        let reserved = Err(bridge::command::NotDone::Reserved);
        assert_eq!((done.try_recv().unwrap(), done2.try_recv().unwrap()), (reserved, reserved));
    }
    assert_eq!(world.nodes[0].stats.channels.value(), 1);
}

#[test]
fn a_drain_refuses_those_who_wait() {
    let mut world = undecided(Weather::fair());
    let number = world.knock("/member/a");
    // They wait for as long as anybody may take for a request, and are answered then.
    world.begin_drain(bridge::DrainPlan { accept_ticks: 0, spread_ticks: 5, deadline_ticks: 60 });
    world.end_drain(60);
    assert_eq!(world.clients[number].stage, Stage::Refused(503));
}
