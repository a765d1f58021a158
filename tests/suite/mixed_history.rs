//! Real processes that back up, forget, prune and heal one repository at the same time, some killed and some frozen wherever they
//! stand: what was acknowledged and not forgotten is whole at the end. `HOLDFAST_SUITE=full` kills 200 and freezes 50.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::processes::{Desk, change, draw, plant, send};
use crate::support::rig::{self, NAMES, Tree};

/// Directories that are backed up.
const SOURCES: u64 = 4;

/// A process under way.
struct Running {
    child: Child,
    words: Vec<String>,
    /// The tag of the snapshot it makes.
    tag: Option<String>,
    /// The source that must not change meanwhile.
    source: Option<u64>,
    killed: bool,
    /// The round in which it goes on.
    until: Option<u64>,
}

/// What the history has come to.
struct History {
    desk: Desk,
    trees: BTreeMap<String, Tree>,
    /// Snapshots that a backup said are done: tag, and id in hex.
    acknowledged: BTreeMap<String, String>,
    /// How many were killed while they ran, and how many were frozen.
    cut: u64,
    frozen: u64,
    /// How the others ended, by command and exit code.
    codes: BTreeMap<(String, i32), u64>,
}

impl History {
    fn start(&self, words: &[&str], source: Option<u64>, tag: Option<String>) -> Running {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let child = self.desk.start(&words.iter().map(String::as_str).collect::<Vec<_>>());
        Running { child, words, tag, source, killed: false, until: None }
    }

    fn backup(&mut self, round: u64, source: u64) -> Running {
        let (tag, path) = (format!("round-{round}-{source}"), format!("source-{source}"));
        self.trees.insert(tag.clone(), rig::tree_at(&self.desk.at(&path)));
        self.start(&["--json", "backup", "--tag", &tag, &path], Some(source), Some(tag.clone()))
    }

    /// Waits for a process, and judges how it ended.
    fn end(&mut self, running: Running) {
        let Output { status, stdout, stderr } = running.child.wait_with_output().expect("ended");
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let Some(code) = status.code() else {
            assert!(running.killed, "{:?} died by itself\n{out}\n{err}", running.words);
            self.cut += 1;
            return;
        };
        // Others may be faster again and again, and a replica may be behind; and a prune without mercy takes packs away from who
        // relies on them or reads them just now: such a run fails and says so. What that leaves is judged at the end.
        assert!(matches!(code, 0 | 1 | 4 | 11 | 14), "{:?} exits with {code}\n{out}\n{err}", running.words);
        let command = if running.words[0] == "--json" { &running.words[1] } else { &running.words[0] };
        *self.codes.entry((command.clone(), code)).or_default() += 1;
        if let (Some(tag), 0 | 4) = (running.tag, code) {
            let last: Value = serde_json::from_str(out.lines().last().expect("a summary")).expect("JSON");
            self.acknowledged.insert(tag, last["snapshot_id"].as_str().expect("an id").to_owned());
        }
    }
}

#[tokio::test]
async fn killed_and_frozen_among_each_other() {
    let full = std::env::var_os("HOLDFAST_SUITE").is_some_and(|form| form == "full");
    let (kills, freezes): (u64, u64) = if full { (200, 50) } else { (14, 5) };
    let desk = Desk::new(None);
    for source in 0..SOURCES {
        plant(&desk.at(&format!("source-{source}")), 10 + source, 4);
    }
    desk.expect(0, &["init"]);
    let (trees, acknowledged, codes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut history = History { desk, trees, acknowledged, cut: 0, frozen: 0, codes };
    let mut held: Vec<Running> = Vec::new();
    // About how long a process takes, in microseconds.
    let mut usual = 300_000_u64;
    let mut newest = [0_u64; SOURCES as usize];
    for round in 1..=10 * kills {
        if history.cut >= kills && history.frozen >= freezes {
            break;
        }
        let (due, rest): (Vec<Running>, Vec<Running>) = held.into_iter().partition(|one| one.until.is_some_and(|at| at <= round));
        held = rest;
        let mut running: Vec<Running> = Vec::new();
        for one in due {
            send(&one.child, Signal::CONT);
            running.push(one);
        }
        let busy: BTreeSet<u64> = running.iter().chain(&held).filter_map(|one| one.source).collect();
        let free: Vec<u64> = (0..SOURCES).filter(|source| !busy.contains(source)).collect();
        let began = std::time::Instant::now();
        let fresh = running.len();
        for source in free.iter().cycle().skip(round as usize % SOURCES as usize).take(free.len().min(2)) {
            change(&history.desk.at(&format!("source-{source}")), round);
            let backup = history.backup(round, *source);
            newest[*source as usize] = round;
            running.push(backup);
        }
        let others: [&[&str]; 4] = [
            &["forget", "--keep-last", "3"],
            &["prune", "--mercy", "0s", "--max-unused", "0"],
            &["heal"],
            &["prune", "--mercy", "0s"],
        ];
        for nth in 0..2 {
            let words = others[draw(round * 7 + nth, others.len() as u64) as usize];
            running.push(history.start(words, None, None));
        }
        // One is killed and one frozen, each at a moment of its own.
        std::thread::sleep(Duration::from_micros(draw(round * 11, usual)));
        let victim = fresh + draw(round * 13, (running.len() - fresh) as u64) as usize;
        if running[victim].child.try_wait().expect("asked").is_none() {
            send(&running[victim].child, Signal::KILL);
            running[victim].killed = true;
        }
        std::thread::sleep(Duration::from_micros(draw(round * 17, usual / 4)));
        let other = fresh + draw(round * 19, (running.len() - fresh) as u64) as usize;
        if history.frozen < freezes
            && held.len() < 3
            && !running[other].killed
            && running[other].child.try_wait().expect("asked").is_none()
        {
            send(&running[other].child, Signal::STOP);
            running[other].until = Some(round + 1 + draw(round * 23, 4));
            history.frozen += 1;
            held.push(running.remove(other));
        }
        for one in running {
            history.end(one);
        }
        usual = (usual * 3 + began.elapsed().as_micros() as u64) / 4;
    }
    for one in held {
        send(&one.child, Signal::CONT);
        history.end(one);
    }
    assert!(history.cut >= kills && history.frozen >= freezes, "{} killed, {} frozen", history.cut, history.frozen);
    let desk = &history.desk;
    desk.expect(0, &["heal"]);
    desk.expect(0, &["prune", "--mercy", "0s", "--max-unused", "0"]);
    desk.expect(0, &["verify", "--read-data"]);
    // Everything that stands in a log is whole at each replica alone, and is what it was.
    let whole: BTreeSet<String> = desk.read_all(&history.trees).await.into_iter().collect();
    let repository = desk.open(&NAMES).await;
    let forgotten: BTreeSet<String> = repository.forgotten_ids().await.iter().map(hex::encode).collect();
    let live: BTreeSet<String> =
        repository.snapshots().await.expect("listed").iter().map(|view| view.snapshot.tags[0].clone()).collect();
    assert!(live.is_subset(&whole.union(&partial(&repository).await).cloned().collect()), "{live:?} of {whole:?}");
    // What is gone was forgotten, and what is newest of each source is there.
    for (tag, id) in &history.acknowledged {
        assert!(whole.contains(tag) || forgotten.contains(id), "{tag} was acknowledged and not forgotten, and is lost");
    }
    for (source, round) in newest.iter().enumerate() {
        let tag = format!("round-{round}-{source}");
        assert!(!history.acknowledged.contains_key(&tag) || whole.contains(&tag), "{tag} was acknowledged");
    }
    println!(
        "figure: backup, forget, prune and heal at once, processes killed: {} ({} frozen; {} snapshots acknowledged, {} kept, none lost; {:?})",
        history.cut,
        history.frozen,
        history.acknowledged.len(),
        whole.len(),
        history.codes
    );
}

/// Tags of snapshots whose runs did not finish.
async fn partial(repository: &holdfast::repository::Repository) -> BTreeSet<String> {
    let views = repository.snapshots().await.expect("listed");
    views.iter().filter(|view| view.snapshot.partial).map(|view| view.snapshot.tags[0].clone()).collect()
}
