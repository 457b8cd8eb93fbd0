//! What several runs of the same thing have in common: least, middle, most.
//!
//! It owns the median. It refuses averages: one bad run would be in all of them. Used wherever something is
//! measured several times.

/// Least, middle and most of some ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The least of them.
    pub(crate) least: f64,
    /// The one in the middle, or between the two in the middle.
    pub(crate) median: f64,
    /// The most.
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one value; of none it is all zero, which no threshold should see.
    pub(crate) fn of(mut values: Vec<f64>) -> Spread {
        debug_assert!(!values.is_empty(), "at least one pair is run");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.as_slice() {
            [] => 0.0,
            values if values.len() % 2 == 1 => values[middle],
            values => f64::midpoint(values[middle - 1], values[middle]),
        };
        Spread {
            least: values.first().copied().unwrap_or(0.0),
            median,
            most: values.last().copied().unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { least: 1.0, median: 2.0, most: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]), Spread { least: 1.0, median: 2.5, most: 4.0 });
        assert_eq!(Spread::of(vec![0.5]).median, 0.5);
    }
}
