//! Owns `GET /v1/top`: the largest channels and the busiest connections and peers, which are too many for metrics. Refuses
//! to hold anybody up: shards are asked slice by slice, one at a time, and one such walk goes on at a time.
//!
//! A walk is no snapshot: what changes meanwhile is seen as it was when its slice was asked.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bridge::command::RankBy;
use bridge::{Address, Channel, Command};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Admin;
use super::call::{Answer, Call, json};
use super::problem::{Problem, Reason};
use super::query::Query;
use crate::api::SHARD_DEADLINE;
use crate::api::connections::Connection;

/// Entries when the caller does not say.
const LIMIT_DEFAULT: u16 = 10;
/// Most entries.
const LIMIT_MAX: u16 = 100;
/// How long a walk may take, the wait for the one before it included.
const DEADLINE: Duration = Duration::from_secs(10);
/// For each channel in the answer so many candidates: the largest of one shard need not be the largest of all.
const CANDIDATES_PER_ENTRY: usize = 4;

/// What makes large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Peer,
    Channel,
    Connection(RankBy),
}

impl By {
    const ALL: [(&'static str, Self); 4] = [
        ("peer", Self::Peer),
        ("channel", Self::Channel),
        ("bytes", Self::Connection(RankBy::Bytes)),
        ("messages", Self::Connection(RankBy::Messages)),
    ];

    fn parse(text: Option<&str>) -> Result<(&'static str, Self), Problem> {
        let known = Self::ALL.into_iter().find(|(label, _)| Some(*label) == text);
        known.ok_or_else(|| {
            let labels: Vec<&str> = Self::ALL.into_iter().map(|(label, _)| label).collect();
            Problem::new(Reason::BadRequest, format!("by is one of {}; mend the query.", labels.join(", ")))
        })
    }
}

/// `GET /v1/top?by=peer|channel|bytes|messages&limit=`.
pub(super) async fn top(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["by", "limit"])?;
    let limit = usize::from(query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT));
    let (label, by) = By::parse(query.value("by"))?;
    let walk = async {
        let _alone = admin.walk.lock().await;
        match by {
            By::Peer => Ok((peers(admin, limit).await, true)),
            By::Channel => channels(admin, limit).await,
            By::Connection(by) => connections(admin, by, limit).await,
        }
    };
    let (top, is_exact) = timeout(DEADLINE, walk).await.map_err(|_| {
        Problem::new(
            Reason::ShardSilent,
            "The shards took too long to look through; ask again when it is quieter.",
        )
    })??;
    json(StatusCode::OK, &json!({ "by": label, "exact": is_exact, "top": top }))
}

/// The peers with most connections. The gate's own table knows; other tasks have their turn between two stripes.
async fn peers(admin: &Admin, limit: usize) -> Vec<Value> {
    let mut top: Vec<(u32, IpAddr)> = Vec::new();
    for stripe in 0.. {
        let Some(largest) = admin.gate.peers().largest_of(stripe, limit) else { break };
        top.extend(largest);
        top.sort_unstable_by_key(|(connections, peer)| (Reverse(*connections), *peer));
        top.truncate(limit);
        tokio::task::yield_now().await;
    }
    top.into_iter().map(|(connections, peer)| json!({ "amount": connections, "peer": peer })).collect()
}

/// The busiest connections, as they are described; who has gone since is left out.
async fn connections(admin: &Admin, by: RankBy, limit: usize) -> Result<(Vec<Value>, bool), Problem> {
    let mut top: Vec<(u64, Address)> = Vec::new();
    for shard in 0..admin.shards() {
        let mut after = None;
        loop {
            let command = |reply| Command::Rank { by, after, limit, reply };
            let ranking = admin.ask(shard, SHARD_DEADLINE, command).await?;
            top.extend(ranking.top);
            top.sort_unstable_by_key(|(amount, address)| (Reverse(*amount), address.shard, address.slot));
            top.truncate(limit);
            match ranking.next {
                // A slice that is not the last must still get ahead.
                Some(next) if Some(next) > after => after = Some(next),
                _ => break,
            }
        }
    }
    let mut shown = Vec::with_capacity(top.len());
    for (amount, whom) in top {
        let command = |reply| Command::Describe { whom, reply };
        if let Some(description) = admin.ask(whom.shard, SHARD_DEADLINE, command).await? {
            let connection = Connection::of(admin, &description);
            shown.push(json!({ "amount": amount, "connection": connection }));
        }
    }
    Ok((shown, true))
}

/// What one shard after the other says of its largest channels.
#[derive(Debug, Default)]
struct Tally {
    /// Subscribers on the shards that named it, and how many at most there are on the others.
    named: HashMap<Channel, Known>,
    /// Subscribers that a channel may have without having been named by any shard.
    unnamed_most: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    subscribers: u64,
    /// The floors of the shards that named it: there it has nothing beyond `subscribers`.
    floors: u64,
}

impl Tally {
    /// Adds one shard's: its largest channels, and the most that any other has there.
    fn add(&mut self, top: Vec<(u64, Channel)>, floor: u64) {
        for (subscribers, channel) in top {
            let known = self.named.entry(channel).or_default();
            known.subscribers += subscribers;
            known.floors += floor;
        }
        self.unnamed_most += floor;
    }

    /// The candidates, and the most that any channel may have which is none.
    fn candidates(self, most: usize) -> (Vec<Channel>, u64) {
        let unnamed_most = self.unnamed_most;
        let mut named: Vec<(u64, Channel)> = self
            .named
            .into_iter()
            .map(|(channel, known)| (known.subscribers + unnamed_most - known.floors, channel))
            .collect();
        // By how many it may have: who is left out may have the least.
        named.sort_unstable_by(|one, other| {
            other.0.cmp(&one.0).then_with(|| one.1.as_str().cmp(other.1.as_str()))
        });
        let next_most = named.get(most).map_or(0, |(subscribers, _)| *subscribers);
        named.truncate(most);
        (named.into_iter().map(|(_, channel)| channel).collect(), next_most.max(unnamed_most))
    }
}

/// The channels with most subscribers on all shards together: each shard names its largest, then all are asked for
/// the candidates. Exact when no channel that was no candidate can have more than the last one shown.
async fn channels(admin: &Admin, limit: usize) -> Result<(Vec<Value>, bool), Problem> {
    let most = limit * CANDIDATES_PER_ENTRY;
    let mut tally = Tally::default();
    for shard in 0..admin.shards() {
        let (top, floor) = largest_of(admin, shard, most).await?;
        tally.add(top, floor);
    }
    let (candidates, others_most) = tally.candidates(most);
    let candidates: std::sync::Arc<[Channel]> = candidates.into();
    let mut sums = vec![0_u64; candidates.len()];
    for shard in 0..admin.shards() {
        let channels = std::sync::Arc::clone(&candidates);
        let command = |reply| Command::CountSubscribers { channels, reply };
        let counts = admin.ask(shard, SHARD_DEADLINE, command).await?;
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
    }
    let mut top: Vec<(u64, &Channel)> = sums.into_iter().zip(candidates.iter()).collect();
    top.retain(|(subscribers, _)| *subscribers > 0);
    top.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.as_str().cmp(other.1.as_str())));
    top.truncate(limit);
    let least = if top.len() < limit { 0 } else { top.last().map_or(0, |(least, _)| *least) };
    let shown = top
        .into_iter()
        .map(|(subscribers, channel)| json!({ "amount": subscribers, "channel": channel.as_str() }))
        .collect();
    Ok((shown, others_most <= least))
}

/// One shard's largest channels, and the most subscribers that any other channel has there.
async fn largest_of(admin: &Admin, shard: u16, most: usize) -> Result<(Vec<(u64, Channel)>, u64), Problem> {
    let (mut top, mut floor, mut after) = (Vec::new(), 0, None);
    loop {
        let command = |reply| Command::RankChannels { after, limit: most, reply };
        let ranking = admin.ask(shard, SHARD_DEADLINE, command).await?;
        floor = ranking.floor.max(floor);
        top.extend(ranking.top);
        top.sort_unstable_by_key(|(subscribers, _)| Reverse(*subscribers));
        floor = top.get(most).map_or(0, |(subscribers, _)| *subscribers).max(floor);
        top.truncate(most);
        match ranking.next {
            Some(next) if Some(next) > after => after = Some(next),
            _ => return Ok((top, floor)),
        }
    }
}

#[cfg(test)]
mod top_tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(entries: &[(u64, &str)]) -> Vec<(u64, Channel)> {
        entries.iter().map(|(amount, name)| (*amount, Channel::parse(name).unwrap())).collect()
    }

    #[test]
    fn a_channel_that_is_large_on_no_single_shard_is_a_candidate_or_bounded() {
        let mut tally = Tally::default();
        tally.add(named(&[(9, "a"), (8, "b")]), 7);
        tally.add(named(&[(9, "c"), (8, "b")]), 7);
        let (candidates, others) = tally.candidates(2);
        let names: Vec<&str> = candidates.iter().map(Channel::as_str).collect();
        assert_eq!(names, ["a", "b"], "16 for both, though b is larger in sum");
        assert_eq!(others, 16, "c may have as many, and what nobody named 14");
    }

    #[test]
    fn one_shard_that_named_all_leaves_nothing_open() {
        let mut tally = Tally::default();
        tally.add(named(&[(9, "a"), (8, "b")]), 0);
        assert_eq!(tally.candidates(2).1, 0);
    }
}
