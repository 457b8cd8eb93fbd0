//! Owns the calls about users: a message to all connections of one, and the end of all of them. A user who is not there
//! is no error, because app servers cannot know.

use backend::proto::command::{self as wire, Order};
use bridge::{Command, Message, User};
use tokio::time::Instant;

use super::connections::Goodbye;
use super::publish::{self, Outcome, RECEIPT_DEADLINE};
use super::{Error, Reason, SHARD_DEADLINE, command};
use crate::admin::Admin;

/// Hands a message to all connections of a user, the excluded one left out.
///
/// # Errors
/// `bad_user`, `bad_connection_id`, `busy`, `bus_away`, `too_large`.
pub(crate) async fn send(
    admin: &Admin,
    user: &str,
    message: Message,
    exclude: Option<&str>,
) -> Result<Outcome, Error> {
    let channel = parse(user)?.channel();
    let exclude = publish::excluded(admin, exclude)?;
    let deadline = Instant::now() + RECEIPT_DEADLINE;
    let sum = publish::hand_over(admin, &channel, message, exclude.as_ref()).await?;
    Ok(publish::outcome(sum, deadline).await)
}

/// What became of all connections of a user.
pub(crate) struct ClosedUser {
    /// How many there were, on all nodes that answered.
    pub(crate) connections: u32,
    /// The names of nodes that did not.
    pub(crate) silent: Vec<String>,
}

/// Begins to close all connections of a user, on all nodes; the answer says how many there were.
///
/// # Errors
/// `bad_user`, `bad_close`; `busy` and `shard_silent` when a shard of this node could not be asked, after others may have
/// been.
pub(crate) async fn close(admin: &Admin, user: &str, goodbye: Goodbye<'_>) -> Result<ClosedUser, Error> {
    let here = close_here(admin, user, goodbye).await?;
    let Goodbye { code, reason } = goodbye;
    let (code, reason) = (code.map_or(0, u32::from), reason.to_owned());
    let order = Order::CloseUser(wire::CloseUser { user: user.to_owned(), code, reason });
    let others = command::call_others(admin, order).await;
    let silent = command::silent(&others);
    let connections = others.iter().fold(here, |sum, (_, answer)| match answer {
        Ok(command::Done::Closed(there)) => sum.saturating_add(*there),
        _ => sum,
    });
    Ok(ClosedUser { connections, silent })
}

/// The same on this node.
///
/// # Errors
/// As [`close`].
pub(super) async fn close_here(admin: &Admin, user: &str, goodbye: Goodbye<'_>) -> Result<u32, Error> {
    let (user, code) = (parse(user)?, goodbye.check()?);
    let mut connections = 0;
    for shard in 0..admin.shards() {
        let (user, reason) = (user.clone(), goodbye.reason.into());
        let command = |reply| Command::CloseUser { user, code, reason, reply };
        connections += admin.ask(shard, SHARD_DEADLINE, command).await?;
    }
    Ok(connections)
}

fn parse(user: &str) -> Result<User, Error> {
    User::parse(user).map_err(|error| Error::new(Reason::BadUser, format!("{error}; mend the name.")))
}
