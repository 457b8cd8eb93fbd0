//! Owns what is said about a setting that cannot be used: where it stands, what was found, what was expected.
//! Refuses to stop at the first: callers collect them. Called by `reader`, `routes`, `checks`; printed by the program.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration text.
    File,
    /// The environment variable of this name.
    Env(String),
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, such as `limits.connections` or `route[1].inbound.publish` (the first `[[route]]` is 0). Empty when
    /// the text is not TOML at that place.
    pub key: String,
    /// Line in the text, from 1. `None` for the environment.
    pub line: Option<u32>,
    /// Where the value came from.
    pub source: Source,
    /// What was there: a value as written, or words such as `nothing` and `an unknown key`.
    pub found: String,
    /// The form that would have been right, with an example.
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.line) {
            (Source::Env(name), _) => write!(f, "environment {name}: ")?,
            (Source::File, Some(line)) => write!(f, "line {line}: ")?,
            (Source::File, None) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

impl std::error::Error for Mistake {}

/// The candidate that `word` was most likely meant to be; `None` when nothing is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips in a word of six are still that word; two in a word of three make another one.
    let slips_max = (word.len() / 3).clamp(1, 4);
    candidates
        .filter(|known| known.len().abs_diff(word.len()) <= slips_max)
        .map(|known| (slips(word, known), known))
        .filter(|(count, _)| *count <= slips_max)
        .min()
        .map(|(_, known)| known)
}

/// How many letters must be changed, added or dropped to turn one word into the other.
fn slips(left: &str, right: &str) -> usize {
    // A key is short; a long word is no slip of one, and must not cost its square.
    const WORD_MAX: usize = 64;
    if left.len() > WORD_MAX || right.len() > WORD_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, b) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_reads_as_one_line_with_its_place() {
        let mut mistake = Mistake {
            key: "limits.connections".to_owned(),
            line: Some(12),
            source: Source::File,
            found: "0".to_owned(),
            expected: "an integer from 1 to 100000000, or \"auto\"".to_owned(),
        };
        assert_eq!(
            mistake.to_string(),
            "line 12: limits.connections: found 0, expected an integer from 1 to 100000000, or \"auto\""
        );
        mistake.source = Source::Env("GATEWAY__LIMITS__CONNECTIONS".to_owned());
        mistake.line = None;
        assert!(
            mistake
                .to_string()
                .starts_with("environment GATEWAY__LIMITS__CONNECTIONS: limits.connections: found 0")
        );
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let known = ["connections", "handshakes", "channels"];
        assert_eq!(nearest("conections", known.into_iter()), Some("connections"));
        assert_eq!(nearest("chanels", known.into_iter()), Some("channels"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }
}
