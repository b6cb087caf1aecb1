//! Lines to the server, in batches, until each has been answered.
//!
//! An attempt that is told to wait (429, 503), or is not answered, is made again with the same lines and so the same
//! keys: waiting longer each time, by chance a little more or less, and for two minutes at the most. What was answered
//! before a batch stopped is not sent again, and a batch that is too large is sent in halves.

use std::time::{Duration, Instant};

use catalog::clock::{Random, SystemRandom, array};
use serde_json::{Value, json};

use super::rejects::Rejects;
use super::{Error, Summary, Target};

/// Records sent in one request.
const BATCH_RECORDS: usize = 1_000;
/// Bytes sent in one request, well under the server's limit.
const BATCH_BYTES: usize = 4 << 20;
/// How long one attempt may take, and how long the wait after it may be.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// How long one batch is tried.
const BUDGET: Duration = Duration::from_secs(120);
/// The first wait.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const REASONS_MAX: usize = 5;

/// A line, and where it came from.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) file: String,
    pub(super) number: u64,
    pub(super) text: String,
}

impl Line {
    pub(super) fn new(file: &str, number: u64, text: String) -> Self {
        Self {
            file: file.to_owned(),
            number,
            text,
        }
    }
}

/// What an attempt came to.
enum Attempt {
    /// So many lines were answered.
    Answered(Vec<Value>),
    /// Not now; perhaps after so many seconds.
    Later(Option<Duration>, Error),
    /// Not so much at once.
    TooMuch(Value),
}

/// Sends lines and counts what became of them.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    target: &'a Target<'a>,
    client: reqwest::Client,
    waiting: Vec<Line>,
    bytes: usize,
    summary: Summary,
    rejects: Rejects,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        target: &'a Target<'a>,
        client: reqwest::ClientBuilder,
        rejects: Rejects,
    ) -> Result<Self, Error> {
        Ok(Self {
            target,
            client: client.timeout(ATTEMPT_MAX).build()?,
            waiting: Vec::new(),
            bytes: 0,
            summary: Summary::default(),
            rejects,
        })
    }

    pub(super) fn tenant(&self) -> &'a str {
        self.target.tenant
    }

    /// How many lines something became of.
    pub(super) fn answered(&self) -> u64 {
        let Summary {
            accepted,
            duplicates,
            quarantined,
            refused,
            ..
        } = self.summary;
        accepted + duplicates + quarantined + refused
    }

    /// Takes one more line, and sends those that wait once they are enough.
    pub(super) async fn add(&mut self, line: Line) -> Result<(), Error> {
        let full = self.waiting.len() == BATCH_RECORDS
            || self.bytes + line.text.len() > BATCH_BYTES && !self.waiting.is_empty();
        if full {
            self.send().await?;
        }
        self.bytes += line.text.len() + 1;
        self.waiting.push(line);
        Ok(())
    }

    /// Sets a line aside that is not sent at all.
    pub(super) fn reject(&mut self, line: Line, reason: &str) -> Result<(), Error> {
        self.refused(&line, &json!({ "detail": reason }))
    }

    /// Sends what waits.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        let mut lines = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let mut at_once = lines.len();
        let mut tried = 0;
        let mut since = Instant::now();
        while !lines.is_empty() {
            at_once = at_once.min(lines.len());
            match self.attempt(&lines[..at_once]).await? {
                Attempt::Answered(results) => {
                    let answered = results.len().min(lines.len());
                    for (line, result) in lines.drain(..answered).zip(&results) {
                        self.count(&line, result)?;
                    }
                    (tried, since) = (0, Instant::now());
                }
                Attempt::TooMuch(problem) if at_once == 1 => {
                    let line = lines.remove(0);
                    self.refused(&line, &problem)?;
                }
                Attempt::TooMuch(_) => at_once /= 2,
                Attempt::Later(asked, error) => {
                    let wait = asked.unwrap_or_default().max(backoff(tried, &SystemRandom));
                    let wait = wait.min(ATTEMPT_MAX);
                    if since.elapsed() + wait > BUDGET {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    tried += 1;
                }
            }
        }
        Ok(())
    }

    /// What became of everything.
    pub(super) fn finish(self) -> Result<Summary, Error> {
        self.rejects.finish()?;
        Ok(self.summary)
    }

    async fn attempt(&self, lines: &[Line]) -> Result<Attempt, Error> {
        let mut body = String::new();
        for line in lines {
            body.push_str(&line.text);
            body.push('\n');
        }
        let url = self.target.url.trim_end_matches('/');
        let mut request = self
            .client
            .post(format!("{url}/v1/audit/records:batch"))
            .bearer_auth(self.target.token)
            .header("x-tenant-id", self.target.tenant)
            .header("content-type", "application/x-ndjson")
            .body(body);
        if let Some(stream) = self.target.stream {
            request = request.header("x-stream", stream);
        }
        let response = match request.send().await {
            Ok(response) => response,
            // Nothing of this gets better by waiting.
            Err(error) if error.is_builder() || is_of_tls(&error) => return Err(error.into()),
            Err(error) => return Ok(Attempt::Later(None, error.into())),
        };
        let status = response.status().as_u16();
        let asked = response.headers().get("retry-after");
        let asked = asked.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        match response.json().await {
            Ok(answer) => read(status, asked.map(Duration::from_secs), answer),
            Err(error) => Ok(Attempt::Later(None, error.into())),
        }
    }

    fn count(&mut self, line: &Line, result: &Value) -> Result<(), Error> {
        match result["status"].as_u64() {
            Some(200) if result["duplicate"] == Value::Bool(true) => self.summary.duplicates += 1,
            Some(200) => self.summary.accepted += 1,
            Some(202) => self.summary.quarantined += 1,
            Some(_) | None => return self.refused(line, &result["problem"]),
        }
        Ok(())
    }

    fn refused(&mut self, line: &Line, problem: &Value) -> Result<(), Error> {
        self.summary.refused += 1;
        if self.summary.reasons.len() < REASONS_MAX {
            let reason = format!("line {}: {}", line.number, reason(problem));
            self.summary.reasons.push(reason);
        }
        self.rejects.add(line, problem)
    }
}

/// Whether the two did not agree on TLS: another root, another name, no certificate.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        cause = match error.downcast_ref::<std::io::Error>() {
            // An error of the system's says what it wraps here, and not as its source.
            Some(io) => io
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    false
}

/// What a server's answer means for the lines it was sent.
fn read(status: u16, asked: Option<Duration>, mut answer: Value) -> Result<Attempt, Error> {
    match answer["results"].take() {
        Value::Array(results) if !results.is_empty() => return Ok(Attempt::Answered(results)),
        _ => {}
    }
    let refused = |answer: &Value| Error::Refused {
        status,
        slug: answer["type"]
            .as_str()
            .and_then(|uri| uri.rsplit('/').next())
            .unwrap_or("unknown")
            .to_owned(),
        detail: answer["detail"].as_str().unwrap_or("no detail").to_owned(),
    };
    match status {
        429 | 503 | 504 | 599 => Ok(Attempt::Later(asked, refused(&answer))),
        413 => Ok(Attempt::TooMuch(answer)),
        _ => Err(refused(&answer)),
    }
}

/// How long to wait after so many attempts: twice as long each time, between half of that and all of it.
fn backoff(tried: u32, random: &dyn Random) -> Duration {
    let longest = FIRST_WAIT
        .saturating_mul(1 << tried.min(10))
        .min(ATTEMPT_MAX);
    let share = f64::from(u16::from_le_bytes(array(random))) / f64::from(u16::MAX);
    longest.mul_f64(0.5 + share / 2.0)
}

fn reason(problem: &Value) -> String {
    let first = &problem["violations"][0];
    let detail = problem["detail"].as_str().unwrap_or("no detail");
    match (first["pointer"].as_str(), first["message"].as_str()) {
        (Some(pointer), Some(message)) => format!("{detail} ({pointer}: {message})"),
        _ => detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_have_an_end() {
        for (tried, longest) in [(0, 200), (1, 400), (5, 6_400), (9, 30_000), (40, 30_000)] {
            for _ in 0..50 {
                let wait = backoff(tried, &SystemRandom);
                let longest = Duration::from_millis(longest);
                assert!(wait <= longest && wait >= longest / 2, "{tried}: {wait:?}");
            }
        }
    }

    #[test]
    fn an_answer_says_what_to_do_next() {
        let later = |status| {
            let answer = json!({"detail": "x", "type": "https://trailhouse.dev/problems/y"});
            matches!(read(status, None, answer), Ok(Attempt::Later(_, _)))
        };
        assert!([429, 503, 504, 599].into_iter().all(later));
        assert!(![400, 401, 403, 409, 500].into_iter().any(later));
        assert!(matches!(
            read(413, None, json!({})),
            Ok(Attempt::TooMuch(_))
        ));
        // A batch that stopped has been answered as far as it went.
        let stopped = json!({"detail": "x", "results": [{"status": 200}]});
        assert!(
            matches!(read(503, None, stopped), Ok(Attempt::Answered(results)) if results.len() == 1)
        );
        assert!(matches!(
            read(400, None, json!({})),
            Err(Error::Refused { status: 400, .. })
        ));
    }
}
