//! A fortnight of scheduled runs by the real binary under a shifted clock: one replica is away for three days, a hook fails on one,
//! the machine is off on another. What the operator gets to see of it is asserted, and printed as a table. Debian's package
//! `faketime` shifts the clock.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast::metrics::figures::Figures;
use holdfast::metrics::names::{
    LAST_RUN_EXIT_CODE, LAST_RUN_STATUS, LAST_RUN_TIMESTAMP, LAST_SUCCESS_TIMESTAMP, Metric, REPLICA_BEHIND, REPLICA_UP,
    SNAPSHOTS,
};
use serde_json::Value;

use crate::support::desk::{Desk, PROGRAM, is_installed};
use crate::support::watcher::Watcher;

const DAY: u64 = 86_400;

/// What happens on a day.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    Away,
    Hook,
    Off,
}

fn fate(day: u64) -> Fate {
    match day {
        5..=7 => Fate::Away,
        10 => Fate::Hook,
        12 => Fate::Off,
        _ => Fate::Well,
    }
}

/// A figure by its labels, the repository apart.
fn figure(figures: &Figures, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |has: &std::collections::BTreeMap<String, String>| {
        labels.iter().all(|(name, value)| has.get(*name).is_some_and(|own| own == value)) && has.len() == labels.len() + 1
    };
    figures.iter().find(|(one, has, _)| *one == metric && fits(has)).map(|(_, _, value)| value)
}

#[test]
fn a_fortnight() {
    if !is_installed("faketime") {
        eprintln!("ignored: faketime is not on PATH");
        return;
    }
    let watcher = Watcher::start();
    let more = format!(
        "[[job]]\nname = \"files\"\npaths = [\"src\"]\nevery = \"1d\"\n[job.hooks]\nbefore = [[\"sh\", \"./before\"]]\n\
         finally = [[\"sh\", \"-c\", \"echo $HOLDFAST_EXIT_CODE >>finally\"]]\n\
         [[job]]\nname = \"dump\"\ncommand = [\"sh\", \"-c\", \"date; seq 1 30000\"]\nevery = \"1d\"\n\
         [retention]\nkeep_daily = 7\n[lifecycle]\nforget_floor = \"0 s\"\nverify_within = \"7 d\"\n\
         [metrics]\nfile = \"figures.prom\"\n[ping]\nurl = \"{}\"\n[log]\nformat = \"json\"\n",
        watcher.url("ping")
    );
    let desk = Desk::new(&["one", "two", "three"], &more);
    desk.write("before", "exit 0");
    // In days to come: what lies there now has changed before.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let first = (now / DAY + 2) * DAY + 2 * 3600;
    let mut table = vec!["day  what happens        exit  status f/d  success age h f/d  snapshots f/d  up  behind  pings           log lines (warn, error)".to_owned()];
    let mut last_success = 0.0;
    for day in 1..=14 {
        let fate = fate(day);
        let at = first + (day - 1) * DAY;
        desk.write(&format!("src/day-{day}"), &format!("{day}\n").repeat(5_000));
        match (fate, self::fate(day - 1)) {
            (Fate::Away, Fate::Away) | (Fate::Off, _) => {}
            (Fate::Away, _) => std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved"),
            (_, Fate::Away) => std::fs::rename(desk.at("away"), desk.at("stores/two")).expect("moved back"),
            _ => {}
        }
        if fate == Fate::Off {
            table.push(format!("{day:>3}  the machine is off"));
            continue;
        }
        desk.write("before", if fate == Fate::Hook { "echo the disk would not freeze >&2; exit 4" } else { "exit 0" });
        let time = jiff::Timestamp::from_second(i64::try_from(at).expect("in range")).expect("a time");
        let mut command = Command::new("faketime");
        desk.prepare(&mut command);
        // Only the calendar is shifted: waits go by the steady clock, and files keep their times (so there is no floor here: by the
        // stores' clocks everything is young).
        command
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
            .env("TZ", "UTC");
        command.args(["-f", &format!("@{}", time.strftime("%Y-%m-%d %H:%M:%S"))]).args([PROGRAM, "--json", "run"]);
        if day == 1 {
            command.arg("--init");
        }
        let out = command.output().expect("started");
        let (told, err) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned());
        let code = out.status.code();
        let expected = match fate {
            Fate::Well | Fate::Off => 0,
            Fate::Away => 4,
            Fate::Hook => 1,
        };
        assert_eq!(code, Some(expected), "day {day}\n{told}\n{err}");
        let summary: Value = serde_json::from_str(told.lines().last().expect("a summary")).expect("JSON");

        let figures = Figures::parse(&desk.read("figures.prom"));
        let of = |metric: &Metric, labels: &[(&str, &str)]| figure(&figures, metric, labels);
        let job = |metric: &Metric, name: &'static str| of(metric, &[("job", name), ("operation", "backup")]);
        let (files, dump) = (job(&LAST_RUN_STATUS, "files").expect("told"), job(&LAST_RUN_STATUS, "dump").expect("told"));
        let statuses = match fate {
            Fate::Well | Fate::Off => (0.0, 0.0),
            Fate::Away => (1.0, 1.0),
            Fate::Hook => (2.0, 0.0),
        };
        assert_eq!((files, dump), statuses, "day {day}");
        let run_ended = of(&LAST_RUN_TIMESTAMP, &[("operation", "run")]).expect("told");
        assert!((at as f64..at as f64 + 300.0).contains(&run_ended), "day {day}: the clock is shifted, and goes on");
        let success = job(&LAST_SUCCESS_TIMESTAMP, "files").expect("it survives");
        match fate {
            Fate::Hook => assert_eq!(success, last_success, "day {day}: a failure does not move it"),
            _ => assert!((at as f64..at as f64 + 300.0).contains(&success), "day {day}: {success}"),
        }
        last_success = success;
        let up = of(&REPLICA_UP, &[("replica", "two")]).expect("told");
        assert_eq!(up, if fate == Fate::Away { 0.0 } else { 1.0 }, "day {day}");
        let behind = of(&REPLICA_BEHIND, &[("replica", "two")]);
        assert_eq!(
            behind,
            if fate == Fate::Away { None } else { Some(0.0) },
            "day {day}: healed when it is back, unknown while away"
        );
        assert_eq!(of(&LAST_RUN_EXIT_CODE, &[("operation", "run")]), Some(f64::from(expected)));
        let kept = |name: &'static str| of(&SNAPSHOTS, &[("job", name)]).expect("told");
        assert!(kept("dump") <= 7.0 + 1.0, "day {day}: {} are kept", kept("dump"));

        let pings = watcher.take();
        let rid = format!("?rid={}", summary["run_id"].as_str().expect("an id"));
        let targets: Vec<String> = pings.iter().map(|p| p.target.replace(&rid, "").replace("/ping", "")).collect();
        let end = if expected == 0 { String::new() } else { format!("/{expected}") };
        assert_eq!(targets, ["/start".to_owned(), end], "day {day}");
        let body = &pings[1].body;
        match fate {
            Fate::Away => assert!(body.contains("two left behind"), "{body}"),
            Fate::Hook => assert!(body.contains("the disk would not freeze") && body.contains("no snapshot"), "{body}"),
            _ => assert!(body.contains("exit code 0 after"), "{body}"),
        }

        let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
        let date = time.strftime("%Y-%m-%d").to_string();
        assert!(lines.iter().all(|line| line["timestamp"].as_str().is_some_and(|t| t.starts_with(&date))), "day {day}: {err}");
        let whose = |line: &&Value| line["span"]["run_id"] == summary["run_id"] || line["code"] == expected;
        assert!(lines.iter().filter(whose).count() == lines.len(), "day {day}: {err}");
        let of_level = |level: &str| lines.iter().filter(|line| line["level"] == level).count();
        match fate {
            Fate::Well | Fate::Off => assert_eq!(of_level("ERROR"), 0, "day {day}: {err}"),
            Fate::Away => assert!(
                lines.iter().any(|line| line["replica"] == "two" && line["committed"] == false && line["span"]["job"] == "files"),
                "day {day}: {err}"
            ),
            Fate::Hook => assert!(
                lines.iter().any(|line| line["during"] == "hook" && line["item"] == "files" && line["level"] == "ERROR"),
                "day {day}: {err}"
            ),
        }
        let age = |name: &'static str| (run_ended - job(&LAST_SUCCESS_TIMESTAMP, name).expect("told")) / 3600.0;
        table.push(format!(
            "{day:>3}  {:<18}  {expected:>4}  {files:>6} {dump:<3}  {:>11.1} {:<5.1}  {:>7} {:<5}  {up:>2}  {:>6}  {:<14}  {} ({}, {})",
            match fate {
                Fate::Well => "",
                Fate::Away => "store two is away",
                Fate::Hook => "a hook fails",
                Fate::Off => "",
            },
            age("files"),
            age("dump"),
            kept("files"),
            kept("dump"),
            behind.map_or("-".to_owned(), |n| n.to_string()),
            targets.iter().map(|t| if t.is_empty() { "URL" } else { t }).collect::<Vec<_>>().join(" "),
            lines.len(),
            of_level("WARN"),
            of_level("ERROR"),
        ));
    }
    assert_eq!(desk.read("finally").lines().count(), 13, "the hook at the end runs whatever happens");
    // Both alone hold everything.
    for store in ["one", "two", "three"] {
        desk.expect(0, &["restore", "latest", "--label", "files", "--from", store, "--target", store]);
        assert_eq!(std::fs::read_dir(below(&desk.at(store))).expect("restored").count(), 2 + 14, "{store}");
    }
    desk.expect(0, &["verify", "--read-data"]);
    println!("{}", table.join("\n"));
}

/// The restored source below a target: the folder named `src`.
fn below(target: &std::path::Path) -> std::path::PathBuf {
    let mut open = vec![target.to_path_buf()];
    while let Some(folder) = open.pop() {
        if folder.file_name().is_some_and(|name| name == "src") {
            return folder;
        }
        open.extend(std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).filter(|path| path.is_dir()));
    }
    panic!("no src below {}", target.display())
}
