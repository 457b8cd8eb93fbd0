//! Tests of the peers: counts, memory of those who left, bounds, and what all of it costs.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::*;
use crate::limit::rules::PeerLimits;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

fn rules(limits: PeerLimits) -> PeerRules {
    PeerRules { classes: vec![limits], ..PeerRules::default() }
}

/// A rate that is not forgotten for a while.
fn slow() -> PeerRules {
    rules(PeerLimits { connects: Some(Rate::new(1, 100)), ..PeerLimits::default() })
}

fn table(live: u32, recent: u32) -> Peers {
    Peers::new(PeerSizes { live, recent }, 64)
}

#[test]
fn a_slot_has_28_bytes() {
    assert_eq!(size_of::<Slot>(), 28);
}

#[test]
fn counts_are_exact_and_a_freed_slot_serves_another_peer() {
    let (peers, rules) = (table(500, 0), PeerRules::default());
    let enter = |number: u32| peers.enter(peers.key(v4(number)), &rules, 0).unwrap().0;
    let slots: Vec<u32> = (0..500).map(enter).collect();
    let again = enter(7);
    assert_eq!((again, peers.live(v4(7)), peers.len()), (slots[7], 2, 500));
    peers.leave(again, &rules, 0);
    for (number, slot) in slots.iter().enumerate() {
        assert_eq!(peers.address(*slot), v4(number as u32));
        peers.leave(*slot, &rules, 0);
    }
    assert!(peers.is_empty() && peers.recent() == 0);
    let bytes = peers.held_bytes();
    // For each of them another of the same stripe, whatever the hash.
    let stripe = |number: u32| peers.place(peers.key(v4(number))).0;
    let mut others: Vec<u32> = (1000..20_000).collect();
    for number in 0..500 {
        let place = others.iter().position(|other| stripe(*other) == stripe(number)).unwrap();
        let slot = enter(others.swap_remove(place));
        assert!(slots.contains(&slot), "a slot that was freed");
    }
    assert_eq!((peers.len(), peers.held_bytes()), (500, bytes));
}

#[test]
fn ipv6_privacy_addresses_count_as_one() {
    let (peers, rules) = (table(10, 0), PeerRules::default());
    for address in ["2001:db8::1", "2001:db8::ffff:2"] {
        peers.enter(peers.key(ip(address)), &rules, 0).unwrap();
    }
    assert_eq!((peers.len(), peers.live(ip("2001:db8::9"))), (1, 2));
}

#[test]
fn a_peer_has_too_many_connections_and_then_too_many_in_a_second() {
    let limits =
        PeerLimits { connections: Some(2), connects: Some(Rate::new(1, 3)), ..PeerLimits::default() };
    let (peers, rules) = (table(10, 10), rules(limits));
    let key = peers.key(v4(1));
    let slot = peers.enter(key, &rules, 0).unwrap().0;
    assert_eq!(peers.enter(key, &rules, 0).unwrap().1, None);
    assert_eq!(peers.enter(key, &rules, 0).unwrap().1, Some(Over::Connections));
    peers.leave(slot, &rules, 0);
    peers.leave(slot, &rules, 0);
    assert_eq!(peers.enter(key, &rules, 0).unwrap().1, None);
    peers.leave(slot, &rules, 0);
    assert_eq!(peers.enter(key, &rules, 0).unwrap().1, Some(Over::Connects(10)));
    assert_eq!(peers.enter(peers.key(v4(2)), &rules, 0).unwrap().1, None, "others are others");
}

#[test]
fn a_reconnect_does_not_reset_a_rate() {
    let limits = PeerLimits { messages: Some(Rate::new(10, 100)), ..PeerLimits::default() };
    let (rate, rules) = (limits.messages.unwrap(), rules(limits));
    let peers = table(10, 64);
    let key = peers.key(v4(1));
    let slot = peers.enter(key, &rules, 0).unwrap().0;
    assert!(peers.take(slot, rate, Traffic::Messages, 0, 100));
    assert!(!peers.take(slot, rate, Traffic::Messages, 0, 1));
    peers.leave(slot, &rules, 0);
    assert_eq!((peers.len(), peers.recent()), (0, 1));
    let slot = peers.enter(key, &rules, 5).unwrap().0;
    assert_eq!(peers.recent(), 0);
    assert!(!peers.take(slot, rate, Traffic::Messages, 5, 6));
    assert_eq!(peers.room(slot, rate, Traffic::Messages, 0), (Room::None, 1));
    assert!(peers.take(slot, rate, Traffic::Messages, 5, 5));
    peers.leave(slot, &rules, 200);
    assert_eq!(peers.recent(), 0, "an empty bucket is nothing to remember");
}

#[test]
fn whoever_left_first_is_forgotten_first_and_the_harmless_before_them() {
    let peers = table(100, 64);
    let rules = slow();
    // One recent peer for each stripe: two of the same stripe compete.
    let key = |number: u32| peers.key(v4(number));
    let home = |number: &u32| peers.place(key(*number)).0 == peers.place(key(0)).0;
    let of_one_stripe: Vec<u32> = (0..).filter(home).take(3).collect();
    let visit = |number: u32, now: u32| {
        let slot = peers.enter(key(number), &rules, now).unwrap().0;
        peers.leave(slot, &rules, now);
    };
    visit(of_one_stripe[0], 0);
    visit(of_one_stripe[1], 0);
    assert_eq!((peers.recent(), peers.forgotten()), (1, 1));
    visit(of_one_stripe[2], 50);
    assert_eq!((peers.recent(), peers.forgotten()), (1, 1), "the other's rate had run out");
}

#[test]
fn a_random_life_leaves_counts_and_lists_right() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (peers, rules) = (table(300, 100), slow());
    let mut held: Vec<(u32, IpAddr)> = Vec::new();
    let mut live: HashMap<IpAddr, u32> = HashMap::new();
    for now in 0..20_000 {
        if held.len() < 300 && rng.bool() {
            let address = v4(rng.u32(..2000));
            held.push((peers.enter(peers.key(address), &rules, now / 10).unwrap().0, address));
            *live.entry(address).or_default() += 1;
        } else if !held.is_empty() {
            let (slot, address) = held.swap_remove(rng.usize(..held.len()));
            peers.leave(slot, &rules, now / 10);
            *live.get_mut(&address).unwrap() -= 1;
        }
        let address = v4(rng.u32(..2000));
        assert_eq!(peers.live(address), live.get(&address).copied().unwrap_or(0));
        assert!(peers.recent() <= 100);
        if now % 500 == 0 {
            assert_eq!(peers.len(), live.values().filter(|count| **count > 0).count());
            for (slot, address) in &held {
                assert_eq!(peers.address(*slot), *address);
            }
        }
    }
    assert!(peers.forgotten() > 0, "the test means nothing otherwise");
}

#[test]
fn a_sweep_empties_what_has_run_out_and_nothing_else() {
    let limits = PeerLimits { bytes: Some(Rate::new(10, 1000)), ..PeerLimits::default() };
    let (rate, rules) = (limits.bytes.unwrap(), rules(limits));
    let peers = table(1000, 0);
    let slots: Vec<u32> =
        (0..1000).map(|number| peers.enter(peers.key(v4(number)), &rules, 0).unwrap().0).collect();
    for (number, slot) in slots.iter().enumerate() {
        assert!(peers.take(*slot, rate, Traffic::Bytes, 10, if number % 2 == 0 { 10 } else { 1000 }));
    }
    // The small ones have run out at tick 20, the large ones will at 1010.
    (21..=SWEEP_TICKS).for_each(|now| peers.sweep(&rules, now));
    for (number, slot) in slots.iter().enumerate() {
        let state = peers.state(*slot, Traffic::Bytes).unwrap().load(Ordering::Relaxed);
        assert_eq!(state == 0, number % 2 == 0);
    }
}

#[test]
fn a_shard_that_is_a_tick_behind_sweeps_nothing_and_makes_nobody_sweep_again() {
    let (peers, rules) = (table(100_000, 0), slow());
    let pages = |now: u32| {
        let before = peers.sweep_at.load(Ordering::Relaxed);
        peers.sweep(&rules, now);
        peers.sweep_at.load(Ordering::Relaxed) - before
    };
    pages(100);
    assert_eq!([99, 100, 99].map(pages), [0, 0, 0]);
    let all = (peers.stripes.len() * peers.stripes[0].pages.len()) as u32;
    assert_eq!(pages(101), all.div_ceil(SWEEP_TICKS));
}

/// Distinct addresses pass through a full table; its memory and its counts stay.
fn spray(distinct: u32, live: u32, recent: u32) {
    let (peers, rules) = (table(live, recent), slow());
    let stay: Vec<u32> =
        (0..live / 2).map(|number| peers.enter(peers.key(v4(number)), &rules, 0).unwrap().0).collect();
    let mut passing = std::collections::VecDeque::new();
    let mut grown = 0;
    for number in 0..distinct {
        let address = v4(0x0a00_0000 + number);
        passing.push_back(peers.enter(peers.key(address), &rules, 1).unwrap().0);
        if passing.len() > live as usize / 2 {
            peers.leave(passing.pop_front().unwrap(), &rules, 1);
        }
        if number == distinct / 2 {
            grown = peers.held_bytes();
        }
    }
    assert_eq!(peers.len(), stay.len() + passing.len(), "live counts are exact");
    assert_eq!(peers.recent(), recent.into());
    assert_eq!(peers.forgotten(), u64::from(distinct) - passing.len() as u64 - u64::from(recent));
    let (bytes, slots) = (peers.held_bytes(), (live + recent) as usize);
    // Pages are filled unevenly by what passes: a few more may come, and then no more.
    assert!(bytes <= grown + grown / 50, "{grown} bytes became {bytes}");
    assert!(bytes <= slots * 32, "{bytes} bytes for {slots} slots");
    eprintln!(
        "{distinct} peers through {slots} slots: {bytes} bytes, {:.1} a slot",
        bytes as f64 / slots as f64
    );
}

#[test]
fn addresses_by_the_hundred_thousand_leave_memory_where_it_was() {
    spray(200_000, 20_000, 40_000);
}

#[test]
#[ignore = "seconds; the figure for two million"]
fn addresses_by_the_million_leave_memory_where_it_was() {
    spray(2_000_000, 100_000, 65_536);
}
