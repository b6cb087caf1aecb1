//! The files of a bundle, before anything in them is believed: just those of the manifest, each with its checksum.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bundle::{BundleReport, Unreadable};
use super::manifest::{
    CHECKPOINT, Completeness, DICTIONARY, MANIFEST, Manifest, OMITTED, README, SIGNATURE,
};
use crate::receipt::hexadecimal;

/// Bytes of what is read as a whole, the manifest apart.
pub(super) const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Bytes that are read at a time.
pub(super) const PIECE: usize = 1 << 20;

/// A small file.
pub(super) fn small(folder: &Path, name: &str, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
    let unreadable = |source| Unreadable {
        what: name.to_owned(),
        source,
    };
    let path = folder.join(name);
    let is_file = fs::symlink_metadata(&path).map_err(unreadable)?.is_file();
    if !is_file {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(unreadable)?;
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(unreadable(io::Error::other("it is too large")));
    }
    Ok(bytes)
}

/// Whether the files are just those of the manifest.
pub(super) fn check_files(folder: &Path, manifest: &Manifest, report: &mut BundleReport) -> bool {
    let before = report.findings_count;
    check_names(manifest, report);
    if report.findings_count > before {
        return false;
    }
    let chunks = manifest.chunks.iter();
    let chunks = chunks.map(|chunk| (chunk.path.as_str(), chunk.bytes, chunk.sha256.as_str()));
    let files = manifest.files.iter();
    let files = files.map(|file| (file.path.as_str(), file.bytes, file.sha256.as_str()));
    let mut known = BTreeSet::from([MANIFEST.to_owned(), SIGNATURE.to_owned()]);
    for (path, bytes, sha256) in chunks.chain(files) {
        known.insert(path.to_owned());
        match digest(&folder.join(path)) {
            Err(_) => report.found(format!("{path}: it is missing, or cannot be read")),
            Ok((found, _)) if found != bytes => {
                report.found(format!("{path}: it has {found} bytes, and not {bytes}"));
            }
            Ok((_, found)) if found != sha256 => {
                report.found(format!("{path}: its checksum is not the signed one"));
            }
            Ok(_) => {}
        }
    }
    let mut extra = Vec::new();
    if list(folder, folder, &known, &mut extra).is_err() {
        report.found("the folder cannot be listed");
    }
    for path in extra {
        report.found(format!("{path}: it is not in the manifest"));
    }
    report.findings_count == before
}

/// Whether the manifest names what a bundle has, each once and in order.
fn check_names(manifest: &Manifest, report: &mut BundleReport) {
    let is_proven = manifest.integrity.completeness == Completeness::Proven;
    let mut expected = vec![DICTIONARY.to_owned(), README.to_owned()];
    if is_proven {
        expected.extend([CHECKPOINT.to_owned(), OMITTED.to_owned()]);
        expected.extend((0..manifest.chunks.len()).map(Manifest::leaves_name));
    }
    expected.sort_unstable();
    if manifest.files.iter().map(|file| &file.path).ne(&expected) {
        report.found(format!(
            "{MANIFEST}: it does not list the files of a bundle"
        ));
    }
    for (number, chunk) in manifest.chunks.iter().enumerate() {
        if chunk.path != Manifest::chunk_name(number, manifest.format) {
            report.found(format!(
                "{}: it is not where the chunks have it",
                chunk.path
            ));
        }
    }
    let mut rows = manifest.chunks.iter().map(|chunk| chunk.rows);
    if rows.try_fold(0, u64::checked_add) != Some(manifest.record_count) {
        report.found(format!(
            "{MANIFEST}: the chunks have not as many records as it says"
        ));
    }
}

/// Everything below a folder that is not known, or is neither a file nor a folder.
fn list(
    root: &Path,
    folder: &Path,
    known: &BTreeSet<String>,
    extra: &mut Vec<String>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path: PathBuf = entry.path();
        let below = path.strip_prefix(root).unwrap_or(&path);
        let name = below.to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        let is_folder = kind.is_dir()
            && known
                .iter()
                .any(|known| known.starts_with(&format!("{name}/")));
        if is_folder {
            list(root, &path, known, extra)?;
        } else if !kind.is_file() || !known.contains(&name) {
            extra.push(name);
        }
    }
    Ok(())
}

/// The length and the SHA-256 of a file.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((bytes, hexadecimal(&hash.finalize())));
        }
        bytes += read as u64;
        hash.update(piece.get(..read).unwrap_or_default());
    }
}
