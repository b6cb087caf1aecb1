//! What an operator sees: logs without values, and metrics whose number is bounded.
//!
//! Logs are lines of JSON. A request's span carries transport, route, correlation id and tenant, so that every event
//! within it does; headers, bodies, statements and paths are never fields.

pub mod grpc;
mod labels;
mod lines;
mod request;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catalog::ids::TenantId;
use engine::query::Usage;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};
use labels::{BoundedTenants, Named};
use lines::Lines;

pub use request::{CORRELATION_ID, Seen, identified, observed};

/// Crates that would log headers, and so tokens, or values if they were allowed to say more than warnings.
const MUFFLED: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tonic",
    "tower",
    "datafusion",
    "sqlparser",
    "arrow",
    "parquet",
    "object_store",
    "delta",
];

/// Why nothing can be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter of the logs does not parse.
    #[error("the log filter does not parse")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The thread that writes the log cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(std::io::ErrorKind),
    /// Something else in this process logs already.
    #[error("logging is set up already")]
    Logging(#[from] TryInitError),
    /// The recorder of the metrics cannot be made.
    #[error("metrics cannot be set up")]
    Metrics(#[from] BuildError),
    /// Something else in this process records metrics already.
    #[error("metrics are recorded elsewhere already")]
    Recorder,
}

/// Standard error, once something is logged to it.
static LINES: OnceLock<std::io::Result<Lines>> = OnceLock::new();

/// Returns once what was logged is written, or after this time: for the end of a process.
pub fn settle(time_max: Duration) {
    if let Some(Ok(lines)) = LINES.get() {
        lines.settle(time_max);
    }
}

/// Starts logging to standard error; standard output belongs to the command line.
///
/// # Errors
/// When the filter does not parse, or the process logs already.
pub fn log(config: &Log) -> Result<(), Error> {
    let mut filter = EnvFilter::try_new(&config.filter)?;
    for target in MUFFLED {
        // Added last, so that it wins over what the configuration says.
        filter = filter.add_directive(format!("{target}=warn").parse()?);
    }
    let to = LINES.get_or_init(|| Lines::start(std::io::stderr()));
    let to = to.as_ref().map_err(|error| Error::Thread(error.kind()))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| to.clone());
    let format = config.format;
    std::panic::set_hook(Box::new(move |panic| {
        lines::panicked(format, to.clone(), panic);
    }));
    match format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init()?,
        LogFormat::Text => lines.with_ansi(false).finish().try_init()?,
    }
    Ok(())
}

/// The metrics of this process, as Prometheus reads them.
///
/// The `metrics` facade has one recorder a process, so this is the one thing here that is shared by all services of a
/// process. Tenants beyond the limit, and those nobody has [introduced](Self::introduce), share the label `other`,
/// whoever records.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
    named: Arc<Named>,
}

impl Metrics {
    /// Installs the recorder; the second call in a process gives the same one.
    ///
    /// # Errors
    /// When the process has another recorder.
    pub fn install(tenants_max: usize) -> Result<Self, Error> {
        static INSTALLED: OnceLock<Option<Metrics>> = OnceLock::new();
        // Upper bounds in seconds: from a cached answer to a query that runs into its limit.
        const BUCKETS: &[f64] = &[
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 300.0,
        ];
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?;
        let installed = INSTALLED.get_or_init(|| {
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            let named = Arc::new(Named::new(tenants_max));
            let bounded = BoundedTenants::new(recorder, Arc::clone(&named));
            let installed = metrics::set_global_recorder(bounded);
            installed.ok().map(|()| Self { handle, named })
        });
        let installed = installed.clone().ok_or(Error::Recorder)?;
        describe();
        describe_queries();
        Ok(installed)
    }

    /// Whether a tenant is counted under its own name.
    #[must_use]
    pub fn names(&self, tenant: &TenantId) -> bool {
        self.named.has(tenant.as_str())
    }

    /// Counts a tenant, which there is, under its own name from now on, unless there are too many.
    pub fn introduce(&self, tenant: &TenantId) {
        self.named.introduce(tenant.as_str());
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds the samples since the last call into the histograms; without it they would pile up between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe() {
    metrics::describe_counter!(
        "trailhouse_requests_total",
        "Requests by transport, route, tenant and outcome"
    );
    metrics::describe_histogram!(
        "trailhouse_request_seconds",
        "Time from a request's headers to its answer's"
    );
    metrics::describe_counter!(
        "trailhouse_ingest_records_total",
        "Records taken in, by tenant and outcome"
    );
    metrics::describe_histogram!(
        "trailhouse_ingest_seconds",
        "Time from a parsed request to durable receipts"
    );
    metrics::describe_histogram!(
        "trailhouse_flush_seconds",
        "Time of one commit to a table, by table"
    );
    metrics::describe_histogram!(
        "trailhouse_flush_lag_seconds",
        "Age of the oldest row of a commit when it was in the table"
    );
    metrics::describe_counter!(
        "trailhouse_flush_rows_total",
        "Rows put into tables, by table"
    );
    metrics::describe_counter!(
        "trailhouse_flush_errors_total",
        "Commits that failed and are tried again, by table and tenant"
    );
    metrics::describe_gauge!(
        "trailhouse_pending_bytes",
        "Bytes in the write-ahead log that are not in the table, by table and tenant"
    );
    metrics::describe_gauge!(
        "trailhouse_wal_bytes",
        "Size of the write-ahead log's segments"
    );
    metrics::describe_histogram!(
        "trailhouse_wal_append_seconds",
        "Time from a payload's arrival at the write-ahead log to its durability"
    );
    metrics::describe_histogram!(
        "trailhouse_wal_sync_seconds",
        "Time of one sync of the write-ahead log"
    );
    metrics::describe_histogram!(
        "trailhouse_wal_group_frames",
        "Frames that shared one sync of the write-ahead log"
    );
    metrics::describe_counter!(
        "trailhouse_limited_total",
        "Requests refused for their number, by tenant, class and what there was too much of"
    );
    metrics::describe_histogram!(
        "trailhouse_throttled_seconds",
        "Waits of requests whose tenant had used up its bytes"
    );
    metrics::describe_counter!(
        "trailhouse_auth_refusals_total",
        "Tokens refused, by reason"
    );
    metrics::describe_counter!(
        lines::LOST,
        "Lines of the log that could not be written to standard error"
    );
}

fn describe_queries() {
    metrics::describe_gauge!("trailhouse_queries", "Queries that run");
    metrics::describe_gauge!(
        "trailhouse_query_memory_bytes",
        "Memory that queries hold, together"
    );
    metrics::describe_gauge!(
        "trailhouse_query_spill_bytes",
        "Disk that queries hold, together"
    );
}

/// Shows what queries use now: all of them together, since what one tenant's do is nobody else's business.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, and exact up to some petabytes"
)]
pub fn queries(usage: Usage) {
    metrics::gauge!("trailhouse_queries").set(usage.queries as f64);
    metrics::gauge!("trailhouse_query_memory_bytes").set(usage.memory_bytes as f64);
    metrics::gauge!("trailhouse_query_spill_bytes").set(usage.spill_bytes as f64);
}

/// Counts what became of records that came in.
pub fn ingested(tenant: &TenantId, outcome: &'static str, records: u64) {
    metrics::counter!("trailhouse_ingest_records_total",
        "tenant" => tenant.to_string(), "outcome" => outcome)
    .increment(records);
}

/// Records how long it took until everything of one request was durable.
pub fn ingest_took(tenant: &TenantId, elapsed: Duration) {
    metrics::histogram!("trailhouse_ingest_seconds", "tenant" => tenant.to_string())
        .record(elapsed.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_with_buckets() {
        let metrics = Metrics::install(10).unwrap();
        let tenant = TenantId::parse("observed").unwrap();
        metrics.introduce(&tenant);
        ingest_took(&tenant, Duration::from_millis(3));
        ingested(&tenant, "accepted", 5);
        let text = metrics.render();
        let line = r#"trailhouse_ingest_seconds_bucket{tenant="observed",le="0.005"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(
            r#"trailhouse_ingest_records_total{tenant="observed",outcome="accepted"} 5"#
        ));
    }

    #[test]
    fn installing_again_gives_the_same_metrics() {
        let (one, two) = (Metrics::install(10).unwrap(), Metrics::install(10).unwrap());
        metrics::counter!("trailhouse_test_same_total").increment(1);
        assert!(one.render().contains("trailhouse_test_same_total"));
        assert!(two.render().contains("trailhouse_test_same_total"));
    }
}
