//! A client with nothing to do with a test's mischief: it goes on echoing, and notices when it is disturbed.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, Gateway};

/// Time between two of its messages.
const PACE: Duration = Duration::from_millis(20);

/// It lives on a thread of its own.
pub(crate) struct Bystander {
    stop: SyncSender<()>,
    /// The longest that one of its echoes took.
    thread: JoinHandle<Duration>,
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
            let mut longest = Duration::ZERO;
            for count in 1_u64.. {
                let said = Instant::now();
                client.echoes(&format!("bystander {count}"));
                longest = longest.max(said.elapsed());
                if stopped.recv_timeout(PACE) != Err(RecvTimeoutError::Timeout) {
                    client.leave();
                    break;
                }
            }
            longest
        });
        Self { stop, thread }
    }

    /// Lets it leave, and expects that every message of it came back.
    #[track_caller]
    pub(crate) fn was_not_disturbed(self) {
        self.longest();
    }

    /// The same; how long one of its echoes took at most, which on a busy machine says what the machine did.
    #[track_caller]
    pub(crate) fn longest(self) -> Duration {
        let _ = self.stop.send(());
        self.thread.join().expect("the bystander was disturbed")
    }
}
