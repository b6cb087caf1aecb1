//! The tree of records: what a record's leaf is, and the Merkle tree of RFC 6962 over the leaves of a stream.
//!
//! ```text
//! StoredRecord  --leaf-->  32 bytes  --merkle-->  Frontier (the whole log: size and root, in 32 bytes per level)
//!                                    \--------->  Group    (the leaves of one commit, with a path for each)
//!                                     \--tile-->  Edge     (the log as it is published, and the proofs from it)
//! root  --checkpoint, note-->  a text that the tenant's key signs
//! leaves of an hour  --segment-->  a seal that the tenant's key signs
//! leaves of an append  --promise-->  what their senders are answered
//! ```
//! Invariant: everything here is pure. A leaf depends on nothing but the columns of its row, so that it can be made again
//! from the table at any time, and is the same whatever batch, file or segment the row is in.

pub mod checkpoint;
pub mod cosignature;
pub mod included;
pub mod leaf;
pub mod merkle;
pub mod note;
pub mod opened;
pub mod promise;
pub mod segment;
pub mod tile;
pub mod witness;

pub use checkpoint::{Checkpoint, Origin, SignedCheckpoint, Unsigned};
pub use cosignature::WitnessKey;
pub use included::Included;
pub use leaf::{Unsealable, leaf_hash};
pub(crate) use leaf::{leaf_hash_of, leaf_hash_under};
pub use merkle::{Frontier, Group, Hash, verify_consistency, verify_path};
pub use opened::OpenedLeaf;
pub use promise::{GroupHead, Promised, Unpromised, promised};
pub use segment::{OpenSegment, Owner, Segment, SegmentSeal, segment_of};
pub use tile::{Edge, TileId};

#[cfg(test)]
mod tests {
    use catalog::clock::{SeededRandom, Timestamp};
    use catalog::evidence::{EvidenceEntry, Verdict};
    use catalog::ids::{CorrelationId, RecordId, SiloId, StreamName, TenantId};
    use catalog::keys::SecretKey;
    use catalog::policy::{Bundle, RetentionClass};
    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::record::batch::{self, EvidencePlace};
    use crate::record::frame::{decode_records, encode_records};
    use crate::record::{Placement, Redactor, Secrets, StoredRecord, Terms, parse, records_of};
    use crate::table::testing::{World, request, run};
    use crate::table::{AppendOutcome, Table, TableKind};

    const BUNDLE: &str = "
fields:
  - {path: actor_id, write: HASH}
  - {path: context, write: KEEP}
  - {path: context.user.name, write: KEEP, promote: user_name}
  - {path: context.user.age, write: KEEP, promote: user_age}
  - {path: context.user.none, write: NULLIFY, promote: user_none}
  - {path: labels.owner, write: REDACT, promote: owner}
";

    /// Records as ingest makes them, of every shape that a policy gives them.
    fn redacted() -> Vec<StoredRecord> {
        let tenant = TenantId::parse("acme").unwrap();
        let silo = SiloId::parse("local").unwrap();
        let yaml = Bundle::default_yaml(&tenant, &silo);
        let ruled = yaml.replace("\nmaskingProfiles:", &format!("{BUNDLE}\nmaskingProfiles:"));
        assert_ne!(yaml, ruled);
        let (hash, token) = (key(1), key(2));
        let secrets = Secrets {
            hash: &hash,
            token: &token,
            version: 1,
        };
        let random = SeededRandom::new(7);
        let now = Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap();
        let bodies = [
            r#""context": {"user": {"name": "Bo", "age": 7, "none": "x", "email": "bo@x"}, "é\"": [{"Email": 1}]}"#,
            r#""context": {}, "labels": {"owner": "bo", "env": "\u0001"}, "purpose": "p""#,
            r#""labels": {}, "correlation": {"traceId": "t", "spanId": "s"}"#,
            r#""schemaVersion": "1.1", "severity": {"email": null}, "context": {"user": {"name": null}}"#,
        ];
        let mut records = Vec::new();
        for yaml in [yaml.as_str(), &ruled] {
            let bundle = Bundle::parse(yaml.as_bytes(), &tenant).unwrap();
            let redactor = Redactor::new(&bundle, &secrets);
            for body in bodies {
                let number = i64::try_from(records.len()).unwrap();
                let correlation = if body.contains("correlation") {
                    ""
                } else {
                    r#""correlation": {"traceId": "t"},"#
                };
                let sent = format!(
                    r#"{{"tenantId": "acme", "idempotencyKey": "k-{number}", "createdAt": "2026-11-22T09:00:00Z",
                    "action": "A.B", "resource": {{"type": "T", "id": "r"}}, "actor": {{"type": "User", "id": "u"}},
                    {correlation} {body}}}"#
                );
                let terms = Terms {
                    now,
                    header_key: None,
                };
                let record = parse(sent.as_bytes(), &terms).unwrap();
                let mut id = [0; 16];
                id[15] = u8::try_from(number).unwrap();
                let placement = Placement {
                    tenant_id: tenant.clone(),
                    record_id: RecordId::from_bytes(id),
                    ingested_at: now,
                    stream: StreamName::audit_default(),
                    payload_hash: [1; 32],
                    key_digest: [2; 32],
                    salt: catalog::clock::array(&random),
                };
                let mut stored = redactor.redact(record, placement).unwrap();
                stored.leaf_index = Some(number);
                records.push(stored);
            }
        }
        records
    }

    fn key(byte: u8) -> SecretKey {
        SecretKey::new([byte; 32])
    }

    fn evidence() -> Vec<StoredRecord> {
        let entry = |statement: Option<&str>| EvidenceEntry {
            tenant: TenantId::system(),
            operation: "Read",
            decision: Verdict::Deny,
            slug: None,
            policy_version: None,
            masking_profile: None,
            residency: None,
            basis: vec![],
            subject: "bob".to_owned(),
            statement: statement.map(str::to_owned),
            plan_digest: None,
            exhibit: None,
            correlation: CorrelationId::parse("c-1").unwrap(),
            ts: Timestamp::from_micros(5),
        };
        let entries = [entry(None), entry(Some("")), entry(Some("SELECT ?"))];
        let place = |number: u8| EvidencePlace {
            record_id: RecordId::from_bytes([number; 16]),
            ingested_at: Timestamp::from_micros(6),
            retention_class: RetentionClass::kept(),
            leaf_index: Some(i64::from(number)),
            salt: [number; 16],
        };
        let placed = entries.iter().zip(0..);
        placed
            .map(|(entry, number)| batch::evidence_record(entry, place(number)))
            .collect()
    }

    /// Everything the table has, in the order of the leaves.
    async fn stored(table: &Table) -> Vec<StoredRecord> {
        let state = table.state().await.unwrap();
        let names: Vec<String> = state
            .schema
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let request = request(&state, &names);
        let batches = run(table.scan(state, request).await.unwrap())
            .await
            .unwrap();
        let mut rows: Vec<_> = batches
            .iter()
            .flat_map(|batch| records_of(batch).unwrap())
            .collect();
        rows.sort_by_key(|row| row.leaf_index);
        rows
    }

    async fn append(table: &Table, batch: arrow::array::RecordBatch) {
        let state = table.state().await.unwrap();
        let outcome = table
            .append(&state, vec![batch], vec![], vec![])
            .await
            .unwrap();
        assert!(matches!(outcome, AppendOutcome::Committed { .. }));
    }

    fn root(records: &[StoredRecord]) -> Hash {
        Group::new(
            records
                .iter()
                .map(|record| leaf_hash(record).unwrap())
                .collect(),
        )
        .root()
    }

    #[tokio::test]
    async fn a_leaf_is_the_same_from_the_sender_to_the_table_and_back() {
        let mut records = redacted();
        let mut runner = TestRunner::deterministic();
        for number in 8..40 {
            let drawn = crate::record::testing::stored()
                .new_tree(&mut runner)
                .unwrap();
            records.push(StoredRecord {
                leaf_index: Some(number),
                ..drawn.current()
            });
        }
        let world = World::new();
        let table = world.records("acme").await;
        // Batches of another size than anything that is read back.
        for chunk in records.chunks(7) {
            let logged = decode_records(&encode_records(chunk)).unwrap();
            assert!(logged == chunk);
            append(&table, batch::records::<&str>(&logged, &[]).unwrap()).await;
        }
        let found = stored(&table).await;
        assert!(found == records);
        assert_eq!(root(&found), root(&records));
        let mut frontier = Frontier::default();
        frontier.extend(found.iter().map(|record| leaf_hash(record).unwrap()));
        assert_eq!(frontier.root(), root(&records));
    }

    #[tokio::test]
    async fn evidence_has_the_same_leaves_again() {
        let records = evidence();
        let world = World::new();
        let table = world.open_kind("acme", TableKind::Evidence).await.unwrap();
        append(&table, batch::evidence(&records).unwrap()).await;
        let found = stored(&table).await;
        assert!(found == records);
        assert_eq!(root(&found), root(&records));
        assert_ne!(root(&found[..1]), root(&found[1..2]));
    }
}
