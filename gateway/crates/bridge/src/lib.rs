//! What crosses threads, and nothing else: ids, messages, commands into a shard, events out of one,
//! the mailboxes they travel in, the switchboard that says which shards care, and the counters.
//!
//! It knows no bus, no backend, no socket and no record. Shards and the tokio side both import it; it imports
//! `wire` only, for the encodings a [`Message`] is kept in.
#![forbid(unsafe_code)]

pub mod authorize;
pub mod beyond;
pub mod channel;
pub mod command;
pub mod ending;
pub mod event;
pub mod id;
pub mod inbound;
pub mod limited;
pub mod mailbox;
pub mod message;
pub mod principal;
pub mod stats;
pub mod switchboard;

pub use authorize::{Authorize, Decision};
pub use beyond::{Beyond, Interest};
pub use channel::Channel;
pub use command::{Command, Delivered, Description, DrainPlan, Page, Publish, Receipt, Sealed};
pub use ending::EndReason;
pub use event::{Ending, Event, Outbox, OutboxFull};
pub use id::{Address, ConnId, Epoch, NodeName};
pub use inbound::{Inbound, Quota, Upstream};
pub use limited::Limited;
pub use mailbox::{Inbox, Mailbox, MailboxFull, Wake};
pub use message::{Kind, Message};
pub use principal::{Principal, User};
pub use stats::{Pause, Stats};
pub use switchboard::{ShardSet, Switchboard};
