//! Values on the command line that need more than a number.
//!
//! It owns how lengths of time and sizes are given, whose units are those of the configuration, and refuses values with
//! which nothing can be run: here, and not where they are used, so that a file of scenarios is known to be right before
//! any of it is run. Used by the arguments of the scenarios.

use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use config::units::{UnitError, parse_bytes, parse_duration};

use crate::frames::LONGEST_PAYLOAD;

/// A length of time; a bare number is seconds, which suits an option of that name.
///
/// # Errors
/// The text is no duration.
pub(crate) fn seconds(text: &str) -> Result<Duration, UnitError> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text),
    }
}

/// Bytes, such as `128` or `4KiB`.
///
/// # Errors
/// The text is no size.
pub(crate) fn bytes(text: &str) -> Result<usize, UnitError> {
    parse_bytes(text).map(config::units::Bytes::as_usize)
}

/// Bytes of a message.
///
/// # Errors
/// The text is no size, or one that no message here may have.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let size = bytes(text).map_err(|error| error.to_string())?;
    if size <= LONGEST_PAYLOAD { Ok(size) } else { Err(format!("at most {LONGEST_PAYLOAD} bytes")) }
}

/// How often something is done, per second: more than never.
///
/// # Errors
/// The text is no such number.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above zero".to_owned())
}

/// How many of something without which there is nothing to do.
pub(crate) fn above_zero() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// Nanoseconds, as far as they fit.
pub(crate) fn ns(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_seconds_and_units_are_those_of_the_configuration() {
        assert_eq!(seconds("5"), Ok(Duration::from_secs(5)));
        assert_eq!(seconds("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        assert!(seconds("-1").is_err());
        assert_eq!(size("4KiB"), Ok(4096));
    }

    #[test]
    fn what_nothing_can_be_run_with_is_refused() {
        assert_eq!((rate("0.5"), rate("1e6")), (Ok(0.5), Ok(1e6)));
        assert!(["0", "-1", "nan", "inf", "much"].iter().all(|text| rate(text).is_err()));
        assert!(size("1MiB").is_ok() && size("1048577").is_err());
    }
}
