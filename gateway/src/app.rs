//! The program: builds every part once, in order, and takes them apart in reverse.
//!
//! Order: log, descriptor limit, sizes, runtime, polls and wakers, shard threads with their listeners, HTTP listeners,
//! and only when all of that succeeded the word to go. A start that fails leaves nothing behind and serves nobody.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backend::{Bus, Intake, Publisher};
use bridge::event::Batch;
use bridge::{Epoch, NodeName, Switchboard};
use config::Settings;
use net::{Clock, descriptors};
use shard::Identity;
use shard::limit::{Gate, NodeBytes};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::admin::{self, Admin, Requests, Role, RoleSet};
use crate::backends::{Around, Backends};
use crate::bus::BusEnds;
use crate::cluster;
use crate::endings::EndingsLog;
use crate::grpc::{self, Answers};
use crate::in_force::{InForce, Live};
use crate::lifecycle::{Before, Lifecycle, ORDERS_MAX, Order, say_farewell};
use crate::metrics::{Descriptors, Metrics, Sources};
use crate::node::{self, Plan};
use crate::recent::Recent;
use crate::service::Supervisor;
use crate::shards::{Bench, Blueprint, Running, THREAD_PREFIX};
use crate::signals::Signals;
use crate::upstreams::Upstreams;
use crate::{exhausted, logging, memory, rules};

/// Batches of events that may wait for the pump.
const BATCHES_MAX: usize = 256;
/// Threads of the HTTP side and the pump: they do little.
const RUNTIME_THREADS: usize = 2;

/// Runs until drained. `file` is where the settings are from, to be read again.
pub(crate) fn run(settings: &Settings, file: Option<PathBuf>) -> ExitCode {
    logging::start(&settings.log);
    match start(settings) {
        Ok(node) => node.serve(file),
        Err(mistake) => {
            eprintln!("{mistake}");
            ExitCode::from(crate::WRONG)
        }
    }
}

/// Everything at work.
struct Node {
    runtime: Runtime,
    running: Running,
    admin: Arc<Admin>,
    orders: mpsc::Receiver<Order>,
    http: Vec<(TcpListener, RoleSet)>,
    grpc: Option<TcpListener>,
    batches: mpsc::Receiver<Batch>,
    backends: Backends,
    endings: EndingsLog,
    signals: Signals,
    /// The bus, and the pump's end of its upstream.
    bus: (Arc<dyn Bus>, Option<Intake>),
}

fn start(settings: &Settings) -> Result<Node, String> {
    let clock = Clock::start();
    let (name, epoch) = (node::name(settings), node::epoch());
    let rules = rules::rules(settings)?;
    let backends = Backends::read(settings)?;
    let live = Arc::new(Live::new(InForce::new(1, settings.clone())?));
    let plan = plan(settings)?;

    let (runtime, of_runtime) = runtime().map_err(|error| format!("cannot start the runtime: {error}"))?;
    let bench = Bench::new(settings, plan.shards, of_runtime)
        .map_err(|error| format!("cannot open a poll: {error}"))?;
    let (switchboard, bus_ends) = BusEnds::beside(settings, Switchboard::new(bench.mailboxes.clone()));
    let stats = bench.stats.clone();
    let waiting = bench.start(settings, clock)?;

    let (http, grpc) = runtime.block_on(listen(settings))?;
    // No shard has opened anybody's connection yet, so a bus that refuses us ends the start with nobody served.
    let bus = runtime.block_on(bus_ends.start(settings, (&name, epoch), &switchboard, &live))?;
    let signals = runtime.block_on(listen_signals())?;

    let gate = Arc::new(Gate::new(node::gate_sizes(settings, plan)));
    let ((batch, batches), (order, orders)) = (mpsc::channel(BATCHES_MAX), mpsc::channel(ORDERS_MAX));
    let websocket_address = waiting.address;
    announce((&name, epoch, plan), websocket_address, &http, grpc.as_ref(), &settings.routes);
    let running = waiting.go(&Blueprint {
        identity: Identity { node: name.clone(), epoch, shard: 0 },
        sizes: node::sizes(settings, plan),
        rules,
        upstreams: Upstreams::of(settings).quotas(plan.shards),
        gate: Arc::clone(&gate),
        node_bytes: Arc::new(NodeBytes::new(settings.backlog.node_bytes.as_u64())),
        switchboard: Arc::clone(&switchboard),
        batches: batch,
    });

    let recent = Arc::new(Recent::new(settings.inspection.endings as usize));
    let (requests, answers, nodes) = (Arc::<Requests>::default(), Arc::<Answers>::default(), Arc::default());
    let publisher = Publisher::new(Arc::clone(&switchboard), Arc::clone(&bus.0));
    let metrics = Metrics::new(Sources {
        stats: stats.clone(),
        switchboard: Arc::clone(&switchboard),
        gate: Arc::clone(&gate),
        live: Arc::clone(&live),
        publisher: publisher.clone(),
        nodes: Arc::clone(&nodes),
        backends: backends.stats(),
        authorizers: backends.authorize_stats(),
        recent: Arc::clone(&recent),
        requests: Arc::clone(&requests),
        answers: Arc::clone(&answers),
        clock: Box::new(move || clock.ms()),
        refusal_labels: Vec::leak(shard::refusal_labels()),
        descriptors: descriptor_tables(settings),
    });
    let admin = Arc::new(Admin {
        node: name.clone(),
        epoch,
        publisher,
        nodes,
        block_orders: Default::default(),
        switchboard,
        gate,
        stats,
        live: Arc::clone(&live),
        recent: Arc::clone(&recent),
        walk: tokio::sync::Mutex::new(()),
        requests: Arc::clone(&requests),
        answers: Arc::clone(&answers),
        draining: Arc::new(AtomicBool::new(false)),
        clock: Box::new(move || clock.ms()),
        websocket_address,
        metrics,
        orders: order,
    });
    let endings = EndingsLog::new(name, epoch, live, clock, recent);
    Ok(Node { runtime, running, admin, orders, http, grpc, batches, backends, endings, signals, bus })
}

/// What fits under the descriptor limit, raised as far as it goes.
fn plan(settings: &Settings) -> Result<Plan, String> {
    let limit =
        descriptors::raise_limit().map_err(|error| format!("cannot raise the descriptor limit: {error}"))?;
    node::plan(settings, limit, runtime_connections(settings))
}

/// How descriptor tables are laid out.
fn descriptor_tables(settings: &Settings) -> Descriptors {
    if settings.shards.own_descriptors {
        Descriptors::PerThread { prefix: THREAD_PREFIX }
    } else {
        Descriptors::Shared
    }
}

/// The runtime of the HTTP side and the pump, and the descriptors it is made of.
fn runtime() -> std::io::Result<(Runtime, Vec<RawFd>)> {
    let before = descriptors::open_descriptors()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build()?;
    let mut opened = descriptors::open_descriptors()?;
    opened.retain(|descriptor| !before.contains(descriptor));
    Ok((runtime, opened))
}

/// Catches signals, within the runtime that tells of them.
async fn listen_signals() -> Result<Signals, String> {
    Signals::listen().map_err(|error| format!("cannot listen for signals: {error}"))
}

/// Binds the addresses of the runtime.
async fn listen(settings: &Settings) -> Result<(Vec<(TcpListener, RoleSet)>, Option<TcpListener>), String> {
    Ok((listen_http(settings).await?, listen_grpc(settings).await?))
}

/// Binds each address of the three roles once.
async fn listen_http(settings: &Settings) -> Result<Vec<(TcpListener, RoleSet)>, String> {
    let mut roles: BTreeMap<SocketAddr, RoleSet> = BTreeMap::new();
    for (role, address) in [
        (Role::Health, settings.health_address()),
        (Role::Api, settings.api_address()),
        (Role::Admin, settings.admin_address()),
    ] {
        let set = roles.entry(address).or_default();
        *set = set.with(role);
    }
    let mut listeners = Vec::with_capacity(roles.len());
    for (address, roles) in roles {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let labels: Vec<&str> = roles.iter().map(Role::label).collect();
            format!(
                "cannot listen on {address} for HTTP ({}): {error}. Stop what listens there, or set another \
                 address, as in GATEWAY__HTTP__ADDRESS=127.0.0.1:9081.",
                labels.join(", ")
            )
        })?;
        listeners.push((listener, roles));
    }
    Ok(listeners)
}

/// Binds the address of gRPC, if it has one.
async fn listen_grpc(settings: &Settings) -> Result<Option<TcpListener>, String> {
    let Some(address) = settings.grpc.address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!(
            "cannot listen on {address} for gRPC: {error}. Stop what listens there, or set another address, as in \
             GATEWAY__GRPC__ADDRESS=127.0.0.1:9082."
        )
    })?;
    Ok(Some(listener))
}

/// Connections that the runtime's listeners may have, for which descriptors are kept free.
pub(crate) fn runtime_connections(settings: &Settings) -> u64 {
    let grpc = settings.grpc.address.map_or(0, |_| grpc::CONNECTIONS_MAX);
    (admin::CONNECTIONS_MAX + grpc) as u64
}

/// Says on standard output where to connect. The first line is for programs.
fn announce(
    (name, epoch, plan): (&NodeName, Epoch, Plan),
    websocket: SocketAddr,
    http: &[(TcpListener, RoleSet)],
    grpc: Option<&TcpListener>,
    routes: &[config::Route],
) {
    let address_of = |role: Role| {
        let listener = http.iter().find(|(_, roles)| roles.contains(role));
        listener.and_then(|(listener, _)| listener.local_addr().ok())
    };
    let mut line = format!("listening ws={websocket}");
    if let Some(api) = address_of(Role::Api) {
        line.push_str(&format!(" http={api}"));
    }
    if let Some(grpc) = grpc.and_then(|listener| listener.local_addr().ok()) {
        line.push_str(&format!(" grpc={grpc}"));
    }
    if let Some(admin) = address_of(Role::Admin) {
        line.push_str(&invitation(admin, websocket, routes));
    }
    // Whoever started it may have left, or read one line only: no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");
    let Plan { shards, connections, .. } = plan;
    tracing::info!(node = %name, %epoch, shards, connections, %websocket, "gateway started");
}

/// Where to try it: in the page, where it has a room to join, and on a path that leads somewhere.
fn invitation(page: SocketAddr, websocket: SocketAddr, routes: &[config::Route]) -> String {
    let rooms =
        routes.iter().find(|route| route.name.as_str() == "rooms" && route.path.variables().count() == 1);
    let Some(route) = rooms.or(routes.first()) else { return String::new() };
    let pattern = route.path.to_string();
    let segments = pattern.split('/').map(|segment| if segment.starts_with('{') { "lobby" } else { segment });
    let path = segments.collect::<Vec<_>>().join("/");
    if rooms.is_some() {
        format!("\ntry it: open http://{page}/ in two tabs, or websocat ws://{websocket}{path}")
    } else {
        format!("\ntry it: websocat ws://{websocket}{path}, and watch http://{page}/")
    }
}

impl Node {
    fn serve(self, file: Option<PathBuf>) -> ExitCode {
        let Self {
            bus,
            runtime,
            running,
            admin,
            orders,
            http,
            grpc,
            batches,
            backends,
            mut endings,
            signals,
        } = self;
        let (stop, _) = tokio::sync::watch::channel(false);
        let stopped = || {
            let mut stop = stop.subscribe();
            async move {
                let _ = stop.wait_for(|stop| *stop).await;
            }
        };
        let (bus, bus_intake) = bus;
        let intakes = bus_intake.into_iter().chain(backends.intakes()).collect();
        let backends = backends.start(&runtime, &Around::of(&admin));
        let pump = runtime.spawn(backend::pump(batches, intakes, move |_, event| endings.observe(event)));
        let mut servers: Vec<_> = http
            .into_iter()
            .map(|(listener, roles)| {
                runtime.spawn(admin::serve(listener, roles, Arc::clone(&admin), stopped()))
            })
            .collect();
        servers
            .extend(grpc.map(|listener| runtime.spawn(grpc::serve(listener, Arc::clone(&admin), stopped()))));
        servers.push(runtime.spawn(cluster::run(Arc::clone(&admin), stopped())));
        let stats = admin.stats.clone();
        runtime.spawn(memory::watch(Arc::clone(&admin)));
        runtime.spawn(exhausted::watch(stats.clone()));
        let before = Before::default();
        let lifecycle =
            Lifecycle { signals, orders, admin, service: Supervisor::find(), before: before.clone(), file };
        runtime.spawn(lifecycle.run());

        let result = running.wait();
        let _ = stop.send(true);
        runtime.block_on(async {
            for server in servers {
                let _ = server.await;
            }
            let _ = pump.await;
            for backend in backends {
                let _ = backend.await;
            }
            bus.stop().await;
        });
        match result {
            Ok(()) => {
                say_farewell(&stats, &before);
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(%error, "ending");
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whoever_starts_it_is_invited_to_a_path_that_there_is() {
        let invited = |file: &str| {
            let settings = config::load(file, []).unwrap();
            let [page, websocket] = [81, 80].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            invitation(page, websocket, &settings.routes)
        };
        assert!(
            invited("").ends_with(
                "open http://127.0.0.1:81/ in two tabs, or websocat ws://127.0.0.1:80/rooms/lobby"
            )
        );
        let chat = "[[route]]\nname = 'chat'\npath = '/chat/{room}/in'\ninbound = 'echo'";
        assert!(invited(chat).contains("websocat ws://127.0.0.1:80/chat/lobby/in, "), "{}", invited(chat));
    }
}
