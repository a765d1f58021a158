//! Log records: what stands in the slots of a replica's commit log.

use bytes::Bytes;
use prost::Message;

use crate::format::pack::PackKind;
use crate::format::{
    FORMAT_VERSION, FormatError, Hash, RECORD_MAX, ensure, hash_field, invalid, message, newer_or_damaged, unsupported,
    unwritable, version,
};
use crate::seal::key::Secret;
use crate::seal::{Kind, STRUCTURE_OVERHEAD};

const WHAT: &str = "a log record";
const MAGIC: &[u8; 4] = b"HFLG";
const HEADER_MAX: usize = 1024;

/// What a slot says in the clear; bound to the sealed body.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SlotHeader {
    /// Version of the format.
    #[prost(uint32, tag = "1")]
    pub format_version: u32,
    /// The replica whose log this is, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub replica_id: Bytes,
    /// The log's epoch, from 1.
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
    /// The slot, from 1.
    #[prost(uint64, tag = "4")]
    pub slot: u64,
}

/// Where a log stood.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Head {
    /// The replica, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub replica_id: Bytes,
    /// Its epoch.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// Its last slot.
    #[prost(uint64, tag = "3")]
    pub slot: u64,
    /// Hash of that slot's stored bytes, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub hash: Bytes,
}

/// A record's sealed body.
#[derive(Clone, PartialEq, Message)]
pub struct Body {
    /// Hash of the previous slot's stored bytes, 32 bytes; zeros in slot 1 of epoch 1.
    #[prost(bytes = "bytes", tag = "1")]
    pub prev: Bytes,
    /// The heads of the other replicas' logs as last seen.
    #[prost(message, repeated, tag = "2")]
    pub heads: Vec<Head>,
    /// 32 random bytes: tells this record from every other of the same content.
    #[prost(bytes = "bytes", tag = "3")]
    pub nonce: Bytes,
    /// The run that wrote it, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub run_id: Bytes,
    /// When it was written: seconds since the Unix epoch, informational.
    #[prost(sint64, tag = "5")]
    pub time: i64,
    /// Whether who does not know the action must stop.
    #[prost(bool, tag = "6")]
    pub critical: bool,
    /// What is recorded. `None` on reading: an action this version does not know.
    #[prost(oneof = "Action", tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28")]
    pub action: Option<Action>,
}

/// What a record does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Action {
    /// Opens an epoch.
    #[prost(message, tag = "16")]
    Genesis(Genesis),
    /// Ends an epoch.
    #[prost(message, tag = "17")]
    Close(Close),
    /// Index segments whose packs are durable here.
    #[prost(message, tag = "18")]
    Publish(Publish),
    /// A snapshot.
    #[prost(message, tag = "19")]
    Commit(Commit),
    /// Snapshots that are no longer roots.
    #[prost(message, tag = "20")]
    Forget(Forget),
    /// Objects that nobody may rely on any more.
    #[prost(message, tag = "21")]
    Condemn(Condemn),
    /// Packs found damaged, or no longer so.
    #[prost(message, tag = "22")]
    Distrust(Distrust),
    /// Index segments replaced by others.
    #[prost(message, tag = "23")]
    Compact(Compact),
    /// Key slots withdrawn.
    #[prost(message, tag = "24")]
    Revoke(Revoke),
    /// A feature set.
    #[prost(message, tag = "25")]
    Configure(Configure),
    /// A retention hold set.
    #[prost(message, tag = "26")]
    Hold(Hold),
    /// A retention hold lifted.
    #[prost(message, tag = "27")]
    Release(Release),
    /// A fact.
    #[prost(message, tag = "28")]
    Note(Note),
}

/// Opens an epoch.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Genesis {
    /// The repository, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub repository_id: Bytes,
    /// The replica, 32 bytes, as in the header.
    #[prost(bytes = "bytes", tag = "2")]
    pub replica_id: Bytes,
    /// The last slot of the epoch before, if there was one.
    #[prost(message, optional, tag = "3")]
    pub previous_epoch_head: Option<Head>,
}

/// Ends an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Close {
    /// The epoch that follows.
    #[prost(uint32, tag = "1")]
    pub next_epoch: u32,
}

/// Index segments whose packs are durable here and may be relied on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Publish {
    /// Their names, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub segments: Vec<Bytes>,
}

/// A snapshot, with the segments of its last packs.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Commit {
    /// The snapshot's id, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub snapshot_id: Bytes,
    /// The snapshot object's name, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub object: Bytes,
    /// Index segments published in the same step, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub segments: Vec<Bytes>,
    /// Snapshot ids that are forgotten in the same step, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub replaces: Vec<Bytes>,
    /// Whether the run had not finished.
    #[prost(bool, tag = "5")]
    pub partial: bool,
}

/// Snapshots that are no longer roots.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Forget {
    /// Their ids, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub ids: Vec<Bytes>,
}

/// Classes of objects that are named by their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ObjectClass {
    /// Never written.
    Unknown = 0,
    /// Pack of content.
    Data = 1,
    /// Pack of catalog nodes.
    Meta = 2,
    /// Index segment.
    Index = 3,
    /// Snapshot.
    Snapshot = 4,
    /// List.
    List = 5,
    /// Key slot or generation secret.
    Key = 6,
    /// Checkpoint.
    Checkpoint = 7,
}

impl From<PackKind> for ObjectClass {
    fn from(kind: PackKind) -> ObjectClass {
        if kind == PackKind::Meta { ObjectClass::Meta } else { ObjectClass::Data }
    }
}

/// An object, by class and hash.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ObjectRef {
    /// Its class.
    #[prost(enumeration = "ObjectClass", tag = "1")]
    pub class: i32,
    /// Hash of its stored bytes, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
}

/// Objects that nobody may rely on any more: final.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Condemn {
    /// The objects.
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<ObjectRef>,
    /// More of them, in lists of one class each.
    #[prost(message, repeated, tag = "2")]
    pub lists: Vec<ClassList>,
}

/// A list object that names objects of one class.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ClassList {
    /// The class.
    #[prost(enumeration = "ObjectClass", tag = "1")]
    pub class: i32,
    /// Name of the list object, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub list: Bytes,
}

/// Packs found damaged: their chunks count as unknown for dedupe and reuse.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Distrust {
    /// Packs that join, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub add: Vec<Bytes>,
    /// Packs that leave, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub lift: Vec<Bytes>,
}

/// Index segments replaced by others that hold every uncondemned row.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Compact {
    /// The segments that are no longer needed, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub old: Vec<Bytes>,
    /// The segments that hold their rows, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub new: Vec<Bytes>,
}

/// Key slots withdrawn.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Revoke {
    /// Their names, 32 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub key_slots: Vec<Bytes>,
}

/// A feature set for this replica.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Configure {
    /// Its name.
    #[prost(string, tag = "1")]
    pub feature: String,
    /// Its value; empty: unset.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Whether who does not know it must stop.
    #[prost(bool, tag = "3")]
    pub critical: bool,
}

/// A retention hold: the snapshot is kept whatever the policy says.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Hold {
    /// The snapshot's id, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Until when: seconds since the Unix epoch; 0: until released.
    #[prost(sint64, tag = "2")]
    pub until: i64,
    /// Why.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// A retention hold lifted.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Release {
    /// The snapshot's id, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
}

/// A fact such as the result of a verification.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Note {
    /// What kind of fact.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The fact.
    #[prost(string, tag = "2")]
    pub text: String,
    /// Name of a list object with more, 32 bytes; empty: none.
    #[prost(bytes = "bytes", tag = "3")]
    pub list: Bytes,
}

/// Which slot was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The replica, where it is known.
    pub replica_id: Option<Hash>,
    /// The epoch.
    pub epoch: u32,
    /// The slot.
    pub slot: u64,
}

impl SlotHeader {
    /// A header of this version.
    pub fn new(replica_id: Hash, epoch: u32, slot: u64) -> SlotHeader {
        SlotHeader { format_version: FORMAT_VERSION, replica_id: Bytes::copy_from_slice(&replica_id), epoch, slot }
    }

    fn verify(&self) -> Result<(), FormatError> {
        version(WHAT, self.format_version)?;
        hash_field(WHAT, &self.replica_id)?;
        ensure(self.epoch > 0 && self.slot > 0, WHAT, "its epoch or slot is 0")
    }
}

/// The bytes to store in a slot.
pub fn encode_slot(
    header: &SlotHeader,
    body: &Body,
    log_key: &Secret,
    repository: &Hash,
    entropy: [u8; 32],
) -> Result<Bytes, FormatError> {
    header.verify().and_then(|()| body.verify()).map_err(FormatError::on_writing)?;
    if body.action.is_none() {
        return Err(unwritable(WHAT, "it has no action"));
    }
    let fields = header.encode_to_vec();
    let mut stored = MAGIC.to_vec();
    stored.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    stored.extend_from_slice(&fields);
    if stored.len() + body.encoded_len() + STRUCTURE_OVERHEAD > RECORD_MAX {
        return Err(unwritable(WHAT, format!("more than {RECORD_MAX} bytes")));
    }
    let sealed = crate::seal::seal_structure(log_key, repository, Kind::Record, &stored, &body.encode_to_vec(), entropy);
    stored.extend_from_slice(&sealed);
    Ok(Bytes::from(stored))
}

/// Reads a slot's bytes. An action that is not known comes back as `None`: the caller looks at `critical`.
pub fn decode_slot(
    stored: &[u8],
    log_key: &Secret,
    repository: &Hash,
    expected: &Expected,
) -> Result<(SlotHeader, Body), FormatError> {
    ensure(stored.len() <= RECORD_MAX, WHAT, "longer than the format allows")?;
    ensure(stored.len() >= 8, WHAT, "truncated")?;
    ensure(stored.starts_with(MAGIC), WHAT, "wrong magic")?;
    let length = u32::from_le_bytes([stored[4], stored[5], stored[6], stored[7]]) as usize;
    ensure(length <= HEADER_MAX && length <= stored.len() - 8, WHAT, "its header reaches past the end")?;
    let (clear, sealed) = stored.split_at(8 + length);
    let header: SlotHeader = message(WHAT, Bytes::copy_from_slice(&clear[8..]))?;
    if let Err(e) = header.verify() {
        let (meant, as_of_now) = (&clear[..8], SlotHeader { format_version: FORMAT_VERSION, ..header }.encode_to_vec());
        let meant = [meant, &as_of_now].concat();
        return Err(match e.is_unsupported() {
            true => newer_or_damaged(WHAT, e, Kind::Record, (&meant, sealed), log_key, repository),
            false => e,
        });
    }
    ensure(header.epoch == expected.epoch && header.slot == expected.slot, WHAT, "it belongs into another slot")?;
    let replica_fits = expected.replica_id.is_none_or(|id| id[..] == header.replica_id[..]);
    ensure(replica_fits, WHAT, "it belongs to another replica")?;
    let plain = crate::seal::open_structure(log_key, repository, Kind::Record, clear, sealed)
        .map_err(|source| FormatError::Sealed { what: WHAT, source })?;
    let body: Body = message(WHAT, Bytes::from(plain))?;
    body.verify()?;
    if let Some(Action::Genesis(genesis)) = &body.action {
        let own = genesis.repository_id[..] == repository[..] && genesis.replica_id == header.replica_id;
        ensure(own, WHAT, "its genesis names another repository or replica")?;
    }
    Ok((header, body))
}

impl Head {
    fn verify(&self) -> Result<(), FormatError> {
        hash_field(WHAT, &self.replica_id)?;
        hash_field(WHAT, &self.hash)?;
        ensure(self.epoch > 0 && self.slot > 0, WHAT, "a head's epoch or slot is 0")
    }
}

impl Body {
    /// Tests every name's length and every number that has a range.
    fn verify(&self) -> Result<(), FormatError> {
        for name in [&self.prev, &self.nonce, &self.run_id] {
            hash_field(WHAT, name)?;
        }
        self.heads.iter().try_for_each(Head::verify)?;
        self.action.as_ref().map_or(Ok(()), Action::verify)
    }
}

impl Action {
    fn verify(&self) -> Result<(), FormatError> {
        match self {
            Action::Genesis(g) => {
                names(&[g.repository_id.clone(), g.replica_id.clone()])?;
                g.previous_epoch_head.as_ref().map_or(Ok(()), Head::verify)
            }
            Action::Close(close) => ensure(close.next_epoch > 0, WHAT, "the next epoch is 0"),
            Action::Publish(publish) => names(&publish.segments),
            Action::Commit(c) => {
                names(&[c.snapshot_id.clone(), c.object.clone()])?;
                names(&c.segments)?;
                names(&c.replaces)
            }
            Action::Forget(forget) => names(&forget.ids),
            Action::Condemn(condemn) => {
                condemn.objects.iter().try_for_each(|o| class(o.class).and(hash_field(WHAT, &o.hash)).map(drop))?;
                condemn.lists.iter().try_for_each(|l| class(l.class).and(hash_field(WHAT, &l.list)).map(drop))
            }
            Action::Distrust(distrust) => names(&distrust.add).and(names(&distrust.lift)),
            Action::Compact(compact) => names(&compact.old).and(names(&compact.new)),
            Action::Revoke(revoke) => names(&revoke.key_slots),
            Action::Configure(configure) => ensure(!configure.feature.is_empty(), WHAT, "a feature has no name"),
            Action::Hold(hold) => names(std::slice::from_ref(&hold.id)),
            Action::Release(release) => names(std::slice::from_ref(&release.id)),
            Action::Note(note) if note.list.is_empty() => Ok(()),
            Action::Note(note) => names(std::slice::from_ref(&note.list)),
        }
    }
}

fn names(all: &[Bytes]) -> Result<(), FormatError> {
    all.iter().try_for_each(|name| hash_field(WHAT, name).map(drop))
}

/// A class that this version knows: an unknown one could not be told from a name that is still relied on.
fn class(number: i32) -> Result<ObjectClass, FormatError> {
    match ObjectClass::try_from(number) {
        Ok(ObjectClass::Unknown) => Err(invalid(WHAT, "an object without a class")),
        Ok(class) => Ok(class),
        Err(_) => Err(unsupported(WHAT, format!("object class {number}"))),
    }
}
