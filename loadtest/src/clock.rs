//! The harness's only clock: nanoseconds since the program began, in one integer.
//!
//! It owns every reading of time and every pause. It refuses wall-clock time: nothing here is compared with
//! another machine. Called by the client threads (stamps) and by the conductor (windows).

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call; never goes back.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(ZERO.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps: the conductor does between two looks at what the client threads publish, and a publisher
/// over HTTP between two messages.
#[expect(clippy::disallowed_methods, reason = "the conductor has nothing else to do between two samples")]
pub(crate) fn pause(length: Duration) {
    thread::sleep(length);
}
