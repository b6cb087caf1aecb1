//! What a table's newest commit says of its logs: how many leaves, the root over them, and where numbering goes on.
//!
//! Every commit that adds leaves to a stream carries `txn{th.log:<stream>: tree size}`, on which two writers conflict, and
//! in its commit info
//! ```text
//! th.tree:<stream>   {"size": n, "root": r, "frontier": f, "segment": s, "group": g}
//! th.segment:<stream>:<20 digits>   the segment that begins with the leaf of this number
//! th.wal:<uuid>      {"position": p, "digest": d}     beside txn{th.wal:<uuid>: p}
//! th.id              the greatest record id of the commit and those before
//! ```
//! Where the writer of a table is the one that has a lease, every commit also carries `txn{th.lease: fence}`: whoever
//! took the lease from a node that had not let go of it raises the fence before it numbers anything, and that node's
//! commits then conflict, and are given up.
//!
//! r, g and d are unpadded base64url of 32 bytes, f the text of [`Frontier`]. s and g are those of the last record: the
//! segment it is in, and the root of the group that it was appended with. The root is not signed. Where a segment begins is
//! said once, and of two that follow each other in a stream no name is the same; rows before the first are older than that.

use catalog::ids::RecordId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::canonical::{digest_text, read_digest};
use crate::seal::{Frontier, Hash};
use crate::table::{SEGMENT, TableState};

use super::Leaves;

const RECORD_ID: &str = "th.id";
const FENCE: &str = "th.lease";
const TREE_SIZE: &str = "th.log:";

/// What a commit adds besides rows.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) txns: Vec<(String, i64)>,
    pub(super) info: Vec<(String, Value)>,
}

/// A stream's log at one state of its table.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    frontier: Frontier,
    /// The segment of the last leaf.
    pub(crate) segment: Option<String>,
    /// The root of the group of the last leaf.
    pub(crate) group: Option<Hash>,
}

/// The table counts leaves and says nothing, or something else, of the tree over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoTree;

#[derive(Serialize, Deserialize)]
struct Text {
    size: u64,
    root: String,
    frontier: String,
    segment: Option<String>,
    group: Option<String>,
}

/// The `txn` application id that carries the tree size of a stream.
pub(super) fn log_app_id(stream: &str) -> String {
    format!("{TREE_SIZE}{stream}")
}

/// The streams whose leaves the table counts.
pub(crate) fn streams(state: &TableState) -> impl Iterator<Item = &str> {
    state.app_ids().filter_map(|id| id.strip_prefix(TREE_SIZE))
}

/// The fence of the table.
pub(super) fn fence(state: &TableState) -> i64 {
    state.txn(FENCE).unwrap_or(0)
}

/// Notes with the commit whose it is.
pub(super) fn note_fence(fence: i64, notes: &mut Notes) {
    notes.txns.push((FENCE.to_owned(), fence));
}

/// How many leaves a table counts in a stream, and what its commits said last of the tree over them.
pub(crate) fn said(state: &TableState, stream: &str) -> (u64, Option<Value>) {
    let size = state.txn(&log_app_id(stream)).unwrap_or(0);
    let note = state.info(&tree_key(stream)).cloned();
    (u64::try_from(size).unwrap_or(0), note)
}

fn tree_key(stream: &str) -> String {
    format!("th.tree:{stream}")
}

fn segment_key(stream: &str, first: u64) -> String {
    format!("{SEGMENT}{stream}:{first:020}")
}

impl Tree {
    /// The log of `stream` as `state` has it.
    pub(crate) fn of(state: &TableState, stream: &str) -> Result<Self, NoTree> {
        let size = state.txn(&log_app_id(stream)).unwrap_or(0);
        let size = u64::try_from(size).map_err(|_| NoTree)?;
        let Some(value) = state.info(&tree_key(stream)) else {
            return if size == 0 {
                Ok(Self::default())
            } else {
                Err(NoTree)
            };
        };
        let text = Text::deserialize(value).map_err(|_| NoTree)?;
        let frontier = Frontier::from_text(text.size, &text.frontier).map_err(|_| NoTree)?;
        let sound = text.size == size && digest_text(&frontier.root()) == text.root;
        if !sound {
            return Err(NoTree);
        }
        Ok(Self {
            frontier,
            segment: text.segment,
            group: text.group.as_deref().and_then(read_digest),
        })
    }

    /// A log of these leaves, in their order: what a table that says nothing of its tree is read for.
    pub(super) fn over(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut tree = Self::default();
        tree.frontier.extend(leaves);
        tree
    }

    /// What it takes to append to it, and its root.
    pub(crate) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The number of the next leaf.
    pub(crate) fn next(&self) -> i64 {
        // No log has more leaves: the frontier refuses it.
        i64::try_from(self.frontier.size()).unwrap_or(i64::MAX)
    }

    /// Appends leaves, and notes for the commit what the log is with them.
    pub(super) fn append(mut self, leaves: &Leaves, notes: &mut Notes) {
        let stream = leaves.stream.as_str();
        for (at, segment) in &leaves.segments {
            if self.segment.as_ref() != Some(segment) {
                let key = segment_key(stream, self.frontier.size() + *at as u64);
                notes.info.push((key, Value::String(segment.clone())));
                self.segment = Some(segment.clone());
            }
        }
        self.frontier.extend(leaves.hashes.iter().copied());
        let group = leaves.group.or(self.group);
        let text = Text {
            size: self.frontier.size(),
            root: digest_text(&self.frontier.root()),
            frontier: self.frontier.to_text(),
            segment: self.segment.take(),
            group: group.as_ref().map(digest_text),
        };
        notes.txns.push((log_app_id(stream), self.next()));
        // Texts and numbers always have a value.
        let value = serde_json::to_value(text).unwrap_or_default();
        notes.info.push((tree_key(stream), value));
    }
}

/// The greatest record id that the table is known to have.
pub(super) fn last_id(state: &TableState) -> Option<RecordId> {
    RecordId::parse(state.info(RECORD_ID)?.as_str()?).ok()
}

/// Notes the greatest record id with the commit.
pub(super) fn note_id(state: &TableState, id: Option<RecordId>, notes: &mut Notes) {
    if let Some(id) = id.max(last_id(state)) {
        let value = Value::String(id.to_string());
        notes.info.push((RECORD_ID.to_owned(), value));
    }
}
