//! Reading a tree in order, without I/O: says which node it needs, is fed that node, gives the items.

use bytes::Bytes;

use crate::format::tree::{Child, Item, Node, TreeKind};
use crate::format::{FormatError, ensure, invalid};

const WHAT: &str = "a tree";

/// What a [`Descent`] needs or gives next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// This node is needed: read it and [`Descent::feed`] it, or [`Descent::skip_wanted`]. Asking again gives it again.
    Want(Child),
    /// The next item of a leaf.
    Item(Item),
    /// There is no more.
    End,
}

/// A place in a tree, moving from left to right.
#[derive(Clone, Debug)]
pub struct Descent {
    kind: TreeKind,
    root: Option<Child>,
    /// Nodes being read, from the root down, and the next item of each.
    path: Vec<(Node, usize)>,
    /// No item before this key is wanted.
    from: Bytes,
    last_key: Option<Bytes>,
    nodes_max: u64,
    nodes_read: u64,
    ended: bool,
}

impl Descent {
    /// At the beginning of the tree below `root`. More than `nodes_max` nodes are not read: a small tree that names
    /// itself over and over must not keep its reader forever.
    pub fn new(kind: TreeKind, root: Child, nodes_max: u64) -> Result<Descent, FormatError> {
        root.verify(WHAT, kind)?;
        Ok(Descent {
            kind,
            root: Some(root),
            path: Vec::new(),
            from: Bytes::new(),
            last_key: None,
            nodes_max,
            nodes_read: 0,
            ended: false,
        })
    }

    /// What comes next.
    pub fn step(&mut self) -> Result<Step, FormatError> {
        if self.ended {
            return Ok(Step::End);
        }
        if let Some(root) = &self.root {
            return Ok(Step::Want(root.clone()));
        }
        while let Some((node, at)) = self.path.last_mut() {
            *at = next_place(node, *at, &self.from);
            let Some(item) = node.items.get(*at) else {
                self.path.pop();
                continue;
            };
            if node.level > 0 {
                return Child::decode_value(item.value.clone(), self.kind).map(Step::Want);
            }
            let item = item.clone();
            *at += 1;
            if self.kind == TreeKind::Catalog {
                let ascends = self.last_key.as_ref().is_none_or(|last| *last < item.key);
                ensure(ascends, WHAT, "keys repeat or are not in order")?;
                self.last_key = Some(item.key.clone());
            }
            return Ok(Step::Item(item));
        }
        self.ended = true;
        Ok(Step::End)
    }

    /// Takes the plaintext of the node that [`Step::Want`] named, its id verified.
    pub fn feed(&mut self, plaintext: Bytes) -> Result<(), FormatError> {
        let Step::Want(child) = self.step()? else {
            return Err(invalid(WHAT, "a node that was not asked for"));
        };
        if self.nodes_read == self.nodes_max {
            return Err(FormatError::OverLimit { what: "the nodes of a tree", limit: self.nodes_max });
        }
        self.nodes_read += 1;
        let node = Node::decode(plaintext, self.kind, Some(&child))?;
        match self.path.last_mut() {
            None => self.root = None,
            Some((parent, at)) => {
                let named = &parent.items[*at].key;
                let bound = parent.items.get(*at + 1).map(|item| &item.key);
                if self.kind == TreeKind::Catalog {
                    let first = node.items.first().is_some_and(|item| item.key == *named);
                    ensure(first, WHAT, "a node begins with another key than its parent says")?;
                    let inside = bound.is_none_or(|bound| node.items.last().is_none_or(|item| item.key < *bound));
                    ensure(inside, WHAT, "a node reaches into its neighbour")?;
                }
                *at += 1;
            }
        }
        self.path.push((node, 0));
        Ok(())
    }

    /// The first key below the node that [`Step::Want`] named, and the first key after it (`None`: it reaches the end).
    pub fn wanted_span(&self) -> (Bytes, Option<Bytes>) {
        let key = |node: &Node, at: usize| node.items.get(at).map(|item| item.key.clone());
        let first = self.path.last().and_then(|(node, at)| key(node, *at)).unwrap_or_default();
        // Above the last level, the place is past the item that was entered already.
        let next = self.path.iter().rev().enumerate().find_map(|(up, (node, at))| key(node, *at + usize::from(up == 0)));
        (first, next)
    }

    /// Passes over the node that [`Step::Want`] named, unread.
    pub fn skip_wanted(&mut self) -> Result<(), FormatError> {
        let Step::Want(_) = self.step()? else {
            return Err(invalid(WHAT, "a node that was not asked for"));
        };
        match self.path.last_mut() {
            None => self.ended = true,
            Some((_, at)) => *at += 1,
        }
        Ok(())
    }

    /// Of a catalog: goes forward to the first item whose key is `key` or after it. Never goes back.
    pub fn seek(&mut self, key: &[u8]) {
        if self.kind == TreeKind::Catalog && *key > self.from[..] {
            self.from = Bytes::copy_from_slice(key);
        }
    }

    /// Of a catalog: goes forward past all items whose keys start with `prefix` (and any that come before those).
    pub fn skip_prefix(&mut self, prefix: &[u8]) {
        let rest = prefix.iter().rposition(|byte| *byte < 0xff);
        match rest {
            Some(at) => {
                let mut after = prefix[..=at].to_vec();
                after[at] += 1;
                self.seek(&after);
            }
            None => self.ended |= self.kind == TreeKind::Catalog,
        }
    }

    /// The next nodes, at most `n`, that will be asked for if nothing is skipped, as far as the nodes read so far tell.
    pub fn peek_wanted(&self, n: usize) -> Vec<Child> {
        let mut out = Vec::new();
        if self.ended {
            return out;
        }
        out.extend(self.root.iter().take(n).cloned());
        for (node, at) in self.path.iter().rev().filter(|(node, _)| node.level > 0) {
            let rest = node.items.iter().skip(next_place(node, *at, &self.from)).take(n - out.len());
            out.extend(rest.filter_map(|item| Child::decode_value(item.value.clone(), self.kind).ok()));
        }
        out
    }
}

/// The first place from `at` on that can hold keys not before `from`.
fn next_place(node: &Node, at: usize, from: &Bytes) -> usize {
    if from.is_empty() {
        return at;
    }
    let rest = &node.items[at.min(node.items.len())..];
    if rest.first().is_none_or(|item| item.key >= *from) {
        return at;
    }
    let before = rest.partition_point(|item| item.key < *from);
    // An inner item holds keys up to its neighbour's: the last one before `from` may reach it.
    let exact = rest.get(before).is_some_and(|item| item.key == *from);
    let straddles = node.level > 0 && before > 0 && !exact;
    at + before - usize::from(straddles)
}
