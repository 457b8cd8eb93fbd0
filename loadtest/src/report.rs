//! What a run has to say: figures with units, faults by kind, thresholds kept or not; as a table and as JSON.
//!
//! It owns the rule that a broken threshold is exit status 1. It refuses to compute: scenarios hand in
//! finished figures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::fault::Faults;
use crate::machine::Machine;
use crate::timeline::Timeline;

/// What warnings are called among what is noted of a run.
pub(crate) const CAUTION: &str = "caution";

/// What a figure counts; part of its name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A number of things.
    Count,
    /// Things per second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Micros,
    /// Seconds.
    Seconds,
    /// Percent of one processor, or of a whole.
    Percent,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::PerSecond => "_per_s",
            Unit::Bytes => "_bytes",
            Unit::Micros => "_us",
            Unit::Seconds => "_s",
            Unit::Percent => "_percent",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::PerSecond => "/s",
            Unit::Bytes => "B",
            Unit::Micros => "us",
            Unit::Seconds => "s",
            Unit::Percent => "%",
        }
    }
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: Unit,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    limit: f64,
    /// `None`: the figure was not measured, which breaks the threshold.
    value: Option<f64>,
    /// Whether the limit is the least that will do, not the most.
    least: bool,
}

impl Check {
    fn holds(&self) -> bool {
        self.value.is_some_and(|value| if self.least { value >= self.limit } else { value <= self.limit })
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.map_or("not measured".to_owned(), rounded);
        let bound = if self.least { "at least" } else { "at most" };
        write!(f, "{value}, {bound} {}", rounded(self.limit))
    }
}

/// The report of one run.
#[derive(Debug)]
pub(crate) struct Report {
    scenario: &'static str,
    about: Vec<(&'static str, String)>,
    figures: Vec<Figure>,
    checks: Vec<Check>,
    faults: Faults,
    machine: Machine,
    curves: Vec<Curve>,
    timeline: Option<Timeline>,
}

/// A name, and latencies in microseconds over their quantiles.
pub(crate) type Curve = (String, Vec<(f64, f64)>);

impl Report {
    /// An empty report.
    pub(crate) fn new(scenario: &'static str) -> Report {
        Report {
            scenario,
            about: Vec::new(),
            figures: Vec::new(),
            checks: Vec::new(),
            faults: Faults::default(),
            machine: Machine::here(),
            curves: Vec::new(),
            timeline: None,
        }
    }

    /// Warns of what bounds the meaning of the figures; once, however often it is said.
    pub(crate) fn caution(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.about.iter().any(|(name, said)| *name == CAUTION && *said == what) {
            self.about(CAUTION, what);
        }
    }

    /// Notes what was run, so that a figure can be repeated.
    pub(crate) fn about(&mut self, name: &'static str, value: impl Into<String>) {
        self.about.push((name, value.into()));
    }

    /// Adds a figure. The name says what it is; the unit is added.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Adds a figure that may not have been measured.
    pub(crate) fn maybe(&mut self, name: impl Into<String>, value: Option<f64>, unit: Unit) {
        if let Some(value) = value {
            self.figure(name, value, unit);
        }
    }

    /// Adds the usual percentiles of a histogram in nanoseconds, as microseconds, and says when it could not hold all.
    pub(crate) fn percentiles(&mut self, name: &str, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            self.figure(
                format!("{name}_{label}"),
                histogram.value_at_quantile(quantile) as f64 / 1e3,
                Unit::Micros,
            );
        }
        self.figure(format!("{name}_max"), histogram.max() as f64 / 1e3, Unit::Micros);
        if histogram.max() >= histogram.high() {
            let longest_s = histogram.high() as f64 / 1e9;
            let what = name.replace('_', " ");
            self.caution(format!("{what}: what took longer than {longest_s} s is told as that"));
        }
        self.curves.push((name.to_owned(), curve(histogram)));
    }

    /// Keeps how the run went over time.
    pub(crate) fn timeline(&mut self, timeline: &Timeline) {
        self.timeline = Some(timeline.clone());
    }

    /// Demands that `value` is `limit` at most, when a limit was given.
    pub(crate) fn check(&mut self, name: &'static str, limit: Option<f64>, value: Option<f64>) {
        if let Some(limit) = limit {
            self.checks.push(Check { name, limit, value, least: false });
        }
    }

    /// Demands that `value` is `limit` at least, when a limit was given.
    pub(crate) fn check_least(&mut self, name: &'static str, limit: Option<f64>, value: Option<f64>) {
        if let Some(limit) = limit {
            self.checks.push(Check { name, limit, value, least: true });
        }
    }

    /// Adds what went wrong, and demands that it is not more than `limit`.
    pub(crate) fn faults(&mut self, faults: &Faults, limit: Option<u64>) {
        self.faults.merge(faults);
        let total = self.faults.total() as f64;
        self.figure("errors", total, Unit::Count);
        self.check("max-errors", limit.map(|limit| limit as f64), Some(total));
    }

    /// Whether every threshold was kept.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }

    /// Prints the table and writes JSON where asked; `-` prints the JSON instead of the table.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn publish(&self, json: Option<&Path>) -> Result<(), Failure> {
        match json {
            Some(path) if path.as_os_str() == "-" => println!("{}", self.to_json()),
            Some(path) => {
                print!("{}", self.to_table());
                let doing = format!("writing {}", path.display());
                fs::write(path, format!("{:#}\n", self.to_json())).map_err(Failure::machine(doing))?;
            }
            None => print!("{}", self.to_table()),
        }
        Ok(())
    }

    // What the page shows.

    /// What was measured.
    pub(crate) fn scenario(&self) -> &str {
        self.scenario
    }

    /// Latencies over their percentiles.
    pub(crate) fn curves(&self) -> &[Curve] {
        &self.curves
    }

    /// The run over time, if it was watched.
    pub(crate) fn timeline_seen(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// What was run.
    pub(crate) fn about_rows(&self) -> &[(&'static str, String)] {
        &self.about
    }

    /// Every figure: name, value and unit.
    pub(crate) fn figure_rows(&self) -> Vec<(String, String, &'static str)> {
        let row =
            |figure: &Figure| (figure.name.replace('_', " "), rounded(figure.value), figure.unit.label());
        self.figures.iter().map(row).collect()
    }

    /// What went wrong, and how often.
    pub(crate) fn fault_rows(&self) -> Vec<(String, String)> {
        self.faults.iter().map(|(fault, count)| (fault.to_string(), count.to_string())).collect()
    }

    /// Every threshold: name, what was measured against what, and whether it was kept.
    pub(crate) fn check_rows(&self) -> Vec<(&'static str, String, bool)> {
        self.checks.iter().map(|check| (check.name, check.to_string(), check.holds())).collect()
    }

    /// Where it was measured.
    pub(crate) fn machine_rows(&self) -> Vec<(String, String)> {
        self.machine.rows()
    }

    fn to_table(&self) -> String {
        let mut text = format!("{}\n", self.scenario);
        let mut line = |name: &str, value: &str, unit: &str| {
            let _ = writeln!(text, "  {:<44} {value:>14} {unit}", name.replace('_', " "));
        };
        for (name, value) in &self.about {
            line(name, value, "");
        }
        for figure in &self.figures {
            line(&figure.name, &rounded(figure.value), figure.unit.label());
        }
        for (fault, count) in self.faults.iter() {
            line(&format!("error: {fault}"), &count.to_string(), "");
        }
        for check in &self.checks {
            let verdict = if check.holds() { "kept" } else { "BROKEN" };
            let value = check.value.map_or("not measured".to_owned(), rounded);
            line(&format!("threshold {} {}", check.name, rounded(check.limit)), &value, verdict);
        }
        text
    }

    /// What was noted by name; all of it, as a list, where something was noted more than once.
    fn about_json(&self) -> Map<String, Value> {
        let mut all = Map::new();
        for (name, value) in &self.about {
            match all.get_mut(*name) {
                None => {
                    all.insert((*name).to_owned(), json!(value));
                }
                Some(Value::Array(values)) => values.push(json!(value)),
                Some(first) => *first = json!([first.take(), value]),
            }
        }
        all
    }

    fn to_json(&self) -> Value {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|figure| (format!("{}{}", figure.name, figure.unit.suffix()), json!(figure.value)))
            .collect();
        let percentiles: Map<String, Value> =
            self.curves.iter().map(|(name, points)| (format!("{name}_us"), json!(points))).collect();
        let faults: Map<String, Value> =
            self.faults.iter().map(|(fault, count)| (fault.to_string(), json!(count))).collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                json!({"name": check.name, "limit": check.limit, "value": check.value, "kept": check.holds()})
            })
            .collect();
        json!({
            "scenario": self.scenario,
            "about": self.about_json(),
            "figures": figures,
            "percentiles": percentiles,
            "errors": faults,
            "thresholds": checks,
            "machine": self.machine,
            "timeline": self.timeline,
        })
    }
}

/// What a report in JSON has noted under this name: once, several times, or not at all.
pub(crate) fn said<'a>(report: &'a Value, name: &str) -> Vec<&'a str> {
    match &report["about"][name] {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

/// A histogram in nanoseconds as points in microseconds, closer together the higher the quantile, up to the
/// last one that a single value stands for.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    for step in 0_u32..=60 {
        let quantile = 1.0 - 10_f64.powf(-f64::from(step) / 10.0);
        points.push((quantile, histogram.value_at_quantile(quantile) as f64 / 1e3));
        if (1.0 - quantile) * (histogram.len() as f64) < 1.0 {
            break;
        }
    }
    points
}

/// As many digits as say something.
pub(crate) fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude >= 1000.0 || value == value.trunc() => 0,
        magnitude if magnitude >= 10.0 => 1,
        magnitude if magnitude >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn a_broken_threshold_is_not_kept_and_an_unmeasured_one_neither() {
        let mut report = Report::new("hold");
        report.check("max-a", None, None);
        assert!(report.holds());
        report.check("max-a", Some(128.0), Some(128.0));
        assert!(report.holds());
        report.check("max-b", Some(128.0), None);
        assert!(!report.holds());
        let mut report = Report::new("hold");
        report.check("max-a", Some(128.0), Some(128.5));
        assert!(!report.holds());
        let mut report = Report::new("compare");
        report.check_least("min-a", Some(2.0), Some(2.0));
        assert!(report.holds());
        report.check_least("min-a", Some(2.0), Some(1.9));
        assert!(!report.holds());
    }

    #[test]
    fn faults_are_an_error_only_past_their_limit() {
        let mut faults = Faults::default();
        faults.note_many(Fault::Refused(503), 2);
        let mut report = Report::new("hold");
        report.faults(&faults, Some(2));
        assert!(report.holds());
        let mut report = Report::new("hold");
        report.faults(&faults, Some(1));
        assert!(!report.holds());
        assert_eq!(report.to_json()["errors"]["refused with status 503"], 2);
    }

    #[test]
    fn what_is_noted_several_times_is_all_in_json_and_a_caution_once() {
        let mut report = Report::new("compare");
        report.about("rounds", "9");
        for subject in ["ours", "bun", "nchan"] {
            report.about("subject", subject);
        }
        for caution in ["late", "busy", "late"] {
            report.caution(caution);
        }
        let about = &report.to_json()["about"];
        assert_eq!(about["rounds"], "9");
        assert_eq!(about["subject"], json!(["ours", "bun", "nchan"]));
        assert_eq!(about["caution"], json!(["late", "busy"]));
    }

    #[test]
    fn latencies_are_told_by_their_percentiles_and_as_a_curve_and_with_what_could_not_be_told() {
        let mut latencies = crate::scenarios::latencies();
        for step_ns in 1..=100 {
            latencies.saturating_record(step_ns * 1_000_000);
        }
        let mut report = Report::new("echo");
        report.percentiles("latency", &latencies);
        let json = report.to_json();
        let p90_us = json["figures"]["latency_p90_us"].as_f64().unwrap_or_default();
        assert!((90_000.0..90_100.0).contains(&p90_us), "{p90_us}");
        let curve = json["percentiles"]["latency_us"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(curve.len() > 10 && curve[0][0] == 0.0 && curve[10][0] == 0.9, "{curve:?}");
        assert_eq!(curve[10][1], json["figures"]["latency_p90_us"]);
        assert!(report.about_rows().is_empty());
        latencies.saturating_record(61_000_000_000);
        report.percentiles("latency", &latencies);
        let said: Vec<_> = report.about_rows().iter().map(|(_, said)| said.as_str()).collect();
        assert_eq!(said, ["latency: what took longer than 60 s is told as that"]);
    }

    #[test]
    fn names_carry_their_units_in_json() {
        let mut report = Report::new("echo");
        report.figure("server_cpu_per_message", 8.5, Unit::Micros);
        report.figure("rate", 1000.0, Unit::PerSecond);
        let json = report.to_json();
        assert_eq!(json["figures"]["server_cpu_per_message_us"], 8.5);
        assert_eq!(json["figures"]["rate_per_s"], 1000.0);
        assert!(report.to_table().contains("server cpu per message"));
    }
}
