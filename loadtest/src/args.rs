//! Values on the command line that need more than a number.
//!
//! It owns how lengths of time and sizes are given; their units are those of the configuration. Used by the
//! arguments of the scenarios.

use std::time::Duration;

use config::units::{UnitError, parse_bytes, parse_duration};

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

/// Bytes of a message, such as `128` or `4KiB`.
///
/// # Errors
/// The text is no size.
pub(crate) fn size(text: &str) -> Result<usize, UnitError> {
    parse_bytes(text).map(config::units::Bytes::as_usize)
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
}
