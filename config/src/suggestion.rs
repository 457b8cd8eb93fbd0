//! Owns the answer to an unknown key: what is known there, and which of it was probably meant.
//! Refuses to correct anything. Called by `reader` and by `load`.

use crate::mistake::nearest;
use crate::sections::SECTIONS;

/// What the environment variables of this program begin with.
pub(crate) const VARIABLE_PREFIX: &str = "GATEWAY__";

/// What the root has in double brackets.
const LISTS: [&str; 2] = ["backend", "route"];

/// Whether the root may have this key.
pub(crate) fn is_section(name: &str) -> bool {
    LISTS.contains(&name) || !name.contains('.') && SECTIONS.iter().any(|(section, _)| *section == name)
}

/// Whether a section may have this table inside.
pub(crate) fn is_subsection(outer: &str, name: &str) -> bool {
    let mut inner = SECTIONS.iter().filter_map(|(section, _)| section.split_once('.'));
    (outer, name) == ("limits", "network") || inner.any(|section| section == (outer, name))
}

/// For a key of the root.
pub(crate) fn for_section(name: &str) -> String {
    let names = || SECTIONS.iter().map(|(section, _)| *section);
    let mut known: Vec<String> = names().map(|section| format!("[{section}]")).collect();
    known.extend(LISTS.map(|list| format!("[[{list}]]")));
    let meant = match nearest(name, names().chain(LISTS)) {
        Some(list) if LISTS.contains(&list) => Some(format!("[[{list}]]")),
        Some(section) => Some(format!("[{section}]")),
        None => elsewhere(name),
    };
    sentence(&known.join(", "), meant)
}

/// For a key of a table that knows `keys`.
pub(crate) fn for_key(name: &str, keys: &[&str]) -> String {
    let meant = nearest(name, keys.iter().copied()).map(str::to_owned).or_else(|| elsewhere(name));
    sentence(&keys.join(", "), meant)
}

/// For a variable of the environment, whose name begins with [`VARIABLE_PREFIX`].
pub(crate) fn for_variable(variable: &str) -> String {
    let name = variable[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
    if let Some(list) = LISTS.iter().find(|list| name.starts_with(*list)) {
        return format!("{list}s in the file, which alone can have them");
    }
    let known: Vec<String> = keys().map(|(section, key)| variable_name(section, key)).collect();
    let form =
        format!("{VARIABLE_PREFIX}SECTION__KEY in capitals, such as {VARIABLE_PREFIX}LIMITS__CONNECTIONS");
    match nearest(variable, known.iter().map(String::as_str)) {
        Some(meant) => format!("{form}; did you mean {meant}?"),
        None => form,
    }
}

/// The key that a variable overrides.
pub(crate) fn key_of(variable: &str) -> Option<String> {
    let (section, key) = keys().find(|(section, key)| variable_name(section, key) == variable)?;
    Some(format!("{section}.{key}"))
}

fn variable_name(section: &str, key: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}__{}",
        section.to_ascii_uppercase().replace('.', "__"),
        key.to_ascii_uppercase()
    )
}

/// Every key that is not a route's, with its section.
fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
}

/// A right key in the wrong table.
fn elsewhere(name: &str) -> Option<String> {
    let (section, key) = keys().find(|(_, key)| *key == name)?;
    Some(format!("{section}.{key}"))
}

fn sentence(known: &str, meant: Option<String>) -> String {
    match meant {
        Some(meant) => format!("one of {known}; did you mean {meant}?"),
        None => format!("one of {known}"),
    }
}
