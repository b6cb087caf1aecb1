//! How far an export is: a bar where somebody looks, lines otherwise, on standard error.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::sleep;

use super::client::{Client, Error, text};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Looks until the export has ended, and gives it if it has finished.
pub(super) async fn until_ended(client: &Client, mut job: Value) -> Result<Value, Error> {
    let id = text(&job, "exportId");
    let mut display = Display::new();
    let mut wait = FIRST_WAIT;
    loop {
        display.show(&job);
        match text(&job, "state").as_str() {
            "queued" | "running" => {}
            "finished" => {
                display.bar.finish_and_clear();
                return Ok(job);
            }
            state => {
                display.bar.finish_and_clear();
                return Err(Error::Ended {
                    state: state.to_owned(),
                    detail: why(&job),
                });
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
        job = client.job(&id).await?;
    }
}

/// An export in some lines.
pub(super) fn lines(job: &Value) -> Vec<String> {
    let mut lines = vec![
        format!("export    {}", text(job, "exportId")),
        format!("state     {}", text(job, "state")),
        format!("progress  {}", progress(job)),
        format!("stream    {}", text(job, "stream")),
        format!("range     {}", job["timeRange"]),
        format!("filters   {}", job["filters"]),
        format!("format    {}", text(job, "format")),
        format!(
            "policy    {}, masks {}",
            text(job, "policyVersion"),
            text(job, "maskProfile")
        ),
    ];
    if let Some(purpose) = job["purpose"].as_str() {
        // What somebody typed may not look like a line of ours.
        lines.push(format!("purpose   {purpose:?}"));
    }
    if !job["error"].is_null() {
        lines.push(format!("error     {}", why(job)));
    }
    if let Some(end) = job["expiresAt"].as_str() {
        lines.push(format!("expires   {end}"));
    }
    let files = job["files"].as_array();
    lines.extend(files.into_iter().flatten().map(|file| {
        let (path, bytes) = (text(file, "path"), &file["bytes"]);
        format!("file      {path}, {bytes} bytes")
    }));
    lines
}

fn why(job: &Value) -> String {
    match job["error"].is_null() {
        true => "it was called off".to_owned(),
        false => format!(
            "{}: {}",
            text(&job["error"], "slug"),
            text(&job["error"], "detail")
        ),
    }
}

fn progress(job: &Value) -> String {
    let progress = &job["progress"];
    let number = |name: &str| progress[name].as_u64();
    let mut told = number("records").unwrap_or_default().to_string();
    if let Some(total) = number("recordsTotal") {
        told.push_str(&format!(" of {total}"));
    }
    told.push_str(" record(s)");
    if let Some(bytes) = number("bytes") {
        told.push_str(&format!(", {}", HumanBytes(bytes)));
    }
    if let Some(left) = number("etaSeconds") {
        let left = HumanDuration(Duration::from_secs(left));
        told.push_str(&format!(", {left:#} left"));
    }
    told
}

struct Display {
    bar: ProgressBar,
    told: String,
}

impl Display {
    fn new() -> Self {
        Self {
            bar: bar("{bar:32} {percent:>3}% {elapsed} {msg}", 100),
            told: String::new(),
        }
    }

    fn show(&mut self, job: &Value) {
        let told = format!("{}: {}", text(job, "state"), progress(job));
        if self.told == told {
            self.bar.tick();
            return;
        }
        let percent = job["progress"]["percent"].as_u64().unwrap_or_default();
        self.bar.set_position(percent);
        self.bar.set_message(told.clone());
        if self.bar.is_hidden() {
            say_aside(&told);
        }
        self.told = told;
    }
}

/// A bar of this form; it is hidden where nobody looks.
pub(super) fn bar(form: &str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

/// A line on standard error, if that can be written.
pub(super) fn say_aside(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}
