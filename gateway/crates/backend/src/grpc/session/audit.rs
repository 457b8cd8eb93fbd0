//! What has to hold between any two calls of a session, looked up the slow way. Called by the simulation after each step;
//! refuses to mend anything.

use std::collections::HashMap;

use super::{Phase, Session, StreamId};

impl Session {
    /// Compares what is kept twice, and every bound.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_lanes()?;
        self.audit_streams()?;
        self.audit_lines()?;
        self.audit_shares()
    }

    fn audit_lanes(&self) -> Result<(), String> {
        self.lanes.audit()?;
        let mut in_flight: HashMap<u16, u32> = HashMap::new();
        for number in self.lanes.numbers() {
            let lane = self.lanes.lane(number);
            if lane.in_flight > self.sizes.connection_events {
                return Err(format!("{:?} has {} under way", lane.address, lane.in_flight));
            }
            *in_flight.entry(lane.partition).or_default() += u32::from(lane.in_flight);
        }
        for (number, partition) in (0u16..).zip(&self.partitions) {
            let counted = in_flight.get(&number).copied().unwrap_or(0);
            if counted != partition.in_flight {
                return Err(format!(
                    "partition {number}: {counted} under way, {} counted",
                    partition.in_flight
                ));
            }
            if partition.owner.is_none() && counted > 0 {
                return Err(format!("partition {number}: {counted} under way with nobody"));
            }
            if partition.owner.is_some_and(|owner| !self.streams.contains_key(&owner)) {
                return Err(format!("partition {number}: its stream is no more"));
            }
        }
        Ok(())
    }

    fn audit_streams(&self) -> Result<(), String> {
        let mut bytes: HashMap<StreamId, u64> = HashMap::new();
        let mut payloads: HashMap<StreamId, usize> = HashMap::new();
        for number in self.lanes.numbers() {
            let lane = self.lanes.lane(number);
            if let Some(owner) = self.partitions[usize::from(lane.partition)].owner {
                *bytes.entry(owner).or_default() += lane.bytes_in_flight();
                *payloads.entry(owner).or_default() += usize::from(lane.in_flight);
            }
        }
        for (id, stream) in &self.streams {
            let under_way = stream.window.len();
            if payloads.get(id).copied().unwrap_or(0) != under_way {
                return Err(format!("{id:?}: {under_way} under way, {payloads:?} in lanes"));
            }
            let counted = bytes.get(id).copied().unwrap_or(0);
            if counted != stream.bytes {
                return Err(format!("{id:?}: {counted} bytes under way, {} counted", stream.bytes));
            }
            if under_way > self.sizes.window_events as usize {
                return Err(format!("{id:?}: {under_way} under way"));
            }
            if stream.window.places() > 2 * self.sizes.window_events as usize + 1 {
                return Err(format!("{id:?}: {} places", stream.window.places()));
            }
        }
        if self.repeats.len() > self.sizes.ids {
            return Err(format!("{} ids", self.repeats.len()));
        }
        Ok(())
    }

    fn audit_lines(&self) -> Result<(), String> {
        let mut standing: HashMap<u32, usize> = HashMap::new();
        for partition in &self.partitions {
            for lane in &partition.ready {
                *standing.entry(*lane).or_default() += 1;
            }
        }
        for number in self.lanes.numbers() {
            let lane = self.lanes.lane(number);
            let stands = standing.get(&number).copied().unwrap_or(0);
            if stands != usize::from(lane.is_ready) {
                return Err(format!("{:?} stands {stands} times in line", lane.address));
            }
            if lane.can_send(self.sizes.connection_events) && !lane.is_ready {
                return Err(format!("{:?} was forgotten", lane.address));
            }
        }
        for (number, partition) in (0u16..).zip(&self.partitions) {
            let owner = partition.owner.and_then(|owner| self.streams.get(&owner));
            let stands = owner.map_or(0, |one| one.ready.iter().filter(|ready| **ready == number).count());
            if stands != usize::from(partition.is_listed) {
                return Err(format!("partition {number} stands {stands} times in line"));
            }
            let is_fed =
                owner.is_some_and(|one| one.phase == Phase::Live) && partition.leaving_since.is_none();
            if is_fed && !partition.ready.is_empty() && !partition.is_listed {
                return Err(format!("partition {number} was forgotten"));
            }
        }
        Ok(())
    }

    fn audit_shares(&self) -> Result<(), String> {
        let live: Vec<StreamId> =
            self.streams.iter().filter(|(_, one)| one.phase == Phase::Live).map(|(id, _)| *id).collect();
        if live.is_empty() {
            return Ok(());
        }
        if self.partitions.iter().any(|one| one.owner.is_none()) {
            return Err("a partition has no stream".to_owned());
        }
        if self.partitions.iter().any(|one| one.leaving_since.is_some()) {
            return Ok(());
        }
        let count = |id: &StreamId| self.partitions.iter().filter(|one| one.owner == Some(*id)).count();
        let (least, most) = (live.iter().map(count).min(), live.iter().map(count).max());
        match (least, most) {
            (Some(least), Some(most)) if most - least > 1 => Err(format!("shares from {least} to {most}")),
            _ => Ok(()),
        }
    }
}
