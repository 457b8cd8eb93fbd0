//! Between the session and `gateway.v1`: how events and results are written, and how orders are read. Owns every rule
//! about what an order may say; refuses to know whether it may be obeyed. Called by the task of a backend.

use bridge::inbound::Occurrence;
use bridge::message::Kind;
use bridge::principal::{STATE_BYTES_MAX, USER_TOKEN};
use bridge::{Address, Channel, ConnId, Epoch, Inbound, Message, NodeName};

use super::order::{Order, Refusal, Status};
use super::session::{Sizes, Told};
use crate::bus::Excluded;
use crate::proto;

/// Most bytes of a close reason (RFC 6455, section 5.5: 125 less the code).
const REASON_BYTES_MAX: usize = 123;

/// Tells the name of a route by its number. Numbers keep their names, and new ones may come.
pub type RouteNames = Box<dyn Fn(u16) -> String + Send>;

/// Writes for one backend of one node.
pub(super) struct Translator {
    node: NodeName,
    epoch: Epoch,
    sizes: Sizes,
    payload_bytes_max: usize,
    route_names: RouteNames,
    /// Those that were asked for.
    known_routes: Vec<String>,
}

impl Translator {
    pub(super) const fn new(
        node: NodeName,
        epoch: Epoch,
        sizes: Sizes,
        payload_bytes_max: usize,
        route_names: RouteNames,
    ) -> Self {
        Self { node, epoch, sizes, payload_bytes_max, route_names, known_routes: Vec::new() }
    }

    /// What the session says, as a message of the stream.
    pub(super) fn write(&mut self, told: Told<'_>) -> proto::FromGateway {
        use proto::from_gateway::Content;
        let content = match told {
            Told::Hello => Content::Hello(proto::Hello {
                node: self.node.to_string(),
                epoch: self.epoch.0,
                window: self.sizes.window_events,
                connection_window: u32::from(self.sizes.connection_events),
                partitions: u32::from(self.sizes.partitions),
            }),
            Told::Event { position, again, inbound } => Content::Event(self.event(position, again, inbound)),
            Told::Result { id, status, detail } => Content::Result(proto::Result {
                command_id: id,
                status: write_status(status).into(),
                detail: detail.to_owned(),
            }),
            Told::Gap { events } => Content::Gap(proto::Gap { events }),
        };
        proto::FromGateway { content: Some(content) }
    }

    fn event(&mut self, position: u64, again: bool, inbound: &Inbound) -> proto::Event {
        let id = ConnId { node: self.node.clone(), epoch: self.epoch, address: inbound.address };
        let principal = inbound.principal.as_deref();
        proto::Event {
            position,
            connection: id.to_string(),
            sequence: inbound.sequence,
            route: self.route(inbound.route),
            user: principal.and_then(|one| one.user.as_ref()).map(|user| user.as_str().to_owned()),
            state: principal.map(|one| one.state.clone()).unwrap_or_default(),
            again,
            occurrence: Some(write_occurrence(&inbound.occurrence)),
        }
    }

    fn route(&mut self, number: u16) -> String {
        while self.known_routes.len() <= usize::from(number) {
            self.known_routes.push((self.route_names)(self.known_routes.len() as u16));
        }
        self.known_routes[usize::from(number)].clone()
    }

    /// Reads an order.
    ///
    /// # Errors
    /// What is wrong with it; whose fault it is, is clear.
    pub(super) fn read(&self, command: proto::Command) -> Result<Order, Refusal> {
        use proto::command::Order as Wanted;
        Ok(
            match command.order.ok_or_else(|| invalid("no order, or one that this gateway does not know"))? {
                Wanted::Send(send) => {
                    Order::Send { to: self.address(&send.connection)?, message: self.message(send.message)? }
                }
                Wanted::Publish(publish) => Order::Publish {
                    channel: read_channel(&publish.channel)?,
                    message: self.message(publish.message)?,
                    exclude: self.excluded(publish.exclude.as_deref().unwrap_or_default())?,
                },
                Wanted::Subscribe(join) => Order::Subscribe {
                    whom: self.address(&join.connection)?,
                    channel: read_own_channel(&join.channel)?,
                },
                Wanted::Unsubscribe(leave) => Order::Unsubscribe {
                    whom: self.address(&leave.connection)?,
                    channel: read_own_channel(&leave.channel)?,
                },
                Wanted::Close(close) => {
                    let code = match close.code {
                        0 => 1000,
                        code @ (1000 | 4000..=4999) => code as u16,
                        _ => return Err(invalid("a close code is 1000, or 4000 to 4999")),
                    };
                    if close.reason.len() > REASON_BYTES_MAX {
                        return Err(invalid("a close reason has at most 123 bytes"));
                    }
                    Order::Close { whom: self.address(&close.connection)?, code, reason: close.reason.into() }
                }
                Wanted::SetState(set) => {
                    if set.state.len() > STATE_BYTES_MAX {
                        return Err(invalid("a state has at most 256 bytes"));
                    }
                    // A copy of its own: what was received came in a larger buffer, which a slice would keep alive.
                    let state = bytes::Bytes::copy_from_slice(&set.state);
                    Order::SetState { whom: self.address(&set.connection)?, state }
                }
                Wanted::Describe(_)
                | Wanted::List(_)
                | Wanted::CloseUser(_)
                | Wanted::Block(_)
                | Wanted::Unblock(_)
                | Wanted::Blocks(_) => {
                    return Err(invalid(
                        "this is asked over a bus, or of the service Gateway, and not on a stream",
                    ));
                }
            },
        )
    }

    /// Who must not hear a publish; empty for nobody. One of another node is left out there.
    fn excluded(&self, id: &str) -> Result<Option<Excluded>, Refusal> {
        if id.is_empty() {
            return Ok(None);
        }
        let id = read_id(id)?;
        let is_ours = id.node == self.node && id.epoch == self.epoch;
        Ok(Some(if is_ours { Excluded::Here(id.address) } else { Excluded::There(id) }))
    }

    fn address(&self, id: &str) -> Result<Address, Refusal> {
        let id = read_id(id)?;
        if id.node != self.node || id.epoch != self.epoch {
            return Err(Refusal::new(Status::Gone, "the connection is of another node, or of another epoch"));
        }
        Ok(id.address)
    }

    fn message(&self, message: Option<proto::Message>) -> Result<Message, Refusal> {
        use proto::message::Payload;
        let (kind, payload) = match message.and_then(|message| message.payload) {
            Some(Payload::Text(text)) => (Kind::Text, bytes::Bytes::from(text)),
            Some(Payload::Binary(binary)) => (Kind::Binary, binary),
            None => return Err(invalid("no message")),
        };
        if payload.len() > self.payload_bytes_max {
            return Err(invalid("the payload is larger than http.request_bytes allows"));
        }
        Ok(Message::copy_from(kind, &payload))
    }
}

const fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Status::InvalidArgument, detail)
}

fn read_id(id: &str) -> Result<ConnId, Refusal> {
    id.parse().map_err(|_| invalid("not the id of a connection"))
}

fn read_channel(name: &str) -> Result<Channel, Refusal> {
    Channel::parse(name)
        .map_err(|_| invalid("a channel is 1 to 8 tokens of [A-Za-z0-9_=-]{1,64} joined by dots"))
}

/// A channel that a connection may be put into: those of users are joined by being authorised.
fn read_own_channel(name: &str) -> Result<Channel, Refusal> {
    let channel = read_channel(name)?;
    if channel.as_str().split('.').next() == Some(USER_TOKEN) {
        return Err(invalid("channels of users are joined by being authorised, and by nothing else"));
    }
    Ok(channel)
}

fn write_occurrence(occurrence: &Occurrence) -> proto::event::Occurrence {
    use proto::event::Occurrence as Said;
    use proto::message::Payload;
    match occurrence {
        Occurrence::Opened(opened) => Said::Opened(proto::Opened {
            peer: opened.peer.to_string(),
            path: opened.path.to_string(),
            subprotocol: opened.protocol.as_deref().map(str::to_owned),
        }),
        Occurrence::Message { kind, payload } => {
            let text = match kind {
                Kind::Text => String::from_utf8(payload.to_vec()).ok(),
                Kind::Binary => None,
            };
            debug_assert!(text.is_some() == (*kind == Kind::Text), "a shard has checked it");
            let payload = text.map_or_else(|| Payload::Binary(payload.clone()), Payload::Text);
            Said::Message(proto::Message { payload: Some(payload) })
        }
        Occurrence::Closed { reason, code } => {
            Said::Closed(proto::Closed { reason: reason.label().to_owned(), code: code.map(u32::from) })
        }
    }
}

const fn write_status(status: Status) -> proto::result::Status {
    match status {
        Status::Ok => proto::result::Status::Ok,
        Status::Gone => proto::result::Status::Gone,
        Status::FailedPrecondition => proto::result::Status::FailedPrecondition,
        Status::InvalidArgument => proto::result::Status::InvalidArgument,
        Status::ResourceExhausted => proto::result::Status::ResourceExhausted,
        Status::Unavailable => proto::result::Status::Unavailable,
        Status::AlreadyExists => proto::result::Status::AlreadyExists,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proto::command::{CloseOne, Describe, Join, Order as Wanted, PublishTo, Send, SetState};

    fn translator() -> Translator {
        let sizes = Sizes {
            partitions: 1,
            window_events: 1,
            window_bytes: 1,
            connection_events: 1,
            greet_ms: 1,
            ack_timeout_ms: 1,
            handover_ms: 1,
            ids: 1,
        };
        let node = NodeName::parse("here").unwrap();
        Translator::new(node, Epoch(1), sizes, 10, Box::new(|number| format!("route{number}")))
    }

    fn read(order: Wanted) -> Result<Order, Status> {
        let command = proto::Command { id: 1, order: Some(order), ..proto::Command::default() };
        translator().read(command).map_err(|refusal| refusal.status)
    }

    fn send(connection: &str, text: &str) -> Wanted {
        let payload = Some(proto::message::Payload::Text(text.to_owned()));
        Wanted::Send(Send { connection: connection.to_owned(), message: Some(proto::Message { payload }) })
    }

    const ID: &str = "here-00000001-0-5-1";

    #[test]
    fn an_order_for_another_life_of_the_node_finds_nobody() {
        assert!(matches!(read(send(ID, "hi")), Ok(Order::Send { to: Address { slot: 5, .. }, .. })));
        assert_eq!(read(send("here-00000002-0-5-1", "hi")).unwrap_err(), Status::Gone);
        assert_eq!(read(send("there-00000001-0-5-1", "hi")).unwrap_err(), Status::Gone);
        assert_eq!(read(send("nonsense", "hi")).unwrap_err(), Status::InvalidArgument);
    }

    fn publish(exclude: &str) -> Wanted {
        let payload = Some(proto::message::Payload::Text("hi".to_owned()));
        let message = Some(proto::Message { payload });
        Wanted::Publish(PublishTo { channel: "room".to_owned(), message, exclude: Some(exclude.to_owned()) })
    }

    #[test]
    fn whom_a_publish_leaves_out_is_found_on_whichever_node_it_is() {
        let left_out = |id: &str| match read(publish(id)) {
            Ok(Order::Publish { exclude, .. }) => exclude,
            other => panic!("{other:?}"),
        };
        let there = "there-00000001-0-5-1";
        assert_eq!(left_out(ID), Some(Excluded::Here(Address { shard: 0, slot: 5, generation: 1 })));
        assert_eq!(left_out(there), Some(Excluded::There(there.parse().unwrap())));
        assert_eq!(left_out(""), None);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_in_words() {
        let connection = || ID.to_owned();
        for bad in [
            send(ID, "eleven bytes"),
            Wanted::Send(Send { connection: connection(), message: None }),
            Wanted::Send(Send { connection: connection(), message: Some(proto::Message { payload: None }) }),
            Wanted::Publish(PublishTo { channel: "not a channel".to_owned(), message: None, exclude: None }),
            publish("no id"),
            Wanted::Subscribe(Join { connection: connection(), channel: "user.bob".to_owned() }),
            Wanted::Close(CloseOne { connection: connection(), code: 1006, reason: String::new() }),
            Wanted::Close(CloseOne { connection: connection(), code: 70_000, reason: String::new() }),
            Wanted::Close(CloseOne { connection: connection(), code: 4000, reason: "x".repeat(124) }),
            Wanted::SetState(SetState { connection: connection(), state: vec![0; 257].into() }),
            Wanted::Describe(Describe { connection: connection() }),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err(), Status::InvalidArgument, "{bad:?}");
        }
        let nothing = proto::Command { id: 1, ..proto::Command::default() };
        assert_eq!(translator().read(nothing).unwrap_err().status, Status::InvalidArgument);
        let close = CloseOne { connection: connection(), code: 0, reason: String::new() };
        assert!(matches!(read(Wanted::Close(close)), Ok(Order::Close { code: 1000, .. })));
    }
}
