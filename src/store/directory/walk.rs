//! A listing of a directory store under way: folder by folder, in the order of whole names.

use std::collections::VecDeque;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::store::ObjectInfo;
use crate::store::directory::files::{Files, info, kind_of};
use crate::store::error::StoreError;
use crate::store::name::ObjectName;

/// Objects looked at in one job of a listing.
const PAGE: usize = 256;

/// A listing under way: one level per open folder.
pub(super) struct Walk {
    prefix: String,
    levels: Vec<(String, std::vec::IntoIter<String>)>,
    begun: bool,
}

impl Walk {
    /// Of the objects under `prefix`; nothing is read yet.
    pub(super) fn new(prefix: &str) -> Walk {
        Walk { prefix: prefix.to_owned(), levels: Vec::new(), begun: false }
    }

    fn fault(&self, files: &Files, e: Errno) -> StoreError {
        files.fault("list", &self.prefix, e)
    }

    fn enter(&mut self, files: &Files, folder: String) -> Result<(), StoreError> {
        let entries = files.entries(&folder, &self.prefix).map_err(|e| self.fault(files, e))?;
        self.levels.push((folder, entries.into_iter()));
        Ok(())
    }

    /// The next objects in order, none at the end.
    pub(super) fn page(&mut self, files: &Files) -> Result<VecDeque<ObjectInfo>, StoreError> {
        if !self.begun {
            self.begun = true;
            let folder = self.prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            match ObjectName::new(folder) {
                Ok(folder) => self.enter(files, format!("{folder}/"))?,
                Err(_) if folder.is_empty() && !self.prefix.starts_with('/') => self.enter(files, String::new())?,
                // No object's name can begin like this.
                Err(_) => return Ok(VecDeque::new()),
            }
        }
        let mut page = VecDeque::new();
        while page.len() < PAGE
            && let Some((folder, entries)) = self.levels.last_mut()
        {
            let Some(entry) = entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = format!("{folder}{entry}");
            if path.ends_with('/') {
                self.enter(files, path)?;
                continue;
            }
            let Ok(name) = ObjectName::new(&path) else { continue };
            match files.stat_at(&path) {
                Ok(stat) if kind_of(&stat) == FileType::RegularFile => page.push_back(info(name, &stat)),
                // Removed or replaced since the folder was read.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(self.fault(files, e)),
            }
        }
        Ok(page)
    }
}
