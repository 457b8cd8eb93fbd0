//! Promise: an app server that speaks gRPC can do what HTTP can: speak to rooms and to single connections, look, and end;
//! it learns of each failure by a code and a reason, and a tool finds out by itself what there is.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use backend::proto::gateway_client::GatewayClient;
use backend::proto::message::Payload;
use backend::proto::publish_batch_result::Outcome;
use backend::proto::{self as wire, Message};
use harness::decider::allow;
use harness::{Decider, Gateway};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const GRPC: &str = "[grpc]\naddress = '127.0.0.1:0'\n";
const NOBODY: &str = "test-00000001-0-1-1";

async fn channel(gateway: &Gateway) -> Channel {
    let address = format!("http://{}", gateway.grpc.unwrap());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

async fn client(gateway: &Gateway) -> GatewayClient<Channel> {
    GatewayClient::new(channel(gateway).await)
}

fn text(text: &str) -> Option<Message> {
    Some(Message { payload: Some(Payload::Text(text.to_owned())) })
}

fn binary(bytes: &'static [u8]) -> Option<Message> {
    Some(Message { payload: Some(Payload::Binary(bytes.into())) })
}

fn publish(channel: &str, message: Option<Message>) -> wire::PublishRequest {
    wire::PublishRequest { channel: channel.to_owned(), message, exclude: String::new() }
}

/// The code and the reason of a refusal.
#[track_caller]
fn refused<T>(answer: Result<tonic::Response<T>, Status>) -> (Code, String) {
    let status = answer.err().expect("it is refused");
    let reason = status.metadata().get("gateway-reason");
    assert!(!status.message().is_empty());
    (status.code(), reason.map(|reason| reason.to_str().unwrap().to_owned()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_reach_rooms_and_single_connections() {
    let gateway = Gateway::start(GRPC);
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut api = client(&gateway).await;
    let published = api.publish(publish("room.lobby", text("grüße"))).await.unwrap().into_inner();
    let delivery = published.delivery.unwrap();
    assert_eq!((delivery.subscribers, delivery.dropped), (2, 0));
    api.publish(publish("room.lobby", binary(&[0, 255]))).await.unwrap();
    for client in [&mut near, &mut far] {
        client.hears("grüße");
        assert_eq!(client.hear(), tungstenite::Message::binary(vec![0, 255]));
    }
    let but_near =
        wire::PublishRequest { exclude: near.id.clone(), ..publish("room.lobby", text("of near")) };
    api.publish(but_near).await.unwrap();
    let batch = vec![
        publish("room.lobby", text("one")),
        publish("not a channel", text("two")),
        publish("room.lobby", None),
        publish("room.lobby", text("three")),
    ];
    let answer = api.publish_batch(wire::PublishBatchRequest { messages: batch }).await.unwrap().into_inner();
    let reasons: Vec<_> = answer
        .results
        .into_iter()
        .map(|result| match result.outcome.unwrap() {
            Outcome::Published(done) => done.delivery.unwrap().subscribers.to_string(),
            Outcome::Failure(failure) => failure.reason,
        })
        .collect();
    assert_eq!(
        (answer.refused, reasons),
        (2, ["2", "bad_channel", "bad_request", "2"].map(str::to_owned).into())
    );
    let only_far = wire::SendRequest { connection: far.id.clone(), message: text("only you") };
    api.send(only_far).await.unwrap();
    far.hears("of near");
    for client in [&mut near, &mut far] {
        client.hears("one");
        client.hears("three");
    }
    far.hears("only you");
    let nobody =
        wire::SendToUserRequest { user: "nobody".to_owned(), message: text("?"), exclude: String::new() };
    let delivery = api.send_to_user(nobody).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!(delivery.subscribers, 0);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_shown_moved_between_channels_and_closed() {
    let gateway = Gateway::start(GRPC);
    let (mut near, far) = gateway.clients_on_two_shards("/rooms/lobby");
    let mut api = client(&gateway).await;
    let id = near.id.clone();
    let join = wire::SubscribeRequest { connection: id.clone(), channel: "news".to_owned() };
    api.subscribe(join).await.unwrap();
    api.publish(publish("news", text("extra"))).await.unwrap();
    near.hears("extra");
    let look = wire::GetConnectionRequest { connection: id.clone() };
    let shown = api.get_connection(look.clone()).await.unwrap().into_inner().connection.unwrap();
    assert_eq!((shown.id.as_str(), shown.route.as_str(), shown.phase.as_str()), (&*id, "rooms", "open"));
    assert_eq!((shown.user, shown.messages_out, shown.closing), (None, 1, None));
    let channels: BTreeSet<_> = shown.channels.iter().map(String::as_str).collect();
    assert_eq!(channels, BTreeSet::from(["news", "room.lobby"]));
    let leave = wire::UnsubscribeRequest { connection: id.clone(), channel: "news".to_owned() };
    api.unsubscribe(leave).await.unwrap();
    let delivery = api.publish(publish("news", text("nobody"))).await.unwrap().into_inner().delivery;
    assert_eq!(delivery.unwrap().subscribers, 0);

    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = wire::ListConnectionsRequest { page_size: 1, page_token };
        let page = api.list_connections(page).await.unwrap().into_inner();
        assert_eq!(page.node, "test");
        assert!(id.contains(&format!("{:08x}", page.epoch)), "{id} is of the epoch {:08x}", page.epoch);
        seen.extend(page.connections.into_iter().map(|connection| connection.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(BTreeSet::from_iter(seen), BTreeSet::from([id.clone(), far.id.clone()]));

    let close = wire::CloseRequest { connection: id.clone(), code: 4001, reason: "bye".to_owned() };
    api.close(close.clone()).await.unwrap();
    assert_eq!(near.told_to_go(), (4001, "bye".to_owned()));
    gateway.until_only(1);
    assert_eq!(refused(api.close(close).await), (Code::NotFound, "gone".to_owned()));
    assert_eq!(refused(api.get_connection(look).await), (Code::NotFound, "gone".to_owned()));
    let nobody = wire::CloseUserRequest { user: "nobody".to_owned(), code: 0, reason: String::new() };
    assert_eq!(api.close_user(nobody).await.unwrap().into_inner().connections, 0);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_refused_with_its_reason() {
    let gateway = Gateway::start(GRPC);
    let near = gateway.client("/rooms/lobby");
    let mut api = client(&gateway).await;
    let invalid = |reason: &str| (Code::InvalidArgument, reason.to_owned());
    let wild = publish("room.*", text("x"));
    assert_eq!(refused(api.publish(wild).await), invalid("bad_channel"));
    let excluding = wire::PublishRequest { exclude: "x".to_owned(), ..publish("a", text("x")) };
    assert_eq!(refused(api.publish(excluding).await), invalid("bad_connection_id"));
    assert_eq!(refused(api.publish(publish("a", None)).await), invalid("bad_request"));
    let empty = publish("a", Some(Message { payload: None }));
    assert_eq!(refused(api.publish(empty).await), invalid("bad_request"));
    let send = |connection: &str| wire::SendRequest { connection: connection.to_owned(), message: text("x") };
    assert_eq!(refused(api.send(send("x")).await), invalid("bad_connection_id"));
    for stranger in [NOBODY, "other-00000001-0-1-1"] {
        assert_eq!(refused(api.send(send(stranger)).await), (Code::NotFound, "gone".to_owned()));
    }
    let user = |user: &str| wire::SendToUserRequest {
        user: user.to_owned(),
        message: text("x"),
        exclude: String::new(),
    };
    assert_eq!(refused(api.send_to_user(user("")).await), invalid("bad_user"));
    for (code, reason) in [(1005, "x"), (70_000, "x"), (2000, "x"), (1000, &*"x".repeat(124))] {
        let close = wire::CloseRequest { connection: near.id.clone(), code, reason: reason.to_owned() };
        assert_eq!(refused(api.close(close).await), invalid("bad_close"), "{code}");
    }
    for channel in ["user.bob", "a..b"] {
        let join = wire::SubscribeRequest { connection: near.id.clone(), channel: channel.to_owned() };
        assert_eq!(refused(api.subscribe(join).await), invalid("bad_channel"), "{channel}");
    }
    for (page_size, page_token) in [(1001, ""), (70_000, ""), (1, "x")] {
        let page = wire::ListConnectionsRequest { page_size, page_token: page_token.to_owned() };
        assert_eq!(refused(api.list_connections(page).await), invalid("bad_request"), "{page_size}");
    }
    let long = wire::DrainRequest { seconds: Some(3601) };
    assert_eq!(refused(api.drain(long).await), invalid("bad_request"));
    let many = wire::PublishBatchRequest { messages: vec![publish("a", text("x")); 1001] };
    assert_eq!(refused(api.publish_batch(many).await), (Code::ResourceExhausted, "too_large".to_owned()));
    near.leave();
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_and_disturbs_nobody() {
    let gateway = Gateway::start(&format!("{GRPC}[http]\naddress = '127.0.0.1:0'\nrequest_bytes = '1KiB'\n"));
    let channel = channel(&gateway).await;
    let mut api = GatewayClient::new(channel.clone());
    let large = publish("a", text(&"x".repeat(1100)));
    assert_eq!(refused(api.publish(large).await), (Code::ResourceExhausted, "too_large".to_owned()));
    api.publish(publish("a", text(&"x".repeat(900)))).await.unwrap();

    let mut grpc = tonic::client::Grpc::new(channel);
    let mut call = async |path: &'static str| {
        grpc.ready().await.unwrap();
        // A number where the method has a text.
        let other = Request::new(wire::Delivery { subscribers: 7, queued: 0, dropped: 0 });
        let codec = tonic_prost::ProstCodec::<wire::Delivery, wire::Delivery>::default();
        refused(grpc.unary(other, path.parse().unwrap(), codec).await)
    };
    assert_eq!(call("/gateway.v1.Gateway/Publish").await, (Code::InvalidArgument, "bad_request".to_owned()));
    for path in
        ["/gateway.v1.Gateway/Unknown", "/gateway.v1.Backend/Session", "/x", "/grpc.health.v1.Healthy/Check"]
    {
        assert_eq!(call(path).await, (Code::Unimplemented, "not_found".to_owned()), "{path}");
    }
    // HTTP/1.1, as a web page would speak it.
    let mut page = harness::Raw::connect(gateway.grpc.unwrap());
    page.send(b"POST /gateway.v1.Gateway/Publish HTTP/1.1\r\nHost: localhost\r\n\r\n");
    page.rest();
    api.publish(publish("a", text("still here"))).await.unwrap();
    let metrics = gateway.metrics();
    let counted = |method, code| {
        metrics.value(&format!("gateway_grpc_requests_total{{method=\"{method}\",code=\"{code}\"}}"))
    };
    assert_eq!(counted("Publish", "ok"), 2.0);
    assert_eq!(counted("Publish", "resource_exhausted"), 1.0);
    assert_eq!(counted("other", "unimplemented"), 4.0);
    gateway.until("the page is forgotten", |m| m.value("gateway_grpc_connections") == 1.0);
    gateway.stop();
}

#[test]
fn all_connections_of_a_user_are_spoken_to_and_closed() {
    let server = Decider::start(|request| {
        let user = request.query.clone();
        (Duration::ZERO, allow(wire::Allow { user, ..wire::Allow::default() }))
    });
    let gateway = Gateway::start(&format!(
        "{GRPC}[[backend]]\nname = 'auth'\nendpoints = ['http://{}']\n\
         [[route]]\nname = 'members'\npath = '/members'\ninbound = 'ignore'\nauthorize = 'auth'\n",
        server.address
    ));
    let [mut one, mut two, mut eve] =
        ["bob", "bob", "eve"].map(|user| gateway.client(&format!("/members?{user}")));
    let mut http = gateway.http();
    http.post("/v1/users/bob/messages", "text/plain", b"over HTTP").good(202);
    one.hears("over HTTP");
    two.hears("over HTTP");
    http.post("/v1/users/eve/messages", "text/plain", b"for eve").good(202);
    eve.hears("for eve");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut api = client(&gateway).await;
        let user = || "bob".to_owned();
        let words =
            wire::SendToUserRequest { user: user(), message: text("not to one"), exclude: one.id.clone() };
        let delivery = api.send_to_user(words).await.unwrap().into_inner().delivery.unwrap();
        assert_eq!((delivery.subscribers, delivery.dropped), (1, 0));
        let close = |code| wire::CloseUserRequest { user: user(), code, reason: "enough".to_owned() };
        assert_eq!(
            refused(api.close_user(close(1006)).await),
            (Code::InvalidArgument, "bad_close".to_owned())
        );
        assert_eq!(api.close_user(close(4002)).await.unwrap().into_inner().connections, 2);
    });
    two.hears("not to one");
    for client in [one, two] {
        assert_eq!(client.told_to_go(), (4002, "enough".to_owned()));
    }
    http.post("/v1/users/bob/messages", "text/plain", b"to nobody").good(202);
    let closed = http.call("DELETE", "/v1/users/eve/connections").good(202).json();
    assert_eq!(closed["connections"], 1);
    assert_eq!(eve.told_to_go().0, 1000);
    gateway.stop();
}
