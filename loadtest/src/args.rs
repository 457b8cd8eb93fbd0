//! Values on the command line that need more than a number.
//!
//! It owns time spans with their units. Used by the arguments of the scenarios.

use std::str::FromStr;
use std::time::Duration;

/// A length of time: `2s`, `500ms`, `1.5m`; a number alone is seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale_s = match unit {
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("unknown unit {unit:?}, expected ms, s, m or h")),
        };
        let number: f64 = number.parse().map_err(|_| "expected a time such as 5s or 500ms".to_owned())?;
        Duration::try_from_secs_f64(number * scale_s).map(Span).map_err(|error| error.to_string())
    }
}

impl Span {
    /// Nanoseconds, as far as they fit.
    pub(crate) fn as_ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        assert_eq!("5".parse(), Ok(Span(Duration::from_secs(5))));
        assert_eq!("0.3s".parse(), Ok(Span(Duration::from_millis(300))));
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("2m".parse(), Ok(Span(Duration::from_secs(120))));
        for wrong in ["", "s", "5 days", "-1s", "NaN"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
