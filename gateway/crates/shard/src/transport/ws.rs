//! WebSocket: frames become messages, messages become what the route says, rule-breakers are shown out.

use std::sync::Arc;

use bridge::EndReason;
use bridge::message::Kind;
use store::{Key, Phase};
use wire::error::Violation;
use wire::ws::Assembly;
use wire::ws::close::{Close, code};
use wire::ws::frame::{Opcode, header, push_close, push_frame};
use wire::ws::{Item, Limits};

use crate::cold::{Partial, Then};
use crate::net::{Hangup, Net};
use crate::rules::{Inbound, Route};
use crate::turn::{SCRATCH_BYTES, Shard};

/// Payloads from this size on are written from where they lie instead of being copied beside other replies.
const COPY_MAX: usize = 16 * 1024;

/// Whether the rest of what was read still matters.
enum Flow {
    Go,
    /// From here on its upstream has no room.
    Wait(usize),
    /// The peer says goodbye.
    Goodbye(Option<u16>),
}

impl<N: Net> Shard<N> {
    /// Bytes of frames.
    pub(crate) fn frames(&mut self, key: Key, bytes: &mut [u8]) {
        let rules = Arc::clone(&self.rules);
        let Some(conn) = self.conns.get(key) else { return };
        let Some(route) = rules.routes.get(usize::from(conn.route)) else { return };
        let mut held = match self.take_partial(key) {
            Partial::Frames(assembly) => Some(assembly),
            _ => None,
        };
        let mut fresh = Assembly::new();
        let assembly = held.as_deref_mut().unwrap_or(&mut fresh);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let outcome = self.items(key, route, assembly, bytes, &mut out);
        if !out.is_empty() {
            self.reply(key, &out, &[]);
        }
        self.out = out;
        match outcome {
            Ok(Flow::Go) => {
                if !assembly.is_idle() {
                    let assembly = held.unwrap_or_else(|| Box::new(fresh));
                    self.keep_partial(key, Partial::Frames(assembly));
                }
            }
            Ok(Flow::Wait(at)) => self.put_aside(key, &bytes[at..]),
            Ok(Flow::Goodbye(code)) => self.peer_said_close(key, code),
            Err(violation) => self.show_out(key, violation),
        }
        self.settle(key);
    }

    fn items(
        &mut self,
        key: Key,
        route: &Route,
        assembly: &mut Assembly,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Flow, Violation> {
        let limits: &Limits = &route.limits;
        let upstream = match route.inbound {
            Inbound::Upstream(upstream) => Some(upstream),
            _ => None,
        };
        let mut at = 0;
        loop {
            // Room is asked for before a message is parsed, because a parsed one cannot be put back.
            if let Some(upstream) = upstream
                && at < bytes.len()
                && assembly.is_idle()
                && self.is_open(key)
                && !self.may_tell(key, upstream)
            {
                return Ok(Flow::Wait(at));
            }
            let Some(item) = assembly.next(bytes, &mut at, limits)? else { return Ok(Flow::Go) };
            let listens = self.is_open(key);
            // A reply to what came before may have met the bound of the backlog.
            if !listens && !self.is_listened_to(key) {
                return Ok(Flow::Go);
            }
            match item {
                Item::Close(close) => return Ok(Flow::Goodbye(close.map(|Close { code, .. }| code))),
                Item::Message { kind, payload } if !listens => self.late(key, route, kind, payload),
                _ if !listens => {}
                Item::Message { payload, .. } if !self.may_leave(route, payload.len()) => {
                    return Err(Violation::MessageTooBig);
                }
                Item::Message { payload, .. } | Item::Ping(payload) if !self.takes(key, payload.len()) => {}
                Item::Message { kind, payload } => self.message(key, route, kind, payload, out),
                Item::Ping(payload) => {
                    self.make_room(key, out, payload.len());
                    push_frame(out, Opcode::Pong, payload);
                }
                Item::Pong(payload) => self.ponged(key, payload),
            }
        }
    }

    fn message(&mut self, key: Key, route: &Route, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        let answer = route.auto_reply(payload);
        self.count_in(key, payload.len(), answer.is_none());
        if let Some(answer) = answer {
            return self.auto_reply(key, kind, answer, out);
        }
        match &route.inbound {
            Inbound::Publish(_) => self.publish(key, route, kind, payload),
            Inbound::Upstream(upstream) => self.tell_message(key, *upstream, kind, payload),
            Inbound::Ignore => self.stats.ignored.add(1),
            Inbound::Echo => {
                self.make_room(key, out, payload.len());
                if payload.len() < COPY_MAX {
                    push_frame(out, kind.opcode(), payload);
                } else {
                    let (header, length) = header(kind.opcode(), payload.len());
                    self.reply(key, &header[..length], payload);
                }
                self.count_out(key, 1, payload.len());
            }
        }
    }

    fn count_in(&mut self, key: Key, bytes: usize, is_use: bool) {
        self.stats.messages_in.add(1);
        self.stats.bytes_in.add(bytes as u64);
        let now = self.now;
        if let Some(tally) = self.conns.tally_mut(key) {
            tally.messages_in = tally.messages_in.wrapping_add(1);
            tally.bytes_in += bytes as u64;
            if is_use {
                tally.last_message = now;
            }
        }
    }

    /// A message that came when our close frame was out already. The peer is told to go for no fault of its own and may
    /// have sent it before it could know, so it goes where it was meant to go, though nothing can be answered (RFC 6455
    /// section 5.5.1 leaves open what is done with it). It is not paused for a rate or an upstream any more, or its answer
    /// would not be read in time: at the first bound, which may be what the bus carries, nothing more of it is taken, and what
    /// was taken is all that it sent up to there.
    fn late(&mut self, key: Key, route: &Route, kind: Kind, payload: &[u8]) {
        let goodbye = self.rare(key).and_then(|rare| rare.goodbye);
        if goodbye.is_none_or(|goodbye| goodbye.then != Then::Deliver) || route.auto_reply(payload).is_some()
        {
            return;
        }
        let has_room = match route.inbound {
            Inbound::Publish(_) => !self.unplaced.is_full(),
            Inbound::Upstream(upstream) => self.may_tell_late(key, upstream),
            Inbound::Echo | Inbound::Ignore => return,
        };
        let goes = has_room && self.may_leave(route, payload.len());
        if !goes || self.room(key).is_err() || !self.takes(key, payload.len()) {
            if let Some(goodbye) = self.rare_mut(key).and_then(|rare| rare.goodbye.as_mut()) {
                goodbye.then = Then::Await;
            }
            return;
        }
        self.count_in(key, payload.len(), true);
        match route.inbound {
            Inbound::Upstream(upstream) => self.tell_message(key, upstream, kind, payload),
            _ => self.publish(key, route, kind, payload),
        }
    }

    /// Answers a message that goes nowhere. It and its answer are a sign of life, and not of use.
    fn auto_reply(&mut self, key: Key, kind: Kind, answer: &[u8], out: &mut Vec<u8>) {
        self.stats.auto_replies.add(1);
        self.make_room(key, out, answer.len());
        push_frame(out, kind.opcode(), answer);
        self.stats.messages_out.add(1);
        if let Some(tally) = self.conns.tally_mut(key) {
            tally.messages_out = tally.messages_out.wrapping_add(1);
            tally.bytes_out += answer.len() as u64;
        }
    }

    /// Writes what is gathered before the next reply would make it too much to gather.
    fn make_room(&mut self, key: Key, out: &mut Vec<u8>, payload: usize) {
        if !out.is_empty() && out.len() + payload + 16 > SCRATCH_BYTES {
            self.reply(key, out, &[]);
            out.clear();
        } else if payload >= COPY_MAX && !out.is_empty() {
            // A large reply goes out by itself, behind what was gathered before it.
            self.reply(key, out, &[]);
            out.clear();
        }
    }

    /// The peer's close frame: it answers ours, or is answered with its own code (RFC 6455 section 5.5.1).
    fn peer_said_close(&mut self, key: Key, code: Option<u16>) {
        let Some(conn) = self.conns.get(key) else { return };
        if conn.phase == Phase::Closing {
            if let Some(goodbye) = self.rare_mut(key).and_then(|rare| rare.goodbye.as_mut()) {
                goodbye.received = code;
            }
            self.end(key, EndReason::ClientClose, Hangup::Gentle);
            return;
        }
        let mut frame = Vec::with_capacity(4);
        match code {
            Some(code) => push_close(&mut frame, code, ""),
            None => push_frame(&mut frame, Opcode::Close, &[]),
        }
        self.close_with(key, &frame, code, code, EndReason::ClientClose, Then::HangUp);
    }

    /// It broke a rule: it is told which, and discarded from then on.
    pub(crate) fn show_out(&mut self, key: Key, violation: Violation) {
        let why = match violation.code() {
            code::INVALID_PAYLOAD => EndReason::InvalidUtf8,
            code::TOO_BIG => EndReason::MessageTooBig,
            _ => EndReason::ProtocolError,
        };
        // While our own close waits for its answer the peer is only asked to hang up.
        if self.conns.get(key).is_some_and(|conn| conn.phase == Phase::Closing) {
            return self.end(key, why, Hangup::Gentle);
        }
        let reason = format!("{{\"reason\":\"{}\"}}", violation.label());
        self.goodbye(key, violation.code(), &reason, why, Then::Linger);
    }
}
