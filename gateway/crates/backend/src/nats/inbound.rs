//! Inbound events on NATS: what connections of routes with `inbound = "bus"` do, to whoever listens.
//!
//! *Core* (`direct`): handed to the socket, in order; whoever listens at that moment hears it. *JetStream*: of each
//! connection one event at a time (`lane`), and the next one when the server has acknowledged it, so that none overtakes one
//! that has to be sent again.
//! An event is settled when the bus has it, or when the route gives up; so what waits here is bounded by the quota.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bridge::inbound::{Occurrence, Settled};
use bridge::message::Bytes;
use bridge::{Address, Command, ConnId, Inbound};
use tokio::sync::mpsc;

use super::lane;
use super::link::Link;
use super::patience::{Patience, RETRY_MIN};
use super::requests::{NoAnswer, Requests};
use super::subjects::{self, Subjects, content_type};
use crate::bus_stats::BusStats;
use crate::closing::Closing;
use crate::complaints::Complaints;
use crate::joint::{Node, OnLoss, Routes};
use crate::upstream::{Feed, Settler};

/// How long an acknowledgement is waited for before the event is sent again.
const ACK_WITHIN: Duration = Duration::from_secs(5);
/// Events of a partition that may wait for its task: more than the largest window, which the quota shares out, so that there is
/// always room. Memory is only taken for those that are there.
const PARTITION_EVENTS_MAX: usize = 1 << 20;
/// What is settled and not noted yet. Whoever settles more waits for the noting, which waits for nobody.
const SETTLED_MAX: usize = 4096;
/// Between two attempts to tell shards what is settled.
pub(super) const SETTLE_EVERY: Duration = Duration::from_millis(2);

/// What all inbound tasks share.
pub(super) struct Teller {
    pub(super) link: Link,
    pub(super) requests: Requests,
    pub(super) subjects: Subjects,
    pub(super) node: Node,
    pub(super) routes: Arc<Routes>,
    pub(super) closing: Closing,
    pub(super) stats: Arc<BusStats>,
    /// Of JetStream.
    pub(super) complaints: Complaints,
    /// Set while no stream captures a subject that core mode publishes to, as far as is known.
    pub(super) is_clear: tokio::sync::watch::Receiver<bool>,
}

/// Why an event did not get there.
pub(super) enum Failed {
    /// The bus was lost: again, as soon as it stands.
    Lost,
    /// Nobody takes it: no stream, or one that is full or says nothing. Again, later.
    Refused,
    /// It never will: it is larger than the server takes, or the stream.
    Never,
}

impl Teller {
    /// JetStream: a task for each partition, one that settles, and this one, which reads the feed on, whatever happens: the
    /// pump must not wait. The tasks have room for all that the quota lets out.
    pub(super) async fn jetstream(self: Arc<Self>, mut feed: Feed, settler: Settler) {
        let teller = self;
        let (done, dones) = mpsc::channel::<Settled>(SETTLED_MAX);
        let lanes: Vec<mpsc::Sender<Inbound>> = (0..teller.node.partitions)
            .map(|_| {
                let (lane, events) = mpsc::channel::<Inbound>(PARTITION_EVENTS_MAX);
                tokio::spawn(lane::run(Arc::clone(&teller), events, done.clone()));
                lane
            })
            .collect();
        let settling = tokio::spawn(settle(dones, settler));
        while let Some(batch) = feed.recv().await {
            let is_away = !teller.link.standing().is_up;
            for inbound in batch {
                // Behind events of routes that wait it would wait, too.
                if is_away && teller.gives_up(&inbound) {
                    let _ = done.send(inbound.settled()).await;
                } else if let Some(lane) = lanes.get(usize::from(inbound.partition)) {
                    let _ = lane.send(inbound).await;
                } else {
                    debug_assert!(false, "the quota has as many partitions as the bus");
                }
            }
        }
        drop((lanes, done));
        let _ = settling.await;
    }

    /// JetStream: tries until the stream has it, or its route gives up. Once refused, it tries again only in its turn.
    pub(super) async fn until_stored(&self, inbound: &Inbound, patience: &Patience) {
        let mut is_refused = false;
        loop {
            let standing = self.link.standing();
            if !standing.is_up && self.gives_up(inbound) {
                return;
            }
            if !self.link.up().await {
                return;
            }
            let mut turn = None;
            if is_refused {
                tokio::select! {
                    mine = patience.turn() => turn = Some(mine),
                    () = self.link.lost_since(standing.losses) => continue,
                }
            }
            match self.attempt(inbound).await {
                Ok(()) => {
                    if let Some(turn) = turn {
                        turn.succeeded();
                    }
                    return self.stats.inbound.add(1);
                }
                Err(Failed::Never) => return self.leave_out(inbound, |whom| Command::TooBig { whom }),
                Err(Failed::Lost) => {
                    self.stats.inbound_retries.add(1);
                    drop(turn);
                    // It stands again, or never fell: an error that comes at once must not come all the time.
                    tokio::time::sleep(RETRY_MIN).await;
                }
                Err(Failed::Refused) => {
                    self.stats.inbound_retries.add(1);
                    is_refused = true;
                    patience.refused(turn).await;
                }
            }
        }
    }

    /// Core mode: hands it to the socket. `false` when the bus was lost meanwhile.
    pub(super) async fn publish(&self, inbound: &Inbound) -> bool {
        let Some(Said { subject, reply_to, headers, payload }) = self.say(inbound) else {
            self.leave_out(inbound, |whom| Command::TooBig { whom });
            return true;
        };
        let publish = self.link.client.publish_with_reply_and_headers(subject, reply_to, headers, payload);
        match self.link.unless_lost(publish).await {
            Some(Ok(())) => self.stats.inbound.add(1),
            // It is larger than the server takes.
            Some(Err(_)) => self.leave_out(inbound, |whom| Command::TooBig { whom }),
            None => {
                self.stats.inbound_retries.add(1);
                return false;
            }
        }
        true
    }

    /// The bus is away: whether the route does without. Then its event is given up.
    pub(super) fn gives_up(&self, inbound: &Inbound) -> bool {
        let routes = self.routes.now();
        match routes.get(usize::from(inbound.route)).map_or(OnLoss::Pause, |route| route.on_loss) {
            OnLoss::Pause => return false,
            OnLoss::Close => self.leave_out(inbound, |whom| Command::GiveUp { whom }),
            OnLoss::Drop => self.stats.inbound_left_out.add(1),
        }
        true
    }

    /// Gives an event up, and closes whoever sent it, if it is a message.
    fn leave_out(&self, inbound: &Inbound, close: fn(Address) -> Command) {
        self.stats.inbound_left_out.add(1);
        if matches!(inbound.occurrence, Occurrence::Message { .. }) {
            self.closing.send(inbound.address, close);
        }
    }

    /// What is said of it; `None` when its route is gone.
    fn say(&self, inbound: &Inbound) -> Option<Said> {
        let routes = self.routes.now();
        let route = routes.get(usize::from(inbound.route))?;
        let id = ConnId { node: self.node.name.clone(), epoch: self.node.epoch, address: inbound.address };
        let subject = self.subjects.inbound(&route.name, inbound.partition);
        let reply_to = self.subjects.connection(&id);
        let (headers, payload) = content(&self.node, inbound, &id, &route.name, &reply_to);
        Some(Said { subject, reply_to, headers, payload })
    }

    /// JetStream: one attempt.
    async fn attempt(&self, inbound: &Inbound) -> Result<(), Failed> {
        let Said { subject, headers, payload, .. } = self.say(inbound).ok_or(Failed::Never)?;
        self.store(subject, headers, payload).await
    }

    /// JetStream: puts something into the stream that has this subject. Once.
    pub(super) async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Failed> {
        // No answer can come after a loss, and the library takes only so much for a server that is not there.
        let asked = self.requests.ask(subject, headers, payload, ACK_WITHIN);
        let sent = self.link.unless_lost(asked).await;
        match sent.ok_or(Failed::Lost)? {
            Ok(ack) => acknowledged_by(&ack.payload).inspect_err(|failed| {
                if matches!(failed, Failed::Refused) {
                    self.complaints.hear(&String::from_utf8_lossy(&ack.payload));
                }
            }),
            Err(no_answer) => Err(match no_answer {
                NoAnswer::Nobody => {
                    self.stats.no_responders.add(1);
                    self.complaints.hear("no stream has the subject; make one over it");
                    Failed::Refused
                }
                // The stream has no leader, perhaps: all of them together would ask it again and again.
                NoAnswer::Late => {
                    self.complaints.hear("the stream does not answer; it has no leader, perhaps");
                    Failed::Refused
                }
                NoAnswer::Full => Failed::Refused,
                NoAnswer::TooLarge => Failed::Never,
                NoAnswer::Closed => Failed::Lost,
            }),
        }
    }
}

/// An event as it goes over NATS.
struct Said {
    subject: String,
    reply_to: String,
    headers: HeaderMap,
    payload: Bytes,
}

/// Tells shards what is settled, until nobody settles any more. Waits for nobody.
async fn settle(mut dones: mpsc::Receiver<Settled>, mut settler: Settler) {
    let mut tick = tokio::time::interval(SETTLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_all_told = true;
    loop {
        tokio::select! {
            settled = dones.recv() => match settled {
                Some(settled) => {
                    settler.settle(settled);
                    while let Ok(settled) = dones.try_recv() {
                        settler.settle(settled);
                    }
                    is_all_told = settler.flush();
                }
                None => break,
            },
            _ = tick.tick(), if !is_all_told => is_all_told = settler.flush(),
        }
    }
}

/// What is said of an event, and its payload.
fn content(node: &Node, inbound: &Inbound, id: &ConnId, route: &str, reply_to: &str) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(subjects::CONNECTION, id.to_string());
    headers.insert(subjects::NODE, node.name.as_str());
    headers.insert(subjects::EPOCH, node.epoch.to_string());
    headers.insert(subjects::SEQUENCE, inbound.sequence.to_string());
    headers.insert(subjects::ROUTE, route);
    headers.insert(subjects::REPLY_TO, reply_to);
    headers.insert(subjects::MESSAGE_ID, format!("{id}.{}", inbound.sequence));
    if let Some(user) = inbound.principal.as_ref().and_then(|principal| principal.user.as_ref()) {
        let channel = user.channel();
        let token = channel.as_str().split_once('.').map_or("", |(_, token)| token);
        headers.insert(subjects::USER, token);
    }
    let (event, kind, payload) = match &inbound.occurrence {
        Occurrence::Message { kind, payload } => ("message", content_type(*kind), payload.clone()),
        Occurrence::Opened(opened) => {
            let body = serde_json::json!({
                "peer": opened.peer.to_string(), "path": opened.path, "protocol": opened.protocol,
            });
            ("opened", "application/json", Bytes::from(body.to_string()))
        }
        Occurrence::Closed { reason, code } => {
            let body = serde_json::json!({ "reason": reason.label(), "code": code });
            ("closed", "application/json", Bytes::from(body.to_string()))
        }
    };
    headers.insert(subjects::EVENT, event);
    headers.insert(subjects::CONTENT_TYPE, kind);
    (headers, payload)
}

/// What JetStream says of a message that is larger than its stream takes.
const TOO_LARGE_FOR_STREAM: u64 = 10054;

/// Whether the server has stored it. Whatever else answers on the subject, an app server by mistake perhaps, has not.
fn acknowledged_by(answer: &[u8]) -> Result<(), Failed> {
    let answer = serde_json::from_slice::<serde_json::Value>(answer).unwrap_or_default();
    match answer.get("error") {
        Some(error) if error["err_code"].as_u64() == Some(TOO_LARGE_FOR_STREAM) => Err(Failed::Never),
        None if answer.get("stream").is_some() && answer.get("seq").is_some() => Ok(()),
        _ => Err(Failed::Refused),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::{Epoch, NodeName, Principal, User};

    use super::super::HEADERS_BYTES_MAX;
    use super::*;

    #[test]
    fn only_what_is_in_a_stream_is_acknowledged_and_what_never_can_be_is_told_apart() {
        let stored = r#"{"stream":"EVENTS","seq":7,"duplicate":true}"#;
        assert!(acknowledged_by(stored.as_bytes()).is_ok());
        let too_large = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds"},"stream":"E","seq":0}"#;
        assert!(matches!(acknowledged_by(too_large.as_bytes()), Err(Failed::Never)));
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"E","seq":0}"#;
        for other in [full, "{}", "", "thanks", r#"{"seq":1}"#, "[]", "\u{0}"] {
            assert!(matches!(acknowledged_by(other.as_bytes()), Err(Failed::Refused)), "{other}");
        }
    }

    #[test]
    fn headers_of_the_longest_names_take_no_more_than_is_set_aside_for_them() {
        let name = NodeName::parse(&"n".repeat(bridge::id::NODE_BYTES_MAX)).unwrap();
        let prefix = "p".repeat(32);
        let node =
            Node { name, epoch: Epoch(u32::MAX), prefix: prefix.into(), partitions: 1024, wall_ms: || 0 };
        let address = Address { shard: 127, slot: u32::MAX - 1, generation: u32::MAX };
        let user = User::parse(&"u".repeat(64)).unwrap();
        let inbound = Inbound {
            upstream: crate::joint::BUS,
            partition: 1023,
            address,
            route: 0,
            sequence: u32::MAX,
            principal: Some(Arc::new(Principal { user: Some(user), ..Principal::default() })),
            occurrence: Occurrence::Message { kind: bridge::Kind::Binary, payload: Bytes::new() },
        };
        let id = ConnId { node: node.name.clone(), epoch: node.epoch, address };
        let reply_to = Subjects::new(&node).connection(&id);
        let (headers, _) = content(&node, &inbound, &id, &"r".repeat(63), &reply_to);
        let fields = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        let bytes: usize =
            fields.map(|(name, value)| name.to_string().len() + ": \r\n".len() + value.as_str().len()).sum();
        let all = "NATS/1.0\r\n\r\n".len() + bytes;
        assert!(all <= HEADERS_BYTES_MAX && all > HEADERS_BYTES_MAX / 2, "{all}");
    }
}
