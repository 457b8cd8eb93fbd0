//! Reads the repository for the checks: files with their paths relative to its root. Owns what counts as part of it
//! and what is somebody's build product; judges nothing.

use std::path::{Path, PathBuf};

/// Folders that hold products or other people's code.
const FOREIGN: [&str; 5] = ["target", "node_modules", "corpus", "artifacts", "__pycache__"];

/// One Rust file. `code` is `text` with comments and literals blanked.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: crate::code::blank(text) }
    }
}

/// One member of the workspace: its folder relative to the root, and its manifest.
pub(crate) struct Manifest {
    pub(crate) folder: String,
    pub(crate) table: toml::Table,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file with this ending, as relative path and text, sorted by path.
pub(crate) fn files_ending(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if relative.ends_with(ending) {
            found.push((relative, std::fs::read_to_string(path).unwrap()));
        }
    });
    found.sort();
    found
}

pub(crate) fn sources() -> Vec<Source> {
    files_ending(".rs").iter().map(|(path, text)| Source::new(path, text)).collect()
}

pub(crate) fn manifests() -> Vec<Manifest> {
    let workspace = read_table(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| member.as_str().unwrap().to_owned())
        .map(|folder| Manifest { table: read_table(&root().join(&folder).join("Cargo.toml")), folder })
        .collect()
}

/// The file that each library or program of the workspace starts from.
pub(crate) fn crate_roots() -> Vec<Source> {
    let folders: Vec<String> = manifests().into_iter().map(|manifest| manifest.folder).collect();
    let is_root = |path: &str| {
        folders
            .iter()
            .any(|folder| path == format!("{folder}/src/lib.rs") || path == format!("{folder}/src/main.rs"))
    };
    let roots: Vec<Source> = sources().into_iter().filter(|source| is_root(&source.path)).collect();
    assert!(roots.len() >= folders.len(), "each of the {} members has a root", folders.len());
    roots
}

fn read_table(path: &Path) -> toml::Table {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_file() {
            visit(&entry.path());
        } else if kind.is_dir() && !name.starts_with('.') && !FOREIGN.contains(&name.as_str()) {
            walk(&entry.path(), visit);
        }
    }
}
