//! Reports as one HTML file: tables, thresholds and plots, no script, nothing from the network.
//!
//! It owns the page. It refuses figures of its own: everything shown is in the reports. Called by `main` when
//! `--html` is given.

use std::fmt::{self, Write as _};

use crate::plot::{self, Axis, Line, Scale};
use crate::report::Report;
use crate::timeline::{Sample, Timeline};

/// The look of the page; colours follow the reader's system, plots stay on white.
const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --good: #0a7d3c; --bad: #c62828; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .6rem; text-align: left; }
tr { border-bottom: 1px solid var(--line); }
td.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { background: #fff; width: 100%; height: auto; border-radius: 4px; }
.kept { color: var(--good); } .broken { color: var(--bad); font-weight: 600; }
";

/// The page of these reports, in order.
pub(crate) fn page(reports: &[Report]) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, reports);
    page
}

fn write_page(out: &mut String, reports: &[Report]) -> fmt::Result {
    let names: Vec<&str> = reports.iter().map(|report| report.scenario()).collect();
    let title = Escaped(&names.join(", ")).to_string();
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(out, "<title>loadtest: {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>")?;
    writeln!(out, "<h1>loadtest: {title}</h1>")?;
    if let Some(report) = reports.first() {
        table(out, "machine", report.machine_rows().into_iter().map(|(name, value)| [name, value]))?;
    }
    for report in reports {
        write_report(out, report)?;
    }
    writeln!(out, "</body>\n</html>")
}

fn write_report(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "<h2>{}</h2>", Escaped(report.scenario()))?;
    let checks = report.check_rows();
    if !checks.is_empty() {
        writeln!(out, "<h3>thresholds</h3>\n<table>")?;
        for (name, text, kept) in checks {
            let class = if kept { "kept" } else { "broken" };
            let (name, text) = (Escaped(name), Escaped(&text));
            writeln!(out, "<tr><td>{name}</td><td>{text}</td><td class=\"{class}\">{class}</td></tr>")?;
        }
        writeln!(out, "</table>")?;
    }
    for (title, svg) in plots(report) {
        writeln!(out, "<h3>{}</h3>\n{svg}", Escaped(title))?;
    }
    writeln!(out, "<h3>figures</h3>\n<table>")?;
    for (name, value, unit) in report.figure_rows() {
        let (name, unit) = (Escaped(&name), Escaped(unit));
        writeln!(out, "<tr><td>{name}</td><td class=\"figure\">{value} {unit}</td></tr>")?;
    }
    writeln!(out, "</table>")?;
    table(out, "errors by kind", report.fault_rows().into_iter().map(|(name, count)| [name, count]))?;
    let about = report.about_rows().iter().map(|(name, value)| [name.replace('_', " "), value.clone()]);
    table(out, "what was run", about)?;
    let steps = report.timeline_seen().map(|timeline| timeline.steps.as_slice()).unwrap_or_default();
    table(out, "steps", steps.iter().map(|(at_s, name)| [format!("{at_s:.1} s"), name.clone()]))
}

fn table(out: &mut String, title: &str, rows: impl Iterator<Item = [String; 2]>) -> fmt::Result {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "<h3>{title}</h3>\n<table>")?;
    for [name, value] in rows {
        writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", Escaped(&name), Escaped(&value))?;
    }
    writeln!(out, "</table>")
}

/// Every plot for which there is something to show, with its title.
fn plots(report: &Report) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    let mut add = |title, svg: Option<String>| plots.extend(svg.map(|svg| (title, svg)));
    let curves: Vec<Line> = report
        .curves()
        .iter()
        .map(|(name, points)| Line {
            name: name.replace('_', " "),
            points: points.iter().map(|&(quantile, us)| (-(1.0 - quantile).log10(), us)).collect(),
        })
        .collect();
    add("latency by percentile", plot::lines(&curves, Axis::Nines, Axis::Micros, Scale::Log));
    if let Some(timeline) = report.timeline_seen() {
        over_time(timeline, add);
    }
    plots
}

fn over_time(timeline: &Timeline, mut add: impl FnMut(&'static str, Option<String>)) {
    let line = |name: &str, figure: &dyn Fn(&Sample) -> Option<f64>| Line {
        name: name.to_owned(),
        points: timeline.samples.iter().filter_map(|sample| Some((sample.at_s, figure(sample)?))).collect(),
    };
    let time = Axis::Number("seconds");
    let busy = |line: &Line| line.points.iter().any(|point| point.1 > 0.0);
    let rates = [
        line("messages received per second", &|sample| Some(sample.received_per_s)),
        line("handshakes per second", &|sample| Some(sample.opens_per_s)),
    ];
    let rates: Vec<Line> = rates.into_iter().filter(busy).collect();
    add("throughput", plot::lines(&rates, time, Axis::Number("per second"), Scale::Linear));
    let latencies = [line("p50", &|sample| sample.p50_us), line("p99", &|sample| sample.p99_us)];
    add("latency over time", plot::lines(&latencies, time, Axis::Micros, Scale::Log));
    let open = [line("open connections", &|sample| Some(f64::from(sample.open)))];
    add("open connections", plot::lines(&open, time, Axis::Number(""), Scale::Linear));
    let memory = [line("resident", &|sample| sample.resident_bytes.map(|bytes| bytes as f64))];
    add("memory of the server", plot::lines(&memory, time, Axis::Bytes, Scale::Linear));
    let cpu = [line("CPU", &|sample| sample.server_cpu_percent)];
    add("CPU of the server", plot::lines(&cpu, time, Axis::Number("% of one"), Scale::Linear));
    let slab = [line("slab", &|sample| sample.slab_per_socket_bytes)];
    add("kernel slab for each socket", plot::lines(&slab, time, Axis::Bytes, Scale::Linear));
}

/// Text that cannot become markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Unit;

    #[test]
    fn a_page_shows_figures_thresholds_and_plots_and_asks_nothing_of_the_network() {
        let mut report = Report::new("echo");
        report.about("server", "<script>alert(1)</script>");
        report.figure("server_cpu_per_message", 8.5, Unit::Micros);
        report.check("max-server-cpu-us", Some(8.0), Some(8.5));
        let sample = |at_s| Sample { at_s, received_per_s: 100.0, ..Sample::default() };
        let samples = (0..9).map(|number| sample(f64::from(number))).collect();
        report.timeline(&Timeline { steps: vec![(0.0, "measuring".into())], samples });
        let page = page(&[report]);
        assert!(page.contains("8.50 us") && page.contains("class=\"broken\"") && page.contains("measuring"));
        assert!(page.contains("<h3>throughput</h3>\n<svg"), "{page}");
        assert!(!page.contains("<script"));
        let links = page.matches("http").count() - page.matches("xmlns=\"http").count();
        assert_eq!(links, 0, "nothing is fetched");
    }
}
