//! The results of a comparison: a section with a table per scenario, and `results.svg`.
//!
//! It owns the words and the plot of it. It refuses words of judgement: figures, where they come from and how to
//! get them again. Called by `compare`.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use crate::compare::{Bar as Promise, Outcome};
use crate::failure::Failure;
use crate::plot::{self, Bar};
use crate::results::{put, today};
use crate::spread::Spread;

/// Writes the section and the plot into `folder`.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(
    folder: &Path,
    command: &str,
    machine: &[(String, String)],
    rounds: u32,
    outcomes: &[Outcome],
) -> Result<(), Failure> {
    let plot = plot::bars("server CPU per unit of work, as a ratio (black: least to most)", &bars(outcomes));
    if let Some(svg) = &plot {
        let path = folder.join("results.svg");
        fs::write(&path, svg).map_err(Failure::machine(format!("writing {}", path.display())))?;
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = page(&mut text, &today(), command, machine, rounds, outcomes);
    put(folder, "compare", &text)
}

fn page(
    out: &mut String,
    date: &str,
    command: &str,
    machine: &[(String, String)],
    rounds: u32,
    outcomes: &[Outcome],
) -> fmt::Result {
    writeln!(out, "## Servers side by side\n")?;
    writeln!(out, "Written by a run, not by hand: `loadtest {command}`, {date}.\n")?;
    for (name, value) in machine {
        writeln!(out, "* {name}: {value}")?;
    }
    writeln!(
        out,
        "\nMedians of {rounds} rounds in which every server runs once, in changing order; in brackets"
    )?;
    writeln!(
        out,
        "the least and the most. Ratios are taken within a round. On loopback the sender also does"
    )?;
    writeln!(out, "the kernel's work of receiving, so server CPU says more than rates do.\n")?;
    writeln!(out, "![server CPU as ratios](results.svg)")?;
    verdicts(out, outcomes)?;
    for outcome in outcomes {
        table(out, outcome)?;
    }
    Ok(())
}

/// What was promised of the first server that is compared, and whether it held in this run.
fn verdicts(out: &mut String, outcomes: &[Outcome]) -> fmt::Result {
    if outcomes.iter().all(|outcome| outcome.bar.is_none()) {
        return Ok(());
    }
    writeln!(out, "\n| bar: server CPU against the first row of each table | at most | median | |")?;
    writeln!(out, "|---|---|---|---|")?;
    for outcome in outcomes {
        let Some(Promise { subject, most }) = &outcome.bar else { continue };
        let (ratio, kept) = match outcome.standing(subject) {
            Some(first) => (spread(&first.cpu_ratio), first.cpu_ratio.median <= *most),
            None => ("not measured".to_owned(), false),
        };
        let kept = if kept { "kept" } else { "broken" };
        writeln!(out, "| {}, {subject} | {most:.2} | {ratio} | {kept} |", outcome.scenario.name())?;
    }
    Ok(())
}

fn table(out: &mut String, outcome: &Outcome) -> fmt::Result {
    let (unit, units) = outcome.scenario.units();
    let base = outcome.standings.first().map_or("", |standing| standing.name.as_str());
    writeln!(out, "\n### {}\n", outcome.scenario.name())?;
    writeln!(
        out,
        "| server | version | CPU per {unit}, µs | ratio to {base} | {units} per second | ratio to {base} | \
         busiest client thread |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for standing in &outcome.standings {
        writeln!(
            out,
            "| {} | {} | {} | {} | {:.0} | {} | {:.0} % |",
            standing.name,
            standing.version,
            spread(&standing.cpu_us),
            spread(&standing.cpu_ratio),
            standing.rate_per_s.median,
            spread(&standing.rate_ratio),
            standing.busiest_client_percent,
        )?;
    }
    writeln!(out)?;
    for note in &outcome.notes {
        writeln!(out, "* **caution**, {note}")?;
    }
    for standing in &outcome.standings {
        for (caution, times) in &standing.cautions {
            writeln!(out, "* **caution**, {} (rounds: {times}): {caution}", standing.name)?;
        }
    }
    Ok(())
}

fn spread(spread: &Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.least, spread.most)
}

fn bars(outcomes: &[Outcome]) -> Vec<Bar> {
    let of = |(group, outcome): (usize, &Outcome)| {
        let bar = |standing: &crate::compare::Standing| Bar {
            name: format!("{}, {}", outcome.scenario.name(), standing.name),
            value: standing.cpu_ratio.median,
            spread: (standing.cpu_ratio.least, standing.cpu_ratio.most),
            group,
        };
        outcome.standings.iter().map(bar).collect::<Vec<Bar>>()
    };
    outcomes.iter().enumerate().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Scenario, Standing};

    fn standing(name: &str, cpu: f64) -> Standing {
        let of = |value: f64| Spread { least: value * 0.9, median: value, most: value * 1.1 };
        Standing {
            name: name.to_owned(),
            version: format!("{name} 1.0"),
            cpu_us: of(cpu),
            rate_per_s: of(1e6 / cpu),
            cpu_ratio: of(cpu / 8.0),
            rate_ratio: of(8.0 / cpu),
            busiest_client_percent: 71.0,
            cautions: Vec::new(),
        }
    }

    #[test]
    fn a_page_names_every_server_its_version_and_its_ratios() {
        let busy = Standing { cautions: vec![("a thread was busy".into(), 3)], ..standing("ours", 10.0) };
        let standings = vec![standing("floor", 8.0), busy];
        let promised = |subject: &str, most| Some(Promise { subject: subject.into(), most });
        let notes = vec!["bun, round 2, left out: it fell".into()];
        let outcome = Outcome { scenario: Scenario::Echo, standings, bar: promised("ours", 1.1), notes };
        // Somebody else was quick, and the one that was promised something did not run.
        let standings = vec![standing("floor", 8.0), standing("bun", 8.0)];
        let bar = promised("ours", 1.3);
        let other = Outcome { scenario: Scenario::Handshake, standings, bar, notes: Vec::new() };
        let mut text = String::new();
        let machine = [("kernel".into(), "6".into())];
        assert!(page(&mut text, "2000-01-31", "compare", &machine, 9, &[outcome, other]).is_ok());
        assert!(
            text.contains("| ours | ours 1.0 | 10.00 (9.00–11.00) | 1.25 (1.12–1.38) | 100000 | 0.80"),
            "{text}"
        );
        assert!(text.contains("`loadtest compare`, 2000-01-31") && text.contains("Medians of 9 rounds"));
        assert!(text.lines().any(|line| line == "* **caution**, bun, round 2, left out: it fell"), "{text}");
        assert!(text.contains("* kernel: 6") && text.contains(" | 71 % |"), "{text}");
        assert!(
            text.lines().any(|line| line == "* **caution**, ours (rounds: 3): a thread was busy"),
            "{text}"
        );
        assert!(text.contains("| echo, ours | 1.10 | 1.25 (1.12–1.38) | broken |"), "{text}");
        assert!(text.contains("| handshake, ours | 1.30 | not measured | broken |"), "{text}");
    }
}
