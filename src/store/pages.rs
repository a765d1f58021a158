//! A listing that comes page by page, the same for every provider: in order, complete, and never in a circle.

use std::collections::VecDeque;

use futures::stream::{self, BoxStream, StreamExt};

use crate::store::ObjectInfo;
use crate::store::error::StoreError;

/// A listing under way.
#[derive(Default)]
pub(crate) struct Pages {
    /// What the provider wants to be told to go on; nothing for the first page.
    pub(crate) marker: Option<String>,
    last: Option<String>,
    found: VecDeque<ObjectInfo>,
    done: bool,
}

impl Pages {
    /// There is nothing more.
    pub(crate) fn end(&mut self) {
        self.done = true;
    }

    /// Goes on at `next`, or ends without. `false` when the page leads to itself: whoever followed it would never end.
    pub(crate) fn turn(&mut self, next: Option<String>) -> bool {
        let circle = next.is_some() && next == self.marker;
        self.done = next.is_none();
        self.marker = next;
        !circle
    }

    /// Whether `key` may come next in a listing of `prefix`: what is out of order may not be complete either.
    pub(crate) fn follows(&mut self, key: &str, prefix: &str) -> bool {
        let follows = key.starts_with(prefix) && self.last.as_deref().is_none_or(|last| last < key);
        self.last = Some(key.to_owned());
        follows
    }

    /// Takes in an object of the page.
    pub(crate) fn push(&mut self, info: ObjectInfo) {
        self.found.push_back(info);
    }
}

/// The objects of all pages. `read` asks for the page at the marker and takes it in; after its first error nothing follows.
pub(crate) fn listing<'a, R>(read: impl Fn(Pages) -> R + Send + 'a) -> BoxStream<'a, Result<ObjectInfo, StoreError>>
where
    R: Future<Output = Result<Pages, StoreError>> + Send + 'a,
{
    stream::unfold((Pages::default(), read), |(mut at, read)| async move {
        while at.found.is_empty() && !at.done {
            match read(at).await {
                Ok(page) => at = page,
                // What comes after a fault would not be complete.
                Err(e) => return Some((Err(e), (Pages { done: true, ..Pages::default() }, read))),
            }
        }
        at.found.pop_front().map(|info| (Ok(info), (at, read)))
    })
    .boxed()
}
