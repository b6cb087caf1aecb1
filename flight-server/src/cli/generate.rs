//! Made-up audit records for the demo, shaped like CloudTrail: a few busy actors, bursts of one action, personal data
//! inside `context`. The same seed gives the same records.

use std::sync::Arc;

use catalog::clock::{Random, Timestamp};
use serde_json::{Value, json};

/// First names and surnames; combined they make some 400 people.
const FIRST: [&str; 20] = [
    "Ada", "Bo", "Carla", "Dmitri", "Elif", "Femi", "Grace", "Hana", "Ivo", "Jun", "Kofi", "Lena",
    "Mara", "Nils", "Omar", "Pia", "Quinn", "Rosa", "Sven", "Tara",
];
const LAST: [&str; 20] = [
    "Abe", "Berg", "Cruz", "Diaz", "Eze", "Fox", "Gao", "Hahn", "Ito", "Jain", "Kim", "Lund",
    "Moss", "Nagy", "Ortiz", "Patel", "Roth", "Silva", "Tran", "Weiss",
];
/// Service, event, resource type, and whether it reads.
const ACTIONS: [(&str, &str, &str, bool); 10] = [
    ("ec2", "DescribeInstances", "Instance", true),
    ("s3", "GetObject", "Bucket", true),
    ("iam", "GetUser", "User", true),
    ("sts", "AssumeRole", "Role", false),
    ("s3", "PutObject", "Bucket", false),
    ("ec2", "StartInstances", "Instance", false),
    ("iam", "CreateAccessKey", "User", false),
    ("secretsmanager", "GetSecretValue", "Secret", true),
    ("signin", "ConsoleLogin", "Account", false),
    ("ec2", "StopInstances", "Instance", false),
];
const REGIONS: [&str; 4] = ["eu-central-1", "eu-west-1", "us-east-1", "us-west-2"];
const DAY_MICROS: u64 = 86_400_000_000;

/// An endless source of records of one tenant.
#[derive(Debug)]
pub(super) struct Generator {
    tenant: String,
    random: Arc<dyn Random>,
    /// Records lie within the day before this instant.
    until: Timestamp,
    burst: Option<Burst>,
}

/// A run of one actor doing one thing.
#[derive(Debug)]
struct Burst {
    actor: usize,
    action: usize,
    left: u64,
    at_micros: i64,
}

impl Generator {
    /// Records of `tenant` in the 24 hours before `until`.
    pub(super) fn new(tenant: &str, until: Timestamp, random: Arc<dyn Random>) -> Self {
        Self {
            tenant: tenant.to_owned(),
            random,
            until,
            burst: None,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound.max(1)
    }

    fn index(&self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or_default()
    }

    /// Small indexes are picked far more often, as a few people do most of the work.
    fn skewed(&self, bound: usize) -> usize {
        self.index(self.index(bound) + 1)
    }

    fn next_burst(&self) -> Burst {
        let back = i64::try_from(self.below(DAY_MICROS)).unwrap_or_default();
        Burst {
            actor: self.skewed(FIRST.len() * LAST.len()),
            action: self.skewed(ACTIONS.len()),
            left: 1 + self.below(8),
            at_micros: self.until.as_micros() - back,
        }
    }

    fn key(&self) -> String {
        format!("{:016x}{:016x}", self.below(u64::MAX), self.below(u64::MAX))
    }

    fn record(&self, burst: &Burst) -> Value {
        let (service, event, resource, reads) = ACTIONS[burst.action];
        let (first, last) = (
            FIRST[burst.actor % FIRST.len()],
            LAST[burst.actor / FIRST.len() % LAST.len()],
        );
        let user = format!("{}.{}", first.to_lowercase(), last.to_lowercase());
        let created_at = Timestamp::from_micros(burst.at_micros);
        json!({
            "tenantId": self.tenant,
            "idempotencyKey": self.key(),
            "createdAt": created_at.to_string(),
            "action": format!("{service}.{event}"),
            "resource": { "type": resource, "id": format!("{}-{:04}", resource.to_lowercase(), self.skewed(500)) },
            "actor": { "type": "User", "id": format!("arn:aws:iam::{:012}:user/{user}", 4_100 + burst.actor) },
            "correlation": { "traceId": self.key() },
            "labels": { "region": REGIONS[self.skewed(REGIONS.len())], "readOnly": reads.to_string() },
            "context": {
                "sourceIPAddress": format!("198.51.{}.{}", burst.actor % 100, 1 + self.below(254)),
                "userAgent": "aws-cli/2.15",
                "user": {
                    "name": format!("{first} {last}"),
                    "email": format!("{user}@{}.example", self.tenant),
                    "phone": format!("+49 30 555 {:04}", burst.actor * 13 % 10_000),
                },
                "bytes": self.below(1 << 20),
            },
        })
    }
}

impl Iterator for Generator {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut burst = match self.burst.take() {
            Some(burst) if burst.left > 0 => burst,
            Some(_) | None => self.next_burst(),
        };
        burst.left -= 1;
        burst.at_micros += i64::try_from(self.below(900_000)).unwrap_or_default();
        let record = self.record(&burst);
        self.burst = Some(burst);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::clock::SeededRandom;
    use std::collections::BTreeMap;

    fn records(count: usize) -> Vec<Value> {
        let until = Timestamp::parse_rfc3339("2026-01-02T00:00:00Z").expect("a time");
        Generator::new("acme", until, Arc::new(SeededRandom::new(7)))
            .take(count)
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        assert_eq!(records(50), records(50));
    }

    #[test]
    fn a_few_actors_do_most_of_the_work() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for record in records(2_000) {
            *counts.entry(record["actor"]["id"].to_string()).or_default() += 1;
        }
        let mut sizes: Vec<_> = counts.into_values().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let top: usize = sizes.iter().take(sizes.len() / 5).sum();
        assert!(
            top > 2_000 * 2 / 5,
            "the busiest fifth made {top} of 2000 records"
        );
    }
}
