//! Measuring: interleaved runs, medians, and records to measure with. Benchmarks report; they never fail a build.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use catalog::clock::Timestamp;
use catalog::ids::{RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;
use engine::record::{Promoted, StoredRecord};

/// What the server allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A record of usual size with three classed values: a column, a promoted one and one cut out.
pub fn record(number: i64) -> StoredRecord {
    let text = |text: &str| Some(text.to_owned());
    let at = Timestamp::from_micros(1_761_638_400_000_000 + number * 1_000);
    let sealed = format!("\"h1:{number:022}\"");
    StoredRecord {
        tenant_id: TenantId::system(),
        record_id: RecordId::from_bytes(i128::from(number).to_be_bytes()),
        created_at: at,
        ingested_at: at,
        stream: StreamName::audit_default(),
        retention_class: RetentionClass::standard(),
        action: text("ec2.DescribeInstances"),
        resource_type: text("AWS::EC2::Instance"),
        resource_id: Some(format!("i-{number:017x}")),
        actor_type: text("User"),
        actor_id: text("h1:bp1x6v-Q1RAiWyQrE_syvQ"),
        trace_id: Some(format!("{number:032x}")),
        span_id: None,
        purpose: None,
        labels: Some(BTreeMap::from([("env".to_owned(), text("prod"))])),
        context: Some(
            format!(
                r#"{{"awsRegion":"eu-west-1","eventID":"{number:036}","eventSource":"ec2.amazonaws.com","eventVersion":"1.08","#
            ) + r#""requestParameters":{"filterSet":{},"instancesSet":{}},"sourceIPAddress":"192.0.2.17","userAgent":"console"}"#,
        ),
        extras: None,
        schema_version: text("1.0"),
        policy_version: text("tenant:acme@7"),
        idempotency_key: Some(format!("key-{number:020}")),
        promoted: vec![Promoted {
            column: "user_name".to_owned(),
            pointer: "/context/userIdentity/userName".to_owned(),
            value: text("bob"),
        }],
        leaf_index: Some(number),
        segment_id: text("seg-2025-10-28T08"),
        salt: [7; 16],
        sealed_fields: BTreeMap::from([("/context/userIdentity/email".to_owned(), sealed)]),
        payload_hash: text("hmac-sha256:KEAxom9pwiCtdb87Ojp-6n5bkISw6B-HZ9Ef0xI314I"),
        key_digest: text("KEAxom9pwiCtdb87Ojp-6n5bkISw6B-HZ9Ef0xI314I"),
        leaf_layout: concat!(
            r#"["actor_id","/context/userIdentity/email","#,
            r#""user_name:/context/userIdentity/userName"]"#
        )
        .to_owned(),
    }
}

/// Runs the candidates in turn, `rounds` times each after one warm-up round, and gives each one's median.
pub fn medians(
    rounds: usize,
    candidates: &mut [(&str, &mut dyn FnMut())],
) -> Vec<(String, Duration)> {
    let mut times = vec![Vec::with_capacity(rounds); candidates.len()];
    for round in 0..=rounds {
        for ((_, run), times) in candidates.iter_mut().zip(&mut times) {
            let started = Instant::now();
            run();
            if round > 0 {
                times.push(started.elapsed());
            }
        }
    }
    candidates
        .iter()
        .zip(times)
        .map(|((name, _), times)| ((*name).to_owned(), median(times)))
        .collect()
}

/// The one in the middle.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_leaves() {
        assert!(engine::seal::leaf_hash(&record(0)).is_ok());
        assert_ne!(
            engine::seal::leaf_hash(&record(1)).ok(),
            engine::seal::leaf_hash(&record(2)).ok()
        );
    }

    #[test]
    fn every_candidate_runs_once_per_round_and_once_to_warm_up() {
        let mut counts = [0, 0];
        let [first, second] = &mut counts;
        let found = medians(
            5,
            &mut [("a", &mut || *first += 1), ("b", &mut || *second += 1)],
        );
        assert_eq!(found.len(), 2);
        assert_eq!(counts, [6, 6]);
    }
}
