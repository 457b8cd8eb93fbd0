//! What the examination found, as a table for people and as JSON for programs. Owns both forms and the exit status
//! that follows; refuses to know where a row came from.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;

use super::fleet::Fleet;
use super::machine::Machine;

/// Columns of a reason, at most.
const WIDTH: usize = 88;
/// Where variables belong.
const ENVIRONMENT: &str = "environment";

/// How a row turned out, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Enough.
    Good,
    /// It cannot be read here.
    Unknown,
    /// The connections fit, and suffer at some hour.
    Tight,
    /// The connections do not fit.
    Lacks,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// What it is called where it is set.
    pub(super) subject: &'static str,
    /// What is here.
    pub(super) here: String,
    /// What it takes.
    pub(super) needed: String,
    /// Connections that it leaves room for, where it bounds them at all.
    pub(super) fits: Option<u64>,
    pub(super) verdict: Verdict,
    /// What it is for.
    pub(super) why: &'static str,
    /// Ways to mend it, one of which is enough; none where nothing has to be mended.
    pub(super) fixes: Vec<Fix>,
}

/// One way to mend something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fix {
    /// To be copied as it is.
    pub(super) line: String,
    /// Where it belongs.
    pub(super) place: Cow<'static, str>,
}

impl Fix {
    pub(super) fn new(place: impl Into<Cow<'static, str>>, line: impl Into<String>) -> Self {
        Self { line: line.into(), place: place.into() }
    }

    /// Keys of one section of the configuration, in both of their forms: bare, for a file can hold neither a section nor
    /// a key twice and most have these already; and as variables, which go before any file.
    pub(super) fn keys(section: &str, keys: &[(&str, &dyn Value)]) -> [Self; 2] {
        let file: Vec<String> =
            keys.iter().map(|(key, value)| format!("{key} = {}", value.in_file())).collect();
        let environment: Vec<String> =
            keys.iter().map(|(key, value)| variable(section, key, *value)).collect();
        [
            Self::new(format!("[{section}] of the configuration"), file.join("\n")),
            Self::new(ENVIRONMENT, environment.join("\n")),
        ]
    }

    /// A kernel setting.
    pub(super) fn sysctl(name: &str, value: impl std::fmt::Display) -> Self {
        Self::new("as root", format!("sysctl -w {name}={value}"))
    }
}

/// A value of a key, which is written in quotes in a file and without them in a variable.
pub(super) trait Value: std::fmt::Display {
    fn in_file(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {}
impl Value for u16 {}
impl Value for bool {}
impl Value for &str {
    fn in_file(&self) -> String {
        format!("\"{self}\"")
    }
}

/// One key as a line of the program's environment.
pub(super) fn variable(section: &str, key: &str, value: &dyn Value) -> String {
    let section = section.replace('.', "__").to_uppercase();
    format!("GATEWAY__{section}__{}={value}", key.to_uppercase())
}

impl Row {
    /// A row whose reading is missing.
    pub(super) fn unknown(subject: &'static str, why: &'static str) -> Self {
        let here = "cannot be read".to_owned();
        Self {
            subject,
            here,
            needed: "–".to_owned(),
            fits: None,
            verdict: Verdict::Unknown,
            why,
            fixes: Vec::new(),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Whether everybody who was asked for fits here.
    pub(super) good: bool,
    /// Connections of this node that the rows are about.
    pub(super) connections: u64,
    /// Connections that fit, as it is configured now; nobody knows where the rows that bound it are unknown.
    pub(super) fits: Option<u64>,
    /// The row that bounds them.
    pub(super) bounded_by: Option<&'static str>,
    pub(super) rows: Vec<Row>,
    /// The answer to `--plan`.
    pub(super) plan: Option<Fleet>,
    pub(super) machine: Machine,
}

impl Report {
    pub(super) fn new(machine: Machine, connections: u64, rows: Vec<Row>, plan: Option<Fleet>) -> Self {
        debug_assert!(
            rows.iter().all(|row| row.fixes.is_empty() == (row.verdict < Verdict::Tight)),
            "a shortfall has a way out, and nothing else has"
        );
        let bound = rows.iter().filter_map(|row| Some((row.fits?, row.subject))).min();
        Self {
            good: rows.iter().all(|row| row.verdict != Verdict::Lacks),
            connections,
            fits: bound.map(|(fits, _)| fits),
            bounded_by: bound.map(|(_, subject)| subject),
            rows,
            plan,
            machine,
        }
    }

    /// Whether everybody fits.
    pub(crate) fn is_good(&self) -> bool {
        self.good
    }

    /// For programs: one object.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).map_or_else(|error| error.to_string(), |json| json + "\n")
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let machine = &self.machine;
        let memory = machine.memory().map_or_else(|| "memory unknown".to_owned(), size);
        let kernel = machine.kernel.as_deref().unwrap_or("unknown");
        let cores = machine.cores;
        let _ = writeln!(
            out,
            "{} connections on this machine: Linux {kernel}, {cores} core{}, {memory}.\n\
             The limits are those of whoever calls; a service has those of its unit.\n",
            grouped(self.connections),
            plural(u64::from(cores)),
        );
        let heads = ["", "", "here", "needed"].map(str::to_owned);
        let lines: Vec<[String; 4]> = std::iter::once(heads).chain(self.rows.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let [heads, lines @ ..] = lines.as_slice() else { return out };
        write_line(&mut out, heads, widths);
        for (row, line) in self.rows.iter().zip(lines) {
            write_line(&mut out, line, widths);
            write_remedy(&mut out, row, widths[0] + 2);
        }
        if let (Some(fits), Some(by)) = (self.fits, self.bounded_by) {
            let _ =
                writeln!(out, "\n{} connections fit as it is configured; the bound is {by}.", grouped(fits));
        }
        if let Some(plan) = &self.plan {
            out.push('\n');
            plan.write(&mut out);
        }
        let lacking = self.rows.iter().filter(|row| row.verdict == Verdict::Lacks).count() as u64;
        if lacking > 0 {
            let _ = writeln!(
                out,
                "\n{lacking} shortfall{}; `sysctl -w` lasts until the next boot, a file in \
                                   /etc/sysctl.d longer.",
                plural(lacking)
            );
        }
        out
    }
}

fn cells(row: &Row) -> [String; 4] {
    let verdict = match row.verdict {
        Verdict::Good => "good",
        Verdict::Unknown => "?",
        Verdict::Tight => "tight",
        Verdict::Lacks => "LACKS",
    };
    [verdict.to_owned(), row.subject.to_owned(), row.here.clone(), row.needed.clone()]
}

fn write_line(out: &mut String, cells: &[String; 4], widths: [usize; 3]) {
    let [verdict, subject, here, needed] = cells;
    let [first, second, third] = widths;
    let line = format!("{verdict:first$}  {subject:second$}  {here:third$}  {needed}");
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Under a row that has something to mend: why, and how.
fn write_remedy(out: &mut String, row: &Row, indent: usize) {
    if row.fixes.is_empty() {
        return;
    }
    for (number, line) in wrapped(row.why).iter().enumerate() {
        let lead = if number == 0 { "why" } else { "" };
        let _ = writeln!(out, "{:indent$}{lead:3}  {line}", "");
    }
    let width = row.fixes.iter().map(|fix| fix.place.len()).max().unwrap_or(0) + 1;
    for (number, fix) in row.fixes.iter().enumerate() {
        let (mut lead, mut place) = (if number == 0 { "fix" } else { "or" }, format!("{}:", fix.place));
        for line in fix.line.lines() {
            let _ = writeln!(out, "{:indent$}{lead:3}  {place:width$}  {line}", "");
            (lead, place) = ("", String::new());
        }
    }
}

/// The words in lines that a narrow terminal holds.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Thousandths of a core as cores: `1.20`.
pub(super) fn of_cores(milli: u64) -> String {
    format!("{}.{:02}", milli / 1_000, milli % 1_000 / 10)
}

/// `1,048,576`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `23.5 GiB`, for reading only.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// The ending of a noun after this number.
pub(super) fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}
