//! What becomes of a repository over time.
//!
//! What is here: heal (`heal`, `closure`: the walk that finds what a replica lacks, `heal_plan`, pure, `transfer`, `heal_commit`, `heal_objects`,
//! `heal_report`); which snapshots stay (`retention`, pure), those that do not (`forget`, `forget_plan`) and those that come back (`undelete`); which
//! of them nobody can vouch for (`doubt`), and what logs disagree about (`dispute`); which packs are read on which day (`rotation`, pure); prune (`prune`, `prune_site`: one replica step by step, `live`, `inventory`,
//! `prune_plan`, pure, `repack`, `prune_proof`, `compact`, `delete`); a lost index or a damaged log made again (`repair`).
//! What comes in: an opened repository. What goes out: packs, segments, snapshots and records at each replica, and a report.
//! What never happens here: an overwrite; a deletion that no durable record of that log condemns; a snapshot in a log whose every
//! chunk is not published in that log.

pub mod closure;
pub mod compact;
pub mod delete;
pub mod dispute;
pub mod doubt;
pub mod forget;
pub mod forget_plan;
pub mod heal;
pub mod heal_commit;
pub mod heal_objects;
pub mod heal_plan;
pub mod heal_report;
pub mod inventory;
pub mod live;
pub mod prune;
pub mod prune_plan;
pub mod prune_proof;
pub mod prune_site;
pub mod repack;
pub mod repair;
pub mod retention;
pub mod rotation;
pub mod transfer;
pub mod undelete;
