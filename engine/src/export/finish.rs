//! The end of an export: proofs, explanations, manifest, signature.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::guard::{Export, Permit};
use futures::TryStreamExt;

use super::Exports;
use super::error::Error;
use super::job::{Chunk, Pinned, State, StoredFile};
use super::manifest::{
    CHECKPOINT, Completeness, DICTIONARY, MANIFEST, Manifest, OMITTED, README, SIGNATURE, Segments,
    completeness, detached, dictionary, readme, to_sign,
};
use super::run::Running;
use super::select::Selection;
use crate::query::Part;
use crate::query::listing::Bound;
use crate::receipt::hexadecimal;
use crate::seal::Included;

const RECORDS: &str = "records";
/// Segments that a manifest names.
const SEGMENTS_MAX: usize = 10_000;

impl Exports {
    /// Makes everything but the chunks, and signs it.
    pub(super) async fn finish(&self, running: &mut Running) -> Result<(), Error> {
        let selection = self.selection(running.job());
        let pinned = running.job().pinned.clone().ok_or(Error::Internal)?;
        let permit = selection.permit().await?;
        let mut files = Vec::new();
        let mut segments = Segments::default();
        if completeness(pinned.tree_size) == Completeness::Proven {
            let included = self.included(running, &pinned).await?;
            let hashes = selection.logs.omitted(&selection.log(), &included).await?;
            let note = pinned.checkpoint.as_deref().ok_or(Error::Internal)?;
            files.push((CHECKPOINT, note.as_bytes().to_vec()));
            files.push((OMITTED, hashes.as_flattened().to_vec()));
            segments = segments_of(&selection, &permit, &included).await?;
        }
        let tables = self.parts.queries.tables(&permit.reading()).await?;
        let records = tables.iter().find(|table| table.name == RECORDS);
        let records = records.ok_or(Error::Internal)?;
        let explained = dictionary(permit.decision(), records, pinned.tree_size.is_some())?;
        files.push((DICTIONARY, explained));
        files.push((README, readme(running.job()).into_bytes()));
        let mut stored = Vec::new();
        for (path, bytes) in files {
            stored.push(self.store_file(running, path, &bytes).await?);
        }
        running.job_mut().files = stored;
        let signed = self.signed(running, segments).await?;
        let about = vec![
            format!("Export.{}", running.job().id),
            format!("Records.{}", running.job().progress.records),
            format!("Manifest.{}", signed[0].sha256),
        ];
        self.parts
            .gate
            .note(&permit, "Export.Finish", about)
            .await?;
        let now = self.parts.clock.now();
        let job = running.job_mut();
        job.files.extend(signed);
        job.state = State::Finished;
        job.ended_at = Some(now);
        job.expires_at = Some(now.plus(self.settings.kept));
        Ok(())
    }

    async fn signed(
        &self,
        running: &Running,
        segments: Segments,
    ) -> Result<[StoredFile; 2], Error> {
        let job = running.job();
        let (tenant, silo) = (job.mandate.tenant(), job.mandate.silo());
        let keys = &self.parts.keys;
        let known = keys.public_keys(tenant, silo).await?;
        let newest = known.iter().map(|(name, _)| name);
        let newest = newest.max_by_key(|name| name.version());
        let newest = newest.ok_or(Error::KeyUnavailable)?.clone();
        let maker = self.maker(silo);
        let manifest = Manifest::of(job, &maker, segments, newest.to_string())?;
        let bytes = manifest.to_bytes()?;
        let (header, input) = to_sign(&newest.to_string(), &bytes);
        let (name, _, signature) = keys.sign(tenant, silo, input.as_bytes()).await?;
        if name != newest {
            // The key was rotated just now: it is tried again, and then it is the new one.
            return Err(Error::Unavailable);
        }
        let signature = detached(&header, &signature);
        Ok([
            self.store_file(running, MANIFEST, &bytes).await?,
            self.store_file(running, SIGNATURE, signature.as_bytes())
                .await?,
        ])
    }

    /// The leaves of all records.
    async fn included(&self, running: &Running, pinned: &Pinned) -> Result<Included, Error> {
        let included = Included::none(pinned.tree_size.unwrap_or(0));
        let mut included = included.ok_or(Error::Internal)?;
        for Chunk { places, .. } in &running.job().chunks {
            let stored = places.as_ref().ok_or(Error::Internal)?;
            let bytes = self
                .read_stored(running.job(), running.key(), stored)
                .await?;
            let (places, rest) = bytes.as_chunks();
            let fit = places
                .iter()
                .all(|place| included.insert(u64::from_le_bytes(*place)));
            if !fit || !rest.is_empty() {
                tracing::error!("an export has a record twice");
                return Err(Error::Internal);
            }
        }
        Ok(included)
    }
}

/// The sealed segments that records are in.
async fn segments_of(
    selection: &Selection,
    permit: &Permit<Export>,
    included: &Included,
) -> Result<Segments, Error> {
    let mut bound = Bound::default();
    let stream = bound.text(selection.job.asked.stream.as_str());
    let sql = format!(
        "SELECT first_leaf, leaf_count, segment_root, prev_root FROM audit.segments \
         WHERE stream = {stream} ORDER BY first_leaf"
    );
    let answer = selection.answer(permit, sql, bound.into_parameters());
    let mut answer = answer.await?;
    let mut segments = Segments::default();
    while let Some(part) = answer.try_next().await? {
        let Part::Rows(batch) = part else { continue };
        let [first, count, root, prev] = batch.columns() else {
            return Err(Error::Internal);
        };
        let first = first.as_primitive::<Int64Type>();
        let count = count.as_primitive::<Int64Type>();
        let (root, prev) = (root.as_string::<i32>(), prev.as_string::<i32>());
        for row in 0..batch.num_rows() {
            let begin = u64::try_from(first.value(row)).unwrap_or(u64::MAX);
            let end = begin.saturating_add(u64::try_from(count.value(row)).unwrap_or(0));
            if end > included.size()
                || !included.has_any(begin, end)
                || segments.roots.len() >= SEGMENTS_MAX
            {
                continue;
            }
            if segments.roots.is_empty() {
                segments.prev = prev.iter().nth(row).flatten().and_then(digest);
            }
            segments
                .roots
                .push(digest(root.value(row)).ok_or(Error::Internal)?);
        }
    }
    Ok(segments)
}

/// A hash as manifests write it, from how tables do.
fn digest(text: &str) -> Option<String> {
    let hash = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(format!("sha256:{}", hexadecimal(&hash)))
}
