//! Taking connections off the listener, and turning away those for whom there is no room.

use std::net::IpAddr;

use bridge::ending::Turned;
use bridge::limited::{Action, Kind, Limit};

use crate::net::{Accepted, Hangup, Net};
use crate::trust::Introduction;
use crate::turn::{Shard, budget};

/// Accepts per turn.
const ACCEPTS_PER_TURN: usize = 256;

/// For those who cannot even wait for their request to be read.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

impl<N: Net> Shard<N> {
    pub(crate) fn accept(&mut self) {
        if !self.accepting || self.exhausted_at == Some(self.now) {
            return;
        }
        self.exhausted_at = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.net.accept() {
                Accepted::Socket(socket, peer) => self.admit(socket, peer),
                Accepted::Lost => {}
                Accepted::WouldBlock => {
                    self.accepting = false;
                    return;
                }
                Accepted::Exhausted => {
                    // Nobody will tell us when there is a descriptor again: the next tick tries.
                    self.stats.turned[Turned::Descriptors as usize].add(1);
                    self.exhausted_at = Some(self.now);
                    return;
                }
            }
        }
        self.stats.budget_hits[budget::ACCEPTS].add(1);
    }

    fn admit(&mut self, mut socket: N::Socket, peer: IpAddr) {
        self.stats.accepted.add(1);
        let introduction = self.rules.trust.of(peer);
        let is_named = introduction == Introduction::Done;
        let entrance = self.gate.admit(peer, is_named, self.rules.limits.peers(), self.now);
        if let Some(turned) = entrance.turned {
            self.stats.turned[turned as usize].add(1);
        }
        if let Some(full) = entrance.full {
            self.note_limit(None, full);
        }
        let exceeded = self.judged(peer, entrance.over, entrance.retry_ticks);
        let Some(admitted) = entrance.admitted else {
            self.net.close(socket, Hangup::Reset);
            return;
        };
        match self.conns.insert(socket, admitted, self.now) {
            Ok(key) => {
                self.handshakes += 1;
                if let Some(rare) = exceeded.and_then(|_| self.rare_mut(key)) {
                    rare.exceeded = exceeded;
                }
                let registered = self
                    .conns
                    .get(key)
                    .and_then(|conn| conn.socket.as_ref())
                    .is_some_and(|socket| self.net.register(socket, key.to_bits()));
                if registered {
                    self.arm(key, self.rules.handshake_ticks);
                    self.expect(key, introduction);
                } else {
                    self.turn_away(key, Turned::Internal);
                }
            }
            Err((returned, admitted)) => {
                socket = returned;
                // Whoever was only let in to be told 503 is counted already.
                if entrance.turned.is_none() {
                    self.stats.turned[Turned::TableFull as usize].add(1);
                    let limit = Limit::NodeConnections;
                    self.note_limit(None, Kind { limit, action: Action::Refuse, dry_run: false });
                }
                self.gate.handshake_done(&admitted);
                self.gate.release(admitted, self.rules.limits.peers(), self.now);
                // A socket closed with a request unread is reset, and the answer lost with it.
                let _ = self.net.read(&mut socket, &mut self.scratch);
                let _ = self.net.write_one(&mut socket, NO_ROOM);
                self.net.close(socket, Hangup::Gentle);
            }
        }
    }
}
