//! Keeps `gateway.toml` true: it loads as the defaults, names every key, and says of each what the code expects.
//! Refuses nothing else; the rules themselves are tested in `tests/`.

#![allow(clippy::unwrap_used)]

use crate::sections::SECTIONS;
use crate::{Settings, backends, load, network_limits, reference, routes};

/// The lines that explain and set `key` in the first table that begins with `header`: the comment block right
/// above the key as one text, and whether the key is commented out.
fn explained(header: &str, key: &str) -> Option<(String, bool)> {
    let table = reference().split_once(&format!("\n{header}\n"))?.1;
    let mut comment = String::new();
    for line in table.lines().take_while(|line| !line.starts_with('[')) {
        let setting = line.trim_start_matches("# ");
        if setting.split_once(" = ").is_some_and(|(name, _)| name == key) {
            return Some((comment, line.starts_with('#')));
        }
        match line.strip_prefix('#') {
            // A commented-out key ends the comment above it, as a live one does.
            Some(text) if !is_setting(text.trim_start()) => {
                comment.push_str(text.trim());
                comment.push(' ');
            }
            _ => comment.clear(),
        }
    }
    None
}

fn is_setting(text: &str) -> bool {
    let name = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    text.split_once(" = ").is_some_and(|(word, _)| name(word))
}

#[test]
fn the_reference_loads_as_the_defaults() {
    assert_eq!(load(reference(), []).unwrap(), Settings::default());
}

#[test]
fn what_the_reference_shows_of_a_backend_are_its_defaults() {
    let shown = reference().split_once("# [[backend]]").unwrap().1.split_once("[[route]]").unwrap().0;
    let lines = shown.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| is_setting(line));
    // These have no default, and stand for what they can be.
    let examples = ["metadata", "tls"];
    let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned()).unwrap();
    let lines: Vec<_> = lines.filter(|line| !examples.contains(&key(line).as_str())).collect();
    let all = load(&format!("[[backend]]\n{}", lines.join("\n")), []).unwrap();
    let bare = "[[backend]]\nname = 'chat'\nendpoints = ['http://127.0.0.1:50051']";
    assert_eq!(all, load(bare, []).unwrap());
    assert_eq!(lines.len(), backends::KEYS.len() - examples.len());
}

#[test]
fn the_reference_explains_every_key_with_what_the_code_expects() {
    for (section, key, expected) in Settings::expectations() {
        let (comment, _) =
            explained(&format!("[{section}]"), key).unwrap_or_else(|| panic!("{section}.{key} is not there"));
        assert!(
            comment.contains(&expected),
            "{section}.{key} expects {expected}; the reference says: {comment}"
        );
    }
    for (key, expected) in network_limits::expectations() {
        let (comment, hidden) = explained("# [[limits.network]]", key).unwrap();
        assert!(
            hidden && comment.contains(&expected),
            "{key} expects {expected}; the reference says: {comment}"
        );
    }
    for (key, expected) in backends::expectations() {
        let (comment, hidden) = explained("# [[backend]]", key).unwrap_or_else(|| panic!("backend.{key}"));
        assert!(
            hidden && comment.contains(&expected),
            "{key} expects {expected}; the reference says: {comment}"
        );
    }
    for (key, expected) in routes::expectations() {
        let (comment, _) = explained("[[route]]", key).unwrap_or_else(|| panic!("route.{key} is not there"));
        assert!(comment.contains(&expected), "route.{key} expects {expected}; the reference says: {comment}");
    }
}

#[test]
fn the_reference_sets_every_key_that_has_a_default_value() {
    let printed = Settings::default().to_toml();
    for (section, keys) in SECTIONS {
        for key in *keys {
            let (_, hidden) = explained(&format!("[{section}]"), key).unwrap();
            let table = printed.split(&format!("[{section}]\n")).nth(1).unwrap().split("\n[").next().unwrap();
            let is_set = table.lines().any(|line| line.starts_with(&format!("{key} = ")));
            assert_eq!(is_set, !hidden, "{section}.{key}");
        }
    }
}

#[test]
fn the_keys_of_routes_and_backends_are_those_that_are_explained() {
    let explained: Vec<_> = routes::expectations().into_iter().map(|(key, _)| key).collect();
    assert_eq!(explained, routes::KEYS);
    let explained: Vec<_> = backends::expectations().into_iter().map(|(key, _)| key).collect();
    assert_eq!(explained, backends::KEYS);
}
