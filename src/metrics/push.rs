//! Figures to a Pushgateway: one group for each job, and for the run and the lifecycle as a whole, named by job and repository only,
//! since a gateway never forgets a group. What is not posted stays there as it was: a run that failed does not erase when the last
//! one went well. A run that could not learn which repository it has tells so in a group without one, and the next run that knows
//! takes that away.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;

use crate::clock::Env;
use crate::metrics::figures::{Figures, Labels};
use crate::metrics::post::{Address, Patience, delete, post};

/// The group of what belongs to no job.
pub const NO_JOB: &str = "holdfast";
/// The format of the text.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Posts `figures`, group by group; gives what went wrong.
pub async fn push(env: &Env, to: &Address, repository: &str, figures: &Figures, patience: Patience) -> Vec<String> {
    let mut problems = Vec::new();
    // What is posted takes the place of all that the group has under the same name: a run and a lifecycle, which tell the same of
    // themselves, have a group each.
    let group_of = |labels: &Labels| match labels.get("job") {
        Some(job) => (job.clone(), String::new()),
        None => (NO_JOB.to_owned(), labels.get("operation").cloned().unwrap_or_default()),
    };
    let groups: BTreeSet<(String, String)> = figures.iter().map(|(_, labels, _)| group_of(labels)).collect();
    for (job, operation) in groups {
        let group = figures.only(|labels| group_of(labels) == (job.clone(), operation.clone()));
        let whose = |repository: &str| {
            let mut address = labelled(&to.below(&["metrics"]), "job", &job);
            for (label, value) in [("repository", repository), ("operation", &operation)] {
                address = if value.is_empty() { address } else { labelled(&address, label, value) };
            }
            address
        };
        match post(env, &whose(repository), TEXT, &group.encode(), patience).await {
            // Not everything that takes figures lets them be deleted: then there is nothing to mend here.
            Ok(()) if !repository.is_empty() => drop(delete(env, &whose(""), patience).await),
            Ok(()) => {}
            Err(why) => problems.push(format!("pushing the figures of {job:?} to {why}")),
        }
    }
    problems
}

/// The address of a group with one more label. What is no segment of a path is told in base64 (Pushgateway, README, "URL").
fn labelled(group: &Address, label: &str, value: &str) -> Address {
    match value.contains('/') || matches!(value, "." | "..") {
        true => group.below(&[&format!("{label}@base64"), &BASE64_URL_SAFE.encode(value)]),
        false => group.below(&[label, value]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, labelled};

    #[test]
    fn any_name_of_a_job_is_a_group() {
        let gate = Address::parse("http://gate:9091/metrics").expect("an address");
        for (job, path) in [
            ("daily", "job/daily"),
            ("a b", "job/a%20b"),
            ("a/b", "job@base64/YS9i"),
            ("..", "job@base64/Li4="),
            ("ü", "job/%C3%BC"),
        ] {
            let expected = Address::parse(&format!("http://gate:9091/metrics/{path}")).expect("an address");
            assert_eq!(labelled(&gate, "job", job), expected, "{job}");
        }
    }
}
