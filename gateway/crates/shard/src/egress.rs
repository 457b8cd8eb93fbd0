//! Writing: the only place that writes to sockets. What the kernel does not take at once waits in the backlog, in
//! order, and leaves when the socket has room again.
//!
//! Two ways out: a *reply* is written where it arises (an echo, a pong, the answer to a handshake), and what other
//! people send becomes *due*: it is queued, and all of a turn leaves in one vectored write at the turn's end.

use std::io::IoSlice;

use bridge::message::Bytes;
use bridge::{EndReason, Pause};
use store::{Flags, FrameIndex, Full, Key, NONE, Phase};

use crate::net::{Hangup, Net, Wrote};
use crate::turn::Shard;

/// Frames per vectored write.
pub(crate) const SLICES_MAX: usize = 64;

/// How far a direct write got.
pub(crate) enum Left {
    /// Everything has left.
    Nothing,
    /// All but the first so many bytes still has to leave.
    Behind(usize),
    /// The connection is broken; it has been ended.
    Gone,
}

impl<N: Net> Shard<N> {
    /// An event says that there is room.
    pub(crate) fn writable(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.contains(Flags::UNWRITABLE) {
            conn.flags.remove(Flags::UNWRITABLE);
            self.flush(key);
        }
    }

    /// Writes at once if nothing waits before it.
    pub(crate) fn write_through(&mut self, key: Key, slices: &[IoSlice<'_>]) -> Left {
        let Some(conn) = self.conns.get_mut(key) else { return Left::Gone };
        let waits = self.cold.get(conn.cold).is_some_and(|rare| !rare.queue.is_empty());
        if waits || conn.flags.contains(Flags::UNWRITABLE) {
            return Left::Behind(0);
        }
        let Some(socket) = conn.socket.as_mut() else { return Left::Gone };
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let wrote = match slices {
            [one] => self.net.write_one(socket, one),
            many => self.net.write(socket, many),
        };
        match wrote {
            Wrote::Bytes(written) => {
                self.stats.bytes_out.add(written as u64);
                if written == offered {
                    return Left::Nothing;
                }
                conn.flags.insert(Flags::UNWRITABLE);
                Left::Behind(written)
            }
            Wrote::WouldBlock => {
                conn.flags.insert(Flags::UNWRITABLE);
                Left::Behind(0)
            }
            Wrote::Reset => {
                self.end(key, EndReason::Reset, Hangup::Gentle);
                Left::Gone
            }
        }
    }

    /// Writes a reply. What does not leave at once waits, and the connection is not read until it has left: who asks
    /// faster than it listens is slowed down by TCP.
    ///
    /// Nothing follows a goodbye: one that an earlier reply led to swallows those behind it.
    pub(crate) fn reply(&mut self, key: Key, head: &[u8], body: &[u8]) {
        let Some(conn) = self.conns.get(key) else { return };
        let is_refused = conn.phase == Phase::Lingering && !conn.flags.contains(Flags::OPENED);
        if !is_refused && !matches!(conn.phase, Phase::Open | Phase::PongWait) {
            return;
        }
        let left = if body.is_empty() {
            self.write_through(key, &[IoSlice::new(head)])
        } else {
            self.write_through(key, &[IoSlice::new(head), IoSlice::new(body)])
        };
        let Left::Behind(written) = left else { return };
        let frame = self.backlog.hold(Bytes::from([head, body].concat()), NONE);
        let queued = self.queue(key, frame, written);
        self.backlog.release(frame);
        let waits = self.rare(key).is_some_and(|rare| !rare.queue.is_empty());
        match queued {
            Ok(()) if waits => self.pause(key, Pause::Reply),
            // It left behind what had become due before it, or with the connection.
            Ok(()) => {}
            Err(_) => self.overflowed(key, written),
        }
    }

    /// Queues a frame of which `written` bytes have left already. While its socket is not known to be full it leaves at the
    /// end of this turn, with all others that become due until then.
    ///
    /// A slow consumer is one whose socket does not take what it is offered. What only waits for the end of the turn says
    /// nothing about anybody: at a bound it is offered first. And before a connection is closed its full socket is tried
    /// once more, because there may be room of which no event has told yet.
    ///
    /// # Errors
    /// The bound that it met with its socket full. What is lost by that is up to the caller; when a part of this frame has
    /// left just now, the connection has been ended.
    pub(crate) fn queue(&mut self, key: Key, frame: FrameIndex, written: usize) -> Result<(), Full> {
        let mut pushed = self.push(key, frame, written);
        if matches!(pushed, Err(Full::TableBytes | Full::TableEntries)) {
            self.node_full_at = Some(self.now);
        }
        if pushed.is_err() && written == 0 && (!self.is_full(key) || self.closes_for(key, frame)) {
            pushed = self.offer(key, frame);
        }
        if pushed.is_ok()
            && let Some(conn) = self.conns.get_mut(key)
            && !conn.flags.contains(Flags::DIRTY)
            && !conn.flags.contains(Flags::UNWRITABLE)
        {
            conn.flags.insert(Flags::DIRTY);
            self.dirty.push(key);
        }
        pushed
    }

    /// Whether its socket took less than it was offered, and has not asked for more since.
    pub(crate) fn is_full(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.flags.contains(Flags::UNWRITABLE))
    }

    /// Writes what waits and then this frame, of which nothing has left, or queues what does not leave of it.
    fn offer(&mut self, key: Key, frame: FrameIndex) -> Result<(), Full> {
        self.offers += 1;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.flags.remove(Flags::UNWRITABLE);
        }
        self.flush(key);
        let pushed = self.push(key, frame, 0);
        if pushed.is_ok() || self.is_full(key) {
            return pushed;
        }
        // Nothing of its own waits any more: it is others who fill the bounds of the node, and it needs no place in them.
        let bytes = self.backlog.shared(frame).clone();
        let Left::Behind(written) = self.write_through(key, &[IoSlice::new(&bytes)]) else { return Ok(()) };
        let pushed = self.push(key, frame, written);
        if pushed.is_err() && written > 0 {
            self.overflowed(key, written);
        }
        pushed
    }

    /// Puts a frame of which `written` bytes have left into the queue, where something may give way to it.
    fn push(&mut self, key: Key, frame: FrameIndex, written: usize) -> Result<(), Full> {
        let now = self.now;
        let is_full = self.is_full(key);
        let Some(rare) = self.rare_mut(key) else { return Ok(()) };
        // Borrowed apart: the queue lives in the cold entry, its frames in the backlog.
        let mut queue = std::mem::take(&mut rare.queue);
        if queue.is_empty() {
            rare.wrote = now;
        }
        let (before, waited) = (queue.written(), !queue.is_empty());
        let pushed = self.push_by_policy(key, &mut queue, frame, is_full);
        debug_assert_eq!(before, queue.written(), "what has begun to leave stays");
        if pushed.is_ok() && written > 0 {
            self.backlog.consume(&mut queue, written);
        }
        let is_empty = queue.is_empty();
        if let Some(rare) = self.rare_mut(key) {
            rare.queue = queue;
        }
        if pushed.is_err() && waited && is_empty {
            // All that waited has given way, in vain: nothing will be written whose end would tell.
            self.drained(key);
        } else if pushed.is_err() {
            self.settle(key);
        }
        pushed
    }

    /// Writes what became due in this turn.
    pub(crate) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.flags.remove(Flags::DIRTY);
                if !conn.flags.contains(Flags::UNWRITABLE) {
                    self.flush(key);
                }
            }
        }
        self.dirty = dirty;
    }

    /// Writes the queue until it is empty or the socket is full.
    pub(crate) fn flush(&mut self, key: Key) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Some(socket) = conn.socket.as_mut() else { return };
            let Some(rare) = self.cold.get_mut(conn.cold) else { return };
            if rare.queue.is_empty() {
                return self.drained(key);
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.backlog.gather(&rare.queue, &mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            match self.net.write(socket, &slices[..count]) {
                Wrote::Bytes(written) => {
                    self.stats.bytes_out.add(written as u64);
                    self.backlog.consume(&mut rare.queue, written);
                    rare.wrote = self.now;
                    if written < offered {
                        conn.flags.insert(Flags::UNWRITABLE);
                        return;
                    }
                }
                Wrote::WouldBlock => {
                    conn.flags.insert(Flags::UNWRITABLE);
                    return;
                }
                Wrote::Reset => return self.end(key, EndReason::Reset, Hangup::Gentle),
            }
        }
    }

    /// Nothing waits for the socket any more.
    fn drained(&mut self, key: Key) {
        self.said(key);
        self.resume(key, Pause::Reply);
        self.settle(key);
    }
}
