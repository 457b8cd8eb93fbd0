//! Promise: an app server that is an impostor, talks nonsense, does not serve or has fallen silent costs its own stream
//! and nothing else: what it was told is told another one, and no client notices.
#![allow(clippy::unwrap_used)]

mod harness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};

use ::backend::proto::{Ack, ToGateway, to_gateway};
use bytes::Bytes;
use harness::backend::{AppServer, Conduct, Manner, echo};
use harness::{Authority, Client, Gateway};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// A gateway whose route `/app` tells these endpoints, with further keys of the backend.
fn gateway(endpoints: &[String], keys: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    let endpoints = endpoints.join(", ");
    Gateway::start(&format!(
        "[[route]]\nname = 'app'\npath = '/app'\ninbound = {{ backend = 'chat' }}\n\
         [[backend]]\nname = 'chat'\nendpoints = [{endpoints}]\npartitions = 16\n\
         backoff = {{ min = '20ms', max = '200ms' }}\n{keys}"
    ))
}

fn plain(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn streams_up(gateway: &Gateway, many: f64) {
    gateway.until("streams", |metrics| metrics.value("gateway_backend_streams_up{backend=\"chat\"}") == many);
}

fn ended(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("gateway_backend_streams_ended_total{{backend=\"chat\",reason=\"{reason}\"}}");
    gateway.metrics().value(&series)
}

/// Twenty clients, each answered.
fn served(gateway: &Gateway) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client("/app")).collect();
    for client in &mut clients {
        client.echoes("hello");
    }
    clients
}

#[test]
fn over_tls_the_server_is_believed_by_its_authority_and_its_name() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, ours.pem()).unwrap();
    let secure = |acceptor| AppServer::start_with(echo(), Manner { tls: Some(acceptor), health: None });
    let good = secure(ours.acceptor("chat.internal"));
    let impostor = secure(theirs.acceptor("chat.internal"));
    let misnamed = secure(ours.acceptor("mail.internal"));
    let servers = [&good, &impostor, &misnamed].map(|server| format!("https://{}", server.address));
    let tls = format!("tls = {{ ca = '{}', server_name = 'chat.internal' }}", ca.display());
    let gateway = gateway(&servers, &tls);
    streams_up(&gateway, 1.0);
    let clients = served(&gateway);
    let logged = |server: &AppServer, words: &str| {
        gateway.logged(&["cannot reach a server", &server.address.to_string(), words]);
    };
    logged(&impostor, "UnknownIssuer");
    logged(&misnamed, "not valid for name");
    assert_eq!((impostor.look(|seen| seen.sessions), misnamed.look(|seen| seen.sessions)), (0, 0));
    drop(clients);
    gateway.stop();
}

#[test]
fn sessions_carry_metadata() {
    let server = AppServer::start(echo());
    let gateway = gateway(&[plain(server.address)], "metadata = { x-team = 'chat' }");
    gateway.client("/app").echoes("hello");
    let team = server.look(|seen| seen.metadata.get("x-team").map(|team| team.to_str().unwrap().to_owned()));
    assert_eq!(team.as_deref(), Some("chat"));
    gateway.stop();
}

/// Greets on every stream, hears the gateway's greeting and some event, and says what is no protobuf.
async fn babble(
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>>, Infallible> {
    let (words, body) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        let frame = |payload: &[u8]| {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            Ok(Frame::data([&[0][..], &length, payload].concat().into()))
        };
        let greeting = ToGateway { content: Some(to_gateway::Content::Ack(Ack::default())) };
        let _ = words.send(frame(&greeting.encode_to_vec())).await;
        let mut heard = request.into_body();
        // No event comes before the greeting has been answered, so the second frame has one.
        for _ in 0..2 {
            let _ = heard.frame().await;
        }
        let _ = words.send(frame(&[0xff; 3])).await;
    });
    let response = hyper::Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(ReceiverStream::new(body))).unwrap())
}

/// A server that babbles for as long as its runtime is there.
fn babbler() -> (SocketAddr, Runtime) {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let service = hyper::service::service_fn(babble);
            tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    (address, runtime)
}

#[test]
fn what_cannot_be_decoded_ends_one_stream_and_its_events_go_elsewhere() {
    let server = AppServer::start(echo());
    let (address, runtime) = babbler();
    let gateway = gateway(&[plain(address), plain(server.address)], "");
    streams_up(&gateway, 2.0);
    let clients = served(&gateway);
    assert!(ended(&gateway, "nonsense") >= 1.0, "{}", gateway.log());
    assert_eq!(ended(&gateway, "broken"), 0.0);
    assert_eq!(server.look(|seen| seen.sessions), 1, "the other stream is the one it was");
    assert!(server.look(|seen| seen.events.iter().any(|event| event.again)), "what was lost is told again");
    drop(clients);
    gateway.stop();
    runtime.shutdown_background();
}

#[test]
fn an_endpoint_that_says_it_does_not_serve_is_told_nothing() {
    let runtime = Runtime::new().unwrap();
    let reporter = HealthReporter::new();
    let says = |status| runtime.block_on(reporter.set_service_status("", status));
    says(ServingStatus::NotServing);
    let manner = Manner { health: Some(reporter.clone()), tls: None };
    let (unwell, well) = (AppServer::start_with(echo(), manner), AppServer::start(echo()));
    let gateway = gateway(&[plain(unwell.address), plain(well.address)], "health = true");
    let mut clients = served(&gateway);
    gateway.logged(&["cannot reach a server", &unwell.address.to_string(), "does not serve"]);
    assert_eq!(unwell.look(|seen| seen.sessions), 0);
    says(ServingStatus::Serving);
    streams_up(&gateway, 2.0);
    // One that is open is withdrawn, too, without a client noticing.
    says(ServingStatus::NotServing);
    streams_up(&gateway, 1.0);
    let told = unwell.look(|seen| seen.events.len());
    clients.extend(served(&gateway));
    for client in &mut clients {
        client.echoes("still there");
    }
    assert_eq!(unwell.look(|seen| seen.events.len()), told);
    gateway.stop();
}

#[test]
fn keep_alive_finds_a_server_that_has_stopped_answering() {
    // It hangs with its first event, sockets and all, and never says that it is gone.
    let (release, held) = mpsc::sync_channel::<()>(0);
    let held = Mutex::new(held);
    let hangs: Conduct = Arc::new(move |_, _| {
        let _ = held.lock().unwrap().recv();
    });
    let (stuck, well) = (AppServer::start(hangs), AppServer::start(echo()));
    let gateway = gateway(
        &[plain(stuck.address), plain(well.address)],
        "keep_alive = { interval = '1s', timeout = '1s' }",
    );
    streams_up(&gateway, 2.0);
    let mut clients = served(&gateway);
    assert!(stuck.look(|seen| !seen.events.is_empty()), "it was told something");
    assert_eq!((ended(&gateway, "broken"), ended(&gateway, "silent")), (1.0, 0.0));
    for client in &mut clients {
        client.echoes("still there");
    }
    gateway.stop();
    drop(release);
}
