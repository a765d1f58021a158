//! `holdfast run` by the real binary: what it does and in which order, how it exits, and that it may be run twice at once, killed,
//! and denied what it does not need.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::desk::{Desk, KEY, end, until};
use crate::support::s3_server::{Fault, S3Server};

const ONE_JOB: &str = "[[job]]\nname = \"files\"\npaths = [\"src\"]\n";

/// A hook that notes when it ran and what it was told.
fn hooks(section: &str, script: &str, who: &str) -> String {
    let hook = |moment: &str| format!("{moment} = [[\"{script}\", \"{who}\", \"{moment}\"]]\n");
    let all: String = ["before", "after", "failed", "finally"].iter().map(|moment| hook(moment)).collect();
    format!("[{section}]\n{all}")
}

/// The noting script; it fails when a file of its name is there.
fn noting(desk: &Desk) -> String {
    desk.script(
        "hook",
        "echo \"$1 $2 job=$HOLDFAST_JOB op=$HOLDFAST_OPERATION code=$HOLDFAST_EXIT_CODE snapshot=$HOLDFAST_SNAPSHOT \
         error=$HOLDFAST_ERROR\" >>notes\nenv | grep -c -e '^HOLDFAST_PASSWORD' -e '^HOLDFAST_KEY_FILE' >>secrets\n\
         if [ -e \"fail-$1-$2\" ]; then echo why it failed >&2; exit 7; fi",
    )
}

fn notes(desk: &Desk) -> Vec<String> {
    let text = std::fs::read_to_string(desk.at("notes")).unwrap_or_default();
    let _ = std::fs::remove_file(desk.at("notes"));
    text.lines().map(str::to_owned).collect()
}

/// The first two words of each note.
fn order(notes: &[String]) -> Vec<String> {
    notes.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn jobs_then_lifecycle_one_summary() {
    let jobs = format!(
        "{ONE_JOB}every = \"1d\"\n[[job]]\nname = \"dump\"\ncommand = [\"echo\", \"hi\"]\n[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 s\"\n"
    );
    let desk = Desk::new(&["one", "two"], &jobs);
    desk.expect(10, &["run"]);
    let told = desk.expect(0, &["--json", "run", "--init"]);
    let of_type = |kind: &str| told.out.lines().filter(|line| line.contains(&format!("\"message_type\":\"{kind}\""))).count();
    assert_eq!(of_type("summary"), 1, "{}", told.out);
    let summary = told.summary();
    assert_eq!(
        (&summary["exit_code"], &summary["jobs"][0]["name"], &summary["jobs"][1]["name"]),
        (&0.into(), &"files".into(), &"dump".into())
    );
    assert!(
        summary["jobs"].as_array().expect("jobs").iter().all(|job| job["snapshot_id"].as_str().is_some_and(|id| id.len() == 64))
    );
    assert_eq!((&summary["lifecycle"]["exit_code"], &summary["lifecycle"]["prune"]["dry_run"]), (&0.into(), &false.into()));
    assert_eq!(summary["run_id"].as_str().map(str::len), Some(36));
    assert_eq!(desk.labels(), ["files", "dump"]);
    // The rules are applied to each job's snapshots by themselves.
    desk.expect(0, &["run"]);
    assert_eq!(desk.labels(), ["files", "dump"]);
    desk.expect(0, &["run", "--no-lifecycle", "--job", "dump"]);
    assert_eq!(desk.labels(), ["files", "dump", "dump"]);
    let told = desk.expect(0, &["run", "--job", "files"]);
    assert!(told.out.contains("exit code 0 after") && told.out.contains("lifecycle: exit code 0"), "{}", told.out);
    desk.expect(0, &["verify", "--read-data"]);

    desk.expect(2, &["run", "--job", "nothing"]);
    desk.configure("[[store]]\nname = \"one\"\nurl = \"file:stores/one\"\n", "");
    let told = desk.expect(2, &["run"]);
    assert!(told.err.contains("configure a [[job]]"), "{told:?}");
}

#[test]
fn a_job_that_fails_does_not_stop_the_next_and_codes_have_their_order() {
    let jobs = "[[job]]\nname = \"gone\"\npaths = [\"none\"]\n[[job]]\nname = \"wrong\"\npaths = [\"src\"]\nexclude = [\"a[\"]\n\
                [[job]]\nname = \"broken\"\ncommand = [\"false\"]\n[[job]]\nname = \"good\"\npaths = [\"src\"]\n";
    let desk = Desk::new(&["one", "two"], jobs);
    let told = desk.expect(2, &["--json", "run", "--init"]);
    let codes: Vec<Value> = told.summary()["jobs"].as_array().expect("jobs").iter().map(|job| job["exit_code"].clone()).collect();
    assert_eq!(codes, [1, 2, 1, 0]);
    assert_eq!(desk.labels(), ["good"]);
    // At quorum with a store away: 4; with unreadable items besides, 5; with a failure besides, 1.
    std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved");
    desk.expect(4, &["run", "--job", "good"]);
    desk.expect(1, &["run", "--job", "good", "--job", "gone"]);
    std::fs::rename(desk.at("away"), desk.at("stores/two")).expect("moved back");
    desk.expect(0, &["run", "--job", "good"]);
    // A wrong key is wrong for all.
    desk.write("key", &KEY.replace("07", "08"));
    let told = desk.expect(12, &["--json", "run"]);
    let codes: Vec<Value> = told.summary()["jobs"].as_array().expect("jobs").iter().map(|job| job["exit_code"].clone()).collect();
    assert_eq!((codes[0].clone(), told.summary()["lifecycle"].clone()), (12.into(), Value::Null));
}

#[test]
fn hooks_have_their_order_and_are_told() {
    let desk = Desk::new(&["one"], "");
    let script = noting(&desk);
    let store = "[[store]]\nname = \"one\"\nurl = \"file:stores/one\"\n";
    let all = |paths: &str| {
        let job = |name: &str, paths: &str| {
            format!("[[job]]\nname = \"{name}\"\npaths = [\"{paths}\"]\n{}", hooks("job.hooks", &script, name))
        };
        format!("{}{}{}", job("first", paths), job("second", "src"), hooks("hooks", &script, "run"))
    };
    desk.configure(store, &all("src"));
    let run = |code: i32, words: &[&str]| {
        let out = desk.command(words).env("HOLDFAST_KEY_FILE", "key").output().expect("started");
        assert_eq!(
            out.status.code(),
            Some(code),
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    run(0, &["run", "--init"]);
    let told = notes(&desk);
    let well = [
        "run before",
        "first before",
        "first after",
        "first finally",
        "second before",
        "second after",
        "second finally",
        "run after",
        "run finally",
    ];
    assert_eq!(order(&told), well);
    assert!(told[1].starts_with("first before job=first op=backup code= snapshot= error="), "{told:?}");
    assert!(
        told[2].contains(" code=0 snapshot=")
            && told[2].split("snapshot=").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()))
    );
    assert!(told[8].starts_with("run finally job= op=run code=0 "), "{told:?}");
    assert_eq!(desk.read("secrets").lines().collect::<std::collections::BTreeSet<_>>(), ["0"].into(), "no hook sees a secret");

    // A source that is not there.
    desk.configure(store, &all("none"));
    run(1, &["run"]);
    let told = notes(&desk);
    let badly = [
        "run before",
        "first before",
        "first failed",
        "first finally",
        "second before",
        "second after",
        "second finally",
        "run failed",
        "run finally",
    ];
    assert_eq!(order(&told), badly);
    assert!(told[2].contains("code=1 snapshot= error=") && told[2].contains("none"), "{told:?}");

    // A hook before a job fails: the job is not begun, the next one is.
    desk.configure(store, &all("src"));
    desk.write("fail-first-before", "");
    let had = desk.labels().len();
    let err = run(1, &["run"]);
    assert!(err.contains("the before hook") && err.contains("exit status: 7") && err.contains("why it failed"), "{err}");
    let told = notes(&desk);
    assert_eq!(order(&told), badly);
    assert!(told[2].contains("exit status: 7"), "{told:?}");
    assert_eq!(desk.labels().len(), had + 1);
    std::fs::remove_file(desk.at("fail-first-before")).expect("removed");

    // A hook before the run fails: nothing is begun.
    desk.write("fail-run-before", "");
    run(1, &["run"]);
    assert_eq!(order(&notes(&desk)), ["run before", "run failed", "run finally"]);
    assert_eq!(desk.labels().len(), had + 1);
    std::fs::remove_file(desk.at("fail-run-before")).expect("removed");

    // A hook after a job fails: the snapshot stands, and the exit code says that something was not done.
    desk.write("fail-second-after", "");
    run(1, &["run"]);
    let told = notes(&desk);
    assert!(order(&told).contains(&"second finally".to_owned()) && order(&told).contains(&"run failed".to_owned()), "{told:?}");
    assert_eq!(desk.labels().len(), had + 3);
}

#[test]
fn a_hook_that_hangs_is_ended() {
    let job = format!(
        "{ONE_JOB}[job.hooks]\nbefore = [[\"sh\", \"-c\", \"sleep 61.5 & echo $! >child; wait\"]]\nfinally = [[\"touch\", \"cleaned\"]]\ntimeout = \"1s\"\n"
    );
    let desk = Desk::new(&["one"], &job);
    let began = Instant::now();
    let told = desk.expect(1, &["run", "--init"]);
    assert!(told.err.contains("had not ended after 1 s") && began.elapsed() < Duration::from_secs(30), "{told:?}");
    assert!(desk.at("cleaned").exists());
    let child = desk.read("child");
    until("the end of what the hook started", || !std::path::Path::new(&format!("/proc/{}/cwd", child.trim())).exists());
}

#[test]
fn interrupted_it_cleans_up_and_goes_on_next_time() {
    let jobs = "[[job]]\nname = \"dump\"\ncommand = [\"sh\", \"-c\", \"echo x; touch waiting; exec sleep 61.75\"]\n\
                [job.hooks]\nfinally = [[\"touch\", \"job-cleaned\"]]\n[[job]]\nname = \"files\"\npaths = [\"src\"]\n\
                [hooks]\nfinally = [[\"touch\", \"run-cleaned\"]]\n";
    let desk = Desk::new(&["one"], jobs);
    desk.expect(0, &["init"]);
    let child = desk.start(&["--json", "run"]);
    until("the wait", || desk.at("waiting").exists());
    let began = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("sent");
    let told = end(child);
    assert!(began.elapsed() < Duration::from_secs(25), "a container gives 30 s");
    assert_eq!((told.code, &told.summary()["exit_code"]), (Some(143), &143.into()), "{told:?}");
    assert!(desk.at("job-cleaned").exists() && desk.at("run-cleaned").exists());
    assert_eq!(desk.labels(), Vec::<String>::new());
    desk.expect(0, &["run", "--job", "files"]);
}

#[test]
fn killed_anywhere_the_next_run_is_whole() {
    let desk = Desk::new(
        &["one", "two"],
        &format!(
            "{ONE_JOB}[[job]]\nname = \"dump\"\ncommand = [\"sh\", \"-c\", \"seq 1 400000\"]\n[retention]\nkeep_last = 2\n[lifecycle]\nforget_floor = \"0 s\"\nforget_limit = \"100%\"\n"
        ),
    );
    desk.expect(0, &["init"]);
    // How long a whole run takes here says when to kill others.
    let began = Instant::now();
    desk.expect(0, &["run"]);
    let whole = began.elapsed();
    let mut cut = 0;
    for step in 0..8 {
        desk.write("src/changing", &format!("{step}").repeat(200_000));
        let mut child = desk
            .command(&["run"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("started");
        std::thread::sleep(whole * step / 8);
        let _ = child.kill();
        cut += u32::from(child.wait().expect("ended").code().is_none());
    }
    assert!(cut > 1, "some were killed on their way");
    desk.expect(0, &["run"]);
    desk.expect(0, &["verify", "--read-data"]);
    assert!(desk.labels().contains(&"files".to_owned()) && desk.labels().contains(&"dump".to_owned()));
    desk.expect(0, &["restore", "latest", "--label", "files", "--target", "to"]);
}

#[test]
fn twice_at_once() {
    let figures = "[metrics]\nfile = \"figures.prom\"\n";
    let jobs = format!("{ONE_JOB}[[job]]\nname = \"dump\"\ncommand = [\"sh\", \"-c\", \"seq 1 400000\"]\n{figures}");
    let desk = Desk::new(&["one", "two"], &jobs);
    let both: Vec<_> = (0..2).map(|_| desk.start(&["--json", "run", "--init"])).collect();
    for child in both {
        let told = end(child);
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    let mut labels = desk.labels();
    labels.sort();
    assert_eq!(labels, ["dump", "dump", "files", "files"]);
    desk.expect(0, &["verify", "--read-data"]);
    // Different jobs at once: neither run loses what the other one tells.
    let both: Vec<_> = ["files", "dump"].iter().map(|job| desk.start(&["run", "--no-lifecycle", "--job", job])).collect();
    both.into_iter().for_each(|child| assert_eq!(end(child).code, Some(0)));
    let text = desk.read("figures.prom");
    for job in ["files", "dump"] {
        assert!(
            text.lines().any(|l| l.starts_with("holdfast_last_run_status{")
                && l.contains(&format!("job=\"{job}\""))
                && l.ends_with(" 0.0")),
            "{text}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(desk.at(""))
        .expect("there")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().contains(".new"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn who_may_not_delete_backs_up_all_the_same() {
    let server = S3Server::start();
    let stores: String =
        ["one", "two"].iter().map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"{}\"\n", server.url(name))).collect();
    let desk = Desk::new(&[], "");
    desk.configure(&stores, &format!("{ONE_JOB}[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 s\"\nforget_limit = \"100%\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0\"\n"));
    let run = |code: i32, words: &[&str]| {
        let out = desk.command(words).envs(server.environment()).output().expect("started");
        let (told, err) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
        assert_eq!(out.status.code(), Some(code), "{words:?}\n{told}\n{err}");
        (told, err)
    };
    server.fault(Fault::refusal(403, "AccessDenied").on("DeleteObjects").times(100_000));
    run(0, &["run", "--init"]);
    for step in 0..3 {
        desk.write("src/changing", &format!("{step}").repeat(300_000));
        let (_, err) = run(0, &["run"]);
        if step > 0 {
            assert!(err.contains("left to an identity that may delete"), "{err}");
        }
    }
    let refused = server.count("DeleteObjects");
    assert!(refused > 0, "there was something to delete");
    desk.write("src/changing", "once more");
    let (told, _) = run(0, &["--json", "run"]);
    let summary: Value = serde_json::from_str(told.lines().last().expect("a summary")).expect("JSON");
    assert!(summary["lifecycle"]["denied"].as_array().is_some_and(|all| !all.is_empty()), "{summary}");
    // By itself the command says that it is denied.
    run(13, &["lifecycle"]);
    // Without the lifecycle no deletion is even tried.
    let before = server.count("DeleteObjects");
    run(0, &["run", "--no-lifecycle"]);
    assert_eq!(server.count("DeleteObjects"), before);
    run(0, &["verify", "--read-data"]);
}
