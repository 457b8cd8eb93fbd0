//! Holds the dependency tree to `deny.toml` without compiling cargo-deny: bans and sources from the lock file, licences
//! from cargo's own metadata for this platform. `make deny` runs the real tool, for every platform.

use std::path::Path;
use std::process::Command;

/// What of `deny.toml` is checked here.
pub(crate) struct Policy {
    licences: Vec<String>,
    banned: Vec<Banned>,
    registries: Vec<String>,
}

/// A package that may stand in the tree below its wrappers only, or nowhere.
struct Banned {
    package: String,
    wrappers: Vec<String>,
}

/// A package and its SPDX expression, if it states one.
pub(crate) struct Licensed {
    pub(crate) package: String,
    pub(crate) licence: Option<String>,
}

impl Policy {
    pub(crate) fn read(path: &Path) -> Self {
        let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let texts = |value: &toml::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let banned = |ban: &toml::Value| Banned {
            package: ban["crate"].as_str().unwrap().to_owned(),
            wrappers: ban.get("wrappers").map(texts).unwrap_or_default(),
        };
        Self {
            licences: texts(&table["licenses"]["allow"]),
            banned: table["bans"]["deny"].as_array().unwrap().iter().map(banned).collect(),
            registries: texts(&table["sources"]["allow-registry"]),
        }
    }

    /// Packages of a `Cargo.lock` that are banned or come from elsewhere. No source means: a member of the workspace.
    pub(crate) fn lock_complaints(&self, lock: &toml::Table) -> Vec<String> {
        let mut found = Vec::new();
        for package in lock["package"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap();
            let banned = self.banned.iter().find(|banned| banned.package == name);
            if banned.is_some_and(|banned| !is_brought_only_by(&banned.wrappers, name, lock)) {
                found.push(format!(
                    "{name}: deny.toml bans it and says why; `cargo tree -i {name}` shows who brought it"
                ));
            }
            let source = package.get("source").and_then(toml::Value::as_str);
            let known = |source: &str| self.registries.iter().any(|url| source == format!("registry+{url}"));
            if source.is_some_and(|source| !known(source)) {
                found.push(format!(
                    "{name}: comes from {}, which deny.toml does not allow",
                    source.unwrap_or_default()
                ));
            }
        }
        found
    }

    pub(crate) fn licence_complaints(&self, packages: &[Licensed]) -> Vec<String> {
        let permitted = |licence: &str| self.permits(licence);
        let stated = |package: &Licensed| package.licence.as_deref().is_some_and(permitted);
        let found = packages.iter().filter(|package| !stated(package));
        found
            .map(|p| format!("{}: deny.toml does not allow its licence {:?}", p.package, p.licence))
            .collect()
    }

    /// Whether an SPDX expression can be satisfied with what is allowed. `/` is the old spelling of OR.
    fn permits(&self, expression: &str) -> bool {
        let spaced = expression
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ")
            .replace(" WITH ", "+WITH+");
        let mut tokens = spaced.split_whitespace().peekable();
        self.any(&mut tokens) && tokens.next().is_none()
    }

    /// `a OR b`
    fn any(&self, tokens: &mut Tokens<'_>) -> bool {
        let mut satisfied = self.all(tokens);
        while tokens.next_if_eq(&"OR").is_some() {
            satisfied |= self.all(tokens);
        }
        satisfied
    }

    /// `a AND b`
    fn all(&self, tokens: &mut Tokens<'_>) -> bool {
        let mut satisfied = self.one(tokens);
        while tokens.next_if_eq(&"AND").is_some() {
            satisfied &= self.one(tokens);
        }
        satisfied
    }

    /// A licence, or an expression in parentheses.
    fn one(&self, tokens: &mut Tokens<'_>) -> bool {
        match tokens.next() {
            Some("(") => {
                let satisfied = self.any(tokens);
                tokens.next() == Some(")") && satisfied
            }
            Some(id) => self.licences.contains(&id.replace("+WITH+", " WITH ")),
            None => false,
        }
    }
}

/// Whether all packages that depend on this one are of these; nobody depending on it is no excuse.
fn is_brought_only_by(wrappers: &[String], package: &str, lock: &toml::Table) -> bool {
    // A dependency is a name, with a version behind it where the lock has several.
    let names = |of: &toml::Value| {
        let list = of.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        list.filter_map(toml::Value::as_str).any(|entry| entry.split(' ').next() == Some(package))
    };
    let mut bringers = lock["package"].as_array().unwrap().iter().filter(|bringer| names(bringer)).peekable();
    bringers.peek().is_some()
        && bringers.all(|bringer| wrappers.iter().any(|name| Some(name.as_str()) == bringer["name"].as_str()))
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// Every package built on this platform, from cargo itself.
pub(crate) fn metadata(root: &Path) -> Vec<Licensed> {
    let version = output(Command::new(env!("CARGO")).arg("-vV"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let metadata = output(Command::new(env!("CARGO")).args(arguments).current_dir(root));
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| Licensed {
            package: package["name"].as_str().unwrap().to_owned(),
            licence: package["license"].as_str().map(str::to_owned),
        })
        .collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Policy {
            licences: owned(&["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]),
            banned: vec![Banned { package: "openssl".to_owned(), wrappers: owned(&["wrapper"]) }],
            registries: owned(&["https://registry"]),
        }
    }

    #[test]
    fn a_licence_expression_is_satisfied_as_spdx_says() {
        let policy = policy();
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/GPL-3.0",
            "(GPL-3.0 OR MIT) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(policy.permits(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0",
            "ISC AND (MIT",
            "MIT ISC",
            "",
            "GPL-3.0 OR MIT AND GPL-3.0",
        ] {
            assert!(!policy.permits(bad), "{bad}");
        }
    }

    #[test]
    fn a_package_without_a_permitted_licence_is_named() {
        let package =
            |licence: Option<&str>| Licensed { package: "x".to_owned(), licence: licence.map(str::to_owned) };
        assert_eq!(policy().licence_complaints(&[package(Some("MIT"))]), [""; 0]);
        assert_eq!(policy().licence_complaints(&[package(None), package(Some("GPL-3.0"))]).len(), 2);
    }

    #[test]
    fn a_banned_package_and_a_stray_source_are_named() {
        let lock = "[[package]]\nname = 'openssl'\nsource = 'registry+https://registry'\n\
                    [[package]]\nname = 'stray'\nsource = 'git+https://elsewhere'\n\
                    [[package]]\nname = 'ours'\n";
        let found = policy().lock_complaints(&lock.parse().unwrap()).join("\n");
        assert!(found.contains("openssl: deny.toml bans it"));
        assert!(found.contains("stray: comes from git+https://elsewhere"));
        assert!(!found.contains("ours"));
    }

    #[test]
    fn a_banned_package_is_let_in_by_its_wrappers_and_nobody_else() {
        let said = |bringers: &[&str]| {
            let brought =
                |name: &&str| format!("[[package]]\nname = '{name}'\ndependencies = ['openssl 1.0']\n");
            let bringers: String = bringers.iter().map(brought).collect();
            policy().lock_complaints(&format!("{bringers}[[package]]\nname = 'openssl'\n").parse().unwrap())
        };
        assert_eq!(said(&["wrapper"]), [""; 0]);
        assert_eq!(said(&["wrapper", "other"]).len(), 1);
        assert_eq!(said(&[]).len(), 1);
    }
}
