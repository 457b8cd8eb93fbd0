//! The node's gate: how many connections and handshakes there may be, over all shards.
//!
//! [`Gate::admit`] is the only way to an [`Admitted`], and a table takes no connection without one; giving it back
//! ([`Gate::release`]) is the only way to get rid of it. So what was counted in is counted out.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use bridge::ending::Turned;

use super::peers::Peers;

/// Connections over the bounds that are still let in to be told 503 properly, in the whole node.
const TURNING_MAX: u32 = 256;
/// Marks one of those in an [`Admitted`].
const TURNING: u32 = 1 << 31;

/// Proof that a connection was counted. Four bytes, kept in its record.
#[derive(Debug)]
#[must_use = "what is not released stays counted"]
pub struct Admitted(u32);

impl Admitted {
    /// Whether it was let in only to be turned away.
    #[must_use]
    pub const fn is_turning(&self) -> bool {
        self.0 & TURNING != 0
    }

    /// The peer's slot.
    #[must_use]
    pub const fn peer(&self) -> u32 {
        self.0 & !TURNING
    }
}

/// Bounds of the whole node.
#[derive(Clone, Copy, Debug)]
pub struct GateSizes {
    /// Most connections.
    pub connections: u32,
    /// Most handshakes in flight.
    pub handshakes: u32,
}

/// The gate.
pub struct Gate {
    sizes: GateSizes,
    connections: AtomicU32,
    handshakes: AtomicU32,
    turning: AtomicU32,
    peers: Peers,
}

/// Counts one in unless that breaks the bound.
fn enter(counter: &AtomicU32, most: u32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
}

impl Gate {
    /// A gate with nobody behind it.
    #[must_use]
    pub fn new(sizes: GateSizes) -> Self {
        let zero = AtomicU32::new;
        Self { sizes, connections: zero(0), handshakes: zero(0), turning: zero(0), peers: Peers::default() }
    }

    /// Counts a connection, and its handshake, in. Over a bound some are still let in, marked, to be answered 503.
    ///
    /// # Errors
    /// Why not even that: hang up.
    pub fn admit(&self, peer: IpAddr) -> Result<(Admitted, Option<Turned>), Turned> {
        let turned = if !enter(&self.handshakes, self.sizes.handshakes) {
            Turned::Handshakes
        } else if !enter(&self.connections, self.sizes.connections) {
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
            Turned::TableFull
        } else {
            return Ok((Admitted(self.peers.enter(peer)), None));
        };
        if enter(&self.turning, TURNING_MAX) {
            Ok((Admitted(self.peers.enter(peer) | TURNING), Some(turned)))
        } else {
            Err(turned)
        }
    }

    /// Counts a connection at the peer that a proxy has named, and at the proxy no more.
    pub fn rebind(&self, admitted: &mut Admitted, peer: IpAddr) {
        // In this order: the table of peers is as large as the gate's bounds, and has room for nobody twice.
        self.peers.leave(admitted.peer());
        admitted.0 = self.peers.enter(peer) | (admitted.0 & TURNING);
    }

    /// Its handshake is over, one way or the other. Called once per connection.
    pub fn handshake_done(&self, admitted: &Admitted) {
        if !admitted.is_turning() {
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection out.
    #[allow(clippy::needless_pass_by_value, reason = "taking the proof is the point")]
    pub fn release(&self, admitted: Admitted) {
        let counter = if admitted.is_turning() { &self.turning } else { &self.connections };
        counter.fetch_sub(1, Ordering::Relaxed);
        self.peers.leave(admitted.peer());
    }

    /// Connections that count against the bound.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Handshakes in flight.
    #[must_use]
    pub fn handshakes(&self) -> u32 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Most connections.
    #[must_use]
    pub const fn connections_max(&self) -> u32 {
        self.sizes.connections
    }

    /// The peers behind it.
    #[must_use]
    pub const fn peers(&self) -> &Peers {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_counted_in_is_counted_out() {
        let gate = Gate::new(GateSizes { connections: 1, handshakes: 2 });
        let peer = IpAddr::from([127, 0, 0, 1]);
        let (first, turned) = gate.admit(peer).unwrap();
        assert_eq!(turned, None);
        let (second, turned) = gate.admit(peer).unwrap();
        assert_eq!(turned, Some(Turned::TableFull));
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().live(peer)), (1, 1, 2));
        for admitted in [first, second] {
            gate.handshake_done(&admitted);
            gate.release(admitted);
        }
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().len()), (0, 0, 0));
    }

    #[test]
    fn who_is_named_counts_there_and_at_the_proxy_no_more() {
        let gate = Gate::new(GateSizes { connections: 1, handshakes: 2 });
        let (proxy, peer) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let admitted = [gate.admit(proxy).unwrap().0, gate.admit(proxy).unwrap().0];
        for mut admitted in admitted {
            let turning = admitted.is_turning();
            gate.rebind(&mut admitted, peer);
            assert_eq!(admitted.is_turning(), turning);
            assert_eq!(gate.peers().address(admitted.peer()), peer);
            // Once more, as when a field follows a PROXY header, and by the same name.
            gate.rebind(&mut admitted, peer);
            gate.handshake_done(&admitted);
            gate.release(admitted);
        }
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().len()), (0, 0, 0));
    }

    #[test]
    fn beyond_those_who_are_told_they_are_hung_up_on() {
        let gate = Gate::new(GateSizes { connections: 0, handshakes: 10 });
        let peer = IpAddr::from([127, 0, 0, 1]);
        let told: Vec<_> = (0..TURNING_MAX).map(|_| gate.admit(peer).unwrap().0).collect();
        assert_eq!(gate.admit(peer).unwrap_err(), Turned::TableFull);
        told.into_iter().for_each(|admitted| gate.release(admitted));
        assert_eq!(gate.peers().len(), 0);
    }
}
