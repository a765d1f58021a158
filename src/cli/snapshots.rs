//! `holdfast snapshots`: what there is to restore.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, local, name, put_name, rfc3339_at, short, size, table};
use crate::cli::select::Filter;
use crate::clock::Time;
use crate::format::snapshot::Snapshot;
use crate::lifecycle::undelete::back_as;
use crate::repository::error::Fault;
use crate::repository::snapshots::SnapshotView;

/// Arguments.
#[derive(Args)]
pub struct SnapshotsArguments {
    /// Which ones
    #[command(flatten)]
    pub filter: Filter,
    /// Instead those that were forgotten and can be had back
    #[arg(long)]
    pub forgotten: bool,
}

/// Lists the snapshots, oldest first.
pub async fn run(context: &Context, arguments: SnapshotsArguments) -> Result<Outcome, Failure> {
    let (settings, repository) = context.open_to_read().await?;
    context.warn_of_absent(&repository);
    let mut list = context.interruptible(repository.snapshots()).await??;
    let mut lost = repository.unreadable(&list).await;
    if arguments.forgotten {
        let (mut gone, problems) = context.interruptible(repository.forgotten()).await?;
        problems.iter().for_each(|problem| context.output.warn(problem));
        gone.retain(|view| back_as(&view.snapshot, &list).is_none());
        (list, lost) = (gone, Vec::new());
    }
    let list: Vec<_> = list.into_iter().filter(|view| arguments.filter.admits(view)).collect();
    if context.output.json {
        context.output.object(&list.iter().map(object).collect());
    } else {
        let head = ["id", "time", "host", "job", "tags", "size", "replicas", "paths"].map(str::to_owned).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(list.iter().map(|v| row(v, settings.stores.len()))).collect();
        for line in table(&rows, &[5]) {
            context.output.line(line);
        }
        context.output.line(count(list.len() as u64, if arguments.forgotten { "forgotten snapshot" } else { "snapshot" }));
    }
    let mut outcome = Outcome::success();
    for one in &lost {
        context.output.problem("snapshots", &short(&one.id), "it is damaged or missing at every store that holds it");
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    Ok(outcome)
}

/// When the snapshot was taken.
pub fn time(snapshot: &Snapshot) -> Time {
    Time(snapshot.time_seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(snapshot.time_nanos)))
}

fn row(view: &SnapshotView, stores: usize) -> Vec<String> {
    let s = &view.snapshot;
    let paths: Vec<String> = s.roots.iter().map(|r| name(&r.path)).collect();
    vec![
        short(&s.id) + if s.partial { " (partial)" } else { "" },
        local(time(s), s.utc_offset_seconds),
        name(s.host.as_bytes()),
        name(s.label.as_bytes()),
        s.tags.iter().map(|t| name(t.as_bytes())).collect::<Vec<_>>().join(","),
        s.statistics.as_ref().map(|f| size(f.bytes)).unwrap_or_default(),
        format!("{} of {stores}", view.replicas.len()),
        paths.join(" "),
    ]
}

/// A snapshot in restic's shape, with what Holdfast knows besides.
pub fn object(view: &SnapshotView) -> Value {
    let s = &view.snapshot;
    let mut object = Map::new();
    let mut put = |field: &str, value: Value| object.insert(field.to_owned(), value);
    // With its own distance from UTC: by that days and weeks are counted.
    put("time", rfc3339_at(time(s), s.utc_offset_seconds).into());
    if !s.parent.is_empty() {
        put("parent", hex::encode(&s.parent).into());
    }
    let named = |bytes: &[u8]| {
        let mut one = Map::new();
        put_name(&mut one, "path", bytes);
        one
    };
    let exact = s.roots.iter().map(|r| named(&r.path)).collect::<Vec<_>>();
    put("paths", exact.iter().map(|one| one["path"].clone()).collect());
    if exact.iter().any(|one| one.len() > 1) {
        put("roots", exact.into());
    }
    put("hostname", s.host.as_str().into());
    put("username", s.user.as_str().into());
    put("tags", s.tags.as_slice().into());
    put("label", s.label.as_str().into());
    put("program_version", s.program_version.as_str().into());
    put("partial", s.partial.into());
    put("errors", s.errors_count.into());
    put("replicas", view.replicas.as_slice().into());
    if let Some(f) = &s.statistics {
        put(
            "summary",
            json!({
                "files_new": f.files_new, "files_changed": f.files_changed, "files_unmodified": f.files_unmodified,
                "dirs_new": f.dirs_new, "dirs_changed": f.dirs_changed, "dirs_unmodified": f.dirs_unmodified,
                "data_added": f.data_added, "data_added_packed": f.data_added_stored,
                "total_files_processed": f.files, "total_bytes_processed": f.bytes,
            }),
        );
    }
    put("id", hex::encode(&s.id).into());
    put("short_id", short(&s.id).into());
    object.into()
}
