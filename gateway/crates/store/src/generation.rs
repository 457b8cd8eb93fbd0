//! The counter behind every stale-proof index: each use of a slot gets a number that no other use has had lately.
//!
//! One counter per table, not per slot, so that the number alone already tells two uses apart (it repeats only after 2³² - 2
//! insertions into one table). Called by the connection table and the channels.

use std::num::NonZeroU32;

use crate::conns::NONE;

/// Hands out 1, 2, 3 … and passes over 0 (the niche) and [`NONE`] (which means "nothing") when it comes round.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    last: u32,
}

impl Generations {
    pub(crate) fn next(&mut self) -> NonZeroU32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if let Some(generation) = NonZeroU32::new(self.last)
                && self.last != NONE
            {
                return generation;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_comes_round_passes_over_zero_and_none() {
        let mut generations = Generations { last: u32::MAX - 2 };
        assert_eq!(generations.next().get(), u32::MAX - 1);
        assert_eq!(generations.next().get(), 1);
        assert_eq!(generations.next().get(), 2);
    }
}
