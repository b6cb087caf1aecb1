//! A recorder in front of the real one that keeps the number of tenants in labels bounded.
//!
//! Every other label has a fixed set of values. Done here, no module that counts something has to think of it. A name
//! gets a label of its own only after somebody has said that there is such a tenant: tokens may name what they like.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};

const LABEL: &str = "tenant";
const OVERFLOW: &str = "other";
/// What requests of nobody are counted under.
pub(super) const NOBODY: &str = "none";

/// The tenants that have a label of their own: the first ones.
#[derive(Debug)]
pub(super) struct Named {
    tenants: RwLock<HashSet<String>>,
    tenants_max: usize,
}

impl Named {
    pub(super) fn new(tenants_max: usize) -> Self {
        Self {
            tenants: RwLock::default(),
            tenants_max,
        }
    }

    pub(super) fn has(&self, tenant: &str) -> bool {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.contains(tenant)
    }

    /// Gives a tenant that there is a label of its own, as long as there are few.
    pub(super) fn introduce(&self, tenant: &str) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() < self.tenants_max {
            tenants.insert(tenant.to_owned());
        }
    }
}

/// Lets tenants that have a label through under their names, and all others as `other`.
#[derive(Debug)]
pub(super) struct BoundedTenants<R> {
    inner: R,
    named: Arc<Named>,
}

impl<R> BoundedTenants<R> {
    pub(super) fn new(inner: R, named: Arc<Named>) -> Self {
        Self { inner, named }
    }

    /// The key to record under: `None` if it can stay as it is.
    fn bounded(&self, key: &Key) -> Option<Key> {
        let tenant = key.labels().find(|label| label.key() == LABEL)?;
        if tenant.value() == NOBODY || self.named.has(tenant.value()) {
            return None;
        }
        let labels: Vec<Label> = key
            .labels()
            .map(|label| {
                if label.key() == LABEL {
                    Label::new(LABEL, OVERFLOW)
                } else {
                    label.clone()
                }
            })
            .collect();
        Some(Key::from_parts(key.name().to_owned(), labels))
    }
}

impl<R: Recorder> Recorder for BoundedTenants<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let bounded = self.bounded(key);
        self.inner
            .register_counter(bounded.as_ref().unwrap_or(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let bounded = self.bounded(key);
        self.inner
            .register_gauge(bounded.as_ref().unwrap_or(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let bounded = self.bounded(key);
        self.inner
            .register_histogram(bounded.as_ref().unwrap_or(key), metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn tenants_beyond_the_limit_and_unknown_ones_share_a_label() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let named = Arc::new(Named::new(2));
        for tenant in ["a", "b", "d"] {
            named.introduce(tenant);
        }
        let bounded = BoundedTenants::new(recorder, named);
        metrics::with_local_recorder(&bounded, || {
            for tenant in ["a", "b", "c", "d", "a", "c", NOBODY] {
                metrics::counter!("seen", "kind" => "x", "tenant" => tenant).increment(1);
            }
            metrics::counter!("unlabelled").increment(1);
        });
        let text = handle.render();
        for line in [
            r#"seen{kind="x",tenant="a"} 2"#,
            r#"seen{kind="x",tenant="b"} 1"#,
            r#"seen{kind="x",tenant="other"} 3"#,
            r#"seen{kind="x",tenant="none"} 1"#,
            "unlabelled 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains(r#"tenant="c""#));
    }
}
