//! Reports of finished runs side by side: a section with one column for each, and what became of the bars.
//!
//! It owns which figures stand in one table: those that a report has, by their names. It refuses to compute
//! and to round away: the files hold what was measured. Called by the command `record`.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::machine::Machine;
use crate::report::{CAUTION, rounded, said};
use crate::results::{put, today};

/// Puts the reports of runs into RESULTS.md, as a section of their own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Name of the section: letters, digits and dashes. A section of that name is replaced.
    #[arg(value_parser = section)]
    name: String,
    /// Its heading.
    #[arg(long)]
    title: String,
    /// Reports (`--json`), a column for each, headed by the name of the file.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    /// Folder of RESULTS.md.
    #[arg(long, default_value = "loadtest")]
    results: PathBuf,
    /// How to get them again.
    #[arg(long)]
    command: Option<String>,
}

/// A name that can stand in a mark.
fn section(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("expected letters, digits and dashes".into());
    }
    Ok(text.to_owned())
}

/// A report as it was read.
struct Column {
    name: String,
    machine: Machine,
    report: Value,
}

/// Writes the section.
///
/// # Errors
/// A report cannot be read or is none, or the file cannot be written.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let columns: Result<Vec<Column>, Failure> = args.reports.iter().map(|path| Column::read(path)).collect();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = page(&mut text, &today(), args, &columns?);
    put(&args.results, &args.name, &text)
}

impl Column {
    fn read(path: &Path) -> Result<Column, Failure> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(Failure::machine(name.clone()))?;
        let report: Value =
            serde_json::from_str(&text).map_err(|error| Failure::Asked(format!("{name}: {error}")))?;
        if !report["figures"].is_object() {
            return Err(Failure::Asked(format!("{name}: not a report of this program")));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Column::of(stem.unwrap_or_else(|| name.clone()), report)
            .map_err(|error| Failure::Asked(format!("{name}: {error}")))
    }

    fn of(name: String, report: Value) -> Result<Column, serde_json::Error> {
        let machine = Machine::deserialize(&report["machine"])?;
        Ok(Column { name, machine, report })
    }

    fn figures(&self) -> impl Iterator<Item = &String> {
        self.report["figures"].as_object().into_iter().flat_map(Map::keys)
    }

    fn figure(&self, name: &str) -> String {
        self.report["figures"][name].as_f64().map_or(String::new(), shown)
    }
}

/// A figure with its thousands apart, for eyes.
fn shown(value: f64) -> String {
    let text = rounded(value);
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, part) = digits.find('.').map_or((digits, ""), |dot| digits.split_at(dot));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + part
}

fn page(out: &mut String, date: &str, args: &Args, columns: &[Column]) -> fmt::Result {
    writeln!(out, "## {}\n", args.title)?;
    let first = columns.first().map_or(&Value::Null, |column| &column.report);
    let scenario = first["scenario"].as_str().unwrap_or_default();
    let again = args.command.as_ref().map_or(String::new(), |command| format!(", by `{command}`"));
    writeln!(out, "Written by a run of `loadtest {scenario}`{again}, {date}.\n")?;
    let machine = columns.first().map_or_else(Machine::default, |column| column.machine.clone());
    for (name, value) in machine.rows() {
        writeln!(out, "* {name}: {value}")?;
    }
    about(out, columns)?;
    bars(out, columns)?;
    writeln!(out, "\n| figure | {} |\n|---|{}", heads(columns), "---:|".repeat(columns.len()))?;
    for name in once(columns.iter().flat_map(Column::figures)) {
        let values: Vec<String> = columns.iter().map(|column| column.figure(name)).collect();
        writeln!(out, "| {} | {} |", name.replace('_', " "), values.join(" | "))?;
    }
    for column in columns {
        for (fault, count) in column.report["errors"].as_object().into_iter().flatten() {
            writeln!(out, "| {}, error: {fault} | {count} |{}", column.name, " |".repeat(columns.len() - 1))?;
        }
    }
    Ok(())
}

fn heads(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<&str>>().join(" | ")
}

/// Each name once, where it comes first.
fn once<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut told: Vec<&String> = Vec::new();
    for name in names {
        if !told.contains(&name) {
            told.push(name);
        }
    }
    told
}

/// What the runs warn of, before any figure that it is about; then what they were.
fn about(out: &mut String, columns: &[Column]) -> fmt::Result {
    for column in columns {
        for caution in said(&column.report, CAUTION) {
            writeln!(out, "* **caution**, {}: {caution}", column.name)?;
        }
    }
    let names =
        columns.iter().flat_map(|column| column.report["about"].as_object().into_iter().flat_map(Map::keys));
    let names = once(names.filter(|name| *name != CAUTION));
    if !names.is_empty() {
        writeln!(out, "\n| run | {} |\n|---|{}", heads(columns), "---|".repeat(columns.len()))?;
    }
    for name in names {
        let values: Vec<String> =
            columns.iter().map(|column| said(&column.report, name).join(", ").replace('|', "\\|")).collect();
        let values = values.join(" | ");
        writeln!(out, "| {} | {values} |", name.replace('_', " "))?;
    }
    Ok(())
}

/// What was demanded of the runs, and whether it held.
fn bars(out: &mut String, columns: &[Column]) -> fmt::Result {
    let mut is_headed = false;
    for column in columns {
        for check in column.report["thresholds"].as_array().into_iter().flatten() {
            if !is_headed {
                writeln!(out, "\n| bar | limit | measured | |\n|---|---:|---:|---|")?;
                is_headed = true;
            }
            let number = |key: &str| check[key].as_f64().map_or("not measured".to_owned(), shown);
            let kept = if check["kept"].as_bool() == Some(true) { "kept" } else { "broken" };
            let name = check["name"].as_str().unwrap_or_default();
            writeln!(
                out,
                "| {}: {name} | {} | {} | {kept} |",
                column.name,
                number("limit"),
                number("value")
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn args() -> Args {
        Args {
            name: "many".into(),
            title: "Very many".into(),
            reports: Vec::new(),
            results: PathBuf::new(),
            command: Some("make many".into()),
        }
    }

    #[test]
    fn reports_stand_side_by_side_with_their_bars_and_their_faults() {
        let floor = json!({"scenario": "scale", "about": {"connections": "7", "hot": "1"}, "figures": {"a_us": 2.5, "b": 1_234_567.0}, "errors": {},
            "thresholds": [], "machine": {"processor": "P", "memory_bytes": 1_073_741_824_u64}});
        let ours = json!({"machine": {}, "about": {"connections": "7", "caution": ["late", "busy"]}, "figures": {"a_us": 3.0, "c": 0.25}, "errors": {"lost": 2},
            "thresholds": [{"name": "max-a", "limit": 2.75, "value": 3.0, "kept": false}]});
        let columns =
            [("floor", floor), ("ours", ours)].map(|(name, report)| Column::of(name.into(), report).unwrap());
        let mut text = String::new();
        page(&mut text, "2000-01-31", &args(), &columns).unwrap();
        for line in [
            "## Very many",
            "Written by a run of `loadtest scale`, by `make many`, 2000-01-31.",
            "* memory: 1.0 GiB",
            "* processor: P",
            "* **caution**, ours: late",
            "* **caution**, ours: busy",
            "| run | floor | ours |",
            "| connections | 7 | 7 |",
            "| hot | 1 |  |",
            "| ours: max-a | 2.75 | 3 | broken |",
            "| figure | floor | ours |",
            "| a us | 2.50 | 3 |",
            "| b | 1,234,567 |  |",
            "| c |  | 0.250 |",
            "| ours, error: lost | 2 | |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.find("caution").unwrap() < text.find("| figure").unwrap(), "warned before the figures");
        assert!(!text.contains("| caution"), "{text}");
    }

    #[test]
    fn a_section_is_named_by_plain_letters() {
        assert_eq!(section("scale-1000000"), Ok("scale-1000000".into()));
        assert!(section("").is_err() && section("a --> b").is_err());
    }
}
