//! Who a request is from: claims, headers and bindings against each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::{SeededRandom, Timestamp};
use crate::context::{
    ATTRIBUTE_CHARS_MAX, Attribute, ClaimProfile, IngressHeaders, Mandate, Role, Scope,
    TenantContext, VerifiedClaims,
};
use crate::guard::Denial;
use crate::ids::{SiloId, TenantId};
use crate::world::{ISSUER, World, id};

/// What the tenant of a request comes out as.
async fn tenant(
    world: &World,
    profile: ClaimProfile,
    claims: Value,
    headers: &[(&str, &str)],
) -> Result<String, Denial> {
    let headers = IngressHeaders::from_pairs(headers.iter().copied(), &SeededRandom::new(3));
    let claims = VerifiedClaims {
        profile,
        ..world.claims(claims)
    };
    let context = TenantContext::resolve(&claims, &headers, &world.registry).await?;
    Ok(context.tenant().to_string())
}

type Headers = &'static [(&'static str, &'static str)];

/// Claims, headers, and the tenant they come to.
fn cases() -> Vec<(Value, Headers, Result<&'static str, Denial>)> {
    let acme = || json!({ "sub": "a", "tenant": "acme" });
    let split = json!({ "sub": "a", "tenant": "acme", "tenant_id": "other" });
    vec![
        (json!({ "sub": "a", "tenant": "Acme" }), &[], Ok("acme")),
        (json!({ "sub": "a", "tenant_id": "acme" }), &[], Ok("acme")),
        (
            json!({ "sub": "a", "custom:tenantId": "acme" }),
            &[],
            Ok("acme"),
        ),
        (json!({ "sub": "a", "tid": "acme" }), &[], Ok("acme")),
        (
            json!({ "sub": "a", "tenant": "acme", "app_tid": "ACME" }),
            &[],
            Ok("acme"),
        ),
        (
            acme(),
            &[("X-Tenant-Id", "ACME"), ("tenant", "acme")],
            Ok("acme"),
        ),
        (split, &[], Err(Denial::TenantMismatch)),
        (
            acme(),
            &[("X-Tenant-Id", "other")],
            Err(Denial::TenantMismatch),
        ),
        (
            acme(),
            &[("x-tenant-id", "acme"), ("tenant", "other")],
            Err(Denial::TenantMismatch),
        ),
        (
            acme(),
            &[("tenant", "a/b")],
            Err(Denial::InvalidTenantFormat),
        ),
        (
            json!({ "sub": "a", "tenant": null }),
            &[],
            Err(Denial::MissingTenant),
        ),
        (json!({ "sub": "a" }), &[], Err(Denial::MissingTenant)),
        (
            json!({ "sub": "a" }),
            &[("host", "acme.example")],
            Err(Denial::MissingTenant),
        ),
        (
            json!({ "sub": "a" }),
            &[("x-tenant-id", "acme")],
            Err(Denial::MissingTenant),
        ),
        (json!({ "tenant": "acme" }), &[], Err(Denial::InvalidToken)),
        (
            json!({ "sub": " ", "tenant": "acme" }),
            &[],
            Err(Denial::InvalidToken),
        ),
    ]
}

#[tokio::test]
async fn one_claim_names_the_tenant_and_headers_only_confirm_it() {
    let world = World::new().await;
    for (claims, headers, wanted) in cases() {
        let found = tenant(&world, ClaimProfile::Generic, claims.clone(), headers).await;
        assert_eq!(found, wanted.map(str::to_owned), "{claims} {headers:?}");
    }
    for malformed in [
        json!("../acme"),
        json!(""),
        json!("acme "),
        json!(["acme"]),
        json!(7),
        json!(true),
    ] {
        let claims = json!({ "sub": "a", "tenant": malformed });
        let found = tenant(&world, ClaimProfile::Generic, claims.clone(), &[]).await;
        assert_eq!(found, Err(Denial::InvalidTenantFormat), "{claims}");
    }
}

#[tokio::test]
async fn the_system_tenant_is_for_operators_tokens_only() {
    let world = World::new().await;
    let claims = |roles: &[&str]| json!({ "sub": "a", "tenant": "_system", "roles": roles });
    let generic = ClaimProfile::Generic;
    for role in ["SRE.Admin", "Security.Admin"] {
        assert_eq!(
            tenant(&world, generic, claims(&[role]), &[]).await,
            Ok("_system".to_owned())
        );
        let confirmed = [("x-tenant-id", "_system")];
        assert!(
            tenant(&world, generic, claims(&[role]), &confirmed)
                .await
                .is_ok()
        );
        let nameless = json!({ "sub": "a", "roles": [role] });
        assert_eq!(
            tenant(&world, generic, nameless, &confirmed).await,
            Err(Denial::MissingTenant)
        );
    }
    for roles in [&["Audit.Admin", "Compliance.Reviewer"][..], &[]] {
        let answer = tenant(&world, generic, claims(roles), &[]).await;
        assert!(
            matches!(answer, Err(Denial::Forbidden { .. })),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_header_alone_counts_for_principals_that_are_bound() {
    let world = World::new().await;
    world.onboard("acme").await;
    let permit = world.admin("acme").await;
    world
        .registry
        .bind(&permit, &id("acme"), "svc-loose")
        .await
        .unwrap();
    world
        .registry
        .bind(&permit, &id("acme"), &format!("{ISSUER} svc-exact"))
        .await
        .unwrap();
    for (subject, header, wanted) in [
        ("svc-loose", "Acme", Ok("acme".to_owned())),
        ("svc-exact", "acme", Ok("acme".to_owned())),
        ("svc-other", "acme", Err(Denial::MissingTenant)),
        ("svc-loose", "nowhere", Err(Denial::MissingTenant)),
    ] {
        let claims = json!({ "sub": subject });
        let found = tenant(
            &world,
            ClaimProfile::Generic,
            claims,
            &[("x-tenant-id", header)],
        )
        .await;
        assert_eq!(found, wanted, "{subject} {header}");
    }
    let elsewhere = VerifiedClaims {
        issuer: "https://other".into(),
        ..world.claims(json!({ "sub": "svc-exact" }))
    };
    let headers = IngressHeaders::from_pairs([("tenant", "acme")], &SeededRandom::new(3));
    let answer = TenantContext::resolve(&elsewhere, &headers, &world.registry).await;
    assert_eq!(answer, Err(Denial::MissingTenant));
}

#[tokio::test]
async fn an_issuer_is_believed_about_its_own_tenants() {
    let world = World::new().await;
    let own = BTreeSet::from([TenantId::parse("acme").unwrap()]);
    let resolve = async |claims: Value, headers: Headers| {
        let claims = VerifiedClaims {
            believed_about: Some(Arc::new(own.clone())),
            ..world.claims(claims)
        };
        let headers = IngressHeaders::from_pairs(headers.iter().copied(), &SeededRandom::new(3));
        let context = TenantContext::resolve(&claims, &headers, &world.registry).await;
        context.map(|context| context.tenant().to_string())
    };
    let named = json!({ "sub": "a", "tenant": "ACME" });
    assert_eq!(resolve(named, &[]).await, Ok("acme".to_owned()));
    for (claims, headers) in [
        (json!({ "sub": "a", "tenant": "globex" }), &[] as Headers),
        (
            json!({ "sub": "a", "tenant": "_system", "roles": ["SRE.Admin"] }),
            &[],
        ),
    ] {
        let found = resolve(claims, headers).await;
        assert_eq!(found, Err(Denial::InvalidToken));
    }
}

#[tokio::test]
async fn each_identity_provider_is_read_its_own_way() {
    let world = World::new().await;
    let directory = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    let named = Ok("acme".to_owned());
    for (profile, claims, wanted) in [
        (
            ClaimProfile::AzureAd,
            json!({ "sub": "a", "tid": directory }),
            Err(Denial::MissingTenant),
        ),
        (
            ClaimProfile::AzureAd,
            json!({ "oid": "a", "tid": directory, "app_tid": "acme" }),
            named.clone(),
        ),
        (
            ClaimProfile::Okta,
            json!({ "uid": "a", "tid": directory, "tenant": "acme" }),
            named.clone(),
        ),
        (
            ClaimProfile::Auth0,
            json!({ "sub": "a", "https://trailhouse.dev/tenant": "acme" }),
            named.clone(),
        ),
        (
            ClaimProfile::Auth0,
            json!({ "sub": "a", "app_metadata": { "tenant": "acme" } }),
            named.clone(),
        ),
        (
            ClaimProfile::Generic,
            json!({ "sub": "a", "app_metadata": { "tenant": "acme" } }),
            Err(Denial::MissingTenant),
        ),
        (
            ClaimProfile::Generic,
            json!({ "sub": "a", "tid": directory, "tenant": "acme" }),
            Err(Denial::TenantMismatch),
        ),
    ] {
        assert_eq!(
            tenant(&world, profile, claims.clone(), &[]).await,
            wanted,
            "{profile:?} {claims}"
        );
    }
    for (name, profile) in [
        ("generic", ClaimProfile::Generic),
        ("azuread", ClaimProfile::AzureAd),
        ("okta", ClaimProfile::Okta),
        ("auth0", ClaimProfile::Auth0),
    ] {
        assert_eq!(ClaimProfile::parse(name), Some(profile));
    }
}

#[test]
fn a_persons_roles_are_no_scopes_of_the_application() {
    let scopes = |claims: Value| {
        VerifiedClaims {
            issuer: "https://login.example".to_owned(),
            profile: ClaimProfile::AzureAd,
            believed_about: None,
            claims: claims.as_object().unwrap().clone(),
            expires_at: Timestamp::from_micros(0),
        }
        .scopes()
    };
    let write = json!(["audit.write"]);
    let read = BTreeSet::from([Scope::AuditRead]);
    assert_eq!(scopes(json!({"scp": "audit.read", "roles": write})), read);
    let alone = scopes(json!({"roles": write}));
    assert_eq!(alone, BTreeSet::from([Scope::AuditWrite]));
}

#[tokio::test]
async fn attributes_come_from_the_token_alone() {
    let world = World::new().await;
    let claims = json!({
        "sub": "00u1abc23", "azp": "svc-audit-writer", "scp": "audit.ingest audit.export openid",
        "roles": ["Audit.Reader", "Owner"], "groups": ["Audit.Investigator", 7],
        "tenant": "acme", "custom:data_silo": "US", "custom:edition": "enterprise", "org_unit": " prod ",
        "purpose": "fraud",
    });
    let headers = [
        ("x-edition", "enterprise"),
        ("x-purpose", "fraud"),
        ("x-data-silo", "eu"),
        ("x-correlation-id", "c-1"),
    ];
    let context = world.identify(claims, &headers).await.unwrap();
    assert_eq!(
        (context.subject(), context.client()),
        ("00u1abc23", Some("svc-audit-writer"))
    );
    assert_eq!(
        *context.roles(),
        BTreeSet::from([Role::Reader, Role::Investigator])
    );
    assert_eq!(
        *context.scopes(),
        BTreeSet::from([Scope::AuditWrite, Scope::AuditExport])
    );
    let said: Vec<_> = context.attributes().iter().collect();
    assert_eq!(
        said,
        [
            (Attribute::Edition, "enterprise"),
            (Attribute::OrgUnit, "prod"),
            (Attribute::Purpose, "fraud"),
            (Attribute::DataSilo, "us"),
        ]
    );
    assert_eq!(
        context.data_silo().map(ToString::to_string).as_deref(),
        Some("us")
    );
    assert_eq!(context.correlation().as_str(), "c-1");
    let malformed = json!({ "sub": "a", "tenant": "acme", "data_silo": ["us"] });
    assert_eq!(
        world.identify(malformed, &[]).await,
        Err(Denial::ResidencyConflict)
    );
    let split =
        json!({ "sub": "a", "tenant": "acme", "data_silo": "us", "custom:data_silo": "eu" });
    assert_eq!(
        world.identify(split, &[]).await,
        Err(Denial::ResidencyConflict)
    );
}

#[tokio::test]
async fn a_header_confirms_an_attribute_and_never_makes_one() {
    let world = World::new().await;
    let claims = json!({ "sub": "a", "tenant": "acme", "purpose": "fraud" });
    for headers in [
        [("x-purpose", "audit")],
        [("x-edition", "enterprise")],
        [("x-purpose", "Fraud")],
    ] {
        let found = world.identify(claims.clone(), &headers).await;
        assert!(
            matches!(found, Err(Denial::Forbidden { .. })),
            "{headers:?}"
        );
    }
    let long = "x".repeat(ATTRIBUTE_CHARS_MAX + 1);
    for malformed in [
        json!(7),
        json!(["fraud"]),
        json!(" "),
        json!("a\u{7}"),
        json!(long),
    ] {
        let claims = json!({ "sub": "a", "tenant": "acme", "purpose": malformed });
        let found = world.identify(claims.clone(), &[]).await;
        assert_eq!(found, Err(Denial::InvalidToken), "{claims}");
    }
    let split = json!({ "sub": "a", "tenant": "acme", "org_unit": "a", "custom:org_unit": "b" });
    let found = world.identify(split, &[]).await;
    assert_eq!(found, Err(Denial::InvalidToken));
    let nothing = json!({ "sub": "a", "tenant": "acme", "purpose": null });
    let found = world.identify(nothing, &[]).await.unwrap();
    assert_eq!(found.attributes().iter().count(), 0);
}

#[tokio::test]
async fn a_chosen_role_must_be_one_of_the_tokens() {
    let world = World::new().await;
    let claims = json!({ "sub": "a", "tenant": "acme", "roles": ["Audit.Reader", "Audit.Admin"] });
    for (headers, wanted) in [
        (vec![], Some(None)),
        (
            vec![("X-Trailhouse-Role", "Audit.Reader")],
            Some(Some(Role::Reader)),
        ),
        (
            vec![
                ("x-trailhouse-role", "Reader"),
                ("x-trailhouse-role", "Reader"),
            ],
            Some(Some(Role::Reader)),
        ),
        (
            vec![
                ("x-trailhouse-role", "Reader"),
                ("x-trailhouse-role", "Admin"),
            ],
            None,
        ),
        (vec![("x-trailhouse-role", "Investigator")], None),
        (vec![("x-trailhouse-role", "")], None),
    ] {
        let found = world.identify(claims.clone(), &headers).await;
        match wanted {
            Some(wanted) => assert_eq!(found.unwrap().chosen_role(), wanted, "{headers:?}"),
            None => assert!(
                matches!(found, Err(Denial::Forbidden { .. })),
                "{headers:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_mandate_is_read_back_as_it_was_kept_and_nothing_else_is() {
    let world = World::new().await;
    let claims = json!({
        "sub": "ann", "azp": "portal", "tenant": "acme", "roles": ["Audit.Reader", "Export.Admin"],
        "scp": "audit.export audit.read", "edition": "pro", "org_unit": "north", "purpose": "fraud", "data_silo": "eu",
    });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("traceparent", trace), ("x-trailhouse-role", "Reader")];
    let context = world.identify(claims, &headers).await.unwrap();
    let silo = SiloId::parse("eu").unwrap();
    let mandate = context.mandate(&silo, context.expires_at());
    assert_eq!(
        (mandate.tenant(), mandate.silo(), mandate.subject()),
        (context.tenant(), &silo, "ann")
    );
    assert_eq!(
        (mandate.correlation(), mandate.until()),
        (context.correlation(), context.expires_at())
    );
    assert_eq!(mandate.attributes(), context.attributes());
    let kept = serde_json::to_value(&mandate).unwrap();
    let read: Mandate = serde_json::from_value(kept.clone()).unwrap();
    assert_eq!(read, mandate);
    // With all that the caller was; only the end is another.
    let now = context.expires_at().plus(std::time::Duration::from_secs(1));
    assert_eq!(read.context(now), context);
    for (place, value) in [
        ("/roles/0", json!("Owner")),
        ("/scopes/0", json!("audit.everything")),
        ("/chosen_role", json!("Reader")),
        ("/tenant", json!("a/b")),
        ("/silo", json!("")),
        ("/correlation", json!("a b")),
        ("/until", json!("soon")),
        ("/attributes/purpose", json!("")),
        ("/attributes/edition", json!("a\nb")),
        ("/attributes/data_silo", json!("e u")),
    ] {
        let mut changed = kept.clone();
        *changed.pointer_mut(place).unwrap() = value;
        assert!(
            serde_json::from_value::<Mandate>(changed).is_err(),
            "{place}"
        );
    }
    for (place, key) in [("", "more"), ("/attributes", "more")] {
        let mut changed = kept.clone();
        changed.pointer_mut(place).unwrap()[key] = json!(1);
        assert!(
            serde_json::from_value::<Mandate>(changed).is_err(),
            "{place}"
        );
    }
    let mut changed = kept;
    changed.as_object_mut().unwrap().remove("until");
    assert!(serde_json::from_value::<Mandate>(changed).is_err());
    let system = json!({ "sub": "ops", "tenant": "_system", "roles": ["SRE.Admin"] });
    let system = world.identify(system, &[]).await.unwrap();
    let kept = serde_json::to_value(system.mandate(&silo, system.expires_at())).unwrap();
    let read: Mandate = serde_json::from_value(kept).unwrap();
    assert!(read.tenant().is_system());
}
