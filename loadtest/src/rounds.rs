//! Rounds in which each of several servers is run once, in changing order.
//!
//! It owns the order, and what becomes of a run that fails: it is done once more, and who fails again is left out of
//! all rounds, with what it said, so that one lost message does not cost the others half an hour. It refuses to go on
//! without the first, by which all others are divided. Used by `compare`.

use crate::failure::Failure;

/// What became of all rounds.
#[derive(Debug)]
pub(crate) struct Rounds<R> {
    /// Who was not left out: places in the order of the servers. None when the first one was.
    pub(crate) kept: Vec<usize>,
    /// A run for each of them, per round.
    pub(crate) runs: Vec<Vec<R>>,
    /// Who failed, by place, and what came of it.
    pub(crate) notes: Vec<(usize, String)>,
}

/// Runs `servers` of them so many `rounds`, each run by its server's place.
pub(crate) fn play<R>(
    rounds: u32,
    servers: usize,
    mut run: impl FnMut(usize) -> Result<R, Failure>,
) -> Rounds<R> {
    let mut kept: Vec<usize> = (0..servers).collect();
    let mut notes = Vec::new();
    let mut all: Vec<Vec<Option<R>>> = Vec::new();
    for number in 0..rounds as usize {
        let mut runs: Vec<Option<R>> = (0..servers).map(|_| None).collect();
        for step in 0..servers {
            // Who comes first takes turns: the machine may drift within a round.
            let place = (step + number) % servers;
            // Nobody is left to be compared with.
            if kept.first() != Some(&0) || kept.len() < 2 {
                break;
            }
            if !kept.contains(&place) {
                continue;
            }
            let mut outcome = run(place);
            if let Err(failure) = &outcome {
                notes.push((place, format!("round {}, done once more: {failure}", number + 1)));
                outcome = run(place);
            }
            match outcome {
                Ok(done) => runs[place] = Some(done),
                Err(failure) => {
                    notes.push((place, format!("round {}, left out: {failure}", number + 1)));
                    kept.retain(|other| *other != place);
                }
            }
        }
        all.push(runs);
    }
    if kept.first() != Some(&0) || kept.len() < 2 {
        return Rounds { kept: Vec::new(), runs: Vec::new(), notes };
    }
    let of_kept = |runs: Vec<Option<R>>| {
        let places = runs.into_iter().enumerate().filter(|(place, _)| kept.contains(place));
        places.filter_map(|(_, run)| run).collect()
    };
    let runs = all.into_iter().map(of_kept).collect();
    Rounds { kept, runs, notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays with a server at each place that fails at those of its runs.
    fn with(failing: &[&[usize]]) -> (Rounds<(usize, usize)>, Vec<usize>) {
        let mut done = vec![0; failing.len()];
        let mut order = Vec::new();
        let rounds = play(3, failing.len(), |place| {
            order.push(place);
            done[place] += 1;
            if failing[place].contains(&done[place]) {
                return Err(Failure::Server(format!("run {} of {place}", done[place])));
            }
            Ok((place, done[place]))
        });
        (rounds, order)
    }

    #[test]
    fn each_runs_once_a_round_and_who_begins_takes_turns() {
        let (rounds, order) = with(&[&[], &[], &[]]);
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
        assert_eq!((rounds.kept, rounds.notes), (vec![0, 1, 2], Vec::new()));
        assert_eq!(rounds.runs[2], [(0, 3), (1, 3), (2, 3)]);
    }

    #[test]
    fn a_run_that_fails_is_done_once_more_and_told() {
        let (rounds, _) = with(&[&[], &[2], &[]]);
        assert_eq!(rounds.kept, [0, 1, 2]);
        assert_eq!(rounds.runs[1], [(0, 2), (1, 3), (2, 2)]);
        assert_eq!(rounds.notes, [(1, "round 2, done once more: the server: run 2 of 1".to_owned())]);
    }

    #[test]
    fn who_fails_twice_is_left_out_of_all_rounds_and_the_others_go_on() {
        let (rounds, order) = with(&[&[], &[2, 3], &[]]);
        assert_eq!(rounds.kept, [0, 2]);
        assert_eq!(rounds.runs, [[(0, 1), (2, 1)], [(0, 2), (2, 2)], [(0, 3), (2, 3)]]);
        assert_eq!(rounds.notes[1], (1, "round 2, left out: the server: run 3 of 1".to_owned()));
        assert_eq!(order.iter().filter(|&&place| place == 1).count(), 3);
    }

    #[test]
    fn without_the_first_there_is_nothing_to_divide_by() {
        for failing in [[&[1, 2][..], &[]], [&[], &[1, 2][..]]] {
            let (rounds, order) = with(&failing);
            assert!(
                rounds.kept.is_empty() && rounds.runs.is_empty() && rounds.notes.len() == 2,
                "{rounds:?}"
            );
            assert!(order.len() <= 3, "nothing more is run: {order:?}");
        }
    }
}
