//! The real binary, as an operator or a script meets it: what it prints, where, and how it exits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// A folder to run in, with a source in `src`, two stores and a key file (which opens without a costly derivation).
pub struct Desk(tempfile::TempDir);

pub const CONFIG: &str = r#"
[repository]
key_file = "key"
state_dir = "state"
[[store]]
name = "one"
url = "file:stores/one"
[[store]]
name = "two"
url = "file:stores/two"
[[job]]
name = "sources"
paths = ["src"]
"#;

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(desk.at("src")).expect("made");
        desk.write("src/a.txt", "hello");
        desk.write("src/b c", &"line\n".repeat(50_000));
        desk.write("holdfast.toml", CONFIG);
        desk
    }
    pub fn at(&self, path: &str) -> PathBuf {
        std::fs::canonicalize(self.0.path()).expect("there").join(path)
    }
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).expect("written");
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        command
    }
    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program starts")
    }
    /// Runs, expects `code`, gives standard output and standard error.
    pub fn expect(&self, code: i32, words: &[&str]) -> (String, String) {
        let (code_now, out, err) = told(&self.run(words));
        assert_eq!(code_now, Some(code), "{words:?}\n{out}\n{err}");
        (out, err)
    }
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("what is printed is UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn from_nothing_to_a_listing() {
    let desk = Desk::new();
    let (out, err) = desk.expect(0, &["backup", "--init"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(desk.at("key")).expect("made").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(err.contains("made a fresh secret in") && err.contains("made repository"), "{err}");
    for store in ["one", "two"] {
        let url = format!("file://{}", desk.at("stores").join(store).display());
        assert!(out.lines().any(|l| l.contains(store) && l.contains(&url) && l.ends_with("committed")), "{out}");
    }
    let (out, err) = desk.expect(0, &["backup", "--init"]);
    assert!(out.contains("0 new, 0 changed, 2 unmodified"), "{out}");
    assert!(!err.contains("fresh secret") && !err.contains("made repository"), "{err}");

    let (out, err) = desk.expect(0, &["snapshots"]);
    assert!(out.contains("2 snapshots") && out.contains("2 of 2") && err.is_empty(), "{out}{err}");
    let src = desk.at("src");
    let (out, _) = desk.expect(0, &["ls"]);
    let expected: Vec<String> = ["", "/a.txt", "/b c"].iter().map(|name| format!("{}{name}", src.display())).collect();
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let (out, _) = desk.expect(0, &["ls", &format!("latest~1:{}/a.txt", src.display())]);
    assert_eq!(out.lines().collect::<Vec<_>>(), [expected[1].as_str()]);
    desk.expect(1, &["ls", "latest:/nowhere"]);
    let (out, _) = desk.expect(0, &["status"]);
    assert_eq!(out.matches(" complete ").count(), 2, "{out}");
    let (out, err) = desk.expect(0, &["init"]);
    assert!(out.contains("is there already") && err.is_empty(), "{out}{err}");
}

#[test]
fn the_printed_command_restores() {
    let desk = Desk::new();
    // A name that a shell would take apart.
    std::fs::rename(desk.at("holdfast.toml"), desk.at("it's mine.toml")).expect("renamed");
    let (out, _) = desk.expect(0, &["--config", "it's mine.toml", "backup", "--init"]);
    let command = out.lines().last().expect("a line").trim();
    let run = Command::new("sh").arg("-c").arg(command).current_dir(desk.at("")).env("HOME", desk.at("home")).output();
    let (code, out, err) = told(&run.expect("a shell"));
    assert_eq!(code, Some(0), "{command}\n{out}\n{err}");
    let target = command.split(" --target ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a target");
    let below = desk.at(target).join(desk.at("src").strip_prefix("/").expect("absolute"));
    assert_eq!(std::fs::read(below.join("a.txt")).expect("restored"), b"hello");
    assert_eq!(std::fs::read(below.join("b c")).expect("restored"), std::fs::read(desk.at("src/b c")).expect("there"));
}

#[test]
fn json_is_lines_and_nothing_else() {
    let desk = Desk::new();
    let (out, _) = desk.expect(0, &["--json", "init"]);
    assert_eq!(lines(&out)[0]["message_type"], "initialized");
    let (out, err) = desk.expect(0, &["backup", "--json", "--tag", "x", "--host", "h"]);
    assert!(err.is_empty(), "{err}");
    let all = lines(&out);
    let summary = all.last().expect("a summary");
    assert!(all[..all.len() - 1].iter().all(|line| line["message_type"] == "status"));
    assert_eq!(summary["message_type"], "summary");
    assert_eq!((&summary["files_new"], &summary["total_files_processed"]), (&2.into(), &2.into()));
    assert_eq!(summary["total_bytes_processed"], 250_005);
    let id = summary["snapshot_id"].as_str().expect("an id");
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let (out, _) = desk.expect(0, &["snapshots", "--json"]);
    let array: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(array.as_array().map(Vec::len), Some(1));
    assert_eq!((&array[0]["id"], &array[0]["hostname"], &array[0]["tags"][0]), (&id.into(), &"h".into(), &"x".into()));
    assert_eq!(array[0]["paths"][0], desk.at("src").to_str().expect("UTF-8"));
    let (out, _) = desk.expect(0, &["snapshots", "--json", "--host", "other"]);
    assert_eq!(out, "[]\n");
    let (out, _) = desk.expect(0, &["ls", "--json", id]);
    let all = lines(&out);
    assert_eq!((all.len(), &all[0]["message_type"], &all[2]["size"]), (4, &"snapshot".into(), &5.into()));
    let (out, err) = desk.expect(2, &["--json", "ls", "nothing"]);
    let error = &lines(&err)[0];
    assert!(out.is_empty());
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &2.into()));
    let error = &lines(&desk.expect(2, &["--json", "bogus"]).1)[0];
    assert!(error["message"].as_str().is_some_and(|m| m.contains("bogus")));
}

#[test]
fn refusals_have_their_codes() {
    let desk = Desk::new();
    desk.expect(2, &["bogus"]);
    desk.expect(2, &["snapshots", "--quiet", "--verbose"]);
    desk.expect(2, &["--config", "none.toml", "snapshots"]);
    let (_, err) = desk.expect(2, &["snapshots"]);
    assert!(err.contains("key file") && err.contains("does not exist"), "{err}");
    desk.expect(0, &["key", "generate", "key"]);
    let (_, err) = desk.expect(1, &["key", "generate", "key"]);
    assert!(err.contains("File exists"), "{err}");
    desk.expect(0, &["init"]);
    desk.expect(2, &["backup", "--job", "nothing"]);
    desk.expect(2, &["backup", "--as", "relative", "src"]);
    desk.expect(2, &["backup", "--time", "yesterday"]);
    desk.expect(2, &["backup", "--dry-run", "--init"]);
    desk.expect(2, &["backup", "--exclude", "a[", "src"]);
    desk.expect(2, &["backup", "--exclude-file", "none", "src"]);
    desk.expect(1, &["backup", "none"]);
    desk.expect(2, &["ls", "latest"]);
    desk.expect(2, &["--write-quorum", "3", "status"]);
    desk.expect(2, &["--store", "x=file:new", "--store", "y=file:./new", "status"]);

    desk.expect(0, &["key", "generate", "other"]);
    let (_, err) = desk.expect(12, &["--key-file", "other", "snapshots"]);
    assert!(!err.contains(&std::fs::read_to_string(desk.at("other")).expect("there").trim().to_owned()), "{err}");
    desk.write("key2", "not a key\n");
    desk.expect(2, &["--key-file", "key2", "snapshots"]);
    let two = desk.command(&["snapshots"]).env("HOLDFAST_PASSWORD", "a").env("HOLDFAST_KEY_FILE", "key").output();
    assert_eq!(two.expect("started").status.code(), Some(2));
    let wrong = desk.command(&["snapshots"]).env("HOLDFAST_PASSWORD", "hunter2").output().expect("started");
    assert_eq!(told(&wrong).0, Some(12));

    std::fs::create_dir(desk.at("empty")).expect("made");
    desk.expect(10, &["--store", "x=file:empty", "snapshots"]);
    std::fs::create_dir(desk.at("foreign")).expect("made");
    desk.write("foreign/letter.txt", "dear");
    desk.expect(2, &["--store", "x=file:foreign", "init"]);
    assert_eq!(std::fs::read_to_string(desk.at("foreign/letter.txt")).expect("untouched"), "dear");
}

#[test]
fn a_fresh_secret_is_not_left_where_a_repository_has_another() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    std::fs::rename(desk.at("key"), desk.at("saved")).expect("moved");
    let (_, err) = desk.expect(12, &["backup", "--init"]);
    assert!(err.contains("made with another secret"), "{err}");
    assert!(!desk.at("key").exists());
    std::fs::rename(desk.at("saved"), desk.at("key")).expect("moved back");
    desk.expect(0, &["backup", "--init"]);
}

#[test]
fn a_store_that_is_away_is_named_and_not_made_anew() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    std::fs::rename(desk.at("stores/two"), desk.at("stores/away")).expect("moved");
    desk.write("src/new", "new");
    let (out, _) = desk.expect(4, &["backup"]);
    assert!(out.lines().any(|l| l.contains("two") && l.contains("left behind")), "{out}");
    assert!(!desk.at("stores/two").exists(), "a disk that is not mounted is no empty store");
    let (out, err) = desk.expect(4, &["status"]);
    assert!(out.contains("failed") && err.contains("two"), "{out}{err}");
    desk.expect(1, &["--write-quorum", "2", "backup"]);
    std::fs::rename(desk.at("stores/away"), desk.at("stores/two")).expect("moved back");
    desk.expect(0, &["backup"]);
}

#[test]
fn names_cannot_steer_the_terminal() {
    let desk = Desk::new();
    let name: &Path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\x1b[2Jx\xff\n"));
    std::fs::write(desk.at("src").join(name), "x").expect("written");
    let (out, _) = desk.expect(0, &["backup", "--init", "--quiet"]);
    assert!(!out.contains('\x1b'));
    for words in [&["ls"][..], &["ls", "-l"]] {
        let (out, _) = desk.expect(0, words);
        assert!(!out.contains('\x1b') && out.contains("\\u{1b}[2Jx\\xff\\n\""), "{out}");
        assert_eq!(out.lines().count(), 4);
    }
    let (out, _) = desk.expect(0, &["ls", "--json"]);
    assert!(!out.contains('\x1b'));
    assert!(lines(&out).iter().any(|line| line["name_base64"] == "G1sySnj/Cg=="), "{out}");
}

#[test]
fn signals_end_a_run_with_their_code() {
    let desk = Desk::new();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        // The program stands in the password command, where nothing has been begun.
        let words = ["--store", "x=file:new", "--password-command", "echo >started; exec sleep 60", "snapshots"];
        let mut child = desk.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let began = Instant::now();
        while !desk.at("started").exists() && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_file(desk.at("started")).expect("it came to the command");
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill").success());
        assert_eq!(child.wait().expect("ended").code(), Some(code));
        assert!(began.elapsed() < Duration::from_secs(30), "it did not wait for the command");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let desk = Desk::new();
    for i in 0..3000 {
        desk.write(&format!("src/a file with a rather long name that fills the pipe {i}"), "");
    }
    desk.expect(0, &["backup", "--init"]);
    let mut child = desk.command(&["ls"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!(told(&output), (Some(0), String::new(), String::new()));
}

#[test]
fn keys_come_and_go() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    desk.expect(0, &["key", "generate", "second"]);
    desk.expect(12, &["--key-file", "second", "snapshots"]);
    desk.expect(0, &["key", "add", "--new-key-file", "second", "--label", "spare"]);
    desk.expect(0, &["--key-file", "second", "snapshots"]);
    let (out, _) = desk.expect(0, &["key", "list", "--json"]);
    let keys: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    let spare = keys.as_array().and_then(|all| all.iter().find(|key| key["label"] == "spare")).expect("listed");
    desk.expect(0, &["key", "remove", spare["id"].as_str().expect("an id")]);
    desk.expect(12, &["--key-file", "second", "snapshots"]);
    desk.expect(0, &["snapshots"]);
    desk.expect(2, &["key", "add"]);
}

#[test]
fn jobs_run_in_turn_and_one_failure_does_not_stop_the_rest() {
    let desk = Desk::new();
    desk.write(
        "holdfast.toml",
        &(CONFIG.to_owned().replace("paths = [\"src\"]", "paths = [\"none\"]")
            + "[[job]]\nname = \"more\"\npaths = [\"src\"]\nexclude = [\"*.txt\"]\n"),
    );
    let (out, err) = desk.expect(1, &["backup", "--init"]);
    assert!(err.contains("sources") && out.contains("snapshot "), "{out}{err}");
    let (out, _) = desk.expect(0, &["snapshots", "--json"]);
    let array: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(array.as_array().map(|all| all.iter().map(|s| s["label"].clone()).collect::<Vec<_>>()), Some(vec!["more".into()]));
    let (out, _) = desk.expect(0, &["ls"]);
    assert!(!out.contains("a.txt") && out.contains("b c"), "{out}");
    desk.expect(0, &["backup", "--job", "more"]);
}

/// Every file below a folder, by its path there.
pub fn files(at: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut open = vec![at.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { out.push(path) }
        }
    }
    out.sort();
    out
}

/// Turns a bit of a stored object: of a pack, in its first frame.
fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).expect("there");
    bytes[30] ^= 1;
    std::fs::remove_file(path).expect("removed");
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn what_is_left_is_listed_and_shares_are_told() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    for (share, told) in [("--read-data=1/1", "1/1"), ("--read-data=50%", "50%"), ("--read-data=1GiB", "1073741824 bytes")] {
        let (out, _) = desk.expect(0, &["--json", "verify", share]);
        let summary = lines(&out).pop().expect("a summary");
        assert_eq!((&summary["share"], &summary["across"]), (&Value::from(told), &Value::from(false)), "{summary}");
    }
    let (out, _) = desk.expect(0, &["verify", "--read-data-subset", "1/1", "--across"]);
    assert!(out.contains("read back: 1/1 of the packs, each pack at one store"), "{out}");
    desk.expect(2, &["verify", "--across"]);
    desk.expect(2, &["verify", "--read-data=3/2"]);
    for store in ["one", "two"] {
        files(&desk.at("stores").join(store).join("data")).iter().for_each(|pack| spoil(pack));
    }
    let (out, _) = desk.expect(14, &["--json", "restore", "latest", "--target", "to", "--what-is-left"]);
    let told = lines(&out);
    let lost: Vec<&Value> = told.iter().filter(|line| line["message_type"] == "lost").collect();
    let summary = told.last().expect("a summary");
    assert!(!lost.is_empty() && summary["lost_parts"] == lost.len() as u64, "{out}");
    assert!(lost.iter().all(|l| l["path"].as_str().is_some_and(|path| path.contains("/src/")) && l["length"].as_u64() > Some(0)));
    let (out, _) = desk.expect(14, &["restore", "latest", "--target", "other", "--what-is-left"]);
    assert!(out.contains("lost /") && out.contains("could not be had from any store"), "{out}");
}

#[test]
fn a_lost_store_is_retired() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    desk.expect(0, &["backup"]);
    let (_, err) = desk.expect(0, &["snapshots", "--verbose"]);
    let sent = err.lines().find(|line| line.starts_with("requests to two: 0 put, ")).unwrap_or_else(|| panic!("{err}"));
    assert!(!sent.contains(", 0 get, ") && sent.ends_with(", 0 delete; and 0 sent again"), "{sent}");
    desk.expect(2, &["retire", "three"]);
    std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved");
    // What lies there cannot be known.
    let (_, err) = desk.expect(17, &["retire", "two"]);
    assert!(err.contains("--give-up"), "{err}");
    let (out, _) = desk.expect(0, &["retire", "--give-up", "two"]);
    assert!(out.contains("store two is retired, the logs of one say so"), "{out}");
    // It is not known to be missing any more.
    desk.expect(2, &["retire", "--give-up", "two"]);
    // Back again, it is not written to; what it holds can be read.
    std::fs::rename(desk.at("away"), desk.at("stores/two")).expect("moved");
    let before = files(&desk.at("stores/two"));
    let (out, err) = desk.expect(4, &["backup"]);
    assert!(out.contains("was retired: take it out of the configuration") || err.contains("was retired"), "{out}{err}");
    assert_eq!(files(&desk.at("stores/two")), before);
    desk.expect(0, &["restore", "latest~1", "--from", "two", "--target", "to"]);
    // Without it the other is the whole repository.
    desk.write("holdfast.toml", &CONFIG.replace("[[store]]\nname = \"two\"\nurl = \"file:stores/two\"\n", ""));
    desk.expect(0, &["backup"]);
    desk.expect(0, &["verify"]);
    desk.expect(17, &["retire", "one"]);
    // What lies nowhere else is not given up by accident.
    desk.write("holdfast.toml", CONFIG);
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    std::fs::rename(desk.at("stores/one"), desk.at("away")).expect("moved");
    desk.write("src/new", "new");
    desk.expect(4, &["backup"]);
    std::fs::rename(desk.at("away"), desk.at("stores/one")).expect("moved");
    let (_, err) = desk.expect(17, &["retire", "two"]);
    assert!(err.contains("heal"), "{err}");
    desk.expect(0, &["heal"]);
    let (out, _) = desk.expect(0, &["--json", "retire", "two"]);
    assert_eq!(lines(&out)[0]["recorded"], serde_json::json!(["one"]));
}

#[test]
fn a_damaged_log_and_a_lost_index_are_repaired() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    desk.write("src/c", "more");
    desk.expect(0, &["backup"]);
    let (out, _) = desk.expect(0, &["repair", "log", "one"]);
    assert!(out.contains("nothing to repair"), "{out}");
    desk.expect(2, &["repair", "log", "three"]);
    desk.expect(2, &["repair", "index", "three"]);
    spoil(&files(&desk.at("stores/one/log/00000001"))[1]);
    desk.expect(14, &["verify"]);
    // What stands behind the damage nobody knows.
    let (_, err) = desk.expect(17, &["retire", "one"]);
    assert!(err.contains("--give-up") && err.contains("is damaged"), "{err}");
    desk.expect(4, &["backup"]);
    let before = files(&desk.at("stores/one"));
    let (out, _) = desk.expect(0, &["repair", "log", "one", "--dry-run"]);
    assert!(out.contains("1 slot lost") && out.contains("nothing was written"), "{out}");
    assert_eq!(files(&desk.at("stores/one")), before);
    let (out, _) = desk.expect(0, &["--json", "repair", "log", "one"]);
    let summary = lines(&out).pop().expect("a summary");
    assert_eq!((&summary["epoch"], &summary["slots_lost"]), (&Value::from(2), &Value::from(1)), "{summary}");
    desk.expect(0, &["heal"]);
    desk.expect(0, &["verify", "--read-data"]);
    desk.expect(0, &["backup"]);
    desk.expect(0, &["status"]);
    for segment in files(&desk.at("stores/two/index")) {
        std::fs::remove_file(segment).expect("removed");
    }
    let (out, err) = desk.expect(0, &["repair", "index"]);
    assert!(out.contains("two") && err.contains("not found"), "{out}{err}");
    desk.expect(0, &["verify", "--read-data"]);
    desk.expect(0, &["restore", "latest", "--from", "two", "--target", "to"]);
}
