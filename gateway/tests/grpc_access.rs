//! Promise: over gRPC only those command who may; health says when a node goes away, and reflection what there is, and both
//! ask for no token.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use backend::proto::gateway_client::GatewayClient;
use backend::proto::message::Payload;
use backend::proto::{self as wire, Message};
use harness::{Gateway, PATIENCE};
use prost::Message as _;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const GRPC: &str = "[grpc]\naddress = '127.0.0.1:0'\n";
const APP: &str = "app-server-0123456789abcdef";
const EYES: &str = "dashboard-0123456789abcdef";
const ROOT: &str = "operator-0123456789abcdef";

async fn channel(gateway: &Gateway) -> Channel {
    let address = format!("http://127.0.0.1:{}", gateway.grpc.unwrap().port());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

/// The code, the reason and no answer; or the answer.
fn outcome<T>(answer: Result<Response<T>, Status>) -> (Code, String) {
    let Err(status) = answer else { return (Code::Ok, String::new()) };
    let reason = status.metadata().get("gateway-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (status.code(), reason.unwrap_or_default())
}

fn with<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// A gateway with tokens, and the folder of their files.
fn guarded(address: &str) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api"), format!("{APP} publish,close\n{EYES} read\n")).unwrap();
    std::fs::write(folder.path().join("admin"), format!("{ROOT}\n")).unwrap();
    let [api, admin] = ["api", "admin"].map(|name| folder.path().join(name).display().to_string());
    let text = format!(
        "[grpc]\naddress = '{address}'\n[api]\ntokens_file = '{api}'\n[admin]\ntoken_file = '{admin}'\n"
    );
    (Gateway::start(&text), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_its_scopes_say() {
    let (gateway, _folder) = guarded("0.0.0.0:0");
    let mut client = gateway.client("/rooms/lobby");
    let mut api = GatewayClient::new(channel(&gateway).await);
    let hello = wire::PublishRequest {
        channel: "room.lobby".to_owned(),
        message: Some(Message { payload: Some(Payload::Text("hello".to_owned())) }),
        exclude: String::new(),
    };
    let look = wire::GetConnectionRequest { connection: client.id.clone() };
    let close = wire::CloseRequest { connection: client.id.clone(), code: 0, reason: String::new() };
    let drain = wire::DrainRequest { seconds: None };
    let unauthorized = (Code::Unauthenticated, "unauthorized".to_owned());
    let missing = (Code::PermissionDenied, "missing_scope".to_owned());
    for (token, expected) in [
        (None, &unauthorized),
        (Some("app-server-0123456789abcdeX"), &unauthorized),
        (Some(ROOT), &unauthorized),
        (Some(EYES), &missing),
    ] {
        assert_eq!(outcome(api.publish(with(hello.clone(), token)).await), *expected, "{token:?}");
    }
    assert_eq!(outcome(api.get_connection(with(look.clone(), Some(APP))).await), missing);
    assert_eq!(outcome(api.close(with(close.clone(), Some(EYES))).await), missing);
    assert_eq!(outcome(api.drain(with(drain, Some(APP))).await), unauthorized);
    client.echoes("none of that reached anybody");

    let ok = (Code::Ok, String::new());
    assert_eq!(outcome(api.publish(with(hello, Some(APP))).await), ok);
    client.hears("hello");
    assert_eq!(outcome(api.get_connection(with(look, Some(EYES))).await), ok);
    let health = HealthCheckRequest { service: String::new() };
    assert_eq!(outcome(HealthClient::new(channel(&gateway).await).check(health).await), ok);
    assert_eq!(outcome(api.close(with(close, Some(APP))).await), ok);
    assert_eq!(client.told_to_go().0, 1000);
    assert!(!gateway.log().contains(APP), "a token was logged");
    assert_eq!(outcome(api.drain(with(drain, Some(ROOT))).await), ok);
    assert_eq!(gateway.wait().0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_loopback_nobody_drains_without_a_token_of_the_admin_role() {
    let folder = tempfile::tempdir().unwrap();
    let api = folder.path().join("api");
    std::fs::write(&api, format!("{APP} publish\n")).unwrap();
    let text = format!("[grpc]\naddress = '0.0.0.0:0'\n[api]\ntokens_file = '{}'\n", api.display());
    let gateway = Gateway::start(&text);
    let mut api = GatewayClient::new(channel(&gateway).await);
    for token in [None, Some(APP)] {
        let drained = api.drain(with(wire::DrainRequest { seconds: None }, token)).await;
        assert_eq!(outcome(drained), (Code::Unimplemented, "not_found".to_owned()));
    }
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_turns_red_when_the_node_drains_and_watchers_do_not_hold_it_up() {
    let gateway = Gateway::start(&format!("{GRPC}[drain]\ndeadline = '5s'\naccept_seconds = 1\n"));
    let _client = gateway.client("/rooms/lobby");
    let mut health = HealthClient::new(channel(&gateway).await);
    let asked = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watched = Vec::new();
    for service in ["", "gateway.v1.Gateway"] {
        let answer = health.check(asked(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
        let mut changes = health.watch(asked(service)).await.unwrap().into_inner();
        assert_eq!(changes.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watched.push(changes);
    }
    assert_eq!(outcome(health.check(asked("gateway.v1.Backend")).await).0, Code::NotFound);

    let mut api = GatewayClient::new(channel(&gateway).await);
    api.drain(wire::DrainRequest { seconds: Some(2) }).await.unwrap();
    let answer = health.check(asked("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing, "at once");
    for mut changes in watched {
        let change = timeout(PATIENCE, changes.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(change.status(), ServingStatus::NotServing);
        // The client of ours never answers its goodbye, so there is time; the stream ends with the node.
        let end = timeout(PATIENCE, async { while let Some(Ok(_)) = changes.next().await {} }).await;
        assert_eq!(end, Ok(()), "the stream ended with the node");
    }
    let ending = tokio::task::spawn_blocking(move || gateway.wait());
    // Less than what answers under way are given: nobody was waited for.
    let (code, log) = timeout(Duration::from_secs(5), ending).await.unwrap().unwrap();
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_what_is_here_and_describes_it() {
    let gateway = Gateway::start(GRPC);
    let mut reflection = ServerReflectionClient::new(channel(&gateway).await);
    let mut ask = async |question: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut answers =
            reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.next().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(services) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("another answer");
    };
    let names: BTreeSet<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "gateway.v1.Gateway",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection"
        ])
    );
    for name in names {
        let question = MessageRequest::FileContainingSymbol(name.to_owned());
        let MessageResponse::FileDescriptorResponse(file) = ask(question).await else {
            panic!("{name} is not described");
        };
        let file = &file.file_descriptor_proto[0];
        let file = prost_types::FileDescriptorProto::decode(file.as_slice()).unwrap();
        let described = file.service.iter().map(|service| format!("{}.{}", file.package(), service.name()));
        assert!(described.into_iter().any(|service| service == name));
    }
    gateway.stop();
}
