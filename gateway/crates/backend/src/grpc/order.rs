//! What a backend asks for: orders for connections and channels, and what becomes of them. Plain values, checked when
//! they are made; how they are written on the wire is `translate`'s affair.

use bridge::command::NotDone;
use bridge::message::Bytes;
use bridge::{Address, Channel, Command, Message, Upstream};
use tokio::sync::oneshot;

use crate::bus::Excluded;

/// One order.
#[derive(Clone, Debug)]
pub enum Order {
    /// A message to one connection.
    Send {
        /// To whom.
        to: Address,
        /// What.
        message: Message,
    },
    /// A message to all subscribers of a channel.
    Publish {
        /// Where to.
        channel: Channel,
        /// What.
        message: Message,
        /// Who must not hear it.
        exclude: Option<Excluded>,
    },
    /// Put a connection into a channel.
    Subscribe {
        /// Whom.
        whom: Address,
        /// Into what.
        channel: Channel,
    },
    /// Take a connection out of a channel.
    Unsubscribe {
        /// Whom.
        whom: Address,
        /// Out of what.
        channel: Channel,
    },
    /// Close a connection.
    Close {
        /// Whom.
        whom: Address,
        /// 1000, or 4000 to 4999.
        code: u16,
        /// At most 123 bytes.
        reason: Box<str>,
    },
    /// Give a connection another opaque state.
    SetState {
        /// Whose.
        whom: Address,
        /// At most 256 bytes.
        state: Bytes,
    },
}

/// What became of an order: the label of the counter, and `Result.Status` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok,
    /// The connection has ended, or is of another node or epoch.
    Gone,
    /// The connection is another backend's, or another stream's.
    FailedPrecondition,
    /// It breaks a rule.
    InvalidArgument,
    /// The connection has as many channels as it may.
    ResourceExhausted,
    /// Overloaded, or ending.
    Unavailable,
    /// An order with this id was taken lately.
    AlreadyExists,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Gone,
        Self::FailedPrecondition,
        Self::InvalidArgument,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::AlreadyExists,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Gone => "gone",
            Self::FailedPrecondition => "failed_precondition",
            Self::InvalidArgument => "invalid_argument",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::AlreadyExists => "already_exists",
        }
    }
}

/// Why an order was not done, for the machine and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: Status,
    /// In words.
    pub detail: &'static str,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub const fn new(status: Status, detail: &'static str) -> Self {
        Self { status, detail }
    }
}

impl From<NotDone> for Refusal {
    fn from(why: NotDone) -> Self {
        match why {
            NotDone::Gone => Self::new(Status::Gone, "the connection has ended"),
            NotDone::NotOwner => {
                Self::new(Status::FailedPrecondition, "the connection's route tells its events somebody else")
            }
            NotDone::Full => {
                Self::new(Status::ResourceExhausted, "the connection has as many channels as it may")
            }
            NotDone::Reserved => Self::new(
                Status::InvalidArgument,
                "channels of users are joined by being authorised, and never left",
            ),
            NotDone::NotText => Self::new(Status::InvalidArgument, "the route wants text, and this is none"),
        }
    }
}

impl Order {
    /// The connection it is for, which its stream has to own. A publish is for none.
    #[must_use]
    pub const fn whom(&self) -> Option<Address> {
        match self {
            Self::Publish { .. } => None,
            Self::Send { to: whom, .. }
            | Self::Subscribe { whom, .. }
            | Self::Unsubscribe { whom, .. }
            | Self::Close { whom, .. }
            | Self::SetState { whom, .. } => Some(*whom),
        }
    }

    /// The same as a command of this upstream to the connection's shard; `None` for a publish, which is not for one shard.
    #[must_use]
    pub fn command(
        self,
        by: Upstream,
        reply: Option<oneshot::Sender<Result<(), NotDone>>>,
    ) -> Option<Command> {
        let by = Some(by);
        Some(match self {
            Self::Publish { .. } => return None,
            Self::Send { to, message } => Command::Send { to, message, by, reply },
            Self::Subscribe { whom, channel } => Command::Subscribe { whom, channel, by, reply },
            Self::Unsubscribe { whom, channel } => Command::Unsubscribe { whom, channel, by, reply },
            Self::Close { whom, code, reason } => Command::Close { whom, code, reason, by, reply },
            Self::SetState { whom, state } => Command::SetState { whom, state, by, reply },
        })
    }
}
