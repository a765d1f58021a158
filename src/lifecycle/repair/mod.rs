//! What is lost of a replica's own records, made again from what lies there: its index (`index`), its log (`log`: what can be
//! taken over from the old one, by `adopt`). Never deletes, and never says of anything that it is sound because nothing is known
//! against it.

pub mod adopt;
pub mod index;
pub mod log;
pub mod roots;
pub mod rows;

use crate::lifecycle::retention::group::GroupBy;

/// What a repair is to do, and how.
#[derive(Clone, Debug)]
pub struct RepairSettings {
    /// The replicas; none named: all.
    pub stores: Vec<String>,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Finish the repair of a log although snapshots that nothing else holds are not whole: what is left of them may be pruned
    /// then.
    pub give_up: bool,
    /// Publish after about so many chunks, so that an interrupted repair goes on where it was.
    pub publish_chunks: usize,
    /// Target size of new data packs in bytes.
    pub data_pack: u32,
    /// Target size of new meta packs in bytes.
    pub meta_pack: u32,
    /// What snapshots of one source have in common: what others have forgotten goes only where something else of its source is left.
    pub group_by: GroupBy,
}

impl Default for RepairSettings {
    fn default() -> RepairSettings {
        RepairSettings {
            stores: Vec::new(),
            dry_run: false,
            give_up: false,
            publish_chunks: 100_000,
            data_pack: 16 << 20,
            meta_pack: 4 << 20,
            group_by: GroupBy::default(),
        }
    }
}

impl RepairSettings {
    /// Whether a replica is one of those to repair.
    pub fn wants(&self, name: &str) -> bool {
        self.stores.is_empty() || self.stores.iter().any(|store| store == name)
    }
}
