//! Owns the calls about single connections: send, describe, close, subscribe, unsubscribe. Each is one
//! command to one shard and its reply; for an id of another node it is one command to that node, which does the same. An
//! id of an earlier life of a node is gone.

use std::borrow::Cow;

use backend::proto::command::{self as order, Order};
use bridge::message::Bytes;
use bridge::principal::{STATE_BYTES_MAX, USER_TOKEN};
use bridge::{Address, Channel, Command, ConnId, Description, Message, NodeName};
use serde::Serialize;

use super::command::{Done, call, unreadable};
use super::publish::channel;
use super::shards::Whereabouts;
use super::{Error, Reason, SHARD_DEADLINE, TICK_MS, protobuf};
use crate::admin::Admin;

/// Most bytes of a close reason (RFC 6455, section 5.5: 125 less the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Hands a message to one connection. Success says that the connection was there, not that it has read the message.
///
/// # Errors
/// `bad_connection_id`, `gone`, `busy`, `shard_silent`, `node_silent`, `bus_away`.
pub(crate) async fn send(admin: &Admin, id: &str, message: Message) -> Result<(), Error> {
    let to = match admin.locate(id)? {
        Whereabouts::Here(to) => to,
        Whereabouts::There(id) => {
            let send = order::Send { connection: id.to_string(), message: Some(protobuf::written(&message)) };
            return forward(admin, &id.node, Order::Send(send)).await;
        }
    };
    admin.order(to, |reply| Command::Send { to, message, by: None, reply: Some(reply) }).await
}

/// Has the node of a connection do it.
async fn forward(admin: &Admin, node: &NodeName, order: Order) -> Result<(), Error> {
    call(admin, node, order).await.map(|_| ())
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
/// `bad_close`, `bad_connection_id`, `gone`, `busy`, `shard_silent`, `node_silent`, `bus_away`.
pub(crate) async fn close(admin: &Admin, id: &str, goodbye: Goodbye<'_>) -> Result<(), Error> {
    let code = goodbye.check()?;
    let whom = match admin.locate(id)? {
        Whereabouts::Here(whom) => whom,
        Whereabouts::There(to) => {
            let (connection, reason) = (id.to_owned(), goodbye.reason.to_owned());
            let close = order::CloseOne { connection, code: code.into(), reason };
            return forward(admin, &to.node, Order::Close(close)).await;
        }
    };
    let reason = goodbye.reason.into();
    admin.order(whom, |reply| Command::Close { whom, code, reason, by: None, reply: Some(reply) }).await
}

/// Puts a connection into a channel; being in it already is success.
///
/// # Errors
/// `bad_connection_id`, `bad_channel`, `gone`, `channels_full`, `busy`, `shard_silent`, `node_silent`, `bus_away`.
pub(crate) async fn subscribe(admin: &Admin, id: &str, name: &str) -> Result<(), Error> {
    let (place, channel) = (admin.locate(id)?, open_channel(name)?);
    let whom = match place {
        Whereabouts::Here(whom) => whom,
        Whereabouts::There(to) => {
            let (connection, channel) = (id.to_owned(), name.to_owned());
            let join = order::Join { connection, channel };
            return forward(admin, &to.node, Order::Subscribe(join)).await;
        }
    };
    admin.order(whom, |reply| Command::Subscribe { whom, channel, by: None, reply: Some(reply) }).await
}

/// Takes a connection out of a channel; not being in it is success.
///
/// # Errors
/// `bad_connection_id`, `bad_channel`, `gone`, `busy`, `shard_silent`, `node_silent`, `bus_away`.
pub(crate) async fn unsubscribe(admin: &Admin, id: &str, name: &str) -> Result<(), Error> {
    let (place, channel) = (admin.locate(id)?, open_channel(name)?);
    let whom = match place {
        Whereabouts::Here(whom) => whom,
        Whereabouts::There(to) => {
            let (connection, channel) = (id.to_owned(), name.to_owned());
            let leave = order::Leave { connection, channel };
            return forward(admin, &to.node, Order::Unsubscribe(leave)).await;
        }
    };
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

/// Gives a connection of this node another opaque state, for the events to come.
///
/// # Errors
/// `bad_request`, `bad_connection_id`, `gone`, `busy`, `shard_silent`.
pub(super) async fn set_state(admin: &Admin, id: &str, state: &[u8]) -> Result<(), Error> {
    if state.len() > STATE_BYTES_MAX {
        let detail = format!("A state has at most {STATE_BYTES_MAX} bytes; shorten it.");
        return Err(Error::new(Reason::BadRequest, detail));
    }
    let Whereabouts::Here(whom) = admin.locate(id)? else { return Err(Error::gone()) };
    let state = Bytes::copy_from_slice(state);
    admin.order(whom, |reply| Command::SetState { whom, state, by: None, reply: Some(reply) }).await
}

/// Describes one connection.
///
/// # Errors
/// `bad_connection_id`, `gone`, `busy`, `shard_silent`, `node_silent`, `bus_away`.
pub(crate) async fn describe(admin: &Admin, id: &str) -> Result<Connection, Error> {
    let whom = match admin.locate(id)? {
        Whereabouts::Here(whom) => whom,
        Whereabouts::There(to) => {
            let describe = order::Describe { connection: id.to_owned() };
            return match call(admin, &to.node, Order::Describe(describe)).await? {
                Done::Connection(connection) => Ok(*connection),
                _ => Err(unreadable(&to.node)),
            };
        }
    };
    let command = |reply| Command::Describe { whom, reply };
    let description = admin.ask(whom.shard, SHARD_DEADLINE, command).await?.ok_or_else(Error::gone)?;
    Ok(Connection::of(admin, &description))
}

/// A connection as the API shows it. Times in milliseconds, sizes in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Connection {
    pub(crate) id: String,
    /// As an app server said when it let it in.
    pub(crate) user: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) peer: String,
    pub(crate) phase: Cow<'static, str>,
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
    pub(crate) paused: Vec<Cow<'static, str>>,
    pub(crate) closing: Option<Closing>,
    pub(crate) peer_connections: u32,
    pub(crate) limiter: Option<Limiter>,
}

/// How much of its own message rate is used.
#[derive(Debug, Serialize)]
pub(crate) struct Limiter {
    pub(crate) messages: u32,
    pub(crate) burst: u32,
    /// Until there is room for one more.
    pub(crate) wait_ms: u64,
}

/// A close that has begun.
#[derive(Debug, Serialize)]
pub(crate) struct Closing {
    pub(crate) reason: Cow<'static, str>,
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
            phase: Cow::Borrowed(description.phase),
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
            paused: description.paused.iter().map(|why| Cow::Borrowed(why.label())).collect(),
            closing: description
                .closing
                .map(|(reason, sent_code)| Closing { reason: Cow::Borrowed(reason.label()), sent_code }),
        }
    }
}
