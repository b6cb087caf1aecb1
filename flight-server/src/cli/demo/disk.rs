//! What lies on disk after the demo: every file looked at, byte by byte, for what must not be there.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Files of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    files: u64,
    bytes: u64,
    /// Files that hold one of the searched values.
    hits: u64,
}

/// Walks `roots` and tells, kind by kind, how much lies there and how many files hold one of `values` in clear.
pub(super) fn report(roots: &[(&str, &Path)], values: &[String]) -> std::io::Result<String> {
    let search = Search::new(values);
    let mut tallies: BTreeMap<(String, &'static str), Tally> = BTreeMap::new();
    for (name, root) in roots {
        walk(root, &mut |path, content| {
            let tally = tallies
                .entry(((*name).to_owned(), kind(path, content)))
                .or_default();
            tally.files += 1;
            tally.bytes += content.len() as u64;
            tally.hits += u64::from(search.finds(content));
        })?;
    }
    let mut lines = vec![format!(
        "{:<8} {:<44} {:>6} {:>10}  {}",
        "silo", "what", "files", "bytes", "with a value of a record in clear"
    )];
    for ((silo, kind), tally) in tallies {
        let Tally { files, bytes, hits } = tally;
        lines.push(format!(
            "{silo:<8} {kind:<44} {files:>6} {bytes:>10}  {hits}"
        ));
    }
    Ok(lines.join("\n"))
}

fn walk(folder: &Path, look: &mut impl FnMut(&Path, &[u8])) -> std::io::Result<()> {
    let mut entries: Vec<_> = folder.read_dir()?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, look)?;
        } else {
            look(&path, &std::fs::read(&path)?);
        }
    }
    Ok(())
}

fn kind(path: &Path, content: &[u8]) -> &'static str {
    let shown = path.to_string_lossy();
    if shown.ends_with(".parquet") {
        return if content.starts_with(b"PARE") && content.ends_with(b"PARE") {
            "data files: Parquet, encrypted footer (PARE)"
        } else {
            "data files: NOT ENCRYPTED"
        };
    }
    if shown.contains("/_delta_log/") {
        return "Delta log: counts, sealed statistics";
    }
    "control documents: registry, policy, wrapped keys"
}

/// Bytes that a value has to have before it is looked for: shorter ones occur by chance.
const PREFIX: usize = 4;

/// Many values, looked for in one pass.
struct Search<'a>(HashMap<[u8; PREFIX], Vec<&'a [u8]>>);

impl<'a> Search<'a> {
    fn new(values: &'a [String]) -> Self {
        let mut by_prefix: HashMap<_, Vec<_>> = HashMap::new();
        for value in values {
            if let Some(prefix) = value.as_bytes().first_chunk::<PREFIX>() {
                by_prefix.entry(*prefix).or_default().push(value.as_bytes());
            }
        }
        Self(by_prefix)
    }

    fn finds(&self, content: &[u8]) -> bool {
        (0..content.len()).any(|start| {
            let rest = &content[start..];
            let prefix = rest.first_chunk::<PREFIX>();
            let candidates = prefix.and_then(|prefix| self.0.get(prefix));
            candidates.is_some_and(|values| values.iter().any(|value| rest.starts_with(value)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_clear_is_counted() {
        let values = ["ann@acme.example".to_owned(), String::new()];
        let search = Search::new(&values);
        assert!(search.finds(b"xxann@acme.examplexx"));
        assert!(!search.finds(b"xxann@acme.exampl"));
        assert!(!search.finds(b""));
    }

    #[test]
    fn only_files_that_begin_and_end_as_encrypted_ones_count_as_such() {
        assert!(kind(Path::new("a/b.parquet"), b"PARE....PARE").contains("encrypted footer"));
        assert!(kind(Path::new("a/b.parquet"), b"PAR1....PAR1").contains("NOT"));
    }
}
