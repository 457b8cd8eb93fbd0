//! The crates of this workspace in their layers: which of ours and which of theirs each one may import. The manifests
//! are held to this table, and so are the clippy bans. A new dependency is added here first, with its reason.

use std::collections::BTreeSet;

use crate::tree::Manifest;

/// What one crate may name under `[dependencies]`. Tests may use more: `[dev-dependencies]` are free.
struct Layer {
    krate: &'static str,
    level: u8,
    ours: &'static [&'static str],
    theirs: &'static [&'static str],
}

/// Bottom up; a crate may import only crates of a lower level.
const LAYERS: [Layer; 9] = [
    // simdutf8: whole text frames take the vectorised check.
    Layer { krate: "wire", level: 0, ours: &[], theirs: &["httparse", "simdutf8", "tungstenite"] },
    // hashbrown: a table of bare indices into the slab, which the standard map cannot be.
    Layer { krate: "store", level: 0, ours: &[], theirs: &["hashbrown", "slab"] },
    Layer { krate: "config", level: 0, ours: &[], theirs: &["toml"] },
    Layer { krate: "bridge", level: 1, ours: &["wire"], theirs: &["bytes", "tokio"] },
    // fastrand: random phases and delays from one seed, so that a simulation can be replayed.
    Layer { krate: "shard", level: 2, ours: &["wire", "store", "bridge"], theirs: &["fastrand"] },
    // nix: descriptor tables, socket filters and limits without unsafe code of ours.
    Layer {
        krate: "net",
        level: 3,
        ours: &["shard", "store", "bridge"],
        theirs: &["libc", "mio", "nix", "socket2"],
    },
    Layer {
        krate: "backend",
        level: 3,
        ours: &["bridge"],
        theirs: &[
            "async-nats",
            "bytes",
            // Jitter between two attempts.
            "fastrand",
            // Thousands of subscriptions in one task.
            "futures-util",
            // Signs what a NATS server asks of credentials.
            "nkeys",
            // Protobuf messages, gRPC, and the compiler of .proto files, which runs in the build only.
            "prost",
            "protox",
            "redis",
            "rustls",
            "serde_json",
            "tokio",
            "tonic",
            "tonic-prost",
            "tonic-prost-build",
            // What streams go through is told as it happens.
            "tracing",
        ],
    },
    Layer {
        krate: "gateway",
        level: 4,
        ours: &["wire", "store", "bridge", "shard", "net", "backend", "config"],
        theirs: &[
            "bytes",
            "clap",
            // Base64 of binary payloads and of page tokens.
            "data-encoding",
            "http-body-util",
            "hyper",
            "hyper-util",
            "metrics",
            "metrics-exporter-prometheus",
            // Descriptor limits and signals.
            "nix",
            "percent-encoding",
            // Commands over a bus are Protobuf, or JSON.
            "prost",
            "serde",
            "serde_json",
            "tokio",
            // The service for app servers, its health and its reflection, and metadata of calls to backends. Not tonic's own
            // server, which brings a router: hyper and a match say it plainly.
            "tonic",
            "tonic-health",
            "tonic-reflection",
            "tracing",
            "tracing-subscriber",
        ],
    },
    Layer {
        krate: "loadtest",
        level: 4,
        ours: &["config"],
        theirs: &[
            "clap",
            "fastrand",
            "hdrhistogram",
            "indicatif",
            "mio",
            // A descriptor table per thread, so that its own limit is not what it measures.
            "nix",
            // Plots of its reports, as SVG.
            "plotters",
            // An app server and a client over gRPC, of their own making.
            "prost",
            "protox",
            // The priority of threads that keep time.
            "rustix",
            "serde",
            "serde_json",
            "socket2",
            "tokio",
            "tokio-stream",
            // Scenario files.
            "toml",
            "tonic",
            "tonic-prost",
            "tonic-prost-build",
            "tungstenite",
        ],
    },
];

/// tokio's features that a crate may switch on: a channel needs no runtime.
const TOKIO_FEATURES: [(&str, &[&str]); 1] = [("bridge", &["sync"])];

/// The table and the workspace name the same crates, and every arrow points down.
pub(crate) fn table_complaints(manifests: &[Manifest]) -> Vec<String> {
    let members: BTreeSet<&str> = manifests.iter().map(name).collect();
    let known: BTreeSet<&str> = LAYERS.iter().map(|layer| layer.krate).collect();
    let mut found = Vec::new();
    for stray in members.difference(&known) {
        found.push(format!("{stray}: give the crate its layer in gateway/tests/tidy/layers.rs"));
    }
    for gone in known.difference(&members) {
        found.push(format!("{gone}: no such crate; take it out of gateway/tests/tidy/layers.rs"));
    }
    for layer in &LAYERS {
        let level = |krate: &str| LAYERS.iter().find(|other| other.krate == krate).map(|other| other.level);
        for upward in layer.ours.iter().filter(|ours| level(ours).is_none_or(|level| level >= layer.level)) {
            found.push(format!("{}: may not import {upward}: arrows point down only", layer.krate));
        }
    }
    found
}

/// What one manifest names beyond its layer.
pub(crate) fn manifest_complaints(manifest: &Manifest) -> Vec<String> {
    let krate = name(manifest);
    let Some(layer) = LAYERS.iter().find(|layer| layer.krate == krate) else { return Vec::new() };
    let place = format!("{}/Cargo.toml", manifest.folder);
    let mut found = Vec::new();
    if manifest.table.get("lints").and_then(|lints| lints.get("workspace"))
        != Some(&toml::Value::Boolean(true))
    {
        found.push(format!("{place}: add [lints] workspace = true"));
    }
    let named = dependencies(&manifest.table);
    for (dependency, value) in &named {
        let ours = LAYERS.iter().any(|layer| layer.krate == dependency);
        let allowed = if ours { layer.ours } else { layer.theirs };
        if !allowed.contains(&dependency.as_str()) {
            let whose = if ours { "ours" } else { "theirs" };
            found.push(format!(
                "{place}: {krate} may not import {dependency} (gateway/tests/tidy/layers.rs, {whose})"
            ));
        }
        if !ours && (value.get("path").is_some() || value.get("git").is_some()) {
            found.push(format!(
                "{place}: {dependency} comes from a path or from git; take it from the registry"
            ));
        }
        if dependency == "tokio" {
            found.extend(tokio_complaint(krate, value).map(|text| format!("{place}: {text}")));
        }
    }
    for unused in
        layer.theirs.iter().filter(|theirs| !named.iter().any(|(dependency, _)| dependency == *theirs))
    {
        found.push(format!(
            "{place}: {unused} is not used any more; take it out of gateway/tests/tidy/layers.rs"
        ));
    }
    found
}

/// Bans of the workspace that the stricter file for the layers below the binary has lost.
pub(crate) fn lost_bans(workspace: &toml::Table, layers: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in workspace {
        let kept = match (value.as_array(), layers.get(key).and_then(toml::Value::as_array)) {
            (Some(bans), Some(theirs)) => bans.iter().all(|ban| theirs.contains(ban)),
            _ => layers.get(key) == Some(value),
        };
        if !kept {
            found.push(format!(
                "gateway/crates/clippy.toml: `{key}` lacks something that clippy.toml says; repeat it there"
            ));
        }
    }
    found
}

fn name(manifest: &Manifest) -> &str {
    manifest.table["package"]["name"].as_str().unwrap_or_default()
}

/// Everything the crate links or builds with, whatever the platform, by the name of the package.
fn dependencies(manifest: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut tables = vec![manifest.get("dependencies"), manifest.get("build-dependencies")];
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    for target in targets.into_iter().flat_map(toml::Table::values) {
        tables.extend([target.get("dependencies"), target.get("build-dependencies")]);
    }
    let entries = tables.into_iter().flatten().filter_map(toml::Value::as_table).flatten();
    entries
        .map(|(key, value)| {
            let package = value.get("package").and_then(toml::Value::as_str);
            (package.unwrap_or(key).to_owned(), value.clone())
        })
        .collect()
}

fn tokio_complaint(krate: &str, value: &toml::Value) -> Option<String> {
    let (_, allowed) = TOKIO_FEATURES.iter().find(|(of, _)| *of == krate)?;
    let features = value.get("features").and_then(toml::Value::as_array).into_iter().flatten();
    let extra = features.filter_map(toml::Value::as_str).find(|feature| !allowed.contains(feature))?;
    Some(format!("{krate} may use tokio's {allowed:?} only, not {extra:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest { folder: "somewhere".to_owned(), table: text.parse().unwrap() }
    }

    fn said(text: &str) -> String {
        manifest_complaints(&manifest(text)).join("\n")
    }

    const STORE: &str = "[package]\nname = 'store'\n[lints]\nworkspace = true\n";

    #[test]
    fn a_crate_within_its_layer_gets_no_complaint() {
        let dev = "[dev-dependencies]\ntokio = '1'\ngateway.workspace = true\n";
        assert_eq!(said(&format!("{STORE}[dependencies]\nslab = '1'\nhashbrown = '1'\n{dev}")), "");
    }

    #[test]
    fn an_import_beyond_the_layer_is_named_wherever_it_hides() {
        let used = "slab = '1'\nhashbrown = '1'\n";
        for hidden in [
            "[dependencies]\nmio = '1'\n",
            "[dependencies]\nx = { package = 'mio', version = '1' }\n",
            "[build-dependencies]\nmio = '1'\n",
            "[target.'cfg(unix)'.dependencies]\nmio = '1'\n",
        ] {
            let text = format!("{STORE}{}", hidden.replacen("]\n", &format!("]\n{used}"), 1));
            assert!(said(&text).contains("store may not import mio"), "{text}");
        }
        assert!(said(&format!("{STORE}[dependencies]\nshard.workspace = true\n")).contains("import shard"));
    }

    #[test]
    fn an_allowance_nobody_uses_a_stray_source_and_missing_lints_are_named() {
        assert!(
            said(&format!("{STORE}[dependencies]\nslab = '1'\n")).contains("hashbrown is not used any more")
        );
        assert!(
            said(&format!("{STORE}[dependencies]\nslab = {{ git = 'x' }}\n")).contains("from the registry")
        );
        assert!(said("[package]\nname = 'store'\n").contains("add [lints]"));
    }

    #[test]
    fn the_bridge_may_not_bring_a_runtime() {
        let text = "[package]\nname = 'bridge'\n[dependencies]\ntokio = { version = '1', features = ['sync', 'rt'] }\n";
        assert!(said(text).contains("not \"rt\""));
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let found = table_complaints(&[manifest("[package]\nname = 'stray'\n")]).join("\n");
        assert!(found.contains("stray: give the crate its layer"));
        assert!(found.contains("wire: no such crate"));
    }

    #[test]
    fn a_ban_that_was_not_repeated_is_named() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let workspace = table("a = 1\nbans = ['x', 'y']\n");
        assert!(lost_bans(&workspace, &table("a = 1\nbans = ['z', 'y', 'x']\n")).is_empty());
        assert_eq!(lost_bans(&workspace, &table("a = 2\nbans = ['x']\n")).len(), 2);
        assert_eq!(lost_bans(&workspace, &table("")).len(), 2);
    }
}
