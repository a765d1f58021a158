//! What becomes of a repository over time.
//!
//! What is here: heal (`heal`: which snapshots a replica lacks and what they need, `closure`: the walk that finds it,
//! `heal_plan`: what to move and how, pure, `transfer`: moving it, `heal_commit`: the snapshot into the log); which
//! snapshots stay (`retention`, pure), those that do not (`forget`) and those that come back (`undelete`); a lost index or a
//! damaged log made again (`repair`). What comes in: an opened repository. What goes out: packs, index segments, snapshots and forgets at the replicas that lacked them, and
//! a report. What never happens here: an overwrite, a deletion, a snapshot in a log whose every chunk is not published in
//! that log.

pub mod closure;
pub mod forget;
pub mod heal;
pub mod heal_commit;
pub mod heal_plan;
pub mod repair;
pub mod retention;
pub mod transfer;
pub mod undelete;
