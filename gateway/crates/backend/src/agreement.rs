//! Whether another node agrees with this one about what both should know, judged by a digest in its beats. Pure: told of a
//! beat, it says whether the node is to be told what this one knows. Refuses to know what that is. One for each node that is
//! known to [`crate::presence`].
//!
//! Of two nodes that differ, either may be the one that missed something; both tell, and the later order counts.

use std::time::Duration;

use tokio::time::Instant;

/// Nodes that differ for so long do not merely hear the same at different moments: two beats of one come 2 s apart.
const DIFFERS_FOR: Duration = Duration::from_millis(1_500);
/// A node that was told, and differs in the same way still, did not take it: it is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// About one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agreement {
    /// Since the first beat that differed, with none since that did not.
    differs_since: Option<Instant>,
    /// What this node and that one knew when it was last told, and when that was.
    told: Option<(u64, u64, Instant)>,
}

impl Agreement {
    /// A beat came, with what the node knows; this one knows `ours`. Whether it is to be told now.
    pub(crate) fn heard(&mut self, ours: u64, theirs: u64, now: Instant) -> bool {
        if ours == theirs {
            *self = Self::default();
            return false;
        }
        let since = *self.differs_since.get_or_insert(now);
        let is_told = |(our, their, at): (u64, u64, Instant)| {
            (our, their) == (ours, theirs) && now.duration_since(at) < TELL_AGAIN
        };
        let is_due = now.duration_since(since) >= DIFFERS_FOR && !self.told.is_some_and(is_told);
        if is_due {
            self.told = Some((ours, theirs, now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(2);

    #[test]
    fn a_node_that_differs_is_told_at_its_second_beat_and_not_again_until_something_changes() {
        let (mut agreement, start) = (Agreement::default(), Instant::now());
        let mut beats = 0;
        let mut heard = |ours, theirs| {
            beats += 1;
            agreement.heard(ours, theirs, start + BEAT * beats)
        };
        assert!(!heard(1, 1));
        assert!(!heard(1, 0), "it may hear it in a moment");
        assert!(heard(1, 0));
        assert!(!heard(1, 0), "it was told");
        assert!(heard(2, 0), "there is more to tell");
        assert!(!heard(2, 2));
        assert!(!heard(2, 1) && heard(2, 1), "it missed something again");
    }

    #[test]
    fn nodes_that_hear_the_same_at_different_moments_tell_each_other_nothing() {
        let (mut agreement, start) = (Agreement::default(), Instant::now());
        for beat in 0..100 {
            let now = start + BEAT * beat;
            assert!(!agreement.heard(u64::from(beat), 0, now) || beat == 0);
            assert!(!agreement.heard(u64::from(beat), u64::from(beat), now + BEAT / 2));
        }
        // Some beats come sooner, as when a node is new.
        assert!(!agreement.heard(7, 0, start + BEAT * 200));
        assert!(!agreement.heard(7, 0, start + BEAT * 200 + BEAT / 2));
    }

    #[test]
    fn one_that_does_not_take_it_is_told_now_and_then() {
        let (mut agreement, start) = (Agreement::default(), Instant::now());
        let told = (0..300).filter(|beat| agreement.heard(1, 0, start + BEAT * *beat)).count();
        assert_eq!(told, 10, "in ten minutes");
    }
}
