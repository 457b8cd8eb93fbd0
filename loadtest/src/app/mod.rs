//! An app server over gRPC: sends every message back to the connection it came from, and keeps accounts of what it was
//! told.
//!
//! It owns the command `backend`: its options, listening, and going away when it is asked to. It refuses to know the
//! gateway's insides: it is written against the proto files, as anybody's app server is. One thread, so that its CPU
//! says what one core of an app server does.

mod accounts;
mod process;
mod session;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::units::parse_duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub(crate) use process::AppServer;

use crate::failure::Failure;
use crate::proto::backend_server::BackendServer;
use accounts::Accounts;
use session::Service;

/// Serves as an app server that echoes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Where to listen, on loopback; port 0 takes a free one, which is printed.
    #[arg(default_value = "127.0.0.1:50051")]
    pub(crate) listen: SocketAddrV4,
    /// Messages of senders with a number below this are slow to handle; others overtake them.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow: u32,
    /// How long a slow message takes; those of one connection wait for each other.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    pub(crate) slow_for: Duration,
    /// How long a decision about who comes in takes.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    pub(crate) authorize_for: Duration,
    /// Write a line for each event to this file before it is acknowledged; it survives the death of this process.
    #[arg(long)]
    pub(crate) journal: Option<PathBuf>,
    /// Fail (status 1) when more decisions than this were asked for at a time.
    #[arg(long)]
    pub(crate) max_decisions: Option<u64>,
    /// Fail (status 1) when more events than this were out of order, or repeated without a word.
    #[arg(long)]
    pub(crate) max_violations: Option<u64>,
}

/// Serves until SIGTERM or SIGINT: then it says GoAway on every stream, ends with the last one, and prints what it was
/// told as JSON. `false` when a threshold was broken.
///
/// # Errors
/// The address cannot be listened on, or the journal not be written.
pub(crate) fn run(args: &Args) -> Result<bool, Failure> {
    if !args.listen.ip().is_loopback() {
        return Err(Failure::Asked(format!("{}: loopback only, it trusts its clients", args.listen)));
    }
    let failed = || Failure::machine(format!("the app server on {}", args.listen));
    let accounts = Accounts::new(args.journal.as_deref()).map_err(failed())?;
    let accounts = Arc::new(accounts);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    runtime.block_on(serve(args, accounts.clone())).map_err(failed())?;
    let told = accounts.to_json();
    println!("{told}");
    let within = |name: &str, most: Option<u64>| most.is_none_or(|most| told[name].as_u64() <= Some(most));
    let in_order = ["violations", "misplaced"].into_iter().all(|name| within(name, args.max_violations));
    Ok(in_order && within("decisions_at_once", args.max_decisions))
}

async fn serve(args: &Args, accounts: Arc<Accounts>) -> std::io::Result<()> {
    let incoming = TcpIncoming::bind(args.listen.into())?.with_nodelay(Some(true));
    let (leaving, left) = watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!("listening grpc={}", incoming.local_addr()?);
    let told_to_go = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        // Nobody listens when there is no stream.
        let _ = leaving.send(true);
    };
    let service = Service {
        slow: args.slow,
        slow_for: args.slow_for,
        authorize_for: args.authorize_for,
        accounts,
        left,
    };
    let served =
        Server::builder().serve_with_incoming_shutdown(BackendServer::new(service), incoming, told_to_go);
    served.await.map_err(std::io::Error::other)
}
