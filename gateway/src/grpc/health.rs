//! Owns what `grpc.health.v1` says: the readiness of this node, as `/readyz` has it, under the empty name and that of the
//! service. Whoever checks gets the state of that moment; whoever watches hears of a change within [`LOOK_INTERVAL`].

use std::time::Duration;

use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::admin::Admin;

/// How often watchers are served.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// What may be asked for.
const NAMES: [&str; 2] = ["", super::dispatch::SERVICE];
/// A request is a name.
const REQUEST_BYTES_MAX: usize = 1024;

/// The state, and who tells it.
pub(super) struct Health {
    reporter: HealthReporter,
    /// What was told last: telling the same again would wake every watcher.
    told: Mutex<Option<bool>>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { reporter: HealthReporter::new(), told: Mutex::new(None) }
    }

    /// The service behind it.
    pub(super) fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    /// Says how the node is now.
    pub(super) async fn refresh(&self, admin: &Admin) {
        let ready = admin.unready().is_none();
        let mut told = self.told.lock().await;
        if *told == Some(ready) {
            return;
        }
        *told = Some(ready);
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Ends the streams of those who watch: the node stops.
    pub(super) async fn forget(&self) {
        let mut reporter = self.reporter.clone();
        for name in NAMES {
            reporter.clear_service_status(name).await;
        }
    }
}
