//! A folder to run the real binary in: a source, stores, a key file (which opens without a costly derivation), and a configuration.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// What is never known to a child of ours, as `HOLDFAST_KEY_FILE` names it.
pub const KEY: &str = "holdfast-key-1 0707070707070707070707070707070707070707070707070707070707070707\n";

/// The folder; gone when dropped.
pub struct Desk(tempfile::TempDir);

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Told {
    fn of(output: &Output) -> Told {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Told { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The last line of the output, as JSON.
    pub fn summary(&self) -> Value {
        serde_json::from_str(self.out.lines().last().unwrap_or_else(|| panic!("no summary: {self:?}"))).expect("JSON")
    }
}

impl Desk {
    /// With these stores in directories, and `more` at the end of the configuration.
    pub fn new(stores: &[&str], more: &str) -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(desk.at("src")).expect("made");
        desk.write("src/a.txt", "hello");
        desk.write("src/b c", &"line\n".repeat(20_000));
        desk.write("key", KEY);
        std::fs::set_permissions(desk.at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        let sections: String =
            stores.iter().map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n")).collect();
        desk.configure(&sections, more);
        desk
    }

    /// Writes the configuration.
    pub fn configure(&self, stores: &str, more: &str) {
        let head = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nmemory = \"32 MiB\"\n";
        let backup = "[backup]\nhost = \"here\"\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n";
        self.write("holdfast.toml", &format!("{head}{stores}{backup}{more}"));
    }

    pub fn at(&self, path: &str) -> PathBuf {
        std::fs::canonicalize(self.0.path()).expect("there").join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).expect("written");
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// A shell script that may be called.
    pub fn script(&self, name: &str, text: &str) -> String {
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(self.at(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        self.at(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        self.prepare(&mut command);
        command.args(words);
        command
    }

    /// Gives a command this folder and a clean environment.
    pub fn prepare(&self, command: &mut Command) {
        command.current_dir(self.at("")).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
    }

    pub fn start(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    pub fn run(&self, words: &[&str]) -> Told {
        Told::of(&self.command(words).output().expect("the program starts"))
    }

    /// Runs, and expects an exit code.
    pub fn expect(&self, code: i32, words: &[&str]) -> Told {
        let told = self.run(words);
        assert_eq!(told.code, Some(code), "{words:?}\n{}\n{}", told.out, told.err);
        told
    }

    /// Labels of the snapshots, oldest first.
    pub fn labels(&self) -> Vec<String> {
        let told = self.expect(0, &["snapshots", "--json"]);
        let all: Value = serde_json::from_str(&told.out).expect("JSON");
        all.as_array().expect("a list").iter().map(|one| one["label"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Waits for a process that was started, with its output.
pub fn end(child: Child) -> Told {
    Told::of(&child.wait_with_output().expect("ended"))
}

/// Waits until something is so.
pub fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a program is on PATH.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
