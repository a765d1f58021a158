//! Reading the nodes of a tree: every order, length and count is tested before anything is handed on.

use bytes::Bytes;

use crate::format::entry::Piece;
use crate::format::tree::{Child, Item, LEVEL_MAX, Node, SHARED_SHARE, TreeKind};
use crate::format::wire::{Fields, Value};
use crate::format::{FormatError, KEY_MAX, NODE_MAX, ensure, invalid, message};

const WHAT: &str = "a tree node";

/// One item as it lies in the plaintext.
#[derive(Default)]
struct RawItem {
    shared: usize,
    suffix: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

impl Node {
    /// Reads a node. With `expected` (what its parent, or the snapshot, says of it) its length, level and counts must be
    /// as they are named there. The chunk's id was verified by whoever read it.
    pub fn decode(plaintext: Bytes, kind: TreeKind, expected: Option<&Child>) -> Result<Node, FormatError> {
        ensure(plaintext.len() <= NODE_MAX, WHAT, "longer than the format allows")?;
        let (level, raw) = read_items(&plaintext, kind)?;
        let node = Node { level, items: materialise(&plaintext, &raw)? };
        let (entries, bytes) = node.verify(kind)?;
        if let Some(child) = expected {
            ensure(child.length as usize == plaintext.len(), WHAT, "its length is not as its parent says")?;
            ensure(child.level == level, WHAT, "its level is not as its parent says")?;
            let total = bytes.is_none_or(|bytes| bytes == child.bytes);
            ensure(child.entries == entries && total, WHAT, "its counts are not as its parent says")?;
        }
        Ok(node)
    }

    /// Tests the order of keys and, in inner nodes, the children; gives the items below and, where it can be told, their
    /// bytes.
    fn verify(&self, kind: TreeKind) -> Result<(u64, Option<u64>), FormatError> {
        match kind {
            TreeKind::Catalog => {
                ensure(self.items.is_sorted_by(|a, b| a.key < b.key), WHAT, "keys repeat or are not in order")?;
            }
            TreeKind::Content => ensure(self.items.iter().all(|item| item.key.is_empty()), WHAT, "a content list has keys")?,
        }
        let count = self.items.len() as u64;
        if self.level == 0 && kind == TreeKind::Catalog {
            return Ok((count, None));
        }
        ensure(self.level == 0 || count > 0, WHAT, "an inner node without items")?;
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        for item in &self.items {
            let (more_entries, more_bytes) = if self.level == 0 {
                let piece: Piece = message(WHAT, item.value.clone())?;
                piece.verify(WHAT)?;
                (1, piece.length)
            } else {
                let child = Child::decode_value(item.value.clone(), kind)?;
                ensure(child.level + 1 == self.level, WHAT, "a child of the wrong level")?;
                ensure(child.entries > 0, WHAT, "an empty child")?;
                (child.entries, child.bytes)
            };
            let overflow = || invalid(WHAT, "its counts overflow");
            entries = entries.checked_add(more_entries).ok_or_else(overflow)?;
            bytes = bytes.checked_add(more_bytes).ok_or_else(overflow)?;
        }
        Ok((entries, Some(bytes)))
    }
}

fn read_items(plaintext: &[u8], kind: TreeKind) -> Result<(u32, Vec<RawItem>), FormatError> {
    let (mut level, mut found_kind, mut weight) = (0, 0, plaintext.len());
    let mut items = Vec::new();
    let mut fields = Fields::new(WHAT, plaintext);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Number(number)) => found_kind = number,
            (2, Value::Number(number)) => level = number,
            (3, Value::Span(span)) => {
                let item = read_item(plaintext, span)?;
                weight += item.shared / SHARED_SHARE;
                items.push(item);
            }
            _ => {}
        }
    }
    ensure(found_kind == kind as u64, WHAT, "it belongs to another kind of tree")?;
    ensure(level <= u64::from(LEVEL_MAX), WHAT, "a tree is too deep")?;
    // Prefixes unfold: without this bound a node of 1 MiB could name keys of many GiB.
    ensure(weight <= NODE_MAX, WHAT, "its keys unfold to more than the format allows")?;
    Ok((level as u32, items))
}

fn read_item(plaintext: &[u8], span: std::ops::Range<usize>) -> Result<RawItem, FormatError> {
    let mut item = RawItem::default();
    let start = span.start;
    let mut fields = Fields::new(WHAT, &plaintext[span]);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Number(number)) => item.shared = usize::try_from(number).unwrap_or(usize::MAX).min(KEY_MAX + 1),
            (2, Value::Span(span)) => item.suffix = start + span.start..start + span.end,
            (3, Value::Span(span)) => item.value = start + span.start..start + span.end,
            _ => {}
        }
    }
    ensure(item.shared + item.suffix.len() <= KEY_MAX, WHAT, "a key is too long")?;
    Ok(item)
}

/// Unfolds the keys: those that share nothing are slices of the plaintext, the others lie joined in one new buffer.
fn materialise(plaintext: &Bytes, raw: &[RawItem]) -> Result<Vec<Item>, FormatError> {
    let length = raw.iter().filter(|item| item.shared > 0).map(|item| item.shared + item.suffix.len()).sum();
    let mut unfolded: Vec<u8> = Vec::with_capacity(length);
    let mut places = Vec::with_capacity(raw.len());
    // Where the last key lies: in the plaintext, or in the new buffer.
    let mut last = (false, 0..0);
    for item in raw {
        ensure(item.shared <= last.1.len(), WHAT, "a key shares more than there is")?;
        last = if item.shared == 0 {
            (false, item.suffix.clone())
        } else {
            let (start, from) = (unfolded.len(), last.1.start);
            match last.0 {
                true => unfolded.extend_from_within(from..from + item.shared),
                false => unfolded.extend_from_slice(&plaintext[from..from + item.shared]),
            }
            unfolded.extend_from_slice(&plaintext[item.suffix.clone()]);
            (true, start..unfolded.len())
        };
        places.push(last.clone());
    }
    let unfolded = Bytes::from(unfolded);
    let keys = places.into_iter().map(|(new, place)| if new { unfolded.slice(place) } else { plaintext.slice(place) });
    Ok(keys.zip(raw).map(|(key, item)| Item { key, value: plaintext.slice(item.value.clone()) }).collect())
}
