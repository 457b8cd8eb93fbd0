//! Which other nodes are there, judged by their beats. Pure: told what was heard and when, it says what to tell app servers.
//!
//! A node that is not heard for [`LOST_AFTER`] is lost. Whoever was deaf itself (the bus was away or silent, or the process stood
//! still) does not judge by the silence: everybody gets the full time again. Several observers come to the same news with
//! the same id; each waits a little time of its own first, and one that hears the news from another does not repeat it.
//! Refuses to know more than [`NODES_MAX`] nodes.

use std::time::Duration;

use bridge::{Epoch, NodeName};
use tokio::time::Instant;

use crate::agreement::Agreement;
use crate::lines::Lines;
use crate::peers::{Beat, Fate, News};

/// Between two beats of a node.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Three beats that did not come, and half of one.
pub const LOST_AFTER: Duration = Duration::from_secs(7);
/// So long may a bus that is well hear nothing of its server: it asks for a word at least as often as nodes beat. Beyond that
/// it is deaf, and whoever is heard again then has the time for another beat left.
pub const DEAF_AFTER: Duration = Duration::from_secs(3);
const _: () = assert!(BEAT_EVERY.as_millis() < DEAF_AFTER.as_millis());
const _: () = assert!(DEAF_AFTER.as_millis() + 2 * BEAT_EVERY.as_millis() <= LOST_AFTER.as_millis());
/// Most that an observer waits beyond [`LOST_AFTER`].
const PATIENCE_MS: u64 = 1000;
/// Other nodes that are known at once; those beyond are not seen, and the log says so.
pub const NODES_MAX: usize = 1024;
/// Lost nodes that are remembered, for the case that they return.
const LOST_MAX: usize = 256;

/// A node that is there.
#[derive(Clone, Debug)]
struct Known {
    node: NodeName,
    epoch: Epoch,
    beat: u64,
    heard: Instant,
    patience: Duration,
    /// Another observer has told of its loss, after this beat.
    told: Option<u64>,
    /// About the networks that it keeps out.
    agreement: Agreement,
}

/// A node that was lost.
#[derive(Debug)]
struct Lost {
    node: NodeName,
    epoch: Epoch,
    /// Another observer has told of its return.
    told: bool,
}

/// What a beat changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A node came or went: whoever shows them looks again.
    pub nodes: bool,
    /// It was not known: it may not know this one either.
    pub came: bool,
    /// To be told.
    pub news: Option<News>,
}

/// The other nodes.
#[derive(Debug)]
pub struct Presence {
    known: Vec<Known>,
    lost: Vec<Lost>,
    judged: Instant,
    /// About those that are too many.
    unseen: Lines,
    random: fastrand::Rng,
}

impl Presence {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(now: Instant, seed: u64) -> Self {
        let (known, lost, unseen) = (Vec::new(), Vec::new(), Lines::new(1));
        Self { known, lost, judged: now, unseen, random: fastrand::Rng::with_seed(seed) }
    }

    /// Names and epochs, by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeName, Epoch)> {
        let mut nodes: Vec<_> = self.known.iter().map(|known| (known.node.clone(), known.epoch)).collect();
        nodes.sort_by(|a, b| (a.0.as_str(), a.1.0).cmp(&(b.0.as_str(), b.1.0)));
        nodes
    }

    /// A node said something. Our own beats must not come here.
    pub fn heard(&mut self, beat: &Beat, now: Instant) -> Change {
        let is = |node: &NodeName, epoch: Epoch| *node == beat.node && epoch == beat.epoch;
        let place = self.known.iter().position(|known| is(&known.node, known.epoch));
        if beat.leaves {
            if let Some(place) = place {
                self.known.swap_remove(place);
            }
            return Change { nodes: place.is_some(), ..Change::default() };
        }
        if let Some(place) = place {
            let known = &mut self.known[place];
            known.heard = now;
            known.beat = known.beat.max(beat.number);
            // Somebody did not hear it, and told so; we always did, and it is for us to say so.
            let slandered = known.told.take_if(|told| beat.number > *told);
            let news = slandered.map(|_| news(Fate::Returned, beat));
            return Change { news, ..Change::default() };
        }
        if self.known.len() >= NODES_MAX {
            if let Some(left_out) = self.unseen.next(now) {
                let node = &beat.node;
                tracing::warn!(%node, left_out, "more nodes than {NODES_MAX}: this one is not seen");
            }
            return Change::default();
        }
        let returned = self.lost.iter().position(|lost| is(&lost.node, lost.epoch));
        let returned = returned.map(|place| self.lost.swap_remove(place)).filter(|lost| !lost.told);
        let patience = Duration::from_millis(self.random.u64(..PATIENCE_MS));
        let Beat { node, epoch, number, .. } = beat.clone();
        self.known.push(Known {
            node,
            epoch,
            beat: number,
            heard: now,
            patience,
            told: None,
            agreement: Agreement::default(),
        });
        Change { nodes: true, came: true, news: returned.map(|_| news(Fate::Returned, beat)) }
    }

    /// Whether the node of this beat is to be told which networks are kept out: it has not known for a while what this one
    /// knows, or knows more. One that does not say what it knows is not.
    pub fn disagrees(&mut self, beat: &Beat, ours: u64, now: Instant) -> bool {
        let is = |known: &&mut Known| known.node == beat.node && known.epoch == beat.epoch;
        let known = self.known.iter_mut().find(is).zip(beat.kept_out);
        known.is_some_and(|(known, theirs)| known.agreement.heard(ours, theirs, now))
    }

    /// Another observer told app servers: it need not be told again.
    pub fn told(&mut self, told: &News) {
        let known = self.known.iter_mut().find(|known| known.node == told.node && known.epoch == told.epoch);
        match (known, told.fate) {
            (Some(known), Fate::Lost) => known.told = Some(told.beat),
            (Some(known), Fate::Returned) => known.told = None,
            (None, _) => {
                let lost =
                    self.lost.iter_mut().find(|lost| lost.node == told.node && lost.epoch == told.epoch);
                if let Some(lost) = lost {
                    lost.told = told.fate == Fate::Returned;
                }
            }
        }
    }

    /// Who is lost by now; to be called more often than beats come. `deaf`: nothing can have been heard since the last call.
    pub fn judge(&mut self, now: Instant, deaf: bool) -> Vec<News> {
        let stood_still = now.duration_since(self.judged) > BEAT_EVERY;
        self.judged = now;
        if deaf || stood_still {
            self.known.iter_mut().for_each(|known| known.heard = now);
            return Vec::new();
        }
        let is_lost = |known: &mut Known| now.duration_since(known.heard) > LOST_AFTER + known.patience;
        let mut all = Vec::new();
        for known in self.known.extract_if(.., is_lost) {
            let Known { node, epoch, beat, told, .. } = known;
            if self.lost.len() >= LOST_MAX {
                self.lost.remove(0);
            }
            self.lost.push(Lost { node: node.clone(), epoch, told: false });
            if told.is_none() {
                all.push(News { fate: Fate::Lost, node, epoch, beat });
            }
        }
        all
    }
}

fn news(fate: Fate, beat: &Beat) -> News {
    News { fate, node: beat.node.clone(), epoch: beat.epoch, beat: beat.number }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn beat(number: u64) -> Beat {
        Beat { node: NodeName::parse("b").unwrap(), epoch: Epoch(7), number, leaves: false, kept_out: None }
    }

    /// Judges every second, up to then.
    fn judged(presence: &mut Presence, from: Instant, seconds: u64) -> Vec<(u64, News)> {
        let at = |second| from + Duration::from_secs(second);
        let news = (1..=seconds)
            .map(|second| (second, presence.judge(at(second), false)))
            .flat_map(|(second, all)| all.into_iter().map(move |news| (second, news)));
        news.collect()
    }

    #[test]
    fn a_node_that_falls_silent_is_lost_once_and_one_that_leaves_is_not() {
        let start = Instant::now();
        let mut presence = Presence::new(start, 1);
        assert_eq!(presence.heard(&beat(1), start), Change { nodes: true, came: true, news: None });
        assert_eq!(presence.heard(&beat(2), start), Change::default());
        assert_eq!(presence.nodes().len(), 1);
        let news = judged(&mut presence, start, 20);
        let [(second, lost)] = &news[..] else { panic!("{news:?}") };
        assert!((8..=9).contains(second), "{second}");
        assert_eq!((lost.fate, lost.id().as_str()), (Fate::Lost, "b.00000007.2.lost"));
        assert!(presence.nodes().is_empty());

        let mut presence = Presence::new(start, 1);
        presence.heard(&beat(1), start);
        assert!(presence.heard(&Beat { leaves: true, ..beat(2) }, start).nodes);
        assert_eq!(judged(&mut presence, start, 20), []);
    }

    #[test]
    fn one_that_was_cut_off_returns_and_is_told_of_once() {
        let start = Instant::now();
        let mut presence = Presence::new(start, 1);
        presence.heard(&beat(1), start);
        assert_eq!(judged(&mut presence, start, 9).len(), 1);
        let change = presence.heard(&beat(9), start);
        assert_eq!(change.news.map(|news| news.fate), Some(Fate::Returned));
        assert_eq!(presence.heard(&beat(10), start).news, None);
    }

    #[test]
    fn what_another_observer_told_is_not_told_again() {
        let start = Instant::now();
        let told = |fate| News { fate, node: beat(1).node, epoch: Epoch(7), beat: 1 };
        let mut presence = Presence::new(start, 1);
        presence.heard(&beat(1), start);
        presence.told(&told(Fate::Lost));
        assert_eq!(judged(&mut presence, start, 20), []);
        presence.told(&told(Fate::Returned));
        assert_eq!(presence.heard(&beat(9), start).news, None);

        // It was told of falsely: we go on hearing it, and set that right.
        presence.told(&told(Fate::Lost));
        assert_eq!(presence.heard(&beat(10), start).news.map(|news| news.fate), Some(Fate::Returned));
    }

    #[test]
    fn whoever_was_deaf_or_stood_still_does_not_judge_by_the_silence() {
        let start = Instant::now();
        let mut presence = Presence::new(start, 1);
        presence.heard(&beat(1), start);
        let late = start + Duration::from_secs(60);
        assert_eq!(presence.judge(late, false), [], "we stood still");
        assert_eq!(judged(&mut presence, late, 6), []);
        for second in 7..60 {
            assert_eq!(presence.judge(late + Duration::from_secs(second), true), [], "the bus was away");
        }
        assert_eq!(judged(&mut presence, late + Duration::from_secs(59), 7), []);
        assert_eq!(presence.nodes().len(), 1);
    }

    #[test]
    fn a_node_is_to_be_told_when_it_differs_if_it_says_so_and_is_there() {
        let start = Instant::now();
        let mut presence = Presence::new(start, 1);
        let differs = Beat { kept_out: Some(1), ..beat(1) };
        let late = start + BEAT_EVERY;
        assert!(
            !presence.disagrees(&differs, 2, start) && !presence.disagrees(&differs, 2, late),
            "not known"
        );
        presence.heard(&differs, start);
        assert!(!presence.disagrees(&differs, 2, start));
        assert!(!presence.disagrees(&beat(1), 2, late), "it does not say");
        assert!(presence.disagrees(&differs, 2, late));
        assert!(!presence.disagrees(&Beat { epoch: Epoch(8), ..differs }, 2, late), "another life");
    }

    #[test]
    fn no_more_nodes_are_known_than_the_bound_and_no_more_lost_ones_remembered() {
        let start = Instant::now();
        let mut presence = Presence::new(start, 1);
        for epoch in 0..NODES_MAX as u32 + 10 {
            presence.heard(&Beat { epoch: Epoch(epoch), ..beat(1) }, start);
        }
        assert_eq!(presence.nodes().len(), NODES_MAX);
        assert_eq!(judged(&mut presence, start, 9).len(), NODES_MAX);
        assert_eq!(presence.lost.len(), LOST_MAX);
    }
}
