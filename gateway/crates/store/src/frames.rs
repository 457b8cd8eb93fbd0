//! The frames that somebody waits for, each kept once however many wait.
//!
//! Owns the bytes and two facts about each frame: whether the caller still holds it, and how many queue entries refer to it.
//! Refuses to bound anything: a frame without an entry is the caller's to release, and entries are bounded by the backlog,
//! which is the only caller.

use slab::Slab;

/// A frame in the table of its backlog, valid until it is released.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct FrameIndex(pub(crate) u32);

#[derive(Debug)]
struct Frame<B> {
    bytes: B,
    tag: u32,
    entries: u32,
    /// From `hold` to `release`.
    held: bool,
}

#[derive(Debug)]
pub(crate) struct Frames<B> {
    slots: Slab<Frame<B>>,
    /// Sum of the lengths of all frames that have entries.
    queued_bytes: u64,
}

impl<B: AsRef<[u8]>> Frames<B> {
    pub(crate) fn new(capacity: u32) -> Self {
        Frames { slots: Slab::with_capacity(capacity as usize), queued_bytes: 0 }
    }

    pub(crate) fn hold(&mut self, bytes: B, tag: u32) -> FrameIndex {
        debug_assert!(bytes.as_ref().len() <= u32::MAX as usize);
        FrameIndex(self.slots.insert(Frame { bytes, tag, entries: 0, held: true }) as u32)
    }

    pub(crate) fn release(&mut self, index: FrameIndex) {
        let frame = &mut self.slots[index.0 as usize];
        debug_assert!(frame.held, "released twice");
        frame.held = false;
        self.drop_unused(index);
    }

    pub(crate) fn bytes(&self, index: FrameIndex) -> &[u8] {
        self.slots[index.0 as usize].bytes.as_ref()
    }

    pub(crate) fn shared(&self, index: FrameIndex) -> &B {
        &self.slots[index.0 as usize].bytes
    }

    pub(crate) fn tag(&self, index: FrameIndex) -> u32 {
        self.slots[index.0 as usize].tag
    }

    /// What one more entry would add to [`Frames::queued_bytes`]: the frame's length for the first, nothing for the others.
    pub(crate) fn added_bytes(&self, index: FrameIndex) -> u64 {
        let frame = &self.slots[index.0 as usize];
        if frame.entries == 0 { frame.bytes.as_ref().len() as u64 } else { 0 }
    }

    pub(crate) fn add_entry(&mut self, index: FrameIndex) {
        self.queued_bytes += self.added_bytes(index);
        self.slots[index.0 as usize].entries += 1;
    }

    pub(crate) fn remove_entry(&mut self, index: FrameIndex) {
        let frame = &mut self.slots[index.0 as usize];
        debug_assert!(frame.entries > 0);
        frame.entries -= 1;
        self.queued_bytes -= self.added_bytes(index);
        self.drop_unused(index);
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    pub(crate) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    fn drop_unused(&mut self, index: FrameIndex) {
        let frame = &self.slots[index.0 as usize];
        if !frame.held && frame.entries == 0 {
            self.slots.remove(index.0 as usize);
        }
    }
}
