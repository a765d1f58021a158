//! Where each kind of object lies: the only file that spells an object's name.

use crate::format::Hash;
use crate::store::name::ObjectName;

/// Kinds of objects that are named by the hash of their stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Key slots and wrapped generation secrets.
    Key,
    /// Snapshots.
    Snapshot,
    /// Index segments.
    Segment,
    /// Long lists.
    List,
    /// Packs of catalog nodes.
    MetaPack,
    /// Packs of content chunks.
    DataPack,
}

fn name(text: String) -> ObjectName {
    ObjectName::new(&text).expect("the layout spells valid names")
}

/// The descriptor.
pub fn descriptor() -> ObjectName {
    name("descriptor".into())
}

/// An object named by its hash.
pub fn hashed(class: Class, hash: &Hash) -> ObjectName {
    let hex = hex::encode(hash);
    name(match class {
        Class::Key => format!("keys/{hex}"),
        Class::Snapshot => format!("snapshots/{hex}"),
        Class::Segment => format!("index/{hex}"),
        Class::List => format!("lists/{hex}"),
        Class::MetaPack => format!("meta/{}/{hex}", &hex[..2]),
        Class::DataPack => format!("data/{}/{hex}", &hex[..2]),
    })
}

/// What all objects of a class begin with.
pub fn prefix(class: Class) -> &'static str {
    match class {
        Class::Key => "keys/",
        Class::Snapshot => "snapshots/",
        Class::Segment => "index/",
        Class::List => "lists/",
        Class::MetaPack => "meta/",
        Class::DataPack => "data/",
    }
}

/// Class and hash of an object by its name; `None` for names that this layout does not spell.
pub fn parse_hashed(object: &ObjectName) -> Option<(Class, Hash)> {
    let (folder, rest) = object.as_str().split_once('/')?;
    let (class, hex_part) = match folder {
        "keys" => (Class::Key, rest),
        "snapshots" => (Class::Snapshot, rest),
        "index" => (Class::Segment, rest),
        "lists" => (Class::List, rest),
        "meta" => (Class::MetaPack, rest.get(3..)?),
        "data" => (Class::DataPack, rest.get(3..)?),
        _ => return None,
    };
    let mut hash = [0; 32];
    hex::decode_to_slice(hex_part, &mut hash).ok()?;
    (hashed(class, &hash) == *object).then_some((class, hash))
}

/// A log slot. Slots count from 1, epochs from 1.
pub fn slot(epoch: u32, slot: u64) -> ObjectName {
    name(format!("log/{epoch:08x}/{slot:020}"))
}

/// What all slots of an epoch begin with.
pub fn slot_prefix(epoch: u32) -> String {
    format!("log/{epoch:08x}/")
}

/// The number of a log slot of `epoch` by its name.
pub fn parse_slot(epoch: u32, object: &ObjectName) -> Option<u64> {
    let number = object.as_str().strip_prefix(&format!("log/{epoch:08x}/"))?.parse().ok()?;
    (slot(epoch, number) == *object).then_some(number)
}

/// A checkpoint as of `slot`: the newest lists first.
pub fn checkpoint(epoch: u32, slot: u64) -> ObjectName {
    name(format!("checkpoints/{epoch:08x}/{:020}", u64::MAX - slot))
}

/// What all checkpoints of an epoch begin with.
pub fn checkpoint_prefix(epoch: u32) -> String {
    format!("checkpoints/{epoch:08x}/")
}

/// The slot of a checkpoint by its name.
pub fn parse_checkpoint(object: &ObjectName) -> Option<u64> {
    let last = object.as_str().rsplit('/').next()?;
    u64::MAX.checked_sub(last.parse().ok()?)
}

/// Whether an object belongs to a repository at all (anything else is foreign).
pub fn is_ours(object: &ObjectName) -> bool {
    let text = object.as_str();
    *object == descriptor() || text.starts_with("log/") || text.starts_with("checkpoints/") || parse_hashed(object).is_some()
}
