//! For tests: a whole service on a disk of its own, with one tenant, and tokens for it.

use std::sync::Arc;
use std::time::Duration;

use catalog::guard::{self, TenantAdmin};
use catalog::ids::{SiloId, TenantId};
use catalog::tenant::{self, NewTenant};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use crate::auth::developer::TokenRequest;
use crate::config;
use crate::service::{Service, Surroundings};

/// A service that serves the silo `eu`, in which the tenant `acme` lives.
pub(crate) struct World {
    _folder: tempfile::TempDir,
    pub(crate) service: Arc<Service>,
    pub(crate) silo: SiloId,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of("", Surroundings::default()).await
    }

    /// One with these settings as well, within these surroundings.
    pub(crate) async fn of(settings: &str, around: Surroundings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let file = format!(
            "keys.folder = '{}'\nlimits.record_bytes = 2000\nlimits.batch_bytes = 10000\n\
             limits.batch_lines = 4\nadmin.listen = '127.0.0.1:0'\nwal.ack = 'commit'\nwal.folder = '{}'\n\
             {settings}\n[silos.eu]\nroot = '{}'\nflight = '127.0.0.1:0'\nhttp = '127.0.0.1:0'",
            at("keys"),
            at("wal"),
            at("eu")
        );
        let config = config::from_text(&file, []).unwrap();
        let world = Self {
            service: Service::build_in(config, around).await.unwrap(),
            silo: SiloId::parse("eu").unwrap(),
            _folder: folder,
        };
        world.onboard("acme").await;
        world
    }

    /// Makes a tenant as an operator does.
    pub(crate) async fn onboard(&self, name: &str) {
        let service = &self.service;
        let tenant = TenantId::parse(name).unwrap();
        let token = self.token("_system", &["SRE.Admin"], &[]);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&token))]);
        let context = service.context(&headers).await.unwrap();
        let request = guard::Request::at(self.silo.clone()).with_target(tenant.clone());
        let permit = service.gate.authorize::<TenantAdmin>(&context, request);
        let permit = permit.await.unwrap();
        let new = NewTenant::new(tenant, self.silo.clone());
        let onboarded = tenant::onboard(&service.registry, &service.policies, &permit, new);
        onboarded.await.unwrap();
    }

    pub(crate) fn token(&self, tenant: &str, roles: &[&str], scopes: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let request = TokenRequest {
            subject: "tester".to_owned(),
            tenant: Some(tenant.to_owned()),
            roles: owned(roles),
            scopes: owned(scopes),
            ..TokenRequest::default()
        };
        let developer = self.service.developer.as_ref().unwrap();
        developer.mint(&request, Duration::from_secs(600), self.service.clock.now())
    }

    pub(crate) fn writer(&self) -> String {
        self.token("acme", &[], &["audit.write"])
    }
}

pub(crate) fn bearer(token: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Bearer {token}")).unwrap()
}

/// A good record of `acme`.
pub(crate) fn record(key: &str) -> Value {
    json!({
        "tenantId": "acme",
        "idempotencyKey": key,
        "createdAt": "2026-01-02T03:04:05.678Z",
        "action": "Order.Placed",
        "resource": {"type": "Order", "id": "17"},
        "actor": {"type": "User", "id": "ann"},
        "correlation": {"traceId": "4bf92f3577b34da6a3ce929d0e0e4736"},
    })
}
