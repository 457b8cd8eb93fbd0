//! From the first byte to the 101: gathers the head, finds the route, joins its channels, answers.
//!
//! A head that arrives whole is parsed where it was read and leaves no trace; one that arrives in pieces waits in the
//! cold entry, bounded, under the handshake deadline.

use bridge::Channel;
use bridge::ending::Turned;
use store::{Flags, Joined, Key, Phase, Refused};
use wire::error::Refusal;
use wire::http::{BadHead, Fields, Head, is_complete, push_refusal};
use wire::proxy::ProxyHeader;
use wire::ws::handshake::{Request, choose_protocol, origin_allowed, push_accept};

use crate::cold::Partial;
use crate::net::{Hangup, Net};
use crate::rules::{Inbound, Variables};
use crate::trust::Introduction;
use crate::turn::Shard;

/// What a busy node asks for, in seconds.
const RETRY_AFTER_S: u32 = 5;

impl<N: Net> Shard<N> {
    /// Bytes of a request head, and perhaps the first frames of an eager client behind them.
    pub(crate) fn head(&mut self, key: Key, bytes: &mut [u8]) {
        match self.take_partial(key) {
            Partial::Head(mut head, introduction) if !head.is_empty() => {
                let searched = head.len();
                head.extend_from_slice(bytes);
                let complete = introduction == Introduction::Proxy || is_complete(&head, searched).is_some();
                if complete || head.len() >= self.rules.head_bytes {
                    self.beginning(key, &mut head, introduction);
                } else {
                    self.keep_partial(key, Partial::Head(head, introduction));
                }
            }
            Partial::Head(_, introduction) => self.beginning(key, bytes, introduction),
            _ => self.whole_head(key, bytes, Introduction::Done),
        }
        self.settle(key);
    }

    /// All bytes so far, with the PROXY header that may be in front of the head.
    fn beginning(&mut self, key: Key, bytes: &mut [u8], introduction: Introduction) {
        if introduction != Introduction::Proxy {
            return self.whole_head(key, bytes, introduction);
        }
        match self.introduced(key, bytes) {
            Ok(Some((length, next))) => self.whole_head(key, &mut bytes[length..], next),
            Ok(None) => self.keep_partial(key, Partial::Head(bytes.to_vec(), introduction)),
            Err(refusal) => self.refuse(key, refusal),
        }
    }

    fn whole_head(&mut self, key: Key, bytes: &mut [u8], introduction: Introduction) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let answered = self.answer(key, bytes, introduction, &mut out);
        match answered {
            Ok(Some(length)) => {
                self.reply(key, &out, &[]);
                self.out = out;
                self.show_limit(key);
                if length < bytes.len() {
                    self.transport_received(key, &mut bytes[length..]);
                }
            }
            Ok(None) => {
                self.out = out;
                self.keep_partial(key, Partial::Head(bytes.to_vec(), introduction));
            }
            Err(refusal) => {
                self.out = out;
                self.refuse(key, refusal);
            }
        }
    }

    /// Opens the connection and writes the answer to `out`. The length of the head, or `None` while it is incomplete.
    fn answer(
        &mut self,
        key: Key,
        bytes: &[u8],
        introduction: Introduction,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refusal> {
        let mut fields = Fields::new();
        // A header that nobody expects here is best called by its name.
        let bad = |bad: BadHead| if ProxyHeader::is_begun_by(bytes) { Refusal::Proxy } else { bad.into() };
        let parsed = Head::parse(bytes, self.rules.head_bytes, &mut fields).map_err(bad)?;
        let Some(head) = parsed else { return Ok(None) };
        if introduction == Introduction::Field {
            self.forwarded(key, &head);
        }
        if self.conns.get(key).is_some_and(|conn| conn.admission.is_turning()) {
            let busy = Refusal::Busy { retry_after_s: RETRY_AFTER_S };
            return Err(self.refused_by_limit(key).unwrap_or(busy));
        }
        if let Some(refusal) = self.refused_by_limit(key) {
            return Err(refusal);
        }
        let request = Request::check(head)?;
        let rules = std::sync::Arc::clone(&self.rules);
        let (number, variables) = rules.route(request.path).ok_or(Refusal::NotFound)?;
        let route = &rules.routes[usize::from(number)];
        if !origin_allowed(request.origin, &route.origins) {
            return Err(Refusal::Origin);
        }
        let protocol = choose_protocol(request.protocols(), &route.protocols);
        self.enter_route(key, number, &variables)?;
        self.opened_now(key);
        self.tell_opened(key, request.path, protocol);
        let id = self.id(key);
        push_accept(out, request.key, protocol, &[("Gateway-Connection", &id)]);
        Ok(Some(head.length))
    }

    /// The connection's printable id.
    fn id(&self, key: Key) -> String {
        use std::fmt::Write as _;
        let mut id = String::with_capacity(self.id_prefix.len() + 17);
        id.push_str(&self.id_prefix);
        let _ = write!(id, "{:x}-{:x}", key.index(), key.generation());
        id
    }

    fn enter_route(&mut self, key: Key, number: u16, variables: &Variables<'_>) -> Result<(), Refusal> {
        let rules = std::sync::Arc::clone(&self.rules);
        let route = &rules.routes[usize::from(number)];
        let busy = Refusal::Busy { retry_after_s: RETRY_AFTER_S };
        if let Some(conn) = self.conns.get_mut(key) {
            conn.route = number;
        }
        for template in &route.subscribe {
            let channel = template.render(variables).ok_or(Refusal::NotFound)?;
            if self.join(key, &channel).is_err() {
                self.stats.turned[Turned::Channels as usize].add(1);
                return Err(busy);
            }
        }
        if let Inbound::Publish(template) = &route.inbound {
            let channel = template.render(variables).ok_or(Refusal::NotFound)?;
            // The table's own copy of the name, where there is one: a crowd in one room shares it.
            let index = self.channels.find(channel.as_str());
            let name = index.and_then(|index| self.channels.name(index)).cloned();
            let channel = name.map_or(channel, Channel::from_checked);
            self.profile_mut(key).map_err(|_| busy)?.publishes_to = Some(channel);
        }
        Ok(())
    }

    /// Subscribes a connection.
    pub(crate) fn join(&mut self, key: Key, channel: &Channel) -> Result<Joined, Refused> {
        let Some(conn) = self.conns.get_mut(key) else { return Err(Refused::SubscriptionsFull) };
        let first = &mut conn.first_subscription;
        let joined =
            self.channels.subscribe(channel.shared(), key.index(), first, self.rules.subscriptions)?;
        if let Joined::First(_) = joined {
            self.switchboard.join(self.shard, channel);
        }
        Ok(joined)
    }

    fn opened_now(&mut self, key: Key) {
        self.stats.opened.add(1);
        self.handshake_over(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.phase = Phase::Open;
        conn.flags.insert(Flags::OPENED);
        self.stats.handshake_ticks.record(u64::from(self.now.saturating_sub(conn.opened)));
        // A random first phase: otherwise a crowd that came at once is pinged at once for ever.
        let ticks = self.random.u32(1..=self.life(key).ping_ticks.max(1));
        self.arm_alive(key, ticks);
    }

    /// Called once per connection, when its handshake succeeded or failed.
    pub(crate) fn handshake_over(&mut self, key: Key) {
        self.handshakes -= 1;
        if let Some(conn) = self.conns.get(key) {
            self.gate.handshake_done(&conn.admission);
        }
    }

    /// Whether its handshake succeeded once.
    pub(crate) fn opened(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.flags.contains(Flags::OPENED))
    }

    /// Answers a request that is not upgraded, and lingers until the client has hung up.
    pub(crate) fn refuse(&mut self, key: Key, refusal: Refusal) {
        let place = Refusal::ALL.iter().position(|known| known.label() == refusal.label());
        if let Some(counter) = place.and_then(|place| self.stats.refused.get(place)) {
            counter.add(1);
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        push_refusal(&mut out, &refusal);
        self.leave_channels(key);
        drop(self.take_partial(key));
        self.handshake_over(key);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.phase = Phase::Lingering;
        }
        self.arm(key, self.rules.linger_ticks);
        self.reply(key, &out, &[]);
        self.out = out;
        self.say_no_more(key);
        self.settle(key);
    }

    /// Hangs up on a connection that was never opened.
    pub(crate) fn turn_away(&mut self, key: Key, turned: Turned) {
        self.stats.turned[turned as usize].add(1);
        self.end(key, bridge::EndReason::Internal, Hangup::Gentle);
    }
}
