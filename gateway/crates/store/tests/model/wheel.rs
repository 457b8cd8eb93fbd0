//! The wheel beside a list of deadlines that is searched for the smallest.

use fastrand::Rng;
use store::{Conns, Links, Wheel, WheelLink};

use crate::seed::{pick, rng};

struct Records(Vec<WheelLink>);

impl Links for Records {
    fn link(&self, index: u32) -> &WheelLink {
        &self.0[index as usize]
    }

    fn link_mut(&mut self, index: u32) -> &mut WheelLink {
        &mut self.0[index as usize]
    }
}

fn records(count: usize) -> Records {
    Records(vec![WheelLink::default(); count])
}

/// The wheel, its records, and what ought to be true of them.
struct Pair {
    wheel: Wheel,
    records: Records,
    deadlines: Vec<Option<u32>>,
    now: u32,
}

impl Pair {
    fn new(count: usize, now: u32) -> Self {
        Pair { wheel: Wheel::new(now), records: records(count), deadlines: vec![None; count], now }
    }

    fn arm(&mut self, index: u32, deadline: u32) {
        self.wheel.arm(&mut self.records, index, deadline);
        self.deadlines[index as usize] = Some(deadline.max(self.now + 1));
    }

    fn disarm(&mut self, index: u32) {
        self.wheel.disarm(&mut self.records, index);
        self.deadlines[index as usize] = None;
    }

    /// Moves to `now` and takes at most `budget` expired records off, each of which has to be the most overdue.
    fn expire(&mut self, now: u32, budget: usize) {
        self.now = self.now.max(now);
        for _ in 0..budget {
            let due = self.deadlines.iter().flatten().min().copied().filter(|&due| due <= self.now);
            let popped = self.wheel.pop_expired(&mut self.records, now);
            let Some(index) = popped else {
                assert_eq!(due, None, "somebody overdue was left");
                return;
            };
            assert_eq!(self.deadlines[index as usize].take(), due, "popped early, late or out of order");
        }
    }

    fn check(&self) {
        assert_eq!(self.wheel.len() as usize, self.deadlines.iter().flatten().count());
        for (index, deadline) in self.deadlines.iter().enumerate() {
            assert_eq!(self.wheel.deadline(&self.records, index as u32), *deadline);
            assert_eq!(self.wheel.is_armed(&self.records, index as u32), deadline.is_some());
        }
    }
}

/// A number of ticks of any magnitude that the levels tell apart, and often right at their edges.
fn span(rng: &mut Rng) -> u32 {
    match rng.u8(..8) {
        0 => 0,
        1 | 2 => rng.u32(..4),
        3 => rng.u32(..1024),
        4 => *pick(rng, &[1023, 1024, 1025, 2047, 2048]),
        5 => rng.u32(..65_536),
        6 => *pick(rng, &[63 * 1024 - 1, 63 * 1024, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 65 * 1024]),
        _ => rng.u32(..300_000),
    }
}

#[test]
fn the_wheel_agrees_with_a_list_of_deadlines() {
    let mut rng = rng();
    for _ in 0..60 {
        let start = *pick(&mut rng, &[0, 1023, 1024, 65_535, 1_000_000]);
        let mut pair = Pair::new(rng.usize(1..40), start);
        for _ in 0..1500 {
            let index = rng.u32(..pair.deadlines.len() as u32);
            let ahead = span(&mut rng);
            match rng.u8(..11) {
                0..=4 => pair.arm(index, pair.now + ahead),
                5 => pair.arm(index, pair.now.saturating_sub(ahead)),
                6 => pair.disarm(index),
                7 => pair.expire(pair.now + 1, usize::MAX),
                10 => pair.expire(pair.now.saturating_sub(ahead), rng.usize(1..4)),
                8 => pair.expire(pair.now + ahead, rng.usize(1..4)),
                _ => pair.expire(pair.now + ahead, usize::MAX),
            }
            pair.check();
        }
    }
}

#[test]
fn driven_tick_by_tick_nobody_is_early_or_late() {
    let mut rng = rng();
    let mut pair = Pair::new(300, 0);
    for index in 0..300 {
        let deadline = span(&mut rng).min(140_000);
        pair.arm(index, deadline);
    }
    for now in 1..=140_000 {
        let overdue = pair.deadlines.iter().flatten().any(|&deadline| deadline < now);
        assert!(!overdue, "somebody was left behind before tick {now}");
        pair.expire(now, usize::MAX);
    }
    assert!(pair.wheel.is_empty());
}

#[test]
fn a_leap_over_all_of_time_finds_everybody() {
    let mut pair = Pair::new(6, 5);
    for (index, deadline) in [6, 1029, 70_000, 20_000_000, 3_000_000_000, u32::MAX].into_iter().enumerate() {
        pair.arm(index as u32, deadline);
    }
    pair.expire(u32::MAX, usize::MAX);
    pair.check();
    assert!(pair.wheel.is_empty());
}

#[test]
fn an_overdue_timer_that_is_armed_again_waits_for_the_next_tick() {
    let mut pair = Pair::new(1, 0);
    pair.arm(0, 0);
    for now in 1..2000 {
        pair.expire(now, 1);
        pair.arm(0, 0);
        pair.expire(now, usize::MAX);
        assert_eq!(pair.wheel.len(), 1, "it was busy twice at tick {now}");
    }
}

#[test]
fn time_that_goes_backwards_expires_nobody() {
    let mut pair = Pair::new(1, 100);
    pair.arm(0, 1100);
    for now in [50, 99, 100, 1000, 1099, 0] {
        assert_eq!(pair.wheel.pop_expired(&mut pair.records, now), None);
    }
    assert_eq!(pair.wheel.pop_expired(&mut pair.records, 1100), Some(0));
}

#[test]
fn timers_thread_through_the_records_of_a_table() {
    let mut conns = Conns::<(), ()>::new(3);
    let keys: Vec<_> = (0..3).map(|_| conns.insert((), (), 0).unwrap()).collect();
    let mut wheel = Wheel::new(0);
    for key in &keys {
        wheel.arm(&mut conns, key.index(), 7);
    }
    wheel.disarm(&mut conns, keys[1].index());
    assert!(conns.remove(keys[1]).is_some());
    let mut expired: Vec<_> = std::iter::from_fn(|| wheel.pop_expired(&mut conns, 7)).collect();
    expired.sort_unstable();
    assert_eq!(expired, [keys[0].index(), keys[2].index()]);
}
