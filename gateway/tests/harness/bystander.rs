//! A client with nothing to do with a test's mischief: it goes on echoing, and notices when it is disturbed.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, Gateway};

/// Time between two of its messages.
const PACE: Duration = Duration::from_millis(20);

/// It lives on a thread of its own.
pub(crate) struct Bystander {
    stop: SyncSender<()>,
    thread: JoinHandle<u32>,
}

impl Bystander {
    /// Connects to `/echo` and begins.
    #[track_caller]
    pub(crate) fn beside(gateway: &Gateway) -> Self {
        Self::at(gateway.ws)
    }

    fn at(address: SocketAddr) -> Self {
        let mut client = Client::connect(address, "/echo", &[]).unwrap();
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            for count in 1.. {
                client.echoes(&format!("bystander {count}"));
                if stopped.recv_timeout(PACE) != Err(RecvTimeoutError::Timeout) {
                    client.leave();
                    return count;
                }
            }
            0
        });
        Self { stop, thread }
    }

    /// Lets it leave, and expects that every message of it came back.
    #[track_caller]
    pub(crate) fn was_not_disturbed(self) {
        let _ = self.stop.send(());
        let echoes = self.thread.join().expect("the bystander was disturbed");
        assert!(echoes > 0);
    }
}
