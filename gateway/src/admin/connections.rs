//! Owns the calls about single connections: send, describe, list, close, subscribe, unsubscribe. Each is one
//! command to one shard and its reply; an id of another node or of an earlier life of this one is gone.

use std::str::FromStr;
use std::time::Duration;

use bridge::command::NotDone;
use bridge::{Address, Command, ConnId, Description, Epoch, NodeName};
use data_encoding::BASE64URL_NOPAD;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::Admin;
use super::call::{Answer, Call, SHARD_DEADLINE, empty, json};
use super::problem::{Problem, Reason};
use super::publish::{channel, message};
use super::query::Query;

/// Connections on a page when the caller does not say.
const PAGE_SIZE_DEFAULT: u16 = 100;
/// Most connections on a page.
const PAGE_SIZE_MAX: u16 = 1000;
/// How long a page may take, over all shards it asks.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of a close reason (RFC 6455, section 5.5: 125 less the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;
/// One tick of a shard, in milliseconds.
pub(super) const TICK_MS: u64 = 100;

/// `POST /v1/connections/{id}/messages`: the body is the payload. 202 says that the connection was there, not that
/// it has read the message.
pub(super) async fn send(admin: &Admin, call: Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let to = admin.locate(call.variable(0))?;
    let message = message(&call)?;
    drop(call);
    let sent = admin
        .ask(to.shard, SHARD_DEADLINE, |reply| Command::Send { to, message, by: None, reply: Some(reply) })
        .await?;
    sent.map_err(|_| Problem::gone())?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `DELETE /v1/connections/{id}?code=&reason=`. 202: the close handshake has begun.
pub(super) async fn close(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["code", "reason"])?;
    let code = query.number("code", 1000..=4999)?.unwrap_or(wire::ws::close::code::NORMAL);
    if !wire::ws::close::may_be_sent(code) {
        return Err(Problem::new(
            Reason::BadClose,
            format!(
                "The code {code} may not be sent (RFC 6455, section 7.4); use 1000, or one from 4000 to 4999."
            ),
        ));
    }
    let reason = query.value("reason").unwrap_or_default();
    if reason.len() > CLOSE_REASON_BYTES_MAX {
        return Err(Problem::new(
            Reason::BadClose,
            format!("A close reason has at most {CLOSE_REASON_BYTES_MAX} bytes of UTF-8; shorten it."),
        ));
    }
    let whom = admin.locate(call.variable(0))?;
    let command = |reply| Command::Close { whom, code, reason: reason.into(), by: None, reply: Some(reply) };
    admin.ask(whom.shard, SHARD_DEADLINE, command).await?.map_err(|_| Problem::gone())?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `PUT /v1/connections/{id}/channels/{channel}`. 204 also when it was subscribed already.
pub(super) async fn subscribe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let (whom, channel) = (admin.locate(call.variable(0))?, channel(call.variable(1))?);
    let command = |reply| Command::Subscribe { whom, channel, by: None, reply: Some(reply) };
    match admin.ask(whom.shard, SHARD_DEADLINE, command).await? {
        Ok(()) => Ok(empty(StatusCode::NO_CONTENT)),
        Err(NotDone::Gone | NotDone::NotOwner) => Err(Problem::gone()),
        Err(NotDone::Full) => Err(Problem::new(
            Reason::ChannelsFull,
            "The connection has as many channels as it may, or the node has; unsubscribe one, or raise \
             limits.subscriptions_per_connection or limits.channels.",
        )),
    }
}

/// `DELETE /v1/connections/{id}/channels/{channel}`. 204 also when it was not subscribed.
pub(super) async fn unsubscribe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let (whom, channel) = (admin.locate(call.variable(0))?, channel(call.variable(1))?);
    let command = |reply| Command::Unsubscribe { whom, channel, by: None, reply: Some(reply) };
    admin.ask(whom.shard, SHARD_DEADLINE, command).await?.map_err(|_| Problem::gone())?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /v1/connections/{id}`.
pub(super) async fn describe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let whom = admin.locate(call.variable(0))?;
    let command = |reply| Command::Describe { whom, reply };
    let description = admin.ask(whom.shard, SHARD_DEADLINE, command).await?.ok_or_else(Problem::gone)?;
    json(StatusCode::OK, &Connection::of(admin, &description))
}

/// `GET /v1/connections?page_size=&page_token=`: shard by shard, in slot order. Connections that come and go
/// meanwhile may or may not be seen; one that stays is seen once.
pub(super) async fn list(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["page_size", "page_token"])?;
    let size = query.number("page_size", 1..=PAGE_SIZE_MAX)?.unwrap_or(PAGE_SIZE_DEFAULT);
    let start = query.value("page_token").map_or(Ok(Place::default()), |token| place_of(admin, token))?;
    let (connections, next) =
        timeout(PAGE_DEADLINE, gather(admin, start, usize::from(size))).await.map_err(|_| {
            Problem::new(Reason::ShardSilent, "The shards took too long to list; ask for a smaller page.")
        })??;
    let next = next.map(|place| Cursor { node: admin.node.clone(), epoch: admin.epoch, place }.to_string());
    json(StatusCode::OK, &json!({ "connections": connections, "next_page_token": next }))
}

/// Fills a page, and says where the next one starts, if there can be one.
async fn gather(
    admin: &Admin,
    start: Place,
    size: usize,
) -> Result<(Vec<Connection>, Option<Place>), Problem> {
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

/// Where a page starts within a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    shard: u16,
    after: Option<u32>,
}

/// What a page token says. Callers must not read it: a page of a whole cluster will say more.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    node: NodeName,
    epoch: Epoch,
    place: Place,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { shard, after } = self.place;
        let after = after.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
        let plain = format!("{} {} {shard} {after}", self.node, self.epoch.0);
        out.write_str(&BASE64URL_NOPAD.encode(plain.as_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(token: &str) -> Result<Self, ()> {
        let plain = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| ())?);
        let plain = plain.map_err(|_| ())?;
        let [node, epoch, shard, after] = plain.split(' ').collect::<Vec<_>>()[..] else { return Err(()) };
        let after = match after {
            "-" => None,
            slot => Some(slot.parse().map_err(|_| ())?),
        };
        Ok(Self {
            node: NodeName::parse(node).map_err(|_| ())?,
            epoch: Epoch(epoch.parse().map_err(|_| ())?),
            place: Place { shard: shard.parse().map_err(|_| ())?, after },
        })
    }
}

fn place_of(admin: &Admin, token: &str) -> Result<Place, Problem> {
    let cursor: Option<Cursor> = token.parse().ok();
    match cursor.filter(|cursor| cursor.node == admin.node && cursor.epoch == admin.epoch) {
        Some(cursor) => Ok(cursor.place),
        None => Err(Problem::new(
            Reason::BadRequest,
            "The page_token is not one of this run of this node; start again without it.",
        )),
    }
}

/// A connection as the API shows it. Times in milliseconds, sizes in bytes.
#[derive(Serialize)]
pub(super) struct Connection {
    id: String,
    /// Nobody has one before connections are authorised.
    user: Option<String>,
    route: Option<String>,
    peer: String,
    phase: &'static str,
    age_ms: u64,
    quiet_ms: u64,
    channels: Vec<String>,
    messages_in: u32,
    messages_out: u32,
    bytes_in: u64,
    bytes_out: u64,
    backlog_frames: u32,
    backlog_bytes: u32,
    partial_bytes: u64,
    /// Why it is not read; empty when it is.
    paused: Vec<&'static str>,
    closing: Option<Closing>,
    peer_connections: u32,
    limiter: Option<Limiter>,
}

/// How much of its own message rate is used.
#[derive(Serialize)]
struct Limiter {
    messages: u32,
    burst: u32,
    /// Until there is room for one more.
    wait_ms: u64,
}

/// A close that has begun.
#[derive(Serialize)]
struct Closing {
    reason: &'static str,
    sent_code: Option<u16>,
}

impl Connection {
    pub(super) fn of(admin: &Admin, description: &Description) -> Self {
        let address: Address = description.address;
        let id = ConnId { node: admin.node.clone(), epoch: admin.epoch, address };
        Self {
            id: id.to_string(),
            user: None,
            route: admin
                .live
                .now()
                .routes
                .get(usize::from(description.route))
                .map(|route| route.name.clone()),
            peer: description.peer.clone(),
            phase: description.phase,
            age_ms: u64::from(description.age_ticks) * TICK_MS,
            quiet_ms: u64::from(description.quiet_ticks) * TICK_MS,
            channels: description.channels.iter().map(ToString::to_string).collect(),
            messages_in: description.traffic.messages_in,
            messages_out: description.traffic.messages_out,
            bytes_in: description.traffic.bytes_in,
            bytes_out: description.traffic.bytes_out,
            backlog_frames: description.backlog_frames,
            backlog_bytes: description.backlog_bytes,
            partial_bytes: description.partial_bytes,
            peer_connections: description.peer_connections,
            limiter: description.limiter.map(|limiter| Limiter {
                messages: limiter.messages,
                burst: limiter.burst,
                wait_ms: u64::from(limiter.wait_ticks) * TICK_MS,
            }),
            paused: description.paused.iter().map(|why| why.label()).collect(),
            closing: description
                .closing
                .map(|(reason, sent_code)| Closing { reason: reason.label(), sent_code }),
        }
    }
}

#[cfg(test)]
mod cursor_tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_token_survives_the_way_through_the_caller() {
        for after in [None, Some(0), Some(u32::MAX)] {
            let place = Place { shard: u16::MAX, after };
            let cursor = Cursor { node: NodeName::parse("a-b_1").unwrap(), epoch: Epoch(u32::MAX), place };
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for bad in ["", "x", "AAAA", &BASE64URL_NOPAD.encode(b"a 1 2"), &BASE64URL_NOPAD.encode(b"a 1 2 3 4")]
        {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
