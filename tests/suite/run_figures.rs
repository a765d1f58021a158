//! What `holdfast run` tells those who watch it: figures in a file and at a Pushgateway, signs of life, and logs.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast::metrics::figures::Figures;
use holdfast::metrics::names::{
    ALL, EXPECTED_INTERVAL, INFO, LABELS, LAST_RUN_BYTES, LAST_RUN_EXIT_CODE, LAST_RUN_FILES, LAST_RUN_REQUESTS,
    LAST_RUN_RETRIES, LAST_RUN_STATUS, LAST_RUN_TIMESTAMP, LAST_SUCCESS_TIMESTAMP, Metric, NEWEST_SNAPSHOT, REPLICA_BEHIND,
    REPLICA_LAST_VERIFY, REPLICA_UP, SNAPSHOTS,
};
use serde_json::Value;

use crate::support::desk::{Desk, end, is_installed};
use crate::support::door::{Act, Fault};
use crate::support::running::{Running, free, get};
use crate::support::s3_server::S3Server;
use crate::support::watcher::Watcher;

const JOBS: &str =
    "[[job]]\nname = \"files\"\npaths = [\"src\"]\nevery = \"1d\"\n[[job]]\nname = \"dump\"\ncommand = [\"sh\", \"./dump\"]\n";

fn desk(more: &str) -> Desk {
    let desk = Desk::new(&["one", "two"], &format!("{JOBS}{more}"));
    desk.write("dump", "echo a dump");
    desk
}

fn figures(desk: &Desk) -> Figures {
    Figures::parse(&desk.read("figures.prom"))
}

fn of(figures: &Figures, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |has: &std::collections::BTreeMap<String, String>| {
        let rest = has.iter().filter(|(name, _)| *name != "repository").map(|(name, value)| (name.as_str(), value.as_str()));
        rest.collect::<BTreeSet<_>>() == labels.iter().copied().collect()
    };
    figures.iter().find(|(one, has, _)| *one == metric && fits(has)).map(|(_, _, value)| value)
}

const FILES: [(&str, &str); 2] = [("job", "files"), ("operation", "backup")];
const DUMP: [(&str, &str); 2] = [("job", "dump"), ("operation", "backup")];

#[test]
fn every_figure_is_there_and_none_is_made_up() {
    let desk = desk("[metrics]\nfile = \"figures.prom\"\n");
    desk.expect(0, &["run", "--init"]);
    desk.expect(0, &["run"]);
    let text = desk.read("figures.prom");
    let all = figures(&desk);
    let named: BTreeSet<&str> = all.iter().map(|(metric, _, _)| metric.name).collect();
    assert_eq!(named, ALL.iter().map(|metric| metric.name).collect());
    for (metric, labels, value) in all.iter() {
        assert!(value.is_finite() && labels.keys().all(|name| LABELS.contains(&name.as_str())), "{} {labels:?}", metric.name);
        assert_eq!(labels["repository"].len(), 8, "{} {labels:?}", metric.name);
    }
    let kinds = |metric: &Metric, label: &str| -> BTreeSet<String> {
        all.iter().filter(|(one, _, _)| *one == metric).map(|(_, labels, _)| labels[label].clone()).collect()
    };
    assert_eq!(kinds(&LAST_RUN_BYTES, "kind"), ["new", "read", "stored", "uploaded"].map(str::to_owned).into());
    assert_eq!(kinds(&LAST_RUN_FILES, "state"), ["changed", "failed", "new", "unmodified"].map(str::to_owned).into());
    assert_eq!(kinds(&LAST_RUN_REQUESTS, "kind"), ["delete", "get", "list", "put", "stat"].map(str::to_owned).into());
    assert_eq!(kinds(&REPLICA_UP, "replica"), ["one", "two"].map(str::to_owned).into());
    assert_eq!(of(&all, &EXPECTED_INTERVAL, &[("job", "files")]), Some(86_400.0));
    assert_eq!(
        (of(&all, &SNAPSHOTS, &[("job", "files")]), of(&all, &LAST_RUN_FILES, &[FILES[0], FILES[1], ("state", "unmodified")])),
        (Some(2.0), Some(2.0))
    );
    assert_eq!(of(&all, &INFO, &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    assert!(of(&all, &REPLICA_LAST_VERIFY, &[("replica", "two")]).is_some(), "the lifecycle verified it\n{text}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(desk.at("figures.prom")).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o644, "another user reads it");
    if is_installed("promtool") {
        let input = std::fs::File::open(desk.at("figures.prom")).expect("there");
        let out = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().expect("started");
        assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    } else {
        eprintln!("ignored: the look of promtool at the figures, which is not on PATH");
    }
}

#[test]
fn the_last_success_survives_failures() {
    let desk = desk("[metrics]\nfile = \"figures.prom\"\n");
    desk.expect(0, &["run", "--init"]);
    let before = figures(&desk);
    let success = of(&before, &LAST_SUCCESS_TIMESTAMP, &DUMP).expect("it went well");
    // A job that fails: the repository still says when it last went well, also where the file is gone.
    desk.write("dump", "echo half; exit 1");
    std::fs::remove_file(desk.at("figures.prom")).expect("removed");
    desk.expect(1, &["run"]);
    let after = figures(&desk);
    assert_eq!(of(&after, &LAST_SUCCESS_TIMESTAMP, &DUMP), Some(success));
    assert_eq!((of(&after, &LAST_RUN_STATUS, &DUMP), of(&after, &LAST_RUN_EXIT_CODE, &DUMP)), (Some(2.0), Some(1.0)));
    assert_eq!(of(&after, &LAST_RUN_BYTES, &[DUMP[0], DUMP[1], ("kind", "read")]), None, "what is not known is left out");
    assert!(of(&after, &LAST_SUCCESS_TIMESTAMP, &FILES) > of(&before, &LAST_SUCCESS_TIMESTAMP, &FILES));
    assert_eq!(of(&after, &LAST_RUN_STATUS, &[("operation", "run")]), Some(2.0));
    // One replica away: the rest is told, and nothing of the one that cannot be seen.
    desk.write("dump", "echo a dump");
    std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved");
    desk.expect(4, &["run"]);
    let partly = figures(&desk);
    assert_eq!(
        (of(&partly, &REPLICA_UP, &[("replica", "one")]), of(&partly, &REPLICA_UP, &[("replica", "two")])),
        (Some(1.0), Some(0.0))
    );
    assert_eq!(
        (of(&partly, &REPLICA_BEHIND, &[("replica", "one")]), of(&partly, &REPLICA_BEHIND, &[("replica", "two")])),
        (Some(0.0), None)
    );
    assert_eq!(of(&partly, &LAST_RUN_STATUS, &DUMP), Some(1.0));
    // No repository in sight: the last success is taken over from the file, and the rest is not made up.
    std::fs::rename(desk.at("stores/one"), desk.at("away-too")).expect("moved");
    let told = desk.run(&["run"]);
    assert!(told.code.is_some_and(|code| code != 0), "{told:?}");
    let blind = figures(&desk);
    assert_eq!(of(&blind, &LAST_SUCCESS_TIMESTAMP, &DUMP), of(&partly, &LAST_SUCCESS_TIMESTAMP, &DUMP));
    assert_eq!((of(&blind, &SNAPSHOTS, &[("job", "files")]), of(&blind, &REPLICA_UP, &[("replica", "one")])), (None, None));
    assert_eq!(of(&blind, &LAST_RUN_STATUS, &FILES), Some(2.0));
    let ids: BTreeSet<&str> = blind.values_of("repository");
    assert_eq!(ids, partly.values_of("repository"), "the file says which repository it was");
    // One job alone: what was told of the other one stays true.
    std::fs::rename(desk.at("away-too"), desk.at("stores/one")).expect("moved back");
    std::fs::rename(desk.at("away"), desk.at("stores/two")).expect("moved back");
    desk.expect(0, &["run", "--job", "files", "--no-lifecycle"]);
    let alone = figures(&desk);
    assert_eq!(of(&alone, &LAST_RUN_TIMESTAMP, &DUMP), of(&blind, &LAST_RUN_TIMESTAMP, &DUMP));
    assert_eq!(of(&alone, &LAST_RUN_STATUS, &FILES), Some(0.0));
    assert!(of(&alone, &NEWEST_SNAPSHOT, &[("job", "dump")]).is_some());
    // The lifecycle by itself, as another identity runs it: it tells of itself, and leaves standing what runs told.
    let lifecycle = [("operation", "lifecycle")];
    desk.expect(0, &["lifecycle", "--dry-run"]);
    assert_eq!(figures(&desk), alone, "a dry run leaves no figures");
    desk.expect(0, &["lifecycle"]);
    let later = figures(&desk);
    assert!(of(&later, &LAST_RUN_TIMESTAMP, &lifecycle) > of(&alone, &LAST_RUN_TIMESTAMP, &lifecycle));
    assert_eq!((of(&later, &LAST_RUN_STATUS, &lifecycle), of(&later, &LAST_RUN_EXIT_CODE, &lifecycle)), (Some(0.0), Some(0.0)));
    for labels in [&FILES[..], &DUMP, &[("operation", "run")]] {
        let told = of(&later, &LAST_RUN_TIMESTAMP, labels);
        assert!(told.is_some() && told == of(&alone, &LAST_RUN_TIMESTAMP, labels), "{labels:?}");
    }
}

#[test]
fn requests_and_those_sent_again_are_counted() {
    let server = S3Server::start();
    let desk = Desk::new(&[], "");
    let store = format!("[[store]]\nname = \"cloud\"\nurl = \"{}\"\n", server.url("figures"));
    desk.configure(&store, "[[job]]\nname = \"files\"\npaths = [\"src\"]\n[metrics]\nfile = \"figures.prom\"\n");
    let run = |words: &[&str]| {
        let out = desk.command(words).envs(server.environment()).output().expect("started");
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        let puts = of(&figures(&desk), &LAST_RUN_REQUESTS, &[("kind", "put"), ("replica", "cloud")]);
        (puts.expect("told"), of(&figures(&desk), &LAST_RUN_RETRIES, &[("replica", "cloud")]).expect("told"))
    };
    let (puts, again) = run(&["run", "--init"]);
    assert_eq!((puts, again), (server.count("PutObject") as f64, 0.0), "what the server saw is what is told");
    let before = server.count("PutObject");
    server.fault(Fault::refusal(503, "SlowDown").on("PutObject").times(2));
    let (puts, again) = run(&["run"]);
    assert!(server.faults_are_over());
    // A request counts once, however often it was sent.
    assert_eq!((puts, again), ((server.count("PutObject") - before) as f64 - 2.0, 2.0));
}

#[test]
fn the_file_is_whole_at_any_moment() {
    let desk = desk("[metrics]\nfile = \"figures.prom\"\n");
    desk.expect(0, &["run", "--init"]);
    let whole = figures(&desk).iter().count();
    let mut child = desk.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let mut looks = 0;
    while child.try_wait().expect("asked").is_none() {
        assert!(figures(&desk).iter().count() >= whole, "never empty, never half");
        looks += 1;
    }
    assert!(looks > 10 && child.wait().expect("ended").success());
    // A folder that is not there is a warning.
    desk.write("holdfast.toml", &desk.read("holdfast.toml").replace("figures.prom", "no/such/folder/figures.prom"));
    let told = desk.expect(0, &["run"]);
    assert!(told.err.contains("writing the figures to"), "{told:?}");
}

#[test]
fn figures_are_pushed_by_job_and_repository_alone() {
    let watcher = Watcher::start();
    let desk = desk(&format!("[metrics]\npush = \"{}\"\n", watcher.url("gate/")));
    desk.expect(0, &["run", "--init"]);
    let posted = watcher.take();
    let id = &posted[0].target.rsplit('/').next().expect("an id").to_owned();
    let targets: Vec<&str> = posted.iter().map(|p| p.target.as_str()).collect();
    let target = |job: &str| format!("/gate/metrics/job/{job}/repository/{id}");
    let whole = ["/operation/lifecycle", "/operation/run"].map(|of| target("holdfast") + of);
    assert_eq!(targets, [&[target("dump"), target("files"), target("holdfast")][..], &whole].concat());
    let mut seen = Figures::default();
    for one in &posted {
        let figures = Figures::parse(&one.body);
        let job = one.target.split('/').nth(4).expect("a job");
        assert!(figures.iter().all(|(_, labels, _)| labels.get("job").is_none_or(|own| own == job)), "{}", one.body);
        seen.take_over(&figures, |_, _| true);
    }
    let named: BTreeSet<&str> = seen.iter().map(|(metric, _, _)| metric.name).collect();
    assert_eq!(named, ALL.iter().map(|metric| metric.name).collect());
    // A failure leaves out what it does not know, so that it stays at the gateway.
    std::fs::rename(desk.at("stores"), desk.at("away")).expect("moved");
    watcher.deleted();
    assert_ne!(desk.run(&["run"]).code, Some(0));
    let posted = watcher.take();
    // It does not know which repository that was: a group of its own says so, until a run knows.
    let unknown = ["dump", "files", "holdfast", "holdfast/operation/lifecycle", "holdfast/operation/run"];
    let unknown = unknown.map(|group| format!("/gate/metrics/job/{group}"));
    let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
    let targets: Vec<&str> = posted.iter().map(|p| p.target.as_str()).collect();
    assert!(targets.iter().all(|target| unknown.contains(target)) && watcher.deleted().is_empty(), "{targets:?}");
    assert!(
        !posted.is_empty() && posted.iter().all(|one| !one.body.contains("holdfast_last_success_timestamp_seconds{")),
        "{posted:?}"
    );
    std::fs::rename(desk.at("away"), desk.at("stores")).expect("moved back");
    // A gateway in trouble is asked again; one that refuses is a warning with its reason; one that is silent takes its time, no more.
    watcher.door.fault(Fault::new(Act::Answer { status: 503, headers: Vec::new(), body: String::new() }));
    let told = desk.expect(0, &["run"]);
    assert!(watcher.door.faults_are_over() && !told.err.contains("pushing"), "{told:?}");
    assert_eq!(watcher.deleted(), unknown);
    watcher.take();
    watcher.door.fault(Fault::new(Act::Answer { status: 400, headers: Vec::new(), body: "bad figures".into() }).times(5));
    let told = desk.expect(0, &["run"]);
    assert!(told.err.contains("pushing the figures of \"dump\"") && told.err.contains("bad figures"), "{told:?}");
    assert_eq!(watcher.take().len(), 0, "a refusal is final");
}

#[test]
fn a_silent_watcher_does_not_fail_a_run() {
    let watcher = Watcher::start();
    watcher.door.fault(Fault::new(Act::Silence).times(1000));
    let desk = desk(&format!("[ping]\nurl = \"{}\"\n", watcher.url("very-secret")));
    let began = Instant::now();
    let told = desk.expect(0, &["run", "--init"]);
    assert!((Duration::from_secs(60)..Duration::from_secs(120)).contains(&began.elapsed()), "three attempts of 10 s each, twice");
    assert!(told.err.contains("no answer within 10 s") && !told.err.contains("very-secret"), "{told:?}");
}

#[test]
fn signs_of_life() {
    let watcher = Watcher::start();
    let desk = desk("");
    let ping = |desk: &Desk| {
        let text =
            desk.read("holdfast.toml").replace("every = \"1d\"\n", &format!("ping = \"{}\"\n", watcher.url("ping/job-secret")));
        desk.write("holdfast.toml", &format!("{text}[ping]\nurl = \"{}\"\n", watcher.url("ping/run-secret")));
    };
    ping(&desk);
    let targets = |watcher: &Watcher| {
        let all = watcher.take();
        let rids: BTreeSet<String> =
            all.iter().filter_map(|p| p.target.split_once("?rid=").map(|(_, rid)| rid.to_owned())).collect();
        assert_eq!(rids.len(), 1, "one run, one id: {all:?}");
        assert!(rids.iter().all(|rid| rid.len() == 36));
        all.into_iter().map(|p| (p.target.split('?').next().expect("a path").to_owned(), p.body)).collect::<Vec<_>>()
    };
    let paths = |all: &[(String, String)]| all.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    desk.expect(0, &["run", "--init"]);
    let told = targets(&watcher);
    assert_eq!(paths(&told), ["/ping/run-secret/start", "/ping/job-secret/start", "/ping/job-secret", "/ping/run-secret"]);
    assert!(told[3].1.contains("exit code 0 after") && told[3].1.contains("dump"), "{told:?}");
    // A failure, with its reason, cut to what a watcher takes.
    desk.write("dump", "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1");
    desk.expect(1, &["run"]);
    let told = targets(&watcher);
    assert_eq!(paths(&told), ["/ping/run-secret/start", "/ping/job-secret/start", "/ping/job-secret", "/ping/run-secret/1"]);
    assert!(told[3].1.len() <= 100_000 && told[3].1.contains("exit status: 1"), "{}", told[3].1.len());
    // Nothing can be opened: both hear of it.
    std::fs::rename(desk.at("key"), desk.at("lost")).expect("moved");
    let text = desk.expect(2, &["run"]);
    assert_eq!(paths(&targets(&watcher)), ["/ping/run-secret/start", "/ping/job-secret/2", "/ping/run-secret/2"]);
    assert!(!text.err.contains("-secret"));
    std::fs::rename(desk.at("lost"), desk.at("key")).expect("moved back");
    // The lifecycle by itself tells somebody else.
    let text = desk.read("holdfast.toml");
    desk.write("holdfast.toml", &format!("{text}[lifecycle]\nping = \"{}\"\n", watcher.url("ping/pruner-secret")));
    desk.expect(0, &["lifecycle", "--dry-run"]);
    assert_eq!(watcher.take().len(), 0, "a dry run tells nobody");
    desk.expect(0, &["lifecycle"]);
    let told = targets(&watcher);
    assert_eq!(paths(&told), ["/ping/pruner-secret/start", "/ping/pruner-secret"]);
    std::fs::rename(desk.at("key"), desk.at("lost")).expect("moved");
    desk.expect(2, &["lifecycle"]);
    assert_eq!(paths(&targets(&watcher)), ["/ping/pruner-secret/start", "/ping/pruner-secret/2"]);
    std::fs::rename(desk.at("lost"), desk.at("key")).expect("moved back");
    // Nobody listens: a warning that names the host alone.
    watcher.door.down(true);
    desk.write("dump", "echo a dump");
    let told = desk.expect(0, &["run"]);
    assert!(told.err.contains("telling http://127.0.0.1:") && !told.err.contains("-secret"), "{told:?}");
}

#[test]
fn logs_say_whose_they_are_and_no_secret() {
    let desk = desk("");
    desk.expect(0, &["init"]);
    std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved");
    desk.write("dump", "exit 1");
    let plain = desk.expect(1, &["run"]);
    assert!(!plain.err.contains("run_id") && plain.err.contains("error: dump: "), "without it all is as it was: {}", plain.err);
    let out = desk.command(&["--json", "--log-format", "json", "run"]).output().expect("started");
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let summary: Value =
        serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().expect("a summary")).expect("JSON");
    let run_id = &summary["run_id"];
    let of_job = |job: &str| lines.iter().filter(|line| line["span"]["job"] == job).collect::<Vec<_>>();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{err}");
    assert!(lines.iter().all(|line| line["span"]["run_id"] == *run_id || line["code"] == 1), "{err}");
    assert!(
        of_job("dump")
            .iter()
            .any(|line| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|m| m.contains("exit status: 1"))),
        "{err}"
    );
    let replicas: BTreeSet<(&str, bool)> =
        of_job("files").iter().filter_map(|line| Some((line["replica"].as_str()?, line["committed"].as_bool()?))).collect();
    assert_eq!(replicas, [("one", true), ("two", false)].into(), "{err}");
    let ended: Vec<_> =
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|m| m.starts_with("the run ended"))).collect();
    assert!(ended.len() == 1 && ended[0]["code"] == 1, "{err}");
    let text = desk.command(&["run"]).env("HOLDFAST_LOG_FORMAT", "text").output().expect("started");
    let text = String::from_utf8_lossy(&text.stderr).into_owned();
    assert!(text.lines().any(|l| l.contains("ERROR") && l.contains("job=\"dump\"") && l.contains("run_id=")), "{text}");
    assert!(!text.contains("0707070707") && !err.contains("0707070707"));
    desk.expect(2, &["--log-format", "xml", "run"]);
}

#[test]
fn a_real_gateway_takes_the_figures_and_keeps_what_is_not_told() {
    if !is_installed("prometheus-pushgateway") {
        eprintln!("ignored: prometheus-pushgateway is not on PATH");
        return;
    }
    let desk = desk("[[job]]\nname = \"..\"\npaths = [\"src/a.txt\"]\n");
    let at = free();
    let _gateway = Running::listening("prometheus-pushgateway", &[format!("--web.listen-address={at}")], at);
    desk.write("holdfast.toml", &format!("{}[metrics]\npush = \"http://{at}\"\n", desk.read("holdfast.toml")));
    let scraped = || Figures::parse(&shown(at));
    // Without a repository there is no telling which one failed; once there is one, no group says that any more.
    let told = desk.run(&["run"]);
    assert_eq!(told.code, Some(10), "{told:?}");
    let nameless = |all: &Figures| all.iter().any(|(_, labels, _)| labels.get("repository").is_none_or(String::is_empty));
    assert!(nameless(&scraped()), "a failure is told");
    let told = end(desk.start(&["run", "--init"]));
    assert!(told.code == Some(0) && !told.err.contains("pushing"), "{told:?}");
    let first = scraped();
    assert!(!nameless(&first), "{}", shown(at));
    assert!(of(&first, &LAST_SUCCESS_TIMESTAMP, &[("job", ".."), ("operation", "backup")]).is_some(), "{}", shown(at));
    let named: BTreeSet<&str> = first.iter().map(|(metric, _, _)| metric.name).collect();
    assert_eq!(named, ALL.iter().map(|metric| metric.name).collect(), "the gateway has all of them");
    let success = of(&first, &LAST_SUCCESS_TIMESTAMP, &DUMP).expect("it went well");
    // A lifecycle by itself takes nothing of the run's away.
    desk.expect(0, &["lifecycle"]);
    for operation in ["run", "lifecycle"] {
        assert_eq!(of(&scraped(), &LAST_RUN_STATUS, &[("operation", operation)]), Some(0.0), "{operation}: {}", shown(at));
    }
    desk.write("dump", "exit 1");
    assert_eq!(desk.run(&["run"]).code, Some(1));
    let second = scraped();
    assert_eq!((of(&second, &LAST_RUN_STATUS, &DUMP), of(&second, &LAST_SUCCESS_TIMESTAMP, &DUMP)), (Some(2.0), Some(success)));
}

/// What a scrape of the gateway gives, less the labels that it adds.
fn shown(at: std::net::SocketAddr) -> String {
    // Series without a job are in a group of their own; its name is not theirs.
    get(at, "/metrics").expect("answered").replace("instance=\"\",", "").replace("job=\"holdfast\",", "")
}
