//! Where log lines go and how they look: to standard error, for people on a terminal, as JSON elsewhere.

use std::io::IsTerminal as _;

use config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging for the whole process. The filter was checked with the configuration.
pub(crate) fn start(log: &Log) {
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let filter = EnvFilter::new(quiet(log.filter.as_str()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first: there is one log.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
}

/// The filter without what the NATS library says at each attempt to connect, unless somebody asks for it: the bus tells
/// itself, once, what has happened.
fn quiet(filter: &str) -> String {
    if filter.contains("async_nats") { filter.to_owned() } else { format!("{filter},async_nats=off") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_quiet_unless_it_is_asked() {
        assert_eq!(quiet("info"), "info,async_nats=off");
        assert_eq!(quiet("info,async_nats=debug"), "info,async_nats=debug");
    }
}
