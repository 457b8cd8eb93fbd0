//! One structured log line per ended connection, at most so many in a second: an outage ends everybody at once, and
//! the log must not be the next outage. What is not written is counted, and the count is. The ring of recent endings gets
//! every one.

use std::sync::Arc;

use bridge::event::Ending;
use bridge::{ConnId, Epoch, Event, NodeName, User};
use net::Clock;

use crate::admin::unix_ms;
use crate::in_force::{InForce, Live};
use crate::limited;
use crate::recent::Recent;

/// Writes the lines.
pub(crate) struct EndingsLog {
    node: NodeName,
    epoch: Epoch,
    live: Arc<Live>,
    clock: Clock,
    second: u64,
    written: u32,
    left_out: u64,
    recent: Arc<Recent>,
}

impl EndingsLog {
    /// A log for the connections of this node.
    pub(crate) fn new(
        node: NodeName,
        epoch: Epoch,
        live: Arc<Live>,
        clock: Clock,
        recent: Arc<Recent>,
    ) -> Self {
        Self { node, epoch, live, clock, second: 0, written: 0, left_out: 0, recent }
    }

    /// Takes one event of a shard.
    pub(crate) fn observe(&mut self, event: Event) {
        match event {
            Event::Ended(ending) => {
                // First it can be found, then it is said: whoever reads the line may ask for more at once.
                self.recent.keep(unix_ms(), ending.clone());
                self.log(&ending);
            }
            Event::Limited(limited) => limited::log(&limited),
            Event::Inbound(_) | Event::Authorize(_) => {}
        }
    }

    fn log(&mut self, ending: &Ending) {
        let live = self.live.now();
        let per_second = live.settings.log.endings_per_second;
        if per_second == 0 {
            return;
        }
        let second = self.clock.ms() / 1000;
        if second != self.second {
            if self.left_out > 0 {
                tracing::info!(left_out = self.left_out, "more connections ended than lines may be written");
            }
            (self.second, self.written, self.left_out) = (second, 0, 0);
        }
        if self.written >= per_second {
            self.left_out += 1;
            self.recent.leave_out();
            return;
        }
        self.written += 1;
        self.write(&live, ending);
    }

    fn write(&self, live: &InForce, ending: &Ending) {
        let id = ConnId { node: self.node.clone(), epoch: self.epoch, address: ending.address };
        tracing::info!(
            connection = %id,
            peer = %ending.peer,
            user = ending.principal.as_ref().and_then(|principal| principal.user.as_ref()).map(User::as_str),
            route = live.routes.get(usize::from(ending.route)).map_or("", |route| route.name.as_str()),
            reason = ending.reason.label(),
            age_seconds = f64::from(ending.age_ticks) / 10.0,
            messages_received = ending.traffic.messages_in,
            messages_sent = ending.traffic.messages_out,
            bytes_received = ending.traffic.bytes_in,
            bytes_sent = ending.traffic.bytes_out,
            sent_code = ending.sent_code,
            received_code = ending.received_code,
            "connection ended"
        );
    }
}
