//! The publisher of rooms: one thread that posts to the API at a fixed rate, and what became of every message.
//!
//! It owns the proof that something was accepted: the publisher waits for each answer, and notes when it came. It
//! refuses to post again: who got a message of which no answer came, nobody knows. Used by `drain` and `reload`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::api::Api;
use crate::clock;
use crate::failure::Failure;
use crate::fault::{Fault, Faults};
use crate::payload;
use crate::report::{Report, Unit};
use crate::scenarios::latencies;
use crate::scenarios::rooms::Args;
use crate::sockets;

/// The answer to a message that was not accepted, or whose answer never came.
pub(crate) const NOT_ACCEPTED: u64 = u64::MAX;

/// What became of every message, shared by the publisher and all client threads: for each room when each message of
/// its sequence was accepted, ns.
#[derive(Debug)]
pub(crate) struct Ledger {
    rooms: Vec<Mutex<Vec<u64>>>,
}

impl Ledger {
    /// So many rooms, nothing said. Memory: eight bytes for each message of a run.
    pub(crate) fn new(rooms: u32) -> Ledger {
        Ledger { rooms: (0..rooms).map(|_| Mutex::default()).collect() }
    }

    fn room(&self, room: u32) -> MutexGuard<'_, Vec<u64>> {
        self.rooms[room as usize % self.rooms.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, room: u32, accepted_ns: u64) {
        self.room(room).push(accepted_ns);
    }

    /// Messages from number `from` up to `until` that were accepted before this moment.
    pub(crate) fn accepted(&self, room: u32, from: u32, until: u32, before_ns: u64) -> u64 {
        let answers = self.room(room);
        let answers = answers.iter().take(until as usize).skip(from as usize);
        answers.filter(|&&at_ns| at_ns != NOT_ACCEPTED && at_ns < before_ns).count() as u64
    }
}

/// What the publisher saw.
#[derive(Debug)]
pub(crate) struct Published {
    /// Messages answered with 202.
    pub(crate) accepted: u64,
    /// Deliveries that those answers speak of.
    pub(crate) deliveries: u64,
    /// Deliveries that those answers say were dropped.
    pub(crate) dropped: u64,
    /// Messages of which nobody knows how many they went to: no answer, or one without counts.
    pub(crate) unknown: u64,
    /// Messages that were refused or not answered, by kind.
    pub(crate) faults: Faults,
    /// Time until the answer, ns.
    pub(crate) answers: Histogram<u64>,
}

impl Published {
    /// Deliveries that were promised beyond those that members account for. Where the reach of a message is not known
    /// there may be more, by as many as it reached.
    pub(crate) fn undelivered(&self, accounted: u64) -> u64 {
        self.deliveries.saturating_sub(accounted)
    }

    /// Puts it into a report.
    pub(crate) fn tell(&self, report: &mut Report) {
        report.figure("messages_accepted", self.accepted as f64, Unit::Count);
        report.figure("messages_not_accepted", self.faults.total() as f64, Unit::Count);
        report.figure("messages_with_unknown_reach", self.unknown as f64, Unit::Count);
        report.percentiles("publish_answer", &self.answers);
        report.figure("deliveries_promised", self.deliveries as f64, Unit::Count);
        report.figure("deliveries_dropped", self.dropped as f64, Unit::Count);
    }
}

/// A thread that posts messages to rooms in turn until it is stopped or nobody listens any more.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Published>,
}

impl Publisher {
    /// Begins now. Only after the crew has started, whose threads would keep a copy of its socket.
    ///
    /// # Errors
    /// The thread did not start.
    pub(crate) fn start(args: &Args, api: &Api, ledger: Arc<Ledger>) -> Result<Publisher, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (args, api, stopped) = (args.clone(), api.another(), stop.clone());
        let thread = thread::Builder::new()
            .name("publisher".into())
            .spawn(move || publish(&args, api, &ledger, &stopped))
            .map_err(Failure::machine("starting the publisher"))?;
        Ok(Publisher { stop, thread })
    }

    /// Stops it after the message under way.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) fn stop(self) -> Result<Published, Failure> {
        self.stop.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| Failure::Machine("the publisher".into(), io::Error::other("panicked, see above")))
    }
}

fn publish(args: &Args, mut api: Api, ledger: &Ledger, stop: &AtomicBool) -> Published {
    let mut seen = Published {
        accepted: 0,
        deliveries: 0,
        dropped: 0,
        unknown: 0,
        faults: Faults::default(),
        answers: latencies(),
    };
    let (began_ns, mut message) = (clock::now_ns(), Vec::new());
    for nth in 0_u32.. {
        let meant_ns = began_ns + (f64::from(nth) / args.publish_rate * 1e9) as u64;
        let wait_ns = meant_ns.saturating_sub(clock::now_ns());
        if wait_ns > 0 {
            clock::pause(Duration::from_nanos(wait_ns));
        }
        if stop.load(Ordering::Acquire) {
            break;
        }
        let (room, sequence) = (nth % args.rooms, nth / args.rooms);
        payload::write(&mut message, room, sequence, args.size);
        let sent_ns = clock::now_ns();
        let answer = api.call("POST", &args.publish.replace("{r}", &room.to_string()), &message);
        let now_ns = clock::now_ns();
        let is_accepted = matches!(&answer, Ok(answer) if answer.status == 202);
        ledger.note(room, if is_accepted { now_ns } else { NOT_ACCEPTED });
        match answer {
            Ok(answer) if answer.status == 202 => {
                seen.accepted += 1;
                seen.answers.saturating_record(now_ns - sent_ns);
                let counts = answer.json();
                match (counts["subscribers"].as_u64(), counts["dropped"].as_u64()) {
                    (Some(subscribers), Some(dropped)) => {
                        seen.deliveries += subscribers - dropped.min(subscribers);
                        seen.dropped += dropped;
                    }
                    _ => seen.unknown += 1,
                }
            }
            Ok(answer) => seen.faults.note(Fault::Publish(answer.status)),
            // Who refuses connections is gone, and will not come back within a run.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
            Err(error) => {
                seen.unknown += 1;
                seen.faults.note(Fault::Broken(sockets::errno(&error)));
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_accepted_in_time_is_owed() {
        let ledger = Ledger::new(2);
        for answer_ns in [10, NOT_ACCEPTED, 20, 30] {
            ledger.note(1, answer_ns);
        }
        assert_eq!(ledger.accepted(1, 0, u32::MAX, NOT_ACCEPTED), 3);
        assert_eq!(ledger.accepted(1, 1, 3, NOT_ACCEPTED), 1);
        assert_eq!(ledger.accepted(1, 0, u32::MAX, 30), 2);
        assert_eq!(ledger.accepted(0, 0, u32::MAX, NOT_ACCEPTED), 0);
    }
}
