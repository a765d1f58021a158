//! The names of all figures, each with its help. Rules and dashboards rely on them: a name once given stays.

/// A figure's name and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

/// When the last run ended.
pub const LAST_RUN_TIMESTAMP: Metric =
    metric("holdfast_last_run_timestamp_seconds", "When the last run ended, in seconds since 1970");
/// When it last went well.
pub const LAST_SUCCESS_TIMESTAMP: Metric = metric(
    "holdfast_last_success_timestamp_seconds",
    "Of a job: the time of its newest complete snapshot, as the repository has it; else when it last ended well",
);
/// How the last run ended.
pub const LAST_RUN_STATUS: Metric =
    metric("holdfast_last_run_status", "How the last run ended: 0 well, 1 partly (exit code 3, 4 or 5), 2 failed");
/// Its exit code.
pub const LAST_RUN_EXIT_CODE: Metric = metric("holdfast_last_run_exit_code", "The exit code of the last run");
/// How long it took.
pub const LAST_RUN_DURATION: Metric = metric("holdfast_last_run_duration_seconds", "How long the last run took");
/// Bytes by kind.
pub const LAST_RUN_BYTES: Metric = metric(
    "holdfast_last_run_bytes",
    "Bytes of the last run: read from the source, new after dedupe, stored as sealed, uploaded to all replicas together",
);
/// Files by state.
pub const LAST_RUN_FILES: Metric = metric("holdfast_last_run_files", "Files of the last run, by state");
/// Errors.
pub const LAST_RUN_ERRORS: Metric = metric("holdfast_last_run_errors", "Source items that could not be read in the last run");
/// Whether a replica was reached.
pub const REPLICA_UP: Metric = metric("holdfast_replica_up", "1 when the replica could be read in the last run, else 0");
/// Snapshots that a replica lacks.
pub const REPLICA_BEHIND: Metric =
    metric("holdfast_replica_behind_snapshots", "Snapshots that other replicas hold and this one does not");
/// The newest snapshot at a replica.
pub const REPLICA_LAST_SUCCESS: Metric = metric(
    "holdfast_replica_last_success_timestamp_seconds",
    "The time of the newest complete snapshot that the replica holds, in seconds since 1970",
);
/// When a replica was last verified.
pub const REPLICA_LAST_VERIFY: Metric = metric(
    "holdfast_replica_last_verify_timestamp_seconds",
    "When the replica was last verified, as its log has it, in seconds since 1970",
);
/// Requests by kind.
pub const LAST_RUN_REQUESTS: Metric =
    metric("holdfast_last_run_requests", "Requests of the last run to the replica's store, by kind");
/// Requests that were sent again.
pub const LAST_RUN_RETRIES: Metric =
    metric("holdfast_last_run_request_retries", "Requests of the last run to the replica's store that had to be sent again");
/// Bytes at a replica.
pub const REPLICA_BYTES: Metric = metric("holdfast_replica_bytes", "Bytes of the packs that the replica's log relies on");
/// Packs at a replica.
pub const REPLICA_PACKS: Metric = metric("holdfast_replica_packs", "Packs that the replica's log relies on");
/// Snapshots of a job.
pub const SNAPSHOTS: Metric = metric("holdfast_snapshots", "Complete snapshots of the job from this host");
/// The oldest snapshot.
pub const OLDEST_SNAPSHOT: Metric = metric(
    "holdfast_oldest_snapshot_timestamp_seconds",
    "The time of the oldest complete snapshot in the repository, in seconds since 1970",
);
/// The newest snapshot of a job.
pub const NEWEST_SNAPSHOT: Metric = metric(
    "holdfast_newest_snapshot_timestamp_seconds",
    "The time of the job's newest complete snapshot from this host, in seconds since 1970",
);
/// How often a job is meant to run.
pub const EXPECTED_INTERVAL: Metric =
    metric("holdfast_expected_interval_seconds", "How often the job is meant to run, as its configuration says");
/// The program.
pub const INFO: Metric = metric("holdfast_info", "1, with the version of the program that ran last");

/// All of them.
pub const ALL: [&Metric; 21] = [
    &LAST_RUN_TIMESTAMP,
    &LAST_SUCCESS_TIMESTAMP,
    &LAST_RUN_STATUS,
    &LAST_RUN_EXIT_CODE,
    &LAST_RUN_DURATION,
    &LAST_RUN_BYTES,
    &LAST_RUN_FILES,
    &LAST_RUN_ERRORS,
    &REPLICA_UP,
    &REPLICA_BEHIND,
    &REPLICA_LAST_SUCCESS,
    &REPLICA_LAST_VERIFY,
    &LAST_RUN_REQUESTS,
    &LAST_RUN_RETRIES,
    &REPLICA_BYTES,
    &REPLICA_PACKS,
    &SNAPSHOTS,
    &OLDEST_SNAPSHOT,
    &NEWEST_SNAPSHOT,
    &EXPECTED_INTERVAL,
    &INFO,
];

/// Every label that a figure may bear. There is none for a snapshot: series would grow without end.
pub const LABELS: [&str; 7] = ["repository", "job", "operation", "replica", "kind", "state", "version"];
