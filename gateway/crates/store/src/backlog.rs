//! What slow sockets have not taken yet: a queue per connection whose entries are indices into one table of frames.
//!
//! A frame is kept once however many wait for it, and an entry costs 8 bytes. Owns frames, entries and their bounds; refuses
//! to choose what happens at a bound: a push that does not fit says why, and the shard closes, drops or keeps the latest.
//! Called by the shard's egress (push, gather, consume) and its slow-consumer policies (drop). A [`Queue`] lives in the cold
//! entry of its connection; it belongs to the backlog that filled it and is cleared there before it is dropped.

use std::io::IoSlice;

use crate::arena::{Arena, Vacancy};
use crate::conns::NONE;
pub use crate::frames::FrameIndex;
use crate::frames::Frames;

/// Bytes that one queue entry counts for, which is what it takes.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// The frames waiting for one connection, oldest first. 20 bytes; empty by default.
#[derive(Debug)]
pub struct Queue {
    head: u32,
    tail: u32,
    entries: u32,
    bytes: u32,
    written: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { head: NONE, tail: NONE, entries: 0, bytes: 0, written: 0 }
    }
}

impl Queue {
    /// Frames waiting, a half-written one included.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes that have still to leave.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes of the first frame that have left already. While it is not zero, that frame has to be finished.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

/// The bound of one connection's queue.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct QueueLimit {
    /// Most frames.
    pub entries: u32,
    /// Most bytes that have still to leave.
    pub bytes: u32,
}

/// Which bound a push met. The first two are the connection's own fault, the others that of all together.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Full {
    /// [`QueueLimit::entries`].
    QueueEntries,
    /// [`QueueLimit::bytes`].
    QueueBytes,
    /// The entries of the whole backlog.
    TableEntries,
    /// The bytes of the whole backlog.
    TableBytes,
}

#[derive(Copy, Clone, Debug)]
struct Entry {
    frame: FrameIndex,
    next: u32,
}

impl Vacancy for Entry {
    fn vacant(next: u32) -> Self {
        Entry { frame: FrameIndex(NONE), next }
    }

    fn next_vacant(&self) -> u32 {
        self.next
    }
}

/// All frames and queue entries of one shard.
#[derive(Debug)]
pub struct Backlog<B> {
    frames: Frames<B>,
    entries: Arena<Entry>,
    bytes_capacity: u64,
}

impl<B: AsRef<[u8]>> Backlog<B> {
    /// Bounds all queues together: so many entries, and so many bytes, where a frame counts once however many wait for it and
    /// each entry for 8. Address space for the entries is reserved.
    ///
    /// # Panics
    /// When `entries_capacity` is [`NONE`].
    pub fn new(entries_capacity: u32, bytes_capacity: u64) -> Self {
        Backlog {
            frames: Frames::new(entries_capacity),
            entries: Arena::new(entries_capacity),
            bytes_capacity,
        }
    }

    /// Takes a frame in for the caller to push to queues and then to [`release`](Backlog::release). Until it is pushed it
    /// counts for nothing: the caller holds a bounded number, one per broadcast in progress. `tag` says what it belongs to
    /// (`ChannelIndex::tag`), or [`NONE`] for what no policy may drop: direct messages and control frames.
    pub fn hold(&mut self, bytes: B, tag: u32) -> FrameIndex {
        self.frames.hold(bytes, tag)
    }

    /// The caller is done with the frame; it goes when the last queue has let go of it.
    pub fn release(&mut self, frame: FrameIndex) {
        self.frames.release(frame);
    }

    /// Lets all queues together hold so many bytes.
    pub fn set_bytes_capacity(&mut self, bytes: u64) {
        self.bytes_capacity = bytes;
    }

    /// How many bytes all queues together may hold.
    pub fn bytes_capacity(&self) -> u64 {
        self.bytes_capacity
    }

    /// Bytes that the capacity would have to grow by for one more entry of this frame.
    pub fn bytes_missing(&self, frame: FrameIndex) -> u64 {
        let needed = self.bytes_held() + self.frames.added_bytes(frame) + ENTRY_BYTES;
        needed.saturating_sub(self.bytes_capacity)
    }

    /// The bytes of a frame.
    pub fn bytes(&self, frame: FrameIndex) -> &[u8] {
        self.frames.bytes(frame)
    }

    /// The bytes of a frame as they were handed in, to be cloned by those who share.
    pub fn shared(&self, frame: FrameIndex) -> &B {
        self.frames.shared(frame)
    }

    /// What the frame was held with.
    pub fn tag(&self, frame: FrameIndex) -> u32 {
        self.frames.tag(frame)
    }

    /// Appends the frame to the queue, which then holds it by itself. A frame of which a part has left directly is pushed
    /// whole, and then [`consume`](Backlog::consume)d by that part.
    ///
    /// # Errors
    /// The first bound that it would break; nothing has changed then.
    pub fn push(&mut self, queue: &mut Queue, frame: FrameIndex, limit: &QueueLimit) -> Result<(), Full> {
        let length = self.frames.bytes(frame).len() as u64;
        if queue.entries >= limit.entries {
            return Err(Full::QueueEntries);
        }
        // A frame longer than the bound waits alone, or it could never be sent.
        if !queue.is_empty() && u64::from(queue.bytes) + length > u64::from(limit.bytes) {
            return Err(Full::QueueBytes);
        }
        if self.bytes_missing(frame) > 0 {
            return Err(Full::TableBytes);
        }
        let index = self.entries.insert(Entry { frame, next: NONE }).ok_or(Full::TableEntries)?;
        self.frames.add_entry(frame);
        if queue.tail == NONE {
            queue.head = index;
        } else {
            self.entries[queue.tail].next = index;
        }
        queue.tail = index;
        queue.entries += 1;
        queue.bytes += length as u32;
        Ok(())
    }

    /// Fills `out` with what is next to leave, for one vectored write, and says how many slices that are. The first starts
    /// behind what has left already.
    pub fn gather<'a>(&'a self, queue: &Queue, out: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut written = queue.written as usize;
        for (slice, frame) in out.iter_mut().zip(self.frames_of(queue)) {
            *slice = IoSlice::new(&self.frames.bytes(frame)[written..]);
            written = 0;
            filled += 1;
        }
        filled
    }

    /// Notes that the first `bytes` of the queue have left, lets finished frames go and says how many those were. More than
    /// the queue holds is the caller's mistake and empties it.
    pub fn consume(&mut self, queue: &mut Queue, bytes: usize) -> u32 {
        debug_assert!(bytes <= queue.bytes as usize);
        let mut left = bytes;
        let mut finished = 0;
        while queue.head != NONE {
            let length = self.frames.bytes(self.entries[queue.head].frame).len();
            let waiting = length - queue.written as usize;
            if left < waiting {
                queue.written += left as u32;
                queue.bytes -= left as u32;
                break;
            }
            left -= waiting;
            finished += 1;
            self.remove_behind(queue, NONE);
        }
        finished
    }

    /// Lets everything in the queue go, also a frame that is half written: the connection is ending.
    pub fn clear(&mut self, queue: &mut Queue) {
        while queue.head != NONE {
            self.remove_behind(queue, NONE);
        }
    }

    /// Lets everything in the queue go but a frame that is half written, and says how many frames those were: the
    /// connection is being closed, and its last words must not stand in the middle of a frame.
    pub fn keep_started(&mut self, queue: &mut Queue) -> u32 {
        let (before, mut index) = self.first_unstarted(queue);
        let mut dropped = 0;
        while index != NONE {
            index = self.entries[index].next;
            self.remove_behind(queue, before);
            dropped += 1;
        }
        dropped
    }

    /// Drops the oldest frame whose tag the predicate accepts, and says whether there was one. A frame that is half written
    /// stays, or the stream would be broken, and so does any with the tag [`NONE`].
    pub fn drop_oldest(&mut self, queue: &mut Queue, mut droppable: impl FnMut(u32) -> bool) -> bool {
        let (mut before, mut index) = self.first_unstarted(queue);
        while index != NONE {
            let tag = self.tag(self.entries[index].frame);
            if tag != NONE && droppable(tag) {
                self.remove_behind(queue, before);
                return true;
            }
            (before, index) = (index, self.entries[index].next);
        }
        false
    }

    /// Drops all frames of one tag that are not half written, and says how many: the next one replaces them.
    pub fn drop_tag(&mut self, queue: &mut Queue, tag: u32) -> u32 {
        if tag == NONE {
            return 0;
        }
        let (mut before, mut index) = self.first_unstarted(queue);
        let mut dropped = 0;
        while index != NONE {
            let Entry { frame, next } = self.entries[index];
            if self.tag(frame) == tag {
                self.remove_behind(queue, before);
                dropped += 1;
            } else {
                before = index;
            }
            index = next;
        }
        dropped
    }

    /// The frames of a queue, oldest first.
    pub fn frames_of(&self, queue: &Queue) -> impl Iterator<Item = FrameIndex> {
        let mut index = queue.head;
        std::iter::from_fn(move || {
            let Entry { frame, next } = (index != NONE).then(|| self.entries[index])?;
            index = next;
            Some(frame)
        })
    }

    /// Bytes counted against the capacity: every queued frame once, and 8 for each entry.
    pub fn bytes_held(&self) -> u64 {
        self.frames.queued_bytes() + ENTRY_BYTES * u64::from(self.entries.len())
    }

    /// Entries in all queues.
    pub fn entries(&self) -> u32 {
        self.entries.len()
    }

    /// Frames in the table, the caller's included.
    pub fn frames(&self) -> u32 {
        self.frames.len()
    }

    /// The entry before the first that may be dropped, and that one.
    fn first_unstarted(&self, queue: &Queue) -> (u32, u32) {
        if queue.written > 0 { (queue.head, self.entries[queue.head].next) } else { (NONE, queue.head) }
    }

    /// Takes out the entry behind `before`, or the first one if that is [`NONE`].
    fn remove_behind(&mut self, queue: &mut Queue, before: u32) {
        let index = if before == NONE { queue.head } else { self.entries[before].next };
        let Entry { frame, next } = self.entries.remove(index);
        let mut bytes = self.frames.bytes(frame).len() as u32;
        if before == NONE {
            queue.head = next;
            bytes -= std::mem::take(&mut queue.written);
        } else {
            self.entries[before].next = next;
        }
        if queue.tail == index {
            queue.tail = before;
        }
        queue.entries -= 1;
        queue.bytes -= bytes;
        self.frames.remove_entry(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_8_bytes_and_a_queue_20() {
        assert_eq!((size_of::<Entry>(), size_of::<Queue>()), (8, 20));
    }
}
