//! The rules of this repository, executed: layers, words, files, documents and dependencies. Each module holds the
//! checking functions of one subject, small enough to be tried on bad input beside them; here they meet the real
//! tree. Refuses judgement: a rule that needs taste belongs to review. Run by `cargo test -p gateway --test tidy`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod code;
mod docs;
mod layers;
mod source;
mod supply;
mod tree;

/// Fails with every complaint at once, so that one run is enough to mend them all.
fn none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{} to mend:\n  {}\n", complaints.len(), complaints.join("\n  "));
}

#[test]
fn each_crate_imports_only_what_its_layer_allows() {
    let manifests = tree::manifests();
    let mut complaints = layers::table_complaints(&manifests);
    complaints.extend(manifests.iter().flat_map(layers::manifest_complaints));
    none(complaints);
}

#[test]
fn each_source_file_keeps_the_house_rules() {
    let sources = tree::sources();
    assert!(sources.iter().any(|s| s.path == "gateway/tests/tidy/main.rs"), "the walk must find this file");
    none(sources.iter().flat_map(source::complaints));
}

#[test]
fn no_file_holds_what_a_merge_could_not_decide() {
    let endings = [
        ".rs", ".md", ".toml", ".proto", ".py", ".sh", ".mjs", ".yml", ".yaml", ".html", "Makefile", ".conf",
        ".service",
    ];
    let files = endings.iter().flat_map(|ending| tree::files_ending(ending));
    none(files.flat_map(|(path, text)| source::conflict_complaints(&path, &text)));
}

#[test]
fn each_crate_root_keeps_unsafe_code_out() {
    none(tree::crate_roots().iter().filter_map(source::root_complaint));
}

#[test]
fn each_path_and_heading_named_in_a_document_exists() {
    let documents = tree::files_ending(".md");
    none(documents.iter().flat_map(|(path, text)| docs::document_complaints(&tree::root(), path, text)));
}

#[test]
fn each_key_of_the_reference_configuration_is_explained() {
    let text = std::fs::read_to_string(tree::root().join("config/gateway.toml")).unwrap();
    none(docs::unexplained_keys(&text));
}

#[test]
fn each_metric_an_operator_is_pointed_at_is_exported() {
    let sources: Vec<String> = tree::sources().into_iter().map(|source| source.text).collect();
    let rules = tree::files_ending(".yml");
    assert!(!rules.is_empty(), "deploy/ holds the Prometheus rules as .yml");
    none(rules.iter().flat_map(|(path, text)| docs::unknown_metrics(path, text, &sources)));
}

#[test]
fn the_bans_below_the_binary_include_those_of_the_workspace() {
    let read = |path| std::fs::read_to_string(tree::root().join(path)).unwrap().parse().unwrap();
    none(layers::lost_bans(&read("clippy.toml"), &read("gateway/crates/clippy.toml")));
}

#[test]
fn each_dependency_is_one_that_deny_toml_permits() {
    let policy = supply::Policy::read(&tree::root().join("deny.toml"));
    let lock = std::fs::read_to_string(tree::root().join("Cargo.lock")).unwrap().parse().unwrap();
    none(policy.lock_complaints(&lock));
}

#[test]
fn each_dependency_has_a_licence_that_deny_toml_permits() {
    let policy = supply::Policy::read(&tree::root().join("deny.toml"));
    none(policy.licence_complaints(&supply::metadata(&tree::root())));
}
