//! Rows as bytes: what the write-ahead log keeps between the acknowledgement and the table.
//!
//! # Format, version 1
//! ```text
//! frame       = version (1 byte, 1) ‖ kind (1 byte: 1 records, 2 quarantine) ‖ number of rows ‖ rows
//! number      = LEB128: 7 bits a byte, the lowest first, the high bit set in all but the last; at most 5 bytes
//! text        = number of its bytes ‖ UTF-8
//! records row = presence (4 bytes) ‖ record id (16) ‖ created_at (8) ‖ ingested_at (8) ‖ salt (16)
//!               ‖ tenant ‖ stream ‖ retention class ‖ leaf_layout ‖ those of TEXTS that are present, in order
//!               ‖ labels if present: number, then key ‖ 0x00, or key ‖ 0x01 ‖ value
//!               ‖ leaf index (8) if present
//!               ‖ promoted: number, then column ‖ pointer ‖ 0x00, or column ‖ pointer ‖ 0x01 ‖ value
//!               ‖ sealed fields: number, then pointer ‖ value
//! quarantine  = presence (4 bytes) ‖ record id (16) ‖ ingested_at (8)
//!               ‖ tenant ‖ stream ‖ retention class ‖ reason ‖ correlation id ‖ entry id (16) ‖ state
//!               ‖ idempotency key, payload, payload hash, policy version, decision reason, decided by: those that are present
//!               ‖ sealed record, a text of any bytes, if present
//! ```
//! Fixed numbers are little endian, the record id is as [`RecordId::to_bytes`] gives it, instants are microseconds since
//! 1970. Bit n of the presence is the n-th of the texts; then come labels and leaf index. Everything of a row is in its
//! frame, so that a leaf made from the frame is the one that was promised.
//!
//! Reading is total: no bytes make it panic, nor take more memory than a small multiple of their own number.

use std::borrow::{Borrow, Cow};

use catalog::clock::Timestamp;
use catalog::ids::{CorrelationId, PolicyVersion, RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;

use super::batch::QuarantineRow;
use super::stored::{OPTIONAL_TEXTS, StoredRecord};
use super::view::{Doubled, Entries, Names, NoName, PromotedView, RecordView, sort, spelt};

const VERSION: u8 = 1;
const RECORDS: u8 = 1;
const QUARANTINE: u8 = 2;
/// Bytes that the smallest row takes: presence, record id and one instant.
const ROW_BYTES_MIN: usize = 28;
/// Bytes that a usual row of quarantine takes, to begin with.
const ASIDE_BYTES: usize = 1_280;
/// Bytes of a record's row that are always there, and of the leaf index.
const FIXED_BYTES: usize = 4 + 16 + 8 + 8 + 16 + 8;
/// Bytes of a number at most.
const NUMBER_BYTES_MAX: usize = 5;
/// Bytes that a text takes besides its own, at most: its length, and whether there is one.
const TEXT_BYTES_MORE_MAX: usize = NUMBER_BYTES_MAX + 1;
/// Columns of a record that are text or nothing.
const TEXTS: usize = OPTIONAL_TEXTS;
const LABELS: u32 = 1 << TEXTS;
const LEAF_INDEX: u32 = 1 << (TEXTS + 1);
const RECORD_BITS: u32 = (LEAF_INDEX << 1) - 1;
const SEALED_RECORD: u32 = 0b100_0000;
const QUARANTINE_BITS: u32 = 0b111_1111;

/// Bytes that are no frame of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame does not hold rows as they are written")]
pub struct Malformed;

/// The bytes of a frame of records.
pub fn encode_records<R: Borrow<StoredRecord>>(rows: &[R]) -> Vec<u8> {
    let bytes = rows.iter().map(|row| record_bytes(row.borrow())).sum();
    let mut out = begin(RECORDS, rows.len(), bytes);
    rows.iter()
        .for_each(|row| push_record(&mut out, row.borrow()));
    out
}

/// The records of a frame.
///
/// # Errors
/// If the bytes are not those of [`encode_records`].
pub fn decode_records(bytes: &[u8]) -> Result<Vec<StoredRecord>, Malformed> {
    let mut names = Names::default();
    rows(bytes, RECORDS, |reader| {
        let view = reader.record()?;
        view.to_stored(&mut names).map_err(|NoName| Malformed)
    })
}

/// The records of a frame where they lie, appended to `views`. Their names are not checked.
///
/// # Errors
/// If the bytes are no frame of records; some may have been appended then.
pub(crate) fn view_records<'b>(
    bytes: &'b [u8],
    views: &mut Vec<RecordView<'b>>,
) -> Result<(), Malformed> {
    rows(bytes, RECORDS, |reader| {
        views.push(reader.record()?);
        Ok(())
    })
    .map(|_: Vec<()>| ())
}

/// The bytes of a frame of quarantine.
pub fn encode_quarantine(rows: &[QuarantineRow]) -> Vec<u8> {
    let mut out = begin(QUARANTINE, rows.len(), rows.len() * ASIDE_BYTES);
    rows.iter().for_each(|row| push_aside(&mut out, row));
    out
}

/// The rows of a frame of quarantine.
///
/// # Errors
/// If the bytes are not those of [`encode_quarantine`].
pub fn decode_quarantine(bytes: &[u8]) -> Result<Vec<QuarantineRow>, Malformed> {
    rows(bytes, QUARANTINE, Reader::aside)
}

/// A frame with room for rows of so many bytes. Those of records are kept as long as the rows are on their way: what is
/// reserved is what they need, and nothing of them is left behind where a smaller buffer was.
fn begin(kind: u8, rows: usize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 2 + NUMBER_BYTES_MAX);
    out.extend([VERSION, kind]);
    push_number(&mut out, rows);
    out
}

/// Bytes that a row takes at most.
fn record_bytes(row: &StoredRecord) -> usize {
    let texts = row.texts().map(|text| text.len() + TEXT_BYTES_MORE_MAX);
    FIXED_BYTES + 3 * NUMBER_BYTES_MAX + texts.sum::<usize>()
}

fn push_record(out: &mut Vec<u8>, row: &StoredRecord) {
    let texts = row.optional_texts();
    let mut presence = bits(texts.iter().map(|text| text.is_some()));
    if row.labels.is_some() {
        presence |= LABELS;
    }
    if row.leaf_index.is_some() {
        presence |= LEAF_INDEX;
    }
    out.extend(presence.to_le_bytes());
    out.extend(row.record_id.to_bytes());
    out.extend(row.created_at.as_micros().to_le_bytes());
    out.extend(row.ingested_at.as_micros().to_le_bytes());
    out.extend(row.salt);
    push_text(out, row.tenant_id.as_str());
    push_text(out, row.stream.as_str());
    push_text(out, row.retention_class.as_str());
    push_text(out, &row.leaf_layout);
    for text in texts.into_iter().flatten() {
        push_text(out, text);
    }
    if let Some(labels) = &row.labels {
        push_number(out, labels.len());
        for (key, value) in labels {
            push_text(out, key);
            push_option(out, value.as_deref());
        }
    }
    if let Some(leaf_index) = row.leaf_index {
        out.extend(leaf_index.to_le_bytes());
    }
    push_number(out, row.promoted.len());
    for promoted in &row.promoted {
        push_text(out, &promoted.column);
        push_text(out, &promoted.pointer);
        push_option(out, promoted.value.as_deref());
    }
    push_number(out, row.sealed_fields.len());
    for (pointer, value) in &row.sealed_fields {
        push_text(out, pointer);
        push_text(out, value);
    }
}

fn push_aside(out: &mut Vec<u8>, row: &QuarantineRow) {
    let policy_version = row.policy_version.as_ref().map(ToString::to_string);
    let texts = [
        &row.idempotency_key,
        &row.payload,
        &row.payload_hash,
        &policy_version,
        &row.decision_reason,
        &row.decided_by,
    ];
    let mut presence = bits(texts.iter().map(|text| text.is_some()));
    if row.sealed_record.is_some() {
        presence |= SEALED_RECORD;
    }
    out.extend(presence.to_le_bytes());
    out.extend(row.record_id.to_bytes());
    out.extend(row.ingested_at.as_micros().to_le_bytes());
    push_text(out, row.tenant_id.as_str());
    push_text(out, row.stream.as_str());
    push_text(out, row.retention_class.as_str());
    push_text(out, &row.reason);
    push_text(out, row.correlation_id.as_str());
    out.extend(row.entry_id.to_bytes());
    push_text(out, &row.state);
    for text in texts.into_iter().flatten() {
        push_text(out, text);
    }
    if let Some(sealed) = &row.sealed_record {
        push_number(out, sealed.len());
        out.extend_from_slice(sealed);
    }
}

fn bits(set: impl Iterator<Item = bool>) -> u32 {
    set.zip(0..)
        .fold(0, |bits, (is_set, at)| bits | (u32::from(is_set) << at))
}

fn push_option(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        push_text(out, text);
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_number(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// A number as LEB128. A frame is far smaller than the largest that can be said.
fn push_number(out: &mut Vec<u8>, number: usize) {
    let mut rest = u32::try_from(number).unwrap_or(u32::MAX);
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

fn rows<'b, R>(
    bytes: &'b [u8],
    kind: u8,
    mut row: impl FnMut(&mut Reader<'b>) -> Result<R, Malformed>,
) -> Result<Vec<R>, Malformed> {
    let mut reader = Reader(bytes);
    if reader.array()? != [VERSION, kind] {
        return Err(Malformed);
    }
    let count = reader.number()?;
    if count > reader.0.len() / ROW_BYTES_MIN {
        return Err(Malformed);
    }
    let rows = (0..count)
        .map(|_| row(&mut reader))
        .collect::<Result<_, _>>()?;
    if reader.0.is_empty() {
        Ok(rows)
    } else {
        Err(Malformed)
    }
}

/// What is still to be read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn record(&mut self) -> Result<RecordView<'b>, Malformed> {
        let presence = self.presence(RECORD_BITS)?;
        let record_id = RecordId::from_bytes(self.array()?);
        let created_at = self.instant()?;
        let ingested_at = self.instant()?;
        let salt = self.array()?;
        let [tenant_id, stream, retention_class, leaf_layout] =
            [self.text()?, self.text()?, self.text()?, self.text()?];
        let mut texts = [None; TEXTS];
        for (text, at) in texts.iter_mut().zip(0..) {
            *text = self.present(presence, 1 << at)?;
        }
        let labels = self.labels(presence)?;
        let leaf_index = if presence & LEAF_INDEX == 0 {
            None
        } else {
            Some(i64::from_le_bytes(self.array()?))
        };
        let [
            action,
            resource_type,
            resource_id,
            actor_type,
            actor_id,
            trace_id,
            span_id,
            purpose,
            context,
            extras,
            schema_version,
            policy_version,
            idempotency_key,
            segment_id,
            payload_hash,
            key_digest,
        ] = texts;
        Ok(RecordView {
            tenant_id,
            record_id,
            created_at,
            ingested_at,
            stream,
            retention_class,
            action,
            resource_type,
            resource_id,
            actor_type,
            actor_id,
            trace_id,
            span_id,
            purpose,
            labels,
            context,
            extras,
            schema_version,
            policy_version,
            idempotency_key,
            promoted: self.promoted()?,
            leaf_index,
            segment_id,
            salt,
            sealed_fields: self.sealed_fields()?,
            payload_hash,
            key_digest,
            leaf_layout,
        })
    }

    fn aside(&mut self) -> Result<QuarantineRow, Malformed> {
        let presence = self.presence(QUARANTINE_BITS)?;
        Ok(QuarantineRow {
            record_id: RecordId::from_bytes(self.array()?),
            ingested_at: self.instant()?,
            tenant_id: self.tenant()?,
            stream: self.stream()?,
            retention_class: self.retention_class()?,
            reason: Cow::Owned(self.text()?.to_owned()),
            correlation_id: CorrelationId::parse(self.text()?).map_err(|_| Malformed)?,
            entry_id: RecordId::from_bytes(self.array()?),
            state: Cow::Owned(self.text()?.to_owned()),
            idempotency_key: self.present_owned(presence, 1)?,
            payload: self.present_owned(presence, 2)?,
            payload_hash: self.present_owned(presence, 4)?,
            policy_version: self
                .present(presence, 8)?
                .map(PolicyVersion::parse)
                .transpose()
                .map_err(|_| Malformed)?,
            decision_reason: self.present_owned(presence, 16)?,
            decided_by: self.present_owned(presence, 32)?,
            sealed_record: self.sealed_record(presence)?,
        })
    }

    fn sealed_record(&mut self, presence: u32) -> Result<Option<Vec<u8>>, Malformed> {
        if presence & SEALED_RECORD == 0 {
            return Ok(None);
        }
        let length = self.number()?;
        Ok(Some(self.take(length)?.to_vec()))
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn number(&mut self) -> Result<usize, Malformed> {
        let mut number = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| Malformed);
            }
        }
        Err(Malformed)
    }

    /// How many entries follow, each of which takes a byte at least.
    fn count(&mut self) -> Result<usize, Malformed> {
        self.number()
            .and_then(|count| (count <= self.0.len()).then_some(count).ok_or(Malformed))
    }

    fn presence(&mut self, known: u32) -> Result<u32, Malformed> {
        let presence = u32::from_le_bytes(self.array()?);
        (presence & !known == 0)
            .then_some(presence)
            .ok_or(Malformed)
    }

    fn text(&mut self) -> Result<&'b str, Malformed> {
        let count = self.number()?;
        std::str::from_utf8(self.take(count)?).map_err(|_| Malformed)
    }

    fn present(&mut self, presence: u32, bit: u32) -> Result<Option<&'b str>, Malformed> {
        if presence & bit == 0 {
            return Ok(None);
        }
        self.text().map(Some)
    }

    fn present_owned(&mut self, presence: u32, bit: u32) -> Result<Option<String>, Malformed> {
        let text = self.present(presence, bit)?;
        Ok(text.map(str::to_owned))
    }

    fn option(&mut self) -> Result<Option<&'b str>, Malformed> {
        match self.array()? {
            [0] => Ok(None),
            [1] => self.text().map(Some),
            _ => Err(Malformed),
        }
    }

    fn instant(&mut self) -> Result<Timestamp, Malformed> {
        Ok(Timestamp::from_micros(i64::from_le_bytes(self.array()?)))
    }

    fn tenant(&mut self) -> Result<TenantId, Malformed> {
        let text = self.text()?;
        let parsed = TenantId::from_stored(text).ok();
        spelt(parsed, TenantId::as_str, text).map_err(|NoName| Malformed)
    }

    fn stream(&mut self) -> Result<StreamName, Malformed> {
        let text = self.text()?;
        let parsed = StreamName::parse(text).ok();
        spelt(parsed, StreamName::as_str, text).map_err(|NoName| Malformed)
    }

    fn retention_class(&mut self) -> Result<RetentionClass, Malformed> {
        RetentionClass::parse(self.text()?).ok_or(Malformed)
    }

    fn labels(&mut self, presence: u32) -> Result<Option<Entries<'b, Option<&'b str>>>, Malformed> {
        if presence & LABELS == 0 {
            return Ok(None);
        }
        let labels = (0..self.count()?).map(|_| Ok((self.text()?, self.option()?)));
        let mut labels: Entries<'b, _> = labels.collect::<Result<_, _>>()?;
        sort(&mut labels).map_err(|Doubled| Malformed)?;
        Ok(Some(labels))
    }

    fn promoted(&mut self) -> Result<Vec<PromotedView<'b>>, Malformed> {
        let mut promoted = Vec::new();
        for _ in 0..self.count()? {
            promoted.push(PromotedView {
                column: self.text()?,
                pointer: Cow::Borrowed(self.text()?),
                value: self.option()?,
            });
        }
        Ok(promoted)
    }

    fn sealed_fields(&mut self) -> Result<Entries<'b, &'b str>, Malformed> {
        let sealed = (0..self.count()?).map(|_| Ok((self.text()?, self.text()?)));
        let mut sealed: Entries<'b, _> = sealed.collect::<Result<_, _>>()?;
        sort(&mut sealed).map_err(|Doubled| Malformed)?;
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::testing;

    /// The smallest record, byte by byte: a change here is a new version of the format.
    #[test]
    fn the_bytes_of_a_frame_are_fixed() {
        let mut wanted = vec![1, 1, 1, 0, 0, 0, 0];
        wanted.extend(testing::bare().record_id.to_bytes());
        wanted.extend([0x4e, 0xbe, 0xe8, 0x55, 0x33, 0x42, 0x06, 0x00]);
        wanted.extend([0x00, 0x00, 0x0e, 0x67, 0x33, 0x42, 0x06, 0x00]);
        wanted.extend(0..16);
        for text in ["\x04acme", "\x0daudit.default", "\x08standard", "\x02[]"] {
            wanted.extend(text.as_bytes());
        }
        wanted.extend([0, 0]);
        assert_eq!(encode_records(&[testing::bare()]), wanted);
        assert_eq!(encode_records::<StoredRecord>(&[]), [1, 1, 0]);
        assert_eq!(encode_quarantine(&[]), [1, 2, 0]);
    }

    #[test]
    fn long_texts_have_long_lengths() {
        for length in [127, 128, 16_383, 16_384, 1 << 20] {
            let mut row = testing::full();
            row.context = Some("x".repeat(length));
            let rows = [row];
            assert!(decode_records(&encode_records(&rows)).unwrap() == rows);
        }
    }

    #[test]
    fn what_is_cut_off_or_added_is_noticed() {
        let bytes = encode_records(&[testing::full(), testing::bare()]);
        for length in 0..bytes.len() {
            assert_eq!(
                decode_records(&bytes[..length]).err(),
                Some(Malformed),
                "{length}"
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode_records(&longer).err(), Some(Malformed));
        assert_eq!(decode_quarantine(&bytes).err(), Some(Malformed));
    }

    #[test]
    fn a_count_that_cannot_be_takes_no_memory() {
        for bytes in [
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[2, 1, 0],
            &[],
        ] {
            assert_eq!(decode_records(bytes).err(), Some(Malformed));
        }
    }

    proptest! {
        #[test]
        fn a_frame_of_records_has_room_from_the_start(rows in prop::collection::vec(testing::stored(), 0..5)) {
            let bytes: usize = rows.iter().map(record_bytes).sum();
            prop_assert!(encode_records(&rows).len() <= bytes + 2 + NUMBER_BYTES_MAX);
        }

        #[test]
        fn records_come_back(rows in prop::collection::vec(testing::stored(), 0..4)) {
            prop_assert!(decode_records(&encode_records(&rows)).unwrap() == rows);
        }

        #[test]
        fn quarantine_comes_back(rows in prop::collection::vec(testing::aside(), 0..4)) {
            prop_assert!(decode_quarantine(&encode_quarantine(&rows)).unwrap() == rows);
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            row in testing::stored(),
        ) {
            for kind in [RECORDS, QUARANTINE] {
                let bytes = [&[VERSION, kind], bytes.as_slice()].concat();
                let _ = (decode_records(&bytes), decode_quarantine(&bytes));
            }
            let mut bytes = encode_records(&[row]);
            for (at, byte) in change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            // What is still a frame is the frame of what it says.
            if let Ok(rows) = decode_records(&bytes) {
                prop_assert!(decode_records(&encode_records(&rows)).unwrap() == rows);
            }
        }
    }
}
