//! Whether this thread runs ahead of others when processors are scarce.
//!
//! It owns that one setting. It refuses to give it to threads that only hold connections: what they do is the load. Used
//! by `traffic`, because a thread that sends late, or looks late at what came back, measures its own wait and not
//! the server.

use rustix::process::setpriority_process;

/// Nice value of a thread that keeps time. The usual is 0, the least is -20.
const AHEAD: i32 = -10;

/// Lets this thread run ahead of others, or no longer. Without the privilege (`CAP_SYS_NICE`) it stays as it is, and
/// reports say how late the harness was in any case.
pub(crate) fn run_ahead(ahead: bool) {
    let _ = setpriority_process(None, if ahead { AHEAD } else { 0 });
}
