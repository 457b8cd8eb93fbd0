//! Rules for what is written beside the code: links and paths that lead somewhere, keys that are explained, metrics
//! that exist. Owns a small reading of Markdown and TOML by lines; refuses to check the outside world.

use std::path::Path;

/// Folders of the root; a code span that starts with one of them is a path.
const TOP: [&str; 4] = ["gateway/", "config/", "deploy/", "loadtest/"];

/// Links and paths of one Markdown file that lead nowhere.
pub(crate) fn document_complaints(root: &Path, path: &str, text: &str) -> Vec<String> {
    let folder = root.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut found = Vec::new();
    for (line, prose) in prose_lines(text) {
        for target in link_targets(prose) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let file = if file.is_empty() { root.join(path) } else { folder.join(file) };
            if !file.exists() {
                found.push(format!("{path}:{line}: the link to {target} leads nowhere"));
            } else if !heading.is_empty() && !has_heading(&file, heading) {
                found.push(format!("{path}:{line}: {target} has no such heading"));
            }
        }
        for span in prose.split('`').skip(1).step_by(2).filter(|span| is_path(span)) {
            if !root.join(span).exists() {
                found.push(format!("{path}:{line}: there is no {span}"));
            }
        }
    }
    found
}

/// Keys of a reference configuration without a comment above them or beside them.
pub(crate) fn unexplained_keys(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut explained = false;
    for (index, line) in text.lines().map(str::trim).enumerate() {
        let key = line.split_once('=').map(|(key, _)| key.trim_end()).filter(|key| is_key(key));
        if let Some(key) = key
            && !explained
            && !line.contains(" # ")
        {
            found.push(format!(
                "config/gateway.toml:{}: say above `{key}` what it does, its unit and why",
                index + 1
            ));
        }
        explained = line.starts_with('#');
    }
    found
}

/// Metrics named in a rules file that no source names. A histogram's parts are made by the exporter.
pub(crate) fn unknown_metrics(path: &str, text: &str, sources: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for metric in words.filter(|word| word.starts_with("gateway_")) {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| metric.strip_suffix(part))
                .unwrap_or(metric);
            let exported =
                |source: &String| [metric, base].iter().any(|name| source.contains(&format!("\"{name}\"")));
            if !sources.iter().any(exported) {
                found.push(format!("{path}:{}: nothing exports {metric}", index + 1));
            }
        }
    }
    found
}

/// The lines outside fenced blocks, numbered from 1.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)` in one line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target.trim()))
}

fn is_path(span: &str) -> bool {
    TOP.iter().any(|top| span.starts_with(top)) && !span.contains([' ', '*', '{', '<', '$', '…', '='])
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"".contains(c))
}

fn has_heading(file: &Path, heading: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    prose_lines(&text)
        .any(|(_, line)| line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading)
}

/// The anchor that code hosts make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        document_complaints(&crate::tree::root(), "gateway/X.md", text).join("\n")
    }

    #[test]
    fn links_and_paths_that_lead_somewhere_get_no_complaint() {
        assert_eq!(
            said("[a](../Cargo.toml) [b](https://x.y/z) `gateway/tests/tidy/main.rs` `gateway/<x>`"),
            ""
        );
        assert_eq!(said("```\n[a](nowhere) `gateway/nowhere`\n```"), "");
    }

    #[test]
    fn links_and_paths_that_lead_nowhere_are_named() {
        assert!(said("x\n[a](nowhere.md)").contains("gateway/X.md:2: the link to nowhere.md"));
        assert!(said("see `gateway/nowhere.rs`").contains("there is no gateway/nowhere.rs"));
        assert!(said("[a](../Cargo.toml#no-such)").contains("no such heading"));
    }

    #[test]
    fn headings_become_anchors_as_code_hosts_make_them() {
        assert_eq!(anchor(" Two data paths, in short"), "two-data-paths-in-short");
        assert_eq!(anchor(" `make test`"), "make-test");
    }

    #[test]
    fn a_key_without_a_comment_is_named() {
        let text = "[a]\n# why\nx = 1\ny = 2\nz = 3 # seconds\n# text\n\nw = 4\n";
        let found = unexplained_keys(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains(":4:") && found[1].contains(":8:"));
    }

    #[test]
    fn a_metric_that_nothing_exports_is_named() {
        let sources = ["gauge!(\"gateway_connections\"); \"gateway_turn_seconds\"".to_owned()];
        assert!(
            unknown_metrics("r", "gateway_connections + gateway_turn_seconds_bucket", &sources).is_empty()
        );
        assert_eq!(
            unknown_metrics("r", "x\nrate(gateway_gone_total[5m])", &sources),
            ["r:2: nothing exports gateway_gone_total"]
        );
    }
}
