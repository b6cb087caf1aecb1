//! The decision of one group of records: which are known, which are new, and what place each new one gets.
//!
//! Nothing here is remembered: the lane takes the [`Memo`] over when the group is durable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use catalog::clock::Timestamp;
use catalog::ids::StreamName;
use catalog::keys::ProcessKey;

use crate::record::canonical::payload_text;
use crate::record::{StoredRecord, frame};
use crate::seal::{self, GroupHead, Hash, segment_of};
use crate::sequencer::{Payload, Plan};

use super::dedupe::{KeyDigest, Known};
use super::outcome::{GroupPromise, Promise, Receipt, Signed};
use super::records::{Candidate, Disposition, Memo, Records, Stream};
use super::rows::RecordRows;

/// The decision of one group.
pub(super) struct Round {
    streams: BTreeMap<StreamName, Stream>,
    now: Timestamp,
    segment: String,
    /// What promises are signed with, if anything.
    key: Option<Arc<ProcessKey>>,
    /// The new records; boxed, as are those on their way here.
    #[expect(clippy::vec_box, reason = "they are large, and the list grows")]
    stored: Vec<Box<StoredRecord>>,
    rows: RecordRows,
    /// What is known of the rows, in their order.
    fresh: Vec<(KeyDigest, Known)>,
    by_key: HashMap<KeyDigest, usize>,
    /// Each row's place among those of its stream.
    places: Vec<usize>,
}

/// What becomes of a candidate, as far as it is known before the group is whole.
enum Decided {
    /// The row of this number.
    New(usize),
    Told(Disposition),
}

impl Round {
    pub(super) fn new(
        streams: BTreeMap<StreamName, Stream>,
        now: Timestamp,
        key: Option<Arc<ProcessKey>>,
    ) -> Self {
        Self {
            streams,
            now,
            segment: segment_of(now),
            key,
            stored: Vec::new(),
            rows: RecordRows::default(),
            fresh: Vec::new(),
            by_key: HashMap::new(),
            places: Vec::new(),
        }
    }

    pub(super) fn decide(
        mut self,
        candidates: Vec<Candidate>,
        known: Vec<Option<Known>>,
        sizes: &[usize],
    ) -> Plan<Records> {
        let count = candidates.len();
        self.fresh.reserve(count);
        self.by_key.reserve(count);
        self.stored.reserve(count);
        self.rows.leaves.reserve(count);
        self.rows.keys.reserve(count);
        let mut leaves: BTreeMap<StreamName, Vec<Hash>> = BTreeMap::new();
        let decided: Vec<Decided> = candidates
            .into_iter()
            .zip(known)
            .map(|(candidate, known)| self.one(candidate, known, &mut leaves))
            .collect();
        let mut promises = BTreeMap::new();
        for (stream, leaves) in leaves {
            let promise = self.promise(&stream, leaves);
            self.rows.groups.insert(stream.clone(), promise.root);
            promises.insert(stream, Arc::new(promise));
        }
        let mut told = decided.into_iter().map(|decided| match decided {
            Decided::Told(disposition) => disposition,
            Decided::New(row) => Disposition::Stored(self.receipt(row, &promises)),
        });
        let answers = sizes
            .iter()
            .map(|size| told.by_ref().take(*size).collect())
            .collect();
        drop(told);
        let payload = Payload::from(frame::encode_records(&self.stored));
        self.rows.frames.push(payload.clone());
        self.rows.last_id = self.stored.iter().map(|row| row.record_id).max();
        Plan {
            payload,
            rows: self.rows,
            answers,
            memo: Memo {
                streams: self.streams,
                known: self.fresh,
            },
        }
    }

    fn one(
        &mut self,
        candidate: Candidate,
        known: Option<Known>,
        leaves: &mut BTreeMap<StreamName, Vec<Hash>>,
    ) -> Decided {
        let in_group = || {
            let row = self.by_key.get(&candidate.key)?;
            self.fresh.get(*row).map(|(_, known)| known)
        };
        match known.as_ref().or_else(in_group) {
            Some(known) if known.payload == candidate.payload => {
                Decided::Told(Disposition::Stored(known.receipt.clone()))
            }
            Some(known) => Decided::Told(Disposition::Mismatch {
                stored_keyed: payload_text(&known.payload),
                rejected: candidate.stored,
            }),
            None => Decided::New(self.add(candidate, leaves)),
        }
    }

    /// Gives a candidate its place in the log of its stream.
    fn add(&mut self, candidate: Candidate, leaves: &mut BTreeMap<StreamName, Vec<Hash>>) -> usize {
        let Candidate {
            mut stored,
            key,
            payload,
            policy_version,
            leaf,
        } = candidate;
        let row = self.stored.len();
        let stream = stored.stream.clone();
        let end = self.streams.entry(stream.clone()).or_insert(Stream {
            next: 0,
            segment: None,
            group: None,
        });
        let segment = end.segment(&self.segment);
        stored.leaf_index = Some(end.next);
        stored.segment_id = Some(segment.as_ref().to_owned());
        let receipt = Receipt {
            record_id: stored.record_id,
            policy_version,
            stream: stream.clone(),
            schema_version: None,
            leaf_index: end.next,
            segment_id: Some(segment),
            duplicate: true,
            promise: None,
        };
        end.next += 1;
        let of_stream = leaves.entry(stream).or_default();
        self.places.push(of_stream.len());
        of_stream.push(leaf);
        self.fresh.push((key, Known { payload, receipt }));
        self.by_key.insert(key, row);
        self.stored.push(stored);
        self.rows.leaves.push(leaf);
        self.rows.keys.push(key);
        row
    }

    /// Closes the group of a stream: these leaves are the last ones that were numbered in it.
    fn promise(&mut self, stream: &StreamName, leaves: Vec<Hash>) -> GroupPromise {
        let tree = seal::Group::new(leaves);
        let root = tree.root();
        let end = self.streams.get_mut(stream);
        let next = end.as_ref().map_or(0, |end| end.next);
        let next = u64::try_from(next).unwrap_or(0);
        let prev = end.and_then(|end| end.group.replace(root));
        let head = GroupHead {
            first: next.saturating_sub(tree.size()),
            size: tree.size(),
            root: &root,
            prev: prev.as_ref(),
            at: self.now,
        };
        let signed = self.key.as_ref().and_then(|key| {
            Some(Signed {
                at: head.at,
                key: key.name().into(),
                signature: head.sign(key, stream)?,
            })
        });
        GroupPromise {
            first: head.first,
            tree,
            root,
            prev,
            signed,
        }
    }

    fn receipt(&self, row: usize, promises: &BTreeMap<StreamName, Arc<GroupPromise>>) -> Receipt {
        let (_, known) = &self.fresh[row];
        let promise = promises.get(&known.receipt.stream).map(|group| Promise {
            group: Arc::clone(group),
            index: self.places[row],
        });
        Receipt {
            duplicate: false,
            promise,
            ..known.receipt.clone()
        }
    }
}
