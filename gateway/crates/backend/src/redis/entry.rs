//! An entry of an inbound stream: its id, and the fields that say what a client did. Pure functions; refuses to know
//! when entries are written. Field names are a contract with app servers (README, "Connect your app server").

use std::fmt;
use std::str::FromStr;

use bridge::inbound::Occurrence;
use bridge::{ConnId, Epoch, Inbound, Kind, NodeName};

use super::streams::Gap;

/// The id of an entry as Redis gives them out: milliseconds and a number, both counting up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId {
    ms: u64,
    number: u64,
}

/// A text is no entry id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadEntryId;

impl EntryId {
    /// The smallest id behind this one.
    pub(crate) const fn next(self) -> Self {
        match self.number.checked_add(1) {
            Some(number) => Self { ms: self.ms, number },
            None => Self { ms: self.ms.saturating_add(1), number: 0 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> Result<Self, BadEntryId> {
        let (ms, number) = text.split_once('-').ok_or(BadEntryId)?;
        let number_of = |part: &str| part.parse().map_err(|_| BadEntryId);
        Ok(Self { ms: number_of(ms)?, number: number_of(number)? })
    }
}

/// Who writes: said in every entry.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) node: NodeName,
    pub(crate) epoch: Epoch,
}

impl Writer {
    /// The printable id of the connection of an event.
    pub(crate) fn connection(&self, inbound: &Inbound) -> String {
        ConnId { node: self.node.clone(), epoch: self.epoch, address: inbound.address }.to_string()
    }

    /// The same for a gap of this node.
    pub(crate) fn gap_fields(
        &self,
        gap: Gap,
        route: &str,
        again: bool,
        mut field: impl FnMut(&'static str, &[u8]),
    ) {
        field("event", b"gap");
        field("node", self.node.as_str().as_bytes());
        field("epoch", self.epoch.to_string().as_bytes());
        field("route", route.as_bytes());
        field("from-ms", gap.from_ms.to_string().as_bytes());
        field("to-ms", gap.to_ms.to_string().as_bytes());
        if again {
            field("again", b"1");
        }
    }

    /// Hands over field and value, one pair after the other. `again`: it may be in the stream already.
    pub(crate) fn fields(
        &self,
        inbound: &Inbound,
        route: &str,
        again: bool,
        mut field: impl FnMut(&'static str, &[u8]),
    ) {
        let event = match &inbound.occurrence {
            Occurrence::Opened(_) => "opened",
            Occurrence::Message { .. } => "message",
            Occurrence::Closed { .. } => "closed",
        };
        field("event", event.as_bytes());
        field("connection", self.connection(inbound).as_bytes());
        field("sequence", inbound.sequence.to_string().as_bytes());
        field("node", self.node.as_str().as_bytes());
        field("epoch", self.epoch.to_string().as_bytes());
        field("route", route.as_bytes());
        if let Some(principal) = &inbound.principal {
            if let Some(user) = &principal.user {
                field("user", user.as_str().as_bytes());
            }
            if !principal.state.is_empty() {
                field("state", &principal.state);
            }
        }
        if again {
            field("again", b"1");
        }
        match &inbound.occurrence {
            Occurrence::Opened(opened) => {
                field("peer", opened.peer.to_string().as_bytes());
                field("path", opened.path.as_bytes());
                if let Some(protocol) = &opened.protocol {
                    field("subprotocol", protocol.as_bytes());
                }
            }
            Occurrence::Message { kind, payload } => {
                field("content-type", content_type(*kind).as_bytes());
                field("payload", payload);
            }
            Occurrence::Closed { reason, code } => {
                field("reason", reason.label().as_bytes());
                if let Some(code) = code {
                    field("code", code.to_string().as_bytes());
                }
            }
        }
    }
}

/// How text and binary are told apart.
pub(crate) const fn content_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text/plain",
        Kind::Binary => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::sync::Arc;

    use bridge::inbound::Opened;
    use bridge::message::Bytes;
    use bridge::{Address, EndReason, Principal, Upstream, User};

    use super::*;

    fn fields(occurrence: Occurrence, principal: Option<Principal>, again: bool) -> BTreeMap<String, String> {
        let writer = Writer { node: NodeName::parse("here").unwrap(), epoch: Epoch(0xab) };
        let inbound = Inbound {
            upstream: Upstream(0),
            partition: 0,
            address: Address { shard: 1, slot: 2, generation: 3 },
            route: 0,
            sequence: 7,
            principal: principal.map(Arc::new),
            occurrence,
        };
        let mut all = BTreeMap::new();
        writer.fields(&inbound, "app", again, |field, value| {
            let twice = all.insert(field.to_owned(), String::from_utf8(value.to_vec()).unwrap());
            assert_eq!(twice, None, "{field} comes once");
        });
        all
    }

    fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_entry_says_whose_it_is_and_what_happened() {
        let common = [
            ("connection", "here-000000ab-1-2-3"),
            ("sequence", "7"),
            ("node", "here"),
            ("epoch", "000000ab"),
            ("route", "app"),
        ];
        let expect = |more: &[(&str, &str)]| table(&[&common, more].concat());

        let opened = Opened { peer: IpAddr::from([127, 0, 0, 1]), path: "/a".into(), protocol: None };
        assert_eq!(
            fields(Occurrence::Opened(Box::new(opened)), None, false),
            expect(&[("event", "opened"), ("peer", "127.0.0.1"), ("path", "/a")])
        );
        let message = Occurrence::Message { kind: Kind::Text, payload: Bytes::from_static(b"hi") };
        let principal =
            Principal { user: Some(User::parse("bob").unwrap()), state: Bytes::from_static(b"s") };
        assert_eq!(
            fields(message, Some(principal), true),
            expect(&[
                ("event", "message"),
                ("user", "bob"),
                ("state", "s"),
                ("again", "1"),
                ("content-type", "text/plain"),
                ("payload", "hi"),
            ])
        );
        let closed = Occurrence::Closed { reason: EndReason::ClientClose, code: Some(1000) };
        assert_eq!(
            fields(closed, None, false),
            expect(&[("event", "closed"), ("reason", "client_close"), ("code", "1000")])
        );
    }

    #[test]
    fn ids_of_entries_are_ordered_as_numbers() {
        let id = |text: &str| text.parse::<EntryId>();
        assert!(id("9-0").unwrap() < id("10-0").unwrap() && id("10-9").unwrap() < id("10-10").unwrap());
        assert_eq!(id("10-3").unwrap().to_string(), "10-3");
        for bad in ["", "1", "1-", "-1", "a-1", "1-1-1", "1-99999999999999999999"] {
            assert_eq!(id(bad), Err(BadEntryId), "{bad}");
        }
    }
}
