//! The active files of a table, in lists that its states share.

use std::collections::HashSet;
use std::sync::Arc;

use super::index::DataFile;

/// The active files in the order of the entries that added them, as a list of lists that states share. Lists at the end
/// are joined when the last one has grown to the size of the one before it, so adding files costs a logarithm of the
/// table and no more.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    lists: Vec<Arc<Vec<Arc<DataFile>>>>,
    /// The rows of all of them, so that nobody has to count.
    pub(super) rows: u64,
}

impl Files {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.lists.iter().flat_map(|list| list.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(|list| list.len()).sum()
    }

    pub(super) fn add(&mut self, files: Vec<Arc<DataFile>>) {
        self.rows = self.rows.saturating_add(rows_of(&files));
        let mut last = files;
        while let Some(list) = self.lists.pop_if(|list| list.len() <= last.len()) {
            let mut joined = Arc::unwrap_or_clone(list);
            joined.append(&mut last);
            last = joined;
        }
        if !last.is_empty() {
            self.lists.push(Arc::new(last));
        }
    }

    /// Takes files out, and gives those that were there.
    pub(super) fn remove(&mut self, paths: &HashSet<&str>) -> Vec<Arc<DataFile>> {
        let mut removed = Vec::new();
        if paths.is_empty() {
            return removed;
        }
        let is_removed = |file: &Arc<DataFile>| paths.contains(file.path.as_str());
        for list in &mut self.lists {
            if list.iter().any(is_removed) {
                removed.extend(list.iter().filter(|file| is_removed(file)).cloned());
                Arc::make_mut(list).retain(|file| !is_removed(file));
            }
        }
        self.lists.retain(|list| !list.is_empty());
        let rows = self.lists.iter().map(|list| rows_of(list));
        self.rows = rows.fold(0, u64::saturating_add);
        removed
    }
}

/// What entries say may be anything.
pub(super) fn rows_of(files: &[Arc<DataFile>]) -> u64 {
    let rows = files.iter().map(|file| file.count());
    rows.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(files: &Files) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    fn file(path: &str) -> Arc<DataFile> {
        Arc::new(DataFile::named(path))
    }

    #[test]
    fn adding_files_one_by_one_keeps_few_lists_and_every_file() {
        let mut files = Files::default();
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        for name in &names {
            files.add(vec![file(name)]);
        }
        assert!(files.lists.len() <= 7, "{}", files.lists.len());
        assert_eq!(list(&files), names);
        assert_eq!(files.rows, 100);
    }

    #[test]
    fn removing_leaves_the_states_that_share_the_list_alone() {
        let mut files = Files::default();
        files.add(vec![file("a"), file("b"), file("c")]);
        let before = files.clone();
        files.remove(&HashSet::from(["b", "absent"]));
        assert_eq!(list(&files), ["a", "c"]);
        assert_eq!(list(&before), ["a", "b", "c"]);
        assert_eq!((files.rows, before.rows), (2, 3));
    }
}
