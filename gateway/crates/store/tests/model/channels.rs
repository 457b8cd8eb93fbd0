//! Channels beside lists of names and numbers that are searched from end to end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use store::{ChannelIndex, Channels, Joined, Left, NONE, Refused};

use crate::seed::{pick, rng};

/// What ought to be true of one channel.
struct Expected {
    index: ChannelIndex,
    /// Newest first.
    members: Vec<u32>,
    /// Whom the walk has still to meet.
    walk: VecDeque<u32>,
}

struct Pair {
    channels: Channels,
    capacity: usize,
    capacity_subscriptions: usize,
    expected: BTreeMap<Arc<str>, Expected>,
    gone: Vec<ChannelIndex>,
    /// By connection: the head of its list, and the names it ought to lead to.
    conns: Vec<(u32, Vec<Arc<str>>)>,
}

impl Pair {
    fn new(conns: usize, capacity: usize, capacity_subscriptions: usize) -> Self {
        Pair {
            channels: Channels::new(capacity as u32, capacity_subscriptions as u32),
            capacity,
            capacity_subscriptions,
            expected: BTreeMap::new(),
            gone: Vec::new(),
            conns: vec![(NONE, Vec::new()); conns],
        }
    }

    fn subscriptions(&self) -> usize {
        self.conns.iter().map(|(_, names)| names.len()).sum()
    }

    fn subscribe(&mut self, conn: u32, name: &Arc<str>, most: usize) {
        let subscriptions = self.subscriptions();
        let (first, names) = &mut self.conns[conn as usize];
        let outcome = self.channels.subscribe(name, conn, first, most as u32);
        if names.contains(name) {
            assert_eq!(outcome, Ok(Joined::Already));
            return;
        }
        if names.len() >= most {
            assert_eq!(outcome, Err(Refused::TooMany));
            return;
        }
        if subscriptions == self.capacity_subscriptions {
            assert_eq!(outcome, Err(Refused::SubscriptionsFull));
            return;
        }
        if let Some(channel) = self.expected.get_mut(name) {
            assert_eq!(outcome, Ok(Joined::Another(channel.index)));
            channel.members.insert(0, conn);
        } else if self.expected.len() == self.capacity {
            assert_eq!(outcome, Err(Refused::ChannelsFull));
            return;
        } else {
            let Ok(Joined::First(index)) = outcome else { panic!("not the first: {outcome:?}") };
            assert!(self.gone.iter().all(|gone| gone.tag() != index.tag()));
            let channel = Expected { index, members: vec![conn], walk: VecDeque::new() };
            self.expected.insert(Arc::clone(name), channel);
        }
        names.insert(0, Arc::clone(name));
    }

    fn unsubscribe(&mut self, conn: u32, name: &Arc<str>) {
        let (first, names) = &mut self.conns[conn as usize];
        let left = self.channels.unsubscribe(name, conn, first);
        match names.iter().position(|joined| joined == name) {
            Some(position) => {
                names.remove(position);
                self.expect_left(conn, name, &left);
            }
            None => assert_eq!(left, Left::NotSubscribed),
        }
    }

    fn leave_one(&mut self, conn: u32) -> bool {
        let (first, names) = &mut self.conns[conn as usize];
        let left = self.channels.leave_one(conn, first);
        assert_eq!(left.is_some(), !names.is_empty());
        if let Some(left) = &left {
            let name = names.remove(0);
            self.expect_left(conn, &name, left);
        }
        left.is_some()
    }

    fn expect_left(&mut self, conn: u32, name: &Arc<str>, left: &Left) {
        let channel = self.expected.get_mut(name).unwrap();
        channel.members.retain(|member| *member != conn);
        channel.walk.retain(|waiting| *waiting != conn);
        if channel.members.is_empty() {
            assert_eq!(*left, Left::Last(Arc::clone(name)));
            self.gone.push(self.expected.remove(name).unwrap().index);
        } else {
            assert_eq!(*left, Left::Still);
        }
    }

    /// Walks a few steps, after a start if no walk is on.
    fn walk(&mut self, name: &Arc<str>, steps: usize) {
        let Some(channel) = self.expected.get_mut(name) else { return };
        if channel.walk.is_empty() {
            assert_eq!(self.channels.walk(channel.index), None);
            assert_eq!(self.channels.start_walk(channel.index) as usize, channel.members.len());
            channel.walk = channel.members.clone().into();
        }
        for _ in 0..steps {
            assert_eq!(self.channels.walk(channel.index), channel.walk.pop_front());
        }
    }

    fn check(&self) {
        assert_eq!(self.channels.len() as usize, self.expected.len());
        assert_eq!(self.channels.subscriptions() as usize, self.subscriptions());
        for (name, channel) in &self.expected {
            assert_eq!(self.channels.find(name), Some(channel.index));
            assert_eq!(self.channels.name(channel.index), Some(name));
            assert_eq!(self.channels.subscribers(channel.index) as usize, channel.members.len());
            assert!(self.channels.members(channel.index).eq(channel.members.iter().copied()));
            assert_eq!(self.channels.walking(channel.index), !channel.walk.is_empty());
        }
        for (first, names) in &self.conns {
            let indices = names.iter().map(|name| self.expected[name].index);
            assert!(self.channels.of(*first).eq(indices));
        }
        // A walk in slices of three sees every channel once.
        let slices = (0..self.channels.end().div_ceil(3)).map(|slice| slice * 3..slice * 3 + 3);
        let walked = slices.flat_map(|slots| self.channels.slots(slots));
        let mut walked: Vec<_> =
            walked.map(|(_, name, subscribers)| (&**name, subscribers as usize)).collect();
        walked.sort_unstable();
        let mut sizes: Vec<_> =
            self.expected.iter().map(|(name, channel)| (&**name, channel.members.len())).collect();
        sizes.sort_unstable();
        assert_eq!(walked, sizes);
        let mut names: Vec<_> = self.channels.names().collect();
        names.sort();
        assert!(names.into_iter().eq(self.expected.keys()));
    }

    fn check_gone(&mut self, name: &Arc<str>) {
        for gone in &self.gone {
            assert_eq!((self.channels.subscribers(*gone), self.channels.name(*gone)), (0, None));
            assert!(!self.channels.walking(*gone) && self.channels.members(*gone).next().is_none());
            assert_eq!((self.channels.start_walk(*gone), self.channels.walk(*gone)), (0, None));
        }
        for (first, names) in &self.conns {
            assert_eq!(self.channels.is_subscribed(name, *first), names.contains(name));
        }
        if !self.expected.contains_key(name) {
            assert_eq!(self.channels.find(name), None);
        }
    }
}

fn one_step(pair: &mut Pair, rng: &mut Rng, names: &[Arc<str>]) {
    let conn = rng.u32(..pair.conns.len() as u32);
    let name = pick(rng, names);
    match rng.u8(..16) {
        0..=6 => pair.subscribe(conn, name, rng.usize(..8)),
        7..=9 => pair.unsubscribe(conn, name),
        10 => assert!(pair.leave_one(conn) || pair.conns[conn as usize].1.is_empty()),
        11 => while pair.leave_one(conn) {},
        _ => pair.walk(name, rng.usize(..5)),
    }
    pair.check();
    pair.check_gone(name);
}

#[test]
fn channels_agree_with_lists_of_names() {
    let mut rng = rng();
    for _ in 0..40 {
        let names: Vec<Arc<str>> = (0..rng.usize(1..12)).map(|name| format!("room.{name}").into()).collect();
        let mut pair = Pair::new(rng.usize(1..16), rng.usize(..12), rng.usize(..60));
        for _ in 0..500 {
            one_step(&mut pair, &mut rng, &names);
        }
        for conn in 0..pair.conns.len() {
            while pair.leave_one(conn as u32) {}
        }
        pair.check();
        assert!(pair.channels.is_empty() && pair.channels.subscriptions() == 0);
    }
}

#[test]
fn many_names_are_all_found_and_all_forgotten() {
    let mut channels = Channels::new(5000, 5000);
    let mut firsts = vec![NONE; 5000];
    for (conn, first) in firsts.iter_mut().enumerate() {
        let joined = channels.subscribe(&format!("user.{conn}").into(), conn as u32, first, 1);
        assert!(matches!(joined, Ok(Joined::First(_))));
    }
    for (conn, first) in firsts.iter_mut().enumerate() {
        let name = format!("user.{conn}");
        assert!(channels.find(&name).is_some_and(|found| channels.members(found).eq([conn as u32])));
        assert_eq!(channels.unsubscribe(&name, conn as u32, first), Left::Last(name.as_str().into()));
        assert_eq!((channels.find(&name), *first), (None, NONE));
    }
}

#[test]
fn who_leaves_under_the_cursor_or_joins_behind_it_disturbs_no_walk() {
    let mut channels = Channels::new(1, 5);
    let room: Arc<str> = "room".into();
    let mut firsts = [NONE; 5];
    for conn in 0..4 {
        assert!(channels.subscribe(&room, conn, &mut firsts[conn as usize], 1).is_ok());
    }
    let index = channels.find(&room).unwrap();
    assert_eq!(channels.start_walk(index), 4);
    assert_eq!(channels.walk(index), Some(3));
    assert_eq!(channels.unsubscribe(&room, 2, &mut firsts[2]), Left::Still);
    assert!(channels.subscribe(&room, 4, &mut firsts[4], 1).is_ok());
    assert_eq!(channels.walk(index), Some(1));
    assert_eq!(channels.unsubscribe(&room, 0, &mut firsts[0]), Left::Still);
    assert!(!channels.walking(index));
    assert_eq!(channels.walk(index), None);
}

#[test]
fn a_walk_of_a_channel_that_is_gone_never_meets_its_successor() {
    let mut channels = Channels::new(1, 1);
    let mut first = NONE;
    assert!(channels.subscribe(&"old".into(), 0, &mut first, 1).is_ok());
    let old = channels.find("old").unwrap();
    assert_eq!(channels.start_walk(old), 1);
    assert_eq!(channels.unsubscribe("old", 0, &mut first), Left::Last("old".into()));
    assert!(channels.subscribe(&"new".into(), 0, &mut first, 1).is_ok());
    let new = channels.find("new").unwrap();
    assert_eq!(channels.start_walk(new), 1);
    assert_eq!((channels.walk(old), channels.walking(old), channels.subscribers(old)), (None, false, 0));
    assert_eq!(channels.walk(new), Some(0));
    assert_ne!(old.tag(), new.tag());
}
