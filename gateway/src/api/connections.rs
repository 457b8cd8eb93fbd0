//! Owns the calls about single connections: send, describe, list, close, subscribe, unsubscribe. Each is one
//! command to one shard and its reply; an id of another node or of an earlier life of this one is gone.

use std::str::FromStr;
use std::time::Duration;

use bridge::principal::USER_TOKEN;
use bridge::{Address, Channel, Command, ConnId, Description, Epoch, Message, NodeName};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use tokio::time::timeout;

use super::publish::channel;
use super::{Error, Reason, SHARD_DEADLINE, TICK_MS};
use crate::admin::Admin;

/// Connections on a page when the caller does not say.
const PAGE_SIZE_DEFAULT: u16 = 100;
/// Most connections on a page.
pub(crate) const PAGE_SIZE_MAX: u16 = 1000;
/// How long a page may take, over all shards it asks.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of a close reason (RFC 6455, section 5.5: 125 less the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Hands a message to one connection. Success says that the connection was there, not that it has read the message.
///
/// # Errors
/// `bad_connection_id`, `gone`, `busy`, `shard_silent`.
pub(crate) async fn send(admin: &Admin, id: &str, message: Message) -> Result<(), Error> {
    let to = admin.locate(id)?;
    admin.order(to, |reply| Command::Send { to, message, by: None, reply: Some(reply) }).await
}

/// How to close: a code, or none for 1000, and a reason of at most 123 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Goodbye<'a> {
    /// The close code.
    pub(crate) code: Option<u16>,
    /// For the client.
    pub(crate) reason: &'a str,
}

impl Goodbye<'_> {
    /// The code to send.
    ///
    /// # Errors
    /// `bad_close` for what may not stand in a close frame.
    pub(super) fn check(self) -> Result<u16, Error> {
        let code = self.code.unwrap_or(wire::ws::close::code::NORMAL);
        if !wire::ws::close::may_be_sent(code) {
            return Err(Error::new(
                Reason::BadClose,
                format!(
                    "The code {code} may not be sent (RFC 6455, section 7.4); use 1000, or one from 4000 to 4999."
                ),
            ));
        }
        if self.reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(Error::new(
                Reason::BadClose,
                format!("A close reason has at most {CLOSE_REASON_BYTES_MAX} bytes of UTF-8; shorten it."),
            ));
        }
        Ok(code)
    }
}

/// Begins the close handshake with one connection.
///
/// # Errors
/// `bad_close`, `bad_connection_id`, `gone`, `busy`, `shard_silent`.
pub(crate) async fn close(admin: &Admin, id: &str, goodbye: Goodbye<'_>) -> Result<(), Error> {
    let code = goodbye.check()?;
    let whom = admin.locate(id)?;
    let reason = goodbye.reason.into();
    admin.order(whom, |reply| Command::Close { whom, code, reason, by: None, reply: Some(reply) }).await
}

/// Puts a connection into a channel; being in it already is success.
///
/// # Errors
/// `bad_connection_id`, `bad_channel`, `gone`, `channels_full`, `busy`, `shard_silent`.
pub(crate) async fn subscribe(admin: &Admin, id: &str, name: &str) -> Result<(), Error> {
    let (whom, channel) = (admin.locate(id)?, open_channel(name)?);
    admin.order(whom, |reply| Command::Subscribe { whom, channel, by: None, reply: Some(reply) }).await
}

/// Takes a connection out of a channel; not being in it is success.
///
/// # Errors
/// `bad_connection_id`, `bad_channel`, `gone`, `busy`, `shard_silent`.
pub(crate) async fn unsubscribe(admin: &Admin, id: &str, name: &str) -> Result<(), Error> {
    let (whom, channel) = (admin.locate(id)?, open_channel(name)?);
    admin.order(whom, |reply| Command::Unsubscribe { whom, channel, by: None, reply: Some(reply) }).await
}

/// A channel that connections may be put into and taken out of. Those of users say who somebody is.
fn open_channel(name: &str) -> Result<Channel, Error> {
    if name.split('.').next() == Some(USER_TOKEN) {
        return Err(of_users());
    }
    channel(name)
}

/// The channel is a user's.
pub(super) fn of_users() -> Error {
    Error::new(
        Reason::BadChannel,
        "The channels of users cannot be joined or left: a connection is in the one of its user.",
    )
}

/// Describes one connection.
///
/// # Errors
/// `bad_connection_id`, `gone`, `busy`, `shard_silent`.
pub(crate) async fn describe(admin: &Admin, id: &str) -> Result<Connection, Error> {
    let whom = admin.locate(id)?;
    let command = |reply| Command::Describe { whom, reply };
    let description = admin.ask(whom.shard, SHARD_DEADLINE, command).await?.ok_or_else(Error::gone)?;
    Ok(Connection::of(admin, &description))
}

/// A page of connections.
#[derive(Serialize)]
pub(crate) struct ConnectionPage {
    /// They, shard by shard, in slot order.
    pub(crate) connections: Vec<Connection>,
    /// Where the next page starts; `None` at the end.
    pub(crate) next_page_token: Option<String>,
}

/// Lists connections. Those that come and go meanwhile may or may not be seen; one that stays is seen once.
///
/// # Errors
/// `bad_request` for another run's token or a size beyond [`PAGE_SIZE_MAX`], `busy`, `shard_silent`.
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
    let start = token.map_or(Ok(Place::default()), |token| place_of(admin, token))?;
    let (connections, next) =
        timeout(PAGE_DEADLINE, gather(admin, start, usize::from(size))).await.map_err(|_| {
            Error::new(Reason::ShardSilent, "The shards took too long to list; ask for a smaller page.")
        })??;
    let next = next.map(|place| Cursor { node: admin.node.clone(), epoch: admin.epoch, place }.to_string());
    Ok(ConnectionPage { connections, next_page_token: next })
}

/// Fills a page, and says where the next one starts, if there can be one.
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

fn place_of(admin: &Admin, token: &str) -> Result<Place, Error> {
    let cursor: Option<Cursor> = token.parse().ok();
    match cursor.filter(|cursor| cursor.node == admin.node && cursor.epoch == admin.epoch) {
        Some(cursor) => Ok(cursor.place),
        None => Err(Error::new(
            Reason::BadRequest,
            "The page_token is not one of this run of this node; start again without it.",
        )),
    }
}

/// A connection as the API shows it. Times in milliseconds, sizes in bytes.
#[derive(Serialize)]
pub(crate) struct Connection {
    pub(crate) id: String,
    /// As an app server said when it let it in.
    pub(crate) user: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) peer: String,
    pub(crate) phase: &'static str,
    pub(crate) age_ms: u64,
    pub(crate) quiet_ms: u64,
    pub(crate) channels: Vec<String>,
    pub(crate) messages_in: u32,
    pub(crate) messages_out: u32,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) backlog_frames: u32,
    pub(crate) backlog_bytes: u32,
    pub(crate) partial_bytes: u64,
    /// Why it is not read; empty when it is.
    pub(crate) paused: Vec<&'static str>,
    pub(crate) closing: Option<Closing>,
    pub(crate) peer_connections: u32,
    pub(crate) limiter: Option<Limiter>,
}

/// How much of its own message rate is used.
#[derive(Serialize)]
pub(crate) struct Limiter {
    pub(crate) messages: u32,
    pub(crate) burst: u32,
    /// Until there is room for one more.
    pub(crate) wait_ms: u64,
}

/// A close that has begun.
#[derive(Serialize)]
pub(crate) struct Closing {
    pub(crate) reason: &'static str,
    pub(crate) sent_code: Option<u16>,
}

impl Connection {
    pub(crate) fn of(admin: &Admin, description: &Description) -> Self {
        let address: Address = description.address;
        let id = ConnId { node: admin.node.clone(), epoch: admin.epoch, address };
        Self {
            id: id.to_string(),
            user: description.user.as_ref().map(ToString::to_string),
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
