//! Rules for one Rust file: how it opens, how long it is, which words it may contain and which names it may give.
//! Owns the lists of banned words with their reasons; refuses what the compiler or clippy already checks.

use crate::code;
use crate::tree::Source;

const MAX_LINES: usize = 600;

/// The one file that may hold `unsafe`, should it ever be needed.
const UNSAFE_HOME: &str = "gateway/crates/net/src/sys.rs";

/// Where a phrase must not stand, and what to do instead. The layers of `layers.rs`, seen from inside the files.
struct Ban {
    under: &'static str,
    phrases: &'static [&'static str],
    except: &'static [&'static str],
    instead: &'static str,
}

const BANS: [Ban; 8] = [
    Ban {
        under: "gateway/crates/wire/src/",
        phrases: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "std::thread",
            "Instant",
            "SystemTime",
            "async",
            "tokio",
            "mio",
        ],
        except: &[],
        instead: "wire is functions over bytes: take bytes and times as arguments",
    },
    Ban {
        under: "gateway/crates/store/src/",
        phrases: &["std::thread", "Instant", "SystemTime", "RefCell", "TcpStream", "async", "tokio", "mio"],
        except: &[],
        instead: "store is memory structures: time is a tick argument, sharing is the caller's",
    },
    Ban {
        under: "gateway/crates/bridge/src/",
        phrases: &["mio", "hyper", "TcpStream"],
        except: &[],
        instead: "bridge knows no network and no backend: move it to the crate that does",
    },
    Ban {
        under: "gateway/crates/shard/src/",
        phrases: &[
            "Instant::now",
            "SystemTime",
            "TcpStream",
            "TcpListener",
            "async",
            "tokio",
            "mio",
            "std::thread",
        ],
        except: &[],
        instead: "the shard decides and never waits: time comes through turn(now), the network through Net",
    },
    Ban {
        under: "gateway/crates/shard/src/",
        phrases: &["Mutex", "RwLock", "Condvar"],
        // Peers are one of the two tables that shards share; the other is the switchboard, in bridge.
        // Blocks are set once in a while and read at admission, which an empty list does with a load.
        except: &["gateway/crates/shard/src/limit/peers.rs", "gateway/crates/shard/src/limit/blocks.rs"],
        instead: "shards share nothing: send a command through a mailbox",
    },
    Ban {
        under: "gateway/crates/net/src/",
        phrases: &["async", "await", "tokio"],
        except: &[],
        instead: "net makes system calls from one event loop per shard; what awaits lives in backend or gateway",
    },
    Ban {
        under: "gateway/crates/backend/src/",
        phrases: &["mio", "socket2"],
        except: &[],
        instead: "backends speak through tokio; connections of clients belong to net",
    },
    Ban {
        under: "",
        phrases: &["thread_local!", "static mut"],
        except: &[],
        instead: "hand the value down instead",
    },
];

/// Everything the house rules have against this file.
pub(crate) fn complaints(source: &Source) -> Vec<String> {
    let mut found = layout_complaints(source);
    found.extend(path_complaint(&source.path));
    found.extend(BANS.iter().flat_map(|ban| ban_complaints(ban, source)));
    found.extend(name_complaints(source));
    found.extend(leftover_complaints(source));
    found.extend(global_complaints(source));
    found.extend(sleep_complaints(source));
    found
}

/// Lines that version control wrote where two changes met, in a file of any kind.
pub(crate) fn conflict_complaints(path: &str, text: &str) -> Vec<String> {
    // Of seven signs each, and composed here so that this file passes.
    let begins = ["<", "|", ">"].map(|sign| sign.repeat(7) + " ");
    let divides = "=".repeat(7);
    let is_marker = |line: &str| line == divides || begins.iter().any(|begin| line.starts_with(begin));
    let lines = text.lines().enumerate().filter(|(_, line)| is_marker(line));
    lines.map(|(index, _)| format!("{path}:{}: decide between the two sides of a merge", index + 1)).collect()
}

/// Crate roots forbid unsafe code; `net` may only deny it, so that its one file can allow it again.
pub(crate) fn root_complaint(source: &Source) -> Option<String> {
    let holds = |line: &str| code::lines_with(&source.code, line).next().is_some();
    let home = UNSAFE_HOME.rsplit_once('/').is_some_and(|(folder, _)| source.path.starts_with(folder));
    let kept = holds("#![forbid(unsafe_code)]") || (home && holds("#![deny(unsafe_code)]"));
    (!kept).then(|| format!("{}: add #![forbid(unsafe_code)] below the opening comment", source.path))
}

fn layout_complaints(source: &Source) -> Vec<String> {
    let Source { path, text, .. } = source;
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!(
            "{path}:1: open with //! and say what the file owns, what it refuses, who calls it"
        ));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{path}: {lines} lines, at most {MAX_LINES}: look for the second idea in it"));
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        found.push(format!("{path}: end with exactly one newline"));
    }
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        if line.contains('\t') {
            found.push(format!("{path}:{number}: spaces, not tabs (in a literal, write \\t)"));
        }
        if line.ends_with([' ', '\r']) {
            found.push(format!("{path}:{number}: remove the space at the end of the line"));
        }
    }
    found
}

/// Names of files, folders and modules that say nothing about what is inside.
fn path_complaint(path: &str) -> Option<String> {
    const EMPTY: [&str; 7] = ["common", "util", "utils", "helper", "helpers", "misc", "shared"];
    let part = path.split(['/', '.']).find(|part| EMPTY.contains(part))?;
    Some(format!("{path}: `{part}` says nothing: name the file after what it holds"))
}

fn ban_complaints(ban: &Ban, source: &Source) -> Vec<String> {
    if !source.path.starts_with(ban.under) || ban.except.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let place = |phrase: &str| {
        let lines: Vec<usize> = code::lines_with(&source.code, phrase).collect();
        lines
            .into_iter()
            .map(|line| format!("{}:{line}: `{phrase}`: {}", source.path, ban.instead))
            .collect::<Vec<_>>()
    };
    ban.phrases.iter().flat_map(|phrase| place(phrase)).collect()
}

/// Names this file gives (not those it uses: other people's crates have their own taste).
fn name_complaints(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut previous = "";
    for (line, word) in code::words(&source.code) {
        let place = format!("{}:{line}: `{word}`", source.path);
        match previous {
            // `get_mut` is how Rust's own collections name the twin of `get`; gateway.v1 has a GetConnection, as is the
            // custom of Protobuf.
            "fn" if word.starts_with("get_") && !["get_mut", "get_connection"].contains(&word) => {
                found.push(format!("{place}: leave out get_"))
            }
            "struct" | "enum" | "trait" | "type" | "mod" => {
                found.extend(
                    empty_word(word)
                        .map(|empty| format!("{place}: `{empty}` is no word of ours: say what it does")),
                );
            }
            _ => {}
        }
        previous = word;
    }
    found
}

/// The part of a name, in CamelCase or snake_case, that could stand in any name.
fn empty_word(name: &str) -> Option<&'static str> {
    const EMPTY: [&str; 6] = ["manager", "handler", "helper", "helpers", "util", "utils"];
    let mut spaced = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(c.to_lowercase());
    }
    EMPTY.into_iter().find(|empty| spaced.split('_').any(|part| part == *empty))
}

fn leftover_complaints(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for leftover in ["todo!", "unimplemented!", "dbg!"] {
        for line in code::lines_with(&source.code, leftover) {
            found.push(format!("{}:{line}: finish it or take `{leftover}` out", source.path));
        }
    }
    if source.path != UNSAFE_HOME {
        for line in code::lines_with(&source.code, "unsafe") {
            found.push(format!("{}:{line}: `unsafe` may stand in {UNSAFE_HOME} only", source.path));
        }
    }
    found
}

/// State outside any value, in a library: two gateways in one test process would share it.
fn global_complaints(source: &Source) -> Vec<String> {
    const CHANGING: [&str; 7] = ["Mutex", "RwLock", "OnceLock", "LazyLock", "Cell", "OnceCell", "Atomic"];
    if !source.path.starts_with("gateway/crates/") && !source.path.starts_with("config/") {
        return Vec::new();
    }
    let changes =
        |line: &str| code::words(line).any(|(_, word)| CHANGING.iter().any(|c| word.starts_with(c)));
    let is_item = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        words.next() == Some("static")
    };
    let lines = source.code.lines().enumerate().filter(|(_, line)| is_item(line) && changes(line));
    lines
        .map(|(index, _)| format!("{}:{}: no globals: hand the value down", source.path, index + 1))
        .collect()
}

/// Tests wait for conditions. Looks at test files, and at what follows `#[cfg(test)]` elsewhere.
fn sleep_complaints(source: &Source) -> Vec<String> {
    let test_file = source.path.contains("/tests/");
    let begins = source.code.lines().position(|line| line.trim() == "#[cfg(test)]").filter(|_| !test_file);
    let first = match (test_file, begins) {
        (true, _) => 1,
        (false, Some(index)) => index + 1,
        (false, None) => return Vec::new(),
    };
    let lines = code::lines_with(&source.code, "sleep").filter(|&line| line >= first);
    lines.map(|line| format!("{}:{line}: a test waits for a condition, not for time", source.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said about `text` when it is the rest of a file at `path`.
    fn said(path: &str, text: &str) -> String {
        complaints(&Source::new(path, &format!("//! Owns.\n{text}\n"))).join("\n")
    }

    #[test]
    fn a_clean_file_gets_no_complaint() {
        assert_eq!(said("gateway/crates/wire/src/lib.rs", "/// unsafe async todo!\npub fn head() {}"), "");
    }

    #[test]
    fn layout_is_checked() {
        let at = |text: &str| complaints(&Source::new("a/b.rs", text)).join("\n");
        assert!(at("fn a() {}\n").contains("a/b.rs:1: open with //!"));
        assert!(at("//! A.\nfn a() {} \n").contains("a/b.rs:2: remove the space"));
        assert!(at("//! A.\n\tx\n").contains("a/b.rs:2: spaces, not tabs"));
        assert!(at("//! A.").contains("exactly one newline"));
        assert!(at(&format!("//! A.\n{}", "x\n".repeat(MAX_LINES))).contains("601 lines"));
    }

    #[test]
    fn words_of_other_layers_are_refused_where_they_do_not_belong() {
        let shard = "gateway/crates/shard/src/turn.rs";
        for word in ["Instant::now()", "async fn a() {}", "use tokio::sync;", "Mutex::new(1)"] {
            assert!(said(shard, word).contains("turn.rs:2"), "{word} in the shard");
            assert_eq!(said("gateway/src/app.rs", word), "", "{word} in the binary");
        }
        assert_eq!(said("gateway/crates/shard/src/limit/peers.rs", "Mutex::new(1)"), "");
        assert!(said("gateway/crates/net/src/socket.rs", "x.await").contains("`await`"));
        assert!(said("gateway/crates/store/src/conns.rs", "Rc<RefCell<u8>>").contains("`RefCell`"));
        assert!(said("gateway/src/app.rs", "thread_local! { }").contains("hand the value down"));
    }

    #[test]
    fn empty_names_are_refused() {
        assert!(said("a/src/lib.rs", "struct ConnManager;").contains("`manager`"));
        assert!(said("a/src/lib.rs", "mod net_utils;").contains("`utils`"));
        assert!(said("a/src/lib.rs", "fn get_peer() {}").contains("leave out get_"));
        assert_eq!(said("a/src/lib.rs", "use x::SomeHandler; x.get_ref(); struct Utility;"), "");
        assert!(said("a/src/common/mod.rs", "").contains("`common` says nothing"));
    }

    #[test]
    fn leftovers_unsafe_and_globals_are_refused() {
        assert!(said("a/src/lib.rs", "fn a() { todo!() }").contains("finish it"));
        assert!(said("a/src/lib.rs", "unsafe { a() }").contains("may stand in"));
        assert_eq!(said(UNSAFE_HOME, "unsafe { a() }"), "");
        assert!(
            said("config/src/lib.rs", "pub static A: AtomicU8 = AtomicU8::new(0);").contains("no globals")
        );
        assert_eq!(said("config/src/lib.rs", "static A: &str = \"Mutex\";"), "");
    }

    #[test]
    fn a_sleeping_test_is_refused() {
        let sleeps = "thread::sleep(x);";
        assert!(said("gateway/tests/echo.rs", sleeps).contains("waits for a condition"));
        assert!(
            said("a/src/lib.rs", &format!("#[cfg(test)]\nmod tests {{ {sleeps} }}")).contains("lib.rs:3")
        );
        assert_eq!(said("a/src/lib.rs", sleeps), "");
    }

    #[test]
    fn both_sides_of_a_merge_are_refused() {
        let marked = |sign: &str, rest: &str| format!("a\n{}{rest}\nb\n", sign.repeat(7));
        for text in [marked("<", " HEAD"), marked("|", " base"), marked("=", ""), marked(">", " other")] {
            assert!(conflict_complaints("X.md", &text)[0].starts_with("X.md:2: decide"), "{text}");
        }
        for text in [marked("=", "="), marked("<", ""), "| a | b |\n|---|---|\n".to_owned()] {
            assert_eq!(conflict_complaints("X.md", &text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_crate_root_without_the_attribute_is_named() {
        let at = |path: &str, text: &str| root_complaint(&Source::new(path, text));
        assert!(at("config/src/lib.rs", "//! #![forbid(unsafe_code)]\n").is_some());
        assert!(at("config/src/lib.rs", "//! A.\n#![deny(unsafe_code)]\n").is_some());
        assert_eq!(at("config/src/lib.rs", "//! A.\n#![forbid(unsafe_code)]\n"), None);
        assert_eq!(at("gateway/crates/net/src/lib.rs", "//! A.\n#![deny(unsafe_code)]\n"), None);
    }
}
