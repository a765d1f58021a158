//! A replica that is lost, or given up, is taken out: the logs of the others say so, and should its store come back, nothing is
//! written to it any more.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use crate::format::Hash;
use crate::format::record::{Action, Configure};
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::epochs::REPAIRED;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::heads::Head;
use crate::repository::state::State;

/// What the feature that takes a replica out begins with; the replica's id follows, in hex.
pub const RETIRED: &str = "retired/";

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Retired {
    /// The replica's id.
    pub id: Hash,
    /// Replicas whose logs say so now.
    pub recorded: Vec<String>,
    /// Replicas whose logs could not be told: name, class, why.
    pub behind: Vec<(String, Fault, String)>,
}

/// The replicas that a log says were taken out.
pub fn retired(state: &State) -> impl Iterator<Item = Hash> {
    state.features.keys().filter_map(|feature| {
        let mut id = [0; 32];
        hex::decode_to_slice(feature.strip_prefix(RETIRED)?, &mut id).ok()?;
        Some(id)
    })
}

impl Repository {
    /// Replicas that some log has seen and that none of the stores at hand shows: where each was last seen. Those that were
    /// taken out, and ids that a repaired log had before, are left out.
    pub async fn absent_replicas(&self) -> BTreeMap<Hash, Head> {
        let (mut seen, mut known): (BTreeMap<Hash, Head>, BTreeSet<Hash>) = (BTreeMap::new(), BTreeSet::new());
        for index in self.readable().indices() {
            let Some(log) = self.log(index).await else { continue };
            known.extend(log.state.replica_id);
            known.extend(retired(&log.state));
            let before = log.state.features.get(REPAIRED).and_then(|configure| configure.value.split(' ').next());
            let mut id = [0; 32];
            if before.is_some_and(|text| hex::decode_to_slice(text, &mut id).is_ok()) {
                known.insert(id);
            }
            for (id, head) in &log.state.heads {
                let newest = seen.entry(*id).or_insert(*head);
                if (head.epoch, head.slot) > (newest.epoch, newest.slot) {
                    *newest = *head;
                }
            }
        }
        seen.retain(|id, _| !known.contains(id));
        seen
    }

    /// Records in every writable log but its own that a replica is taken out. Fails unless all but one of the configured
    /// replicas, or the write quorum if that is less, have it.
    pub async fn retire(&self, id: Hash, name: &str) -> Result<Retired, RepositoryError> {
        let mut out = Retired { id, ..Retired::default() };
        let feature = format!("{RETIRED}{}", hex::encode(id));
        let value = format!("store {name}, retired at {} seconds since 1970", self.env.now().seconds());
        let configure = Configure { feature, value, critical: false };
        let tell = async |index: usize| {
            let replica = &self.set.replicas[index];
            let log = self.log(index).await?;
            if log.state.replica_id == Some(id) {
                return None;
            }
            let done = retired(&log.state).any(|one| one == id);
            drop(log);
            let work = async {
                match done {
                    true => Ok(()),
                    false => self.append_repairing(index, Action::Configure(configure.clone()), false, |_| Ok(())).await,
                }
            };
            let told = while_it_answers(&self.env, replica, self.set.settings.stall, "writing to its log", work).await;
            Some((replica.name.clone(), told.map_err(RepositoryError::from).and_then(|told| told)))
        };
        for (replica, told) in join_all(self.writable().indices().map(tell)).await.into_iter().flatten() {
            match told {
                Ok(()) => out.recorded.push(replica),
                Err(e) => out.behind.push((replica, e.fault, e.to_string())),
            }
        }
        let all = self.set.replicas.len() + self.set.closed.len();
        let needed = self.set.write_quorum().min(all.saturating_sub(1)).max(1);
        if out.recorded.len() < needed {
            let stories: Vec<&str> = out.behind.iter().map(|(_, _, why)| why.as_str()).collect();
            let message = format!("{} logs say so, {needed} are needed: {}", out.recorded.len(), stories.join("; "));
            return Err(RepositoryError::new(Fault::Failed, message));
        }
        Ok(out)
    }
}
