//! The table beside a map from keys to what was put in, which remembers every key that ever was.

use std::collections::BTreeMap;
use std::rc::Rc;

use fastrand::Rng;
use store::{Conns, Flags, Key, NONE, Pauses, Phase, Tally};

use crate::seed::{pick, rng};

/// What ought to be found under a key.
struct Expected {
    socket: Rc<u32>,
    admission: u32,
    opened: u32,
    sequence: u32,
    tally: Tally,
}

struct Pair {
    conns: Conns<Rc<u32>, u32>,
    /// By slot: keys of the living with their records.
    living: BTreeMap<u32, (Key, Expected)>,
    gone: Vec<Key>,
}

impl Pair {
    fn new(capacity: u32) -> Self {
        Pair { conns: Conns::new(capacity), living: BTreeMap::new(), gone: Vec::new() }
    }

    fn insert(&mut self, number: u32) {
        let socket = Rc::new(number);
        let was_full = self.living.len() as u32 == self.conns.capacity();
        match self.conns.insert(Rc::clone(&socket), number, number / 2) {
            Err((returned, admission)) => {
                assert!(was_full, "refused with room left");
                assert!(Rc::ptr_eq(&returned, &socket) && admission == number);
            }
            Ok(key) => {
                assert!(!was_full && key.index() < self.conns.capacity());
                assert!(self.gone.iter().all(|gone| gone.generation() != key.generation()));
                let expected = Expected {
                    socket,
                    admission: number,
                    opened: number / 2,
                    sequence: 0,
                    tally: Tally::default(),
                };
                assert!(self.living.insert(key.index(), (key, expected)).is_none(), "slot given twice");
            }
        }
    }

    fn remove(&mut self, key: Key) {
        let removed = self.conns.remove(key);
        let expected = self.living.get(&key.index()).is_some_and(|(living, _)| *living == key);
        assert_eq!(removed.is_some(), expected);
        if let Some(conn) = removed {
            let (_, expected) = self.living.remove(&key.index()).unwrap();
            assert_eq!((conn.socket.unwrap(), conn.admission), (expected.socket, expected.admission));
            self.gone.push(key);
        }
    }

    fn count(&mut self, key: Key, bytes: u64) {
        let tally = self.conns.tally_mut(key);
        match self.living.get_mut(&key.index()).filter(|(living, _)| *living == key) {
            Some((_, expected)) => {
                let tally = tally.unwrap();
                tally.bytes_in += bytes;
                tally.messages_out += 1;
                expected.tally.bytes_in += bytes;
                expected.tally.messages_out += 1;
            }
            None => assert!(tally.is_none()),
        }
    }

    fn change(&mut self, key: Key, sequence: u32) {
        let conn = self.conns.get_mut(key);
        match self.living.get_mut(&key.index()).filter(|(living, _)| *living == key) {
            Some((_, expected)) => {
                conn.unwrap().sequence = sequence;
                expected.sequence = sequence;
            }
            None => assert!(conn.is_none()),
        }
    }

    fn any_key(&self, rng: &mut Rng) -> Option<Key> {
        let gone = self.gone.iter().copied();
        let all: Vec<Key> = self.living.values().map(|(key, _)| *key).chain(gone).collect();
        (!all.is_empty()).then(|| *pick(rng, &all))
    }

    fn check(&self) {
        assert_eq!(self.conns.len() as usize, self.living.len());
        assert_eq!(self.conns.is_full(), self.living.len() as u32 == self.conns.capacity());
        assert!(self.conns.iter().map(|(key, _)| key).eq(self.living.values().map(|(key, _)| *key)));
        for (index, (key, expected)) in &self.living {
            let conn = self.conns.get(*key).unwrap();
            assert_eq!(conn.socket.as_ref(), Some(&expected.socket));
            assert_eq!((conn.admission, conn.opened), (expected.admission, expected.opened));
            assert_eq!(conn.sequence, expected.sequence);
            assert_eq!(self.conns.tally(*key), expected.tally);
            assert_eq!(self.conns.key_at(*index), Some(*key));
            assert_eq!(Rc::strong_count(&expected.socket), 2, "the table keeps each socket once");
        }
        for gone in &self.gone {
            assert!(self.conns.get(*gone).is_none());
            assert_eq!(self.conns.tally(*gone), Tally::default());
        }
    }

    fn check_pages(&self, limit: usize) {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|key: &Key| key.index());
            let page: Vec<Key> = self.conns.page(after, limit).collect();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert!(listed.iter().eq(self.living.values().map(|(key, _)| key)));
        let middle = self.conns.end() / 2;
        let halves = self.conns.keys_in(0..middle).chain(self.conns.keys_in(middle..u32::MAX));
        assert!(halves.eq(listed.iter().copied()));
    }
}

#[test]
fn the_table_agrees_with_a_map_of_keys() {
    let mut rng = rng();
    for _ in 0..30 {
        let mut pair = Pair::new(rng.u32(..400));
        let growing = rng.u8(1..5);
        for step in 0..400 {
            let key = pair.any_key(&mut rng);
            match (rng.u8(..8), key) {
                (choice, Some(key)) if choice >= 6 => pair.count(key, rng.u64(1..100)),
                (5, Some(key)) => pair.change(key, step),
                (choice, Some(key)) if choice >= growing => pair.remove(key),
                _ => pair.insert(step),
            }
            pair.check();
        }
        pair.check_pages(rng.usize(1..50));
    }
}

#[test]
fn a_new_record_is_clean_whoever_had_its_slot() {
    let mut conns = Conns::new(1);
    let old = conns.insert("old", 1, 10).unwrap();
    let conn = conns.get_mut(old).unwrap();
    conn.phase = Phase::Closing;
    conn.flags.insert(Flags::DIRTY);
    conn.identity = 7;
    conn.limiter = 3;
    conns.tally_mut(old).unwrap().bytes_out = 9;
    assert!(conns.remove(old).is_some());

    let new = conns.insert("new", 2, 20).unwrap();
    assert_eq!(new.index(), old.index());
    let conn = conns.get(new).unwrap();
    assert_eq!((conn.phase, conn.flags, conn.identity), (Phase::Handshake, Flags::EMPTY, NONE));
    assert_eq!((conn.cold, conn.first_subscription, conn.limiter), (NONE, NONE, 0));
    assert_eq!((conn.opened, conn.last_received), (20, 20));
    assert_eq!(conns.tally(new), Tally::default());
}

#[test]
fn a_stale_key_reaches_nobody() {
    let mut conns = Conns::new(1);
    let old = conns.insert("old", 1, 0).unwrap();
    assert!(conns.remove(old).is_some());
    let new = conns.insert("new", 2, 0).unwrap();
    assert_eq!(old.index(), new.index());
    assert!(conns.get(old).is_none() && conns.get_mut(old).is_none());
    assert!(conns.tally_mut(old).is_none() && conns.remove(old).is_none());
    assert_eq!(conns.get(new).unwrap().socket, Some("new"));
}

#[test]
fn a_key_survives_as_a_word_and_a_word_without_generation_is_none() {
    let mut conns = Conns::new(2);
    assert!(conns.insert((), (), 0).is_ok());
    let key = conns.insert((), (), 0).unwrap();
    assert_eq!(key.to_bits(), u64::from(key.generation()) << 32 | 1);
    assert_eq!(Key::from_bits(key.to_bits()), Some(key));
    assert_eq!(Key::from_bits(u64::from(u32::MAX)), None);
}

#[test]
fn a_table_without_room_gives_everything_back() {
    let mut conns = Conns::new(0);
    assert_eq!(conns.insert("socket", "admission", 0), Err(("socket", "admission")));
    assert_eq!(conns.page(None, 10).count(), 0);
}

#[test]
fn flags_are_noted_and_forgotten_one_by_one() {
    let mut flags = Flags::default();
    flags.insert(Flags::CARRIED | Flags::HUNG_UP);
    assert!(flags.contains(Flags::CARRIED) && flags.contains(Flags::CARRIED | Flags::HUNG_UP));
    assert!(!flags.contains(Flags::CARRIED | Flags::UNREAD));
    flags.remove(Flags::CARRIED);
    assert_eq!(flags, Flags::HUNG_UP);
}

#[test]
fn a_pause_lasts_until_its_last_reason_is_gone() {
    let mut pauses = Pauses::default();
    assert!(pauses.insert(0) && pauses.insert(7) && !pauses.insert(7));
    assert!(pauses.contains(7) && !pauses.contains(1));
    assert!(pauses.remove(0) && !pauses.remove(0) && !pauses.is_empty());
    assert!(pauses.remove(7) && pauses.is_empty());
}

#[test]
fn an_ended_connection_becomes_nothing_else() {
    use Phase::{Closing, Ended, Handshake, Lingering, Open, PongWait};
    for phase in [Handshake, Open, PongWait, Closing, Lingering] {
        assert!(phase.may_become(Ended) && !Ended.may_become(phase));
        assert!(!phase.may_become(Handshake), "nobody shakes hands twice");
    }
    assert!(Open.may_become(PongWait) && PongWait.may_become(Open) && !Lingering.may_become(Closing));
}
