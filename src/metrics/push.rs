//! Figures to a Pushgateway: one group for each job, named by job and repository only, since a gateway never forgets a group. What
//! is not posted stays there as it was: a run that failed does not erase when the last one went well.

use crate::clock::Env;
use crate::metrics::figures::Figures;
use crate::metrics::post::{Address, Patience, post};

/// The group of what belongs to no job.
pub const NO_JOB: &str = "holdfast";
/// The format of the text.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Posts `figures`, group by group; gives what went wrong.
pub async fn push(env: &Env, to: &Address, repository: &str, figures: &Figures, patience: Patience) -> Vec<String> {
    let mut problems = Vec::new();
    let mut groups = figures.values_of("job");
    groups.insert(NO_JOB);
    for job in groups {
        let group = figures.only(|labels| labels.get("job").map_or(NO_JOB, String::as_str) == job);
        if group.iter().next().is_none() {
            continue;
        }
        let mut address = to.below(&["metrics", "job", job]);
        if !repository.is_empty() {
            address = address.below(&["repository", repository]);
        }
        if let Err(why) = post(env, &address, TEXT, &group.encode(), patience).await {
            problems.push(format!("pushing the figures of {job:?} to {why}"));
        }
    }
    problems
}
