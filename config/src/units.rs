//! Owns the written form of sizes and durations: `"64KiB"`, `"25s"` and back again.
//! Refuses fractions, decimal kilobytes and bare numbers of seconds: a reader must never guess the unit.
//! Called by the forms of this crate and by programs that take sizes and durations as arguments.

use std::fmt;
use std::time::Duration;

/// A number of bytes. Written `512`, `64KiB`, `1MiB` or `2GiB`; printed with the largest unit that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Largest first: printing takes the first that divides the value.
const BYTE_UNITS: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

/// In milliseconds, largest first: printing takes the first that divides the value.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Bytes {
    /// Exactly `count` bytes.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// `count` times 1,024 bytes.
    #[must_use]
    pub const fn kib(count: u32) -> Self {
        Self(count as u64 * KIB)
    }

    /// `count` times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self(count as u64 * MIB)
    }

    /// `count` times 1,073,741,824 bytes.
    #[must_use]
    pub const fn gib(count: u32) -> Self {
        Self(count as u64 * GIB)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes, or `usize::MAX` where that is less.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match largest_unit(self.0, &BYTE_UNITS) {
            (count, "B") => write!(f, "{count}"),
            (count, unit) => write!(f, "{count}{unit}"),
        }
    }
}

/// Why a size or a duration was refused. The text names the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not an integer followed by a unit of bytes.
    NotBytes,
    /// Not an integer followed by a unit of time.
    NotDuration,
    /// The number is right in form and does not fit 64 bits.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBytes => "expected an integer and B, KiB, MiB or GiB, such as 64KiB",
            Self::NotDuration => "expected an integer and ms, s, m or h, such as 25s",
            Self::TooLarge => "the number is too large",
        })
    }
}

impl std::error::Error for UnitError {}

/// Reads a size: an integer, then nothing, `B`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// [`UnitError`] when the text has another form or exceeds 64 bits.
pub fn parse_bytes(text: &str) -> Result<Bytes, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotBytes)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    scaled(number, unit, &BYTE_UNITS, UnitError::NotBytes).map(Bytes)
}

/// Reads a duration: an integer, then `ms`, `s`, `m` or `h`.
///
/// # Errors
/// [`UnitError`] when the text has another form or exceeds 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotDuration)?;
    scaled(number, unit, &DURATION_UNITS, UnitError::NotDuration).map(Duration::from_millis)
}

/// Writes a duration so that [`parse_duration`] reads it back. Settings count in whole milliseconds; what is
/// finer is cut off.
#[must_use]
pub fn print_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (count, unit) = largest_unit(millis, &DURATION_UNITS);
    format!("{count}{unit}")
}

/// Cuts `"25s"` into `"25"` and `"s"`; `None` without a leading digit.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn scaled(number: &str, unit: &str, units: &[(&str, u64)], wrong: UnitError) -> Result<u64, UnitError> {
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(wrong)?;
    let count: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    count.checked_mul(*scale).ok_or(UnitError::TooLarge)
}

/// The tables end with a unit of one, so something always divides; zero stays in that last unit.
fn largest_unit<'a>(value: u64, units: &[(&'a str, u64)]) -> (u64, &'a str) {
    let fits = |scale: u64| value != 0 && value.is_multiple_of(scale);
    units.iter().find(|(_, scale)| fits(*scale)).map_or((value, "B"), |(unit, scale)| (value / scale, *unit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, count) in
            [("0", 0), ("17", 17), ("17B", 17), ("64KiB", 65_536), ("1MiB", MIB), ("2GiB", 2 * GIB)]
        {
            assert_eq!(parse_bytes(text).unwrap(), Bytes::new(count), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("25s", 25_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_leaves_the_unit_to_a_guess_is_refused() {
        for text in ["", "KiB", "1.5MiB", "64KB", "64kib", "64 KiB", "-1", "+1", "１KiB"] {
            assert_eq!(parse_bytes(text), Err(UnitError::NotBytes), "{text}");
        }
        for text in ["", "s", "25", "1.5s", "-1s", "25 s", "25S", "1d", "1m30s"] {
            assert_eq!(parse_duration(text), Err(UnitError::NotDuration), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_64_bits_is_refused() {
        assert_eq!(parse_bytes("99999999999999999999"), Err(UnitError::TooLarge));
        assert_eq!(parse_bytes("99999999999GiB"), Err(UnitError::TooLarge));
        assert_eq!(parse_duration("9999999999999999h"), Err(UnitError::TooLarge));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for count in [0, 1, 1023, 1024, 1536, MIB, 3 * GIB, u64::MAX] {
            assert_eq!(parse_bytes(&Bytes::new(count).to_string()), Ok(Bytes::new(count)));
        }
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, u64::MAX] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }
        assert_eq!(Bytes::kib(64).to_string(), "64KiB");
        assert_eq!(print_duration(Duration::from_secs(90)), "90s");
    }
}
