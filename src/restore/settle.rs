//! The end of a window: files closed, metadata set, directories last and children before parents.

use std::sync::Arc;

use crate::chunk::id::ChunkId;
use crate::format::entry::{Entry, EntryKind, Problem};
use crate::restore::RestoreError;
use crate::restore::fetch::Work;
use crate::restore::item::{Fate, Item};
use crate::restore::place::{Placer, Steps};
use crate::restore::tally::told;
use crate::restore::target::Outcome;
use crate::restore::walk::{Left, Placed, Window};
use crate::source::attributes::Attribute;

/// Metadata set in one go.
const GO: usize = 256;
/// Bytes of long attributes held at once, about.
const LONG_MAX: usize = 4 << 20;

/// A window whose steps were taken.
pub struct Ready {
    runs: Vec<Placed>,
    whole: Vec<Arc<Item>>,
    left: Vec<Left>,
    linked: Vec<(Arc<Item>, Vec<u8>)>,
    copies: Vec<Arc<Item>>,
    /// Whether nothing may run beside it.
    pub ends_part: bool,
}

/// What metadata is set on.
enum On {
    Item(Arc<Item>),
    Directory(Box<Left>),
}

impl On {
    fn entry(&self) -> &Entry {
        match self {
            On::Item(item) => &item.entry,
            On::Directory(left) => &left.entry,
        }
    }
}

impl Work<'_> {
    /// Takes the steps of a window.
    pub async fn place(&self, window: Window) -> Result<Ready, RestoreError> {
        let mut steps = Steps { steps: window.steps, ..Steps::default() };
        loop {
            let placer = self.placer.clone();
            let mut own = steps;
            let (back, ask) = self
                .repository
                .env
                .blocking(move || {
                    let ask = placer.run(&mut own);
                    (own, ask)
                })
                .await;
            steps = back;
            self.goes_on()?;
            match ask {
                Some(item) => self.share(&item).await?,
                None => break,
            }
        }
        let Window { runs, whole, left, ends_part, .. } = window;
        Ok(Ready { runs, whole, left, linked: steps.linked, copies: steps.copies, ends_part })
    }

    /// Brings a window to its end.
    pub async fn finish(&self, ready: Ready) -> Result<(), RestoreError> {
        let Ready { runs, mut whole, left, linked, copies, .. } = ready;
        self.content(runs).await?;
        for item in copies {
            self.copy(&item).await?;
            whole.push(item);
        }
        let placer = self.placer.clone();
        let close = move || {
            whole.iter().for_each(|item| close(&placer, item));
            for (item, first) in linked {
                if placer.is_broken(&first) {
                    item.lose(&placer.tally, None, || "it is another name of a file that could not be restored".into());
                }
            }
            whole
        };
        let whole = self.repository.env.blocking(close).await;
        if self.placer.dry_run {
            return self.goes_on();
        }
        let standing = whole.into_iter().filter(|item| matches!(item.fate(), Fate::Standing(_))).map(On::Item);
        let mut all = standing.chain(left.into_iter().map(|left| On::Directory(Box::new(left)))).peekable();
        while all.peek().is_some() {
            let (mut go, mut long) = (Vec::new(), 0);
            while go.len() < GO
                && long < LONG_MAX
                && let Some(on) = all.next()
            {
                let (attributes, problems) = self.attributes(on.entry()).await;
                long += attributes.iter().map(|(_, value)| value.len()).sum::<usize>();
                go.push((on, attributes, problems));
            }
            let placer = self.placer.clone();
            self.repository.env.blocking(move || go.into_iter().for_each(|one| set(&placer, one))).await;
            self.goes_on()?;
        }
        Ok(())
    }

    /// An entry's attributes; long values are read. The second are those that cannot be had.
    async fn attributes(&self, entry: &Entry) -> (Vec<Attribute>, Vec<String>) {
        let (mut out, mut problems) = (Vec::with_capacity(entry.xattrs.len()), Vec::new());
        for xattr in &entry.xattrs {
            let value = match xattr.chunk.as_ref().map(|chunk| (ChunkId::from_slice(&chunk.id), chunk.length)) {
                None => Ok(xattr.value.clone()),
                Some((None, _)) => Err("its value is named by no chunk".to_owned()),
                Some((Some(id), length)) => match self.repository.chunk(&id).await {
                    Ok(value) if value.len() as u64 == length => Ok(value),
                    Ok(_) => Err("its value has another length than recorded".to_owned()),
                    Err(e) => Err(told(&e)),
                },
            };
            match value {
                Ok(value) => out.push((xattr.name.to_vec(), value.to_vec())),
                Err(why) => problems.push(format!("attribute {}: {why}", xattr.name.escape_ascii())),
            }
        }
        (out, problems)
    }
}

/// Closes a file and counts it.
fn close(placer: &Placer, item: &Item) {
    placer.tally.progress.items.add(1);
    let writer = item.exchange_writer(None);
    if item.entry.kind() != EntryKind::File {
        return;
    }
    match (item.fate(), writer) {
        (Fate::Underway, Some(writer)) if placer.dry_run => {
            let same = writer.old_size() == item.entry.size && !item.differs.load(std::sync::atomic::Ordering::Acquire);
            placer.count(if same { Outcome::Unchanged } else { Outcome::Written });
            item.set(Fate::Settled);
        }
        (Fate::Underway, Some(writer)) => match writer.finish() {
            Ok(outcome) => {
                placer.count(outcome);
                item.set(Fate::Standing(outcome));
            }
            Err(e) => item.refuse(&placer.tally, &e),
        },
        // A dry run, and nothing stands there.
        (Fate::Underway, None) => placer.count(Outcome::Written),
        (Fate::Standing(outcome), _) => placer.count(outcome),
        // What could be had stays, private and with the time of now: nothing takes it for whole.
        (Fate::Failed, Some(writer)) => drop(writer.finish()),
        (Fate::Failed | Fate::Settled, _) => {}
    }
    if item.fate() == Fate::Failed {
        placer.mark_broken(item);
    }
}

fn set(placer: &Placer, (on, attributes, problems): (On, Vec<Attribute>, Vec<String>)) {
    let Some(target) = &placer.target else { return };
    let (key, path, entry) = match &on {
        On::Item(item) => (&item.key, &item.path, &item.entry),
        On::Directory(left) => (&left.key, &left.path, &left.entry),
    };
    for problem in problems {
        placer.tally.lost(path, None, &problem);
        placer.tally.warned(path, problem);
    }
    if let On::Directory(_) = on {
        placer.tally.progress.items.add(1);
        if entry.problem() == Problem::Unreadable {
            placer
                .tally
                .warned(path, "its contents could not be read when it was backed up: they are not in the snapshot".into());
        }
    }
    match target.metadata(key, entry, &attributes) {
        Ok(applied) => applied.warnings.iter().for_each(|warning| placer.tally.warned(path, told(warning))),
        Err(e) => placer.tally.warned(path, told(&e)),
    }
}
