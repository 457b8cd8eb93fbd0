//! Bars on latencies: the same options for every scenario whose main latency is one.
//!
//! It owns their names. It refuses to choose the latencies: a scenario hands in those that its report calls the main ones.

use hdrhistogram::Histogram;

use crate::report::Report;

/// What latencies may be.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Bars {
    /// Fail (status 1) when the median latency is above this, in microseconds. In an open loop it counts from the moment
    /// that was meant, in `fanout` until the last subscriber has the message.
    #[arg(long)]
    max_p50_us: Option<f64>,
    /// The same for the 99th percentile.
    #[arg(long)]
    max_p99_us: Option<f64>,
    /// The same for the 99.9th percentile.
    #[arg(long)]
    max_p999_us: Option<f64>,
}

impl Bars {
    /// Holds latencies in ns to them; where there are none they were not measured, which breaks a bar.
    pub(crate) fn check(self, report: &mut Report, latencies: &Histogram<u64>) {
        let bars = [
            ("max-p50-us", self.max_p50_us, 0.5),
            ("max-p99-us", self.max_p99_us, 0.99),
            ("max-p999-us", self.max_p999_us, 0.999),
        ];
        for (name, limit, quantile) in bars {
            let seen = (!latencies.is_empty()).then(|| latencies.value_at_quantile(quantile) as f64 / 1e3);
            report.check(name, limit, seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::latencies;

    #[test]
    fn each_percentile_is_held_to_its_own_bar_and_none_is_kept_by_nothing() {
        let mut seen = latencies();
        for step_ns in 1..=1_000 {
            seen.saturating_record(step_ns * 1_000_000);
        }
        let bars = Bars { max_p50_us: Some(5e5), max_p99_us: Some(5e5), max_p999_us: Some(2e6) };
        let kept = |latencies| {
            let mut report = Report::new("echo");
            bars.check(&mut report, latencies);
            report.check_rows().into_iter().map(|(name, _, kept)| (name, kept)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&seen), [("max-p50-us", false), ("max-p99-us", false), ("max-p999-us", true)]);
        assert!(kept(&latencies()).iter().all(|(_, kept)| !kept));
    }
}
