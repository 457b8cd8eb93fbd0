//! Plots as SVG text: lines over time, latencies over their percentiles, bars with spreads.
//!
//! It owns sizes, colours and axes. It refuses to know what is plotted, and to fail a run: what cannot be
//! drawn is left out. Used by `html` and `results`.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;

/// Width and height of a plot, pixels.
const SIZE: (u32, u32) = (860, 280);

/// Room for the labels below and beside a plot, pixels.
const LABELS: (u32, u32) = (36, 84);

/// One colour per line, told apart by people who see red and green alike.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 160),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(150, 80, 150),
    RGBColor(190, 145, 0),
    RGBColor(90, 90, 90),
];

/// A named line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// What it shows.
    pub(crate) name: String,
    /// Its points in order of `x`.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Whether `y` grows in steps or in multiples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// In powers of ten, for what spans several of them.
    Log,
}

/// How an axis is labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// A plain number and what it counts.
    Number(&'static str),
    /// Bytes.
    Bytes,
    /// Microseconds, written in the unit that suits.
    Micros,
    /// `-log10(1 - quantile)`, written as percent: every whole step is another nine.
    Nines,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Axis::Number(name) => name,
            Axis::Bytes | Axis::Micros => "",
            Axis::Nines => "percentile",
        }
    }

    fn label(self, value: f64) -> String {
        let (value, unit) = match self {
            Axis::Number(_) => scaled(value, &[(1e6, "M"), (1e3, "k")]),
            // Decimal, as the steps of the axis are.
            Axis::Bytes => scaled(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (0.0, " B")]),
            Axis::Micros => scaled(value, &[(1e6, " s"), (1e3, " ms"), (0.0, " µs")]),
            Axis::Nines => return nines(value),
        };
        let digits = if value == value.trunc() || value.abs() >= 100.0 { 0 } else { 1 };
        format!("{value:.digits$}{unit}")
    }
}

fn scaled(value: f64, steps: &[(f64, &'static str)]) -> (f64, &'static str) {
    let step = steps.iter().find(|(step, _)| value.abs() >= *step);
    step.map_or((value, ""), |&(step, unit)| (value / step.max(1.0), unit))
}

fn nines(value: f64) -> String {
    let digits = (value.round() as usize).saturating_sub(2);
    format!("{:.digits$} %", 100.0 * (1.0 - 10_f64.powf(-value)))
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Lines over a common axis; `None` when there is nothing to show.
pub(crate) fn lines(lines: &[Line], x: Axis, y: Axis, scale: Scale) -> Option<String> {
    let usable = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (scale == Scale::Linear || y > 0.0);
    let shown: Vec<Line> = lines
        .iter()
        .map(|line| Line {
            name: line.name.clone(),
            points: line.points.iter().copied().filter(usable).collect(),
        })
        .filter(|line| line.points.len() > 1)
        .collect();
    let all = || shown.iter().flat_map(|line| &line.points);
    let most = |figure: fn(&(f64, f64)) -> f64| all().map(figure).fold(f64::MIN, f64::max);
    let least = |figure: fn(&(f64, f64)) -> f64| all().map(figure).fold(f64::MAX, f64::min);
    let spans =
        (least(|point| point.0)..most(|point| point.0), least(|point| point.1)..most(|point| point.1));
    if spans.0.is_empty() {
        return None;
    }
    let mut svg = String::new();
    let drawn = match scale {
        Scale::Linear => {
            let y_range: std::ops::Range<f64> = 0.0..(spans.1.end * 1.05).max(1e-9);
            draw_lines(&mut svg, &shown, (x, y), spans.0, y_range)
        }
        Scale::Log => {
            let y_range = (spans.1.start / 1.2..spans.1.end * 1.2).log_scale();
            draw_lines(&mut svg, &shown, (x, y), spans.0, y_range)
        }
    };
    drawn.ok().map(|()| svg)
}

fn draw_lines<'a, Y>(
    svg: &'a mut String,
    lines: &[Line],
    (x_axis, y_axis): (Axis, Axis),
    x: std::ops::Range<f64>,
    y: Y,
) -> Drawn<'a>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(LABELS.0)
        .y_label_area_size(LABELS.1)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(x_axis.name())
        .y_desc(y_axis.name())
        .x_label_formatter(&|value| x_axis.label(*value))
        .y_label_formatter(&|value| y_axis.label(*value))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .draw()?;
    }
    drop(chart);
    root.present()
}

/// A bar with its spread.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// What it is of.
    pub(crate) name: String,
    /// Its length.
    pub(crate) value: f64,
    /// Where its spread begins and ends.
    pub(crate) spread: (f64, f64),
    /// Bars of one group have one colour.
    pub(crate) group: usize,
}

/// Bars lying below each other, and a line at one, which is what they are ratios to; `None` without bars.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> Option<String> {
    if bars.is_empty() {
        return None;
    }
    let mut svg = String::new();
    draw_bars(&mut svg, title, bars).ok()?;
    Some(svg)
}

fn draw_bars<'a>(svg: &'a mut String, title: &str, bars: &[Bar]) -> Drawn<'a> {
    let rows = bars.len() as f64;
    let most = bars.iter().map(|bar| bar.spread.1.max(bar.value)).fold(1.0, f64::max);
    let height = 80 + 26 * u32::try_from(bars.len()).unwrap_or(0);
    let root = SVGBackend::with_string(svg, (SIZE.0, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let x: RangedCoordf64 = (0.0..most * 1.08).into();
    let y: RangedCoordf64 = (rows..0.0).into();
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .caption(title, ("sans-serif", 16))
        .x_label_area_size(24)
        .y_label_area_size(200)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for (row, bar) in bars.iter().enumerate() {
        let middle = row as f64 + 0.5;
        let colour = COLOURS[bar.group % COLOURS.len()];
        let corners = [(0.0, middle - 0.32), (bar.value, middle + 0.32)];
        chart.draw_series([Rectangle::new(corners, colour.mix(0.75).filled())])?;
        let spread = vec![(bar.spread.0, middle), (bar.spread.1, middle)];
        chart.draw_series([PathElement::new(spread, BLACK.stroke_width(2))])?;
        let (_, top) = chart.backend_coord(&(0.0, middle));
        let label = format!("{}  {:.2}", bar.name, bar.value);
        root.draw(&Text::new(label, (14, top - 6), ("sans-serif", 13)))?;
    }
    chart.draw_series([PathElement::new(vec![(1.0, 0.0), (1.0, rows)], BLACK.mix(0.6))])?;
    drop(chart);
    root.present()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_become_one_svg_with_their_names() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 10.0), (1.0, 2_000_000.0)] };
        for scale in [Scale::Linear, Scale::Log] {
            let svg = lines(&[line("first"), line("second")], Axis::Number("s"), Axis::Bytes, scale).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(svg.contains("first") && svg.contains("second") && svg.contains("MB"), "{svg}");
        }
    }

    #[test]
    fn nothing_to_show_is_no_plot() {
        let flat = Line { name: String::new(), points: vec![(1.0, 1.0), (1.0, 2.0)] };
        let zero = Line { name: String::new(), points: vec![(0.0, 0.0), (1.0, 0.0)] };
        assert!(lines(&[], Axis::Bytes, Axis::Bytes, Scale::Linear).is_none());
        assert!(lines(&[flat], Axis::Bytes, Axis::Bytes, Scale::Linear).is_none());
        assert!(lines(std::slice::from_ref(&zero), Axis::Bytes, Axis::Bytes, Scale::Log).is_none());
        assert!(bars("", &[]).is_none());
        assert!(lines(&[zero], Axis::Bytes, Axis::Bytes, Scale::Linear).is_some());
    }

    #[test]
    fn axes_are_labelled_in_units_that_suit() {
        assert_eq!(Axis::Bytes.label(3_500_000.0), "3.5 MB");
        assert_eq!(Axis::Micros.label(120.0), "120 µs");
        assert_eq!(Axis::Micros.label(2_500.0), "2.5 ms");
        assert_eq!(Axis::Number("").label(45_000.0), "45k");
        assert_eq!(Axis::Nines.label(0.0), "0 %");
        assert_eq!(Axis::Nines.label(2.0), "99 %");
        assert_eq!(Axis::Nines.label(3.0), "99.9 %");
    }

    #[test]
    fn a_bar_shows_its_value() {
        let bar = Bar { name: "echo, a".into(), value: 1.25, spread: (1.1, 1.5), group: 0 };
        let svg = bars("server CPU", &[bar]).unwrap();
        assert!(svg.contains("echo, a  1.25") && svg.contains("server CPU"));
    }
}
