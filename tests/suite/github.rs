//! The real binary where GitHub Actions runs it: annotations, the summary page, outputs, and the action's own script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// A runner's folder: a source, two stores, a key, and the files that the runner reads afterwards.
struct Runner(tempfile::TempDir);

/// How a step came out.
struct Step {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Runner {
    fn new() -> Runner {
        let runner = Runner(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(runner.at("src")).expect("made");
        runner.write("src/a.txt", "hello");
        let stores =
            "[[store]]\nname = \"one\"\nurl = \"file:stores/one\"\n[[store]]\nname = \"two\"\nurl = \"file:stores/two\"\n";
        let repository = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nwrite_quorum = 1\n";
        runner.write("holdfast.toml", &format!("{repository}{stores}[[job]]\nname = \"sources\"\npaths = [\"src\"]\n"));
        assert_eq!(runner.holdfast(&["key", "generate", "key"], &[]).code, Some(0));
        runner
    }
    fn at(&self, path: &str) -> PathBuf {
        std::fs::canonicalize(self.0.path()).expect("there").join(path)
    }
    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).expect("written");
    }
    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_default()
    }
    /// Runs `program` as a step with fresh files for its page and outputs, and `more` in its environment.
    fn step(&self, program: &Path, words: &[&str], more: &[(&str, &str)]) -> Step {
        for file in ["page.md", "outputs"] {
            let _ = std::fs::remove_file(self.at(file));
        }
        let mut command = Command::new(program);
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.at("home"));
        command.env("GITHUB_STEP_SUMMARY", self.at("page.md")).env("GITHUB_OUTPUT", self.at("outputs"));
        command.envs(more.iter().copied());
        let done = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Step { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
    }
    fn holdfast(&self, words: &[&str], more: &[(&str, &str)]) -> Step {
        self.step(Path::new(PROGRAM), words, more)
    }
}

const THERE: (&str, &str) = ("GITHUB_ACTIONS", "true");

/// The lines that the runner would take for commands.
fn commands(step: &Step) -> Vec<&str> {
    step.out.lines().chain(step.err.lines()).filter(|line| line.trim_start().starts_with("::") || line.contains("##[")).collect()
}

#[test]
fn a_step_has_a_page_outputs_and_annotations() {
    let runner = Runner::new();
    let step = runner.holdfast(&["backup", "--init", "src", "gone\n::add-path::/x"], &[THERE]);
    assert_eq!(step.code, Some(3), "{}\n{}", step.out, step.err);
    let commands = commands(&step);
    assert!(!commands.is_empty());
    assert!(
        commands.iter().all(|line| line.starts_with("::error title=Holdfast") || line.starts_with("::warning title=Holdfast"))
    );
    let page = runner.read("page.md");
    let listed = runner.holdfast(&["--json", "snapshots"], &[]).out;
    let id = serde_json::from_str::<Value>(&listed).expect("JSON")[0]["id"].as_str().expect("an id").to_owned();
    for text in
        ["### holdfast backup: done, but some source items were unreadable", "(exit code 3)", "| one | ", "**problems**", &id]
    {
        assert!(page.contains(text), "{text}\n{page}");
    }
}

#[test]
fn outputs_are_for_the_steps_that_follow() {
    let runner = Runner::new();
    let step = runner.holdfast(&["backup", "--init"], &[THERE]);
    assert_eq!((step.code, commands(&step)), (Some(0), vec![]), "{}", step.err);
    let outputs = runner.read("outputs");
    let id = outputs.lines().find_map(|line| line.strip_prefix("snapshot-id=")).expect("an id");
    assert_eq!(id.len(), 64);
    let figure = |name: &str| outputs.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
    // Two stores got what was added, with its catalog and records.
    assert!(figure("bytes-added=") >= Some(5) && figure("bytes-uploaded=") > figure("bytes-added="), "{outputs}");
    // A command without figures leaves the page as it is.
    assert_eq!(runner.holdfast(&["completions", "fish"], &[THERE]).code, Some(0));
    assert_eq!(runner.read("page.md"), "");
    // What reads only makes a page, and no outputs.
    for words in
        [["verify"].as_slice(), &["status"], &["lifecycle", "--dry-run"], &["forget", "--keep-last", "1"], &["prune"], &["heal"]]
    {
        let step = runner.holdfast(words, &[THERE]);
        assert_eq!(step.code, Some(0), "{words:?}\n{}", step.err);
        assert!(
            runner.read("page.md").starts_with(&format!("### holdfast {}: all done", words[0])),
            "{}",
            runner.read("page.md")
        );
        assert!(runner.read("page.md").lines().filter(|line| line.starts_with("| ")).count() >= 2, "{}", runner.read("page.md"));
        assert_eq!(runner.read("outputs"), "");
    }
}

#[test]
fn a_failure_is_one_annotation_and_stands_on_the_page() {
    let runner = Runner::new();
    for store in ["one", "two"] {
        std::fs::create_dir_all(runner.at("stores").join(store)).expect("made");
    }
    let step = runner.holdfast(&["backup"], &[THERE]);
    assert_eq!(step.code, Some(10), "{}", step.err);
    let commands = commands(&step);
    assert!(commands.iter().any(|line| line.starts_with("::error title=Holdfast%2C exit code 10::")), "{commands:?}");
    assert!(runner.read("page.md").starts_with("### holdfast backup: there is no repository (exit code 10)"));
}

#[test]
fn nobody_else_is_spoken_to() {
    let runner = Runner::new();
    let never = ["--github=never", "backup", "src", "gone"];
    let plain = runner.holdfast(&["backup", "--init", "src", "gone"], &[]);
    let never = runner.holdfast(&never, &[THERE]);
    for step in [plain, never] {
        assert_eq!((step.code, commands(&step)), (Some(3), vec![]), "{}", step.err);
        assert_eq!((runner.read("page.md"), runner.read("outputs")), (String::new(), String::new()));
    }
    // With --json every line of standard error stays JSON; the page is written all the same.
    let json = runner.holdfast(&["--json", "--github", "backup", "src", "gone"], &[]);
    assert_eq!(json.code, Some(3));
    assert!(json.err.lines().chain(json.out.lines()).all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", json.err);
    assert!(runner.read("page.md").contains("**problems**"));
    // A page that cannot be written is said, and fails nothing.
    let step = runner.holdfast(&["backup"], &[THERE, ("GITHUB_STEP_SUMMARY", "/dev/null/page")]);
    assert_eq!(step.code, Some(0));
    assert!(step.err.contains("adding to the summary page /dev/null/page"), "{}", step.err);
    // One that is full stays as it is.
    let full = runner.at("full.md");
    std::fs::write(&full, vec![b'x'; 1 << 20]).expect("written");
    let step = runner.holdfast(&["backup"], &[THERE, ("GITHUB_STEP_SUMMARY", full.to_str().expect("UTF-8"))]);
    assert_eq!((step.code, std::fs::metadata(&full).expect("there").len()), (Some(0), 1 << 20));
    assert!(step.err.contains("is full"), "{}", step.err);
}

#[test]
fn the_action_passes_words_on_as_they_are() {
    let runner = Runner::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/actions/holdfast/run.sh");
    let act = |command: &str, arguments: &str, allow: &str| {
        let inputs = [
            THERE,
            ("INPUT_COMMAND", command),
            ("INPUT_ARGUMENTS", arguments),
            ("INPUT_CONFIG", "holdfast.toml"),
            ("INPUT_BINARY", PROGRAM),
            ("INPUT_REPOSITORY", ""),
            ("INPUT_VERSION", ""),
            ("INPUT_SHA256", ""),
            ("INPUT_ALLOW", allow),
        ];
        let step = runner.step(Path::new("bash"), &[script.to_str().expect("UTF-8")], &inputs);
        (step.code, runner.read("outputs"), step.err)
    };
    let (code, outputs, err) = act("backup", "--init\n--tag\n$(touch pwned); `touch pwned` 'x y'\n", "");
    assert_eq!(code, Some(0), "{err}");
    assert!(outputs.contains("exit-code=0\n") && outputs.contains("snapshot-id="), "{outputs}");
    assert!(!runner.at("pwned").exists());
    let listed = runner.holdfast(&["--json", "snapshots"], &[]).out;
    assert_eq!(serde_json::from_str::<Value>(&listed).expect("JSON")[0]["tags"][0], "$(touch pwned); `touch pwned` 'x y'");
    // A code that is allowed fails no step, and is told all the same; others do.
    for (allow, expected) in [("", 3), ("4", 3), ("3", 0), ("4,3", 0)] {
        let (code, outputs, err) = act("backup", "src\ngone", allow);
        assert_eq!(code, Some(expected), "{err}");
        assert!(outputs.contains("exit-code=3\n"), "{outputs}");
    }
    // What is no command, or no list of codes, is not run at all.
    for (command, allow) in [("backup; touch pwned", ""), ("--version", ""), ("backup", "3;4"), ("backup", "x")] {
        let (code, outputs, _) = act(command, "", allow);
        assert_eq!((code, outputs.as_str()), (Some(2), "exit-code=2\n"), "{command} {allow}");
    }
    assert!(!runner.at("pwned").exists());
}
