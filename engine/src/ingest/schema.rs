//! A record against the schemas of its stream, before anything is done with it.

use std::sync::Arc;

use catalog::guard::Decision;
use catalog::ids::StreamName;
use catalog::schema::{self, Checker, SchemaVersion, Schemas};
use serde_json::Value;

use crate::record::canonical::normal_form;
use crate::record::{AuditRecord, Violation};

use super::outcome::Error;

/// What checks the records of the stream that a decision names; `None` if the stream has no schemas.
pub(super) async fn checker(
    schemas: &Schemas,
    decision: &Decision,
) -> Result<Option<Arc<Checker>>, Error> {
    let default = StreamName::audit_default();
    let stream = decision.stream.as_ref().unwrap_or(&default);
    let checker = schemas.checker(decision, stream).await;
    checker.map_err(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the schemas of a stream cannot be had"
        );
        match error {
            schema::Error::Keys(_) => Error::KeyUnavailable,
            _ => Error::Unavailable,
        }
    })
}

/// What the schema of its version has against a record. The record is checked as its sender would have spelt it in
/// normal form: what is null is absent. A stream without schemas takes every minor version of 1.
pub(super) fn violations(
    checker: Option<&Checker>,
    record: &AuditRecord,
) -> Result<Vec<Violation>, Error> {
    let Some(checker) = checker else {
        let known = SchemaVersion::DEFAULT.major;
        if record.schema_version.major == known {
            return Ok(Vec::new());
        }
        let message = format!("this stream takes records of schema {known}");
        return Ok(vec![Violation::new("/schemaVersion", message)]);
    };
    // A record that was parsed has a normal form, which is JSON; one that had none would not be stored either.
    let form = normal_form(record).map_err(|_| Error::Unavailable)?;
    let mut form: Value = serde_json::from_str(&form).map_err(|_| Error::Unavailable)?;
    form["idempotencyKey"] = record.idempotency_key.as_str().into();
    let mismatches = checker.mismatches(record.schema_version, &form);
    let violations = mismatches
        .into_iter()
        .map(|mismatch| Violation::new(mismatch.pointer, mismatch.message));
    Ok(violations.collect())
}
