//! What is asked of Redis about streams, and how its answers are read. Knows the commands and their replies, and nothing of
//! when they are due.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};

use super::entry::{EntryId, Writer};
use super::keys::Keys;
use super::streams::{Added, Content, Group, StreamKey, Streams};
use crate::joint::RouteOnBus;

/// The name of a stream.
pub(crate) fn stream(keys: &Keys, routes: &[RouteOnBus], key: StreamKey) -> String {
    let route = routes.get(usize::from(key.route));
    debug_assert!(route.is_some(), "a route is never taken away");
    keys.stream(route.map_or("", |route| &route.name), key.partition)
}

/// A batch as one transaction: of each stream all of its part is added, or nothing.
pub(crate) struct Add {
    pipeline: Pipeline,
    /// Entries of each stream, in the order of the batch.
    parts: Vec<usize>,
}

impl Add {
    /// What is under way, with the new length of each stream asked for behind its part.
    pub(crate) fn new(keys: &Keys, writer: &Writer, routes: &[RouteOnBus], streams: &Streams) -> Self {
        let mut pipeline = redis::pipe();
        pipeline.atomic().ignore_errors();
        let mut parts = Vec::with_capacity(streams.under_way().len());
        for (key, events) in streams.under_way() {
            let name = stream(keys, routes, *key);
            let route = routes.get(usize::from(key.route)).map_or("", |route| &*route.name);
            for event in events {
                let entry = pipeline.cmd("XADD").arg(&name).arg("*");
                let mut field = |field: &'static str, value: &[u8]| {
                    entry.arg(field).arg(value);
                };
                match &event.content {
                    Content::Event(inbound) => writer.fields(inbound, route, event.again, &mut field),
                    Content::Gap(gap) => writer.gap_fields(*gap, route, event.again, &mut field),
                }
            }
            pipeline.cmd("XLEN").arg(&name);
            parts.push(events.len());
        }
        Self { pipeline, parts }
    }

    /// Asks, and reads one outcome for each stream, and why the first of them was refused.
    pub(crate) async fn run(
        self,
        mut connection: MultiplexedConnection,
    ) -> RedisResult<(Vec<Added>, Option<String>)> {
        let answers: Vec<Value> = self.pipeline.query_async(&mut connection).await?;
        Ok((read_added(&self.parts, &answers)?, first_refusal(&answers)))
    }
}

fn read_added(parts: &[usize], answers: &[Value]) -> RedisResult<Vec<Added>> {
    let mut rest = answers;
    let mut outcomes = Vec::with_capacity(parts.len());
    for entries in parts {
        let Some((part, after)) = rest.split_at_checked(entries + 1) else { return Err(unexpected()) };
        rest = after;
        let is_refused = part.iter().any(|answer| matches!(answer, Value::ServerError(_)));
        outcomes.push(match part.last() {
            Some(Value::Int(length)) if !is_refused => Added::Length(length.unsigned_abs()),
            _ => Added::Refused,
        });
    }
    Ok(outcomes)
}

fn first_refusal(answers: &[Value]) -> Option<String> {
    answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) => Some(error.to_string()),
        _ => None,
    })
}

/// The length of a stream and its groups. One that does not exist is empty and has none.
pub(crate) async fn survey(
    mut connection: MultiplexedConnection,
    stream: &str,
) -> RedisResult<(u64, Vec<Group>)> {
    let length: u64 = redis::cmd("XLEN").arg(stream).query_async(&mut connection).await?;
    if length == 0 {
        return Ok((0, Vec::new()));
    }
    let groups: Value = redis::cmd("XINFO").arg("GROUPS").arg(stream).query_async(&mut connection).await?;
    let (names, mut groups) = read_groups(groups).ok_or_else(unexpected)?;
    if names.is_empty() {
        return Ok((length, groups));
    }
    let mut pipeline = redis::pipe();
    for name in &names {
        pipeline.cmd("XPENDING").arg(stream).arg(name);
    }
    let pending: Vec<Value> = pipeline.query_async(&mut connection).await?;
    for (group, pending) in groups.iter_mut().zip(&pending) {
        group.least_pending = read_least_pending(pending).ok_or_else(unexpected)?;
    }
    Ok((length, groups))
}

/// Trims everything before an entry, and asks what is left.
pub(crate) async fn trim(
    mut connection: MultiplexedConnection,
    stream: &str,
    before: EntryId,
) -> RedisResult<u64> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("XTRIM").arg(stream).arg("MINID").arg("=").arg(before.to_string()).ignore();
    pipeline.cmd("XLEN").arg(stream);
    let (length,) = pipeline.query_async::<(u64,)>(&mut connection).await?;
    Ok(length)
}

/// Names of groups and what each was given last, out of an answer to `XINFO GROUPS`.
fn read_groups(answer: Value) -> Option<(Vec<Vec<u8>>, Vec<Group>)> {
    let Value::Array(groups) = answer else { return None };
    let (mut names, mut read) = (Vec::new(), Vec::new());
    for group in groups {
        let (mut name, mut last_delivered) = (None, None);
        for (field, value) in group.into_map_iter().ok()? {
            match (text(&field)?, value) {
                ("name", Value::BulkString(value)) => name = Some(value),
                ("last-delivered-id", value) => last_delivered = entry_id(&value),
                _ => {}
            }
        }
        names.push(name?);
        read.push(Group { last_delivered: last_delivered?, least_pending: None });
    }
    Some((names, read))
}

/// The first pending entry out of a summary by `XPENDING`: how many, the first, the last, whose.
fn read_least_pending(answer: &Value) -> Option<Option<EntryId>> {
    let Value::Array(summary) = answer else { return None };
    match summary.get(1)? {
        Value::Nil => Some(None),
        first => entry_id(first).map(Some),
    }
}

fn entry_id(value: &Value) -> Option<EntryId> {
    text(value)?.parse().ok()
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "Redis answered something that the gateway does not understand").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn refusal() -> Value {
        redis::parse_redis_value(b"-WRONGTYPE no stream\r\n").unwrap()
    }

    #[test]
    fn each_stream_of_a_batch_has_its_own_outcome() {
        let answers =
            [bulk("1-0"), bulk("1-1"), Value::Int(2), refusal(), refusal(), bulk("1-0"), Value::Int(9)];
        assert_eq!(
            read_added(&[2, 1, 1], &answers).unwrap(),
            [Added::Length(2), Added::Refused, Added::Length(9)]
        );
        assert!(read_added(&[2, 1, 2], &answers).is_err(), "an answer is missing");
    }

    #[test]
    fn groups_are_read_whichever_shape_they_come_in() {
        let pairs =
            [("name", bulk("workers")), ("consumers", Value::Int(1)), ("last-delivered-id", bulk("5-1"))];
        let map = Value::Map(pairs.clone().map(|(field, value)| (bulk(field), value)).to_vec());
        let flat = Value::Array(pairs.into_iter().flat_map(|(field, value)| [bulk(field), value]).collect());
        for group in [map, flat] {
            let (names, groups) = read_groups(Value::Array(vec![group])).unwrap();
            assert_eq!(names, [b"workers"]);
            assert_eq!(groups[0].last_delivered, "5-1".parse().unwrap());
        }
        assert!(read_groups(Value::Array(vec![Value::Map(vec![])])).is_none());
        assert!(read_groups(Value::Okay).is_none());
    }

    #[test]
    fn the_first_pending_entry_is_read() {
        let none = Value::Array(vec![Value::Int(0), Value::Nil, Value::Nil, Value::Nil]);
        assert_eq!(read_least_pending(&none), Some(None));
        let some = Value::Array(vec![Value::Int(2), bulk("3-1"), bulk("4-0"), Value::Array(vec![])]);
        assert_eq!(read_least_pending(&some), Some(Some("3-1".parse().unwrap())));
        assert_eq!(read_least_pending(&Value::Int(1)), None);
    }
}
