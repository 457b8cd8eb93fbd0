//! This program, run again as anybody would run it, and the report it gives.
//!
//! It owns that a run that failed, or broke a threshold, gives no figures. It refuses to know the scenarios. Used by the
//! scenarios that are made of others.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::failure::Failure;
use crate::peer;
use crate::report::{CAUTION, said};

/// The report of a run that did well.
#[derive(Debug)]
pub(crate) struct Run {
    what: String,
    report: Value,
}

impl Run {
    /// Runs a scenario; `what` is what a failure calls it.
    ///
    /// # Errors
    /// It cannot be run, or its status is not 0.
    pub(crate) fn of<A: AsRef<OsStr>>(
        what: impl Into<String>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Run, Failure> {
        let what = what.into();
        let output = Command::new(peer::harness()?)
            .args(arguments)
            .args(["--json", "-"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(Failure::machine(format!("a run for {what}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(Failure::Server(format!("{what}: {}: {}", output.status, reason(&text))));
        }
        let report = serde_json::from_str(&text)
            .map_err(|error| Failure::Machine(format!("the report for {what}"), error.into()))?;
        Ok(Run { what, report })
    }

    /// What its report warns of.
    pub(crate) fn cautions(&self) -> Vec<String> {
        said(&self.report, CAUTION).into_iter().map(str::to_owned).collect()
    }

    /// One of its figures, by its name with the unit.
    ///
    /// # Errors
    /// It was not measured.
    pub(crate) fn figure(&self, name: &str) -> Result<f64, Failure> {
        let value = self.report["figures"][name].as_f64();
        value.ok_or_else(|| Failure::Server(format!("{}: no {name} was measured", self.what)))
    }
}

/// What a run that failed says, in one line: what went wrong and which thresholds are broken, where it got so far.
fn reason(text: &str) -> String {
    let Ok(report) = serde_json::from_str::<Value>(text) else {
        return text.split_whitespace().collect::<Vec<&str>>().join(" ");
    };
    let errors = report["errors"].as_object().into_iter().flatten();
    let errors = errors.map(|(fault, count)| format!("{fault}: {count}"));
    let checks = report["thresholds"].as_array().into_iter().flatten();
    let broken = checks.filter(|check| check["kept"].as_bool() == Some(false));
    let broken = broken.filter_map(|check| Some(format!("{} is broken", check["name"].as_str()?)));
    errors.chain(broken).collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_one_line() {
        let report = r#"{"errors": {"message never arrived": 1}, "figures": {"rate_per_s": 1.0},
            "thresholds": [{"name": "max-errors", "kept": false}, {"name": "max-p99-us", "kept": true}]}"#;
        assert_eq!(reason(report), "message never arrived: 1, max-errors is broken");
        assert_eq!(reason("no\n report "), "no report");
    }
}
