//! What the floor's threads pass to each other: the frames of a message for everybody.
//!
//! It owns a bounded queue and a waker for each thread. It refuses to wait: a message that finds a queue full
//! is lost there, which the harness reports. Used by `floor`.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mio::{Registry, Token, Waker};

/// Messages that wait for a thread at most.
const WAITING_MAX: usize = 1024;

/// One thread's box, and the way to those of all others.
#[derive(Debug)]
pub(super) struct Post {
    inbox: Receiver<Arc<[u8]>>,
    others: Vec<Way>,
}

/// The way to another thread's box.
#[derive(Debug, Clone)]
struct Way {
    box_of: SyncSender<Arc<[u8]>>,
    waker: Arc<Waker>,
}

impl Post {
    /// The token of the waker.
    pub(super) const TOKEN: Token = Token(usize::MAX);

    /// One for each poll, in their order.
    pub(super) fn connect<'a>(polls: impl Iterator<Item = &'a Registry>) -> io::Result<Vec<Post>> {
        let mut inboxes = Vec::new();
        let mut ways = Vec::new();
        for registry in polls {
            let (box_of, inbox) = sync_channel(WAITING_MAX);
            ways.push(Way { box_of, waker: Arc::new(Waker::new(registry, Self::TOKEN)?) });
            inboxes.push(inbox);
        }
        let others = |own: usize| {
            let ways = ways.iter().enumerate().filter(|(number, _)| *number != own);
            ways.map(|(_, way)| way.clone()).collect()
        };
        Ok(inboxes.into_iter().enumerate().map(|(own, inbox)| Post { inbox, others: others(own) }).collect())
    }

    /// The next message for this thread.
    pub(super) fn take(&self) -> Option<Arc<[u8]>> {
        self.inbox.try_recv().ok()
    }

    /// Sends frames to all other threads.
    pub(super) fn send(&self, frames: &[u8]) {
        if self.others.is_empty() {
            return;
        }
        let frames: Arc<[u8]> = frames.into();
        for way in &self.others {
            if way.box_of.try_send(frames.clone()).is_ok() {
                // A full eventfd counter means that the thread is being woken already.
                let _ = way.waker.wake();
            }
        }
    }
}
