//! The bounded queue into a shard. Whoever sends reserves a place first, so that one message to many shards takes
//! a place in all of their mailboxes or in none.
//!
//! Bounds: a number of commands and a number of payload bytes. At either the reservation fails; what follows from
//! that (pause the publisher, answer 503) is the sender's decision. One wake is made for a batch: the shard is
//! woken by the first command after it looked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::command::Command;

/// How a shard is told that its mailbox is not empty. Implemented where the system calls are.
pub trait Wake: Send + Sync {
    /// Makes the shard look into its mailbox soon. May be called from any thread; never blocks.
    fn wake(&self);
}

/// A mailbox had no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxFull;

impl std::fmt::Display for MailboxFull {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a shard's mailbox is full")
    }
}

impl std::error::Error for MailboxFull {}

struct Load {
    /// Set by the sender that woke the shard, cleared by the shard before it looks.
    woken: AtomicBool,
    /// Payload bytes in the queue.
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// The sending end; a clone sends to the same shard.
#[derive(Clone)]
pub struct Mailbox {
    sender: mpsc::Sender<Command>,
    load: Arc<Load>,
    wake: Arc<dyn Wake>,
}

/// The shard's end.
pub struct Inbox {
    receiver: mpsc::Receiver<Command>,
    load: Arc<Load>,
}

/// A place in a mailbox: sending into it cannot fail. Dropping it gives the place back.
pub struct Place<'a> {
    permit: mpsc::Permit<'a, Command>,
    mailbox: &'a Mailbox,
    bytes: Reserved<'a>,
}

/// Bytes counted in, to be counted out again unless the command is sent.
struct Reserved<'a> {
    load: &'a Load,
    bytes: usize,
}

impl Reserved<'_> {
    /// The command is in the queue: its bytes stay counted until the shard takes it.
    const fn keep(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Makes a mailbox for `commands_max` commands and `bytes_max` payload bytes.
///
/// # Panics
/// If `commands_max` is zero.
#[must_use]
pub fn mailbox(commands_max: usize, bytes_max: usize, wake: Arc<dyn Wake>) -> (Mailbox, Inbox) {
    let (sender, receiver) = mpsc::channel(commands_max);
    let load = Arc::new(Load { woken: AtomicBool::new(false), bytes: AtomicUsize::new(0), bytes_max });
    (Mailbox { sender, load: Arc::clone(&load), wake }, Inbox { receiver, load })
}

impl Mailbox {
    /// Takes a place for a command that carries `bytes` of payload. A payload larger than the whole bound still
    /// gets in when the mailbox holds no other, or it could never be sent.
    ///
    /// # Errors
    /// [`MailboxFull`], also when the shard is gone.
    pub fn reserve(&self, bytes: usize) -> Result<Place<'_>, MailboxFull> {
        let permit = self.sender.try_reserve().map_err(|_| MailboxFull)?;
        let before = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Reserved { load: &self.load, bytes };
        if before > 0 && before + bytes > self.load.bytes_max {
            return Err(MailboxFull);
        }
        Ok(Place { permit, mailbox: self, bytes: reserved })
    }

    /// Reserves and sends in one step.
    ///
    /// # Errors
    /// [`MailboxFull`]; the command is dropped, and with it the sender of its reply.
    pub fn send(&self, command: Command) -> Result<(), MailboxFull> {
        self.reserve(command.payload_bytes())?.send(command);
        Ok(())
    }

    /// Commands that wait, for the depth gauge.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

impl Place<'_> {
    /// Puts the command in its place and wakes the shard.
    pub fn send(self, command: Command) {
        let mailbox = self.mailbox;
        self.send_quietly(command);
        if !mailbox.load.woken.swap(true, Ordering::AcqRel) {
            mailbox.wake.wake();
        }
    }

    /// The same without a wake: for a shard's message to itself, which it looks for before it sleeps.
    pub fn send_quietly(mut self, command: Command) {
        debug_assert_eq!(self.bytes.bytes, command.payload_bytes(), "reserve what the command carries");
        self.bytes.keep();
        self.permit.send(command);
    }
}

impl Inbox {
    /// Says that the shard is looking: from now on a sender wakes it again. Call before [`Inbox::take`].
    pub fn look(&self) {
        // A swap, not a store: it reads the last sender's swap, so what was sent before that is seen by `take`.
        self.load.woken.swap(false, Ordering::AcqRel);
    }

    /// The next command, or `None` when there is none right now.
    pub fn take(&mut self) -> Option<Command> {
        let command = self.receiver.try_recv().ok()?;
        self.load.bytes.fetch_sub(command.payload_bytes(), Ordering::Relaxed);
        Some(command)
    }

    /// Whether a command waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Commands that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.receiver.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Channel, Kind, Message, Publish};

    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn publish(bytes: usize) -> Command {
        Command::Publish(Publish {
            channel: Channel::parse("a").unwrap(),
            message: Message::copy_from(Kind::Binary, &vec![0; bytes]),
            exclude: None,
            receipt: None,
        })
    }

    #[test]
    fn a_batch_costs_one_wake() {
        let wakes = Arc::new(Wakes::default());
        let (mailbox, mut inbox) = mailbox(8, 1000, Arc::<Wakes>::clone(&wakes));
        for _ in 0..3 {
            mailbox.send(publish(1)).unwrap();
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        inbox.look();
        while inbox.take().is_some() {}
        mailbox.send(publish(1)).unwrap();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn both_bounds_hold_and_are_given_back() {
        let (mailbox, mut inbox) = mailbox(2, 100, Arc::new(Wakes::default()));
        mailbox.send(publish(60)).unwrap();
        assert_eq!(mailbox.send(publish(60)), Err(MailboxFull), "bytes");
        mailbox.send(publish(40)).unwrap();
        assert_eq!(mailbox.send(publish(0)), Err(MailboxFull), "commands");
        assert!(inbox.take().is_some() && inbox.take().is_some() && inbox.take().is_none());
        mailbox.send(publish(5000)).expect("an oversized one goes alone");
        assert_eq!(mailbox.send(publish(1)), Err(MailboxFull));
        inbox.take().unwrap();
        drop(mailbox.reserve(100).unwrap());
        mailbox.send(publish(100)).expect("a dropped place is free again");
    }
}
