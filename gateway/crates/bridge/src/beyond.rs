//! What joins this node to others, as shards see it: a mailbox for what their clients publish, somebody to be told
//! when the node begins or ceases to care for a channel, whether all that is cut off, and how large a message may be that goes
//! there.
//!
//! A node whose bus is the embedded one has nothing beyond it, and pays nothing. Knows no bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::channel::Channel;
use crate::mailbox::Mailbox;

/// Is told by the switchboard when the first subscriber of the node comes to a channel, and when the last one goes.
pub trait Interest: Send + Sync {
    /// The node may care for this channel, or not any more. A hint: those of two shards may cross, so the truth is the
    /// switchboard's. Called by shards; must not block and must be cheap.
    fn changed(&self, channel: &Channel);
}

/// The way to other nodes.
pub struct Beyond {
    pub(crate) interest: Arc<dyn Interest>,
    pub(crate) mailbox: Mailbox,
    cut_off: AtomicBool,
    payload_bytes_max: AtomicUsize,
}

impl Beyond {
    /// The ends that a bus reads. What clients publish arrives in the mailbox as [`crate::Command::Publish`], in the
    /// order of each publisher; when it is full, publishers are paused.
    #[must_use]
    pub fn new(interest: Arc<dyn Interest>, mailbox: Mailbox) -> Self {
        let payload_bytes_max = AtomicUsize::new(usize::MAX);
        Self { interest, mailbox, cut_off: AtomicBool::new(false), payload_bytes_max }
    }

    /// Whether a payload of so many bytes can go there. What cannot is refused before anybody hears it, because those of
    /// this node alone should not.
    #[must_use]
    pub fn carries(&self, payload_bytes: usize) -> bool {
        payload_bytes <= self.payload_bytes_max.load(Ordering::Relaxed)
    }

    /// For the bus: its server takes payloads of at most so many bytes. Until it has said so, any.
    pub fn carry_at_most(&self, payload_bytes: usize) {
        self.payload_bytes_max.store(payload_bytes, Ordering::Relaxed);
    }

    /// Whether the bus is away.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// For the bus: it is away, or back.
    pub fn cut_off(&self, is_away: bool) {
        self.cut_off.store(is_away, Ordering::Relaxed);
    }

    /// Publishes that wait for the bus.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.mailbox.depth()
    }
}
