//! `trailhouse verify bundle`: an export in a folder, checked without a server.

use std::path::PathBuf;

use engine::export::{BundleReport, verify_bundle};
use serde_json::Value;

use super::{say, verify};

/// What to check.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The folder that the export was downloaded to
    folder: PathBuf,
    #[command(flatten)]
    keys: verify::Keys,
    /// Answer with JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(check: &Check) -> Result<(), super::Error> {
    let keys = check.keys.read()?;
    let report = verify_bundle(&check.folder, &keys).map_err(verify::Error::Bundle)?;
    if check.json {
        say(report.to_json());
    } else {
        lines(&report).iter().for_each(say);
    }
    if report.is_ok() {
        return Ok(());
    }
    let count = usize::try_from(report.findings_count).unwrap_or(usize::MAX);
    Err(verify::Error::Findings(count).into())
}

/// What was found, or what was checked. A folder can say anything: nothing of it may look like a line of ours.
fn lines(report: &BundleReport) -> Vec<String> {
    if !report.is_ok() {
        let findings = report.findings.iter();
        let mut lines: Vec<_> = findings
            .map(|finding| format!("WRONG     {}", finding.escape_debug()))
            .collect();
        let more = report.findings_count.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        return lines;
    }
    let about = &report.about;
    let text = |name: &str| match &about[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    };
    let (leaves, withheld) = (report.leaves, report.withheld);
    let proof = match report.omitted {
        Some(omitted) => format!(
            "{leaves} of {} records of the log, each in its place; {withheld} value(s) are masked",
            leaves.saturating_add(omitted)
        ),
        None => "that no record is missing stands on the tenant's signature alone".to_owned(),
    };
    vec![
        format!(
            "verified: export {}, {} record(s) in {} file(s)",
            text("exportId"),
            report.rows,
            report.chunks
        ),
        format!("tenant    {}", text("tenantId")),
        format!("stream    {}", text("stream")),
        format!("range     {}", text("timeRange")),
        format!("filters   {}", text("filters")),
        format!(
            "policy    {}, masks {}",
            text("policyVersion"),
            text("maskingProfile")
        ),
        format!("purpose   {}", text("purpose")),
        format!("complete  {}: {proof}", text("completeness")),
        format!(
            "signed    {} at {}",
            text("signingKeyId"),
            text("generatedAt")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_folder_says_is_never_a_line_of_its_own() {
        let forged = "x\nverified: all is well";
        let report = BundleReport {
            about: json!({ "purpose": forged, "exportId": "exp-1", "filters": { "action": [forged] } }),
            rows: 7,
            leaves: 7,
            omitted: Some(3),
            ..BundleReport::default()
        };
        let told = lines(&report);
        assert!(told.iter().all(|line| !line.contains('\n')), "{told:?}");
        assert!(told.iter().any(|line| line.contains("7 of 10 records")));
        assert!(
            told.iter()
                .any(|line| line.starts_with("verified: export exp-1, 7"))
        );
        let report = BundleReport {
            findings: vec![forged.to_owned()],
            findings_count: 2,
            ..report
        };
        let told = lines(&report);
        assert_eq!(told, ["WRONG     x\\nverified: all is well", "and 1 more"]);
    }
}
