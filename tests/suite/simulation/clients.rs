//! The clients: each with a clock, a tree and a memory of its own, and the commands that they run, in the order of calls that
//! the command line makes. A process is one command; it can stand still or end at any call to a store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast::backup::{BackupError, BackupSettings, Given, run_sources};
use holdfast::clock::{Env, Time};
use holdfast::format::Hash;
use holdfast::lifecycle::forget::{What, run as forget};
use holdfast::lifecycle::heal::{Extent, HealSettings, run as heal};
use holdfast::lifecycle::prune::{PruneSettings, ReplicaPruned, run as prune};
use holdfast::lifecycle::prune_plan::{Limits, MaxUnused};
use holdfast::lifecycle::retention::decide::Rules;
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::lifecycle::retention::policy::{Count, Policy};
use holdfast::lifecycle::undelete::run as undelete;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::error::{Fault, RepositoryError};
use holdfast::repository::open::OpenSettings;
use holdfast::repository::snapshots::SnapshotView;
use holdfast::repository::{Access, Repository};
use holdfast::verify::share::Share;
use holdfast::verify::{self, VerifySettings};

use crate::simulation::dice::Dice;
use crate::simulation::gate::members;
use crate::simulation::planted::Bug;
use crate::simulation::process::Process;
use crate::simulation::sweep;
use crate::simulation::tree::Model;
use crate::simulation::world::{Doing, Shared, lock};
use crate::support::rig;

/// Longer than any command takes on its own clock: who needs it hangs.
const FOREVER: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// What all clients have in common.
#[derive(Clone)]
pub struct Common {
    /// Replicas that must commit.
    pub quorum: usize,
    /// How often a request is sent again.
    pub retries: u32,
    /// Publish at least this often, in bytes sealed.
    pub publish_bytes: u64,
    /// Commit partial snapshots whenever there is something to commit.
    pub partials: bool,
    /// Whether commands are asked to stop now and then.
    pub stops: bool,
    /// What is wrong with the program.
    pub bug: Option<Bug>,
}

/// Somebody with a tree to back up.
pub struct Client {
    /// Its number.
    pub index: usize,
    /// The host that its snapshots name; several clients may be one to the repository.
    pub host: String,
    /// How far its clock is from the world's, in nanoseconds.
    pub skew: i64,
    /// What it backs up.
    pub model: Model,
    /// The stores in its order.
    pub at: Vec<usize>,
    /// Where it remembers the logs' heads.
    pub memory: Option<PathBuf>,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Backs the tree up.
    Backup,
    /// Keeps the newest so many of each group.
    ForgetByRules(u32),
    /// Forgets one snapshot, whichever it is.
    ForgetByName,
    /// Brings back one that was forgotten.
    Undelete,
    /// Heals everything.
    Heal,
    /// Verifies, and reads everything if so told.
    Verify(bool),
    /// Reads one snapshot.
    Restore,
    /// Removes what is dead.
    Prune,
}

impl Command {
    /// The next one that somebody runs.
    pub fn draw(dice: &mut Dice) -> Command {
        match dice.below(20) {
            0..=8 => Command::Backup,
            9 | 10 => Command::ForgetByRules(1 + dice.below(2) as u32),
            11 => Command::ForgetByName,
            12 => Command::Undelete,
            13 | 14 => Command::Heal,
            15 => Command::Verify(dice.below(2) == 0),
            16 => Command::Restore,
            _ => Command::Prune,
        }
    }

    fn doing(self) -> Doing {
        match self {
            Command::Backup => Doing::Backup,
            Command::ForgetByRules(_) | Command::ForgetByName => Doing::Forget,
            Command::Undelete => Doing::Undelete,
            Command::Heal => Doing::Heal,
            Command::Verify(_) => Doing::Verify,
            Command::Restore => Doing::Restore,
            Command::Prune => Doing::Prune,
        }
    }
}

/// What one process knows.
pub struct Run {
    /// The world.
    pub world: Shared,
    /// Whose process.
    pub client: usize,
    /// The stores it was configured with, in order.
    pub at: Vec<usize>,
    /// What it draws its own randomness from.
    pub seed: u64,
    /// What its clock says when it begins.
    pub wall: Time,
    /// The host it names.
    pub host: String,
    /// Where it remembers heads.
    pub memory: Option<PathBuf>,
    /// What all have in common.
    pub common: Common,
    /// The name of its tree.
    pub tag: String,
}

/// How far a clock is from the world's, in nanoseconds: often not at all, or years, either way.
pub fn skew(dice: &mut Dice) -> i64 {
    let seconds = dice.pick(&[0, 0, 3600, 365 * 86_400, 10 * 365 * 86_400]);
    seconds * if dice.below(2) == 0 { 1_000_000_000 } else { -1_000_000_000 }
}

impl Client {
    /// Starts a command.
    pub fn start(&mut self, world: &Shared, command: Command, common: &Common, dice: &mut Dice, number: usize) -> Process {
        let tag = format!("t{number}");
        if dice.below(8) == 0 {
            // Somebody set the clock.
            self.skew = skew(dice);
        }
        let wall = {
            let mut world = lock(world);
            world.begin(self.index, command.doing());
            let (client, host) = (self.index, &self.host);
            world.tell(|| format!("{client} begins {command:?} {tag} as {host}"), &[self.index as u8]);
            Time(world.now.0.saturating_add(self.skew))
        };
        if command == Command::Backup {
            self.model.change(dice);
            lock(world).judge.trees.insert(tag.clone(), self.model.tree());
        }
        let run = Run {
            world: world.clone(),
            client: self.index,
            at: self.at.clone(),
            seed: dice.draw(),
            wall,
            host: self.host.clone(),
            memory: self.memory.clone(),
            common: common.clone(),
            tag,
        };
        let (choice, model) = (dice.draw(), self.model.clone());
        Process::new(self.index, async move {
            let env = run.env();
            match env.timeout(FOREVER, run.command(&env, command, &model, choice)).await {
                Some(said) => said,
                None => {
                    lock(&run.world).judge.accuse(format!("{command:?} of client {} hangs", run.client));
                    "hangs".to_owned()
                }
            }
        })
    }
}

/// The budget and packs of everything here: tiny, so that little content makes several packs.
pub const HEAL: fn() -> HealSettings =
    || HealSettings { memory: 32 << 20, data_pack: 6 << 10, meta_pack: 4 << 10, ..HealSettings::default() };

impl Run {
    /// Time and chance of this process.
    pub fn env(&self) -> Env {
        match self.common.bug {
            Some(Bug::Program(planted)) => Env::inline_with(self.seed, self.wall, planted),
            _ => Env::inline(self.seed, self.wall),
        }
    }

    /// Opens the repository.
    pub async fn open(&self, env: &Env, access: Access) -> Result<Repository, RepositoryError> {
        let replicas = ReplicaSettings { write_quorum: Some(self.common.quorum), ..ReplicaSettings::default() };
        let settings = OpenSettings { replicas, state_dir: self.memory.clone(), ..OpenSettings::default() };
        let members = members(env, &self.world, self.client, &self.at, self.common.retries, self.common.bug);
        Repository::open(env, members, settings, &rig::unlock(), access).await
    }

    async fn command(&self, env: &Env, command: Command, model: &Model, choice: u64) -> String {
        let access = if command == Command::Restore { Access::Read } else { Access::Write };
        let repository = match self.open(env, access).await {
            Ok(repository) => repository,
            Err(e) => return self.failed(&e),
        };
        for index in repository.set.all().indices() {
            if let Some((Fault::Rollback, why)) = repository.fault(index) {
                lock(&self.world).judge.accuse(format!("no log was rolled back, and client {} says {why}", self.client));
            }
        }
        let done = match command {
            Command::Backup => self.backup(&repository, model).await,
            Command::ForgetByRules(last) => self.forget_by_rules(&repository, last).await,
            Command::ForgetByName => self.forget_by_name(&repository, choice).await,
            Command::Undelete => self.undelete(&repository, choice).await,
            Command::Heal => self.heal(&repository, Extent::Everything).await,
            Command::Verify(all) => self.verify(&repository, all).await,
            Command::Restore => self.restore(&repository, choice).await,
            Command::Prune => self.prune(&repository, choice).await,
        };
        done.unwrap_or_else(|told| told)
    }

    /// Who asks a command to stop, if anybody does: after a few calls, or many.
    fn stop(&self) -> Stop {
        let stop = Stop::default();
        // Dice of their own: whoever is not asked to stop meets what it always met.
        let mut dice = Dice::new(!self.seed);
        let turn = &mut lock(&self.world).turns[self.client];
        if self.common.stops && !turn.free && dice.below(3) == 0 {
            let calls = dice.pick(&[1, 20, 100]);
            turn.stop = Some((dice.below(calls), stop.clone()));
        }
        stop
    }

    fn failed(&self, e: &RepositoryError) -> String {
        if e.fault == Fault::Rollback {
            lock(&self.world).judge.accuse(format!("no log was rolled back, and client {} says {e}", self.client));
        }
        format!("failed: {e}")
    }

    /// As `holdfast backup` does: small gaps are healed first, whatever comes of it.
    pub async fn backup(&self, repository: &Repository, model: &Model) -> Result<String, String> {
        let _ = self.heal(repository, Extent::SmallGaps).await;
        let settings = BackupSettings {
            host: self.host.clone(),
            tags: vec![self.tag.clone()],
            memory: 32 << 20,
            data_pack: 6 << 10,
            meta_pack: 4 << 10,
            group: 2 << 10,
            publish_bytes: self.common.publish_bytes,
            partial_every: if self.common.partials { Duration::ZERO } else { Duration::from_secs(600) },
            ..BackupSettings::default()
        };
        let given = Given { path: b"/tree".to_vec(), source: model.source() };
        let stop = self.stop();
        let report = match run_sources(repository, &settings, vec![given], &Progress::default(), &stop).await {
            Ok(report) => report,
            Err(BackupError::Repository(e)) => return Err(self.failed(&e)),
            Err(e) if stop.requested() => return Err(format!("stopped: {e}")),
            Err(e) => return Err(format!("failed: {e}")),
        };
        let (Some(id), at) = (report.snapshot, rig::committed(&report.replicas)) else {
            lock(&self.world).judge.accuse("a backup that succeeded has no snapshot");
            return Err("no snapshot".into());
        };
        if report.errors > 0 || (report.partial && !stop.requested()) {
            lock(&self.world).judge.accuse(format!("a tree in memory was not read: {:?}", report.problems));
        }
        if report.partial {
            lock(&self.world).judge.committed(&id, &at, self.common.quorum);
            return Ok(format!("partial snapshot {} at {at:?}", hex::encode(&id[..4])));
        }
        lock(&self.world).judge.promised(id, &self.tag, &self.host, &at, self.common.quorum);
        Ok(format!("snapshot {} at {at:?}", hex::encode(&id[..4])))
    }

    /// As `holdfast heal` does.
    pub async fn heal(&self, repository: &Repository, extent: Extent) -> Result<String, String> {
        let report = heal(repository, &HealSettings { extent, ..HEAL() }, &Progress::default(), &self.stop()).await;
        let report = report.map_err(|e| format!("failed: {e}"))?;
        let behind: Vec<_> = report.replicas.iter().filter_map(|r| r.behind.as_ref()).collect();
        Ok(format!("healed; behind: {behind:?}; lost: {:?}", report.lost.len()))
    }

    async fn forget_by_rules(&self, repository: &Repository, last: u32) -> Result<String, String> {
        let mut policy = Policy::default();
        policy.counts[0] = Count::Number(last);
        let now = (repository.env.now().seconds(), 0);
        let rules = Rules {
            policy,
            group_by: GroupBy::default(),
            remove_all: false,
            now,
            partial_mercy: 0,
            floor: 0,
            limit_percent: None,
            source_by: GroupBy::default(),
        };
        self.forget(repository, &What::ByRules(rules)).await
    }

    async fn forget_by_name(&self, repository: &Repository, choice: u64) -> Result<String, String> {
        let views = repository.snapshots().await.map_err(|e| self.failed(&e))?;
        let Some(view) = chosen(&views, choice) else { return Ok("nothing to forget".into()) };
        lock(&self.world).judge.emptied.insert(view.snapshot.host.clone());
        self.forget(repository, &What::Named(vec![view.id])).await
    }

    /// Forgets, and holds what it says against the logs.
    pub async fn forget(&self, repository: &Repository, what: &What) -> Result<String, String> {
        let report = forget(repository, what, &|_: &SnapshotView| true, false).await.map_err(|e| self.failed(&e))?;
        let mut world = lock(&self.world);
        for id in report.forgotten.difference(&report.short) {
            let at = world.judge.logs.iter().filter(|log| log.forgotten.contains_key(id)).count();
            if at < report.quorum {
                world.judge.accuse(format!("{} was said to be forgotten, and is so in {at} logs", hex::encode(&id[..4])));
            }
        }
        Ok(format!("forgot {}, of them {} in too few logs", report.forgotten.len(), report.short.len()))
    }

    async fn undelete(&self, repository: &Repository, choice: u64) -> Result<String, String> {
        let (views, _) = repository.forgotten().await;
        let Some(view) = chosen(&views, choice) else { return Ok("nothing to bring back".into()) };
        self.bring_back(repository, view).await
    }

    /// Undeletes a snapshot, and takes what that says for a promise.
    pub async fn bring_back(&self, repository: &Repository, view: &SnapshotView) -> Result<String, String> {
        let report = undelete(repository, view, &self.stop()).await.map_err(|e| format!("failed: {e}"))?;
        let at: Vec<&str> = report.replicas.iter().filter(|r| r.committed).map(|r| r.name.as_str()).collect();
        if at.len() >= report.quorum && !view.snapshot.partial && !report.already {
            let tag = view.snapshot.tags.first().cloned().unwrap_or_default();
            lock(&self.world).judge.promised(report.new, &tag, &view.snapshot.host, &at, report.quorum);
        }
        Ok(format!("{} is back as {} at {at:?}", hex::encode(&report.old[..4]), hex::encode(&report.new[..4])))
    }

    async fn verify(&self, repository: &Repository, all: bool) -> Result<String, String> {
        let settings = VerifySettings { read_data: all.then_some(Share::All), memory: 8 << 20, ..VerifySettings::default() };
        let report = verify::run(repository, &settings, &Progress::default(), &self.stop()).await;
        let report = report.map_err(|e| format!("failed: {e}"))?;
        Ok(format!("verified: {} damages: {:?}", report.damage_count, report.damages))
    }

    /// Reads a snapshot. What comes without an error is right.
    async fn restore(&self, repository: &Repository, choice: u64) -> Result<String, String> {
        let views = repository.snapshots().await.map_err(|e| self.failed(&e))?;
        let Some(view) = chosen(&views, choice) else { return Ok("nothing to restore".into()) };
        let found = rig::tree_of(repository, &view.snapshot).await.map_err(|e| self.failed(&e))?;
        let tag = view.snapshot.tags.first().cloned().unwrap_or_default();
        let mut world = lock(&self.world);
        let expected: BTreeMap<_, _> = world.judge.trees.get(&tag).cloned().unwrap_or_default();
        let right = found.iter().all(|(key, item)| expected.get(key) == Some(item));
        if !right || (!view.snapshot.partial && found.len() != expected.len()) {
            world.judge.accuse(format!("snapshot {tag} came back as another tree, without an error"));
        }
        Ok(format!("restored {tag}"))
    }

    /// As `holdfast prune` does, with one mercy or another; or the simple one, which has none.
    async fn prune(&self, repository: &Repository, choice: u64) -> Result<String, String> {
        let mut dice = Dice::new(choice);
        if dice.below(3) == 0 {
            let at = dice.place(repository.set.replicas.len());
            return sweep::run(repository, at).await.map_err(|e| format!("failed: {e}"));
        }
        let mercy = Duration::from_secs(dice.pick(&[0, 0, 60, 14 * 86_400]));
        let max_unused = dice.pick(&[MaxUnused::Percent(0.0), MaxUnused::Percent(5.0), MaxUnused::Unlimited]);
        self.pruned(repository, mercy, max_unused).await
    }

    /// A prune with this mercy.
    pub async fn pruned(&self, repository: &Repository, mercy: Duration, max_unused: MaxUnused) -> Result<String, String> {
        let settings = PruneSettings {
            limits: Limits { max_unused, max_repack: None },
            mercy,
            memory: 32 << 20,
            data_pack: 6 << 10,
            meta_pack: 4 << 10,
            group: 2 << 10,
            ..PruneSettings::default()
        };
        let report = prune(repository, &settings, &Progress::default(), &self.stop()).await;
        let report = report.map_err(|e| format!("failed: {e}"))?;
        let one = |r: &ReplicaPruned| {
            let (gone, moved) = (r.dropped.objects, r.repacked.objects);
            format!("{}: {gone} dropped, {moved} moved, {} deleted, behind: {:?}", r.name, r.deleted.objects, r.behind)
        };
        Ok(format!("pruned with mercy {mercy:?}: {:?}", report.replicas.iter().map(one).collect::<Vec<_>>()))
    }
}

fn chosen(views: &[SnapshotView], choice: u64) -> Option<&SnapshotView> {
    (!views.is_empty()).then(|| &views[choice as usize % views.len()])
}

/// The ids of what is live, by what all logs that can be read say together.
pub async fn live(repository: &Repository) -> Vec<Hash> {
    repository.live().await.into_iter().map(|one| one.id).collect()
}
