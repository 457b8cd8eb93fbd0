//! Lines of one kind in the log: so many within a while, and of those beyond only how many there were. What comes from the
//! bus is said by whoever likes to, and must not fill a disk. Pure; refuses to write.

use std::time::Duration;

use tokio::time::Instant;

/// The while, unless another one is asked for.
const WITHIN: Duration = Duration::from_secs(5);

/// How many lines there have been of late.
#[derive(Debug)]
pub struct Lines {
    most: u32,
    within: Duration,
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Lines {
    /// So many within five seconds.
    #[must_use]
    pub const fn new(most: u32) -> Self {
        Self { most, within: WITHIN, since: None, written: 0, left_out: 0 }
    }

    /// One within this time.
    #[must_use]
    pub const fn one_in(within: Duration) -> Self {
        Self { most: 1, within, since: None, written: 0, left_out: 0 }
    }

    /// Whether one more may be written: if so, how many have been left out since the last one.
    pub fn next(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= self.within) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written == self.most {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_within_a_while_and_then_how_many_were_left_out() {
        let (start, mut lines) = (Instant::now(), Lines::new(2));
        let expected = [Some(0), Some(0), None, None, None];
        assert_eq!(expected, std::array::from_fn(|_| lines.next(start)));
        let later = start + WITHIN;
        let expected = [Some(3), Some(0), None];
        assert_eq!(expected, std::array::from_fn(|_| lines.next(later)));
        assert_eq!(lines.next(later + WITHIN), Some(1));
    }
}
