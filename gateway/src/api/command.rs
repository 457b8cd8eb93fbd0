//! Owns commands over the bus: obeying one on this node by the same functions that HTTP and gRPC call, and asking other
//! nodes. Whoever may publish on the bus may command; there are no tokens. Their forms, JSON and Protobuf, are [`form`]'s;
//! nodes speak Protobuf to each other.

mod form;

use std::borrow::Cow;
use std::time::Duration;

use backend::bus_stats::Count;
use backend::peers::{Asked, CallError, call_all};
use backend::proto;
use backend::proto::command::Order;
use backend::{BusStats, Peers};
use bridge::{ConnId, NodeName};
use bytes::Bytes;

use self::form::Question;
use super::connections::{self, Connection};
use super::list::{self, Part};
use super::{Error, Reason, blocks, protobuf, users};
use crate::admin::Admin;

/// How long another node may take: longer than its shards have.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(3);

/// What became of an order that was obeyed.
#[derive(Debug)]
pub(super) enum Done {
    /// There is nothing more to say.
    Nothing,
    /// It was about this connection.
    Connection(Box<Connection>),
    /// Connections of one node.
    Page(Part),
    /// So many connections are being closed.
    Closed(u32),
    /// Whether there was something to lift.
    WasBlocked(bool),
}

/// An answer, and where it goes.
pub(crate) struct Reply {
    /// An address of the bus.
    pub(crate) to: String,
    /// In the form of the command.
    pub(crate) answer: Bytes,
}

/// Obeys a command from the bus. `None` when nobody waits for an answer, or it is for another node that heard it, too, to say
/// what becomes of it ([`says_gone`]): the first answer would hide the other's.
pub(crate) async fn obey(admin: &Admin, asked: &Asked) -> Option<Reply> {
    count(admin, |stats| &stats.commands);
    let peers = admin.publisher.bus().peers()?;
    let Question { manner, reply_to, order } = form::read(&asked.command);
    let Ok(to) = address(peers, asked, &reply_to) else {
        // It asks for an answer where none may go, and would wait for one in vain.
        malformed(admin);
        return None;
    };
    let outcome = match order {
        Ok(order) => match connection(&order).map(|id| (id, admin.hold(id))) {
            Some((id, Err(error))) if error.reason == Reason::Gone => {
                if !says_gone(admin, peers, asked.to_all, id).await {
                    return None;
                }
                count(admin, |stats| &stats.stale);
                Err(error)
            }
            Some((_, Err(error))) => Err(error),
            Some((_, Ok(()))) | None => perform(admin, order).await,
        },
        Err(mistake) => {
            malformed(admin);
            Err(Error::new(Reason::BadRequest, format!("This is no command: {mistake}.")))
        }
    };
    let answer = manner.answer(&admin.node, admin.epoch, outcome);
    let bytes_max = peers.bytes_max();
    if answer.len() <= bytes_max {
        return Some(Reply { to: to?, answer });
    }
    let detail =
        format!("The answer has {} bytes, and the bus takes {bytes_max}; ask for less.", answer.len());
    let answer = manner.answer(&admin.node, admin.epoch, Err(Error::new(Reason::TooLarge, detail)));
    Some(Reply { to: to?, answer })
}

/// Whether this node says of a connection that it does not have that it is gone. What went to all nodes is for the one whose
/// name the id has; where that is not there, for the first by name.
async fn says_gone(admin: &Admin, peers: &dyn Peers, to_all: bool, id: &str) -> bool {
    let Ok(id) = id.parse::<ConnId>() else { return true };
    if id.node == admin.node || !to_all {
        return !admin.is_of_a_twin(&id);
    }
    let others = admin.nodes.others(&admin.node);
    let is_first = others.first().is_none_or(|first| admin.node.as_str() < first.as_str());
    if !is_first || admin.nodes.knows(&id.node) {
        return false;
    }
    // One that has just come has heard it, too, and is not known yet.
    let describe = Order::Describe(proto::command::Describe { connection: id.to_string() });
    peers.call(&id.node, command(describe), CALL_WITHIN).await == Err(CallError::Silent)
}

fn malformed(admin: &Admin) {
    count(admin, |stats| &stats.malformed);
}

fn count(admin: &Admin, of: impl Fn(&BusStats) -> &Count) {
    if let Some(stats) = admin.publisher.bus().stats() {
        of(stats).add(1);
    }
}

/// The answer to a command for which there is no room; `None` when nobody waits for one.
pub(crate) fn refuse_busy(admin: &Admin, asked: &Asked) -> Option<Reply> {
    let peers = admin.publisher.bus().peers()?;
    let Question { manner, reply_to, .. } = form::read(&asked.command);
    let to = address(peers, asked, &reply_to).ok()??;
    Some(Reply { to, answer: manner.answer(&admin.node, admin.epoch, Err(Error::busy())) })
}

/// Where the answer goes, if there is to be one.
fn address(peers: &dyn Peers, asked: &Asked, reply_to: &str) -> Result<Option<String>, ()> {
    match (&asked.reply_to, reply_to) {
        (Some(to), _) => Ok(Some(to.clone())),
        (None, "") => Ok(None),
        (None, to) if peers.may_answer(to) => Ok(Some(to.to_owned())),
        (None, _) => Err(()),
    }
}

/// The connection that an order is about, where it is about one.
fn connection(order: &Order) -> Option<&str> {
    match order {
        Order::Send(proto::command::Send { connection, .. })
        | Order::Close(proto::command::CloseOne { connection, .. })
        | Order::Subscribe(proto::command::Join { connection, .. })
        | Order::Unsubscribe(proto::command::Leave { connection, .. })
        | Order::SetState(proto::command::SetState { connection, .. })
        | Order::Describe(proto::command::Describe { connection }) => Some(connection),
        Order::Publish(_)
        | Order::List(_)
        | Order::CloseUser(_)
        | Order::Block(_)
        | Order::Unblock(_)
        | Order::Blocks(_) => None,
    }
}

/// Does it here; whose connection it is was looked at.
async fn perform(admin: &Admin, order: Order) -> Result<Done, Error> {
    match order {
        Order::Send(send) => {
            connections::send(admin, &send.connection, protobuf::message(send.message.as_ref())?).await?;
        }
        Order::Close(close) => {
            let goodbye = protobuf::goodbye(close.code, &close.reason)?;
            connections::close(admin, &close.connection, goodbye).await?;
        }
        Order::Subscribe(join) => connections::subscribe(admin, &join.connection, &join.channel).await?,
        Order::Unsubscribe(leave) => {
            connections::unsubscribe(admin, &leave.connection, &leave.channel).await?;
        }
        Order::SetState(set) => connections::set_state(admin, &set.connection, &set.state).await?,
        Order::Describe(describe) => {
            let connection = connections::describe(admin, &describe.connection).await?;
            return Ok(Done::Connection(Box::new(connection)));
        }
        Order::List(list) => {
            let (from, limit) = (list.from.unwrap_or_default().into(), list.limit);
            let limit = u16::try_from(limit).unwrap_or(u16::MAX);
            return Ok(Done::Page(list::list_here(admin, list.epoch, from, limit).await?));
        }
        Order::CloseUser(close) => {
            let goodbye = protobuf::goodbye(close.code, &close.reason)?;
            return Ok(Done::Closed(users::close_here(admin, &close.user, goodbye).await?));
        }
        Order::Block(block) => blocks::block(admin, &block).await?,
        Order::Unblock(unblock) => return Ok(Done::WasBlocked(blocks::unblock(admin, &unblock)?)),
        Order::Blocks(known) => blocks::learn(admin, &known).await?,
        Order::Publish(_) => {
            let detail = "Publish on the bus itself, to the name of the channel there: every node hears it.";
            return Err(Error::new(Reason::BadRequest, detail));
        }
    }
    Ok(Done::Nothing)
}

/// Has another node do something.
///
/// # Errors
/// `bus_away`, `busy`, `too_large`; `node_silent` when the node is there and does not answer, `gone` when it is not there;
/// and whatever the node says.
pub(super) async fn call(admin: &Admin, node: &NodeName, order: Order) -> Result<Done, Error> {
    let peers = admin.publisher.bus().peers().ok_or_else(Error::gone)?;
    let answer = peers.call(node, command(order), CALL_WITHIN).await;
    read(admin, node, answer)
}

/// Has all other nodes do something; what each says.
pub(super) async fn call_others(admin: &Admin, order: Order) -> Vec<(NodeName, Result<Done, Error>)> {
    let Some(peers) = admin.publisher.bus().peers() else { return Vec::new() };
    let others = admin.nodes.others(&admin.node);
    let answers = call_all(peers, &others, &command(order), CALL_WITHIN).await;
    let read = |(node, answer)| {
        let answer = read(admin, &node, answer);
        (node, answer)
    };
    others.into_iter().zip(answers).map(read).collect()
}

fn command(order: Order) -> proto::Command {
    proto::Command { order: Some(order), ..proto::Command::default() }
}

fn read(admin: &Admin, node: &NodeName, answer: Result<proto::Answer, CallError>) -> Result<Done, Error> {
    use proto::answer::Outcome;
    let answer = answer.map_err(|error| match error {
        CallError::Away => Error::new(
            Reason::BusAway,
            format!("Node {node} cannot be asked while the bus is away; nothing was done."),
        )
        .retry_after(5),
        CallError::TooLarge => {
            Error::new(Reason::TooLarge, "The bus takes no message of this size; send it to the node itself.")
        }
        CallError::Silent if admin.nodes.knows(node) => Error::new(
            Reason::NodeSilent,
            format!("Node {node} did not answer in time, and may still do what was asked."),
        )
        .retry_after(5),
        CallError::Silent => Error::gone(),
        CallError::Busy => Error::new(
            Reason::Busy,
            "Too many calls wait for other nodes and nothing was done; send the request again in a second.",
        )
        .retry_after(1),
        CallError::Unreadable => unreadable(node),
    })?;
    Ok(match answer.outcome.ok_or_else(|| unreadable(node))? {
        Outcome::Done(_) => Done::Nothing,
        Outcome::Connection(connection) => Done::Connection(Box::new(protobuf::seen(connection))),
        Outcome::Page(page) => Done::Page(Part {
            connections: page.connections.into_iter().map(protobuf::seen).collect(),
            epoch: answer.epoch,
            next: page.next.map(Into::into),
        }),
        Outcome::Closed(connections) => Done::Closed(connections),
        Outcome::WasBlocked(was_blocked) => Done::WasBlocked(was_blocked),
        Outcome::Error(proto::Failure { reason, detail }) => {
            return Err(Error {
                reason: Reason::of(&reason).ok_or_else(|| unreadable(node))?,
                detail: Cow::Owned(detail),
                retry_after_s: u16::try_from(answer.retry_after_s).ok().filter(|seconds| *seconds > 0),
            });
        }
    })
}

/// What a node said is no answer to what it was asked.
pub(super) fn unreadable(node: &NodeName) -> Error {
    let detail = format!("Node {node} gave an answer of an unknown form; does it run another version?");
    Error::new(Reason::Internal, detail)
}

/// The names of those who did not do as they were told.
pub(super) fn silent(answers: &[(NodeName, Result<Done, Error>)]) -> Vec<String> {
    answers.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| node.to_string()).collect()
}
