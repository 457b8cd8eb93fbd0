//! Sending, acknowledging and giving up: what happens to events while their partition stays where it is.

use super::{GivenUp, Order, Refusal, STRIKES_MAX, Status, StreamEnd};
use super::{Phase, Say, Session, Stream, StreamId, Told};

impl Session {
    /// Puts a lane into its partition's line, if it can send.
    pub(super) fn make_ready(&mut self, number: u32) {
        let window = self.sizes.connection_events;
        let lane = self.lanes.lane_mut(number);
        if lane.is_ready || !lane.can_send(window) {
            return;
        }
        lane.is_ready = true;
        let partition = lane.partition;
        self.partitions[usize::from(partition)].ready.push_back(number);
        self.list(partition);
    }

    /// Whether the stream's window has room for another event, its bytes left out.
    pub(super) fn has_window(&self, stream: &Stream) -> bool {
        stream.phase == Phase::Live && stream.window.len() < self.sizes.window_events as usize
    }

    /// Sends one event. `false` when there is none, or no room.
    pub(super) fn send_next(&mut self, id: StreamId, now_ms: u64, tell: &mut impl FnMut(Told<'_>)) -> bool {
        let (window_bytes, connection_events) = (self.sizes.window_bytes, self.sizes.connection_events);
        loop {
            let Some(stream) = self.streams.get(&id) else { return false };
            if !self.has_window(stream) {
                return false;
            }
            let Some(stream) = self.streams.get_mut(&id) else { return false };
            let Some(number) = stream.ready.front().copied() else { return false };
            let partition = &mut self.partitions[usize::from(number)];
            let Some(lane_number) = partition.ready.front().copied() else {
                partition.is_listed = false;
                stream.ready.pop_front();
                continue;
            };
            let lane = self.lanes.lane_mut(lane_number);
            if !lane.can_send(connection_events) {
                // What it had was given up while it stood in the line.
                partition.ready.pop_front();
                self.lanes.called(lane_number);
                continue;
            }
            let bytes = u64::from(lane.next_bytes());
            if stream.bytes > 0 && stream.bytes + bytes > window_bytes {
                return false;
            }
            partition.ready.pop_front();
            stream.ready.pop_front();
            if stream.window.len() == 0 {
                stream.moved_ms = now_ms;
            }
            let position = stream.window.send(lane_number);
            stream.bytes += bytes;
            partition.in_flight += 1;
            if let Some(departure) = lane.depart(position, now_ms) {
                let counter = if departure.again { &self.stats.sent_again } else { &self.stats.sent };
                counter.add(1);
                tell(Told::Event { position, again: departure.again, inbound: departure.inbound });
            }
            // Both go to the end of their lines, so that connections and partitions take turns.
            if lane.can_send(connection_events) {
                partition.ready.push_back(lane_number);
            } else {
                lane.is_ready = false;
            }
            partition.is_listed = false;
            self.list(number);
            return true;
        }
    }

    /// Acknowledges a range. `false` when it is nonsense.
    pub(super) fn acknowledge(&mut self, id: StreamId, first: u64, last: u64, now_ms: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        if stream.window.check(first, last).is_err() {
            return false;
        }
        let mut taken = std::mem::take(&mut self.taken);
        stream.window.acknowledge(first, last, |position, lane| taken.push((position, lane)));
        if !taken.is_empty() {
            stream.moved_ms = now_ms;
        }
        for (position, number) in taken.drain(..) {
            let Some(settled) = self.lanes.acknowledge(number, position, now_ms) else {
                debug_assert!(false, "what is under way is in its lane");
                continue;
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.bytes -= u64::from(settled.bytes);
            }
            self.partitions[usize::from(settled.partition)].in_flight -= 1;
            self.stats.acknowledged.add(1);
            self.due.settled.push(settled);
            self.make_ready(number);
        }
        self.taken = taken;
        true
    }

    /// Whether an order may be obeyed.
    pub(super) fn judge(
        &mut self,
        id: StreamId,
        order_id: u64,
        order: Order,
        now_ms: u64,
    ) -> Result<Order, Refusal> {
        let is_owner = order.whom().is_none_or(|whom| self.owner(whom) == Some(id));
        if !is_owner {
            return Err(Refusal::new(
                Status::FailedPrecondition,
                "another stream owns the connection; orders go where its events come from",
            ));
        }
        if order_id != 0 {
            let forgotten = self.repeats.forgotten;
            let is_new = self.repeats.is_new(order_id, now_ms);
            self.stats.ids_forgotten.add(self.repeats.forgotten - forgotten);
            if !is_new {
                return Err(Refusal::new(Status::AlreadyExists, "an order with this id was taken lately"));
            }
        }
        Ok(order)
    }

    /// Ends a stream: what was under way on it goes elsewhere. `is_ours`: whoever runs the session has to cancel it.
    pub(super) fn end(&mut self, id: StreamId, why: StreamEnd, is_ours: bool, now_ms: u64) {
        if !self.streams.contains_key(&id) {
            return;
        }
        self.orphan(id);
        self.streams.remove(&id);
        self.stats.ended[why as usize].add(1);
        if is_ours {
            self.due.ended.push((id, why));
        }
        self.pin(now_ms);
    }

    /// Half-closes streams that said goodbye, when they have nothing left to hear.
    pub(super) fn finish_streams(&mut self) {
        for (id, stream) in &mut self.streams {
            let is_done = stream.phase == Phase::Leaving && stream.owed == 0 && stream.says.is_empty();
            if is_done && !self.partitions.iter().any(|partition| partition.owner == Some(*id)) {
                stream.phase = Phase::Finished;
                self.due.half_close.push(*id);
            }
        }
    }

    /// Gives up connections that do not move while their stream does.
    pub(super) fn give_up_stuck_lanes(&mut self, now_ms: u64) {
        let stuck: Vec<u32> = self
            .lanes
            .numbers()
            .filter(|number| {
                let lane = self.lanes.lane(*number);
                let owner = self.partitions[usize::from(lane.partition)].owner;
                lane.in_flight > 0
                    && now_ms.saturating_sub(lane.moved_ms) >= self.sizes.ack_timeout_ms
                    && owner
                        .and_then(|owner| self.streams.get(&owner))
                        .is_some_and(|stream| stream.moved_ms > lane.moved_ms)
            })
            .collect();
        for number in stuck {
            self.give_up(number);
        }
    }

    /// Ends streams on which nothing moves, and gives up those connections to which that has happened before.
    pub(super) fn end_silent_streams(&mut self, now_ms: u64) {
        let timeout_ms = self.sizes.ack_timeout_ms;
        let is_silent =
            |stream: &Stream| stream.window.len() > 0 && now_ms.saturating_sub(stream.moved_ms) >= timeout_ms;
        let silent: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| is_silent(stream)).map(|(id, _)| *id).collect();
        for id in silent {
            let partitions = &self.partitions;
            let under_way = |lane: &super::lanes::Lane| {
                lane.in_flight > 0 && partitions[usize::from(lane.partition)].owner == Some(id)
            };
            let waiting: Vec<u32> =
                self.lanes.numbers().filter(|number| under_way(self.lanes.lane(*number))).collect();
            for number in waiting {
                let lane = self.lanes.lane_mut(number);
                lane.strikes += 1;
                if lane.strikes >= STRIKES_MAX {
                    self.give_up(number);
                }
            }
            self.end(id, StreamEnd::Silent, true, now_ms);
        }
    }

    /// Gives up a connection: nobody answers for it, so it is to be closed.
    fn give_up(&mut self, number: u32) {
        let lane = self.lanes.lane(number);
        let (address, partition) = (lane.address, lane.partition);
        let (in_flight, bytes) = (u32::from(lane.in_flight), lane.bytes_in_flight());
        let partition = &mut self.partitions[usize::from(partition)];
        partition.in_flight -= in_flight;
        if let Some(stream) = partition.owner.and_then(|owner| self.streams.get_mut(&owner)) {
            stream.window.forget(|lane| lane == number);
            stream.bytes -= bytes;
        }
        let before = self.lanes.events();
        self.lanes.give_up(number, |settled| self.due.settled.push(settled));
        let events = (before - self.lanes.events()) as u64;
        self.stats.given_up[GivenUp::AckTimeout as usize].add(events);
        self.given_up += events;
        self.due.condemned.push(address);
        self.make_ready(number);
        for stream in self.streams.values_mut() {
            // One that has not been told yet will be told the newest number.
            if stream.phase != Phase::Finished && !stream.says.iter().any(|say| matches!(say, Say::Gap)) {
                stream.says.push_back(Say::Gap);
            }
        }
    }

    /// Sets the gauges.
    pub(super) fn show(&self) {
        let live = self.streams.values().filter(|stream| stream.phase != Phase::Finished);
        let up = live.filter(|stream| !matches!(stream.phase, Phase::Greeting(_))).count();
        self.stats.streams_up.set(up as u64);
        self.stats.events_held.set(self.lanes.events() as u64);
        let under_way: usize = self.streams.values().map(|stream| stream.window.len()).sum();
        self.stats.events_under_way.set(under_way as u64);
        self.stats.connections_held.set(self.lanes.len() as u64);
        let waiting = self.partitions.iter().filter(|partition| partition.owner.is_none()).count();
        self.stats.partitions_waiting.set(waiting as u64);
    }
}
