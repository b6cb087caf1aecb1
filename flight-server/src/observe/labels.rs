//! A recorder in front of the real one that keeps the number of tenants in labels bounded.
//!
//! Every other label has a fixed set of values. Done here, no module that counts something has to think of it.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};

const LABEL: &str = "tenant";
const OVERFLOW: &str = "other";

/// Lets the first tenants through under their names, and all later ones as `other`.
#[derive(Debug)]
pub(super) struct BoundedTenants<R> {
    inner: R,
    tenants: RwLock<HashSet<String>>,
    tenants_max: usize,
}

impl<R> BoundedTenants<R> {
    pub(super) fn new(inner: R, tenants_max: usize) -> Self {
        Self {
            inner,
            tenants: RwLock::default(),
            tenants_max,
        }
    }

    /// The key to record under: `None` if it can stay as it is.
    fn bounded(&self, key: &Key) -> Option<Key> {
        let tenant = key.labels().find(|label| label.key() == LABEL)?;
        if self.is_named(tenant.value()) {
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

    fn is_named(&self, tenant: &str) -> bool {
        {
            let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
            if tenants.contains(tenant) {
                return true;
            }
            if tenants.len() >= self.tenants_max {
                return false;
            }
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= self.tenants_max {
            return tenants.contains(tenant);
        }
        tenants.insert(tenant.to_owned());
        true
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
    fn tenants_beyond_the_limit_share_a_label() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let bounded = BoundedTenants::new(recorder, 2);
        metrics::with_local_recorder(&bounded, || {
            for tenant in ["a", "b", "c", "d", "a", "c"] {
                metrics::counter!("seen", "kind" => "x", "tenant" => tenant).increment(1);
            }
            metrics::counter!("unlabelled").increment(1);
        });
        let text = handle.render();
        for line in [
            r#"seen{kind="x",tenant="a"} 2"#,
            r#"seen{kind="x",tenant="b"} 1"#,
            r#"seen{kind="x",tenant="other"} 3"#,
            "unlabelled 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains(r#"tenant="c""#));
    }
}
