//! Streams as sources, by the real binary: whole or not at all.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::desk::{Desk, Told, end, until};

/// Commits and publishes whenever it may: what could be committed too early would be.
const EAGER: &str = "publish_bytes = \"1 MiB\"\npublish_every = \"50ms\"\npartial_every = \"50ms\"\n";

/// About 13 MB that a shell prints.
const NUMBERS: &str = "seq 1 1700000";

fn numbers() -> Vec<u8> {
    (1..=1_700_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect()
}

fn restored(desk: &Desk, path: &str, into: &str) -> Vec<u8> {
    desk.expect(0, &["restore", "latest", "--target", into]);
    std::fs::read(desk.at(into).join(path)).expect("restored")
}

/// Whether a process with this text among its words is left.
fn lives(text: &str) -> bool {
    std::fs::read_dir("/proc").expect("processes").flatten().any(|entry| {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        !status.contains("State:\tZ") && String::from_utf8_lossy(&words).split('\0').any(|word| word == text)
    })
}

fn nothing_is_left(desk: &Desk, told: &Told) {
    assert_eq!(desk.labels(), Vec::<String>::new(), "{told:?}");
    assert!(told.err.contains("no snapshot was made"), "{told:?}");
    desk.expect(0, &["verify"]);
}

#[test]
fn what_a_command_prints_comes_back() {
    let desk = Desk::new(
        &["one", "two"],
        &format!(
            "{EAGER}[[job]]\nname = \"numbers\"\ncommand = [\"sh\", \"-c\", \"{NUMBERS}\"]\nfilename = \"dumps/numbers.txt\"\n"
        ),
    );
    desk.expect(0, &["init"]);
    let first = desk.expect(0, &["--json", "backup", "--job", "numbers"]).summary();
    assert_eq!((&first["total_bytes_processed"], &first["files_new"]), (&numbers().len().into(), &1.into()), "{first}");
    assert_eq!(restored(&desk, "dumps/numbers.txt", "to"), numbers());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(desk.at("to/dumps/numbers.txt")).expect("there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "a dump is not for everybody");
    // The same again is a snapshot of its own, read again, and stored once.
    let again = desk.expect(0, &["--json", "backup"]).summary();
    assert_eq!((&again["bytes_read"], &again["files_changed"]), (&first["bytes_read"], &1.into()), "{again}");
    assert!(again["data_added"].as_u64() < Some(100_000), "{again}");
    assert_eq!(desk.labels(), ["numbers", "numbers"]);
    desk.expect(0, &["backup", "--command", "--stdin-filename", "small", "--", "printf", "a\\nb"]);
    assert_eq!(restored(&desk, "small", "small-to"), b"a\nb");
    let told = desk.expect(0, &["backup", "--command", "--", "true"]);
    assert!(told.out.contains("of /stdin"), "{}", told.out);
    assert_eq!(restored(&desk, "stdin", "empty-to"), b"", "a dump of nothing is a file of nothing");
    desk.expect(0, &["verify", "--read-data"]);
}

#[test]
fn standard_input_comes_back() {
    let desk = Desk::new(&["one"], EAGER);
    desk.expect(0, &["init"]);
    let words = ["backup", "--stdin", "--stdin-filename", "n.txt", "--tag", "t"];
    let mut child =
        desk.command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut input = child.stdin.take().expect("a pipe");
    let all = numbers();
    let (head, tail) = all.split_at(all.len() / 3);
    input.write_all(head).expect("taken");
    std::thread::sleep(Duration::from_millis(300));
    input.write_all(tail).expect("taken");
    drop(input);
    let told = end(child);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(restored(&desk, "n.txt", "to"), all);
}

#[test]
fn what_breaks_off_leaves_no_snapshot() {
    let table = [
        ("fails late", format!("{NUMBERS}; echo the table is gone >&2; exit 3"), "exit status: 3", "the table is gone"),
        ("fails at once", "exit 1".into(), "exit status: 1", ""),
        ("is killed", format!("{NUMBERS}; kill -9 $$"), "signal: 9", ""),
        ("stalls", format!("{NUMBERS}; echo waiting for a lock >&2; sleep 61.125"), "gave nothing for 2 s", "waiting for a lock"),
        ("never begins", "sleep 61.125".into(), "gave nothing for 2 s", ""),
        ("does not end", format!("{NUMBERS}; exec >&-; sleep 61.125"), "had not ended after 2 s", ""),
        ("defies", format!("trap '' TERM; {NUMBERS}; sleep 61.125 & wait; wait"), "gave nothing for 2 s", ""),
    ];
    let desk = Desk::new(&["one", "two"], EAGER);
    desk.expect(0, &["init"]);
    for (name, script, how, said) in table {
        let began = Instant::now();
        let told = desk.expect(1, &["backup", "--command", "--stall", "2s", "--", "sh", "-c", &script]);
        assert!(told.err.contains(how) && told.err.contains(said) && told.err.contains("the command \"sh\""), "{name}: {told:?}");
        assert!(began.elapsed() < Duration::from_secs(40), "{name}");
        nothing_is_left(&desk, &told);
        assert!(!lives("61.125"), "{name}: what it started is still there");
    }
    let told = desk.expect(1, &["backup", "--command", "--", "/no/such/program"]);
    assert!(told.err.contains("could not be started"), "{told:?}");
    nothing_is_left(&desk, &told);

    let words = ["backup", "--stdin", "--stall", "1s"];
    let mut child =
        desk.command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&numbers()).expect("taken");
    let told = end(child);
    drop(input);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("standard input gave nothing for 1 s"), "{told:?}");
    nothing_is_left(&desk, &told);
}

#[test]
fn a_job_that_breaks_off_says_so_and_the_next_one_runs() {
    let jobs =
        "[[job]]\nname = \"bad\"\ncommand = [\"sh\", \"-c\", \"echo x; exit 9\"]\n[[job]]\nname = \"good\"\npaths = [\"src\"]\n";
    let desk = Desk::new(&["one"], jobs);
    let told = desk.expect(1, &["backup", "--init"]);
    assert!(told.err.contains("exit status: 9"), "{told:?}");
    assert_eq!(desk.labels(), ["good"]);
}

#[test]
fn a_stream_can_be_interrupted() {
    let desk = Desk::new(&["one"], EAGER);
    desk.expect(0, &["init"]);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let script = format!("{NUMBERS}; touch waiting; exec sleep 61.25");
        let child = desk.start(&["backup", "--command", "--", "sh", "-c", &script]);
        until("the wait", || desk.at("waiting").exists());
        let began = Instant::now();
        kill_process(Pid::from_child(&child), signal).expect("sent");
        let told = end(child);
        assert_eq!(told.code, Some(code), "{told:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(!lives("61.25"), "the command is ended with its run");
        assert_eq!(desk.labels(), Vec::<String>::new());
        std::fs::remove_file(desk.at("waiting")).expect("removed");
    }
    desk.expect(0, &["verify"]);
}

#[test]
fn a_command_does_not_see_our_secrets() {
    let desk = Desk::new(&["one"], "");
    desk.write("holdfast.toml", &desk.read("holdfast.toml").replace("key_file = \"key\"\n", ""));
    for (name, value) in [("HOLDFAST_KEY_FILE", "key"), ("HOLDFAST_PASSWORD", "hunter2-hunter2")] {
        let store = format!("x=file:stores/{name}");
        let words = ["--store", &store, "backup", "--init", "--command", "--", "sh", "-c", "env"];
        let out = desk.command(&words).env(name, value).env("PLAIN", "seen").output().expect("started");
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        let restore = ["--store", &store, "restore", "latest", "--target", name];
        assert!(desk.command(&restore).env(name, value).status().expect("started").success());
        let seen = desk.read(&format!("{name}/stdin"));
        assert!(seen.contains("PLAIN=seen") && !seen.contains("HOLDFAST_") && !seen.contains("hunter2"), "{seen}");
    }
}

#[test]
fn a_stream_takes_no_more_memory_than_the_budget() {
    let desk = Desk::new(&["one"], "");
    desk.expect(0, &["init"]);
    // Its output does not shrink: 200 MB go through; its parent is the program.
    let script =
        "dd if=/dev/urandom bs=1M count=200 2>/dev/null; sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$PPID/status >peak";
    let told = desk.expect(0, &["--json", "backup", "--command", "--", "sh", "-c", script]).summary();
    assert_eq!(told["total_bytes_processed"], 200 << 20);
    let peak: u64 = desk.read("peak").trim().parse().expect("kB");
    assert!(peak < (32 + 64 + 32) << 10, "{peak} kB at a budget of 32 MiB");
    println!("a stream of 200 MiB: at most {} MiB at a budget of 32 MiB", peak >> 10);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let desk = Desk::new(&["one"], "");
    desk.expect(0, &["init"]);
    let table: [&[&str]; 9] = [
        &["backup", "--stdin", "src"],
        &["backup", "--stdin", "--job", "x"],
        &["backup", "--command"],
        &["backup", "--stdin", "--stdin-filename", "../x"],
        &["backup", "--stdin", "--stdin-filename", ""],
        &["backup", "--stdin-filename", "x", "src"],
        &["backup", "--stall", "1s", "src"],
        &["backup", "--stdin", "--as", "/x"],
        &["backup", "--stdin", "--exclude", "x"],
    ];
    for words in table {
        desk.expect(2, words);
    }
    let jobs = [
        ("paths = [\"src\"]\ncommand = [\"true\"]", "paths or a command"),
        ("", "neither paths nor a command"),
        ("command = []", "names no program"),
        ("command = [\"true\"]\nfilename = \"a/../b\"", "cannot name a stream"),
        ("command = [\"true\"]\nrecorded_as = \"/x\"", "recorded_as goes with paths"),
        ("command = [\"true\"]\nexclude = [\"x\"]", "goes with paths"),
        ("paths = [\"src\"]\nfilename = \"x\"", "filename goes with command"),
        ("paths = [\"src\"]\nstall = \"1s\"", "stall goes with command"),
        ("command = [\"true\"]\nstall = \"0s\"", "must be 1 s to 366 d"),
        ("paths = [\"src\"]\nhooks = { before = [[]] }", "names no program"),
        ("paths = [\"src\"]\nping = \"hc.example/secret\"", "is no address"),
    ];
    let plain = desk.read("holdfast.toml");
    for (lines, why) in jobs {
        desk.write("holdfast.toml", &format!("{plain}[[job]]\nname = \"j\"\n{lines}\n"));
        let told = desk.expect(2, &["backup"]);
        assert!(
            told.err.contains(why) && told.err.contains("holdfast.toml:") && !told.err.contains("secret"),
            "{lines}: {told:?}"
        );
    }
}
