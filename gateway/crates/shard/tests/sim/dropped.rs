//! Messages beyond a rate that are dropped: each is counted, and exactly those are missing, for everybody alike. Owns the
//! comparison of what was said with what was taken and with what was counted; which of them were dropped nobody can know
//! but from who heard what. Called when everything has come to rest.

use bridge::limited::{Action, Kind, Limit};
use shard::limit::Rate;
use shard::limit::rules::{ConnectionLimit, LimitRules, PeerRules};

use crate::weather::Weather;
use crate::world::World;

impl World {
    /// Messages and pings that shards say they have dropped.
    pub(crate) fn counted_dropped(&self) -> usize {
        let of = |limit| Kind { limit, action: Action::Drop, dry_run: false }.place();
        let places = [Limit::ConnectionMessages, Limit::PeerMessages, Limit::PeerBytes].map(of);
        let counted =
            |place: &usize| -> u64 { self.nodes.iter().map(|node| node.stats.limited[*place].value()).sum() };
        places.iter().map(counted).sum::<u64>() as usize
    }

    /// What live clients said and the shards did not take is counted as dropped, and nothing else but what may have been
    /// on its way when others ended.
    pub(crate) fn check_dropped(&mut self) {
        if !self.weather.drops {
            return;
        }
        let (mut least, mut most) = (0, 0);
        let live: Vec<usize> =
            (0..self.clients.len()).filter(|number| self.clients[*number].is_live()).collect();
        for number in 0..self.clients.len() {
            let stream = self.voices[number];
            let said = self.model.count_said(stream);
            let client = &self.clients[number];
            let pings = client.pings_lost() + client.pings_open();
            let ending = self.ending(number).map(|ending| ending.traffic.messages_in as usize);
            if ending.is_some() || !client.is_live() {
                most += said - ending.unwrap_or(0) + pings;
                continue;
            }
            let taken = self.described(number).unwrap().traffic.messages_in as usize;
            self.model.check_taken(stream, taken, &live).unwrap();
            least += said - taken + pings;
            most += said - taken + pings;
        }
        let counted = self.counted_dropped();
        assert!(
            (least..=most).contains(&counted),
            "{counted} were dropped, and {least} to {most} are missing"
        );
    }
}

#[test]
fn what_is_dropped_is_missing_for_everybody_and_counted() {
    let limit = ConnectionLimit { messages: Rate::new(10, 5), action: Action::Drop, dry_run: false };
    let mut weather = Weather::fair();
    weather.rules.limits = LimitRules::new(Some(limit), PeerRules::default());
    (weather.is_strict, weather.drops) = (true, true);
    let mut world = World::new(weather, 8);
    let hearers = [world.open(0, "/hear/a"), world.open(1, "/hear/a")];
    let speaker = world.open(0, "/say/a");
    for _ in 0..30 {
        (0..2).for_each(|_| world.say(speaker, 20));
        world.live(1);
    }
    let heard = hearers.map(|hearer| world.model.count_heard(hearer));
    assert_eq!(heard[0], heard[1]);
    assert!((30..=36).contains(&heard[0]), "{} of 60 in three seconds", heard[0]);
    assert_eq!(heard[0] + world.counted_dropped(), 60);
    world.check_dropped();
    world.check_complete(&hearers);
    world.drain(20);
}
