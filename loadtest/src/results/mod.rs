//! Results for readers: `RESULTS.md`, in which every run has a section of its own.
//!
//! It owns the file's form: a section stands between two marks that name it, and a run replaces its own and
//! leaves everything else as it is, so that people can write between them what a figure means. It refuses to
//! write into a file whose marks do not close. Called by `compare` and `record`.

mod comparison;
mod reports;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::Failure;

pub(crate) use comparison::write as write_comparison;
pub(crate) use reports::{Args, run};

/// How a file begins that is not there yet.
const HEAD: &str = "# Results\n";

/// Puts a run's section into `RESULTS.md` of `folder`, in place of the one of that name, else at the end.
///
/// # Errors
/// The file can be neither read nor written, or a mark in it is left open.
fn put(folder: &Path, name: &str, section: &str) -> Result<(), Failure> {
    let path = folder.join("RESULTS.md");
    let doing = || path.display().to_string();
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => HEAD.to_owned(),
        Err(error) => return Err(Failure::Machine(doing(), error)),
    };
    let after = replaced(&before, name, section)
        .ok_or_else(|| Failure::Asked(format!("{}: the section {name} begins and has no end", doing())))?;
    fs::write(&path, after).map_err(Failure::machine(doing()))
}

/// The text with another section of that name; nothing, when the mark at its end is missing.
fn replaced(text: &str, name: &str, section: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
    let section = format!("{begin}\n{}\n\n{end}", section.trim());
    let Some((before, rest)) = text.split_once(&begin) else {
        return Some(format!("{}\n\n{section}", text.trim_end()));
    };
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{section}{after}"))
}

/// Today in UTC. The one look at a calendar: results outlive the day they were taken.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// The date that lies so many days after 1970-01-01, in the Gregorian calendar.
fn date(mut days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_run_replaces_its_own_section_and_nothing_else() {
        let first = replaced(HEAD, "one", "1\n").unwrap();
        assert_eq!(first, "# Results\n\n<!-- begin one -->\n\n1\n\n<!-- end one -->\n");
        let both = replaced(&format!("{first}\nSaid by hand.\n"), "two", "2").unwrap();
        let again = replaced(&both, "one", "3\n\n4").unwrap();
        assert!(again.contains("\n3\n\n4\n") && !again.contains("\n1\n") && again.contains("\n2\n"));
        assert!(again.find("Said by hand.").unwrap() < again.find("begin two").unwrap());
        assert_eq!(replaced(&again, "one", "1"), replaced(&both, "one", "1"));
    }

    #[test]
    fn a_section_without_an_end_is_left_alone() {
        assert_eq!(replaced("<!-- begin one -->\n1\n", "one", "2"), None);
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(11_017), "2000-03-01");
        assert_eq!(date(19_723), "2024-01-01");
    }
}
