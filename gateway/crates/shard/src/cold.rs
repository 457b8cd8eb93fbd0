//! The rare state of a connection: what it has while something is half done, dropped again when it goes quiet.

use bridge::EndReason;
use bridge::inbound::Opened;
use store::{Key, NONE, Phase, Queue};
use wire::ws::Assembly;

use crate::limit::Exceeded;
use crate::net::Net;
use crate::trust::Introduction;
use crate::turn::Shard;

/// What few connections have at a time. At most 128 bytes.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// What has arrived in part.
    pub partial: Partial,
    /// What waits for the socket.
    pub queue: Queue,
    /// Tick at which the queue last got shorter, or began.
    pub wrote: u32,
    /// Publishes of it that wait for a place in a mailbox.
    pub unplaced: u32,
    /// Paused before it was read, because too many publishes of others wait.
    pub starved: bool,
    /// How it is being closed.
    pub goodbye: Option<Goodbye>,
    /// Why it will be told to go as soon as it has said what it wants.
    pub exceeded: Option<Exceeded>,
    /// What its upstream has of it, and does not have yet.
    pub told: Told,
}

/// How a connection stands with its upstream.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Its opened event, for which there was no room yet.
    pub opened: Option<Box<Opened>>,
    /// Messages that are not settled.
    pub unsettled: u16,
    /// It stands in its lane's line.
    pub waits: bool,
    /// It stood there, was called, and has a place until it has been read.
    pub called: bool,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.opened.is_none() && self.unsettled == 0 && !self.waits && !self.called
    }
}

/// Something that has arrived in part.
#[derive(Debug, Default)]
pub(crate) enum Partial {
    #[default]
    None,
    /// The beginning of a request head, and what in front of it or in it will tell the peer. No byte of it may be
    /// there yet.
    Head(Vec<u8>, Introduction),
    /// A whole request head, and perhaps what an eager client sent behind it, while somebody decides.
    Asked(Vec<u8>),
    /// Half a frame, or a message without its last fragment.
    Frames(Box<Assembly>),
    /// Whole frames and perhaps the beginning of another, for which its upstream had no room.
    Unparsed(Vec<u8>),
}

/// A close that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goodbye {
    pub why: EndReason,
    pub sent: Option<u16>,
    pub received: Option<u16>,
    pub then: Then,
}

/// What follows when the close frame is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The peer answers it. What it had sent before it read ours goes where it was meant to go.
    Deliver,
    /// The peer answers it, and nothing else of it counts.
    Await,
    /// The peer broke the rules: say no more, discard what it sends, let it hang up.
    Linger,
    /// It was the answer: hang up.
    HangUp,
}

impl Then {
    /// Whether an answer is waited for, and so what comes is parsed.
    pub(crate) const fn awaits(self) -> bool {
        matches!(self, Self::Deliver | Self::Await)
    }
}

impl Rare {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.partial, Partial::None)
            && self.queue.is_empty()
            && self.unplaced == 0
            && !self.starved
            && self.goodbye.is_none()
            && self.exceeded.is_none()
            && self.told.is_empty()
    }
}

impl Partial {
    /// Memory it holds, for the gauge.
    pub(crate) fn held_bytes(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Head(bytes, _) | Self::Asked(bytes) | Self::Unparsed(bytes) => bytes.capacity() as u64,
            Self::Frames(assembly) => (assembly.held_bytes() + size_of::<Assembly>()) as u64,
        }
    }
}

impl<N: Net> Shard<N> {
    /// The rare state of a connection, made now if it has none. `None` for a stale key, and for a connection that has
    /// ended: its record may wait for the outbox, and nothing would ever drop what it was given meanwhile.
    pub(crate) fn rare_mut(&mut self, key: Key) -> Option<&mut Rare> {
        let conn = self.conns.get_mut(key).filter(|conn| conn.phase != Phase::Ended)?;
        if conn.cold == NONE {
            match self.cold.insert(Rare { wrote: self.now, ..Rare::default() }) {
                Ok(index) => conn.cold = index,
                Err(_) => debug_assert!(false, "there are as many cold entries as records"),
            }
        }
        self.cold.get_mut(conn.cold)
    }

    /// The rare state, if it has any.
    pub(crate) fn rare(&self, key: Key) -> Option<&Rare> {
        self.cold.get(self.conns.get(key)?.cold)
    }

    /// Takes what has arrived in part, to go on with it.
    pub(crate) fn take_partial(&mut self, key: Key) -> Partial {
        let Some(conn) = self.conns.get(key) else { return Partial::None };
        let Some(rare) = self.cold.get_mut(conn.cold) else { return Partial::None };
        let partial = std::mem::take(&mut rare.partial);
        self.partial_bytes -= partial.held_bytes();
        partial
    }

    /// Whether what a connection sends still means something: not once we have said goodbye and expect no answer, or
    /// have given it (RFC 6455 section 5.5.1).
    pub(crate) fn is_listened_to(&self, key: Key) -> bool {
        match self.conns.get(key).map(|conn| conn.phase) {
            Some(Phase::Handshake | Phase::Open | Phase::PongWait) => true,
            Some(Phase::Closing) => {
                self.rare(key).and_then(|rare| rare.goodbye).is_some_and(|goodbye| goodbye.then.awaits())
            }
            Some(Phase::Lingering | Phase::Ended) | None => false,
        }
    }

    /// Keeps what has arrived in part, if anybody will read on.
    pub(crate) fn keep_partial(&mut self, key: Key, partial: Partial) {
        if !self.is_listened_to(key) {
            return;
        }
        let held = partial.held_bytes();
        if let Some(rare) = self.rare_mut(key) {
            rare.partial = partial;
            self.partial_bytes += held;
        }
    }

    /// Drops the cold entry if nothing rare is left.
    pub(crate) fn settle(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if self.cold.get(conn.cold).is_some_and(Rare::is_empty) {
            self.cold.remove(conn.cold);
            conn.cold = NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rare_state_stays_small() {
        assert!(size_of::<Rare>() <= 128, "{}", size_of::<Rare>());
    }
}
