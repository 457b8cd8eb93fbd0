//! One scrape of `/metrics`, and questions about it.

use std::fmt;

use super::Http;

/// The exposition of one moment.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Scrapes.
    #[track_caller]
    pub(crate) fn fetch(http: &mut Http) -> Self {
        let answer = http.call("GET", "/metrics");
        assert_eq!(answer.status, 200);
        Self(answer.text())
    }

    /// The exposition.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The value of one series, written as the exposition does: `name` or `name{label="value"}`.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = lines.next().unwrap_or_else(|| panic!("no series {series} in\n{self}"));
        assert!(lines.next().is_none(), "{series} stands there twice");
        value.parse().unwrap()
    }

    /// Opened connections that ended for this reason.
    #[track_caller]
    pub(crate) fn ended(&self, reason: &str) -> f64 {
        self.value(&format!("gateway_connections_ended_total{{reason=\"{reason}\"}}"))
    }

    /// Requests refused for this reason.
    #[track_caller]
    pub(crate) fn refused(&self, reason: &str) -> f64 {
        self.value(&format!("gateway_handshakes_refused_total{{reason=\"{reason}\"}}"))
    }

    /// Connections turned away for this reason.
    #[track_caller]
    pub(crate) fn turned(&self, reason: &str) -> f64 {
        self.value(&format!("gateway_connections_turned_away_total{{reason=\"{reason}\"}}"))
    }

    /// The sum over all series of one name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let lines = self.0.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Whether nothing is held for anything half done.
    pub(crate) fn is_at_rest(&self) -> bool {
        [
            "gateway_handshakes",
            "gateway_connections_paused",
            "gateway_connections_cold",
            "gateway_fanouts_pending",
            "gateway_backlog_bytes",
            "gateway_backlog_entries",
            "gateway_assembly_bytes",
        ]
        .iter()
        .all(|gauge| self.value(gauge) == 0.0)
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is zero is nothing to look at.
        let telling = |line: &&str| {
            line.starts_with("gateway_") && !line.ends_with(" 0") && !line.starts_with("gateway_shard_")
        };
        self.0.lines().filter(telling).try_for_each(|line| writeln!(out, "{line}"))
    }
}
