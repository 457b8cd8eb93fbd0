//! The report of an earlier run of the same scenario, to divide by.
//!
//! It owns reading it. It refuses a report of another scenario or of another size: their ratio would mean
//! nothing. Used by `scale`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;

/// Figures of an earlier run.
#[derive(Debug)]
pub(super) struct Reference(Value);

impl Reference {
    /// Reads a report that `scale --json FILE` wrote with so many connections.
    ///
    /// # Errors
    /// There is no such file, or it is not that.
    pub(super) fn read(path: &Path, connections: u32) -> Result<Reference, Failure> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(Failure::machine(name.clone()))?;
        Self::parse(&text, connections).map_err(|what| Failure::Asked(format!("{name}: {what}")))
    }

    fn parse(text: &str, connections: u32) -> Result<Reference, String> {
        let report: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if report["scenario"] != "scale" {
            return Err("not a report of `loadtest scale`".into());
        }
        match &report["about"]["connections"] {
            Value::String(other) if *other == connections.to_string() => Ok(Reference(report)),
            other => Err(format!("of {other} connections, not {connections}")),
        }
    }

    /// What it measured under this name in JSON.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        self.0["figures"][name].as_f64()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_same_scenario_of_the_same_size_is_a_reference() {
        let text = r#"{"scenario": "scale", "about": {"connections": "50"}, "figures": {"a_us": 2.5}}"#;
        let reference = Reference::parse(text, 50).unwrap();
        assert_eq!((reference.figure("a_us"), reference.figure("b_us")), (Some(2.5), None));
        assert!(Reference::parse(text, 51).unwrap_err().contains("not 51"));
        assert!(Reference::parse(&text.replace("scale", "hold"), 50).is_err());
        assert!(Reference::parse("{", 50).is_err());
    }
}
