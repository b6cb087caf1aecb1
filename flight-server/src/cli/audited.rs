//! What `trailhouse verify table` found, as it is told and as it is signed.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::tenant::TenantRecord;
use engine::proof::Audit;
use serde_json::json;

use super::operator;
use super::say;
use crate::service::Service;

const REPORT: &[u8] = b"trailhouse audit report 1\0";

pub(super) fn tell(audit: &Audit, kept: usize) {
    for log in &audit.logs {
        let (leaves, signed, sealed) = (log.leaves, log.signed, log.sealed);
        say(format!(
            "log       {}: {leaves} leaves, {signed} of them signed, {sealed} in sealed segments",
            log.stream
        ));
    }
    let (files, rows, unnamed) = (audit.files, audit.rows, audit.unnamed);
    say(format!(
        "read      {files} file(s), {rows} row(s); {unnamed} file(s) that no table names"
    ));
    for finding in &audit.findings {
        let leaf = finding
            .leaf
            .map_or(String::new(), |leaf| format!(", leaf {leaf}"));
        say(format!(
            "WRONG     {}{leaf}: {}",
            finding.object, finding.reason
        ));
    }
    for missed in &audit.unread {
        say(format!("UNREAD    {}: {}", missed.object, missed.reason));
    }
    if audit.truncated {
        say("and more than is listed here");
    }
    if audit.findings.is_empty() && audit.unread.is_empty() {
        for (table, entries) in &audit.unsigned {
            say(format!(
                "unsigned  {table}: {entries} of its newest log entries are in no checkpoint yet"
            ));
        }
        if audit.resumed > 0 {
            say(format!(
                "{} file(s) were not read anew: an audit that was interrupted has read them, and the store lists them as then",
                audit.resumed
            ));
        }
        say("verified: whatever is there is what was written, in its place, and whole");
        // Whoever took away everything, or its end and all that speaks of it, left nothing that could be found wrong.
        say(match kept {
            0 => "no checkpoint was given to compare: that nothing is older than it should be is not verified".to_owned(),
            kept => format!("and the logs begin with what {kept} checkpoint(s) that were kept say"),
        });
    }
}

/// Writes the report, and is not done before it is signed.
pub(super) async fn write_report(
    path: &Path,
    service: &Service,
    tenant: &TenantRecord,
    audit: &Audit,
) -> Result<(), super::Error> {
    let signed = signed_report(service, tenant, audit).await?;
    std::fs::write(path, signed).map_err(|error| super::Error::Write(path.to_owned(), error))
}

/// The report, and the tenant's signature of `"trailhouse audit report 1\0" | report`, the report as it stands there.
async fn signed_report(
    service: &Service,
    tenant: &TenantRecord,
    audit: &Audit,
) -> Result<String, super::Error> {
    let report = json!({
        "format": "trailhouse-audit-report-1",
        "tenant": tenant.id,
        "silo": tenant.silo,
        "checkedAt": service.clock.now(),
        "audit": audit,
    })
    .to_string();
    let message = [REPORT, report.as_bytes()].concat();
    let signed = service.keys.sign(&tenant.id, &tenant.silo, &message).await;
    let (key, _, signature) = signed.map_err(operator::Error::Keys)?;
    let signed = json!({"report": report, "key": key, "signature": BASE64.encode(signature)});
    Ok(format!("{signed:#}\n"))
}
