//! What the process is told from outside: the first SIGTERM or SIGINT drains, the second ends at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for both signals.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen; from then on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
