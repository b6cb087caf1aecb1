//! What tenants may send, by a clock that moves only when told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catalog::clock::{Clock, ManualClock, Timestamp};
use catalog::context::TenantContext;
use catalog::guard::OperationKind;
use catalog::ids::TenantId;
use http::{HeaderMap, header};

use super::*;
use crate::world::{World, bearer};

const NONE: TenantLimits = TenantLimits {
    write_requests_per_s: 0,
    write_bytes_per_s: 0,
    query_requests_per_s: 0,
    burst: 1,
    writes_at_once: 0,
};

fn rates(each: TenantLimits) -> (Arc<ManualClock>, Rates) {
    with_own(each, BTreeMap::new())
}

fn with_own(
    each: TenantLimits,
    tenants: BTreeMap<TenantId, TenantLimits>,
) -> (Arc<ManualClock>, Rates) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1)));
    let limits = RateLimits { each, tenants };
    let rates = Rates::new(limits, Arc::clone(&clock) as Arc<dyn Clock>);
    (clock, rates)
}

async fn caller(world: &World, tenant: &str) -> TenantContext {
    let token = world.token(tenant, &[], &["audit.write"]);
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&token))]);
    world.service.context(&headers).await.unwrap()
}

/// How many requests go on, one after the other, until one does not.
fn admitted(rates: &Rates, caller: &TenantContext, class: Class) -> usize {
    let once = || rates.admit(caller.clone(), class).ok();
    std::iter::from_fn(once).take(1_000).count()
}

#[tokio::test]
async fn each_tenant_has_its_own_requests_and_each_class_too() {
    let world = World::new().await;
    let (acme, globex) = (caller(&world, "acme").await, caller(&world, "globex").await);
    let (clock, rates) = rates(TenantLimits {
        write_requests_per_s: 5,
        query_requests_per_s: 3,
        burst: 2,
        ..NONE
    });
    assert_eq!(admitted(&rates, &acme, Class::Write), 10);
    assert_eq!(admitted(&rates, &acme, Class::Query), 6);
    assert_eq!(admitted(&rates, &globex, Class::Write), 10);
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted(&rates, &acme, Class::Write), 5);
    let limited = rates.admit(acme, Class::Write).unwrap_err();
    assert_eq!(limited.what, What::Requests);
    assert_eq!(limited.retry_after, Duration::from_millis(200));
    let standing = limited.standing.unwrap();
    assert_eq!(
        (standing.limit, standing.remaining, standing.reset_s),
        (10, 0, 2)
    );
}

#[tokio::test]
async fn a_tenant_may_have_limits_of_its_own_or_none() {
    let world = World::new().await;
    let (acme, globex) = (caller(&world, "acme").await, caller(&world, "globex").await);
    let own = TenantLimits {
        write_requests_per_s: 1,
        ..NONE
    };
    let acme_only = BTreeMap::from([(acme.tenant().clone(), own)]);
    let (_, rates) = with_own(NONE, acme_only);
    assert_eq!(admitted(&rates, &acme, Class::Write), 1);
    assert_eq!(admitted(&rates, &acme, Class::Query), 1_000);
    assert_eq!(admitted(&rates, &globex, Class::Write), 1_000);
    assert!(
        rates
            .admit(globex, Class::Write)
            .unwrap()
            .standing
            .is_none()
    );
}

#[tokio::test]
async fn only_so_many_writes_are_under_way_at_once() {
    let world = World::new().await;
    let acme = caller(&world, "acme").await;
    let (_, rates) = rates(TenantLimits {
        writes_at_once: 2,
        ..NONE
    });
    let one = rates.admit(acme.clone(), Class::Write).unwrap();
    let _two = rates.admit(acme.clone(), Class::Write).unwrap();
    let limited = rates.admit(acme.clone(), Class::Write).unwrap_err();
    assert_eq!(limited.what, What::AtOnce);
    assert_eq!(admitted(&rates, &acme, Class::Query), 1_000);
    drop(one);
    assert!(rates.admit(acme, Class::Write).is_ok());
}

#[tokio::test]
async fn bytes_are_held_back_for_a_while_and_then_refused() {
    let world = World::new().await;
    let acme = caller(&world, "acme").await;
    let (clock, rates) = rates(TenantLimits {
        write_bytes_per_s: 10 * 1024,
        burst: 10,
        ..NONE
    });
    let request = rates.admit(acme.clone(), Class::Write).unwrap();
    // Chunks smaller than what is counted add up to what they are.
    for _ in 0..100 * 16 {
        request.charge(64).await.unwrap();
    }
    let passing = async {
        tokio::task::yield_now().await;
        clock.advance(Duration::from_millis(100));
    };
    let (charged, ()) = futures::join!(request.charge(1024), passing);
    charged.unwrap();
    let limited = request.charge(60 * 1024).await.unwrap_err();
    assert_eq!(
        (limited.what, limited.retry_after),
        (What::Bytes, Duration::from_secs(6))
    );
    clock.advance(Duration::from_secs(10));
    let next = rates.admit(acme, Class::Write).unwrap();
    next.charge(100 * 1024).await.unwrap();
}

#[tokio::test]
async fn refusals_are_told_once_for_a_window() {
    let world = World::new().await;
    let acme = caller(&world, "acme").await;
    let (clock, rates) = rates(TenantLimits {
        write_requests_per_s: 1,
        ..NONE
    });
    assert!(rates.admit(acme.clone(), Class::Write).is_ok());
    for _ in 0..7 {
        assert!(rates.admit(acme.clone(), Class::Write).is_err());
    }
    assert_eq!(rates.refusals(false), []);
    clock.advance(Duration::from_secs(60));
    let told = rates.refusals(false);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].count, told[0].operation, &told[0].first),
        (7, OperationKind::Write, &acme)
    );
    assert_eq!(told[0].since, Timestamp::from_micros(1));
    assert_eq!(rates.refusals(true), []);
    rates.found_no_slot(&acme);
    rates.found_no_slot(&acme);
    let told = rates.refusals(true);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].count, told[0].operation), (2, OperationKind::Read));
}

#[tokio::test]
async fn what_names_no_caller_counts_with_its_tenants_others() {
    let world = World::new().await;
    let acme = caller(&world, "acme").await;
    let (clock, rates) = rates(TenantLimits {
        query_requests_per_s: 2,
        ..NONE
    });
    assert!(rates.admit(acme.clone(), Class::Query).is_ok());
    let standing = rates.admit_nobody(acme.tenant(), Class::Query).unwrap();
    assert_eq!(standing.unwrap().remaining, 0);
    let limited = rates.admit_nobody(acme.tenant(), Class::Query);
    assert_eq!(limited.unwrap_err().what, What::Requests);
    assert!(rates.admit(acme.clone(), Class::Query).is_err());
    // The evidence tells of callers only.
    assert_eq!(rates.refusals(true).len(), 1);
    let other = TenantId::parse("other").unwrap();
    assert!(rates.admit_nobody(&other, Class::Query).is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(rates.admit_nobody(acme.tenant(), Class::Query).is_ok());
}

#[tokio::test]
async fn what_is_kept_of_tenants_is_bounded() {
    let world = World::new().await;
    let (clock, rates) = rates(TenantLimits {
        query_requests_per_s: 1,
        ..NONE
    });
    let noisy = caller(&world, "acme").await;
    assert_eq!(admitted(&rates, &noisy, Class::Query), 1);
    for number in 0..rates.accounts_max() + 10 {
        clock.advance(Duration::from_micros(1));
        rates.touch(&TenantId::parse(&format!("t{number}")).unwrap());
        rates.touch(noisy.tenant());
    }
    assert!(rates.accounts() <= rates.accounts_max());
    // Whoever keeps calling is not forgotten, and so not refilled.
    assert_eq!(admitted(&rates, &noisy, Class::Query), 0);
}
