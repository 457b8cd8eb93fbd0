//! The life of the node from its start to its end: what signals and the API order, in one place and in one order.
//!
//! Owns the drain: readiness turns red at once, every shard is told, and in the end the log says how many ended how.
//! Refuses to close anybody itself: that is what shards do. Runs as one task of the runtime.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bridge::{Command, DrainPlan, EndReason, Stats, Switchboard};
use tokio::sync::{mpsc, oneshot};

use crate::admin::Admin;
use crate::reload::{self, NotReloaded, Reloaded};
use crate::rules::ticks;
use crate::service::Supervisor;
use crate::signals::{Signal, Signals};

/// Orders that may wait; more are answered 503.
pub(crate) const ORDERS_MAX: usize = 16;
/// How often, and at which intervals, a full mailbox is asked to take an order.
const TRIES: usize = 10_000;
const PAUSE: Duration = Duration::from_millis(1);

/// What the API asks for.
#[derive(Debug)]
pub(crate) enum Order {
    /// Drain, within this time or the configured one.
    Drain(Option<Duration>),
    /// Read the configuration again, and say what came of it to whoever asked.
    Reload(Option<oneshot::Sender<Result<Reloaded, NotReloaded>>>),
}

/// How connections had ended when the drain began.
#[derive(Clone, Default)]
pub(crate) struct Before(Arc<OnceLock<Vec<u64>>>);

/// The task.
pub(crate) struct Lifecycle {
    pub(crate) signals: Signals,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) admin: Arc<Admin>,
    pub(crate) service: Supervisor,
    pub(crate) before: Before,
    /// Where the configuration is read again.
    pub(crate) file: Option<PathBuf>,
}

/// Who wanted the drain that is under way.
enum Draining {
    No,
    ByRequest,
    BySignal,
}

impl Lifecycle {
    pub(crate) async fn run(mut self) {
        self.service.ready();
        let mut draining = Draining::No;
        loop {
            tokio::select! {
                signal = self.signals.next() => draining = self.signalled(signal, draining).await,
                Some(order) = self.orders.recv() => draining = self.ordered(order, draining).await,
            }
        }
    }

    async fn signalled(&self, signal: Signal, draining: Draining) -> Draining {
        let name = signal.name();
        if signal == Signal::HangUp {
            return self.ordered(Order::Reload(None), draining).await;
        }
        match draining {
            Draining::No => {
                tracing::info!(signal = name, "draining");
                self.begin_drain(self.admin.live.now().settings.drain.deadline).await;
            }
            // Whoever asks for a drain before stopping a node says the same thing twice, and is not in a hurry.
            Draining::ByRequest => tracing::info!(signal = name, "draining already"),
            Draining::BySignal => {
                let left: u64 = self.admin.stats.iter().map(|stats| stats.connections.value()).sum();
                tracing::warn!(signal = name, connections = left, "told twice: ending at once");
                exit_at_once();
            }
        }
        Draining::BySignal
    }

    async fn ordered(&self, order: Order, draining: Draining) -> Draining {
        let within = match order {
            Order::Drain(within) => within,
            Order::Reload(asker) => {
                let outcome = self.reload(&draining).await;
                if let Some(asker) = asker {
                    // It may have gone, and then nobody wants to know.
                    let _ = asker.send(outcome);
                }
                return draining;
            }
        };
        let deadline = within.unwrap_or(self.admin.live.now().settings.drain.deadline);
        match draining {
            Draining::No => {
                tracing::info!(seconds = deadline.as_secs_f64(), "draining by request");
                self.begin_drain(deadline).await;
                Draining::ByRequest
            }
            draining => {
                // Asked again with a time: a shorter one counts, a longer one changes nothing.
                if within.is_some() {
                    self.begin_drain(deadline).await;
                }
                draining
            }
        }
    }

    async fn reload(&self, draining: &Draining) -> Result<Reloaded, NotReloaded> {
        if !matches!(draining, Draining::No) {
            tracing::warn!("not reloaded: the node drains");
            return Err(NotReloaded::Draining);
        }
        self.service.reloading();
        let outcome = reload::reload(&self.admin, self.file.clone()).await;
        match &outcome {
            Ok(done) => {
                let keys: Vec<&str> = done.changes.iter().map(|change| change.key.as_str()).collect();
                let late = done.shards.iter().filter(|obeyed| **obeyed < u64::from(done.number)).count();
                tracing::info!(rules = done.number, changed = keys.join(" "), shards_late = late, "reloaded");
            }
            Err(refusal) => tracing::error!(%refusal, "not reloaded: nothing was changed"),
        }
        self.service.ready();
        outcome
    }

    async fn begin_drain(&self, deadline: Duration) {
        self.admin.draining.store(true, Ordering::Release);
        self.service.stopping();
        self.before.0.get_or_init(|| ended(&self.admin.stats));
        let live = self.admin.live.now();
        let accept = Duration::from_secs(u64::from(live.settings.drain.accept_seconds));
        let plan = DrainPlan::within(ticks(deadline), ticks(accept), ticks(live.settings.timeouts.close));
        tell_all(&self.admin.switchboard, || Command::Drain(plan)).await;
    }
}

/// Tells every shard. A mailbox that is full has room again within a turn or two; one whose shard is gone never has,
/// and the process ends for that reason.
pub(crate) async fn tell_all(switchboard: &Switchboard, command: impl Fn() -> Command) {
    for mailbox in switchboard.mailboxes() {
        for _ in 0..TRIES {
            if mailbox.send(command()).is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Says in one line how those ended that were here when the drain began, or came after.
pub(crate) fn say_farewell(stats: &[Arc<Stats>], before: &Before) {
    let now = ended(stats);
    let before = before.0.get().cloned().unwrap_or_else(|| now.clone());
    let reasons: Vec<String> = EndReason::ALL
        .iter()
        .zip(now.iter().zip(&before))
        .filter(|(_, (now, before))| now > before)
        .map(|(reason, (now, before))| format!("{}={}", reason.label(), now - before))
        .collect();
    let total: u64 = now.iter().sum::<u64>() - before.iter().sum::<u64>();
    let cut: u64 = stats.iter().map(|stats| stats.cut.value()).sum();
    tracing::info!(ended = total, cut, by_reason = reasons.join(" "), "drained, nobody left");
}

fn ended(stats: &[Arc<Stats>]) -> Vec<u64> {
    let sum = |place: usize| stats.iter().map(|stats| stats.ended[place].value()).sum();
    (0..EndReason::ALL.len()).map(sum).collect()
}

/// Somebody asked twice.
#[allow(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for destructors")]
fn exit_at_once() -> ! {
    std::process::exit(1)
}
