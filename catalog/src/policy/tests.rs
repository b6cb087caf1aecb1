//! Policies over a real store and real signatures: what is applied, what is believed, and what is not.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use super::*;
use crate::guard::{Denial, Permit, PolicyRead, PolicyWrite, Read, Request};
use crate::ids::PolicyVersion;
use crate::world::{World, id, silo};

fn security(tenant: &str) -> Value {
    json!({ "sub": "sec", "tenant": tenant, "roles": ["Security.Admin"] })
}

async fn world() -> World {
    let world = World::new().await;
    world.onboard("acme").await;
    world
}

fn yaml(tenant: &str, version: u64) -> String {
    Bundle::default_yaml(&id(tenant), &silo()).replace("version: 1", &format!("version: {version}"))
}

async fn apply(world: &World, tenant: &str, yaml: &str) -> Result<PolicyVersion, Error> {
    let permit: Permit<PolicyWrite> = world
        .permit(security(tenant), Request::at(silo()))
        .await
        .unwrap();
    world.policies.apply(&permit, yaml.as_bytes()).await
}

/// What a read under the current policy comes to.
async fn read(world: &World, tenant: &str) -> Result<u64, Denial> {
    let permit: Permit<Read> = world.permit(security(tenant), Request::at(silo())).await?;
    Ok(permit.decision().policy.version.number)
}

async fn documents(world: &World, tenant: &str) -> Vec<Path> {
    let all: Vec<_> = world.store.inner.list(None).try_collect().await.unwrap();
    let folder = format!("tenants/{tenant}/control/policy/");
    let mut paths: Vec<_> = all
        .into_iter()
        .map(|meta| meta.location)
        .filter(|at| at.as_ref().starts_with(&folder))
        .collect();
    paths.sort();
    paths
}

#[expect(
    clippy::disallowed_methods,
    reason = "plays somebody who can write to the store"
)]
async fn overwrite(world: &World, at: &Path, bytes: Vec<u8>) {
    world.store.inner.put(at, bytes.into()).await.unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "plays somebody who can write to the store"
)]
async fn delete(world: &World, at: &Path) {
    world.store.inner.delete(at).await.unwrap();
}

async fn stored(world: &World, at: &Path) -> Vec<u8> {
    world
        .store
        .inner
        .get(at)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec()
}

#[tokio::test]
async fn a_new_version_is_signed_applied_and_pinned_per_request() {
    let world = world().await;
    let before: Permit<Read> = world
        .permit(security("acme"), Request::at(silo()))
        .await
        .unwrap();
    let version = apply(&world, "acme", &yaml("acme", 2)).await.unwrap();
    assert_eq!(version.to_string(), "tenant:acme@2");
    assert_eq!(before.decision().policy.version.number, 1);
    assert_eq!(read(&world, "acme").await, Ok(2));
    assert_eq!(read(&world.restarted().await, "acme").await, Ok(2));
    let record = world.registry.get(&id("acme")).await.unwrap().unwrap();
    assert_eq!(record.policy, 2);
}

#[tokio::test]
async fn the_authors_text_is_given_back_as_it_came() {
    let world = world().await;
    let text = yaml("acme", 2) + "# mine\n";
    apply(&world, "acme", &text).await.unwrap();
    let permit: Permit<PolicyRead> = world
        .permit(security("acme"), Request::at(silo()))
        .await
        .unwrap();
    let (version, found) = world.policies.source(&permit, None).await.unwrap();
    assert_eq!((version.number, found), (2, text));
    let (version, found) = world.policies.source(&permit, Some(1)).await.unwrap();
    assert_eq!((version.number, found), (1, yaml("acme", 1)));
    assert!(matches!(
        world.policies.source(&permit, Some(3)).await,
        Err(Error::NotFound)
    ));
}

#[tokio::test]
async fn what_does_not_fit_the_tenant_is_refused_with_every_reason() {
    let world = world().await;
    let text = yaml("acme", 7)
        .replace("[\"local\"]", "[eu]")
        .replace("audit.security:", "audit.other:")
        + "signingKey: kms://local/another/s1\n";
    let Err(Error::Refused(refused)) = apply(&world, "acme", &text).await else {
        panic!("not refused")
    };
    for part in [
        "version: must be 2",
        "allowedSilos",
        "signingKey",
        "audit.other: is not one",
    ] {
        assert!(
            refused.reasons.iter().any(|reason| reason.contains(part)),
            "{part} not in {refused:?}"
        );
    }
    assert_eq!(read(&world, "acme").await, Ok(1));
    let record = world.registry.get(&id("acme")).await.unwrap().unwrap();
    let text = yaml("acme", 2) + &format!("signingKey: {}\n", record.keys.signing);
    assert!(apply(&world, "acme", &text).await.is_ok());
}

#[tokio::test]
async fn the_same_bytes_can_be_applied_again_and_others_cannot() {
    let world = world().await;
    let text = yaml("acme", 2);
    let first = apply(&world, "acme", &text).await.unwrap();
    assert_eq!(apply(&world, "acme", &text).await.unwrap(), first);
    let Err(Error::Refused(refused)) = apply(&world, "acme", &(text + "# changed\n")).await else {
        panic!("not refused")
    };
    assert_eq!(
        refused.reasons,
        ["version: must be 3, the one after the current"]
    );
    assert_eq!(documents(&world, "acme").await.len(), 2);
}

#[tokio::test]
async fn of_two_authors_at_once_one_wins() {
    let world = world().await;
    let other = world.restarted().await;
    let (one, two) = (yaml("acme", 2) + "# one\n", yaml("acme", 2) + "# two\n");
    let answers = tokio::join!(apply(&world, "acme", &one), apply(&other, "acme", &two));
    let won = [&answers.0, &answers.1]
        .iter()
        .filter(|answer| answer.is_ok())
        .count();
    assert_eq!(won, 1, "{answers:?}");
    assert_eq!(documents(&world, "acme").await.len(), 2);
}

#[tokio::test]
async fn a_changed_bundle_is_never_used() {
    let world = world().await;
    apply(&world, "acme", &yaml("acme", 2)).await.unwrap();
    let newest = documents(&world, "acme").await.pop().unwrap();
    let good = stored(&world, &newest).await;
    let text = String::from_utf8(good.clone()).unwrap();
    for forged in [
        text.replace("actor_id: HASH", "actor_id: CLEAR"),
        text.replace("/s1\"", "/s2\""),
        text.replace("trailhouse-policy-1", "trailhouse-policy-2"),
        text.replace("\"signature\":\"", "\"signature\":\"AAAA"),
        text.replace("\"format\"", "\"extra\":1,\"format\""),
        String::new(),
    ] {
        assert_ne!(forged, text);
        overwrite(&world, &newest, forged.clone().into_bytes()).await;
        let answer = read(&world.restarted().await, "acme").await;
        assert_eq!(
            answer,
            Err(Denial::PolicySignatureInvalid),
            "{}",
            &forged[..forged.len().min(80)]
        );
    }
    // A process that has seen the good one notices as soon as it looks again.
    world.clock.advance(store::CONFIRMED_FOR);
    assert_eq!(
        read(&world, "acme").await,
        Err(Denial::PolicySignatureInvalid)
    );
    overwrite(&world, &newest, good).await;
    assert_eq!(read(&world.restarted().await, "acme").await, Ok(2));
}

#[tokio::test]
async fn a_bundle_cannot_be_moved_to_another_tenant_or_version() {
    let world = world().await;
    world.onboard("other").await;
    let (own, others) = (
        documents(&world, "acme").await,
        documents(&world, "other").await,
    );
    let foreign = stored(&world, &others[0]).await;
    let first = stored(&world, &own[0]).await;
    overwrite(&world, &own[0], foreign).await;
    assert_eq!(
        read(&world.restarted().await, "acme").await,
        Err(Denial::PolicySignatureInvalid)
    );
    overwrite(&world, &own[0], first.clone()).await;
    apply(&world, "acme", &yaml("acme", 2)).await.unwrap();
    let second = documents(&world, "acme").await.pop().unwrap();
    overwrite(&world, &second, first).await;
    assert_eq!(
        read(&world.restarted().await, "acme").await,
        Err(Denial::PolicySignatureInvalid)
    );
}

#[tokio::test]
async fn deleting_the_newest_version_does_not_bring_back_an_older_one() {
    let world = world().await;
    apply(&world, "acme", &yaml("acme", 2)).await.unwrap();
    let newest = documents(&world, "acme").await.pop().unwrap();
    delete(&world, &newest).await;
    let after = world.restarted().await;
    assert_eq!(
        read(&after, "acme").await,
        Err(Denial::PolicySignatureInvalid)
    );
    world.clock.advance(store::CONFIRMED_FOR);
    assert_eq!(
        read(&world, "acme").await,
        Err(Denial::PolicySignatureInvalid)
    );
}

#[tokio::test]
async fn operators_repair_what_the_tenant_itself_can_no_longer_reach() {
    let world = world().await;
    let newest = documents(&world, "acme").await.pop().unwrap();
    let good = stored(&world, &newest).await;
    overwrite(&world, &newest, b"{}".to_vec()).await;
    let after = world.restarted().await;
    let own: Result<Permit<PolicyWrite>, _> =
        after.permit(security("acme"), Request::at(silo())).await;
    assert_eq!(own.unwrap_err(), Denial::PolicySignatureInvalid);
    let request = Request::at(silo()).with_target(id("acme"));
    let permit: Permit<PolicyWrite> = after.permit(security("_system"), request).await.unwrap();
    after
        .policies
        .apply(&permit, yaml("acme", 2).as_bytes())
        .await
        .unwrap();
    assert_eq!(read(&after, "acme").await, Ok(2));
    overwrite(&world, &newest, good).await;
}

#[tokio::test]
async fn signatures_hold_for_one_key_tenant_and_version_only() {
    let world = world().await;
    let record = world.registry.get(&id("acme")).await.unwrap().unwrap();
    let key = &record.keys.signing;
    let version = PolicyVersion {
        tenant: id("acme"),
        number: 1,
    };
    let signed = SignedBundle::sign(&*world.kms, key, &version, &yaml("acme", 1))
        .await
        .unwrap();
    let public = world.kms.public_key(key).await.unwrap();
    let policy = signed.verify(&id("acme"), 1, key, &public).unwrap();
    assert_eq!((policy.version, policy.bundle.version), (version, 1));
    assert!(matches!(
        signed.verify(&id("acme"), 2, key, &public),
        Err(Unverified::Signature)
    ));
    assert!(matches!(
        signed.verify(&id("other"), 1, key, &public),
        Err(Unverified::Signature)
    ));
    let another = world.kms.create_signing(&silo()).await.unwrap();
    assert!(matches!(
        signed.verify(&id("acme"), 1, &another, &public),
        Err(Unverified::ForeignKey)
    ));
    let public = world.kms.public_key(&another).await.unwrap();
    assert!(matches!(
        signed.verify(&id("acme"), 1, key, &public),
        Err(Unverified::Signature)
    ));
}
