//! The gate at work: what it records, what it pins, and how it fails.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::evidence::Verdict;
use crate::guard::{Denial, OperationKind, Permit, PolicyWrite, Read, Request, TenantAdmin, Write};
use crate::ids::{SiloId, StreamName, TenantId};
use crate::policy::{FieldPath, MaskRule};
use crate::tenant::Event;
use crate::world::{World, id, operator, silo};

fn reader() -> Value {
    json!({ "sub": "ann", "tenant": "splootvets", "roles": ["Audit.Reader"] })
}

fn roles(roles: &[&str]) -> Value {
    json!({ "sub": "ann", "tenant": "splootvets", "roles": roles })
}

async fn world() -> World {
    let world = World::new().await;
    world.onboard("splootvets").await;
    world.ledger.take();
    world
}

async fn read(world: &World, claims: Value) -> Result<Permit<Read>, Denial> {
    world.permit(claims, Request::at(silo())).await
}

#[tokio::test]
async fn an_allowed_request_is_pinned_and_recorded() {
    let world = world().await;
    let request = Request::at(silo()).with_statement("SELECT ?".to_owned());
    let permit: Permit<Read> = world.permit(reader(), request).await.unwrap();
    let decision = permit.decision();
    assert_eq!(decision.policy.version.to_string(), "tenant:splootvets@1");
    assert_eq!(
        (decision.profile.name.as_str(), decision.may_see_evidence),
        ("Reader", false)
    );
    assert_eq!(
        permit.evidence_durable().await.unwrap().to_string(),
        "evidence-1"
    );
    let entries = world.ledger.take();
    let [entry] = entries.as_slice() else {
        panic!("one entry, not {entries:?}")
    };
    assert_eq!(
        (entry.tenant.as_str(), entry.operation, entry.decision),
        ("splootvets", "Read", Verdict::Allow)
    );
    assert_eq!(entry.masking_profile.as_deref(), Some("Reader"));
    assert_eq!(
        entry.basis,
        [
            "RLS.Tenant",
            "Role.Audit.Reader",
            "Lifecycle.Active",
            "Residency.local",
            "Mask.Reader"
        ]
    );
    assert_eq!(
        (entry.statement.as_deref(), entry.plan_digest),
        (Some("SELECT ?"), None)
    );
    assert_eq!((entry.subject.as_str(), entry.slug), ("ann", None));
    assert_eq!(entry.policy_version, Some(decision.policy.version.clone()));
}

#[tokio::test]
async fn evidence_that_cannot_be_recorded_is_noticed_by_allowed_acts_only() {
    let world = world().await;
    world.ledger.broken.store(true, Ordering::SeqCst);
    let permit = read(&world, reader()).await.unwrap();
    assert_eq!(
        permit.evidence_durable().await,
        Err(Denial::EvidenceUnavailable)
    );
    assert_eq!(
        world.gate.note(&permit, "Export.Made", Vec::new()).await,
        Err(Denial::EvidenceUnavailable)
    );
    let denied: Result<Permit<Write>, _> = world.permit(reader(), Request::at(silo())).await;
    assert!(matches!(denied, Err(Denial::Forbidden { .. })));
}

#[tokio::test]
async fn planning_leaves_evidence_of_denials_only_and_lets_nothing_out() {
    let world = world().await;
    let context = world.identify(reader(), &[]).await.unwrap();
    let asked = || Request::at(silo()).with_statement("SELECT ?".to_owned());
    let permit = world.gate.authorize_planning(&context, asked());
    let permit = permit.await.unwrap();
    assert_eq!(permit.decision().profile.name.as_str(), "Reader");
    assert!(world.ledger.take().is_empty());
    assert_eq!(
        permit.evidence_durable().await,
        Err(Denial::EvidenceUnavailable)
    );
    let stranger = world.identify(roles(&[]), &[]).await.unwrap();
    let denied = world.gate.authorize_planning(&stranger, asked()).await;
    assert!(matches!(denied, Err(Denial::Forbidden { .. })));
    let entries = world.ledger.take();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].statement.as_deref(), Some("SELECT ?"));
    // What runs is recorded with its plan, and what is refused with its problem.
    let running = world
        .gate
        .witnessed(&permit, Some("SELECT ?".to_owned()), [9; 32]);
    assert_eq!(running.decision().id, permit.decision().id);
    assert!(running.evidence_durable().await.is_ok());
    world.gate.refused(&permit, "unsupported-filter", None);
    let entries = world.ledger.take();
    let [allowed, refused] = entries.as_slice() else {
        panic!("two entries, not {entries:?}")
    };
    assert_eq!(
        (allowed.decision, allowed.plan_digest),
        (Verdict::Allow, Some([9; 32]))
    );
    assert_eq!(
        (
            refused.decision,
            refused.slug,
            refused.masking_profile.as_deref()
        ),
        (Verdict::Deny, Some("unsupported-filter"), Some("Reader"))
    );
    assert_eq!(refused.policy_version, allowed.policy_version);
}

#[tokio::test]
async fn denials_go_to_the_evidence_of_the_tenant_that_exists() {
    let world = world().await;
    let known = world.identify(reader(), &[]).await.unwrap();
    let denial = world
        .gate
        .deny(
            &known,
            OperationKind::Read,
            Denial::CrossTenantQuery,
            Some("SELECT ?".into()),
        )
        .await;
    assert_eq!(denial, Denial::CrossTenantQuery);
    let unknown = json!({ "sub": "eve", "tenant": "nowhere", "roles": ["Audit.Reader"] });
    assert_eq!(
        read(&world, unknown).await.unwrap_err(),
        Denial::UnknownTenant
    );
    let nameless = json!({ "sub": "eve" });
    assert_eq!(
        world.identify(nameless, &[]).await,
        Err(Denial::MissingTenant)
    );
    assert_eq!(
        world.identify(reader(), &[("x-tenant-id", "other")]).await,
        Err(Denial::TenantMismatch)
    );
    let found: Vec<_> = world
        .ledger
        .take()
        .into_iter()
        .map(|entry| (entry.tenant, entry.slug.unwrap()))
        .collect();
    let system = TenantId::system();
    let wanted = [
        (id("splootvets"), "cross-tenant-query"),
        (system.clone(), "unknown-tenant"),
        (system, "missing-tenant"),
        (id("splootvets"), "tenant-mismatch"),
    ];
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn what_comes_of_a_permit_can_be_noted() {
    let world = world().await;
    let permit: Permit<TenantAdmin> = world.admin("splootvets").await;
    let steps = vec!["from:Active".to_owned(), "to:Suspended".to_owned()];
    let noted = world.gate.note(&permit, "Tenant.Transition", steps);
    noted.await.unwrap();
    let request = Request::at(silo()).with_target(id("splootvets"));
    let refused: Result<Permit<PolicyWrite>, _> = world.permit(operator(), request).await;
    assert!(refused.is_err());
    let entries = world.ledger.take();
    let told = |index: usize| (entries[index].operation, entries[index].basis.join(" "));
    let allowed = "RLS.Tenant Role.SRE.Admin Lifecycle.Active Target.splootvets Residency.local";
    assert_eq!(told(0), ("TenantAdmin", allowed.to_owned()));
    let noted = "Target.splootvets from:Active to:Suspended";
    assert_eq!(told(1), ("Tenant.Transition", noted.to_owned()));
    assert_eq!(told(2), ("PolicyWrite", "Target.splootvets".to_owned()));
    assert!(entries.iter().all(|entry| entry.tenant.is_system()));
}

#[tokio::test]
async fn the_profile_is_that_of_the_chosen_role_or_the_most_restrictive() {
    let world = world().await;
    let actor = FieldPath::parse("actor_id").unwrap();
    let address = FieldPath::parse("context.sourceIPAddress").unwrap();
    for (claims, name, at_actor) in [
        (roles(&["Audit.Reader"]), "Reader", MaskRule::Hash),
        (
            roles(&["Audit.Investigator"]),
            "Investigator",
            MaskRule::Clear,
        ),
        (
            roles(&["Audit.Investigator", "Audit.Reader", "Owner"]),
            "Reader+Investigator",
            MaskRule::Hash,
        ),
        (
            roles(&["Audit.Investigator", "Export.Admin"]),
            "Investigator",
            MaskRule::Clear,
        ),
        (
            json!({ "sub": "w", "tenant": "splootvets", "scp": "audit.read" }),
            "strictest",
            MaskRule::Token,
        ),
        (
            json!({ "sub": "w", "tenant": "splootvets", "scope": ["audit.read"], "roles": "SRE.Admin" }),
            "strictest",
            MaskRule::Token,
        ),
    ] {
        let permit = read(&world, claims).await.unwrap();
        let profile = &permit.decision().profile;
        assert_eq!(
            (profile.name.as_str(), profile.rule_for(&actor)),
            (name, at_actor)
        );
        assert_eq!(
            profile.rule_for(&address) == MaskRule::Clear,
            name == "Investigator",
            "{name}"
        );
    }
    let both = roles(&["Audit.Investigator", "Audit.Admin"]);
    let headers = [("x-trailhouse-role", "Investigator")];
    let context = world.identify(both, &headers).await.unwrap();
    let permit = world
        .gate
        .authorize::<Read>(&context, Request::at(silo()))
        .await
        .unwrap();
    let decision = permit.decision();
    assert_eq!(
        (decision.profile.name.as_str(), decision.may_see_quarantine),
        ("Investigator", false)
    );
}

#[tokio::test]
async fn a_role_without_a_profile_gets_the_strictest() {
    let world = world().await;
    let yaml = "tenant: splootvets\nversion: 2\nresidency: { allowedSilos: [local] }\nretention: { streams: {} }\n\
        maskingProfiles: { Reader: { actor_id: HASH }, Investigator: { email: REDACT } }\n";
    apply(&world, yaml).await.unwrap();
    let permit = read(&world, roles(&["Audit.Admin"])).await.unwrap();
    let profile = &permit.decision().profile;
    assert_eq!(
        (profile.name.as_str(), profile.fields.len()),
        ("strictest", 2)
    );
    let permit = read(&world, roles(&["Audit.Admin", "Audit.Investigator"]))
        .await
        .unwrap();
    assert_eq!(permit.decision().profile.name, "strictest");
}

async fn apply(world: &World, yaml: &str) -> Result<(), Denial> {
    let claims = roles(&["Security.Admin"]);
    let permit: Permit<PolicyWrite> = world.permit(claims, Request::at(silo())).await?;
    world
        .policies
        .apply(&permit, yaml.as_bytes())
        .await
        .map(|_| ())
        .map_err(|error| Denial::from(&error))
}

#[tokio::test]
async fn where_the_data_lives_is_decided_by_registry_listener_token_and_policy() {
    let world = world().await;
    let elsewhere = Request::at(SiloId::parse("eu").unwrap());
    let answer: Result<Permit<Read>, _> = world.permit(reader(), elsewhere).await;
    assert_eq!(answer.unwrap_err(), Denial::ResidencyConflict);
    for claim in ["data_silo", "custom:data_silo"] {
        for (silo, wanted) in [("LOCAL", None), ("eu", Some(Denial::ResidencyConflict))] {
            let mut claims = reader();
            claims[claim] = json!(silo);
            assert_eq!(read(&world, claims).await.err(), wanted, "{claim} {silo}");
        }
    }
    let context = world
        .identify(reader(), &[("x-data-silo", "eu")])
        .await
        .unwrap();
    assert!(
        world
            .gate
            .authorize::<Read>(&context, Request::at(silo()))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_expired_token_gets_nothing() {
    let world = world().await;
    let context = world.identify(reader(), &[]).await.unwrap();
    world.clock.advance(Duration::from_secs(3599));
    assert!(
        world
            .gate
            .authorize::<Read>(&context, Request::at(silo()))
            .await
            .is_ok()
    );
    world.clock.advance(Duration::from_secs(1));
    let answer = world
        .gate
        .authorize::<Read>(&context, Request::at(silo()))
        .await;
    assert_eq!(answer.unwrap_err(), Denial::InvalidToken);
}

#[tokio::test]
async fn only_the_tenants_streams_can_be_named() {
    let world = world().await;
    let admin = roles(&["Audit.Admin"]);
    for (stream, write, read) in [
        ("audit.default", true, true),
        ("audit.security", true, true),
        ("audit.evidence", false, true),
        ("audit.other", false, false),
    ] {
        let request = Request::at(silo()).with_stream(StreamName::parse(stream).unwrap());
        let written: Result<Permit<Write>, _> = world.permit(admin.clone(), request.clone()).await;
        assert_eq!(
            written.err(),
            (!write).then_some(Denial::InvalidStream),
            "{stream}"
        );
        let found: Result<Permit<Read>, _> = world.permit(admin.clone(), request).await;
        assert_eq!(
            found.err(),
            (!read).then_some(Denial::InvalidStream),
            "{stream}"
        );
    }
    let evidence = Request::at(silo()).with_stream(StreamName::evidence());
    let answer: Result<Permit<Read>, _> = world.permit(reader(), evidence).await;
    assert_eq!(answer.unwrap_err(), Denial::InvalidStream);
}

#[tokio::test]
async fn only_operators_name_another_tenant_and_never_its_records() {
    let world = world().await;
    world.onboard("other").await;
    let target = || Request::at(silo()).with_target(id("other"));
    let answer: Result<Permit<PolicyWrite>, _> =
        world.permit(roles(&["Security.Admin"]), target()).await;
    assert!(matches!(answer, Err(Denial::Forbidden { .. })));
    let answer: Result<Permit<Read>, _> = world.permit(roles(&["Security.Admin"]), target()).await;
    assert!(matches!(answer, Err(Denial::Forbidden { .. })));
    let security = json!({ "sub": "sec", "tenant": "_system", "roles": ["Security.Admin"] });
    let permit: Permit<PolicyWrite> = world.permit(security.clone(), target()).await.unwrap();
    assert_eq!(
        (permit.decision().tenant.clone(), permit.decision().about()),
        (TenantId::system(), &id("other"))
    );
    let answer: Result<Permit<Read>, _> = world.permit(security, target()).await;
    assert!(matches!(answer, Err(Denial::Forbidden { .. })));
}

#[tokio::test]
async fn decisions_have_one_id_each_and_the_same_for_the_same() {
    let world = world().await;
    let first = read(&world, reader()).await.unwrap();
    let again = read(&world, reader()).await.unwrap();
    assert_eq!(first.decision(), again.decision());
    let mut ids = vec![first.decision().id];
    ids.push(
        read(&world, roles(&["Audit.Investigator"]))
            .await
            .unwrap()
            .decision()
            .id,
    );
    let request = Request::at(silo()).with_stream(StreamName::audit_default());
    ids.push(
        world
            .permit::<Read>(reader(), request)
            .await
            .unwrap()
            .decision()
            .id,
    );
    world.clock.advance(Duration::from_micros(1));
    ids.push(read(&world, reader()).await.unwrap().decision().id);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn suspension_reaches_another_process_within_its_bound() {
    let world = world().await;
    let other = world.restarted().await;
    let writer = json!({ "sub": "w", "tenant": "splootvets", "scp": "audit.write" });
    let write = async |at: &World| {
        at.permit::<Write>(writer.clone(), Request::at(silo()))
            .await
            .err()
    };
    assert_eq!(write(&other).await, None);
    world.advance("splootvets", Event::Suspend).await;
    assert_eq!(write(&world).await, Some(Denial::UnknownTenant));
    world.clock.advance(crate::tenant::RECORD_AGE_MAX);
    assert_eq!(write(&other).await, Some(Denial::UnknownTenant));
    assert_eq!(read(&other, reader()).await.err(), None);
}

#[tokio::test]
async fn while_the_store_does_not_answer_reads_are_served_tagged_and_nothing_else() {
    let world = world().await;
    read(&world, reader()).await.unwrap();
    let writer = json!({ "sub": "w", "tenant": "splootvets", "scp": "audit.write" });
    world.store.off.store(true, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(60));
    let permit = read(&world, reader()).await.unwrap();
    assert!(permit.decision().basis.contains(&"Cached".to_owned()));
    let answer: Result<Permit<Write>, _> = world.permit(writer, Request::at(silo())).await;
    assert_eq!(answer.unwrap_err(), Denial::Unavailable);
    let answer: Result<Permit<TenantAdmin>, _> =
        world.permit(operator(), Request::at(silo())).await;
    assert_eq!(answer.unwrap_err(), Denial::Unavailable);
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(
        read(&world, reader()).await.unwrap_err(),
        Denial::Unavailable
    );
    world.store.off.store(false, Ordering::SeqCst);
    assert!(
        !read(&world, reader())
            .await
            .unwrap()
            .decision()
            .basis
            .contains(&"Cached".to_owned())
    );
}

#[tokio::test]
async fn a_tenant_may_refuse_to_be_read_under_a_cached_policy() {
    let world = world().await;
    let yaml = crate::policy::Bundle::default_yaml(&id("splootvets"), &silo());
    let yaml = yaml
        .replace("version: 1", "version: 2")
        .replace("staleMode: serve", "staleMode: reject");
    apply(&world, &yaml).await.unwrap();
    world.store.off.store(true, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(
        read(&world, reader()).await.unwrap_err(),
        Denial::PolicyVersionStale
    );
}
