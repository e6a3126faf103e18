//! The house stays livable: which room may know which, how long a file may be, what no line may hold.
//!
//! Reads sources as text and runs in a second. An exception is a line in a list here, with its reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms of the server and the rooms each may use. An edge that is not here is a question for review.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ground", &[]),
    ("config", &["ground"]),
    ("blob", &["ground"]),
    ("metadata", &["ground"]),
    ("cluster", &["ground", "metadata"]),
    ("upstream", &["ground"]),
    ("scan", &["ground"]),
    // ground: random ids for what it proposes
    ("registry", &["metadata", "blob", "upstream", "ground"]),
    ("auth", &["metadata", "ground"]),
    ("replication", &["registry", "metadata", "blob", "ground"]),
    ("jobs", &["registry", "metadata", "blob", "replication", "scan", "upstream", "cluster", "ground"]),
    ("api", &["auth", "registry", "cluster", "jobs", "ground", "http"]),
    ("http", &["api", "auth", "ground", "config"]),
    ("cli", &["api", "auth", "ground", "config", "node", "http", "blob", "metadata"]),
];

/// Lines a file may have. Above 500 it is usually two nouns.
const FILE_LINES_MAX: usize = 800;
/// Characters a line may have, as rustfmt keeps code.
const LINE_CHARS_MAX: usize = 120;
/// Lines a function may have, tests aside.
const FUNCTION_LINES_MAX: usize = 110;

/// Functions that may be longer, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// What stands at the top level, and nothing else.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "raft",
    "tests",
    "jepsen",
    "deploy",
    "docker-compose.yml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "Dockerfile",
    "build.rs",
    "clippy.toml",
    "rustfmt.toml",
    "deny.toml",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(under: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(under)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|found| found == extension) {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

fn all_rust() -> Vec<(String, String)> {
    let found = ["src", "raft", "jepsen", "tests"].iter().flat_map(|under| files(under, "rs"));
    found.map(|path| (relative(&path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The lines of code of a file: without comments, and without the tests at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn complain(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

// The arrow between rooms never turns back.
#[test]
fn rooms_know_only_whom_they_may() {
    let rooms: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut problems = Vec::new();
    for (path, text) in all_rust() {
        let Some(inner) = path.strip_prefix("src/").filter(|inner| !inner.starts_with("core/")) else { continue };
        let room = inner.split(['/', '.']).next().unwrap();
        let Some(may_use) = rooms.get(room) else { continue };
        for (number, line) in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                let is_stranger = rooms.contains_key(used) && used != room && !may_use.contains(&used);
                if is_stranger || used == "node" && room != "cli" {
                    problems.push(format!("{path}:{}: room '{room}' may not use '{used}'", number + 1));
                }
            }
        }
    }
    complain(&problems);
}

// Consensus knows nothing of registries, and nobody else names its engine; the pure core touches no world.
#[test]
fn packages_keep_their_secrets() {
    let mut problems = Vec::new();
    for (path, text) in all_rust() {
        let banned: &[&str] = if path.starts_with("raft/") {
            &["repository", "manifest_", "registry_core"]
        } else if path.starts_with("src/core/") && !path.starts_with("src/core/tests/") {
            &["openraft", "tokio", "std::fs", "TcpStream", "SystemTime", "Instant", "HashMap", "tracing::", "async "]
        } else {
            &["openraft"]
        };
        for (number, line) in code(&text) {
            for word in banned.iter().filter(|word| line.contains(**word) && path != "tests/tidy.rs") {
                problems.push(format!("{path}:{}: '{word}' has no place here", number + 1));
            }
        }
    }
    complain(&problems);
}

// Files and lines stay readable; nothing is left lying about.
#[test]
fn files_are_readable() {
    let mut problems = Vec::new();
    for (path, text) in all_rust() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!("{path}: {lines} lines; it is probably two nouns"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX && !line.contains("http") && !line.contains('"') {
                problems.push(format!("{path}:{}: line is too long", number + 1));
            }
            let leftovers = ["TODO", "FIXME", "XXX:", "HACK", "dbg!("];
            for word in leftovers.iter().filter(|word| line.contains(**word) && path != "tests/tidy.rs") {
                problems.push(format!("{path}:{}: leftover '{word}'", number + 1));
            }
        }
        if path.ends_with("/mod.rs") && !text.starts_with("//!") {
            problems.push(format!("{path}: a room opens with what it is, what it never does, where to start"));
        }
    }
    complain(&problems);
}

// Functions stay short. A function ends at the first line that closes its indentation.
#[test]
fn functions_are_short() {
    let mut problems = Vec::new();
    for (path, text) in all_rust().into_iter().filter(|(path, _)| !is_test(path)) {
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in code(&text) {
            let indent = line.len() - line.trim_start().len();
            let trimmed = line.trim_start();
            if let Some((start, depth, name)) = &open {
                if indent == *depth && trimmed.starts_with('}') {
                    let length = number - start + 1;
                    if length > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.iter().any(|(long, _)| long == name) {
                        problems.push(format!("{path}:{}: function '{name}' has {length} lines", start + 1));
                    }
                    open = None;
                }
            } else if let Some(name) = function_opened(trimmed) {
                open = Some((number, indent, name));
            }
        }
    }
    complain(&problems);
}

/// Whether a file holds nothing but tests: a table of cases may be long.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The name of the function whose body or signature this line opens and does not close.
fn function_opened(trimmed: &str) -> Option<String> {
    let at = trimmed.find("fn ").filter(|_| !trimmed.ends_with([';', '}']))?;
    let qualifiers = ["", "pub", "pub(crate)", "pub(super)", "async", "const"];
    let is_item = trimmed[..at].split(' ').all(|word| qualifiers.contains(&word));
    is_item.then(|| trimmed[at + 3..].split(['(', '<']).next().unwrap().to_owned())
}

// Every file of the integration tests is part of the one binary: an unlisted file would never run.
#[test]
fn integration_tests_are_listed() {
    let mut problems = Vec::new();
    for dir in ["tests/it", "tests/sim"] {
        let Ok(main) = std::fs::read_to_string(root().join(dir).join("main.rs")) else { continue };
        for path in files(dir, "rs") {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let parent = path.parent().unwrap();
            let list = match stem.as_str() {
                "main" | "mod" => continue,
                _ if parent.ends_with(dir) => main.clone(),
                _ => std::fs::read_to_string(parent.join("mod.rs")).unwrap_or_default(),
            };
            if !list.contains(&format!("mod {stem};")) {
                problems.push(format!("{}: listed nowhere, so it never runs", relative(&path)));
            }
        }
    }
    complain(&problems);
}

// The top level holds the fixed names and what convention puts there.
#[test]
fn top_level_is_fixed() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Ok(listed) = listed.map(|output| String::from_utf8(output.stdout).unwrap()) else { return };
    let mut names: Vec<&str> = listed.lines().map(|line| line.split('/').next().unwrap()).collect();
    names.dedup();
    let strange = names.iter().filter(|name| !TOP_LEVEL.contains(name) && !name.starts_with('.'));
    complain(&strange.map(|name| format!("{name}: no place at the top level")).collect::<Vec<_>>());
}

// The words of the house: one word for one idea, and none that the field has left behind.
#[test]
fn words() {
    let banned = ["mas\u{74}er", "sla\u{76}e", "white\u{6c}ist", "black\u{6c}ist"];
    let mut problems = Vec::new();
    let docs =
        files("src/docs", "md").into_iter().map(|path| (relative(&path), std::fs::read_to_string(path).unwrap()));
    for (path, text) in all_rust().into_iter().chain(docs) {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            for word in banned.iter().filter(|word| lower.contains(**word)) {
                problems.push(format!("{path}:{}: say leader, primary or allow-list, not '{word}'", number + 1));
            }
        }
    }
    complain(&problems);
}

/// The security cases: how many each group has, by its letter.
const SECURITY_CASES: [(char, usize); 11] = [
    ('A', 28),
    ('T', 24),
    ('M', 20),
    ('B', 18),
    ('L', 10),
    ('H', 12),
    ('P', 13),
    ('G', 10),
    ('R', 22),
    ('S', 8),
    ('U', 10),
];

// Every security case stands in the table once, tested or owed by a named issue, and every test it names exists.
#[test]
fn security_cases_are_accounted_for() {
    const TABLE: &str = "src/docs/security-cases.md";
    let text = std::fs::read_to_string(root().join(TABLE)).unwrap();
    let mut missing: Vec<String> = SECURITY_CASES
        .iter()
        .flat_map(|(group, count)| (1..=*count).map(move |number| format!("{group}{number}")))
        .collect();
    let mut problems = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Id ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _, state, evidence] = cells[..] else {
            problems.push(format!("{TABLE}: four cells are wanted: {line}"));
            continue;
        };
        let id = id.trim_end_matches(" [H]");
        match missing.iter().position(|wanted| wanted == id) {
            Some(at) => drop(missing.remove(at)),
            None => problems.push(format!("{TABLE}: {id} stands here twice, or is no case")),
        }
        let tests: Vec<&str> = evidence.split('`').skip(1).step_by(2).filter(|word| word.contains('/')).collect();
        match state {
            "tested" if tests.is_empty() => problems.push(format!("{TABLE}: {id} is tested by nothing")),
            "owed" if !evidence.contains("issue") => problems.push(format!("{TABLE}: {id} is owed by nobody")),
            "tested" | "owed" | "in work" => {}
            _ => problems.push(format!("{TABLE}: {id} is '{state}'; it is tested, owed or in work")),
        }
        problems.extend(tests.into_iter().filter_map(|test| Some(format!("{TABLE}: {id}: {}", no_test(test)?))));
    }
    problems.extend(missing.iter().map(|id| format!("{TABLE}: {id} is missing")));
    complain(&problems);
}

/// Why a name like `tests/it/main.rs::name` names no test. A script is named by its path alone.
fn no_test(named: &str) -> Option<String> {
    let (path, function) = named.split_once("::").map_or((named, None), |(path, name)| (path, Some(name)));
    let Ok(text) = std::fs::read_to_string(root().join(path)) else { return Some(format!("there is no {path}")) };
    let Some(function) = function else {
        return path.ends_with(".rs").then(|| format!("{named} names no test of its file"));
    };
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let opens = |line: &str| line.trim_start_matches("async ").starts_with(&format!("fn {function}("));
    let at = lines.iter().position(|line| opens(line));
    let is_test =
        |at: usize| lines[..at].iter().rev().take_while(|line| line.starts_with('#')).any(|line| line.contains("test"));
    match at {
        Some(at) if is_test(at) => None,
        Some(_) => Some(format!("{named} is no test")),
        None => Some(format!("there is no {named}")),
    }
}
