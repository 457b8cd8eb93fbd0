//! What must hold between two turns, written down once so that the simulation can check it after every step.
//!
//! Owns the comparison of each table, list and gauge with what the records say. Refuses to repair anything and to be
//! called by the program: it walks the whole table. Called by tests and fuzz targets, after [`Shard::turn`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use bridge::{Channel, Pause};
use store::{Flags, Key, NONE, Phase};

use crate::cold::{Partial, Rare};
use crate::net::Net;
use crate::turn::Shard;

/// What one shard adds to the tables that it shares with others.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Records that count against the gate's bound of connections.
    pub connections: u32,
    /// Of these, those that count against its bound of handshakes.
    pub handshakes: u32,
    /// Records that were let in only to be told that there is no room.
    pub turning: u32,
    /// Records by the address of their peer.
    pub peers: BTreeMap<IpAddr, u32>,
    /// Peers of connections that are open and were not told to go.
    pub open: BTreeSet<IpAddr>,
    /// Bytes of the node that it has claimed for backlogs.
    pub backlog_claimed: u64,
    /// Names of the channels that have a subscriber here.
    pub channels: Vec<String>,
}

type Audit = Result<(), String>;

/// Says what is wrong unless it holds.
fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Audit {
    if holds { Ok(()) } else { Err(wrong()) }
}

#[allow(clippy::needless_pass_by_value, reason = "both sides are made for the comparison")]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, kept: T, counted: T) -> Audit {
    ensure(kept == counted, || format!("{what}: kept {kept:?}, counted {counted:?}"))
}

impl<N: Net> Shard<N> {
    /// Compares everything the shard keeps twice. Costs a walk over the table and over every list.
    ///
    /// # Errors
    /// The first thing that does not hold, in words for whoever reads a failed test.
    #[doc(hidden)]
    pub fn audit(&self) -> Audit {
        self.audit_records()?;
        self.audit_timers()?;
        self.audit_cold()?;
        self.audit_backlog()?;
        self.audit_reading()?;
        self.audit_publishers()?;
        self.audit_lanes()?;
        self.audit_channels()
    }

    /// What this shard adds to the gate and to the switchboard.
    #[doc(hidden)]
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (_, conn) in self.conns.iter() {
            let turning = conn.admission.is_turning();
            let counted = if turning { &mut census.turning } else { &mut census.connections };
            *counted += 1;
            census.handshakes += u32::from(!turning && conn.phase == Phase::Handshake);
            let peer = self.gate.peers().address(conn.admission.peer());
            *census.peers.entry(peer).or_default() += 1;
            if matches!(conn.phase, Phase::Open | Phase::PongWait) {
                census.open.insert(peer);
            }
        }
        census.backlog_claimed = self.backlog.bytes_capacity();
        census.channels = self.channels.names().map(|name| name.to_string()).collect();
        census
    }

    /// Whether nothing at all is left of anybody.
    ///
    /// # Errors
    /// What is.
    #[doc(hidden)]
    pub fn audit_empty(&self) -> Audit {
        same("records", self.conns.len(), 0)?;
        same("cold entries", self.cold.len(), 0)?;
        same("profiles", self.profiles.len(), 0)?;
        same("armed timers", self.wheel.len(), 0)?;
        same("backlog", (self.backlog.entries(), self.backlog.bytes_held()), (0, 0))?;
        same("channels", (self.channels.len(), self.channels.subscriptions()), (0, 0))?;
        same("partial bytes", self.partial_bytes, 0)?;
        same("handshakes and paused", (self.handshakes, self.paused), (0, 0))?;
        same("waiting publishes", self.unplaced.waiting().count(), 0)
    }

    fn records(&self, of: impl Fn(&store::Conn<N::Socket, crate::limit::Admitted>) -> bool) -> u32 {
        self.conns.iter().filter(|(_, conn)| of(conn)).count() as u32
    }

    fn audit_records(&self) -> Audit {
        let opened = self.stats.opened.value();
        let ended: u64 = self.stats.ended.iter().map(bridge::stats::Counter::value).sum();
        let open = self.records(|conn| conn.flags.contains(Flags::OPENED) && conn.phase != Phase::Ended);
        same("opened minus ended", opened - ended, u64::from(open))?;
        same("handshakes", self.handshakes, self.records(|conn| conn.phase == Phase::Handshake))?;
        same("paused", self.paused, self.records(|conn| !conn.pauses.is_empty()))?;
        for why in Pause::ALL {
            let counted = self.records(|conn| conn.pauses.contains(why as u8));
            same(why.label(), self.paused_by[why as usize], counted)?;
        }
        let ended: Vec<Key> =
            self.conns.iter().filter(|(_, conn)| conn.phase == Phase::Ended).map(|(key, _)| key).collect();
        let untold: usize = self.lanes.iter().map(|lane| lane.closed.len()).sum();
        same("endings to report", self.unreported.len() + untold, ended.len())?;
        for (key, conn) in self.conns.iter() {
            let live = conn.phase != Phase::Ended;
            ensure(live == conn.socket.is_some(), || format!("{key:?} {:?}: socket", conn.phase))?;
            ensure(live || conn.cold == NONE, || format!("{key:?} has ended and has a cold entry"))?;
            ensure(live || conn.identity == NONE, || format!("{key:?} has ended and publishes"))?;
            let listens = matches!(conn.phase, Phase::Open | Phase::PongWait);
            ensure(listens || conn.first_subscription == NONE, || {
                format!("{key:?} {:?}: is still in a channel", conn.phase)
            })?;
        }
        Ok(())
    }

    /// Everybody has one timer, due within what its phase allows; who has ended has none.
    fn audit_timers(&self) -> Audit {
        let rules = &self.rules;
        let mut armed = 0;
        for (key, conn) in self.conns.iter() {
            let longest = match conn.phase {
                Phase::Handshake => rules.handshake_ticks,
                Phase::Open | Phase::PongWait => {
                    let life = self.life(key);
                    let oldest = self.oldest(key, &life).saturating_sub(self.now);
                    let expiry = self.expiry_left(key).unwrap_or(u32::MAX);
                    life.ping_ticks.max(life.pong_ticks).min(oldest).min(expiry)
                }
                Phase::Closing => rules.close_ticks,
                Phase::Lingering => rules.linger_ticks,
                Phase::Ended => {
                    let deadline = self.wheel.deadline(&self.conns, key.index());
                    ensure(deadline.is_none(), || format!("{key:?} has ended and has a timer"))?;
                    continue;
                }
            };
            armed += 1;
            let Some(deadline) = self.wheel.deadline(&self.conns, key.index()) else {
                return Err(format!("{key:?} {:?}: no timer", conn.phase));
            };
            let late = deadline <= self.now && !self.timers_left;
            ensure(!late && deadline <= self.now + longest.max(1), || {
                format!("{key:?} {:?}: due at {deadline}, it is {}", conn.phase, self.now)
            })?;
        }
        same("armed timers", self.wheel.len(), armed)
    }

    /// A cold entry belongs to one record and holds something, and nothing that its phase has no use for.
    fn audit_cold(&self) -> Audit {
        let mut entries = 0;
        let mut partial_bytes = 0;
        for (key, conn) in self.conns.iter().filter(|(_, conn)| conn.cold != NONE) {
            let Some(rare) = self.cold.get(conn.cold) else {
                return Err(format!("{key:?}: its cold entry is gone"));
            };
            entries += 1;
            partial_bytes += rare.partial.held_bytes();
            ensure(!rare.is_empty(), || format!("{key:?} {:?}: an empty cold entry", conn.phase))?;
            let fits = match &rare.partial {
                Partial::None => true,
                Partial::Head(..) => conn.phase == Phase::Handshake,
                Partial::Asked(_) => {
                    conn.phase == Phase::Handshake && conn.pauses.contains(Pause::Authorize as u8)
                }
                Partial::Frames(_) | Partial::Unparsed(_) => is_parsed(conn.phase, rare),
            };
            ensure(fits, || format!("{key:?} {:?}: holds what nobody will read", conn.phase))?;
            let leaves = matches!(conn.phase, Phase::Closing | Phase::Lingering);
            ensure(leaves || rare.goodbye.is_none(), || {
                format!("{key:?} {:?}: an early goodbye", conn.phase)
            })?;
            ensure(conn.phase != Phase::Closing || rare.goodbye.is_some(), || {
                format!("{key:?} closes without a goodbye")
            })?;
        }
        same("cold entries", self.cold.len(), entries)?;
        same("partial bytes", self.partial_bytes, partial_bytes)
    }

    fn audit_backlog(&self) -> Audit {
        let mut entries = 0;
        let mut frames = Vec::new();
        for (key, conn) in self.conns.iter() {
            ensure(!conn.flags.contains(Flags::DIRTY), || format!("{key:?} was not flushed"))?;
            let Some(rare) = self.cold.get(conn.cold) else { continue };
            let queue = &rare.queue;
            // Without a write that met its end no event will come, and what waits would wait for ever.
            ensure(queue.is_empty() || conn.flags.contains(Flags::UNWRITABLE), || {
                format!("{key:?} {:?}: frames wait for a socket with room", conn.phase)
            })?;
            let (mut count, mut bytes) = (0, 0);
            for frame in self.backlog.frames_of(queue) {
                count += 1;
                bytes += self.backlog.bytes(frame).len();
                if !frames.contains(&frame) {
                    frames.push(frame);
                }
            }
            same("entries of a queue", queue.entries(), count)?;
            same("bytes of a queue", (queue.bytes() + queue.written()) as usize, bytes)?;
            entries += count;
        }
        ensure(self.dirty.is_empty(), || "somebody is still to be flushed".into())?;
        let bytes: usize = frames.iter().map(|frame| self.backlog.bytes(*frame).len()).sum();
        same("backlog entries", self.backlog.entries(), entries)?;
        ensure(self.backlog.bytes_held() <= self.backlog.bytes_capacity(), || {
            "more bytes than claimed".into()
        })?;
        same("backlog bytes", self.backlog.bytes_held(), bytes as u64 + 8 * u64::from(entries))?;
        for frame in self.fanout.held() {
            if !frames.contains(&frame) {
                frames.push(frame);
            }
        }
        same("frames", self.backlog.frames() as usize, frames.len())
    }

    /// Whoever is not read to the end is on the list of those who go on, or waits for something that will resume it.
    fn audit_reading(&self) -> Audit {
        let starved: HashSet<Key> = self.unplaced.starved().collect();
        let mut carried: HashMap<Key, u32> = HashMap::new();
        for key in &self.carry {
            *carried.entry(*key).or_default() += 1;
        }
        let mut paced: HashMap<Key, u32> = HashMap::new();
        for key in self.paced.keys() {
            *paced.entry(key).or_default() += 1;
        }
        ensure(paced.values().all(|times| *times == 1), || "paused for a rate twice".into())?;
        for (key, conn) in self.conns.iter() {
            let times = carried.get(&key).copied().unwrap_or(0);
            let flagged = conn.flags.contains(Flags::CARRIED);
            same("times on the carry-over list", times, u32::from(flagged))?;
            if conn.phase == Phase::Ended {
                continue;
            }
            let rare = self.cold.get(conn.cold);
            let (waits, unplaced, is_starved) = rare.map_or((false, false, false), |rare| {
                (!rare.queue.is_empty(), rare.unplaced > 0, rare.starved)
            });
            same("starved", is_starved, starved.contains(&key))?;
            let is_paced = paced.get(&key).copied().unwrap_or(0) > 0;
            for (why, will_resume) in [
                (Pause::Reply, waits),
                (Pause::Mailbox, unplaced),
                (Pause::Publishers, is_starved),
                (Pause::Limit, is_paced),
                (Pause::Window, rare.is_some_and(|rare| rare.told.unsettled > 0)),
                (Pause::Upstream, rare.is_some_and(|rare| rare.told.waits)),
                (Pause::Authorize, self.is_asked(key)),
            ] {
                ensure(!conn.pauses.contains(why as u8) || will_resume, || {
                    format!("{key:?} {:?}: paused ({}), and nothing will resume it", conn.phase, why.label())
                })?;
            }
            let paused = !conn.pauses.is_empty();
            let is_put_off = is_starved || unplaced;
            ensure(paused || !is_put_off || matches!(conn.phase, Phase::Closing | Phase::Lingering), || {
                format!("{key:?} {:?}: read though its publishes wait", conn.phase)
            })?;
            ensure(paused || flagged || !conn.flags.contains(Flags::UNREAD), || {
                format!("{key:?} {:?}: stopped reading early, and nobody goes on", conn.phase)
            })?;
        }
        Ok(())
    }

    fn audit_publishers(&self) -> Audit {
        same("profiles", self.profiles.len(), self.records(|conn| conn.identity != NONE))?;
        let mut waiting: HashMap<Key, u32> = HashMap::new();
        let mut bytes = 0;
        for (key, payload) in self.unplaced.waiting() {
            *waiting.entry(key).or_default() += 1;
            bytes += payload;
        }
        same("bytes of waiting publishes", self.unplaced.bytes(), bytes)?;
        for (key, conn) in self.conns.iter().filter(|(_, conn)| conn.phase != Phase::Ended) {
            let kept = self.cold.get(conn.cold).map_or(0, |rare| rare.unplaced);
            same("waiting publishes of one", kept, waiting.get(&key).copied().unwrap_or(0))?;
        }
        let starved: Vec<Key> = self.unplaced.starved().collect();
        let distinct: HashSet<Key> = starved.iter().copied().collect();
        same("starved connections", starved.len(), distinct.len())
    }

    /// Whoever waits for an upstream stands in one line, once; whoever was called has a place.
    fn audit_lanes(&self) -> Audit {
        let mut lines: HashMap<Key, u32> = HashMap::new();
        let (mut called, mut events) = (0, 0);
        for lane in self.lanes.iter() {
            for (key, _) in &lane.waiting {
                *lines.entry(*key).or_default() += 1;
            }
            called += lane.called;
            events += u64::from(lane.events);
        }
        same("events that are not settled", self.lanes.unsettled(), events)?;
        let mut counted = 0;
        for (key, conn) in self.conns.iter() {
            let Some(rare) = self.cold.get(conn.cold) else { continue };
            same("times in line", lines.get(&key).copied().unwrap_or(0), u32::from(rare.told.waits))?;
            counted += u32::from(rare.told.called);
            let holds = matches!(rare.partial, Partial::Unparsed(_));
            ensure(!holds || conn.flags.contains(Flags::UNREAD), || {
                format!("{key:?}: what was put aside is not noted")
            })?;
        }
        same("called", called, counted)
    }

    /// Channels list their members, members their channels, and the switchboard knows.
    fn audit_channels(&self) -> Audit {
        let mut from_channels = Vec::new();
        for name in self.channels.names() {
            let Some(channel) = self.channels.find(name) else {
                return Err(format!("{name} is not found by its name"));
            };
            let before = from_channels.len();
            from_channels.extend(self.channels.members(channel).map(|conn| (conn, name.to_string())));
            let members = from_channels.len() - before;
            same("subscribers", self.channels.subscribers(channel) as usize, members)?;
            ensure(members > 0, || format!("{name} has no subscriber"))?;
            let known = self.switchboard.shards(&Channel::from_checked(name.clone()));
            ensure(known.iter().any(|shard| shard == self.shard), || {
                format!("the switchboard does not know of {name}")
            })?;
        }
        let mut from_records = Vec::new();
        for (key, conn) in self.conns.iter() {
            for channel in self.channels.of(conn.first_subscription) {
                let name = self.channels.name(channel).map(ToString::to_string);
                from_records.push((key.index(), name.unwrap_or_default()));
            }
        }
        from_channels.sort();
        from_records.sort();
        same("subscriptions by channel and by record", from_channels, from_records)?;
        self.audit_users()
    }

    /// Whoever has a user is in the user's channel while it is open, and nobody else is in any such channel.
    fn audit_users(&self) -> Audit {
        for (key, conn) in self.conns.iter() {
            let of_users = |name: &&Arc<str>| Channel::from_checked(Arc::clone(name)).is_reserved();
            let names = self.channels.of(conn.first_subscription);
            let joined: Vec<_> =
                names.filter_map(|channel| self.channels.name(channel)).filter(of_users).cloned().collect();
            let user = self.principal(key).and_then(|principal| principal.user.as_ref());
            let open = matches!(conn.phase, Phase::Open | Phase::PongWait);
            let own = user.filter(|_| open).map(|user| Arc::clone(user.channel().shared()));
            same("channels of users", joined, own.into_iter().collect())?;
        }
        Ok(())
    }
}

/// Whether bytes of this connection still mean something to us.
fn is_parsed(phase: Phase, rare: &Rare) -> bool {
    match phase {
        Phase::Open | Phase::PongWait => true,
        Phase::Closing => rare.goodbye.is_some_and(|goodbye| goodbye.then.awaits()),
        Phase::Handshake | Phase::Lingering | Phase::Ended => false,
    }
}
