//! Everything that can be seen of a tree, and whether two of them are the same.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast::source::Source;
use holdfast::source::attributes::{Attribute, read_xattrs};
use holdfast::source::directory::{Found, Walk, WalkSettings, Walked};
use holdfast::source::filter::Filter;
use holdfast::source::metadata::{FileTime, Kind};
use holdfast::source::reading::{Segment, open_file, read_link};

/// Every item of a tree, as a backup would meet it.
pub fn walk(root: &Path, mut each: impl FnMut(Found)) {
    let settings = WalkSettings {
        one_file_system: false,
        exclude_caches: false,
        filter: Filter::default(),
        names_memory: 1 << 20,
        temp_dir: std::env::temp_dir(),
    };
    let mut walk = Walk::open(root, settings).expect("opening the root");
    while let Some(walked) = walk.next() {
        match walked {
            Walked::Item(found) => each(found),
            Walked::Problem(p) => panic!("{}", p.error),
        }
    }
}

/// What can be seen of an item: kind, size, mode, owners, time, device, link, attributes, segments, content, first twin.
pub type Seen = (Kind, u64, u32, (u32, u32), FileTime, (u32, u32), Vec<u8>, Vec<Attribute>, Vec<Segment>, blake3::Hash, Vec<u8>);

/// Everything that can be seen of a tree.
pub fn seen(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut all = BTreeMap::new();
    let mut first: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    walk(root, |found| {
        let m = found.meta;
        let link = if m.kind == Kind::Symlink { read_link(&found).expect("a link") } else { Vec::new() };
        let (mut segments, mut hash) = (Vec::new(), blake3::Hasher::new());
        if m.kind == Kind::File {
            let file = open_file(&found).expect("opening");
            segments = file.segments().collect();
            for segment in &segments {
                if let Segment::Data(offset, length) = segment {
                    let mut bytes = vec![0; usize::try_from(*length).expect("a length")];
                    file.read_at(*offset, &mut bytes).expect("reading");
                    hash.update(&bytes);
                }
            }
        }
        let twin = first.entry((m.device_id, m.inode)).or_insert_with(|| found.key.clone()).clone();
        let size = if m.kind == Kind::Directory { 0 } else { m.size };
        let attributes = read_xattrs(&found).expect("attributes").list;
        all.insert(
            found.key,
            (m.kind, size, m.mode, (m.uid, m.gid), m.mtime, m.rdev, link, attributes, segments, hash.finalize(), twin),
        );
    });
    all
}

/// The two trees are one and the same to whoever looks.
pub fn assert_same(a: &Path, b: &Path) {
    let (left, right) = (seen(a), seen(b));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (key, value) in &left {
        assert_eq!(value, &right[key], "{}", key.escape_ascii());
    }
}
