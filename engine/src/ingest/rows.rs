//! Records between the acknowledgement and the table.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use catalog::ids::{RecordId, StreamName};

use crate::record::canonical::read_digest;
use crate::record::{StoredRecord, batch, frame};
use crate::seal::{self, Hash, leaf_hash};
use crate::sequencer::{Cargo, LaneError, Leaves, Payload, Prepared};

use super::dedupe::KeyDigest;

/// Records on their way, each with its leaf and its key.
///
/// They are kept as the log has them, and not as values of their own, each of which is some thirty allocations: a busy tenant
/// has a hundred thousand of them on their way.
#[derive(Default)]
pub(crate) struct RecordRows {
    /// Group by group.
    pub(super) frames: Vec<Payload>,
    pub(super) leaves: Vec<Hash>,
    pub(super) keys: Vec<KeyDigest>,
    /// The root of the last group of each stream.
    pub(super) groups: BTreeMap<StreamName, Hash>,
    pub(super) last_id: Option<RecordId>,
}

impl Cargo for RecordRows {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn join(&mut self, mut after: Self) {
        self.frames.append(&mut after.frames);
        self.leaves.append(&mut after.leaves);
        self.keys.append(&mut after.keys);
        self.groups.append(&mut after.groups);
        self.last_id = self.last_id.max(after.last_id);
    }

    fn last_id(&self) -> Option<RecordId> {
        self.last_id
    }
}

impl RecordRows {
    /// A group out of the log.
    pub(super) fn of(payload: Payload) -> Option<Self> {
        let mut rows = Self::default();
        let mut by_stream: BTreeMap<StreamName, Vec<Hash>> = BTreeMap::new();
        for row in frame::decode_records(&payload).ok()? {
            let leaf = leaf_hash(&row).ok()?;
            rows.leaves.push(leaf);
            rows.keys.push(read_digest(row.key_digest.as_deref()?)?);
            rows.last_id = rows.last_id.max(Some(row.record_id));
            by_stream.entry(row.stream).or_default().push(leaf);
        }
        rows.groups = by_stream
            .into_iter()
            .map(|(stream, leaves)| (stream, seal::Group::new(leaves).root()))
            .collect();
        rows.frames.push(payload);
        Some(rows)
    }

    /// The records of frames by themselves.
    pub(super) fn decoded(frames: &[Payload]) -> Option<Vec<StoredRecord>> {
        let mut stored = Vec::new();
        for payload in frames {
            stored.append(&mut frame::decode_records(payload).ok()?);
        }
        Some(stored)
    }

    /// The batch of one commit.
    pub(super) fn prepared(self) -> Result<Prepared<Vec<KeyDigest>>, LaneError> {
        let mut views = Vec::with_capacity(self.len());
        for payload in &self.frames {
            frame::view_records(payload, &mut views).map_err(|_| LaneError::Unavailable)?;
        }
        if views.len() != self.leaves.len() {
            return Err(LaneError::Unavailable);
        }
        let mut leaves: BTreeMap<&str, Leaves> = BTreeMap::new();
        for (row, leaf) in views.iter().zip(&self.leaves) {
            let of_stream = match leaves.entry(row.stream) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => {
                    let stream = StreamName::parse(row.stream);
                    let stream = stream.map_err(|_| LaneError::Unavailable)?;
                    free.insert(Leaves {
                        first: row.leaf_index,
                        group: self.groups.get(&stream).copied(),
                        ..Leaves::new(stream)
                    })
                }
            };
            of_stream.push(*leaf, row.segment_id);
        }
        let promoted: [&str; 0] = [];
        Ok(Prepared {
            batch: batch::of_views(&views, &promoted).map_err(|_| LaneError::Unavailable)?,
            leaves: leaves.into_values().collect(),
            last_id: self.last_id,
            entries: self.keys,
        })
    }
}
