//! The end of every seed: nothing goes wrong any more. Everything that was sent arrives or never will, each replica is looked at
//! as it stands, then all is healed, verified to the last byte, read back from every replica alone, and backed up once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::clock::Env;
use holdfast::format::Hash;
use holdfast::lifecycle::dispute::dispute;
use holdfast::lifecycle::doubt::whole;
use holdfast::lifecycle::forget::What;
use holdfast::lifecycle::heal::{Extent, HealSettings, run as heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::lifecycle::prune_plan::MaxUnused;
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::progress::{Progress, Stop};
use holdfast::repository::{Access, Repository};
use holdfast::restore::{self, RestoreSettings};
use holdfast::verify::share::Share;
use holdfast::verify::{self, Damage, VerifyReport, VerifySettings};

use crate::simulation::clients::{Client, Common, HEAL, Run, live};
use crate::simulation::process::Process;
use crate::simulation::tree::Model;
use crate::simulation::weather::Weather;
use crate::simulation::world::{Doing, Shared, lock};
use crate::support::rig;

/// How often it is healed and verified until all must be well.
const ROUNDS: usize = 6;

/// Plays the end, and accuses whoever is to blame.
pub fn play(world: &Shared, common: &Common, clients: &[Client], seed: u64) {
    let all: Vec<usize> = {
        let mut world = lock(world);
        world.weather = Weather::default();
        while !world.late.is_empty() {
            world.arrive();
        }
        world.tell(|| "all is well from here on".into(), b"finale");
        world.begin_free(0);
        (0..world.shelves.len()).collect()
    };
    let run = Run {
        world: world.clone(),
        client: 0,
        at: all,
        seed: seed ^ 0x5eed,
        wall: lock(world).now,
        host: "the last".into(),
        memory: None,
        common: common.clone(),
        tag: "last".into(),
    };
    let models: Vec<(String, Model)> = clients.iter().map(|client| (client.host.clone(), client.model.clone())).collect();
    let mut process = Process::new(0, async move {
        let env = run.env();
        let found = run.finale(&env, &models).await;
        if let Err(why) = found {
            lock(&run.world).judge.accuse(why);
        }
        String::new()
    });
    if process.go(world).is_none() {
        lock(world).judge.accuse("the end does not come");
    }
}

impl Run {
    async fn finale(&self, env: &Env, models: &[(String, Model)]) -> Result<(), String> {
        let told = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
        let repository = self.open(env, Access::Write).await.map_err(|e| told("opening at last", &e))?;
        for index in repository.set.all().indices() {
            if let Some((_, why)) = repository.fault(index) {
                return Err(format!("nothing is wrong any more, and a replica cannot be written to: {why}"));
            }
        }
        self.before(&repository).await?;
        drop(repository);
        self.healed(env).await?;
        self.every_replica(env).await?;
        for (number, (host, model)) in models.iter().enumerate() {
            let tag = format!("last-{number}");
            lock(&self.world).judge.trees.insert(tag.clone(), model.tree());
            let run = Run { host: host.clone(), tag, at: self.at.clone(), world: self.world.clone(), ..self.like() };
            let repository = run.open(env, Access::Write).await.map_err(|e| told("opening for a last backup", &e))?;
            let said = run.backup(&repository, model).await.map_err(|e| format!("the last backup of client {number} {e}"))?;
            let id = lock(&self.world).judge.promises.iter().find(|(_, p)| p.tag == run.tag).map(|(id, _)| *id);
            let at = lock(&self.world).judge.logs.iter().filter(|log| id.is_some_and(|id| log.roots.contains_key(&id))).count();
            if at != self.at.len() {
                return Err(format!("the last backup of client {number} is at {at} stores only: {said}"));
            }
        }
        if let Some(host) = lock(&self.world).judge.stripped().first() {
            return Err(format!("{host} has no snapshot left, and nobody named its last to be forgotten"));
        }
        self.restored_to_a_folder(env).await
    }

    fn like(&self) -> Run {
        Run {
            world: self.world.clone(),
            client: self.client,
            at: Vec::new(),
            seed: self.seed,
            wall: self.wall,
            host: String::new(),
            memory: None,
            common: self.common.clone(),
            tag: String::new(),
        }
    }

    /// Each replica as it stands, before anything is healed: its own log is true, where the simulation let nothing rot. What only
    /// seemed damaged when it was read is still there.
    async fn before(&self, repository: &Repository) -> Result<(), String> {
        let listed = live(repository).await;
        if let Some(id) = listed.iter().find(|id| lock(&self.world).judge.is_forgotten(id)) {
            return Err(format!("{} is listed, and some log has forgotten it", hex::encode(&id[..4])));
        }
        let report = verified(repository, None).await?;
        let world = lock(&self.world);
        let excused = |damage: &&Damage| {
            let rotten = world.shelves.iter().any(|shelf| shelf.name == damage.replica && !shelf.rotten.is_empty());
            rotten || world.judge.is_distrusted(&damage.replica, &damage.object)
        };
        match report.damages.iter().find(|damage| !excused(damage)) {
            Some(damage) => Err(format!("before anything was healed: {damage:?}")),
            None => Ok(()),
        }
    }

    /// Heals, forgets what is lost and was promised to nobody, prunes, until a verify of every byte finds nothing at all.
    async fn healed(&self, env: &Env) -> Result<(), String> {
        let (mut left, mut found) = (String::new(), String::new());
        for round in 0..ROUNDS {
            let repository = self.open(env, Access::Write).await.map_err(|e| format!("opening to heal: {e}"))?;
            if round > 0 {
                let report = verified(&repository, Some(Share::All)).await?;
                let well = report.damage_count == 0
                    && report.replicas.iter().all(|r| r.unreachable.is_none() && r.distrusted == 0 && r.lifted == 0);
                if well && left.is_empty() {
                    return Ok(());
                }
                found = format!("{:?} {:?}", report.damages, report.replicas);
            }
            let settings = HealSettings { extent: Extent::Everything, ..HEAL() };
            let report: HealReport = heal(&repository, &settings, &Progress::default(), &Stop::default())
                .await
                .map_err(|e| format!("nothing is in the way of a heal: {e}"))?;
            let lost: BTreeSet<Hash> = report.lost.iter().map(|(id, ..)| *id).collect();
            let well = lost.is_empty() && report.replicas.iter().all(|r| r.behind.is_none());
            left = if well { String::new() } else { format!("{report:?}") };
            if !lost.is_empty() {
                self.give_up(&repository, lost).await?;
            }
            let known = async {
                let doubtful = whole(&repository).await?;
                dispute(&repository, &[GroupBy::default()], &BTreeSet::new(), &doubtful).await
            };
            let disputed = known.await.map_err(|e| format!("what is disputed: {e}"))?;
            if let Some(id) = disputed.keys().next() {
                self.settle(&repository, id).await?;
            }
            if round > 0 {
                let said = self.pruned(&repository, Duration::ZERO, MaxUnused::Percent(0.0)).await?;
                found = format!("{found} {said}");
            }
        }
        Err(format!("after {ROUNDS} rounds: {left} {found}"))
    }

    /// What is lost is forgotten, as an operator would: only what rotted before it was promised to anybody may be lost.
    async fn give_up(&self, repository: &Repository, lost: BTreeSet<Hash>) -> Result<(), String> {
        {
            let mut world = lock(&self.world);
            let rotted = world.shelves.iter().any(|shelf| !shelf.rotten.is_empty());
            if let Some(id) = lost.iter().find(|id| !rotted || world.judge.required().any(|(required, _)| required == *id)) {
                return Err(format!("{} is lost", hex::encode(&id[..4])));
            }
            world.turns[0].doing = Doing::Forget;
        }
        let said = self.forget(repository, &What::Named(lost.into_iter().collect())).await;
        lock(&self.world).turns[0].doing = Doing::Other;
        said.map(drop)
    }

    /// Of what two runs kept of each other's one is brought back, as an operator would: it is whole where it was kept.
    async fn settle(&self, repository: &Repository, id: &Hash) -> Result<(), String> {
        let (views, problems) = repository.forgotten().await;
        let Some(view) = views.iter().find(|view| view.id == *id) else {
            return Err(format!("{} is disputed, and nobody can show it: {problems:?}", hex::encode(&id[..4])));
        };
        lock(&self.world).turns[0].doing = Doing::Undelete;
        let said = self.bring_back(repository, view).await;
        lock(&self.world).turns[0].doing = Doing::Other;
        let Err(why) = said else { return Ok(()) };
        // It was forgotten, and is not whole where it was kept: nobody waits for it, and it is given up.
        let required = lock(&self.world).judge.required().any(|(required, _)| required == id);
        match why.contains("cannot come back") && !required {
            true => self.give_up(repository, BTreeSet::from([*id])).await,
            false => Err(why),
        }
    }

    /// Every replica alone has what was promised, and nothing that was forgotten.
    async fn every_replica(&self, env: &Env) -> Result<(), String> {
        let trees = lock(&self.world).judge.trees.clone();
        for at in &self.at {
            let store = lock(&self.world).shelves[*at].name;
            let alone = Run { at: vec![*at], ..self.like() };
            let repository = alone.open(env, Access::Read).await.map_err(|e| format!("{store} alone: {e}"))?;
            let ids: BTreeSet<Hash> = live(&repository).await.into_iter().collect();
            {
                let world = lock(&self.world);
                if let Some((id, _)) = world.judge.required().find(|(id, _)| !ids.contains(*id)) {
                    return Err(format!("{store} lacks {}, which was promised", hex::encode(&id[..4])));
                }
                if let Some(id) = ids.iter().find(|id| world.judge.is_forgotten(id)) {
                    return Err(format!("{store} has {}, which was forgotten", hex::encode(&id[..4])));
                }
            }
            self.as_it_was(&repository, &trees).await.map_err(|e| format!("{store} alone: {e}"))?;
        }
        Ok(())
    }

    /// Every snapshot holds what its tree held: a partial one nothing else, a complete one all of it.
    async fn as_it_was(&self, repository: &Repository, trees: &BTreeMap<String, rig::Tree>) -> Result<(), String> {
        for view in repository.snapshots().await.map_err(|e| e.to_string())? {
            let tag = view.snapshot.tags.first().cloned().unwrap_or_default();
            let expected = trees.get(&tag).ok_or_else(|| format!("nobody took {tag:?}"))?;
            let found = rig::tree_of(repository, &view.snapshot).await.map_err(|e| format!("snapshot {tag}: {e}"))?;
            let right = found.iter().all(|(key, item)| expected.get(key) == Some(item));
            if !right || (!view.snapshot.partial && found.len() != expected.len()) {
                return Err(format!("snapshot {tag} holds another tree: {found:?} instead of {expected:?}"));
            }
        }
        let met = repository.take_met();
        if met.is_empty() { Ok(()) } else { Err(format!("{met:?}")) }
    }

    /// The newest snapshot, by the real restore.
    async fn restored_to_a_folder(&self, env: &Env) -> Result<(), String> {
        let repository = self.open(env, Access::Read).await.map_err(|e| format!("opening to restore: {e}"))?;
        let views = repository.snapshots().await.map_err(|e| e.to_string())?;
        let Some(view) = views.iter().rev().find(|view| !view.snapshot.partial) else { return Ok(()) };
        let folder = tempfile::tempdir().expect("a folder");
        let (path, target) = (Some(b"/tree".to_vec()), folder.path().to_path_buf());
        let settings = RestoreSettings { target, path, no_owners: true, memory: 8 << 20, ..RestoreSettings::default() };
        let report = restore::run(&repository, &view.snapshot, &settings, &Progress::default(), &Stop::default())
            .await
            .map_err(|e| format!("the last restore: {e}"))?;
        let expected = lock(&self.world).judge.trees[&view.snapshot.tags[0]].clone();
        if report.failed_count > 0 || rig::tree_at(folder.path()) != expected {
            return Err(format!("the last restore brought back something else: {report:?}"));
        }
        Ok(())
    }
}

async fn verified(repository: &Repository, read_data: Option<Share>) -> Result<VerifyReport, String> {
    let settings = VerifySettings { read_data, memory: 8 << 20, ..VerifySettings::default() };
    verify::run(repository, &settings, &Progress::default(), &Stop::default()).await.map_err(|e| format!("the last verify: {e}"))
}
