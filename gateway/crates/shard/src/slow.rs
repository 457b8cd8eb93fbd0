//! Slow consumers: what gives way when a backlog is at its bound, and the bytes that a shard may keep for all of them.
//! Slow is whose socket is full: what merely waits for the end of a turn gives way to nothing.
//!
//! Owns the policies of routes. They touch frames of channels only: a reply, a control frame or a direct message may push
//! those out, and where that is not enough, or the policy is to close, the connection is closed 1013. A frame that has
//! begun to leave stays whatever happens. The bytes are the node's: a shard claims them by the chunk and gives back what
//! it has too much of, so that all of them are there for whichever shard has the slow clients. Called by `egress` and
//! `close` for each frame that has to wait.

use store::{FrameIndex, Full, Key, NONE, Queue, QueueLimit};

use crate::net::Net;
use crate::rules::SlowConsumer;
use crate::turn::Shard;

/// Bytes claimed at a time: more than that lies idle in no shard for long.
const CHUNK_BYTES: u64 = 64 * 1024;

impl<N: Net> Shard<N> {
    /// What gives way for this connection.
    pub(crate) fn policy(&self, key: Key) -> SlowConsumer {
        let route = self.conns.get(key).and_then(|conn| self.rules.routes.get(usize::from(conn.route)));
        route.map_or(SlowConsumer::Close, |route| route.slow_consumer)
    }

    pub(crate) fn count_dropped(&self, policy: SlowConsumer, frames: u32) {
        self.stats.deliveries_dropped[policy as usize].add(u64::from(frames));
    }

    /// Whether the connection is closed when this frame finds no place in its backlog.
    pub(crate) fn closes_for(&self, key: Key, frame: FrameIndex) -> bool {
        self.policy(key) == SlowConsumer::Close || self.backlog.tag(frame) == NONE
    }

    /// Pushes a frame to the queue of a connection. When its socket `is_full` room is made for it as the route says; before
    /// that nothing gives way, because all of it may leave when it is offered.
    pub(crate) fn push_by_policy(
        &mut self,
        key: Key,
        queue: &mut Queue,
        frame: FrameIndex,
        is_full: bool,
    ) -> Result<(), Full> {
        let (policy, tag, limit) = (self.policy(key), self.backlog.tag(frame), self.rules.backlog);
        if !is_full {
            return self.push_within_budget(queue, frame, &limit);
        }
        if policy == SlowConsumer::KeepLatest {
            let replaced = self.backlog.drop_tag(queue, tag);
            self.count_dropped(policy, replaced);
        }
        let mut pushed = self.push_within_budget(queue, frame, &limit);
        let others_give_way = match policy {
            SlowConsumer::Close => false,
            SlowConsumer::DropNewest => tag == NONE,
            SlowConsumer::DropOldest | SlowConsumer::KeepLatest => true,
        };
        while let Err(full) = pushed
            && others_give_way
            && self.backlog.drop_oldest(queue, |_| true)
        {
            self.count_dropped(policy, 1);
            pushed = self.push_within_budget(queue, frame, &limit);
            // At the bound of the node it is others who wait for too much: one of its own is enough to lose for that.
            if matches!(full, Full::TableBytes | Full::TableEntries) {
                break;
            }
        }
        pushed
    }

    /// Pushes a frame to a queue, with more of the node's bytes if it takes that.
    pub(crate) fn push_within_budget(
        &mut self,
        queue: &mut Queue,
        frame: FrameIndex,
        limit: &QueueLimit,
    ) -> Result<(), Full> {
        let pushed = self.backlog.push(queue, frame, limit);
        if pushed != Err(Full::TableBytes) {
            return pushed;
        }
        let missing = self.backlog.bytes_missing(frame);
        let Some(claimed) = self.node_bytes.claim(missing, missing.max(CHUNK_BYTES)) else { return pushed };
        self.backlog.set_bytes_capacity(self.backlog.bytes_capacity() + claimed);
        self.backlog.push(queue, frame, limit)
    }

    /// Gives back bytes that other shards may need. Called once a turn.
    pub(crate) fn return_bytes(&mut self) {
        let capacity = self.backlog.bytes_capacity();
        let idle = capacity - self.backlog.bytes_held();
        // Two chunks, or a backlog that comes and goes would claim and return one each turn.
        if idle > 2 * CHUNK_BYTES {
            self.node_bytes.give_back(idle - CHUNK_BYTES);
            self.backlog.set_bytes_capacity(capacity - (idle - CHUNK_BYTES));
        }
    }
}
