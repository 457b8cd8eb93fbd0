//! gRPC: what a plain tonic client spends on messages over one stream that come back, so many under way.
//!
//! It owns the part of the gateway in `Backend.Session`, as little of it as an app server of ours needs. It is the floor
//! of what passing a message on over gRPC can cost. Refuses windows, re-sending and several streams: that is what the
//! gateway adds.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::units::parse_duration;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::args;
use crate::clock;
use crate::failure::Failure;
use crate::payload;
use crate::probe::Server;
use crate::proto::backend_client::BackendClient;
use crate::proto::command::Order;
use crate::proto::event::Occurrence;
use crate::proto::from_gateway::Content;
use crate::proto::message::Payload;
use crate::proto::to_gateway::Content as Answer;
use crate::proto::{Event, FromGateway, Hello, Message, Opened, ToGateway};
use crate::report::{Report, Unit};
use crate::scenarios::latencies;

/// Measures what a message over gRPC costs a client.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The app server, see `loadtest backend`.
    #[arg(long, default_value = "127.0.0.1:50051")]
    backend: SocketAddrV4,
    /// Messages under way, each of a connection of its own.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// Bytes of a message.
    #[arg(long, value_parser = args::size, default_value = "128")]
    size: usize,
    /// Length of the measured window.
    #[arg(long, value_parser = args::seconds, default_value = "5")]
    seconds: Duration,
    /// Length of the warm-up before it.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Write the report as JSON to this file; `-` prints it instead of the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail (status 1) when a message costs the client more than this, in microseconds of CPU.
    #[arg(long)]
    max_client_cpu_us: Option<f64>,
}

impl Args {
    /// Where the report goes as JSON.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.json.as_deref()
    }
}

/// Runs the scenario.
///
/// # Errors
/// The app server is not there, or does something else than sending back.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    if !args.backend.ip().is_loopback() {
        return Err(Failure::Asked("--backend on loopback".into()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::machine("a runtime"))?;
    let seen = runtime.block_on(measure(args))?;
    let mut report = Report::new("grpc");
    report.about("backend", args.backend.to_string());
    report.about("in_flight", args.in_flight.to_string());
    report.about("message", format!("{} bytes", args.size.max(payload::SHORTEST)));
    let per_message = (seen.messages > 0).then(|| seen.cpu_ns as f64 / 1e3 / seen.messages as f64);
    report.figure("window", seen.seconds, Unit::Seconds);
    report.figure("messages", seen.messages as f64, Unit::Count);
    report.figure("messages_rate", seen.messages as f64 / seen.seconds, Unit::PerSecond);
    report.maybe("client_cpu_per_message", per_message, Unit::Micros);
    report.figure("client_cpu", seen.cpu_ns as f64 / 1e7 / seen.seconds, Unit::Percent);
    report.percentiles("latency", &seen.latencies);
    report.check("max-client-cpu-us", args.max_client_cpu_us, per_message);
    Ok(report)
}

/// What a window showed.
struct Seen {
    messages: u64,
    seconds: f64,
    cpu_ns: u64,
    latencies: Histogram<u64>,
}

async fn measure(args: &Args) -> Result<Seen, Failure> {
    let mut client = Client::connect(args).await?;
    client.begin().await?;
    client.pass(args.warm_up).await?;
    client.latencies.clear();
    let process = Server::new(std::process::id())?;
    let (began_ns, began_cpu_ns, before) = (clock::now_ns(), process.cpu_ns()?, client.messages);
    client.pass(args.seconds).await?;
    Ok(Seen {
        messages: client.messages - before,
        seconds: (clock::now_ns() - began_ns) as f64 / 1e9,
        cpu_ns: process.cpu_ns()? - began_cpu_ns,
        latencies: client.latencies,
    })
}

/// A connection that is played.
struct Link {
    name: String,
    sequence: u32,
    sent_ns: u64,
}

struct Client {
    size: usize,
    events: mpsc::Sender<FromGateway>,
    answers: Streaming<ToGateway>,
    links: Vec<Link>,
    position: u64,
    messages: u64,
    latencies: Histogram<u64>,
    text: Vec<u8>,
}

impl Client {
    async fn connect(args: &Args) -> Result<Client, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::Server(format!("{}: {error}", args.backend));
        let endpoint =
            Endpoint::from_shared(format!("http://{}", args.backend)).map_err(|error| refused(&error))?;
        let channel = endpoint.connect().await.map_err(|error| refused(&error))?;
        let mut backend = BackendClient::new(channel);
        // One for every connection, the first message and a little more: it is never full.
        let (events, queue) = mpsc::channel(2 * args.in_flight as usize + 16);
        let hello =
            Hello { node: "grpc".into(), epoch: 1, window: 4096, connection_window: 32, partitions: 1 };
        let hello = FromGateway { content: Some(Content::Hello(hello)) };
        let session = backend.session(ReceiverStream::new(queue));
        let sent = events.try_send(hello);
        debug_assert!(sent.is_ok(), "the queue is empty");
        let answers = session.await.map_err(|status| refused(&status))?.into_inner();
        let link = |number| Link { name: format!("grpc-1-0-{number:x}-1"), sequence: 0, sent_ns: 0 };
        Ok(Client {
            size: args.size,
            events,
            answers,
            links: (0..args.in_flight).map(link).collect(),
            position: 0,
            messages: 0,
            latencies: latencies(),
            text: Vec::new(),
        })
    }

    /// Every connection opens and sends its first message.
    async fn begin(&mut self) -> Result<(), Failure> {
        for number in 0..self.links.len() {
            self.tell(number, Occurrence::Opened(Opened::default())).await?;
            self.send(number).await?;
        }
        Ok(())
    }

    /// Sends back what comes back for this long.
    async fn pass(&mut self, length: Duration) -> Result<(), Failure> {
        let end_ns = clock::now_ns() + args::ns(length);
        while clock::now_ns() < end_ns {
            let answer = self.answers.message().await.map_err(|status| lost(&status))?;
            let content = answer.ok_or_else(|| lost(&"the stream ended"))?.content;
            let Some(Answer::Command(command)) = content else { continue };
            let Some(Order::Send(order)) = command.order else {
                return Err(lost(&"an order we do not know"));
            };
            let number = self.number_of(&order.connection).ok_or_else(|| lost(&"a message for nobody"))?;
            let text = match order.message.and_then(|message| message.payload) {
                Some(Payload::Text(text)) => text,
                _ => return Err(lost(&"a message without text")),
            };
            let link = &self.links[number];
            let expected = u32::try_from(number).ok().map(|number| (number, link.sequence));
            if payload::read(text.as_bytes(), self.size) != expected {
                return Err(lost(&"a message that was not sent"));
            }
            self.latencies.saturating_record(clock::now_ns() - link.sent_ns);
            self.messages += 1;
            self.send(number).await?;
        }
        Ok(())
    }

    fn number_of(&self, name: &str) -> Option<usize> {
        let number = usize::from_str_radix(name.split('-').nth(3)?, 16).ok()?;
        (self.links.get(number)?.name == name).then_some(number)
    }

    async fn send(&mut self, number: usize) -> Result<(), Failure> {
        let link = &mut self.links[number];
        link.sent_ns = clock::now_ns();
        let sender = u32::try_from(number).unwrap_or(u32::MAX);
        payload::write(&mut self.text, sender, link.sequence + 1, self.size);
        let text = String::from_utf8_lossy(&self.text).into_owned();
        self.tell(number, Occurrence::Message(Message { payload: Some(Payload::Text(text)) })).await
    }

    async fn tell(&mut self, number: usize, occurrence: Occurrence) -> Result<(), Failure> {
        self.position += 1;
        let link = &mut self.links[number];
        link.sequence += 1;
        let event = Event {
            position: self.position,
            connection: link.name.clone(),
            sequence: link.sequence,
            route: "app".into(),
            occurrence: Some(occurrence),
            ..Event::default()
        };
        let event = FromGateway { content: Some(Content::Event(event)) };
        self.events.send(event).await.map_err(|_| lost(&"the stream ended"))
    }
}

fn lost(why: &dyn std::fmt::Display) -> Failure {
    Failure::Server(format!("the app server: {why}"))
}
