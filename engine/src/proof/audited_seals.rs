//! The seals of one log, compared with its leaves and with what its commits say of segments.

use catalog::keys::PublicKeys;

use super::audit::{Audit, Leaf};
use super::objects::{Listed, Objects};
use super::{Error, LogName, Logs};
use crate::seal::{Frontier, Hash, Owner, SegmentSeal};
use crate::table::{Seals, TableState};

/// The seals of a log that are signed.
pub(super) struct AuditedSeals {
    owner: Owner,
    signed: Vec<SegmentSeal>,
}

impl AuditedSeals {
    /// Reads all of them; what is wrong with one by itself, or with one after another, is found.
    pub(super) async fn read(
        logs: &Logs,
        (log, objects): (&LogName, &Objects),
        keys: &PublicKeys,
        listed: &Listed,
        audit: &mut Audit,
    ) -> Result<Self, Error> {
        let owner = logs.owner(log).await?;
        let stored = logs.tables.seals((&log.tenant, &log.silo), &log.stream)?;
        let path = |number| objects.name(&Seals::path(number));
        let mut signed: Vec<SegmentSeal> = Vec::new();
        let mut next = 0;
        for number in listed.seals.iter().copied() {
            if number > next {
                let reason = format!("the seals {next} to {} are missing", number - 1);
                audit.find(path(next), None, reason);
            }
            next = number.saturating_add(1);
            let json = match stored.read(number).await {
                Ok(json) => json.unwrap_or_default(),
                Err(crate::table::Error::Tampered { what }) => {
                    audit.find(path(number), None, what);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let seal = SegmentSeal::from_json(&json).and_then(|seal| {
                seal.verify(keys)?;
                Ok(seal)
            });
            let seal = match seal {
                Ok(seal) => seal,
                Err(_) => {
                    let reason = "it is no seal, or none of the tenant's keys signed it";
                    audit.find(path(number), None, reason);
                    continue;
                }
            };
            if seal.owner != owner || seal.segment.number != number {
                audit.find(path(number), None, "it is the seal of another place");
                continue;
            }
            let before = signed.last().map(|before| &before.segment);
            let before = before.filter(|before| before.number + 1 == number);
            // Of one that stands alone because those before it are missing, that is said above.
            if before.is_some() && !seal.segment.follows(before) {
                let reason = "it does not follow the seal before it";
                audit.find(path(number), Some(seal.segment.first), reason);
            }
            signed.push(seal);
        }
        Ok(Self { owner, signed })
    }

    /// How many leaves there are where segments end: the roots of the log there are to be known.
    pub(super) fn ends(&self) -> impl Iterator<Item = u64> {
        self.signed.iter().map(|seal| seal.segment.end())
    }

    /// How far the log is sealed.
    pub(super) fn end(&self) -> u64 {
        self.ends().last().unwrap_or(0)
    }

    /// Compares them with the leaves, of which the log has `signed` in its checkpoint, and with the commits. `root` gives
    /// the root of the log at the end of a seal, `None` where it does not go so far; it may have grown since.
    pub(super) fn check(
        &self,
        audit: &mut Audit,
        objects: &Objects,
        (state, leaves, signed): (&TableState, &[Leaf], u64),
        (has_grown, root): (bool, &dyn Fn(u64) -> Option<Hash>),
    ) {
        let stream = self.owner.stream.as_str();
        let mut begun = state.segments_from(stream, 0);
        let first = begun.next().map(|(first, _)| first);
        for seal in &self.signed {
            let segment = &seal.segment;
            let path = objects.name(&Seals::path(segment.number));
            let mut find = |reason: &str| audit.find(path.clone(), Some(segment.first), reason);
            let Some(root) = root(segment.end()) else {
                if has_grown {
                    continue;
                }
                find("it seals leaves that the table does not have");
                continue;
            };
            let named = state.segment_at(stream, segment.first);
            let other = state.segments_from(stream, segment.first + 1).next();
            let is_one = other.is_none_or(|(other, _)| other >= segment.end());
            let is_first = segment.number > 0 || first == Some(segment.first);
            if named.map(|(_, id)| id) != Some(segment.id.as_str()) || !is_one || !is_first {
                find("the commits say another segment of its leaves");
            }
            let mut tree = Frontier::default();
            let range = usize::try_from(segment.first).unwrap_or(usize::MAX)
                ..usize::try_from(segment.end()).unwrap_or(usize::MAX);
            let own = leaves.get(range).unwrap_or_default();
            own.iter().for_each(|(_, leaf, _)| tree.push(*leaf));
            if tree.root() != segment.root || root != segment.tree {
                find("the roots it says are not those of the rows");
            }
        }
        // What ended in a commit that is in the checkpoint was sealed before that.
        let end = self.end();
        let unsealed = begun.map(|(begin, _)| begin).filter(|begin| *begin > end);
        if unsealed
            .take_while(|begin| *begin < signed)
            .next()
            .is_some()
        {
            let next = self.signed.last().map_or(0, |seal| seal.segment.number + 1);
            let path = objects.name(&Seals::path(next));
            audit.find(path, Some(end), "the seal is missing");
        }
    }
}
