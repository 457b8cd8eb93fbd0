//! Asks once, when the program starts, whether Redis lets this node in and grants what it will ask for: a definite refusal
//! then is a mistake of the configuration, and ends the start with what to do about it. Refuses to judge a server that does
//! not answer: that is a bus that is away, which [`super::health`] tells. Called by [`super::RedisBus::start`].
//!
//! Rights are tried without doing anything: Redis looks at them when it queues a command of a transaction, and this one
//! ends with its connection.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

use super::keys::Keys;
use super::link::{Link, Problem};
use crate::joint::RouteOnBus;
use crate::trouble::{self, Trouble};

/// How long a start waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What the ACL user may do, beside the names that it may do it with. The README says the same.
const RIGHTS: &str = "+hello +ping +select +multi +exec +publish +subscribe +unsubscribe +xadd +xlen +xtrim +xpending \
     +xinfo|groups";
/// What the library says of a database that there is not, or that this user may not have.
const NO_DATABASE: &str = "switch database";

/// The keys that mend what keeps us out.
const KEYS: trouble::Keys = trouble::Keys {
    section: "bus.redis",
    server: "server",
    scheme: "rediss://",
    login: "bus.redis.user and bus.redis.password_file",
};

/// Asks. Whether the server answers, and would let us do everything.
///
/// # Errors
/// In words: the server refuses us, by `name`, and which key to set.
pub(super) async fn knock(link: &Link, keys: &Keys, routes: &[RouteOnBus]) -> Result<bool, String> {
    let refused =
        |problem: &str| format!("{} does not let us in: {problem}; {}", link.name(), advice(problem));
    match tokio::time::timeout(ANSWER_WITHIN, try_everything(link, keys, routes)).await {
        Ok(Err(problem)) if is_a_mistake(&problem) => Err(refused(&problem)),
        Ok(Ok(())) => Ok(true),
        // It does not answer, which is told when the connections are tried.
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

/// Whether trying again is of no use.
pub(super) fn is_a_mistake(problem: &str) -> bool {
    Trouble::of(problem) != Trouble::Unreachable || problem.contains(NO_DATABASE)
}

/// What to do about it.
pub(super) fn advice(problem: &str) -> String {
    // Libraries write the codes of servers as they please.
    let in_capitals = problem.to_uppercase();
    let says = |code: &str| in_capitals.contains(code);
    if problem.contains(NO_DATABASE) {
        return "see bus.redis.database, and whether the ACL user has +select".to_owned();
    }
    if says("NOPERM") {
        format!(
            "grant the ACL user (bus.redis.user) what it lacks of: names ~PREFIX:* &PREFIX:* (bus.prefix), {RIGHTS}"
        )
    } else if says("NOAUTH") {
        "it asks for a password: set bus.redis.password_file, and bus.redis.user unless it is for the default user"
            .to_owned()
    } else {
        KEYS.advice(problem)
    }
}

/// Connects, and has everything queued that the bus will do.
async fn try_everything(link: &Link, keys: &Keys, routes: &[RouteOnBus]) -> Result<(), Problem> {
    let connected = link.connect().await?;
    let mut connection = connected.connection.clone();
    let complaint = |error: RedisError| error.to_string();
    // An empty transaction, because the one behind it never gets to its end.
    for command in ["MULTI", "EXEC", "MULTI"] {
        redis::cmd(command).query_async::<Value>(&mut connection).await.map_err(complaint)?;
    }
    let refusals = refusals(&mut connection, &all_commands(keys, routes)).await.map_err(complaint)?;
    if refusals.is_empty() { Ok(()) } else { Err(refusals.join(", ")) }
}

/// What the bus does, with names as it will use.
fn all_commands(keys: &Keys, routes: &[RouteOnBus]) -> Pipeline {
    let (of_the_node, channel) = (keys.of_the_node(), keys.any_channel());
    let mut pipeline = redis::pipe();
    // What is refused must not hide what else is.
    pipeline.ignore_errors();
    pipeline.cmd("PING");
    pipeline.cmd("SUBSCRIBE").arg(&of_the_node).arg(&channel);
    pipeline.cmd("UNSUBSCRIBE").arg(&channel);
    pipeline.cmd("PUBLISH").arg(&channel).arg("");
    if let Some(route) = routes.iter().find(|route| route.tells_bus) {
        let stream = keys.stream(&route.name, 0);
        pipeline.cmd("XADD").arg(&stream).arg("*").arg("event").arg("");
        pipeline.cmd("XLEN").arg(&stream);
        pipeline.cmd("XTRIM").arg(&stream).arg("MINID").arg("=").arg("0-0");
        pipeline.cmd("XPENDING").arg(&stream).arg("group");
        pipeline.cmd("XINFO").arg("GROUPS").arg(&stream);
    }
    pipeline
}

/// What is not granted, each once.
async fn refusals(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> Result<Vec<Problem>, RedisError> {
    let mut refusals = Vec::new();
    for answer in commands.query_async::<Vec<Value>>(connection).await? {
        if let Value::ServerError(error) = answer {
            let problem = error.to_string();
            if is_a_mistake(&problem) && !refusals.contains(&problem) {
                refusals.push(problem);
            }
        }
    }
    Ok(refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_that_are_asked_for_are_those_of_the_readme() {
        assert!(include_str!("../../../../../README.md").contains(RIGHTS));
    }

    #[test]
    fn each_refusal_names_the_key_that_mends_it_and_what_may_pass_is_none() {
        for (problem, key) in [
            ("\"WRONGPASS\": invalid username-password pair or user is disabled.", "bus.redis.password_file"),
            (
                "\"NOAUTH\": HELLO must be called with the client already authenticated",
                "bus.redis.password_file",
            ),
            ("NoPerm: this user has no permissions to run the 'xadd' command", "bus.redis.user"),
            ("Redis server refused to switch database - DB index is out of range", "bus.redis.database"),
            ("invalid peer certificate: UnknownIssuer", "bus.redis.ca_file"),
            ("received corrupt message of type InvalidContentType", "rediss:// in bus.redis.server"),
        ] {
            assert!(is_a_mistake(problem), "{problem}");
            assert!(advice(problem).contains(key), "{problem}: {}", advice(problem));
        }
        for passing in [
            "Connection refused (os error 111)",
            "\"LOADING\": Redis is loading the dataset in memory",
            "\"MASTERDOWN\": Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "\"ERR\": max number of clients reached",
            "tls handshake eof",
        ] {
            assert!(!is_a_mistake(passing), "{passing}");
        }
    }
}
