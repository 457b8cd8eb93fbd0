//! Promise: `/metrics` is what Prometheus wants it to be, every figure is explained in the README and no other is, and
//! the alerts that are shipped are good rules.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::Gateway;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Prometheus's own checker, with this on its standard input.
fn promtool(arguments: &[&str], input: &str) -> Output {
    let own = root().join(".tools/promtool");
    let program = if own.exists() { own } else { PathBuf::from("promtool") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is needed: `make tools` installs what tests need");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Nothing at all to complain about.
#[track_caller]
fn is_silent(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// A node where something of every kind has happened.
fn lived() -> Gateway {
    // A backend that is away, so that its figures are there.
    let gateway = Gateway::start("[[backend]]\nname = 'chat'\nendpoints = ['http://127.0.0.1:9']");
    let (mut near, mut far) = gateway.clients_on_two_shards("/rooms/lobby");
    near.say("hello");
    near.hears("hello");
    far.hears("hello");
    far.leave();
    gateway.http().call("GET", "/v1/nothing").problem(404, "not_found");
    gateway.until("an ending is counted", |metrics| metrics.ended("client_close") >= 1.0);
    near.leave();
    gateway
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let gateway = lived();
    let exposition = gateway.metrics();
    is_silent(&promtool(&["check", "metrics"], exposition.text()));
    gateway.stop();
}

#[test]
fn promtool_would_complain() {
    assert!(!promtool(&["check", "metrics"], "# TYPE a_total gauge\na_total 1\n").status.success());
}

#[test]
fn the_alerts_are_good_rules() {
    let alerts = root().join("deploy/prometheus/alerts.yml");
    let output = promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A metric and the names of its labels, the bounds of buckets left out.
fn named(series: &str) -> (String, BTreeSet<String>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let labels =
        labels.map(|label| label.split('=').next().unwrap().to_owned()).filter(|label| label != "le");
    (name.to_owned(), labels.collect())
}

/// What the exposition has: families with their labels.
fn shown(exposition: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let histograms: BTreeSet<&str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"))
        .collect();
    let series = exposition.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    series
        .map(|line| {
            let (name, labels) = named(line.rsplit_once(' ').unwrap().0);
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let family = of_histogram.filter(|family| histograms.contains(family));
            (family.map_or(name.clone(), str::to_owned), labels)
        })
        .collect()
}

/// What the table of the README explains: the first cells of its rows, each with names in backticks.
fn explained(readme: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let section = readme.split("\n### Metrics\n").nth(1).expect("the README has a section on metrics");
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| {
        let mut cells = row.split(" | ");
        let (names, meaning) = (cells.next().unwrap(), cells.next().unwrap_or_default());
        assert!(meaning.len() > 5, "says nothing: {row}");
        names
    });
    cells.flat_map(|names| names.split('`').skip(1).step_by(2)).map(named).collect()
}

#[test]
fn the_readme_explains_exactly_what_is_shown() {
    let gateway = lived();
    let shown = shown(gateway.metrics().text());
    let explained = explained(&std::fs::read_to_string(root().join("README.md")).unwrap());
    let unexplained: Vec<_> = shown.difference(&explained).collect();
    let invented: Vec<_> = explained.difference(&shown).collect();
    assert!(
        unexplained.is_empty() && invented.is_empty(),
        "not in README.md: {unexplained:?}\nonly there: {invented:?}"
    );
    gateway.stop();
}

/// Values of the labels whose values are a closed set that whoever reads a figure has to know: metric and value. Those of
/// `dry_run` are named by what they mean.
fn values(exposition: &str) -> BTreeSet<(String, String)> {
    const CLOSED: [&str; 7] = ["reason", "action", "limit", "by", "outcome", "policy", "step"];
    let series = exposition.lines().filter(|line| !line.starts_with('#'));
    let labelled = series.filter_map(|line| line.split_once('{'));
    labelled
        .flat_map(|(name, rest)| {
            let labels = rest.split('}').next().unwrap().split(',').filter_map(|label| label.split_once('='));
            let closed = labels.filter(|(label, _)| CLOSED.contains(label));
            closed.map(|(_, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_readme_names_each_reason_that_is_counted() {
    let gateway = lived();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let row =
        |name: &str| readme.lines().find(|row| row.starts_with("| `") && row.contains(&format!("`{name}{{")));
    let exposition = gateway.metrics();
    let values = values(exposition.text());
    assert!(
        values.contains(&("gateway_connections_ended_total".to_owned(), "idle".to_owned())),
        "{values:?}"
    );
    let unnamed = values.iter().filter(|(name, value)| {
        let row = row(name).unwrap_or_default();
        // A row that ends in "…" says that it names the more usual ones.
        !row.contains('…') && !row.contains(&format!("`{value}`"))
    });
    let unnamed: Vec<_> = unnamed.collect();
    assert!(unnamed.is_empty(), "their rows in README.md do not name {unnamed:?}");
    gateway.stop();
}

#[test]
fn requests_are_counted_by_role_and_status_and_a_shard_by_its_age() {
    let gateway = Gateway::start("");
    let mut http = gateway.http();
    http.call("GET", "/v1/connections").good(200);
    http.call("GET", "/v1/connections?page_size=0").problem(400, "bad_request");
    http.call("GET", "/v1/nothing").problem(404, "not_found");
    let metrics = gateway.metrics();
    let requests = |role: &str, code: u16| {
        metrics.value(&format!("gateway_http_requests_total{{role=\"{role}\",code=\"{code}\"}}"))
    };
    assert_eq!((requests("api", 200), requests("api", 400), requests("none", 404)), (1.0, 1.0, 1.0));
    assert_eq!(metrics.value("gateway_http_connections"), 2.0, "the caller's and the scraper's");
    let _client = gateway.client("/echo");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("gateway_handshake_duration_seconds_count"), 1.0);
    for shard in 0..2 {
        let age = metrics.value(&format!("gateway_shard_last_turn_age_seconds{{shard=\"{shard}\"}}"));
        assert!((0.0..5.0).contains(&age), "{age}");
    }
    gateway.stop();
}
