//! A batch: one record a line (NDJSON), one result a line of the answer's list, in the same order.

use bytes::Bytes;
use catalog::ids::CorrelationId;
use serde_json::{Value, json};

use super::body;
use super::receipt::Answer;
use crate::limits::Limits;
use crate::problem::{Problem, Slug};

/// One line of a batch.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A record to be taken in.
    Record(Bytes),
    /// More than one record may weigh.
    TooLarge,
}

/// The lines that hold something. Only the end of a line separates records: JSON has none inside.
pub(super) fn lines(body: &Bytes, limits: &Limits) -> Result<Vec<Line>, Problem> {
    let mut lines = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if lines.len() == limits.batch_lines_max {
            let detail = format!("at most {} lines are taken", limits.batch_lines_max);
            let problem = Problem::new(Slug::PayloadTooLarge, detail);
            return Err(problem.with("linesMax", limits.batch_lines_max));
        }
        lines.push(if line.len() > limits.record_bytes_max {
            Line::TooLarge
        } else {
            Line::Record(body.slice_ref(line))
        });
    }
    if lines.is_empty() {
        return Err(Problem::new(
            Slug::InvalidRecord,
            "the batch holds no record",
        ));
    }
    Ok(lines)
}

/// Puts the answers of the records that were sent on back among the lines that were not.
pub(super) fn in_order(
    lines: &[Line],
    sent: impl IntoIterator<Item = Answer>,
    limits: &Limits,
) -> Vec<Answer> {
    let mut sent = sent.into_iter();
    let refused = || body::too_large(limits.record_bytes_max);
    let unanswered = || Problem::new(Slug::Internal, "the record was not answered");
    lines
        .iter()
        .map(|line| match line {
            Line::Record(_) => sent
                .next()
                .unwrap_or_else(|| Answer::Problem(Box::new(unanswered()))),
            Line::TooLarge => Answer::Problem(Box::new(refused())),
        })
        .collect()
}

/// The body of the answer. The batch as a whole is answered 200; each result has its own status.
pub(super) fn results(answers: Vec<Answer>, correlation: &CorrelationId) -> Value {
    let results: Vec<Value> = answers
        .into_iter()
        .enumerate()
        .map(|(index, answer)| {
            let status = answer.status().as_u16();
            match answer {
                Answer::Stored(mut receipt) => {
                    receipt["index"] = index.into();
                    receipt["status"] = status.into();
                    receipt
                }
                Answer::Problem(problem) => {
                    let problem = problem.correlated(correlation).to_json();
                    json!({"index": index, "status": status, "problem": problem})
                }
            }
        })
        .collect();
    json!({"results": results})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            record_bytes_max: 5,
            batch_lines_max: 3,
            ..Limits::default()
        }
    }

    fn record(text: &'static str) -> Line {
        Line::Record(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_are_records_blank_ones_nothing() {
        let body = Bytes::from_static(b"\n{1}\r\n\n  {2}  \n{3}");
        let found = lines(&body, &limits()).unwrap();
        assert_eq!(found, [record("{1}"), record("{2}"), record("{3}")]);
    }

    #[test]
    fn a_long_line_is_refused_alone_and_too_many_lines_together() {
        let body = Bytes::from_static(b"{1}\n{12345}\n{2}");
        let found = lines(&body, &limits()).unwrap();
        assert_eq!(found, [record("{1}"), Line::TooLarge, record("{2}")]);
        let refused = |body: &'static [u8]| lines(&Bytes::from_static(body), &limits());
        let many = refused(b"1\n2\n3\n4").unwrap_err();
        assert_eq!(many.slug(), Slug::PayloadTooLarge);
        assert_eq!(refused(b" \n\n").unwrap_err().slug(), Slug::InvalidRecord);
    }

    #[test]
    fn results_keep_the_order_of_the_lines() {
        let lines = [record("a"), Line::TooLarge, record("b"), record("c")];
        let stored = |n: u64| Answer::Stored(json!({"recordId": n}));
        let quarantined = Problem::new(Slug::TenantMismatch, "aside").quarantined();
        let sent = [stored(1), Answer::Problem(Box::new(quarantined))];
        let results = results(
            in_order(&lines, sent, &limits()),
            &CorrelationId::parse("c-4").unwrap(),
        );
        let results = results["results"].as_array().unwrap();
        let statuses: Vec<_> = results
            .iter()
            .map(|one| one["status"].as_u64().unwrap())
            .collect();
        assert_eq!(statuses, [200, 413, 202, 500]);
        assert_eq!(results[0]["recordId"], 1);
        assert_eq!(results[2]["problem"]["status"], 202);
        assert_eq!(results[2]["problem"]["correlationId"], "c-4");
        assert_eq!(results[3]["index"], 3);
    }
}
