//! From the first byte to the 101: gathers the head, finds the route, joins its channels, answers.
//!
//! A head that arrives whole is parsed where it was read and leaves no trace; one that arrives in pieces waits in the
//! cold entry, bounded, under the handshake deadline.

use bridge::ending::Turned;
use bridge::{Channel, Pause};
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
pub(crate) const RETRY_AFTER_S: u32 = 5;

/// What became of a request.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Its end has not come.
    Incomplete,
    /// It waits until somebody has decided.
    Asked,
    /// It is a connection now; its head had so many bytes.
    Opened(usize),
}

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
        let answer = self.answer(key, bytes, introduction, &mut out);
        if matches!(answer, Ok(Answer::Incomplete)) {
            self.keep_partial(key, Partial::Head(bytes.to_vec(), introduction));
        }
        self.answered(key, bytes, out, answer);
    }

    /// What follows from an answer: `out` leaves if it is one, and what came behind the head is taken in.
    pub(crate) fn answered(
        &mut self,
        key: Key,
        bytes: &mut [u8],
        out: Vec<u8>,
        answer: Result<Answer, Refusal>,
    ) {
        match answer {
            Ok(Answer::Opened(length)) => {
                self.reply(key, &out, &[]);
                self.out = out;
                self.show_limit(key);
                if length < bytes.len() {
                    self.transport_received(key, &mut bytes[length..]);
                }
            }
            Ok(Answer::Asked) => {
                self.out = out;
                self.wait_for_decision(key, bytes);
            }
            Ok(Answer::Incomplete) => self.out = out,
            Err(refusal) => {
                self.out = out;
                self.refuse(key, refusal);
            }
        }
    }

    /// Opens the connection and writes the answer to `out`, unless somebody else decides.
    fn answer(
        &mut self,
        key: Key,
        bytes: &[u8],
        introduction: Introduction,
        out: &mut Vec<u8>,
    ) -> Result<Answer, Refusal> {
        let mut fields = Fields::new();
        // A header that nobody expects here is best called by its name.
        let bad = |bad: BadHead| if ProxyHeader::is_begun_by(bytes) { Refusal::Proxy } else { bad.into() };
        let parsed = Head::parse(bytes, self.rules.head_bytes, &mut fields).map_err(bad)?;
        let Some(head) = parsed else { return Ok(Answer::Incomplete) };
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
        if let Some(authorizer) = &route.authorize {
            // Whoever is let in only to be told of a limit goes at once: nobody is asked, and nobody hears of it.
            if self.rare(key).is_none_or(|rare| rare.exceeded.is_none()) {
                return self.ask(key, number, authorizer, &request);
            }
            if let Some(conn) = self.conns.get_mut(key) {
                conn.route = number;
            }
            self.opened_now(key);
            return Ok(self.accept_upgrade(key, &request, protocol, out));
        }
        self.enter_route(key, number, &variables)?;
        Ok(self.open_with(key, &request, protocol, out))
    }

    /// Opens a connection that has entered its route.
    pub(crate) fn open_with(
        &mut self,
        key: Key,
        request: &Request<'_>,
        protocol: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Answer {
        self.opened_now(key);
        self.tell_opened(key, request.path, protocol);
        self.accept_upgrade(key, request, protocol, out)
    }

    fn accept_upgrade(
        &self,
        key: Key,
        request: &Request<'_>,
        protocol: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Answer {
        push_accept(out, request.key, protocol, &[("Gateway-Connection", &self.id(key))]);
        Answer::Opened(request.head.length)
    }

    /// The connection's printable id.
    fn id(&self, key: Key) -> String {
        use std::fmt::Write as _;
        let mut id = String::with_capacity(self.id_prefix.len() + 17);
        id.push_str(&self.id_prefix);
        let _ = write!(id, "{:x}-{:x}", key.index(), key.generation());
        id
    }

    pub(crate) fn enter_route(
        &mut self,
        key: Key,
        number: u16,
        variables: &Variables<'_>,
    ) -> Result<(), Refusal> {
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
        self.refuse_in_words(key, refusal, |out| push_refusal(out, &refusal));
    }

    /// The same, in words that `write` writes.
    pub(crate) fn refuse_in_words(&mut self, key: Key, refusal: Refusal, write: impl FnOnce(&mut Vec<u8>)) {
        let place = Refusal::ALL.iter().position(|known| known.label() == refusal.label());
        if let Some(counter) = place.and_then(|place| self.stats.refused.get(place)) {
            counter.add(1);
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        write(&mut out);
        self.leave_channels(key);
        drop(self.take_partial(key));
        self.resume(key, Pause::Authorize);
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
