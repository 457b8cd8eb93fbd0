//! Latencies counted in buckets, eight to each doubling, so that the conductor can look at them while client
//! threads count.
//!
//! It owns the arithmetic between a latency, its bucket and a quantile; a quantile is right to about 6 %. It
//! refuses to be the result: reports take their percentiles from histograms of three digits. Used by `board`
//! and by the timeline.

/// How many buckets there are: one microsecond to about a minute.
pub(crate) const BUCKETS: usize = 192;

/// How many of each bucket, as of one moment or between two.
pub(crate) type Counted = [u32; BUCKETS];

/// The bucket of a latency; what is longer than a minute falls into the last.
pub(crate) fn bucket_of(ns: u64) -> usize {
    let us = ns / 1_000;
    if us < 8 {
        return us as usize;
    }
    let exponent = 63 - us.leading_zeros() as usize;
    let eighth = (us >> (exponent - 3) & 7) as usize;
    ((exponent - 2) * 8 + eighth).min(BUCKETS - 1)
}

/// The middle of a bucket, in microseconds.
fn middle_us(bucket: usize) -> f64 {
    if bucket < 8 {
        return bucket as f64 + 0.5;
    }
    let (exponent, eighth) = (bucket / 8 + 2, bucket % 8);
    let width = f64::powi(2.0, i32::try_from(exponent).unwrap_or(0) - 3);
    (8 + eighth) as f64 * width + width / 2.0
}

/// The latency in microseconds below which this share of what was counted lies; `None` when nothing was.
pub(crate) fn quantile_us(counted: &Counted, quantile: f64) -> Option<f64> {
    let total: u64 = counted.iter().map(|&count| u64::from(count)).sum();
    let mut left = ((total as f64 * quantile).ceil() as u64).clamp(1, total.max(1));
    for (bucket, &count) in counted.iter().enumerate() {
        let count = u64::from(count);
        if count >= left {
            return Some(middle_us(bucket));
        }
        left -= count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_latencies_around_its_middle() {
        for us in (0..5_000_u64).chain([10_000, 77_777, 1_000_000, 30_000_000]) {
            let middle = middle_us(bucket_of(us * 1_000));
            assert!((middle - us as f64).abs() <= (us as f64 / 16.0).max(0.5), "{us}: {middle}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_found_where_the_counts_are() {
        let mut counted = [0; BUCKETS];
        assert_eq!(quantile_us(&counted, 0.5), None);
        counted[bucket_of(5_000)] = 98;
        counted[bucket_of(1_000_000)] = 2;
        assert_eq!(quantile_us(&counted, 0.5), Some(5.5));
        assert!(quantile_us(&counted, 0.99).is_some_and(|us| (us - 1_000.0).abs() < 70.0));
    }
}
