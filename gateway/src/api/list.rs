//! Owns the list of connections: node by node in the order of names, shard by shard, in slot order. A node that does not
//! answer is named and passed over, and ends the page, so that one page waits for one silent node at most.

use std::str::FromStr;
use std::time::Duration;

use backend::proto::command::{self as wire, Order};
use bridge::{Command, Epoch, NodeName};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use tokio::time::timeout;

use super::command::{Done, call, unreadable};
use super::connections::Connection;
use super::{Error, Reason, SHARD_DEADLINE};
use crate::admin::Admin;

/// Connections on a page when the caller does not say.
const PAGE_SIZE_DEFAULT: u16 = 100;
/// Most connections on a page.
pub(crate) const PAGE_SIZE_MAX: u16 = 1000;
/// Most connections that another node is asked for at once: their descriptions go over the bus in one message.
const PART_SIZE_MAX: u16 = 200;
/// How long a node may take for its part of a page, over all shards it asks.
const PART_DEADLINE: Duration = Duration::from_millis(2500);

/// A page of connections.
#[derive(Serialize)]
pub(crate) struct ConnectionPage {
    /// They, node by node, shard by shard, in slot order.
    pub(crate) connections: Vec<Connection>,
    /// Where the next page starts; `None` at the end.
    pub(crate) next_page_token: Option<String>,
    /// Nodes that did not answer: their connections are missing.
    pub(crate) silent: Vec<String>,
}

/// Lists connections of all nodes. Those that come and go meanwhile may or may not be seen; one that stays is seen once.
///
/// # Errors
/// `bad_request` for a token of another run of its node or a size beyond [`PAGE_SIZE_MAX`]; `busy` and `shard_silent` of
/// this node; `too_large` when the descriptions are larger than the bus takes.
pub(crate) async fn list(
    admin: &Admin,
    size: Option<u16>,
    token: Option<&str>,
) -> Result<ConnectionPage, Error> {
    let size = size.unwrap_or(PAGE_SIZE_DEFAULT);
    if !(1..=PAGE_SIZE_MAX).contains(&size) {
        let detail = format!("page_size is 1 to {PAGE_SIZE_MAX}; ask for a smaller page.");
        return Err(Error::new(Reason::BadRequest, detail));
    }
    let mut names = admin.nodes.others(&admin.node);
    names.push(admin.node.clone());
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    let mut at = start(admin, &names, token)?;
    let mut page = ConnectionPage { connections: Vec::new(), next_page_token: None, silent: Vec::new() };
    loop {
        let limit = size - page.connections.len() as u16;
        let is_silent = match part(admin, &at, limit).await {
            Ok(part) => {
                page.connections.extend(part.connections);
                at.epoch = Some(Epoch(part.epoch));
                let goes_on = part.next.is_some();
                at.place = part.next.unwrap_or_default();
                if goes_on && page.connections.len() < usize::from(size) {
                    continue;
                }
                if goes_on {
                    page.next_page_token = Some(at.to_string());
                    return Ok(page);
                }
                false
            }
            Err(error) if at.node == admin.node || !is_silence(error.reason) => return Err(error),
            Err(_) => {
                page.silent.push(at.node.to_string());
                true
            }
        };
        let next = names.iter().find(|name| name.as_str() > at.node.as_str());
        let Some(next) = next else { return Ok(page) };
        at = Cursor { node: next.clone(), epoch: None, place: Place::default() };
        if is_silent || page.connections.len() >= usize::from(size) {
            page.next_page_token = Some(at.to_string());
            return Ok(page);
        }
    }
}

/// Whether the node could not say what it holds.
fn is_silence(reason: Reason) -> bool {
    !matches!(reason, Reason::BadRequest | Reason::TooLarge)
}

/// Where a page starts.
fn start(admin: &Admin, names: &[NodeName], token: Option<&str>) -> Result<Cursor, Error> {
    let Some(token) = token else {
        let node = names.first().unwrap_or(&admin.node).clone();
        return Ok(Cursor { node, epoch: None, place: Place::default() });
    };
    let cursor: Option<Cursor> = token.parse().ok();
    let may_be_there = admin.publisher.bus().peers().is_some();
    cursor.filter(|cursor| cursor.node == admin.node || may_be_there).ok_or_else(foreign)
}

fn foreign() -> Error {
    Error::new(
        Reason::BadRequest,
        "The page_token is not one of this run of its node; start again without it.",
    )
}

/// What one node gives of a page.
async fn part(admin: &Admin, at: &Cursor, limit: u16) -> Result<Part, Error> {
    let epoch = at.epoch.map(|epoch| epoch.0);
    if at.node == admin.node {
        return list_here(admin, epoch, at.place, limit).await;
    }
    let limit = limit.min(PART_SIZE_MAX);
    let order = Order::List(wire::List { epoch, from: Some(at.place.into()), limit: limit.into() });
    match call(admin, &at.node, order).await? {
        Done::Page(part) if part.gets_ahead(at.place, limit) => Ok(part),
        _ => Err(unreadable(&at.node)),
    }
}

/// A part of a page, from one node.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) connections: Vec<Connection>,
    pub(super) epoch: u32,
    pub(super) next: Option<Place>,
}

impl Part {
    /// Whether it is an answer to what was asked, after which a list that goes on comes to its end. Another node says so.
    fn gets_ahead(&self, from: Place, limit: u16) -> bool {
        let is_ahead = |next| next > from && !self.connections.is_empty();
        self.connections.len() <= usize::from(limit) && self.next.is_none_or(is_ahead)
    }
}

/// The connections of this node from a place on, if it still lives the life of this epoch.
///
/// # Errors
/// `bad_request` for another life, or more than [`PAGE_SIZE_MAX`]; `busy`, `shard_silent`.
pub(super) async fn list_here(
    admin: &Admin,
    epoch: Option<u32>,
    from: Place,
    limit: u16,
) -> Result<Part, Error> {
    if epoch.is_some_and(|epoch| epoch != admin.epoch.0) {
        return Err(foreign());
    }
    let limit = usize::from(limit.clamp(1, PAGE_SIZE_MAX));
    let (connections, next) = timeout(PART_DEADLINE, gather(admin, from, limit)).await.map_err(|_| {
        Error::new(Reason::ShardSilent, "The shards took too long to list; ask for a smaller page.")
    })??;
    Ok(Part { connections, epoch: admin.epoch.0, next })
}

/// Fills a part, and says where the next one starts, if there can be one.
async fn gather(admin: &Admin, start: Place, size: usize) -> Result<(Vec<Connection>, Option<Place>), Error> {
    let mut connections = Vec::with_capacity(size);
    let mut place = start;
    while usize::from(place.shard) < admin.stats.len() {
        if connections.len() >= size {
            return Ok((connections, Some(place)));
        }
        let (after, limit) = (place.after, size - connections.len());
        let command = |reply| Command::List { after, limit, reply };
        let page = admin.ask(place.shard, SHARD_DEADLINE, command).await?;
        connections.extend(page.connections.iter().map(|description| Connection::of(admin, description)));
        place = match page.next {
            // A page that is not full and yet not the last must still get ahead.
            Some(slot) if Some(slot) != after => Place { after: Some(slot), ..place },
            _ => Place { shard: place.shard + 1, after: None },
        };
    }
    Ok((connections, None))
}

/// Where a page starts within a node; behind what comes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Place {
    shard: u16,
    after: Option<u32>,
}

impl From<Place> for backend::proto::Place {
    fn from(Place { shard, after }: Place) -> Self {
        Self { shard: shard.into(), after }
    }
}

impl From<backend::proto::Place> for Place {
    fn from(place: backend::proto::Place) -> Self {
        // There are never so many shards: nothing is found there, which is the truth.
        Self { shard: u16::try_from(place.shard).unwrap_or(u16::MAX), after: place.after }
    }
}

/// What a page token says. Callers must not read it.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    node: NodeName,
    /// `None` where the node has not been asked yet.
    epoch: Option<Epoch>,
    place: Place,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { shard, after } = self.place;
        let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let epoch = number(self.epoch.map(|epoch| epoch.0));
        let plain = format!("{} {epoch} {shard} {}", self.node, number(after));
        out.write_str(&BASE64URL_NOPAD.encode(plain.as_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(token: &str) -> Result<Self, ()> {
        let plain = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| ())?);
        let plain = plain.map_err(|_| ())?;
        let [node, epoch, shard, after] = plain.split(' ').collect::<Vec<_>>()[..] else { return Err(()) };
        let number = |text: &str| match text {
            "-" => Ok(None),
            number => number.parse().map(Some).map_err(|_| ()),
        };
        Ok(Self {
            node: NodeName::parse(node).map_err(|_| ())?,
            epoch: number(epoch)?.map(Epoch),
            place: Place { shard: shard.parse().map_err(|_| ())?, after: number(after)? },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use backend::proto::{self, answer};

    use super::*;
    use crate::admin::tests::peered::Peered;

    #[tokio::test]
    async fn a_node_whose_part_of_a_list_never_ends_is_passed_over() {
        let place = |shard, after| Some(proto::Place { shard, after });
        let some = |many| vec![proto::Connection::default(); many];
        for (what, connections, next) in [
            ("nothing, and so on", some(0), place(0, None)),
            ("nothing, and on behind it", some(0), place(0, Some(1))),
            ("the same again and again", some(1), place(0, None)),
            ("more than it was asked for", some(101), None),
        ] {
            let outcome = Some(answer::Outcome::Page(answer::Page { connections, next }));
            let admin = Peered::answering(proto::Answer { epoch: 9, outcome, ..proto::Answer::default() })
                .node(Vec::new());
            let first = timeout(Duration::from_secs(10), list(&admin, Some(100), None)).await;
            let first = first.expect(what).unwrap();
            assert_eq!((first.connections.len(), first.silent), (0, vec!["m".to_owned()]), "{what}");
            let token = first.next_page_token.unwrap();
            let second = list(&admin, Some(100), Some(&token)).await.unwrap();
            assert_eq!((second.connections.len(), second.next_page_token), (0, None), "{what}");
        }
    }

    #[test]
    fn a_page_token_survives_the_way_through_the_caller() {
        for number in [None, Some(0), Some(u32::MAX)] {
            let place = Place { shard: u16::MAX, after: number };
            let node = NodeName::parse("a-b_1").unwrap();
            let cursor = Cursor { node, epoch: number.map(Epoch), place };
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for bad in ["", "x", "AAAA", &BASE64URL_NOPAD.encode(b"a 1 2"), &BASE64URL_NOPAD.encode(b"a 1 2 3 4")]
        {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
