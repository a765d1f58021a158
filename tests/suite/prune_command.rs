//! `holdfast prune` as an operator meets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const CONFIG: &str = r#"
[repository]
key_file = "key"
state_dir = "state"
write_quorum = 1
[[store]]
name = "one"
url = "file:stores/one"
[[store]]
name = "two"
url = "file:stores/two"
[prune]
max_unused = "0"
"#;

struct Desk(tempfile::TempDir);

impl Desk {
    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
    fn expect(&self, code: i32, words: &[&str]) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("what is printed is UTF-8");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
        (out, err)
    }
    fn summary(&self, code: i32, words: &[&str]) -> Value {
        let (out, _) = self.expect(code, words);
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len(), &lines[0]["message_type"]), (1, &"summary".into()), "{out}");
        lines[0].clone()
    }
}

fn files_in(folder: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.expect("an entry");
        count += if entry.path().is_dir() { files_in(&entry.path()) } else { 1 };
    }
    count
}

#[test]
fn from_a_dry_run_to_an_empty_second_run() {
    let desk = Desk(tempfile::tempdir().expect("a folder"));
    std::fs::create_dir(desk.at("src")).expect("made");
    std::fs::write(desk.at("holdfast.toml"), CONFIG).expect("written");
    for day in 0..4_u64 {
        std::fs::write(desk.at("src/file"), crate::support::source_tree::noise(day, 300_000)).expect("written");
        desk.expect(0, if day == 0 { &["backup", "--init", "src"] } else { &["backup", "src"] });
    }
    for words in [
        &["prune", "--max-unused", "5"][..],
        &["prune", "--max-unused", "101%"],
        &["prune", "--max-repack-size", "1"],
        &["prune", "--mercy", "soon"],
        &["prune", "now"],
    ] {
        desk.expect(2, words);
    }
    desk.expect(0, &["forget", "--keep-last", "1"]);
    let before = files_in(&desk.at("stores/one"));
    // Everything is young: nothing goes.
    let told = desk.summary(0, &["prune", "--json", "--dry-run"]);
    assert_eq!(told["replicas"].as_array().map(Vec::len), Some(2));
    assert!(told["replicas"][0]["kept"]["young"]["objects"].as_u64() > Some(0), "{told}");
    assert_eq!(told["replicas"][0]["condemned"], 0);
    let (out, _) = desk.expect(0, &["prune", "--dry-run"]);
    assert!(out.contains("within the mercy period") && out.contains("dry run, nothing was written"), "{out}");
    let told = desk.summary(0, &["prune", "--json", "--dry-run", "--mercy", "0s"]);
    let (condemned, dropped) = (&told["replicas"][0]["condemned"], &told["replicas"][0]["packs_dropped"]["objects"]);
    assert!(condemned.as_u64() > Some(3) && dropped.as_u64() > Some(2), "{told}");
    assert_eq!((&told["dry_run"], &told["replicas"][0]["requests"]["delete"]), (&true.into(), &1.into()));
    assert_eq!(files_in(&desk.at("stores/one")), before);
    let (out, _) = desk.expect(0, &["prune", "--dry-run", "--mercy", "0s"]);
    assert!(out.contains("to delete") && out.contains("a run would ask"), "{out}");
    let real = desk.summary(0, &["prune", "--json", "--mercy", "0s"]);
    assert_eq!(real["replicas"][0]["packs_dropped"]["objects"], *dropped);
    assert!(real["replicas"][0]["deleted"]["objects"].as_u64() >= condemned.as_u64(), "{real}");
    assert!(files_in(&desk.at("stores/one")) < before);
    desk.expect(0, &["verify", "--read-data"]);
    let (_, err) = desk.expect(2, &["undelete", "latest"]);
    assert!(err.contains("among what was forgotten"), "{err}");
    let (out, _) = desk.expect(0, &["prune", "--mercy", "0s"]);
    assert!(out.contains("done in"), "{out}");
    desk.expect(0, &["restore", "latest", "--target", "back"]);
    // A store that is away is named, and the other one is pruned.
    desk.expect(0, &["forget", "latest"]);
    std::fs::rename(desk.at("stores/two"), desk.at("stores/away")).expect("renamed");
    let (out, err) = desk.expect(4, &["prune", "--mercy", "0s"]);
    assert!(err.contains("two") && out.contains("one"), "{out}{err}");
    std::fs::rename(desk.at("stores/one"), desk.at("stores/gone")).expect("renamed");
    desk.expect(10, &["prune"]);
}
