//! The node's gate: how many connections and handshakes there may be over all shards, which peers may have them, and
//! whether memory is left for any.
//!
//! [`Gate::admit`] is the only way to an [`Admitted`], and a table takes no connection without one; giving it back
//! ([`Gate::release`]) is the only way to get rid of it. So what was counted in is counted out.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bridge::ending::Turned;
use bridge::limited::{Action, Kind, Limit};

use super::blocks::Blocks;
use super::peers::{Over, PeerSizes, Peers};
use super::rules::{PeerRules, Refuse};

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
    /// Most peers without a connection that are remembered for their rates.
    pub recent_peers: u32,
    /// How many leading bits of an IPv6 address are one peer.
    pub ipv6_prefix: u8,
}

/// How the process stands with its memory. Whoever watches it says so; admissions read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Memory {
    /// There is room, or no limit.
    #[default]
    Free,
    /// It is used up, and that is only counted.
    OverInDryRun,
    /// It is used up: nobody new comes in.
    Over,
}

/// What became of somebody at the gate.
#[derive(Debug)]
pub struct Entrance {
    /// Proof that it was counted, if it is let in at all. Without it: hang up.
    pub admitted: Option<Admitted>,
    /// Why it is turned away, and only let in to be told.
    pub turned: Option<Turned>,
    /// The limit of the node that it met, whether or not anything follows from that.
    pub full: Option<Kind>,
    /// The limit that its peer has exceeded, whether or not anything follows from that.
    pub over: Option<Limit>,
    /// Ticks until trying again makes sense, where that is known.
    pub retry_ticks: u32,
}

/// The gate.
pub struct Gate {
    sizes: GateSizes,
    connections: AtomicU32,
    handshakes: AtomicU32,
    turning: AtomicU32,
    memory: AtomicU8,
    peers: Peers,
    blocks: Blocks,
}

/// Counts one in unless that breaks the bound.
fn enter(counter: &AtomicU32, most: u32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
}

/// A limit of the node that was met.
const fn refused(limit: Limit, dry_run: bool) -> Kind {
    Kind { limit, action: Action::Refuse, dry_run }
}

/// What a peer has too much of, as the rest of the program calls it, and ticks to wait.
const fn limit(over: Option<Over>) -> (Option<Limit>, u32) {
    match over {
        None => (None, 0),
        Some(Over::Connections) => (Some(Limit::PeerConnections), 0),
        Some(Over::Connects(ticks)) => (Some(Limit::PeerConnects), ticks),
    }
}

impl Gate {
    /// A gate with nobody behind it.
    #[must_use]
    pub fn new(sizes: GateSizes) -> Self {
        let zero = AtomicU32::new;
        let live = sizes.connections.saturating_add(TURNING_MAX);
        let peers = Peers::new(PeerSizes { live, recent: sizes.recent_peers }, sizes.ipv6_prefix);
        let (connections, handshakes, turning) = (zero(0), zero(0), zero(0));
        let memory = AtomicU8::new(Memory::Free as u8);
        Self { sizes, connections, handshakes, turning, memory, peers, blocks: Blocks::default() }
    }

    /// Counts a connection, and its handshake, in. Over a bound some are still let in, marked, to be told so.
    /// `is_named`: this is the peer, and not a proxy that will name it.
    pub fn admit(&self, address: IpAddr, is_named: bool, rules: &PeerRules, now: u32) -> Entrance {
        let key = self.peers.key(address);
        let away = |turned, full| Entrance {
            admitted: None,
            turned: Some(turned),
            full,
            over: None,
            retry_ticks: 0,
        };
        if rules.limits_of(key).is_blocked || self.blocks.contain(key, now) {
            return Entrance { over: Some(Limit::Blocked), ..away(Turned::Blocked, None) };
        }
        let (turned, full) = self.count();
        if let Some(turned) = turned
            && !enter(&self.turning, TURNING_MAX)
        {
            return away(turned, full);
        }
        let mark = if turned.is_some() { TURNING } else { 0 };
        let Some((slot, over)) = self.peers.enter(key, rules, now) else {
            self.uncount(turned.is_some());
            return away(Turned::TableFull, Some(refused(Limit::NodeConnections, false)));
        };
        let admitted = Admitted(slot | mark);
        // Whoever is turned away for our reasons is not blamed as well; a proxy is not, for those behind it.
        let (over, retry_ticks) = limit(over.filter(|_| turned.is_none() && is_named));
        let let_in = Entrance { admitted: Some(admitted), turned, full, over, retry_ticks };
        if over.is_some() && !rules.dry_run && rules.refuse == Refuse::Answer {
            return self.turn(let_in, rules, now);
        }
        let_in
    }

    /// Counts a connection and its handshake, unless a limit of the node is met: why it is turned away then, and the
    /// limit, which in a dry run turns nobody away.
    fn count(&self) -> (Option<Turned>, Option<Kind>) {
        let memory = self.memory.load(Ordering::Relaxed);
        if memory == Memory::Over as u8 {
            return (Some(Turned::Memory), Some(refused(Limit::NodeMemory, false)));
        }
        if !enter(&self.handshakes, self.sizes.handshakes) {
            return (Some(Turned::Handshakes), Some(refused(Limit::NodeHandshakes, false)));
        }
        if !enter(&self.connections, self.sizes.connections) {
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
            return (Some(Turned::TableFull), Some(refused(Limit::NodeConnections, false)));
        }
        let counted_only = memory == Memory::OverInDryRun as u8;
        (None, counted_only.then_some(refused(Limit::NodeMemory, true)))
    }

    /// Counts somebody who has exceeded a limit among those who are only let in to be told.
    fn turn(&self, let_in: Entrance, rules: &PeerRules, now: u32) -> Entrance {
        let turned = Some(Turned::PeerLimit);
        let Some(admitted) = let_in.admitted else { return Entrance { turned, ..let_in } };
        self.uncount(false);
        if enter(&self.turning, TURNING_MAX) {
            return Entrance { admitted: Some(Admitted(admitted.0 | TURNING)), turned, ..let_in };
        }
        self.peers.leave(admitted.peer(), rules, now);
        Entrance { admitted: None, turned, ..let_in }
    }

    /// Takes back what [`Gate::admit`] has counted.
    fn uncount(&self, turning: bool) {
        if turning {
            self.turning.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection at the peer that a proxy has named, and at the proxy no more: why that peer may not come in,
    /// and the ticks until trying again makes sense.
    pub fn rebind(
        &self,
        admitted: &mut Admitted,
        address: IpAddr,
        rules: &PeerRules,
        now: u32,
    ) -> (Option<Limit>, u32) {
        let key = self.peers.key(address);
        let proxy = self.peers.key_at(admitted.peer());
        // In this order: the table of peers is as large as the gate's bounds, and has room for nobody twice.
        self.peers.leave(admitted.peer(), rules, now);
        // Without room, which the hash does not let happen, it stays the proxy's.
        let entered = self.peers.enter(key, rules, now);
        let Some((slot, over)) = entered.or_else(|| self.peers.enter(proxy, rules, now)) else {
            debug_assert!(false, "who has just left finds room again");
            return (Some(Limit::Blocked), 0);
        };
        admitted.0 = slot | (admitted.0 & TURNING);
        if rules.limits_of(key).is_blocked || self.blocks.contain(key, now) {
            return (Some(Limit::Blocked), 0);
        }
        limit(over)
    }

    /// Its handshake is over, one way or the other. Called once per connection.
    pub fn handshake_done(&self, admitted: &Admitted) {
        if !admitted.is_turning() {
            self.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection out.
    #[allow(clippy::needless_pass_by_value, reason = "taking the proof is the point")]
    pub fn release(&self, admitted: Admitted, rules: &PeerRules, now: u32) {
        let counter = if admitted.is_turning() { &self.turning } else { &self.connections };
        counter.fetch_sub(1, Ordering::Relaxed);
        self.peers.leave(admitted.peer(), rules, now);
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

    /// Says how the process stands with its memory, from the next admission on.
    pub fn set_memory(&self, memory: Memory) {
        self.memory.store(memory as u8, Ordering::Relaxed);
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

    /// Networks that may not come in for a while.
    #[must_use]
    pub const fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::networks::{Network, Networks};
    use super::super::rules::PeerLimits;
    use super::*;

    fn gate(connections: u32, handshakes: u32) -> Gate {
        Gate::new(GateSizes { connections, handshakes, recent_peers: 100, ipv6_prefix: 64 })
    }

    fn peer() -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }

    /// At most one connection of each peer.
    fn one_each(refuse: Refuse, dry_run: bool) -> PeerRules {
        let limits = PeerLimits { connections: Some(1), ..PeerLimits::default() };
        PeerRules { classes: vec![limits], refuse, dry_run, ..PeerRules::default() }
    }

    #[test]
    fn what_was_counted_in_is_counted_out() {
        let (gate, rules) = (gate(1, 2), PeerRules::default());
        let first = gate.admit(peer(), true, &rules, 0);
        assert_eq!(first.turned, None);
        let second = gate.admit(peer(), true, &rules, 0);
        assert_eq!(second.turned, Some(Turned::TableFull));
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().live(peer())), (1, 1, 2));
        for admitted in [first, second].map(|entrance| entrance.admitted.unwrap()) {
            gate.handshake_done(&admitted);
            gate.release(admitted, &rules, 0);
        }
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().len()), (0, 0, 0));
    }

    #[test]
    fn who_is_named_counts_there_and_at_the_proxy_no_more() {
        let (gate, rules) = (gate(1, 2), one_each(Refuse::Answer, false));
        let (proxy, peer) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let admitted = [0, 1].map(|_| gate.admit(proxy, false, &rules, 0).admitted.unwrap());
        let mut over = Vec::new();
        for (number, mut admitted) in admitted.into_iter().enumerate() {
            let turning = admitted.is_turning();
            assert_eq!(turning, number == 1);
            over.push(gate.rebind(&mut admitted, peer, &rules, 0).0);
            assert_eq!(admitted.is_turning(), turning);
            assert_eq!(gate.peers().address(admitted.peer()), peer);
            // Once more, as when a field follows a PROXY header, and by the same name.
            over.push(gate.rebind(&mut admitted, peer, &rules, 0).0);
            gate.handshake_done(&admitted);
            gate.release(admitted, &rules, 0);
        }
        assert_eq!(over, [None; 4], "one at a time");
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().len()), (0, 0, 0));
    }

    #[test]
    fn limits_hold_for_whom_a_proxy_names_and_not_for_the_proxy() {
        let (gate, rules) = (gate(10, 10), one_each(Refuse::Answer, false));
        let (proxy, peer) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let [mut first, mut second, mut third] = [0; 3].map(|_| {
            let entrance = gate.admit(proxy, false, &rules, 0);
            assert_eq!((entrance.turned, entrance.over), (None, None));
            entrance.admitted.unwrap()
        });
        assert_eq!(gate.rebind(&mut first, peer, &rules, 0).0, None);
        assert_eq!(gate.rebind(&mut second, peer, &rules, 0).0, Some(Limit::PeerConnections));
        gate.blocks().put(Network::new(IpAddr::from([192, 0, 2, 9]), 32).unwrap(), 9, 0).unwrap();
        assert_eq!(gate.rebind(&mut third, IpAddr::from([192, 0, 2, 9]), &rules, 0).0, Some(Limit::Blocked));
    }

    #[test]
    fn beyond_those_who_are_told_they_are_hung_up_on() {
        let (gate, rules) = (gate(0, 10), PeerRules::default());
        let told: Vec<_> =
            (0..TURNING_MAX).map(|_| gate.admit(peer(), true, &rules, 0).admitted.unwrap()).collect();
        let beyond = gate.admit(peer(), true, &rules, 0);
        assert!(beyond.admitted.is_none() && beyond.turned == Some(Turned::TableFull));
        told.into_iter().for_each(|admitted| gate.release(admitted, &rules, 0));
        assert_eq!(gate.peers().len(), 0);
    }

    #[test]
    fn whoever_has_too_many_connections_is_told_and_takes_nobodys_place() {
        let (gate, rules) = (gate(2, 10), one_each(Refuse::Answer, false));
        let first = gate.admit(peer(), true, &rules, 0);
        assert_eq!((first.turned, first.over), (None, None));
        let mut told = Vec::new();
        for _ in 0..TURNING_MAX {
            let second = gate.admit(peer(), true, &rules, 0);
            assert_eq!((second.turned, second.over), (Some(Turned::PeerLimit), Some(Limit::PeerConnections)));
            assert!(second.admitted.as_ref().unwrap().is_turning());
            told.push(second.admitted.unwrap());
        }
        assert!(gate.admit(peer(), true, &rules, 0).admitted.is_none());
        assert_eq!((gate.connections(), gate.handshakes()), (1, 1));
        let other = gate.admit(IpAddr::from([127, 0, 0, 2]), true, &rules, 0);
        assert_eq!((other.turned, gate.connections()), (None, 2));
        told.into_iter().for_each(|admitted| gate.release(admitted, &rules, 0));
        assert_eq!(gate.peers().live(peer()), 1);
    }

    #[test]
    fn a_dry_run_only_says_what_it_would_do() {
        for rules in [one_each(Refuse::Answer, true), one_each(Refuse::Close, false)] {
            let gate = gate(10, 10);
            let _first = gate.admit(peer(), true, &rules, 0);
            let second = gate.admit(peer(), true, &rules, 0);
            assert_eq!((second.turned, second.over), (None, Some(Limit::PeerConnections)));
            assert!(!second.admitted.unwrap().is_turning());
        }
    }

    #[test]
    fn without_memory_left_nobody_new_comes_in_and_who_is_in_stays() {
        let (gate, rules) = (gate(10, 10), PeerRules::default());
        let admit = || gate.admit(peer(), true, &rules, 0);
        let mut all = vec![admit()];
        gate.set_memory(Memory::OverInDryRun);
        all.push(admit());
        let dry = Kind { limit: Limit::NodeMemory, action: Action::Refuse, dry_run: true };
        assert_eq!((all[1].turned, all[1].full, gate.connections()), (None, Some(dry), 2));
        gate.set_memory(Memory::Over);
        all.push(admit());
        assert_eq!(
            (all[2].turned, all[2].full.map(|full| full.dry_run)),
            (Some(Turned::Memory), Some(false))
        );
        assert!(all[2].admitted.as_ref().unwrap().is_turning());
        assert_eq!((gate.connections(), gate.handshakes()), (2, 2));
        gate.set_memory(Memory::Free);
        all.push(admit());
        assert_eq!((all[3].turned, all[3].full, gate.connections()), (None, None, 3));
        for admitted in all.into_iter().map(|entrance| entrance.admitted.unwrap()) {
            gate.handshake_done(&admitted);
            gate.release(admitted, &rules, 0);
        }
        assert_eq!((gate.connections(), gate.handshakes(), gate.peers().len()), (0, 0, 0));
    }

    #[test]
    fn a_blocked_network_does_not_come_in_at_all() {
        let gate = gate(10, 10);
        let network = Network::new(peer(), 8).unwrap();
        gate.blocks().put(network, 5, 0).unwrap();
        let rules = one_each(Refuse::Answer, true);
        let entrance = gate.admit(peer(), true, &rules, 4);
        assert!(entrance.admitted.is_none() && entrance.over == Some(Limit::Blocked));
        assert_eq!((gate.connections(), gate.peers().len()), (0, 0));
        assert!(gate.admit(peer(), true, &rules, 5).admitted.is_some());
        let classes = vec![PeerLimits::default(), PeerLimits { is_blocked: true, ..PeerLimits::default() }];
        let rules = PeerRules { classes, networks: Networks::new(&[(network, 1)]), ..rules };
        assert_eq!(gate.admit(peer(), true, &rules, 5).turned, Some(Turned::Blocked));
    }
}
