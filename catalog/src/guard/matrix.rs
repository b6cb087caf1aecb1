//! Who may do what in which state, all of it, against `decisions.txt`. A change there is a change of the product.

use serde_json::{Value, json};

use crate::guard::{
    Denial, Export, JobToken, Operation, OperationKind, PolicyRead, PolicyWrite, QuarantineDecide,
    QuarantineRead, Read, Request, SchemaRead, SchemaWrite, TenantAdmin, Write,
};
use crate::tenant::{Event, NewTenant, TenantState};
use crate::world::{World, id, silo};

/// Name, roles, scopes; from their own tenant.
const CALLERS: &[(&str, &[&str], &[&str])] = &[
    ("nobody", &[], &[]),
    ("Audit.Reader", &["Audit.Reader"], &[]),
    ("Audit.Investigator", &["Audit.Investigator"], &[]),
    ("Audit.Admin", &["Audit.Admin"], &[]),
    ("Export.Operator", &["Export.Operator"], &[]),
    ("Export.Admin", &["Export.Admin"], &[]),
    ("Compliance.Reviewer", &["Compliance.Reviewer"], &[]),
    ("Security.Admin", &["Security.Admin"], &[]),
    ("SRE.Admin", &["SRE.Admin"], &[]),
    ("audit.write", &[], &["audit.write"]),
    ("audit.ingest", &[], &["audit.ingest"]),
    ("audit.read", &[], &["audit.read"]),
    ("audit.export", &[], &["audit.export"]),
    ("audit.policy.read", &[], &["audit.policy.read"]),
    ("audit.policy.write", &[], &["audit.policy.write"]),
    ("audit.backfill:run", &[], &["audit.backfill:run"]),
];

/// From the system tenant, about the tenant.
const OPERATORS: &[(&str, &[&str], &[&str])] = &[
    ("SRE.Admin", &["SRE.Admin"], &[]),
    (
        "SRE.Admin, all scopes",
        &["SRE.Admin"],
        &[
            "audit.write",
            "audit.read",
            "audit.export",
            "audit.policy.write",
        ],
    ),
    ("Security.Admin", &["Security.Admin"], &["audit.write"]),
];

fn name_of(state: TenantState) -> String {
    state.to_string().to_ascii_lowercase()
}

async fn world() -> World {
    let world = World::new().await;
    for state in TenantState::ALL {
        let name = name_of(state);
        let events: &[Event] = match state {
            TenantState::Provisioning => {
                let permit = world.admin(&name).await;
                world
                    .registry
                    .create(&permit, NewTenant::new(id(&name), silo()))
                    .await
                    .unwrap();
                continue;
            }
            TenantState::Active => &[],
            TenantState::Suspended => &[Event::Suspend],
            TenantState::PendingDeletion => &[Event::Offboard],
            TenantState::Deleted => &[Event::Offboard, Event::FinalizeDelete],
        };
        world.onboard(&name).await;
        for event in events {
            world.advance(&name, *event).await;
        }
    }
    world
}

async fn ask(
    world: &World,
    operation: OperationKind,
    claims: Value,
    request: Request,
) -> Option<Denial> {
    async fn denial<Op: Operation>(
        world: &World,
        claims: Value,
        request: Request,
    ) -> Option<Denial> {
        let answer = world.permit::<Op>(claims, request).await;
        if let Ok(permit) = &answer {
            assert_eq!(permit.decision().operation, Op::KIND);
        }
        answer.err()
    }
    match operation {
        OperationKind::Write => denial::<Write>(world, claims, request).await,
        OperationKind::Read => denial::<Read>(world, claims, request).await,
        OperationKind::TenantAdmin => denial::<TenantAdmin>(world, claims, request).await,
        OperationKind::PolicyRead => denial::<PolicyRead>(world, claims, request).await,
        OperationKind::PolicyWrite => denial::<PolicyWrite>(world, claims, request).await,
        OperationKind::QuarantineRead => denial::<QuarantineRead>(world, claims, request).await,
        OperationKind::QuarantineDecide => denial::<QuarantineDecide>(world, claims, request).await,
        OperationKind::SchemaRead => denial::<SchemaRead>(world, claims, request).await,
        OperationKind::SchemaWrite => denial::<SchemaWrite>(world, claims, request).await,
        OperationKind::JobToken => denial::<JobToken>(world, claims, request).await,
        OperationKind::Export => denial::<Export>(world, claims, request).await,
    }
}

async fn row(world: &World, name: &str, claims: Value, request: Request) -> String {
    let mut line = format!("  {name:<26}");
    for operation in OperationKind::ALL {
        let answer = ask(world, operation, claims.clone(), request.clone()).await;
        let recorded = world.ledger.take();
        assert_eq!(recorded.len(), 1, "every decision leaves one entry");
        assert_eq!(recorded[0].slug, answer.as_ref().map(Denial::slug));
        line.push_str(&format!(
            "{:<17}",
            answer.as_ref().map_or("allow", Denial::slug)
        ));
    }
    line.trim_end().to_owned() + "\n"
}

#[tokio::test]
async fn decisions_are_as_written_down() {
    let world = world().await;
    world.ledger.take();
    let mut found = String::new();
    let names = TenantState::ALL.map(name_of);
    for tenant in names
        .iter()
        .map(String::as_str)
        .chain(["nowhere", "_system"])
    {
        let operations: String = OperationKind::ALL
            .iter()
            .map(|operation| format!("{:<17}", operation.as_str()))
            .collect();
        found.push_str(&format!("{tenant:<28}{}\n", operations.trim_end()));
        for (name, roles, scopes) in CALLERS {
            let claims =
                json!({ "sub": "s", "tenant": tenant, "roles": roles, "scp": scopes.join(" ") });
            if tenant == "_system"
                && !roles
                    .iter()
                    .any(|role| ["SRE.Admin", "Security.Admin"].contains(role))
            {
                assert!(
                    world.identify(claims, &[]).await.is_err(),
                    "{name} cannot be of the system tenant"
                );
                world.ledger.take();
                continue;
            }
            found.push_str(&row(&world, name, claims, Request::at(silo())).await);
        }
        for (name, roles, scopes) in OPERATORS {
            let claims =
                json!({ "sub": "o", "tenant": "_system", "roles": roles, "scp": scopes.join(" ") });
            let request = Request::at(silo()).with_target(id(tenant));
            found.push_str(&row(&world, &format!("op {name}"), claims, request).await);
        }
    }
    assert_eq!(found, include_str!("decisions.txt"), "found:\n{found}");
}
