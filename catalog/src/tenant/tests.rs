//! The registry over a real store and real keys: one history a tenant, whoever writes it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::ids::StreamName;
use crate::keys::KeyPurpose;
use crate::world::{World, id, silo};

#[tokio::test]
async fn onboarding_makes_keys_policy_and_record_once() {
    let world = World::new().await;
    let record = world.onboard("Splootvets").await;
    assert_eq!(
        (record.id.as_str(), record.state),
        ("splootvets", TenantState::Active)
    );
    let kinds: BTreeSet<_> = KeyPurpose::ALL
        .iter()
        .map(|&purpose| record.keys.wrapping(purpose).clone())
        .collect();
    assert_eq!(kinds.len(), 3);
    assert!(record.keys.signing.opaque() != record.keys.data.opaque());
    let wanted = [StreamName::audit_default(), StreamName::audit_security()];
    assert_eq!(record.streams, BTreeSet::from(wanted));
    let again = world.onboard("splootvets").await;
    assert_eq!(
        (&again.keys, again.state),
        (&record.keys, TenantState::Active)
    );
    let current = world.policies.current(&again).await.unwrap();
    assert_eq!(current.policy.version.number, 1);
}

#[tokio::test]
async fn an_interrupted_onboarding_is_taken_up() {
    let world = World::new().await;
    let permit = world.admin("acme").await;
    let made = world
        .registry
        .create(&permit, NewTenant::new(id("acme"), silo()))
        .await
        .unwrap();
    assert_eq!(made.state, TenantState::Provisioning);
    let after = world.restarted().await;
    let record = after.onboard("acme").await;
    assert_eq!(
        (record.state, &record.keys),
        (TenantState::Active, &made.keys)
    );
}

#[tokio::test]
async fn a_tenant_is_not_made_twice_with_different_properties() {
    let world = World::new().await;
    world.onboard("acme").await;
    let permit = world.admin("acme").await;
    let streams = BTreeSet::from([StreamName::parse("app.events").unwrap()]);
    let other = NewTenant {
        streams,
        ..NewTenant::new(id("acme"), silo())
    };
    assert!(matches!(
        world.registry.create(&permit, other).await,
        Err(Error::Exists)
    ));
}

#[tokio::test]
async fn impossible_tenants_are_refused() {
    let world = World::new().await;
    let permit = world.admin("acme").await;
    let fine = || NewTenant::new(id("acme"), silo());
    for tenant in [
        NewTenant {
            display_name: String::new(),
            ..fine()
        },
        NewTenant {
            display_name: "x".repeat(DISPLAY_NAME_MAX + 1),
            ..fine()
        },
        NewTenant {
            display_name: "a\nb".into(),
            ..fine()
        },
        NewTenant {
            streams: BTreeSet::from([StreamName::evidence()]),
            ..fine()
        },
        NewTenant {
            principals: BTreeSet::from([" ".to_owned()]),
            ..fine()
        },
        NewTenant {
            principals: (0..=PRINCIPALS_MAX).map(|n| n.to_string()).collect(),
            ..fine()
        },
    ] {
        let answer = world.registry.create(&permit, tenant.clone()).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{tenant:?}");
    }
    let permit = world.admin("_system").await;
    let system = NewTenant::new(crate::ids::TenantId::system(), silo());
    assert!(matches!(
        world.registry.create(&permit, system).await,
        Err(Error::Invalid(_))
    ));
}

#[tokio::test]
async fn a_permit_covers_its_target_only() {
    let world = World::new().await;
    world.onboard("acme").await;
    world.onboard("other").await;
    let permit = world.admin("acme").await;
    let create = world
        .registry
        .create(&permit, NewTenant::new(id("third"), silo()))
        .await;
    assert!(matches!(create, Err(Error::NotPermitted)));
    let suspend = world
        .registry
        .transition(&permit, &id("other"), Event::Suspend)
        .await;
    assert!(matches!(suspend, Err(Error::NotPermitted)));
    let bind = world.registry.bind(&permit, &id("other"), "svc").await;
    assert!(matches!(bind, Err(Error::NotPermitted)));
    let permit = world.admin("_system").await;
    let system = world
        .registry
        .transition(&permit, &id("_system"), Event::Offboard)
        .await;
    assert!(matches!(system, Err(Error::NotPermitted)));
}

#[tokio::test]
async fn a_life_goes_one_way_and_every_version_stays() {
    let world = World::new().await;
    world.onboard("acme").await;
    let permit = world.admin("acme").await;
    for (event, wanted) in [
        (Event::Suspend, Some(TenantState::Suspended)),
        (Event::Suspend, None),
        (Event::FinalizeDelete, None),
        (Event::Reinstate, Some(TenantState::Active)),
        (Event::Offboard, Some(TenantState::PendingDeletion)),
        (Event::Reinstate, None),
        (Event::FinalizeDelete, Some(TenantState::Deleted)),
        (Event::Complete, None),
    ] {
        let before = world.registry.get(&id("acme")).await.unwrap().unwrap();
        match world.registry.transition(&permit, &id("acme"), event).await {
            Ok(record) => assert_eq!((Some(record.state), record.etag), (wanted, before.etag + 1)),
            Err(Error::Illegal(illegal)) => {
                assert_eq!((None, illegal.state), (wanted, before.state))
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn two_processes_change_one_history() {
    let world = World::new().await;
    world.onboard("acme").await;
    let other = world.restarted().await;
    let (here, there) = (world.admin("acme").await, other.admin("acme").await);
    let changes = (0..8).map(|n| {
        let (at, permit) = if n % 2 == 0 {
            (&world, &here)
        } else {
            (&other, &there)
        };
        async move {
            at.registry
                .bind(permit, &id("acme"), &format!("svc-{n}"))
                .await
        }
    });
    for change in futures::future::join_all(changes).await {
        change.unwrap();
    }
    world.clock.advance(RECORD_AGE_MAX);
    let record = world.registry.get(&id("acme")).await.unwrap().unwrap();
    assert_eq!(record.principals.len(), 8);
    assert_eq!(world.registry.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn simultaneous_creations_agree_on_one_tenant() {
    let world = World::new().await;
    let other = world.restarted().await;
    let (here, there) = tokio::join!(world.onboard("acme"), other.onboard("acme"));
    assert_eq!(here.keys, there.keys);
}

#[tokio::test]
async fn records_are_sealed_and_a_changed_one_is_not_believed() {
    let world = World::new().await;
    world.onboard("acme").await;
    let permit = world.admin("acme").await;
    world
        .registry
        .bind(&permit, &id("acme"), "svc-in-the-clear")
        .await
        .unwrap();
    let all: Vec<_> = world.store.inner.list(None).try_collect().await.unwrap();
    let newest = all
        .iter()
        .map(|meta| &meta.location)
        .filter(|at| at.as_ref().contains("tenant/acme"))
        .max()
        .unwrap();
    let bytes = world
        .store
        .inner
        .get(newest)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert!(
        !bytes
            .windows(8)
            .any(|window| window == b"in-the-c" || window == b"principa")
    );
    let mut forged = bytes.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    overwrite(&world, newest, forged).await;
    let after = world.restarted().await;
    assert!(matches!(
        after.registry.get(&id("acme")).await,
        Err(Error::Documents(_))
    ));
}

#[expect(
    clippy::disallowed_methods,
    reason = "plays somebody who can write to the store"
)]
async fn overwrite(world: &World, at: &object_store::path::Path, bytes: Vec<u8>) {
    world.store.inner.put(at, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn while_the_store_does_not_answer_records_are_unconfirmed() {
    let world = World::new().await;
    world.onboard("acme").await;
    world.store.off.store(true, Ordering::SeqCst);
    assert!(world.registry.look_up(&id("acme")).await.unwrap().confirmed);
    world.clock.advance(RECORD_AGE_MAX);
    let found = world.registry.look_up(&id("acme")).await.unwrap();
    assert!(!found.confirmed && found.record.is_some());
    let permit_needs_the_store = world.registry.look_up(&id("unseen")).await;
    assert!(matches!(permit_needs_the_store, Err(Error::Documents(_))));
    world
        .clock
        .advance(RECORD_AGE_OUTAGE_MAX + Duration::from_secs(1));
    assert!(world.registry.look_up(&id("acme")).await.is_err());
}
