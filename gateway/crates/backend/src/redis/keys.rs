//! The names that this node uses in Redis, all below one prefix. Pure; refuses what is not a channel of ours.

use std::sync::Arc;

use bridge::{Channel, NodeName};

/// Where something that was published goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the subscribers of a channel.
    Channel(Channel),
    /// To one connection of this node, which the envelope names.
    Connection,
    /// A command to this node, or to all.
    Command,
}

/// Makes and reads names.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
    channel: Box<str>,
    connection: Box<str>,
    command: [Box<str>; 2],
}

impl Keys {
    pub(crate) fn new(prefix: &Arc<str>, node: &NodeName) -> Self {
        Self {
            prefix: Arc::clone(prefix),
            channel: format!("{prefix}:channel:").into(),
            connection: format!("{prefix}:connection:{node}").into(),
            command: [format!("{prefix}:command").into(), format!("{prefix}:command:{node}").into()],
        }
    }

    /// The name of a channel.
    pub(crate) fn channel(&self, channel: &Channel) -> String {
        [&self.channel, channel.as_str()].concat()
    }

    /// What a node listens to whatever its clients want.
    pub(crate) fn of_the_node(&self) -> [&str; 3] {
        let [all, ours] = &self.command;
        [&self.connection, all, ours]
    }

    /// The stream of a route and a partition.
    pub(crate) fn stream(&self, route: &str, partition: u16) -> String {
        format!("{}:inbound:{route}:{partition}", self.prefix)
    }

    /// Whom a message is for that came by this name; `None` when the name is not ours.
    pub(crate) fn target(&self, name: &[u8]) -> Option<Target> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(channel) = name.strip_prefix(&*self.channel) {
            return Channel::parse(channel).ok().map(Target::Channel);
        }
        if *name == *self.connection {
            Some(Target::Connection)
        } else if self.command.iter().any(|command| **command == *name) {
            Some(Target::Command)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_as_they_are_made_and_nothing_else_is() {
        let keys = Keys::new(&Arc::from("gateway"), &NodeName::parse("node-1").unwrap());
        let channel = Channel::parse("room.1").unwrap();
        assert_eq!(keys.channel(&channel), "gateway:channel:room.1");
        assert_eq!(keys.stream("app", 7), "gateway:inbound:app:7");
        assert_eq!(keys.target(b"gateway:channel:room.1"), Some(Target::Channel(channel)));
        let targets = keys.of_the_node().map(|name| keys.target(name.as_bytes()).unwrap());
        assert_eq!(targets, [Target::Connection, Target::Command, Target::Command]);
        for stray in [
            &b"gateway:channel:"[..],
            b"gateway:channel:room.*",
            b"gateway:channel:a b",
            b"gateway:channel:\xff",
            b"gateway:connection:node-2",
            b"gateway:command:node-2",
            b"other:channel:room.1",
            b"",
        ] {
            assert_eq!(keys.target(stray), None, "{stray:?}");
        }
    }
}
