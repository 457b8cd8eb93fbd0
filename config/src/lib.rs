//! Settings of the gateway: TOML, then the environment, over built-in defaults, read once into types that cannot
//! hold a wrong value. Owns every key; refuses to run anything, to open files and to stop at the first mistake.
//! Called by the program at start and by `check`; [`units`] also serves other programs.
//!
//! The reference with every key, unit, default and reason is `gateway.toml`, here as [`reference()`].

#![forbid(unsafe_code)]

mod backends;
mod bus;
mod checks;
mod diff;
mod endpoints;
mod forms;
mod inbound;
mod limits;
mod mistake;
mod names;
mod network_limits;
mod networks;
mod patience;
mod reader;
mod redis;
mod routes;
mod schema;
mod sections;
mod suggestion;
mod template;
#[cfg(test)]
mod tests_reference;
pub mod units;

use toml::de::DeTable;

pub use backends::{
    AUTHORIZE_HEADERS_MAX, AuthorizeCalls, BACKENDS_MAX, Backend, Backoff, ENDPOINTS_MAX, KeepAlive, Tls,
};
pub use bus::{
    BUS_PREFIX_BYTES_MAX, BUS_SERVERS_MAX, Bus, BusKind, BusNats, BusPrefix, NatsServer, OnBusLoss, OnGap,
    Ready, Requirement,
};
pub use diff::Change;
pub use endpoints::{
    Endpoint, METADATA_MAX, METADATA_NAME_BYTES_MAX, METADATA_VALUE_BYTES_MAX, Metadata, MetadataValue,
};
pub use forms::AutoOr;
pub use inbound::Inbound;
pub use limits::{ConnectionLimits, LimitAction, NodeLimits, PeerLimits, RefuseBy};
pub use mistake::{Mistake, Source};
pub use names::{
    BackendName, HEADER_NAME_BYTES_MAX, HeaderName, HostName, LogFilter, NODE_NAME_BYTES_MAX, NodeName,
    ORIGIN_BYTES_MAX, Origin, Origins, ROUTE_NAME_BYTES_MAX, RouteName, SUBPROTOCOL_BYTES_MAX, Subprotocol,
};
pub use network_limits::{Factor, NETWORK_LIMITS_MAX, NetworkLimits, NetworkRule};
pub use networks::{NETWORKS_MAX, Network};
pub use patience::{AUTO_REPLIES_MAX, AUTO_REPLY_BYTES_MAX};
pub use redis::{BusRedis, RedisServer, RedisUser};
pub use routes::{AutoReply, PayloadKind, ROUTE_LIST_MAX, ROUTES_MAX, Route, SlowConsumer};
pub use sections::{
    Admin, Api, Backlog, Drain, Grpc, Health, Heartbeat, Http, Inspection, Limits, Listen, Log, LogFormat,
    Mailbox, Node, PeerHeader, SHARDS_MAX, Settings, Shards, Timeouts, Trust, WebSocket,
};
pub use template::{
    CHANNEL_TOKENS_MAX, ChannelTemplate, PATH_SEGMENTS_MAX, PATH_VARIABLES_MAX, Part, PathPattern, Segment,
    TOKEN_BYTES_MAX, VARIABLE_BYTES_MAX,
};

use reader::Reader;
use suggestion::VARIABLE_PREFIX;

/// Longest configuration text, in bytes. Far beyond any real one; it bounds what a wrong path can cost.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Reads settings: `text` (empty for the defaults alone), overridden by the variables of `env` whose names begin
/// with `GATEWAY__`, such as `GATEWAY__LIMITS__CONNECTIONS`. Other variables are ignored. (`std::env::vars` panics on
/// one that is not Unicode: take `vars_os` and pass on what converts.)
///
/// ```
/// let variables = [("GATEWAY__TIMEOUTS__CLOSE".to_owned(), "3s".to_owned())];
/// let settings = config::load("[limits]\nchannels = 500", variables).unwrap();
/// assert_eq!(settings.limits.channels.get(), 500);
/// assert_eq!(settings.timeouts.close.as_secs(), 3);
///
/// let mistakes = config::load("[limits]\nchanels = 500", []).unwrap_err();
/// assert_eq!((mistakes[0].line, mistakes[0].key.as_str()), (Some(2), "limits.chanels"));
/// ```
///
/// # Errors
/// Every mistake there is: those of the text in its order, then those of the environment.
pub fn load(text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Settings, Vec<Mistake>> {
    if text.len() > TEXT_BYTES_MAX {
        let found = format!("{} bytes", text.len());
        let expected = format!("a configuration of at most {TEXT_BYTES_MAX} bytes");
        return Err(vec![Mistake { key: String::new(), line: None, source: Source::File, found, expected }]);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(text, document.get_ref());
    for error in errors {
        reader.broken(error.message(), error.span());
    }
    for (variable, value) in env.into_iter().filter(|(variable, _)| variable.starts_with(VARIABLE_PREFIX)) {
        match suggestion::key_of(&variable) {
            Some(key) => reader.overrule(key, variable, value),
            None => {
                let key = variable[VARIABLE_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
                let expected = suggestion::for_variable(&variable);
                reader.unknown_variable(variable, key, expected);
            }
        }
    }
    reader.unknown_sections();
    let settings = Settings::read(&mut reader);
    // Of a text with holes, only what is there can be judged.
    if reader.is_whole() {
        checks::check(&settings, &mut reader);
    }
    let mistakes = reader.finish();
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
}

/// The documented reference: every key with its unit, default, range and reason. Loads as [`Settings::default`].
#[must_use]
pub fn reference() -> &'static str {
    include_str!("../gateway.toml")
}
