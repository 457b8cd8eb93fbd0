//! Routes with an authorizer: a request that is right waits until somebody has decided.
//!
//! Owns the wait. The head is kept as it came, with what an eager client sent behind it; the connection is not read, and
//! its handshake deadline runs on. The decision opens it, as whom and into which channels it says, or refuses it. Each
//! question has one answer: what comes for somebody who does not wait is dropped. Refuses to know who decides.

use std::net::IpAddr;
use std::sync::Arc;

use bridge::authorize::{Allowed, Authorize, Decision, Refused};
use bridge::ending::Turned;
use bridge::message::Bytes;
use bridge::{Address, Event, Pause, Principal};
use store::{Flags, Key, Phase};
use wire::error::Refusal;
use wire::http::{Fields, Head, push_refused};
use wire::ws::handshake::{Request, choose_protocol};

use crate::cold::Partial;
use crate::handshake::{Answer, RETRY_AFTER_S};
use crate::net::Net;
use crate::rules::Authorizer;
use crate::turn::Shard;

/// Nobody decided, or nothing that makes sense.
pub(crate) const UNDECIDED: Refusal = Refusal::Authorizer { retry_after_s: RETRY_AFTER_S };

impl<N: Net> Shard<N> {
    /// Asks whether a request may come in. Until the answer its connection is not read.
    pub(crate) fn ask(
        &mut self,
        key: Key,
        route: u16,
        authorizer: &Authorizer,
        request: &Request<'_>,
    ) -> Result<Answer, Refusal> {
        if !self.outbox.has_room() {
            return Err(UNDECIDED);
        }
        let Some(conn) = self.conns.get_mut(key) else { return Err(UNDECIDED) };
        conn.route = route;
        let peer: IpAddr = self.gate.peers().address(conn.admission.peer());
        let shown = |(name, value): (&str, &[u8])| {
            let known = authorizer.headers.iter().find(|known| known.eq_ignore_ascii_case(name))?;
            Some((known.clone(), Bytes::copy_from_slice(value)))
        };
        // The bound of the head bounds all of this.
        let question = Box::new(Authorize {
            upstream: authorizer.upstream,
            address: self.address(key),
            route,
            peer,
            path: request.path.into(),
            query: request.query.map(Into::into),
            headers: request.head.fields().filter_map(shown).collect(),
            protocols: request.protocols().map(Into::into).collect(),
        });
        let pushed = self.outbox.push(self.now, Event::Authorize(question));
        debug_assert!(pushed.is_ok(), "asked for room before");
        Ok(Answer::Asked)
    }

    /// Whether it waits for a decision.
    pub(crate) fn is_asked(&self, key: Key) -> bool {
        self.rare(key).is_some_and(|rare| matches!(rare.partial, Partial::Asked(_)))
    }

    /// The request waits, as it came.
    pub(crate) fn wait_for_decision(&mut self, key: Key, bytes: &[u8]) {
        self.keep_partial(key, Partial::Asked(bytes.to_vec()));
        self.pause(key, Pause::Authorize);
    }

    /// Somebody has decided.
    pub(crate) fn decided(&mut self, whom: Address, decision: Decision) {
        let Some(key) = self.key(whom).filter(|key| self.is_asked(*key)) else { return };
        let Partial::Asked(mut bytes) = self.take_partial(key) else { return };
        self.resume(key, Pause::Authorize);
        match decision {
            Decision::Allow(allowed) => {
                let mut out = std::mem::take(&mut self.out);
                out.clear();
                let answered = self.let_in(key, &bytes, &allowed, &mut out);
                self.answered(key, &mut bytes, out, answered);
            }
            Decision::Refuse(refused) => self.refuse_as_decided(key, &refused),
        }
        self.settle(key);
    }

    /// Opens the connection as the decision says, and writes the answer to `out`.
    fn let_in(
        &mut self,
        key: Key,
        bytes: &[u8],
        allowed: &Allowed,
        out: &mut Vec<u8>,
    ) -> Result<Answer, Refusal> {
        let mut fields = Fields::new();
        // It was a good one when it came, and by the bounds of that time.
        let head = Head::parse(bytes, usize::MAX, &mut fields)?.ok_or(Refusal::BadHead)?;
        let request = Request::check(head)?;
        let rules = Arc::clone(&self.rules);
        let number = self.conns.get(key).map_or(0, |conn| conn.route);
        let route = rules.routes.get(usize::from(number)).ok_or(Refusal::NotFound)?;
        let variables = route.variables(request.path).ok_or(Refusal::NotFound)?;
        let protocol = match &allowed.protocol {
            None => choose_protocol(request.protocols(), &route.protocols),
            // A client that is told another one than it offered has to hang up (RFC 6455 section 4.1).
            Some(chosen) => Some(request.protocols().find(|offer| *offer == &**chosen).ok_or(UNDECIDED)?),
        };
        self.enter_route(key, number, &variables)?;
        self.enter_as(key, allowed)?;
        Ok(self.open_with(key, &request, protocol, out))
    }

    /// Joins what the decision says, and remembers who it is.
    fn enter_as(&mut self, key: Key, allowed: &Allowed) -> Result<(), Refusal> {
        let Allowed { user, channels, state, expires, .. } = allowed;
        if channels.iter().any(bridge::Channel::is_reserved) {
            return Err(UNDECIDED);
        }
        let of_user = user.as_ref().map(bridge::User::channel);
        for channel in channels.iter().chain(&of_user) {
            if self.join(key, channel).is_err() {
                self.stats.turned[Turned::Channels as usize].add(1);
                return Err(Refusal::Busy { retry_after_s: RETRY_AFTER_S });
            }
        }
        let principal = Principal { user: user.clone(), state: state.clone() };
        if principal == Principal::default() && expires.is_none() {
            return Ok(());
        }
        let now = self.now;
        let profile = self.profile_mut(key).map_err(|_| UNDECIDED)?;
        profile.be(principal);
        profile.expires = expires.map(|after| {
            let ticks = after.as_millis().div_ceil(u128::from(crate::TICK_MS));
            now.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX).max(1))
        });
        Ok(())
    }

    fn refuse_as_decided(&mut self, key: Key, refused: &Refused) {
        let Refused { status, reason, retry_after_s, is_ours } = refused;
        if *is_ours || !(400..=599).contains(status) {
            return self
                .refuse(key, Refusal::Authorizer { retry_after_s: retry_after_s.unwrap_or(RETRY_AFTER_S) });
        }
        self.refuse_in_words(key, Refusal::Unauthorized, |out| {
            push_refused(out, *status, *retry_after_s, reason);
        });
    }

    /// The handshake's time is up.
    pub(crate) fn refuse_late(&mut self, key: Key) {
        let refusal = if self.is_asked(key) { UNDECIDED } else { Refusal::Timeout };
        self.refuse(key, refusal);
    }

    /// Whoever waits is not read, so an event is all that tells that it left.
    pub(crate) fn left_while_asked(&mut self, key: Key) -> bool {
        let waits = self.conns.get(key).is_some_and(|conn| {
            conn.phase == Phase::Handshake
                && conn.pauses.contains(Pause::Authorize as u8)
                && conn.flags.contains(Flags::HUNG_UP)
        });
        if waits {
            self.turn_away(key, Turned::Left);
        }
        waits
    }
}
