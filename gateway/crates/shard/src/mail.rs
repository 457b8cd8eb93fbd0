//! Commands from the rest of the program, a budget of them per turn, and only while there is room for what they
//! start: a full fan-out, or too many users that are told to go, leave them in the mailbox, whose bound the publishers feel.

use std::sync::Arc;

use bridge::command::{NotDone, Reply};
use bridge::{Address, Channel, Command, EndReason, Message, Sealed, Upstream};
use store::{Key, NONE, Phase};
use wire::error::Violation;

use crate::cold::Then;
use crate::net::Net;
use crate::rules::Rules;
use crate::turn::{Shard, budget};

/// Commands per turn.
const MAIL_PER_TURN: usize = 256;

impl<N: Net> Shard<N> {
    /// Takes commands out of the mailbox.
    pub fn mail(&mut self, now: u32) {
        self.now = now;
        self.inbox.look();
        for _ in 0..MAIL_PER_TURN {
            if !self.fanout.has_room() || !self.leaving.has_room() {
                return;
            }
            let Some(command) = self.inbox.take() else { return };
            self.obey(command);
        }
        self.stats.budget_hits[budget::MAIL].add(1);
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone by now: a reply that nobody takes is no fault.
        match command {
            Command::Publish(publish) => self.start_fan_out(publish),
            Command::Send { to, message, by, reply } => {
                let done = self.send(to, &message, by);
                self.answer_command(done, reply);
            }
            Command::Close { whom, code, reason, by, reply } => {
                let done = self.close_by_command(whom, code, &reason, by);
                self.answer_command(done, reply);
            }
            Command::GiveUp { whom } => {
                // Whoever is on the way out has been told so already.
                if let Ok(key) = self.open(whom, None) {
                    self.give_up(key);
                }
            }
            Command::TooBig { whom } => {
                if let Ok(key) = self.open(whom, None) {
                    self.show_out(key, Violation::MessageTooBig);
                }
            }
            Command::Subscribe { whom, channel, by, reply } => {
                let done = self.subscribe_by_command(whom, &channel, by);
                self.answer_command(done, reply);
            }
            Command::Unsubscribe { whom, channel, by, reply } => {
                let done = self.unsubscribe_by_command(whom, &channel, by);
                self.answer_command(done, reply);
            }
            Command::Settle { upstream, settled } => self.settle_upstream(upstream, &settled),
            Command::SetState { whom, state, by, reply } => {
                let done = self.set_state(whom, state, by);
                self.answer_command(done, reply);
            }
            Command::CloseUser { user, code, reason, reply } => self.close_user(&user, code, reason, reply),
            Command::Authorized { whom, decision } => self.decided(whom, *decision),
            Command::Describe { whom, reply } => {
                let _ = reply.send(self.describe_by_command(whom));
            }
            Command::List { after, limit, reply } => {
                let _ = reply.send(self.list(after, limit));
            }
            Command::EnforceBlocks => self.start_eviction(),
            Command::Rank { by, after, limit, reply } => {
                let _ = reply.send(self.rank(by, after, limit));
            }
            Command::RankChannels { after, limit, reply } => {
                let _ = reply.send(self.rank_channels(after, limit));
            }
            Command::CountSubscribers { channels, reply } => {
                let _ = reply.send(self.count_subscribers(&channels));
            }
            Command::Obey { number, rules } => self.obey_rules(number, rules),
            Command::Drain(plan) => self.start_drain(plan),
            Command::CloseGap { routes, ticks } => self.start_gap(&routes, ticks),
            Command::Shed { per_ten_thousand, ticks, reply } => {
                let _ = reply.send(self.start_shed(per_ten_thousand, ticks));
            }
        }
    }

    /// Swaps the rules whole. Deadlines that are armed stay; the next ones are by the new intervals.
    fn obey_rules(&mut self, number: u32, rules: Sealed) {
        let rules: Option<Rules> = rules.open();
        debug_assert!(rules.is_some(), "rules are the shard's own type");
        if let Some(rules) = rules {
            debug_assert!(
                rules.routes.len() >= self.rules.routes.len(),
                "connections know their routes by number"
            );
            self.rules = Arc::new(rules);
            self.stats.rules.set(u64::from(number));
        }
    }

    /// Tells whoever asked, if anybody did, and counts what was not done.
    fn answer_command(&self, done: Result<(), NotDone>, reply: Reply) {
        if let Err(why) = done {
            self.stats.commands_refused[why as usize].add(1);
        }
        if let Some(reply) = reply {
            let _ = reply.send(done);
        }
    }

    /// The key of an address whose connection is open and tells its events `by`, if the command is of an upstream. One
    /// that is being closed is gone for everybody else.
    pub(crate) fn open(&self, address: Address, by: Option<Upstream>) -> Result<Key, NotDone> {
        let key = self.key(address).ok_or(NotDone::Gone)?;
        let conn = self.conns.get(key).ok_or(NotDone::Gone)?;
        if !matches!(conn.phase, Phase::Open | Phase::PongWait) {
            return Err(NotDone::Gone);
        }
        if by.is_some() && self.upstream_of(conn.route) != by {
            return Err(NotDone::NotOwner);
        }
        Ok(key)
    }

    fn send(&mut self, to: Address, message: &Message, by: Option<Upstream>) -> Result<(), NotDone> {
        let key = self.open(to, by)?;
        let kind = if message.is_declared() { None } else { self.kind_of(key) };
        let bytes = match kind {
            None => message.websocket(),
            Some(kind) => message.websocket_as(kind).ok_or(NotDone::NotText)?,
        };
        let frame = self.backlog.hold(bytes.clone(), NONE);
        let queued = self.queue(key, frame, 0);
        self.backlog.release(frame);
        match queued {
            // It was gone when it was offered what waits.
            Ok(()) if !self.is_open(key) => Err(NotDone::Gone),
            Ok(()) => {
                self.count_out(key, 1, message.payload().len());
                Ok(())
            }
            Err(_) => {
                self.slow_consumer(key);
                Err(NotDone::Gone)
            }
        }
    }

    fn close_by_command(
        &mut self,
        whom: Address,
        code: u16,
        reason: &str,
        by: Option<Upstream>,
    ) -> Result<(), NotDone> {
        let key = self.open(whom, by)?;
        self.goodbye(key, code, reason, EndReason::ApiClose, Then::Await);
        Ok(())
    }

    fn subscribe_by_command(
        &mut self,
        whom: Address,
        channel: &Channel,
        by: Option<Upstream>,
    ) -> Result<(), NotDone> {
        let key = self.open(whom, by)?;
        if channel.is_reserved() {
            return Err(NotDone::Reserved);
        }
        self.join(key, channel).map(drop).map_err(|_| NotDone::Full)
    }

    fn unsubscribe_by_command(
        &mut self,
        whom: Address,
        channel: &Channel,
        by: Option<Upstream>,
    ) -> Result<(), NotDone> {
        let key = self.open(whom, by)?;
        if channel.is_reserved() {
            return Err(NotDone::Reserved);
        }
        let conn = self.conns.get_mut(key).ok_or(NotDone::Gone)?;
        let left = self.channels.unsubscribe(channel.as_str(), key.index(), &mut conn.first_subscription);
        if matches!(left, store::Left::Last(_)) {
            self.switchboard.leave(self.shard, channel);
        }
        Ok(())
    }

    /// Counts messages to a connection.
    pub(crate) fn count_out(&mut self, key: Key, messages: u32, bytes: usize) {
        self.stats.messages_out.add(u64::from(messages));
        let now = self.now;
        if let Some(tally) = self.conns.tally_mut(key) {
            tally.last_message = now;
            tally.messages_out = tally.messages_out.wrapping_add(messages);
            tally.bytes_out += bytes as u64;
        }
    }
}
