//! The API by script: publishes, and orders for one connection whose answers the model waits for.
//!
//! Owns what was asked and not answered yet. Refuses to judge what is heard; that is the model's.

use std::collections::HashMap;

use bridge::command::{NotDone, RankBy};
use bridge::id::Address;
use bridge::message::Bytes;
use bridge::{Channel, Command, Delivered, Kind, Message, Receipt};
use tokio::sync::oneshot;

use crate::frames::{BINARY, TEXT};
use crate::model::{Model, Place};
use crate::weather::ROOMS;
use crate::world::World;

/// An order whose answer is awaited.
enum Asked {
    Send { stream: usize, line: usize, reply: oneshot::Receiver<Result<(), NotDone>> },
    Subscribe { client: usize, channel: String, reply: oneshot::Receiver<Result<(), NotDone>> },
    Unsubscribe { client: usize, channel: String, reply: oneshot::Receiver<Result<(), NotDone>> },
}

/// What the API has said and asked.
#[derive(Default)]
pub(crate) struct Orders {
    asked: Vec<Asked>,
    receipts: Vec<oneshot::Receiver<Delivered>>,
    /// Its stream to each room, and to each client it has spoken to.
    to_rooms: Vec<usize>,
    to_clients: HashMap<usize, usize>,
}

impl Orders {
    pub(crate) fn new(model: &mut Model) -> Self {
        let mut stream = |room: &&str| model.stream(Place::Channel(format!("room.{room}")), None);
        Self { to_rooms: ROOMS.iter().map(&mut stream).collect(), ..Self::default() }
    }

    /// Everything that was asked has been answered.
    pub(crate) fn check_complete(&mut self) {
        assert!(self.asked.is_empty(), "an order was never answered");
        for receipt in &mut self.receipts {
            assert!(receipt.try_recv().is_ok(), "a publish never came to its end");
        }
    }

    /// Takes the answers to orders; a shard has just run.
    pub(crate) fn hear_replies(&mut self, model: &mut Model) {
        self.asked.retain_mut(|asked| match asked {
            Asked::Send { stream, line, reply } => match reply.try_recv() {
                Ok(Ok(())) => false,
                Ok(Err(_)) => {
                    model.refused(*stream, *line);
                    false
                }
                Err(_) => true,
            },
            Asked::Subscribe { client, channel, reply } => match reply.try_recv() {
                Ok(outcome) => {
                    if outcome.is_ok() {
                        model.joined(*client, channel);
                    }
                    false
                }
                Err(_) => true,
            },
            Asked::Unsubscribe { client, channel, reply } => match reply.try_recv() {
                Ok(outcome) => {
                    if outcome.is_ok() {
                        model.left(*client, channel);
                    }
                    false
                }
                Err(_) => true,
            },
        });
    }
}

fn message(opcode: u8, payload: &[u8], is_undeclared: bool) -> Message {
    let kind = if opcode == TEXT { Kind::Text } else { Kind::Binary };
    if is_undeclared {
        Message::undeclared(kind, Bytes::copy_from_slice(payload))
    } else {
        Message::copy_from(kind, payload)
    }
}

impl World {
    /// Something that the API does.
    pub(crate) fn api(&mut self) {
        match self.rng.u32(..10) {
            0..5 => self.api_publishes(),
            kind => {
                let known: Vec<(usize, Address, usize)> = self
                    .clients
                    .iter()
                    .rev()
                    .take(40)
                    .filter_map(|client| Some((client.number, client.id?, client.shard)))
                    .collect();
                if !known.is_empty() {
                    let (number, address, shard) = known[self.rng.usize(..known.len())];
                    self.api_orders(kind, number, address, shard);
                }
            }
        }
    }

    fn api_publishes(&mut self) {
        let (room, padding) = (self.rng.usize(..ROOMS.len()), self.rng.usize(..2000));
        self.publish(room, padding);
    }

    /// The API publishes a line to a room, if the mailboxes have room.
    pub(crate) fn publish(&mut self, room: usize, padding: usize) {
        // As a bus does, which does not always know what it brings.
        let is_undeclared = self.weather.has_kinds() && self.rng.bool();
        let opcode = if is_undeclared && self.rng.bool() { TEXT } else { BINARY };
        self.publish_as(room, padding, opcode, is_undeclared);
    }

    /// The same with a line of this kind, which may not say so.
    pub(crate) fn publish_as(&mut self, room: usize, padding: usize, opcode: u8, is_undeclared: bool) {
        self.model.step += 1;
        let stream = self.orders.to_rooms[room];
        let payload = self.model.compose(stream, opcode, padding);
        let channel = Channel::parse(&format!("room.{}", ROOMS[room])).unwrap();
        let message = message(opcode, &payload, is_undeclared);
        let (receipt, delivered) = Receipt::new();
        if self.switchboard.publish(None, &channel, &message, None, Some(&receipt)).is_ok() {
            let line = self.model.said(stream, opcode, payload);
            if is_undeclared {
                self.model.said_without_a_kind(stream);
            }
            self.orders.receipts.push(delivered);
            self.note(|| format!("the API publishes {line} to {channel}"));
        }
    }

    fn api_orders(&mut self, kind: u32, number: usize, whom: Address, shard: usize) {
        let name = format!("room.{}", ROOMS[self.rng.usize(..ROOMS.len())]);
        let channel = Channel::parse(&name).unwrap();
        match kind {
            5..7 => {
                let padding = self.rng.usize(..300);
                self.send(number, padding);
            }
            7 => self.subscribe(number, &name),
            8 => {
                let (sender, reply) = oneshot::channel();
                if self.command(shard, Command::Unsubscribe { whom, channel, by: None, reply: Some(sender) })
                {
                    self.orders.asked.push(Asked::Unsubscribe {
                        client: number,
                        channel: name.clone(),
                        reply,
                    });
                }
            }
            _ => self.close_or_look(number, whom, shard),
        }
        self.note(|| format!("the API: order {kind} for client {number}, {name}"));
    }

    /// The API sends a line to one client that knows its id.
    pub(crate) fn send(&mut self, number: usize, padding: usize) {
        let (Some(to), shard) = (self.clients[number].id, self.clients[number].shard) else { return };
        self.model.step += 1;
        let model = &mut self.model;
        let place = Place::Client(number);
        let stream = *self.orders.to_clients.entry(number).or_insert_with(|| model.stream(place, None));
        let is_undeclared = self.weather.has_kinds() && self.rng.bool();
        let opcode = if is_undeclared && self.rng.bool() { BINARY } else { TEXT };
        let payload = model.compose(stream, opcode, padding);
        let message = message(opcode, &payload, is_undeclared);
        let (sender, reply) = oneshot::channel();
        if self.command(shard, Command::Send { to, message, by: None, reply: Some(sender) }) {
            let line = self.model.said(stream, opcode, payload);
            if is_undeclared {
                self.model.said_without_a_kind(stream);
            }
            self.orders.asked.push(Asked::Send { stream, line, reply });
        }
    }

    /// The API puts a client into a room.
    pub(crate) fn subscribe(&mut self, number: usize, channel: &str) {
        let (Some(whom), shard) = (self.clients[number].id, self.clients[number].shard) else { return };
        let (sender, reply) = oneshot::channel();
        let name = Channel::parse(channel).unwrap();
        if self.command(shard, Command::Subscribe { whom, channel: name, by: None, reply: Some(sender) }) {
            self.orders.asked.push(Asked::Subscribe { client: number, channel: channel.into(), reply });
        }
    }

    fn close_or_look(&mut self, number: usize, whom: Address, shard: usize) {
        match self.rng.u8(..7) {
            5 => self.close_some_user(shard),
            6 => {
                let state = Bytes::from(vec![1; self.rng.usize(..20)]);
                self.command(shard, Command::SetState { whom, state, by: None, reply: None });
            }
            0 => {
                let code = 4000 + self.rng.u16(..100);
                let reason = "goodbye ".repeat(self.rng.usize(..30)).into();
                let (reply, _) = oneshot::channel();
                if self.command(shard, Command::Close { whom, code, reason, by: None, reply: Some(reply) }) {
                    self.clients[number].facts.api_codes.push(code);
                }
            }
            1 => {
                let (reply, _) = oneshot::channel();
                self.command(shard, Command::Describe { whom, reply });
            }
            2 => {
                let (reply, _) = oneshot::channel();
                let by = [RankBy::Bytes, RankBy::Messages][self.rng.usize(..2)];
                self.command(shard, Command::Rank { by, after: None, limit: 5, reply });
            }
            3 => {
                let (reply, _) = oneshot::channel();
                self.command(shard, Command::RankChannels { after: None, limit: 2, reply });
            }
            _ => {
                let (reply, _) = oneshot::channel();
                let after = [None, Some(self.rng.u32(..10))][self.rng.usize(..2)];
                let limit = self.rng.usize(..20);
                self.command(shard, Command::List { after, limit, reply });
            }
        }
    }
}
