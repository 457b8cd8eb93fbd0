//! Owns the two values of a route that are tables inside a line: its own heartbeat, and the messages that are answered
//! at once. Refuses to know what else a route has. Called by `routes`.

use toml::de::DeValue;

use crate::forms::{Form, quoted};
use crate::reader::{Reader, Spot};
use crate::routes::AutoReply;
use crate::sections::{Heartbeat, TIMER};

/// Most messages of one route that are answered at once: each message from a client is compared with all of them.
pub const AUTO_REPLIES_MAX: usize = 16;
/// Longest such message, and longest answer, in bytes.
pub const AUTO_REPLY_BYTES_MAX: usize = 256;

pub(crate) const HEARTBEAT: &str =
    "{ interval = \"25s\", pong_deadline = \"20s\" }, or one of the two, as in [heartbeat]";

/// The heartbeat of a route: what it does not say is as everywhere.
pub(crate) fn read<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, everywhere: &Heartbeat) -> Heartbeat {
    let mut heartbeat = everywhere.clone();
    let Some(value) = reader.value(spot, "heartbeat") else { return heartbeat };
    let path = spot.path("heartbeat");
    match reader.table(path.clone(), value, &["interval", "pong_deadline"]) {
        Some(table) => {
            heartbeat.interval = reader.field(&table, "interval", &TIMER).or(heartbeat.interval);
            heartbeat.pong_deadline =
                reader.field(&table, "pong_deadline", &TIMER).or(heartbeat.pong_deadline);
        }
        None => {
            reader.refuse::<()>(&path, value, HEARTBEAT.to_owned());
        }
    }
    heartbeat
}

/// As TOML what differs from everywhere, if anything does.
pub(crate) fn write(heartbeat: &Heartbeat, everywhere: &Heartbeat) -> Option<String> {
    let mut keys = Vec::new();
    for (key, own, other) in [
        ("interval", heartbeat.interval, everywhere.interval),
        ("pong_deadline", heartbeat.pong_deadline, everywhere.pong_deadline),
    ] {
        keys.extend(TIMER.write(&own).filter(|_| own != other).map(|value| format!("{key} = {value}")));
    }
    (!keys.is_empty()).then(|| format!("{{ {} }}", keys.join(", ")))
}

pub(crate) fn expected_auto_reply() -> String {
    format!(
        "a table such as {{ \"ping\" = \"pong\" }}, at most {AUTO_REPLIES_MAX} messages, each and its answer of at most \
         {AUTO_REPLY_BYTES_MAX} bytes"
    )
}

/// A message, or an answer.
struct Words;

impl Form<String> for Words {
    fn expected(&self) -> String {
        format!("text of at most {AUTO_REPLY_BYTES_MAX} bytes")
    }

    fn read(&self, value: &DeValue<'_>) -> Result<String, String> {
        let text = value.as_str().filter(|text| text.len() <= AUTO_REPLY_BYTES_MAX);
        text.map(str::to_owned).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// The messages that are answered at once, and their answers.
pub(crate) fn read_auto_reply<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Vec<AutoReply> {
    let Some(value) = reader.value(spot, "auto_reply") else { return Vec::new() };
    let path = spot.path("auto_reply");
    let fits = |table: &&toml::de::DeTable<'_>| {
        table.len() <= AUTO_REPLIES_MAX
            && table.keys().all(|question| question.get_ref().len() <= AUTO_REPLY_BYTES_MAX)
    };
    let Some(table) = value.get_ref().as_table().filter(fits) else {
        reader.refuse::<()>(&path, value, expected_auto_reply());
        return Vec::new();
    };
    let mut replies = Vec::with_capacity(table.len());
    for (question, value) in table {
        let question = question.get_ref().to_string();
        let answer = reader.read_value(&format!("{path}.{}", quoted(&question)), value, &Words).read();
        replies.extend(answer.map(|answer| AutoReply { question, answer }));
    }
    replies
}

/// As TOML, unless there is none.
pub(crate) fn write_auto_reply(replies: &[AutoReply]) -> Option<String> {
    let pairs: Vec<String> = replies
        .iter()
        .map(|reply| format!("{} = {}", quoted_key(&reply.question), quoted_key(&reply.answer)))
        .collect();
    (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
}

/// Text as a TOML string on one line, whatever is in it: a key may be no other, nor a value inside a line.
fn quoted_key(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
