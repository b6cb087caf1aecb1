//! Tests: exports at the gate: whom a policy lets export, under which conditions, and what goes on without its caller.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::context::Mandate;
use crate::evidence::Verdict;
use crate::guard::{Denial, Export, OperationKind, Permit, PolicyWrite, Read, Request};
use crate::ids::{SiloId, StreamName};
use crate::policy::Bundle;
use crate::tenant::Event;
use crate::world::{World, id, silo};

const MINUTE: Duration = Duration::from_secs(60);

fn caller(roles: &[&str], scopes: &str) -> Value {
    json!({ "sub": "ann", "tenant": "acme", "roles": roles, "scp": scopes })
}

fn operator() -> Value {
    caller(&["Export.Operator"], "")
}

fn request() -> Request {
    Request::at(silo()).with_stream(StreamName::audit_default())
}

async fn world() -> World {
    let world = World::new().await;
    world.onboard("acme").await;
    world.ledger.take();
    world
}

async fn export(world: &World, claims: Value) -> Result<Permit<Export>, Denial> {
    world.permit(claims, request()).await
}

/// The tenant's next policy: the default one, changed.
async fn apply(world: &World, version: u64, change: impl Fn(String) -> String) {
    let security = caller(&["Security.Admin"], "");
    let permit: Permit<PolicyWrite> = world.permit(security, Request::at(silo())).await.unwrap();
    let yaml = Bundle::default_yaml(&id("acme"), &silo());
    let yaml = change(yaml.replace("version: 1", &format!("version: {version}")));
    let applied = world.policies.apply(&permit, yaml.as_bytes());
    applied.await.unwrap();
    world.ledger.take();
}

const ACTORS: &str = "allowedActors: [Export.Operator, Export.Admin]";

fn no_policy_lets() -> Denial {
    Denial::Forbidden {
        needs: "a role that the tenant's policy lets export",
    }
}

#[tokio::test]
async fn only_those_export_whom_the_policy_names() {
    let world = world().await;
    let by_none = Denial::Forbidden {
        needs: "the scope audit.export or the role Export.Operator",
    };
    let mut version = 1;
    for (actors, allowed) in [
        ("[Export.Operator]", [true, false, true, false, true, true]),
        ("[Export.Admin]", [false, true, false, true, false, true]),
        ("[Audit.Reader]", [false, false, false, false, true, false]),
        ("[]", [false; 6]),
    ] {
        version += 1;
        let line = format!("allowedActors: {actors}");
        apply(&world, version, |yaml| yaml.replace(ACTORS, &line)).await;
        for (claims, is_allowed) in [
            operator(),
            caller(&["Export.Admin"], ""),
            // The scope stands for the operator of those who have no role of exports, and adds nothing to a role.
            caller(&[], "audit.export"),
            caller(&["Export.Admin"], "audit.export"),
            caller(&["Audit.Reader"], "audit.export"),
            caller(&["Export.Operator", "Export.Admin"], ""),
        ]
        .into_iter()
        .zip(allowed)
        {
            let shown = format!("{actors} {claims}");
            let wanted = (!is_allowed).then(no_policy_lets);
            assert_eq!(export(&world, claims).await.err(), wanted, "{shown}");
        }
        // Being named is not enough: it takes grounds too.
        let reader = export(&world, caller(&["Audit.Reader"], "audit.read")).await;
        assert_eq!(reader.unwrap_err(), by_none);
    }
}

#[tokio::test]
async fn a_role_that_is_chosen_is_the_only_one() {
    let world = world().await;
    apply(&world, 2, |yaml| {
        yaml.replace(ACTORS, "allowedActors: [Export.Admin]")
    })
    .await;
    let both = caller(&["Export.Operator", "Export.Admin"], "");
    for (chosen, wanted) in [
        ("Export.Admin", None),
        ("Export.Operator", Some(no_policy_lets())),
    ] {
        let headers = [("x-trailhouse-role", chosen)];
        let context = world.identify(both.clone(), &headers).await.unwrap();
        let found = world.gate.authorize::<Export>(&context, request()).await;
        assert_eq!(found.err(), wanted, "{chosen}");
    }
}

#[tokio::test]
async fn a_policy_without_a_word_on_exports_lets_nobody() {
    let world = world().await;
    assert!(export(&world, operator()).await.is_ok());
    apply(&world, 2, |yaml| {
        let (before, _) = yaml.split_once("\nexport:").unwrap();
        before.to_owned()
    })
    .await;
    for claims in [
        operator(),
        caller(&["Export.Admin"], ""),
        caller(&["Audit.Admin"], "audit.export"),
    ] {
        let found = export(&world, claims).await.unwrap_err();
        assert_eq!(found, no_policy_lets());
    }
}

#[tokio::test]
async fn nothing_is_exported_under_a_policy_that_nobody_confirms() {
    for mode in ["serve", "reject"] {
        let world = world().await;
        apply(&world, 2, |yaml| {
            yaml.replace("staleMode: serve", &format!("staleMode: {mode}"))
        })
        .await;
        assert!(export(&world, operator()).await.is_ok());
        world.store.off.store(true, Ordering::SeqCst);
        world.clock.advance(MINUTE);
        let found = export(&world, operator()).await.unwrap_err();
        assert_eq!(found, Denial::PolicyVersionStale, "{mode}");
        world.store.off.store(false, Ordering::SeqCst);
        assert!(export(&world, operator()).await.is_ok(), "{mode}");
    }
}

#[tokio::test]
async fn only_active_tenants_export_and_only_where_their_data_lives() {
    let world = world().await;
    let elsewhere = Request::at(SiloId::parse("eu").unwrap());
    let found: Result<Permit<Export>, _> = world.permit(operator(), elsewhere).await;
    assert_eq!(found.unwrap_err(), Denial::ResidencyConflict);
    let mut bound = operator();
    bound["data_silo"] = json!("eu");
    assert_eq!(
        export(&world, bound).await.unwrap_err(),
        Denial::ResidencyConflict
    );
    let reader = || caller(&["Audit.Reader"], "");
    for (event, wanted) in [
        (Event::Suspend, Some(Denial::UnknownTenant)),
        (Event::Reinstate, None),
        (Event::Offboard, Some(Denial::UnknownTenant)),
    ] {
        world.advance("acme", event).await;
        assert_eq!(export(&world, operator()).await.err(), wanted, "{event}");
        assert!(world.permit::<Read>(reader(), request()).await.is_ok());
    }
}

#[tokio::test]
async fn the_evidence_stream_is_never_exported_nor_another_tenants_anything() {
    let world = world().await;
    world.onboard("other").await;
    let all = || caller(&["Export.Admin", "Audit.Admin", "Security.Admin"], "");
    for (stream, wanted) in [
        ("audit.default", None),
        ("audit.security", None),
        ("audit.evidence", Some(Denial::InvalidStream)),
        ("audit.other", Some(Denial::InvalidStream)),
    ] {
        let request = Request::at(silo()).with_stream(StreamName::parse(stream).unwrap());
        let found: Result<Permit<Export>, _> = world.permit(all(), request).await;
        assert_eq!(found.err(), wanted, "{stream}");
    }
    for tenant in ["acme", "_system"] {
        let mut claims = all();
        claims["tenant"] = json!(tenant);
        let target = Request::at(silo()).with_target(id("other"));
        let found: Result<Permit<Export>, _> = world.permit(claims, target).await;
        assert!(matches!(found, Err(Denial::Forbidden { .. })), "{tenant}");
    }
}

#[tokio::test]
async fn an_export_is_a_query_through_the_masks_and_rows_of_its_caller() {
    let world = world().await;
    let rows =
        "rowPolicies:\n  own: { roles: [Investigator], where: \"resource_id = caller.orgUnit\" }\n";
    apply(&world, 2, |yaml| yaml + "\n" + rows).await;
    let mut both = caller(&["Audit.Investigator", "Export.Operator"], "");
    both["org_unit"] = json!("north");
    let permit = export(&world, both).await.unwrap();
    let entries = world.ledger.take();
    let [entry] = entries.as_slice() else {
        panic!("one entry, not {entries:?}")
    };
    assert_eq!(
        (entry.operation, entry.masking_profile.as_deref()),
        ("Export", Some("Investigator"))
    );
    let told = "RLS.Tenant Role.Export.Operator Lifecycle.Active Residency.local Mask.Investigator \
                RLS.Row.own Caller.orgUnit=north";
    assert_eq!(entry.basis.join(" "), told);
    let reading: Permit<Read> = permit.reading();
    assert_eq!(reading.decision(), permit.decision());
    assert_eq!(reading.decision().operation, OperationKind::Export);
    assert!(reading.decision().rows.is_some());
    assert_eq!(
        reading.evidence_durable().await,
        permit.evidence_durable().await
    );
    assert!(reading.evidence_durable().await.is_ok());
    // Whoever only exports sees what those see who have no profile.
    let permit = export(&world, operator()).await.unwrap();
    assert_eq!(permit.decision().profile.name, "strictest");
}

#[tokio::test]
async fn a_module_is_asked_about_exports() {
    let world = world().await;
    for (version, operation, wanted) in
        [(2, "Read", Some(Denial::PolicyDenies)), (3, "Export", None)]
    {
        apply(&world, version, |yaml| {
            yaml + "\nrego:\n  module: |\n    package trailhouse\n    default allow := false\n    allow if input.operation in {\""
                + operation
                + "\", \"PolicyWrite\"}\n"
        })
        .await;
        assert_eq!(
            export(&world, operator()).await.err(),
            wanted,
            "{operation}"
        );
    }
}

#[tokio::test]
async fn looking_at_an_export_leaves_evidence_of_denials_only() {
    let world = world().await;
    let context = world.identify(operator(), &[]).await.unwrap();
    let permit = world.gate.authorize_quietly::<Export>(&context, request());
    let permit = permit.await.unwrap();
    assert!(world.ledger.take().is_empty());
    assert_eq!(permit.decision().operation, OperationKind::Export);
    let none = Err(Denial::EvidenceUnavailable);
    assert_eq!(permit.evidence_durable().await, none);
    assert_eq!(permit.reading().evidence_durable().await, none);
    let target = request().with_target(id("other"));
    let denied = world.gate.authorize_quietly::<Export>(&context, target);
    assert!(matches!(denied.await, Err(Denial::Forbidden { .. })));
    let entries = world.ledger.take();
    let [entry] = entries.as_slice() else {
        panic!("one entry, not {entries:?}")
    };
    assert_eq!(
        (entry.operation, entry.decision, entry.basis.join(" ")),
        ("Export", Verdict::Deny, "Target.other".to_owned())
    );
}

/// A mandate of two hours, whose token ends after one; as it comes back from where it was kept.
async fn mandate(world: &World, claims: Value) -> Mandate {
    let context = world.identify(claims, &[]).await.unwrap();
    let until = context.expires_at().plus(60 * MINUTE);
    let kept = serde_json::to_vec(&context.mandate(&silo(), until)).unwrap();
    serde_json::from_slice(&kept).unwrap()
}

async fn resume(world: &World, mandate: &Mandate) -> Result<Permit<Export>, Denial> {
    world.gate.resume(mandate, request()).await
}

#[tokio::test]
async fn what_was_asked_for_goes_on_when_the_token_has_ended_and_not_beyond_its_own_end() {
    let world = world().await;
    let mandate = mandate(&world, operator()).await;
    let context = world.identify(operator(), &[]).await.unwrap();
    world.clock.advance(60 * MINUTE);
    let ended = world.gate.authorize::<Export>(&context, request()).await;
    assert_eq!(ended.unwrap_err(), Denial::InvalidToken);
    world.ledger.take();

    let permit = resume(&world, &mandate).await.unwrap();
    let decision = permit.decision();
    let ends_in = |decision: &crate::guard::Decision| decision.expires_at.since(decision.made_at);
    assert_eq!(ends_in(decision), Some(15 * MINUTE));
    assert_eq!(
        (decision.subject.as_str(), &decision.correlation),
        ("ann", mandate.correlation())
    );
    // The decision is quiet, and what is read under it is not.
    assert!(world.ledger.take().is_empty());
    let read = world.gate.witnessed(&permit.reading(), None, [7; 32]);
    assert!(read.evidence_durable().await.is_ok());
    let entries = world.ledger.take();
    assert_eq!((entries.len(), entries[0].operation), (1, "Export"));

    world.clock.advance(59 * MINUTE);
    let permit = resume(&world, &mandate).await.unwrap();
    assert_eq!(ends_in(permit.decision()), Some(MINUTE));
    assert_eq!(permit.decision().expires_at, mandate.until());
    world.clock.advance(MINUTE);
    assert_eq!(
        resume(&world, &mandate).await.unwrap_err(),
        Denial::InvalidToken
    );
    let entries = world.ledger.take();
    assert_eq!((entries.len(), entries[0].slug), (1, Some("invalid-token")));
}

#[tokio::test]
async fn a_mandate_is_under_the_policy_of_the_moment() {
    let world = world().await;
    let mandate = mandate(&world, caller(&["Export.Operator", "Audit.Reader"], "")).await;
    let permit = resume(&world, &mandate).await.unwrap();
    assert_eq!(permit.decision().policy.version.number, 1);
    assert!(permit.decision().rows.is_none());
    let rows = "\nrowPolicies:\n  prod: { where: \"stream = 'prod'\", mandatory: true }\n";
    apply(&world, 2, |yaml| yaml + rows).await;
    let permit = resume(&world, &mandate).await.unwrap();
    assert_eq!(permit.decision().policy.version.number, 2);
    assert!(permit.decision().rows.is_some());
    apply(&world, 3, |yaml| {
        yaml.replace(ACTORS, "allowedActors: [Export.Admin]")
    })
    .await;
    assert_eq!(
        resume(&world, &mandate).await.unwrap_err(),
        no_policy_lets()
    );
}

#[tokio::test]
async fn a_mandate_holds_for_an_active_tenant_in_the_silo_it_was_given_in() {
    let world = world().await;
    let given = mandate(&world, operator()).await;
    let elsewhere = Request::at(SiloId::parse("eu").unwrap());
    let found = world.gate.resume::<Export>(&given, elsewhere).await;
    assert_eq!(found.unwrap_err(), Denial::ResidencyConflict);
    let context = world.identify(operator(), &[]).await.unwrap();
    let foreign = context.mandate(&SiloId::parse("eu").unwrap(), given.until());
    assert_eq!(
        resume(&world, &foreign).await.unwrap_err(),
        Denial::ResidencyConflict
    );
    let mut bound = operator();
    bound["data_silo"] = json!("eu");
    let bound = mandate(&world, bound).await;
    assert_eq!(
        resume(&world, &bound).await.unwrap_err(),
        Denial::ResidencyConflict
    );
    let slugs: Vec<_> = world.ledger.take().iter().map(|entry| entry.slug).collect();
    assert_eq!(slugs, [Some("residency-conflict"); 3]);
    world.advance("acme", Event::Suspend).await;
    assert_eq!(
        resume(&world, &given).await.unwrap_err(),
        Denial::UnknownTenant
    );
    world.advance("acme", Event::Reinstate).await;
    assert!(resume(&world, &given).await.is_ok());
}

#[tokio::test]
async fn a_mandate_gives_no_more_than_its_caller_had() {
    let world = world().await;
    let mut claims = caller(
        &["Audit.Investigator", "Audit.Reader"],
        "audit.export audit.read",
    );
    claims["purpose"] = json!("fraud");
    claims["azp"] = json!("portal");
    let headers = [("x-trailhouse-role", "Investigator")];
    let context = world.identify(claims, &headers).await.unwrap();
    let asked = world.gate.authorize::<Export>(&context, request()).await;
    let asked = asked.unwrap();
    let until = context.expires_at().plus(60 * MINUTE);
    let mandate = context.mandate(&silo(), until);
    let resumed = resume(&world, &mandate).await.unwrap();
    let (asked, resumed) = (asked.decision(), resumed.decision());
    assert_eq!(asked.profile.name, "Investigator");
    // The same in all but its end, and so in its name.
    let same = crate::guard::Decision {
        id: asked.id,
        expires_at: asked.expires_at,
        ..resumed.as_ref().clone()
    };
    assert_eq!(&same, asked.as_ref());
    let stranger = self::mandate(&world, caller(&["Audit.Reader"], "audit.read")).await;
    assert!(matches!(
        resume(&world, &stranger).await,
        Err(Denial::Forbidden { .. })
    ));
    assert!(
        world
            .gate
            .resume::<Read>(&stranger, request())
            .await
            .is_ok()
    );
}
