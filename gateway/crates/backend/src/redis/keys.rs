//! The names that this node uses in Redis, all below one prefix. Pure; refuses what is not a channel of ours.

use std::sync::Arc;

use bridge::{Channel, Epoch, NodeName};

use crate::peers::Subject;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the subscribers of a channel.
    Channel(Channel),
    /// To one connection of this node, which the envelope names.
    Connection,
}

/// What came that is no message, but is about nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfNodes {
    /// For whoever speaks for this node.
    Heard(Subject),
    /// An answer to a call of this node.
    Answer,
}

/// Longest name of a channel that an answer may go to, in bytes.
const REPLY_TO_BYTES_MAX: usize = 255;

/// Makes and reads names.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
    channel: Arc<str>,
    connection: Arc<str>,
    of_nodes: Arc<[(Box<str>, OfNodes); 5]>,
}

impl Keys {
    pub(crate) fn new(prefix: &Arc<str>, node: &NodeName, epoch: Epoch) -> Self {
        let command = |to_all| OfNodes::Heard(Subject::Command { to_all });
        Self {
            prefix: Arc::clone(prefix),
            channel: format!("{prefix}:channel:").into(),
            connection: format!("{prefix}:connection:{node}").into(),
            of_nodes: Arc::new([
                (format!("{prefix}:command").into(), command(true)),
                (format!("{prefix}:command:{node}").into(), command(false)),
                (format!("{prefix}:presence").into(), OfNodes::Heard(Subject::Presence)),
                (format!("{prefix}:node").into(), OfNodes::Heard(Subject::Nodes)),
                // With the epoch: two lives of a node must not take each other's answers.
                (format!("{prefix}:answer:{node}:{epoch}").into(), OfNodes::Answer),
            ]),
        }
    }

    /// The name of a channel.
    pub(crate) fn channel(&self, channel: &Channel) -> String {
        [&self.channel, channel.as_str()].concat()
    }

    /// The name of some channel.
    pub(crate) fn any_channel(&self) -> String {
        [&self.channel, "any"].concat()
    }

    /// What a node listens to whatever its clients want.
    pub(crate) fn of_the_node(&self) -> Vec<&str> {
        let of_nodes = self.of_nodes.iter().map(|(name, _)| &**name);
        std::iter::once(&*self.connection).chain(of_nodes).collect()
    }

    /// The stream of a route and a partition.
    pub(crate) fn stream(&self, route: &str, partition: u16) -> String {
        format!("{}:inbound:{route}:{partition}", self.prefix)
    }

    /// Commands to a node.
    pub(crate) fn command_of(&self, node: &NodeName) -> String {
        format!("{}:command:{node}", self.prefix)
    }

    /// Where something about nodes is said to all who listen: beats, or what became of nodes.
    pub(crate) fn place_of(&self, what: OfNodes) -> &str {
        self.of_nodes.iter().find(|(_, said)| *said == what).map_or("", |(name, _)| name)
    }

    /// Whether an answer may go there: nowhere but below a name of its own, or whoever may command could have us say
    /// something to clients and to other nodes.
    pub(crate) fn may_answer(&self, reply_to: &str) -> bool {
        let rest = reply_to.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix(":answer:"));
        reply_to.len() <= REPLY_TO_BYTES_MAX
            && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()))
    }

    /// What it is about nodes that came by this name; `None` for messages, and for what is not ours.
    pub(crate) fn about_nodes(&self, name: &[u8]) -> Option<OfNodes> {
        self.of_nodes.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, what)| *what)
    }

    /// Whom a message is for that came by this name; `None` when the name is not ours.
    pub(crate) fn target(&self, name: &[u8]) -> Option<Target> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(channel) = name.strip_prefix(&*self.channel) {
            return Channel::parse(channel).ok().map(Target::Channel);
        }
        (*name == *self.connection).then_some(Target::Connection)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keys() -> Keys {
        Keys::new(&Arc::from("gateway"), &NodeName::parse("node-1").unwrap(), Epoch(0xab))
    }

    #[test]
    fn names_are_read_as_they_are_made_and_nothing_else_is() {
        let keys = keys();
        let channel = Channel::parse("room.1").unwrap();
        assert_eq!(keys.channel(&channel), "gateway:channel:room.1");
        assert_eq!(keys.stream("app", 7), "gateway:inbound:app:7");
        assert_eq!(keys.target(b"gateway:channel:room.1"), Some(Target::Channel(channel)));
        assert_eq!(keys.target(b"gateway:connection:node-1"), Some(Target::Connection));
        for name in keys.of_the_node() {
            let ours = (keys.target(name.as_bytes()), keys.about_nodes(name.as_bytes()));
            assert!(matches!(ours, (Some(_), None) | (None, Some(_))), "{name}: {ours:?}");
        }
        let ours = keys.command_of(&NodeName::parse("node-1").unwrap());
        let command = |to_all| Some(OfNodes::Heard(Subject::Command { to_all }));
        assert_eq!(keys.about_nodes(ours.as_bytes()), command(false));
        assert_eq!(keys.about_nodes(b"gateway:command"), command(true));
        assert_eq!(keys.place_of(OfNodes::Heard(Subject::Presence)), "gateway:presence");
        assert_eq!(keys.place_of(OfNodes::Answer), "gateway:answer:node-1:000000ab");
        for stray in [
            &b"gateway:channel:"[..],
            b"gateway:channel:room.*",
            b"gateway:channel:a b",
            b"gateway:channel:\xff",
            b"gateway:connection:node-2",
            b"gateway:command:node-2",
            b"gateway:answer:node-1:000000ac",
            b"other:channel:room.1",
            b"",
        ] {
            assert_eq!((keys.target(stray), keys.about_nodes(stray)), (None, None), "{stray:?}");
        }
    }

    #[test]
    fn answers_go_to_no_name_that_means_something_else() {
        let keys = keys();
        assert!(keys.may_answer("gateway:answer:billing") && keys.may_answer("gateway:answer:a:b"));
        let long = format!("gateway:answer:{}", "x".repeat(255));
        for other in
            ["", "gateway:answer:", "gateway:command", "gateway:channel:room", "mine", "gateway:answer:a b"]
        {
            assert!(!keys.may_answer(other), "{other}");
        }
        assert!(!keys.may_answer(&long));
    }
}
