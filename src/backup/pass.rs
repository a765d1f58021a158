//! One pass of a backup: the stages wired, the snapshot committed, the replicas reported.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex as SyncMutex};

use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::backup::block;
use crate::backup::budget::Budget;
use crate::backup::catalog::{Catalog, End, Tally};
use crate::backup::commit::{Committing, field};
use crate::backup::drain::{Drain, Phase};
use crate::backup::entry::Compare;
use crate::backup::known::Known;
use crate::backup::parents::{self, Parents};
use crate::backup::participants::{participants, replica_reports};
use crate::backup::read::Reading;
use crate::backup::recorded::{Recorded, recorded};
use crate::backup::seal::{Added, Sealing};
use crate::backup::upload::Outbox;
use crate::backup::walk::{self, Comparing, Pending};
use crate::backup::{BackupError, BackupReport, BackupSettings, Given, pack, told, upload};
use crate::chunk::split::Splitter;
use crate::format::Hash;
use crate::format::snapshot::{Root, Snapshot};
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::replica::write::Fanout;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::snapshots::SnapshotView;
use crate::source::Source;
use crate::source::directory::{NAMES_MEMORY, Walk, WalkSettings};
use crate::source::error::SourceError;
use crate::source::filter::Filter;
use crate::source::metadata::OwnerNames;

/// Results in path order that may wait for the catalog.
const PENDING: usize = 16;
/// Frames that may wait for the pack stage.
const FRAMES: usize = 16;
/// Packs whose receipts may wait for the publisher.
const PACKED: usize = 64;
/// What one pass came to.
pub struct Passed {
    /// What was done.
    pub report: BackupReport,
    /// The replicas that committed.
    pub committed: Mask,
    /// What the pass stood on and cannot be relied on any more.
    pub lost: Vec<String>,
}

/// Walks, reads, seals, uploads and commits, once.
#[allow(clippy::too_many_arguments)]
pub async fn one_pass(
    repository: &Repository,
    settings: &BackupSettings,
    sources: Vec<Given>,
    filter: &Filter,
    progress: &Progress,
    (stop, drain): (&Stop, &Drain),
    replaces: &mut Vec<Hash>,
    again: bool,
) -> Result<Passed, BackupError> {
    let env = &repository.env;
    let clock = env.now();
    let (now, given) = (settings.time.unwrap_or(clock), settings.time.map(|_| clock));
    // Until something is read, nothing is lost by a plain end.
    let stopped = || BackupError::Interrupted;
    let taking_part = drain.unless_stopped(participants(repository)).await.ok_or_else(stopped)??;
    let quorum = repository.set.write_quorum();
    if taking_part.count() < quorum && !settings.dry_run {
        let report = BackupReport {
            replicas: replica_reports(repository, None, None, Mask::default()),
            quorum,
            ..BackupReport::default()
        };
        return Ok(Passed { report, committed: Mask::default(), lost: Vec::new() });
    }
    let may_start_over = sources.is_empty();
    let recorded = recorded(settings, sources);
    let paths: Vec<Vec<u8>> = recorded.iter().map(|r| r.path.clone()).collect();
    let chosen = drain.unless_stopped(parents::choose(repository, &settings.host, &paths)).await.ok_or_else(stopped)?;
    let mut distrusted: Vec<BTreeSet<Hash>> = Vec::new();
    // Coverage is not inherited from a parent while part of the index cannot be read.
    drain.unless_stopped(repository.index()).await.ok_or_else(stopped)??;
    let mut look_up = again || repository.index_has_gaps();
    for i in 0..repository.set.replicas.len() {
        let log = repository.log(i).await;
        let set = log.as_ref().map(|l| l.state.distrusted.clone()).unwrap_or_default();
        if taking_part.has(i) {
            let live = |v: &&SnapshotView| log.as_ref().is_some_and(|l| l.state.snapshots.contains_key(&v.id));
            look_up |= !set.is_empty() || chosen.iter().filter(live).count() < chosen.len();
        }
        distrusted.push(set);
    }
    let replicas: Vec<_> = repository.set.replicas.iter().filter(|r| taking_part.has(r.index)).cloned().collect();
    let fanout = Arc::new(Fanout::start(env, &replicas, &repository.set.settings, progress));
    let index = repository.index().await?;
    let (frames_in, frames_out) = mpsc::channel(FRAMES);
    let (packed_in, packed_out) = mpsc::channel(PACKED);
    let splitter = Splitter::new(repository.chunker, repository.keyring.keys.chunker.expose())
        .map_err(|e| RepositoryError::caused(Fault::Unsupported, "the repository's chunker cannot be used", e))?;
    let sealing = Arc::new(Sealing {
        env: env.clone(),
        id_key: repository.keyring.id_key.clone(),
        sealer: repository.keyring.sealer.clone(),
        known: Known::new(index, fanout.clone()),
        group: settings.group as usize,
        added: Arc::new(Added::default()),
        dry_run: settings.dry_run,
    });
    let (filling, blocks) = block::fitting(settings, splitter.spec().max)?;
    let readers = blocks.count();
    let reading = Arc::new(Reading {
        sealing: sealing.clone(),
        splitter,
        budget: Budget::new(Budget::of(settings.memory)),
        blocks,
        frames: frames_in.clone(),
        readers: Arc::new(Semaphore::new(readers)),
        batches: Arc::new(Semaphore::new(readers.max(env.threads()))),
        owners: SyncMutex::new(OwnerNames::new()),
        progress: progress.clone(),
        stop: stop.clone(),
    });
    let outbox = Arc::new(Mutex::new(Outbox::default()));
    let work = {
        let (fanout, outbox, reading) = (&fanout, &outbox, reading);
        let parents: Vec<Hash> = if look_up { Vec::new() } else { parents::ids(&chosen) };
        let (frames, known) = (frames_in, &sealing.known);
        let committing = Committing { repository, fanout, outbox, frames, known, parents, distrusted, drain };
        let comparing = Comparing {
            force: settings.force,
            compare: Compare { ignore_inode: settings.ignore_inode, ignore_ctime: settings.ignore_ctime },
            links_memory: usize::try_from(settings.memory / 4).unwrap_or(usize::MAX),
            look_up,
        };
        let chosen = &chosen;
        async move {
            let mut pass = Pass {
                repository,
                settings,
                filter,
                reading: &reading,
                committing: &committing,
                comparing: &comparing,
                chosen,
                may_start_over,
                left: Vec::new(),
                tally: Tally::default(),
                roots: Vec::new(),
                notes: Vec::new(),
                replaces,
                began: env.elapsed(),
                last_partial: env.elapsed(),
                now,
                given,
            };
            pass.run(recorded).await
        }
    };
    let every = (settings.publish_bytes, settings.publish_every);
    let stages = async {
        let known = &sealing.known;
        let packing = pack::run(env, &repository.keyring, &fanout, filling, (known, drain), frames_out, packed_in);
        let publishing = upload::run(repository, &fanout, &outbox, every, drain, known, packed_out);
        futures::future::try_join(packing, publishing).await.map(|_| ()).map_err(BackupError::from)
    };
    let joined = drain.run(&fanout, Box::pin(work), Box::pin(stages), |(report, ..): &(BackupReport, _, _)| report.partial).await;
    let outbox = outbox.lock().await;
    let mut lost: Vec<String> =
        outbox.lost.iter().map(|(i, why)| format!("store {}: {why}", repository.set.replicas[*i].name)).collect();
    match joined {
        Ok((mut report, committed, doubt)) => {
            lost.extend(doubt);
            report.replicas = replica_reports(repository, Some(&fanout), Some(&outbox), committed);
            report.quorum = quorum;
            Ok(Passed { report, committed, lost })
        }
        Err(_) if fanout.alive().count() < quorum && !settings.dry_run => {
            let replicas = replica_reports(repository, Some(&fanout), Some(&outbox), Mask::default());
            let report = BackupReport { replicas, quorum, ..BackupReport::default() };
            Ok(Passed { report, committed: Mask::default(), lost })
        }
        Err(e) => Err(e),
    }
}

struct Pass<'p, 'r> {
    repository: &'r Repository,
    settings: &'p BackupSettings,
    filter: &'p Filter,
    reading: &'p Arc<Reading>,
    committing: &'p Committing<'r>,
    comparing: &'p Comparing,
    chosen: &'p [SnapshotView],
    may_start_over: bool,
    /// Work that was not waited for, and goes on: others may rely on the chunks that it took on.
    left: Vec<Pending>,
    tally: Tally,
    roots: Vec<Root>,
    notes: Vec<String>,
    replaces: &'p mut Vec<Hash>,
    began: std::time::Duration,
    last_partial: std::time::Duration,
    now: crate::clock::Time,
    /// The clock's time, where `now` was given and may be any.
    given: Option<crate::clock::Time>,
}

impl<'r> Pass<'_, 'r> {
    /// Gives what was done, the replicas that committed, and why none did although they could, if so.
    async fn run(&mut self, recorded: Vec<Recorded>) -> Result<(BackupReport, Mask, Option<String>), BackupError> {
        let mut partial = false;
        let mut missing = Vec::new();
        for Recorded { path: as_path, from: path, given } in recorded {
            if self.reading.stop.requested() {
                partial = true;
                break;
            }
            match self.root(&path, &as_path, given).await? {
                Ok(End::Complete) => {}
                Ok(_) => {
                    partial = true;
                    break;
                }
                Err(why) => {
                    self.tally.problem(path.as_os_str().as_bytes().to_vec(), why.clone());
                    missing.push(why);
                }
            }
        }
        if self.roots.is_empty() && !partial {
            return Err(BackupError::NoSource(missing.join("; ")));
        }
        let mut report = BackupReport {
            parent: self.chosen.first().map(|v| v.id),
            partial,
            dry_run: self.settings.dry_run,
            ..BackupReport::default()
        };
        let (mut committed, mut doubt) = (Mask::default(), None);
        let entries = self.roots.iter().any(|r| r.catalog.as_ref().is_some_and(|c| c.entries > 0));
        if !self.settings.dry_run && (entries || !partial) {
            if self.in_doubt().await && self.may_start_over && !partial {
                self.committing.publish().await?;
                doubt = Some("packs were found damaged while the parent was read".into());
            } else {
                let snapshot = self.snapshot(partial);
                committed = self.committing.commit(&snapshot, self.replaces, true).await?;
                report.snapshot = Hash::try_from(snapshot.id.as_ref()).ok();
            }
        } else if partial && !self.settings.dry_run {
            // There is nothing to record yet, of a large first file perhaps: the next run finds what arrived of it.
            self.committing.publish().await?;
            return Err(BackupError::Interrupted);
        }
        report.statistics = self.statistics();
        report.errors = self.tally.errors_count;
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        report.problems = self.tally.errors.iter().map(|p| (lossy(&p.path), p.message.clone())).collect();
        report.notes = std::mem::take(&mut self.notes);
        Ok((report, committed, doubt))
    }

    /// One root; the inner error says why it could not be read at all.
    async fn root(
        &mut self,
        path: &Path,
        as_path: &[u8],
        given: Option<Box<dyn Source>>,
    ) -> Result<Result<End, String>, BackupError> {
        let source = match given {
            Some(source) => source,
            // A folder that does not open is not waited for.
            None => match self.committing.drain.within(Phase::Flight, self.walk(path)).await {
                Some(Ok(walk)) => Box::new(walk),
                Some(Err(e)) => return Ok(Err(told(&e))),
                None => return Ok(Ok(End::Interrupted)),
            },
        };
        let had = self.chosen.iter().find(|v| !v.snapshot.partial).and_then(|v| {
            v.snapshot.roots.iter().find(|r| r.path == as_path).and_then(|r| r.catalog.as_ref()).map(|c| c.entries)
        });
        let parents = if self.settings.force {
            Parents::open(self.repository, &[], as_path)
        } else {
            Parents::open(self.repository, self.chosen, as_path)
        };
        let (pending_in, mut pending) = mpsc::channel(PENDING);
        let mut catalog = Catalog::new(self.reading);
        let reading = self.reading.clone();
        let drain = self.committing.drain;
        let walking = walk::run(&reading, source, parents, self.comparing, self.committing.known, drain, pending_in);
        let name = self.name(path);
        let filling = async {
            let end = loop {
                let (env, last, every) = (&self.repository.env, self.last_partial, self.settings.partial_every);
                let (tally, left) = (&mut self.tally, (drain, &mut self.left));
                let due = || env.elapsed() >= last + every && !self.reading.stop.requested();
                let end = catalog.fill(self.reading, &mut pending, tally, left, due).await?;
                if end != End::PartialDue {
                    break end;
                }
                self.last_partial = self.repository.env.elapsed();
                // In a first large file, or a stream, there is nothing yet: a snapshot of nothing helps nobody.
                if !self.settings.dry_run && (catalog.entries > 0 || !self.roots.is_empty()) {
                    self.partial(&mut catalog, &name, as_path).await?;
                    self.last_partial = self.repository.env.elapsed();
                }
            };
            // What is under way is finished, though not recorded: entries that are may rely on its chunks.
            while let Some(mut late) = pending.recv().await {
                match drain.within(Phase::Flight, late.finish()).await {
                    Some(finished) => finished?,
                    None => self.left.push(late),
                }
            }
            Ok::<End, BackupError>(end)
        };
        let ((vanished, notes), end) = futures::future::try_join(Box::pin(walking), Box::pin(filling)).await?;
        self.notes.extend(notes);
        if vanished > 0 {
            self.notes.push(format!("{}: {vanished} items vanished while it was walked", path.display()));
        }
        if end == End::Complete && catalog.entries <= 1 && had.is_some_and(|had| had > 1) && !self.settings.force {
            return Ok(Err(format!(
                "{} is empty but had {} entries in the last snapshot: is something not mounted? (--force backs it up empty)",
                path.display(),
                had.unwrap_or(0)
            )));
        }
        let root = catalog.root(self.reading).await?;
        self.roots.push(Root { name: name.into(), path: as_path.to_vec().into(), catalog: Some(root) });
        Ok(Ok(end))
    }

    async fn walk(&self, path: &Path) -> Result<Walk, SourceError> {
        let settings = WalkSettings {
            one_file_system: self.settings.one_file_system,
            exclude_caches: self.settings.exclude_caches,
            filter: self.filter.clone(),
            names_memory: NAMES_MEMORY.min(usize::try_from(self.settings.memory / 4).unwrap_or(NAMES_MEMORY)),
            temp_dir: std::env::temp_dir(),
        };
        let path = path.to_path_buf();
        self.repository.env.blocking(move || Walk::open(&path, settings)).await
    }

    /// A name for a root that no other root has.
    fn name(&self, path: &Path) -> Vec<u8> {
        let base = path.file_name().map_or(b"root".to_vec(), |n| n.as_bytes().to_vec());
        let taken = |name: &[u8]| self.roots.iter().any(|r| r.name[..] == *name);
        let mut name = base.clone();
        let mut number = 2;
        while taken(&name) {
            name = [base.as_slice(), format!("-{number}").as_bytes()].concat();
            number += 1;
        }
        name
    }

    /// Commits what there is, so that an interrupted run loses little; the next commit of this run replaces it.
    async fn partial(&mut self, catalog: &mut Catalog, name: &[u8], path: &[u8]) -> Result<(), BackupError> {
        let root = catalog.root(self.reading).await?;
        self.roots.push(Root { name: name.to_vec().into(), path: path.to_vec().into(), catalog: Some(root) });
        let snapshot = self.snapshot(true);
        self.roots.pop();
        if self.in_doubt().await {
            return Ok(());
        }
        let committed = self.committing.commit(&snapshot, self.replaces, false).await?;
        if !committed.is_empty() {
            self.replaces.clear();
            self.replaces.extend(Hash::try_from(snapshot.id.as_ref()));
        }
        Ok(())
    }

    /// Writes down the damage that was met while the parent was read, and says whether anything would inherit coverage from
    /// packs that are known to be damaged.
    async fn in_doubt(&mut self) -> bool {
        self.notes.extend(self.repository.record_distrust(Some(&self.committing.drain.limit(Phase::Rest))).await);
        self.committing.in_doubt().await
    }

    fn statistics(&self) -> crate::format::snapshot::Statistics {
        let added = &self.reading.sealing.added;
        crate::format::snapshot::Statistics {
            data_added: added.bytes.get(),
            data_added_stored: added.stored.get(),
            data_chunks: added.data_chunks.get(),
            meta_chunks: added.meta_chunks.get(),
            bytes_read: added.read.get(),
            ..self.tally.statistics
        }
    }

    fn snapshot(&self, partial: bool) -> Snapshot {
        let mut tags = self.settings.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        Snapshot {
            id: field(&self.repository.env.random()),
            roots: self.roots.clone(),
            time_seconds: self.now.seconds(),
            time_nanos: self.now.subsec_nanos(),
            utc_offset_seconds: self.settings.utc_offset_seconds,
            host: self.settings.host.clone(),
            user: self.settings.user.clone(),
            tags,
            label: self.settings.label.clone(),
            program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
            parent: self.chosen.first().map(|v| field(&v.id)).unwrap_or_default(),
            statistics: Some(self.statistics()),
            errors_count: self.tally.errors_count,
            errors: self.tally.errors.clone(),
            partial,
            run_id: field(&self.repository.run_id),
            duration_ms: self.repository.env.elapsed().saturating_sub(self.began).as_millis() as u64,
            began_seconds: self.given.map(crate::clock::Time::seconds),
            began_nanos: self.given.map_or(0, crate::clock::Time::subsec_nanos),
        }
    }
}
