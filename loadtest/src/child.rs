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
            return Err(Failure::Server(format!("{what}: {}: {text}", output.status)));
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
