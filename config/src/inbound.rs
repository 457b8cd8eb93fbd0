//! Owns the one key of a route that says what happens to what its clients send. Refuses to know whether a backend of
//! that name is there: `checks` does. Called by `routes`.

use crate::forms::{Form, quoted};
use crate::names::BackendName;
use crate::reader::{Reader, Spot};
use crate::routes::{BACKEND_NAME, Template};
use crate::template::ChannelTemplate;

/// What happens to what a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// It is sent back to the client.
    Echo,
    /// It is read, checked and forgotten.
    Ignore,
    /// It is published to this channel.
    Publish(ChannelTemplate),
    /// This backend is told of it, and of connections that open and end.
    Backend(BackendName),
    /// App servers that listen on the bus are told of it, and of connections that open and end.
    Bus,
}

pub(crate) const EXPECTED: &str =
    "\"echo\", \"ignore\", \"bus\", { publish = \"room.{room}\" } or { backend = \"chat\" }";

pub(crate) fn read<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>, template: &Template<'_>) -> Option<Inbound> {
    let Some(value) = reader.value(spot, "inbound") else {
        reader.missing(spot, "inbound", EXPECTED.to_owned());
        return None;
    };
    let path = spot.path("inbound");
    let word = match value.get_ref().as_str() {
        Some("echo") => Some(Inbound::Echo),
        Some("ignore") => Some(Inbound::Ignore),
        Some("bus") => Some(Inbound::Bus),
        _ => None,
    };
    if word.is_some() {
        reader.place(path, value, false);
        return word;
    }
    let keys = value.get_ref().as_table().map(toml::de::DeTable::len);
    let Some(table) = keys.and_then(|_| reader.table(path.clone(), value, &["publish", "backend"])) else {
        reader.refuse::<()>(&path, value, EXPECTED.to_owned());
        return None;
    };
    match (reader.value(&table, "publish"), reader.value(&table, "backend")) {
        (Some(_), None) => reader.required(&table, "publish", template).map(Inbound::Publish),
        (None, Some(_)) => reader.required(&table, "backend", &BACKEND_NAME).map(Inbound::Backend),
        // An unknown key alone has been told of already.
        (None, None) if keys != Some(0) => None,
        _ => {
            reader.refuse::<()>(&path, value, EXPECTED.to_owned());
            None
        }
    }
}

pub(crate) fn write(inbound: &Inbound) -> String {
    match inbound {
        Inbound::Echo => quoted("echo"),
        Inbound::Ignore => quoted("ignore"),
        Inbound::Bus => quoted("bus"),
        Inbound::Publish(channel) => format!("{{ publish = {} }}", quoted(&channel.to_string())),
        Inbound::Backend(name) => format!("{{ backend = {} }}", BACKEND_NAME.write(name).unwrap_or_default()),
    }
}
