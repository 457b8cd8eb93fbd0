//! The backlog beside queues that hold every byte of their own.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use fastrand::Rng;
use store::{Backlog, FrameIndex, Full, NONE, Queue, QueueLimit};

use crate::seed::{pick, rng};

const FREE: QueueLimit = QueueLimit { entries: u32::MAX, bytes: u32::MAX };

/// Fewer than a queue gets entries, so that gathering is cut short now and then.
const SLICES: usize = 8;

/// A frame that was held once. It is in the table while it is held or queued.
struct Frame {
    index: FrameIndex,
    bytes: Arc<[u8]>,
    tag: u32,
    held: bool,
}

/// What ought to wait for one connection: positions in the list of frames.
#[derive(Default)]
struct Expected {
    frames: VecDeque<usize>,
    written: usize,
}

struct Pair {
    backlog: Backlog<Arc<[u8]>>,
    entries_capacity: usize,
    bytes_capacity: u64,
    frames: Vec<Frame>,
    queues: Vec<(Queue, Expected)>,
}

impl Pair {
    fn new(queues: usize, entries_capacity: usize, bytes_capacity: u64) -> Self {
        Pair {
            backlog: Backlog::new(entries_capacity as u32, bytes_capacity),
            entries_capacity,
            bytes_capacity,
            frames: Vec::new(),
            queues: std::iter::repeat_with(Default::default).take(queues).collect(),
        }
    }

    fn hold(&mut self, rng: &mut Rng) {
        let length = if rng.u8(..20) == 0 { 0 } else { rng.usize(1..40) };
        let bytes: Arc<[u8]> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        let tag = *pick(rng, &[NONE, 1, 2, 3]);
        let index = self.backlog.hold(Arc::clone(&bytes), tag);
        assert_eq!((self.backlog.bytes(index), self.backlog.tag(index)), (&*bytes, tag));
        self.frames.push(Frame { index, bytes, tag, held: true });
    }

    fn any_held(&self, rng: &mut Rng) -> Option<usize> {
        let held: Vec<usize> = (0..self.frames.len()).filter(|&frame| self.frames[frame].held).collect();
        (!held.is_empty()).then(|| *pick(rng, &held))
    }

    fn release(&mut self, frame: usize) {
        self.backlog.release(self.frames[frame].index);
        self.frames[frame].held = false;
    }

    fn queued(&self, frame: usize) -> usize {
        self.queues.iter().flat_map(|(_, expected)| &expected.frames).filter(|&&found| found == frame).count()
    }

    fn bytes_held(&self) -> u64 {
        let frames = (0..self.frames.len()).filter(|&frame| self.queued(frame) > 0);
        let bytes: usize = frames.map(|frame| self.frames[frame].bytes.len()).sum();
        let entries: usize = self.queues.iter().map(|(_, expected)| expected.frames.len()).sum();
        bytes as u64 + 8 * entries as u64
    }

    fn waiting(&self, queue: usize) -> Vec<u8> {
        let (_, expected) = &self.queues[queue];
        let bytes = expected.frames.iter().flat_map(|&frame| self.frames[frame].bytes.iter().copied());
        bytes.skip(expected.written).collect()
    }

    fn push(&mut self, queue: usize, frame: usize, limit: QueueLimit) {
        let length = self.frames[frame].bytes.len();
        let entries: usize = self.queues.iter().map(|(_, expected)| expected.frames.len()).sum();
        let added = 8 + if self.queued(frame) == 0 { length as u64 } else { 0 };
        let due = if self.queues[queue].1.frames.len() >= limit.entries as usize {
            Err(Full::QueueEntries)
        } else if !self.queues[queue].1.frames.is_empty()
            && self.waiting(queue).len() + length > limit.bytes as usize
        {
            // A frame longer than the bound waits alone.
            Err(Full::QueueBytes)
        } else if self.bytes_held() + added > self.bytes_capacity {
            Err(Full::TableBytes)
        } else if entries == self.entries_capacity {
            Err(Full::TableEntries)
        } else {
            Ok(())
        };
        let (actual, expected) = &mut self.queues[queue];
        assert_eq!(self.backlog.push(actual, self.frames[frame].index, &limit), due);
        if due.is_ok() {
            expected.frames.push_back(frame);
        }
    }

    fn consume(&mut self, queue: usize, bytes: usize) {
        let (actual, expected) = &mut self.queues[queue];
        let finished = self.backlog.consume(actual, bytes);
        expected.written += bytes;
        let mut due = 0;
        while let Some(&frame) = expected.frames.front() {
            let length = self.frames[frame].bytes.len();
            if expected.written < length {
                break;
            }
            expected.written -= length;
            expected.frames.pop_front();
            due += 1;
        }
        assert_eq!(finished, due);
    }

    fn drop_oldest(&mut self, queue: usize, tags: &[u32]) {
        let (actual, expected) = &mut self.queues[queue];
        let dropped = self.backlog.drop_oldest(actual, |tag| tags.contains(&tag));
        let started = usize::from(expected.written > 0);
        let droppable = |frame: &usize| {
            let tag = self.frames[*frame].tag;
            tag != NONE && tags.contains(&tag)
        };
        let due = expected.frames.iter().skip(started).position(droppable);
        assert_eq!(dropped, due.is_some());
        if let Some(position) = due {
            expected.frames.remove(position + started);
        }
    }

    fn drop_tag(&mut self, queue: usize, tag: u32) {
        let (actual, expected) = &mut self.queues[queue];
        let dropped = self.backlog.drop_tag(actual, tag);
        let before = expected.frames.len();
        let mut started = expected.written > 0;
        expected
            .frames
            .retain(|&frame| std::mem::take(&mut started) || tag == NONE || self.frames[frame].tag != tag);
        assert_eq!(dropped as usize, before - expected.frames.len());
    }

    fn keep_started(&mut self, queue: usize) {
        let (actual, expected) = &mut self.queues[queue];
        let dropped = self.backlog.keep_started(actual);
        let started = usize::from(expected.written > 0);
        assert_eq!(dropped as usize, expected.frames.len() - started);
        expected.frames.truncate(started);
    }

    fn clear(&mut self, queue: usize) {
        let (actual, expected) = &mut self.queues[queue];
        self.backlog.clear(actual);
        *expected = Expected::default();
    }

    fn check(&self) {
        assert_eq!(self.backlog.bytes_held(), self.bytes_held());
        let mut entries = 0;
        for (queue, (actual, expected)) in self.queues.iter().enumerate() {
            let waiting = self.waiting(queue);
            entries += expected.frames.len();
            assert_eq!(actual.entries() as usize, expected.frames.len());
            assert_eq!(
                (actual.bytes() as usize, actual.written() as usize),
                (waiting.len(), expected.written)
            );
            assert_eq!(actual.is_empty(), expected.frames.is_empty());
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.backlog.gather(actual, &mut slices);
            assert_eq!(filled, expected.frames.len().min(SLICES));
            let gathered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!(gathered, waiting[..gathered.len()]);
            assert!(filled == SLICES || gathered.len() == waiting.len());
        }
        assert_eq!(self.backlog.entries() as usize, entries);
        let mut in_table = 0;
        for (position, frame) in self.frames.iter().enumerate() {
            let kept = frame.held || self.queued(position) > 0;
            in_table += u32::from(kept);
            assert_eq!(Arc::strong_count(&frame.bytes), 1 + usize::from(kept), "each frame is kept once");
        }
        assert_eq!(self.backlog.frames(), in_table);
    }
}

fn one_step(pair: &mut Pair, rng: &mut Rng) {
    let queue = rng.usize(..pair.queues.len());
    let tags = [*pick(rng, &[1, 2, 3]), *pick(rng, &[1, 2, NONE])];
    match rng.u8(..20) {
        0..=2 => pair.hold(rng),
        3..=9 => {
            let limit = match rng.u8(..3) {
                0 => QueueLimit { entries: rng.u32(..10), bytes: rng.u32(..200) },
                _ => FREE,
            };
            if let Some(frame) = pair.any_held(rng) {
                pair.push(queue, frame, limit);
            }
        }
        10 | 11 => {
            if let Some(frame) = pair.any_held(rng) {
                pair.release(frame);
            }
        }
        12..=15 => {
            let waiting = pair.waiting(queue).len();
            pair.consume(queue, rng.usize(..=waiting));
        }
        16 | 17 => pair.drop_oldest(queue, &tags),
        18 => pair.drop_tag(queue, tags[1]),
        _ if rng.bool() => pair.keep_started(queue),
        _ => pair.clear(queue),
    }
    pair.check();
}

#[test]
fn the_backlog_agrees_with_queues_of_their_own() {
    let mut rng = rng();
    for _ in 0..60 {
        let entries_capacity = rng.usize(..60);
        let bytes_capacity = if rng.bool() { rng.u64(..500) } else { u64::MAX };
        let mut pair = Pair::new(rng.usize(1..6), entries_capacity, bytes_capacity);
        for _ in 0..300 {
            one_step(&mut pair, &mut rng);
        }
        for queue in 0..pair.queues.len() {
            pair.clear(queue);
        }
        for frame in 0..pair.frames.len() {
            if pair.frames[frame].held {
                pair.release(frame);
            }
        }
        pair.check();
        assert_eq!((pair.backlog.frames(), pair.backlog.bytes_held()), (0, 0));
    }
}

#[test]
fn a_half_written_frame_outlives_every_policy() {
    let mut backlog = Backlog::new(4, 1000);
    let mut queue = Queue::default();
    let (half, next) = (backlog.hold(&b"half"[..], 1), backlog.hold(&b"next"[..], 1));
    assert_eq!(backlog.push(&mut queue, half, &FREE), Ok(()));
    assert_eq!(backlog.push(&mut queue, next, &FREE), Ok(()));
    assert_eq!(backlog.consume(&mut queue, 2), 0);
    assert!(backlog.drop_oldest(&mut queue, |_| true), "the one behind it may go");
    assert!(!backlog.drop_oldest(&mut queue, |_| true));
    assert_eq!(backlog.drop_tag(&mut queue, 1), 0);
    let mut slices = [IoSlice::new(&[]); 2];
    assert_eq!(backlog.gather(&queue, &mut slices), 1);
    assert_eq!(&*slices[0], b"lf");
}

#[test]
fn a_frame_that_left_in_part_is_pushed_whole_and_then_consumed() {
    let mut backlog = Backlog::new(1, 1000);
    let mut queue = Queue::default();
    let frame = backlog.hold(&b"partly"[..], NONE);
    assert_eq!(backlog.push(&mut queue, frame, &FREE), Ok(()));
    backlog.release(frame);
    assert_eq!((backlog.consume(&mut queue, 4), queue.bytes(), queue.written()), (0, 2, 4));
    assert_eq!((backlog.consume(&mut queue, 2), backlog.frames()), (1, 0));
}

#[test]
fn a_shared_frame_counts_once_and_each_entry_8_bytes() {
    let mut backlog = Backlog::new(10, 100 + 3 * 8);
    let mut queues: [Queue; 4] = Default::default();
    let frame = backlog.hold(vec![0; 100], 1);
    assert_eq!(backlog.bytes_held(), 0, "nobody waits for it yet");
    for queue in &mut queues[..3] {
        assert_eq!(backlog.push(queue, frame, &FREE), Ok(()));
    }
    assert_eq!(backlog.bytes_held(), 124);
    assert_eq!(backlog.push(&mut queues[3], frame, &FREE), Err(Full::TableBytes));
    backlog.clear(&mut queues[0]);
    assert_eq!(backlog.push(&mut queues[3], frame, &FREE), Ok(()));
}
