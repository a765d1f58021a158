//! House rules, read from the sources as text. Each rule is a function from files to complaints, and each has a case that
//! it must complain about: a rule that cannot fail protects nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which room may name which others. `clock` and `progress` are open to all but the pure ones.
const EDGES: [(&str, &[&str]); 20] = [
    ("main", &["cli", "config"]),
    ("lib", &[]),
    (
        "cli",
        &[
            "config",
            "backup",
            "restore",
            "lifecycle",
            "verify",
            "doctor",
            "repository",
            "replica",
            "format",
            "chunk",
            "seal",
            "store",
            "command",
            "metrics",
        ],
    ),
    ("config", &["backup", "restore", "lifecycle", "verify", "metrics", "repository", "replica", "format", "seal", "store"]),
    ("backup", &["repository", "replica", "format", "chunk", "seal", "source", "store"]),
    // A target is compared with the same eyes that read the source.
    ("restore", &["repository", "replica", "format", "chunk", "seal", "source", "store"]),
    ("lifecycle", &["verify", "repository", "replica", "format", "chunk", "seal", "store"]),
    ("verify", &["repository", "replica", "format", "chunk", "seal", "store"]),
    ("doctor", &["repository", "replica", "store"]),
    ("repository", &["replica", "format", "chunk", "seal", "store"]),
    ("replica", &["store"]),
    ("format", &["chunk", "seal"]),
    // The output of a command is a source.
    ("source", &["command"]),
    ("command", &[]),
    ("metrics", &[]),
    ("store", &[]),
    ("chunk", &[]),
    ("seal", &["chunk"]),
    ("progress", &[]),
    ("clock", &[]),
];
const OPEN_TO_ALL: [&str; 2] = ["clock", "progress"];

/// Where nothing waits, reads or draws: bytes in, bytes out.
const PURE: [&str; 9] = [
    "chunk/",
    "seal/",
    "format/",
    "restore/plan.rs",
    "lifecycle/heal_plan.rs",
    "lifecycle/prune_plan.rs",
    "lifecycle/retention/",
    "doctor/judge/",
    "cli/exit.rs",
];
const IMPURE: [&str; 11] = [
    "async ",
    ".await",
    "tokio",
    "crate::clock",
    "crate::progress",
    "std::fs",
    "std::net",
    "std::thread::spawn",
    "std::process",
    "std::env",
    "std::time::Instant",
];

/// Crates whose types must not spread: each is named in one file.
const ONE_FILE_EACH: [&str; 13] = [
    "object_store",
    "opendal",
    "zstd",
    "aes_gcm",
    "argon2",
    "getrandom",
    "indicatif",
    "rpassword",
    "clap_complete",
    "clap_mangen",
    "globset",
    "prometheus_client",
    "tracing_subscriber",
];

/// Crates of one provider: named in its files only.
const ONE_PROVIDER_EACH: [(&str, &str); 17] = [
    ("aws_sdk_s3", "store/s3/"),
    ("aws_config", "store/s3/"),
    ("aws_credential_types", "store/s3/"),
    ("aws_smithy_http_client", "store/s3/"),
    ("aws_smithy_runtime", "store/s3/"),
    ("aws_smithy_runtime_api", "store/s3/"),
    ("aws_smithy_types", "store/s3/"),
    ("aws_types", "store/s3/"),
    ("async_trait", "store/azure/"),
    ("azure_core", "store/azure/"),
    ("azure_identity", "store/azure/"),
    ("azure_storage_blob", "store/azure/"),
    ("azure_storage_blobs", "store/azure/"),
    ("hmac", "store/azure/"),
    ("google_cloud_auth", "store/gcs/"),
    ("google_cloud_gax", "store/gcs/"),
    ("google_cloud_storage", "store/gcs/"),
];

/// Plain HTTP: Azure's SDK sends by it, Google's metadata server is asked by it for others than Google, and those who watch a run
/// are told by it.
const FEW_PLACES: [(&str, &[&str]); 1] = [("reqwest", &["store/azure/", "store/metadata_server.rs", "metrics/post.rs"])];

/// Time, chance, work and surroundings come from one place each.
const AMBIENT: [(&str, &str); 19] = [
    ("SystemTime::now", "clock.rs"),
    ("Instant::now", "clock.rs"),
    ("Timestamp::now", "clock.rs"),
    ("Zoned::now", "clock.rs"),
    ("thread::sleep", "clock.rs"),
    ("tokio::time::", "clock.rs"),
    ("tokio::spawn", "clock.rs"),
    ("spawn_blocking", "clock.rs"),
    ("thread::spawn", "clock.rs"),
    ("getrandom::", "clock.rs"),
    ("rand::", "clock.rs"),
    ("RandomState", "clock.rs"),
    ("HashMap::new", "nowhere"),
    ("HashSet::new", "nowhere"),
    ("env::var", "config/mod.rs"),
    ("env::var_os", "config/mod.rs"),
    ("env::vars_os", "config/mod.rs"),
    ("current_dir()", "cli/mod.rs"),
    ("process::exit", "cli/mod.rs"),
];

/// Files over [`LINES_MAX`] code lines, each with the reason why it is one idea all the same.
const LONG: [(&str, &str); 0] = [];
const LINES_MAX: usize = 400;

const BANNED_NAMES: [&str; 13] =
    ["util", "utils", "common", "misc", "helper", "helpers", "manager", "types", "base", "core", "blob", "manifest", "backend"];

/// A source file: its path below `src/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }
    /// The room it belongs to.
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
    /// Its text without comments, literals and its own tests.
    fn code(&self) -> String {
        let code = without_comments_and_literals(&self.text);
        code.find(TESTS).map_or(code.clone(), |at| code[..at].to_owned())
    }
}

const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Comments and the insides of literals become nothing; line breaks stay.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // The end of a literal that closes with `end`, seen from behind its opening.
    let skip = |from: &str, end: &str, escapes: bool| -> usize {
        let mut at = 0;
        while at < from.len() {
            if escapes && from[at..].starts_with('\\') {
                at += 1 + from[at + 1..].chars().next().map_or(0, char::len_utf8);
            } else if from[at..].starts_with(end) {
                return at + end.len();
            } else {
                at += from[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        from.len()
    };
    while let Some(c) = rest.chars().next() {
        let word_before = out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            let (mut depth, mut at) = (0, 0);
            loop {
                let here = &rest[at..];
                if here.starts_with("/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if here.starts_with("*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += here.chars().next().map_or(1, char::len_utf8);
                }
                if depth == 0 || at >= rest.len() {
                    break at.min(rest.len());
                }
            }
        } else if c == 'r' && !word_before && rest[1..].trim_start_matches('#').starts_with('"') {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let open = 2 + hashes;
            open + skip(&rest[open..], &format!("\"{}", "#".repeat(hashes)), false)
        } else if c == '"' {
            1 + skip(&rest[1..], "\"", true)
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'')) {
            1 + skip(&rest[1..], "'", true)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..taken].matches('\n'));
        rest = &rest[taken..];
    }
    out
}

/// Every place where `word` stands in `code` as a whole path segment.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = word.chars().next_back().is_some_and(part) && code[at + word.len()..].chars().next().is_some_and(part);
        !(after || before && word.chars().next().is_some_and(part))
    })
}

fn edges(sources: &[Source]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let mut complaints = Vec::new();
    for source in sources {
        let code = source.code();
        let Some(allowed) = table.get(source.room()) else {
            complaints.push(format!("{}: the room {} has no row in EDGES", source.path, source.room()));
            continue;
        };
        for way in ["crate::", "holdfast::"] {
            for (at, _) in code.match_indices(way) {
                let end = |c: char| !(c.is_alphanumeric() || c == '_');
                let room = code[at + way.len()..].split(end).next().unwrap_or_default();
                let pure = PURE.iter().any(|p| source.path.starts_with(p));
                let open = OPEN_TO_ALL.contains(&room) && !pure;
                if room.is_empty() {
                    complaints.push(format!("{}: rooms are addressed by full path, one by one, not `{way}{{`", source.path));
                } else if room != source.room() && !open && !allowed.contains(&room) {
                    complaints.push(format!("{}: {} must not import {room}", source.path, source.room()));
                }
            }
        }
        if names(&code, "super::") {
            complaints.push(format!("{}: `super::` hides where a name lives", source.path));
        }
    }
    complaints
}

fn one_file_each(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for word in ONE_FILE_EACH {
        let users: Vec<&str> = sources.iter().filter(|s| names(&s.code(), word)).map(|s| s.path.as_str()).collect();
        if users.len() > 1 {
            complaints.push(format!("{word} is named in {}: one file each", users.join(", ")));
        }
    }
    complaints
}

fn one_provider_each(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (word, folder) in ONE_PROVIDER_EACH {
        for source in sources.iter().filter(|s| !s.path.starts_with(folder) && names(&s.code(), word)) {
            complaints.push(format!("{}: {word} belongs to {folder}", source.path));
        }
    }
    complaints
}

fn few_places(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (word, places) in FEW_PLACES {
        let elsewhere = |s: &&Source| !places.iter().any(|place| s.path.starts_with(place)) && names(&s.code(), word);
        for source in sources.iter().filter(elsewhere) {
            complaints.push(format!("{}: {word} belongs to {}", source.path, places.join(" and ")));
        }
    }
    complaints
}

fn pure_rooms(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|s| PURE.iter().any(|p| s.path.starts_with(p))) {
        let code = source.code();
        for word in IMPURE.iter().filter(|word| names(&code, word)) {
            complaints.push(format!("{}: `{}` in a pure room", source.path, word.trim()));
        }
    }
    complaints
}

fn ambient(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let code = source.code();
        for (word, owner) in AMBIENT.iter().filter(|(word, owner)| names(&code, word) && source.path != *owner) {
            complaints.push(format!("{}: `{word}` belongs to {owner}; take an Env", source.path));
        }
    }
    complaints
}

fn code_lines(source: &Source) -> usize {
    source.code().lines().filter(|line| !line.trim().is_empty()).count()
}

fn lengths(sources: &[Source], long: &[(&str, &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let (lines, reason) = (code_lines(source), long.iter().find(|(path, _)| *path == source.path));
        match reason {
            None if lines > LINES_MAX => complaints.push(format!("{}: {lines} code lines, at most {LINES_MAX}", source.path)),
            Some(_) if lines <= LINES_MAX => complaints.push(format!("{}: short enough now, take it out of LONG", source.path)),
            _ => {}
        }
    }
    for (path, reason) in long {
        if reason.len() < 20 || !sources.iter().any(|s| s.path == *path) {
            complaints.push(format!("LONG: {path} is gone, or its reason says nothing"));
        }
    }
    complaints
}

fn file_names(sources: &[Source]) -> Vec<String> {
    let banned = |s: &&Source| s.path.trim_end_matches(".rs").split('/').any(|part| BANNED_NAMES.contains(&part));
    sources.iter().filter(banned).map(|s| format!("{}: the name says nothing", s.path)).collect()
}

/// Every file says first what it is for; a room says it in at most 15 lines.
fn headers(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if lines == 0 {
            complaints.push(format!("{}: opens with no `//!` line", source.path));
        }
        if source.path == format!("{}/mod.rs", source.room()) {
            let header: String = source.text.lines().take(lines).collect::<Vec<_>>().join(" ");
            let parts = ["What is here", "What comes in", "What goes out", "What never happens here"];
            if lines > 15 || parts.iter().any(|part| !header.replace(" //! ", " ").contains(part)) {
                complaints.push(format!("{}: its header must say, in at most 15 lines: {}", source.path, parts.join(", ")));
            }
        }
    }
    complaints
}

fn imports(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let code = without_comments_and_literals(&source.text);
        let flat: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
        for (at, _) in flat.match_indices("use ") {
            let word = flat[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
            let statement = flat[at..].split(';').next().unwrap_or_default();
            let exported = flat[..at].trim_end().ends_with("pub") || flat[..at].trim_end().ends_with(')');
            if !word && statement.ends_with('*') | statement.contains("::*") {
                complaints.push(format!("{}: `{statement}` hides what is imported", source.path));
            }
            if !word && exported && statement.contains("crate::") {
                complaints.push(format!("{}: `pub {statement}` gives a thing two addresses", source.path));
            }
        }
    }
    complaints
}

/// Tests stand last: behind them no rule looks.
fn tests_last(sources: &[Source]) -> Vec<String> {
    let late = |source: &&Source| {
        let code = without_comments_and_literals(&source.text);
        code.find(TESTS).is_some_and(|at| code[at..].find("\n}").is_some_and(|end| !code[at + end + 2..].trim().is_empty()))
    };
    sources.iter().filter(late).map(|s| format!("{}: code behind its tests", s.path)).collect()
}

/// The map names every room, and nothing else.
fn map(sources: &[Source]) -> Vec<String> {
    let Some(lib) = sources.iter().find(|s| s.path == "lib.rs") else { return vec!["there is no lib.rs".into()] };
    let rooms: BTreeSet<&str> = sources.iter().map(Source::room).filter(|room| !["lib", "main"].contains(room)).collect();
    let mut complaints = Vec::new();
    for room in rooms {
        if !lib.text.contains(&format!("//! | [`{room}`] |")) || !lib.text.contains(&format!("pub mod {room};")) {
            complaints.push(format!("lib.rs: the map does not show {room}"));
        }
    }
    complaints
}

/// Every file of the suite is part of it.
fn suite(files: &[String], main: &str) -> Vec<String> {
    let listed = |file: &&String| file.as_str() == "main" || main.lines().any(|line| line == format!("mod {file};"));
    files.iter().filter(|file| !listed(file)).map(|file| format!("tests/suite/{file}.rs is not listed in main.rs")).collect()
}

fn read(folder: &Path, below: &str, into: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a UTF-8 name");
        let path = format!("{below}{name}");
        if entry.file_type().expect("a type").is_dir() {
            read(&entry.path(), &format!("{path}/"), into);
        } else if name.ends_with(".rs") {
            into.push(Source { path, text: std::fs::read_to_string(entry.path()).expect("a UTF-8 file") });
        }
    }
    into.sort_by(|a, b| a.path.cmp(&b.path));
}

fn house() -> Vec<Source> {
    let mut sources = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    assert!(sources.len() > 40, "the sources were found");
    sources
}

fn holds(rule: impl Fn(&[Source]) -> Vec<String>) {
    let complaints = rule(&house());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// `rule` complains exactly once about `text` at `path`, and not at all about `fine`.
fn complains(rule: impl Fn(&[Source]) -> Vec<String>, path: &str, text: &str, fine: &str) {
    assert_eq!(rule(&[Source::new(path, text)]).len(), 1, "{text}");
    assert_eq!(rule(&[Source::new(path, fine)]), Vec::<String>::new(), "{fine}");
}

#[test]
fn imports_point_down() {
    holds(edges);
    complains(edges, "store/retry.rs", "use crate::replica::Mask;", "use crate::clock::Env; // crate::replica");
    complains(edges, "backup/walk.rs", "fn f() { crate::restore::run() }", "fn f() { \"crate::restore\"; crate::backup::x() }");
    complains(edges, "seal/mod.rs", "use crate::clock::Env;", "use crate::chunk::id::ChunkId;");
    complains(edges, "cli/ls.rs", "use crate::{repository};", "use crate::repository::Repository;");
    complains(edges, "cli/ls.rs", "use super::x;", "#[cfg(test)]\nmod tests {\n    use super::x;\n}\n");
    assert_eq!(edges(&[Source::new("kitchen/mod.rs", "")]).len(), 1, "a room without a row");
}

#[test]
fn crates_stay_in_their_file() {
    holds(one_file_each);
    let two = |second: &str| {
        one_file_each(&[Source::new("seal/encrypt.rs", "use aes_gcm::Key;"), Source::new("store/limit.rs", second)])
    };
    assert_eq!(two("fn f(c: aes_gcm::Error) {}").len(), 1);
    assert_eq!(two("// aes_gcm\nfn my_aes_gcm() {}").len(), 0);
    holds(one_provider_each);
    complains(one_provider_each, "store/limit.rs", "use aws_sdk_s3::Client;", "// aws_sdk_s3\nfn my_aws_sdk_s3() {}");
    holds(few_places);
    complains(few_places, "cli/run.rs", "reqwest::get(url)", "// reqwest\nfn my_reqwest() {}");
    assert!(few_places(&[Source::new("metrics/post.rs", "use reqwest::Client;")]).is_empty());
    assert!(one_provider_each(&[Source::new("store/s3/mod.rs", "use aws_sdk_s3::Client;")]).is_empty());
}

#[test]
fn pure_rooms_are_pure() {
    holds(pure_rooms);
    complains(pure_rooms, "format/pack.rs", "pub async fn f() {}", "pub fn asyncify() {}");
    complains(pure_rooms, "chunk/id.rs", "use std::fs::File;", "// std::fs\n");
    complains(pure_rooms, "restore/plan.rs", "use tokio::sync::mpsc;", "fn f() { let s = \"tokio\"; }");
}

#[test]
fn time_and_chance_are_handed_in() {
    holds(ambient);
    complains(ambient, "store/retry.rs", "let t = std::time::Instant::now();", "use std::time::Instant;");
    complains(ambient, "backup/walk.rs", "let m = std::collections::HashMap::new();", "let m = BTreeMap::new();");
    complains(ambient, "cli/ls.rs", "std::env::var_os(x);", "let x = strand::f();");
    assert!(ambient(&[Source::new("clock.rs", "getrandom::fill(x); SystemTime::now()")]).is_empty());
}

#[test]
fn files_are_short() {
    holds(|sources| lengths(sources, &LONG));
    let lines = |n: usize| "let x = 1; // why\n".repeat(n) + "\n// only a comment\n" + TESTS + "\nlet y = 2;\n}\n";
    complains(|s| lengths(s, &[]), "a.rs", &lines(LINES_MAX + 1), &lines(LINES_MAX));
    let reason = [("a.rs", "one state machine, drawn on one page")];
    complains(|s| lengths(s, &reason), "a.rs", &lines(LINES_MAX), &lines(LINES_MAX + 1));
    assert_eq!(lengths(&[], &reason).len(), 1);
}

#[test]
fn names_say_something() {
    holds(file_names);
    for path in ["store/util.rs", "common/x.rs", "repository/manager.rs"] {
        assert_eq!(file_names(&[Source::new(path, "")]).len(), 1, "{path}");
    }
    assert!(file_names(&[Source::new("store/utility_bill.rs", "")]).is_empty());
}

#[test]
fn files_say_what_they_are_for() {
    holds(headers);
    complains(headers, "a.rs", "use x;\n//! late\n", "//! Why.\nuse x;\n");
    let whole = "//! A.\n//! What is here: a. What comes in: b. What goes\n//! out: c. What never happens here: d.\n";
    complains(headers, "a/mod.rs", "//! A.\n", whole);
    complains(headers, "a/mod.rs", &(whole.to_owned() + &"//! more\n".repeat(13)), whole);
}

#[test]
fn imports_name_what_they_take() {
    holds(imports);
    complains(imports, "a.rs", "use std::fmt::*;", "use std::fmt; let because = a * b;");
    complains(imports, "a.rs", "use std::{\n    fmt,\n    io::*,\n};", "// use std::fmt::*;\n");
    complains(imports, "a.rs", "pub use crate::b::C;", "use crate::b::C;");
    complains(imports, "a.rs", "pub(crate) use crate::b::C;", "fn reuse () {}");
}

#[test]
fn tests_stand_last() {
    holds(tests_last);
    let tests = format!("fn f() {{}}\n{TESTS}\n    fn t() {{\n    }}\n}}\n");
    complains(tests_last, "a.rs", &(tests.clone() + "fn hidden() {}\n"), &(tests + "// the end\n"));
}

#[test]
fn the_map_shows_every_room() {
    holds(map);
    let lib = |text: &str| map(&[Source::new("lib.rs", text), Source::new("store/mod.rs", "")]);
    assert_eq!(lib("pub mod store;").len(), 1);
    assert_eq!(lib("//! | [`store`] | one bucket |\npub mod store;").len(), 0);
}

#[test]
fn the_suite_is_whole() {
    let mut sources = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite"), "", &mut sources);
    let main = sources.iter().find(|s| s.path == "main.rs").expect("the suite has a main.rs");
    let files: Vec<String> = sources.iter().filter(|s| !s.path.contains('/')).map(|s| s.path.replace(".rs", "")).collect();
    assert_eq!(suite(&files, &main.text), Vec::<String>::new());
    assert_eq!(
        suite(&["main".into(), "a".into(), "b".into()], "mod a;\n// mod b;\n"),
        ["tests/suite/b.rs is not listed in main.rs"]
    );
}

#[test]
fn the_reader_of_sources_can_read() {
    let cases = [
        ("a // b\nc", "a \nc"),
        ("a /* b /* c */ d\n */ e", "a \n e"),
        ("f(\"a \\\" // b\", c)", "f(, c)"),
        ("r#\"a \" // \"# b", " b"),
        ("br\"x\" for r in r", "br for r in r"),
        ("'\"' 'a' '\\'' <'a> \"x\"", "   <'a> "),
    ];
    for (text, code) in cases {
        assert_eq!(without_comments_and_literals(text), code, "{text}");
    }
    assert!(names("crate::a", "crate::a") && !names("crate::ab", "crate::a") && !names("xrand::y", "rand::"));
}
