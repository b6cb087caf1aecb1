//! One request, seen from outside: its span, its line in the log, its count.

use std::sync::OnceLock;
use std::time::Instant;

use catalog::ids::{CorrelationId, TenantId};
use http::HeaderName;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::labels::NOBODY;

/// The header that carries the correlation id of a request, from wherever it came, once it has been observed.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

tokio::task_local! {
    /// Whose request this task works on. Found deep in the handler, needed where the request is counted.
    static TENANT: OnceLock<TenantId>;
}

/// What a request is known by, before anything is known of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `http` or `flight`.
    pub transport: &'static str,
    /// Which of our operations; never a path or a name that a caller made up.
    pub route: &'static str,
    /// Ties everything of it together.
    pub correlation: CorrelationId,
    /// Whether it is a probe, which is not worth a line in the log.
    pub quiet: bool,
}

/// Does the work of one request within its span, and counts it. `outcome` names the answer: a status or a code.
pub async fn observed<T>(
    seen: Seen,
    work: impl Future<Output = T> + Send,
    outcome: impl FnOnce(&T) -> String + Send,
) -> T {
    let Seen {
        transport,
        route,
        ref correlation,
        quiet,
    } = seen;
    let correlation = correlation.as_str();
    let span = tracing::info_span!("request", transport, route, correlation, tenant = Empty);
    let counted = async {
        let started = Instant::now();
        let answer = work.await;
        let elapsed = started.elapsed();
        let outcome = outcome(&answer);
        if !quiet {
            let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            tracing::info!(outcome, elapsed_us, "answered");
        }
        let tenant = TENANT.with(|tenant| tenant.get().map(ToString::to_string));
        let tenant = tenant.unwrap_or_else(|| NOBODY.to_owned());
        metrics::counter!("trailhouse_requests_total",
            "transport" => transport, "route" => route, "tenant" => tenant.clone(), "outcome" => outcome)
        .increment(1);
        metrics::histogram!("trailhouse_request_seconds",
            "transport" => transport, "route" => route, "tenant" => tenant)
        .record(elapsed.as_secs_f64());
        answer
    };
    TENANT
        .scope(OnceLock::new(), counted)
        .instrument(span)
        .await
}

/// Notes whose request the current task works on, for its span and its count.
pub fn identified(tenant: &TenantId) {
    Span::current().record("tenant", tenant.as_str());
    // Outside a request, in a command for instance, there is nothing to note it on.
    drop(TENANT.try_with(|noted| noted.set(tenant.clone())));
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[tokio::test]
    async fn a_request_is_counted_under_the_tenant_found_meanwhile() {
        let metrics = Metrics::install(10).unwrap();
        let seen = Seen {
            transport: "http",
            route: "test",
            correlation: CorrelationId::parse("c-9").unwrap(),
            quiet: false,
        };
        let introduced = metrics.clone();
        let work = async move {
            tokio::task::yield_now().await;
            let tenant = TenantId::parse("seen").unwrap();
            introduced.introduce(&tenant);
            identified(&tenant);
            7
        };
        assert_eq!(
            observed(seen.clone(), work, |answer| format!("{answer}00")).await,
            7
        );
        assert_eq!(
            observed(seen, async { 4 }, |answer| format!("{answer}04")).await,
            4
        );
        let text = metrics.render();
        for line in [
            r#"trailhouse_requests_total{transport="http",route="test",tenant="seen",outcome="700"} 1"#,
            r#"trailhouse_requests_total{transport="http",route="test",tenant="none",outcome="404"} 1"#,
            r#"trailhouse_request_seconds_count{transport="http",route="test",tenant="seen"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
