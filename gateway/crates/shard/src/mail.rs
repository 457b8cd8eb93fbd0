//! Commands from the rest of the program, a budget of them per turn, and only while there is room for what they
//! start: a full fan-out leaves them in the mailbox, whose bound the publishers feel.

use bridge::command::{Gone, NotSubscribed, Traffic};
use bridge::{Address, Channel, Command, Description, EndReason, Message, Page};
use store::{Key, NONE, Phase};

use crate::cold::Then;
use crate::net::Net;
use crate::turn::{Shard, budget};

/// Commands per turn.
const MAIL_PER_TURN: usize = 256;
/// Slots looked at for one page: a sparse table is listed in several pages rather than in one long step.
const SLOTS_PER_PAGE: u32 = 65_536;

impl<N: Net> Shard<N> {
    /// Takes commands out of the mailbox.
    pub fn mail(&mut self, now: u32) {
        self.now = now;
        self.inbox.look();
        for _ in 0..MAIL_PER_TURN {
            if !self.fanout.has_room() {
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
            Command::Send { to, message, reply } => {
                let _ = reply.send(self.send(to, &message));
            }
            Command::Close { whom, code, reason, reply } => {
                let _ = reply.send(self.close_by_command(whom, code, &reason));
            }
            Command::Subscribe { whom, channel, reply } => {
                let _ = reply.send(self.subscribe_by_command(whom, &channel));
            }
            Command::Unsubscribe { whom, channel, reply } => {
                let _ = reply.send(self.unsubscribe_by_command(whom, &channel));
            }
            Command::Describe { whom, reply } => {
                let description = self.open(whom).map(|key| Box::new(self.describe(key)));
                let _ = reply.send(description);
            }
            Command::List { after, limit, reply } => {
                let _ = reply.send(self.list(after, limit));
            }
            Command::Drain { ticks } => self.start_drain(ticks),
        }
    }

    /// The key of an address whose connection is open; one that is being closed is gone for everybody else.
    fn open(&self, address: Address) -> Option<Key> {
        let key = self.key(address)?;
        let phase = self.conns.get(key)?.phase;
        matches!(phase, Phase::Open | Phase::PongWait).then_some(key)
    }

    fn send(&mut self, to: Address, message: &Message) -> Result<(), Gone> {
        let key = self.open(to).ok_or(Gone)?;
        let frame = self.backlog.hold(message.websocket().clone(), NONE);
        let due = self.due(key, frame);
        self.backlog.release(frame);
        match due {
            Ok(()) => {
                self.count_out(key, 1, message.payload().len());
                Ok(())
            }
            Err(_) => {
                self.slow_consumer(key);
                Err(Gone)
            }
        }
    }

    fn close_by_command(&mut self, whom: Address, code: u16, reason: &str) -> Result<(), Gone> {
        let key = self.open(whom).ok_or(Gone)?;
        self.goodbye(key, code, reason, EndReason::ApiClose, Then::Await);
        Ok(())
    }

    fn subscribe_by_command(&mut self, whom: Address, channel: &Channel) -> Result<(), NotSubscribed> {
        let key = self.open(whom).ok_or(NotSubscribed::Gone)?;
        self.join(key, channel).map(drop).map_err(|_| NotSubscribed::Full)
    }

    fn unsubscribe_by_command(&mut self, whom: Address, channel: &Channel) -> Result<(), Gone> {
        let key = self.open(whom).ok_or(Gone)?;
        let conn = self.conns.get_mut(key).ok_or(Gone)?;
        let left = self.channels.unsubscribe(channel.as_str(), key.index(), &mut conn.first_subscription);
        if matches!(left, store::Left::Last(_)) {
            self.switchboard.leave(self.shard, channel);
        }
        Ok(())
    }

    fn describe(&self, key: Key) -> Description {
        let mut description = Description {
            address: self.address(key),
            peer: String::new(),
            route: 0,
            age_ticks: 0,
            quiet_ticks: 0,
            channels: Vec::new(),
            traffic: self.traffic(key),
            backlog_frames: 0,
            backlog_bytes: 0,
            phase: "open",
        };
        if let Some(conn) = self.conns.get(key) {
            description.peer = self.gate.peers().address(conn.admission.peer()).to_string();
            description.route = conn.route;
            description.age_ticks = self.now.saturating_sub(conn.opened);
            description.quiet_ticks = self.now.saturating_sub(conn.last_received);
            let names = self.channels.of(conn.first_subscription);
            description.channels = names
                .filter_map(|channel| self.channels.name(channel))
                .map(|name| Channel::from_checked(name.clone()))
                .collect();
            if !matches!(conn.phase, Phase::Open | Phase::PongWait) {
                description.phase = "closing";
            }
        }
        if let Some(rare) = self.rare(key) {
            description.backlog_frames = rare.queue.entries();
            description.backlog_bytes = rare.queue.bytes();
        }
        description
    }

    fn list(&self, after: Option<u32>, limit: usize) -> Page {
        let start = after.map_or(0, |slot| slot.saturating_add(1));
        let end = self.conns.end().min(start.saturating_add(SLOTS_PER_PAGE));
        let mut page = Page::default();
        for key in self.conns.keys_in(start..end) {
            let listed = self.conns.get(key).is_some_and(|conn| conn.phase != Phase::Handshake);
            if listed && self.opened(key) {
                page.connections.push(self.describe(key));
            }
            if page.connections.len() >= limit {
                page.next = Some(key.index());
                return page;
            }
        }
        page.next = (end < self.conns.end()).then(|| end - 1);
        page
    }

    pub(crate) fn traffic(&self, key: Key) -> Traffic {
        let tally = self.conns.tally(key);
        Traffic {
            messages_in: tally.messages_in,
            messages_out: tally.messages_out,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
        }
    }

    /// Counts messages to a connection.
    pub(crate) fn count_out(&mut self, key: Key, messages: u32, bytes: usize) {
        self.stats.messages_out.add(u64::from(messages));
        if let Some(tally) = self.conns.tally_mut(key) {
            tally.messages_out = tally.messages_out.wrapping_add(messages);
            tally.bytes_out += bytes as u64;
        }
    }
}
