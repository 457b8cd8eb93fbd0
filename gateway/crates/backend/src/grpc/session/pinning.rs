//! Which stream owns which partition. Owns the arithmetic of even shares and the moves between streams; what a move does
//! to events under way is in here, too, because nothing else takes a partition from its stream.

use std::collections::VecDeque;

use super::{Phase, Session, StreamId};

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) owner: Option<StreamId>,
    /// How often it was taken from a stream.
    pub(super) moves: u64,
    /// It is to move, and is not fed since then.
    pub(super) leaving_since: Option<u64>,
    /// Lanes with something to send, in turn.
    pub(super) ready: VecDeque<u32>,
    /// Whether it stands in its owner's line.
    pub(super) is_listed: bool,
    /// Events under way.
    pub(super) in_flight: u32,
}

impl Session {
    /// Spreads the partitions evenly over the streams that are live, with as few moves as can be. Call it whenever a
    /// stream has come or goes.
    pub(super) fn pin(&mut self, now_ms: u64) {
        for number in 0..self.sizes.partitions {
            let owner = self.partitions[usize::from(number)].owner;
            if owner.and_then(|owner| self.streams.get(&owner)).is_some_and(|one| one.phase != Phase::Live) {
                self.start_to_leave(number, now_ms);
            }
        }
        let mut shares = self.shares();
        if shares.is_empty() {
            return self.finish_moves(now_ms);
        }
        // The larger shares stay with those who have most.
        shares.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        let (floor, larger) = (self.partitions.len() / shares.len(), self.partitions.len() % shares.len());
        for (place, (id, count)) in shares.into_iter().enumerate() {
            let share = floor + usize::from(place < larger);
            self.shed(id, count.saturating_sub(share), now_ms);
        }
        self.finish_moves(now_ms);
        self.adopt();
    }

    /// Live streams, and how many partitions each is to keep.
    fn shares(&self) -> Vec<(StreamId, usize)> {
        let mut shares: Vec<(StreamId, usize)> =
            self.streams.iter().filter(|(_, one)| one.phase == Phase::Live).map(|(id, _)| (*id, 0)).collect();
        for partition in self.partitions.iter().filter(|one| one.leaving_since.is_none()) {
            // Ids ascend, as the map has them.
            if let Some(owner) = partition.owner
                && let Ok(place) = shares.binary_search_by_key(&owner, |(id, _)| *id)
            {
                shares[place].1 += 1;
            }
        }
        shares
    }

    /// Lets some partitions leave a stream, quiet ones first.
    fn shed(&mut self, id: StreamId, many: usize, now_ms: u64) {
        if many == 0 {
            return;
        }
        let mut kept: Vec<(u32, usize, u16)> = (0u16..)
            .zip(&self.partitions)
            .filter(|(_, one)| one.owner == Some(id) && one.leaving_since.is_none())
            .map(|(number, one)| (one.in_flight, one.ready.len(), number))
            .collect();
        kept.sort_unstable();
        for (_, _, number) in kept.into_iter().take(many) {
            self.start_to_leave(number, now_ms);
        }
    }

    /// A partition is not fed any more; it moves when what is under way is acknowledged, or after a while.
    fn start_to_leave(&mut self, number: u16, now_ms: u64) {
        let partition = &mut self.partitions[usize::from(number)];
        if partition.leaving_since.is_some() {
            return;
        }
        partition.leaving_since = Some(now_ms);
        self.leaving.push(number);
        self.take_off_the_line(number);
    }

    fn take_off_the_line(&mut self, number: u16) {
        let partition = &mut self.partitions[usize::from(number)];
        if std::mem::take(&mut partition.is_listed)
            && let Some(stream) = partition.owner.and_then(|owner| self.streams.get_mut(&owner))
        {
            stream.ready.retain(|one| *one != number);
        }
    }

    /// Moves the partitions whose time has come.
    pub(super) fn finish_moves(&mut self, now_ms: u64) {
        if self.leaving.is_empty() {
            return;
        }
        let handover_ms = self.sizes.handover_ms;
        let mut leaving = std::mem::take(&mut self.leaving);
        let before = leaving.len();
        leaving.retain(|number| {
            let partition = &self.partitions[usize::from(*number)];
            let is_over = |since: u64| now_ms.saturating_sub(since) >= handover_ms;
            // None: its stream ended, and it is free already.
            let Some(since) = partition.leaving_since else { return false };
            let stays = partition.in_flight > 0 && !is_over(since);
            if !stays {
                self.release(*number);
            }
            stays
        });
        let has_moved = leaving.len() != before;
        self.leaving = leaving;
        if has_moved {
            self.adopt();
        }
    }

    /// A partition belongs to nobody; what is under way of it waits to be sent again.
    fn release(&mut self, number: u16) {
        self.take_off_the_line(number);
        let partition = &mut self.partitions[usize::from(number)];
        partition.leaving_since = None;
        let Some(owner) = partition.owner.take() else { return };
        partition.moves += 1;
        self.stats.moved.add(1);
        if std::mem::take(&mut partition.in_flight) == 0 {
            return;
        }
        let mut recalled = Vec::new();
        if let Some(stream) = self.streams.get_mut(&owner) {
            stream.window.forget(|lane| {
                let is_its = self.lanes.lane(lane).partition == number;
                if is_its {
                    recalled.push(lane);
                }
                is_its
            });
            for lane in &recalled {
                // A lane is named once for each event under way; recalled, it has none.
                stream.bytes -= self.lanes.lane(*lane).bytes_in_flight();
                self.lanes.lane_mut(*lane).recall();
            }
        }
        for lane in recalled {
            self.make_ready(lane);
        }
    }

    /// Takes all partitions off a stream that is no more.
    pub(super) fn orphan(&mut self, id: StreamId) {
        for number in 0..self.sizes.partitions {
            if self.partitions[usize::from(number)].owner == Some(id) {
                self.release(number);
            }
        }
    }

    /// Gives partitions without a stream to those live ones that have least.
    fn adopt(&mut self) {
        let mut shares = self.shares();
        if shares.is_empty() {
            return;
        }
        for number in 0..self.sizes.partitions {
            if self.partitions[usize::from(number)].owner.is_some() {
                continue;
            }
            let Some(least) = shares.iter_mut().min_by_key(|(id, count)| (*count, *id)) else { return };
            least.1 += 1;
            self.partitions[usize::from(number)].owner = Some(least.0);
            self.list(number);
        }
    }

    /// Puts a partition into its owner's line, if it has something to send and is fed.
    pub(super) fn list(&mut self, number: u16) {
        let partition = &mut self.partitions[usize::from(number)];
        if partition.is_listed || partition.leaving_since.is_some() || partition.ready.is_empty() {
            return;
        }
        if let Some(stream) = partition.owner.and_then(|owner| self.streams.get_mut(&owner)) {
            partition.is_listed = true;
            stream.ready.push_back(number);
        }
    }
}
