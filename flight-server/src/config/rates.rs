//! What tenants may send: `[limits]` for each of them, `[limits.tenants.<id>]` for single ones, whose section says only
//! what differs.

use catalog::ids::TenantId;

use super::Error;
use super::raw::{RawLimits, RawTenantLimits};
use super::resolved::refused;
use crate::limits::{
    BURST_CEILING, BYTES_PER_S_CEILING, PAUSES_MAX, REQUESTS_PER_S_CEILING, RateLimits,
    TenantLimits, WRITES_AT_ONCE_CEILING,
};

pub(super) fn resolve(raw: &RawLimits, batch_bytes_max: usize) -> Result<RateLimits, Error> {
    let each = RawTenantLimits {
        write_requests_per_s: raw.write_requests_per_s,
        write_bytes_per_s: raw.write_bytes_per_s,
        query_requests_per_s: raw.query_requests_per_s,
        burst: raw.burst,
        writes_at_once: raw.writes_at_once,
    };
    let each = over(&each, &TenantLimits::default());
    check("limits", &each, batch_bytes_max)?;
    let mut limits = RateLimits {
        each,
        ..RateLimits::default()
    };
    for (name, raw) in &raw.tenants {
        let section = format!("limits.tenants.{name}");
        let tenant = TenantId::parse(name).map_err(|error| refused(&section, error.to_string()))?;
        let own = over(raw, &each);
        check(&section, &own, batch_bytes_max)?;
        if limits.tenants.insert(tenant, own).is_some() {
            return Err(refused(section, "the tenant is named twice"));
        }
    }
    Ok(limits)
}

fn over(raw: &RawTenantLimits, below: &TenantLimits) -> TenantLimits {
    TenantLimits {
        write_requests_per_s: raw
            .write_requests_per_s
            .unwrap_or(below.write_requests_per_s),
        write_bytes_per_s: raw.write_bytes_per_s.unwrap_or(below.write_bytes_per_s),
        query_requests_per_s: raw
            .query_requests_per_s
            .unwrap_or(below.query_requests_per_s),
        burst: raw.burst.unwrap_or(below.burst),
        writes_at_once: raw.writes_at_once.unwrap_or(below.writes_at_once),
    }
}

fn check(section: &str, limits: &TenantLimits, batch_bytes_max: usize) -> Result<(), Error> {
    let at_most = |setting: &str, value: u64, max: u64| {
        if value <= max {
            Ok(())
        } else {
            let reason = format!("0 (not limited) to {max}");
            Err(refused(format!("{section}.{setting}"), reason))
        }
    };
    let requests_max = u64::from(REQUESTS_PER_S_CEILING);
    at_most(
        "write_requests_per_s",
        limits.write_requests_per_s.into(),
        requests_max,
    )?;
    at_most(
        "query_requests_per_s",
        limits.query_requests_per_s.into(),
        requests_max,
    )?;
    at_most(
        "write_bytes_per_s",
        limits.write_bytes_per_s,
        BYTES_PER_S_CEILING,
    )?;
    at_most(
        "writes_at_once",
        limits.writes_at_once.into(),
        WRITES_AT_ONCE_CEILING.into(),
    )?;
    if !(1..=BURST_CEILING).contains(&limits.burst) {
        let reason = format!("1 to {BURST_CEILING}");
        return Err(refused(format!("{section}.burst"), reason));
    }
    // Otherwise a batch of a size that is allowed would be refused however often it is sent.
    let seconds = u64::from(limits.burst) + PAUSES_MAX.as_secs();
    let rate = limits.write_bytes_per_s;
    if rate > 0 && rate.saturating_mul(seconds) < batch_bytes_max as u64 {
        let least = (batch_bytes_max as u64).div_ceil(seconds);
        let reason = format!("{least} at least, or smaller limits.batch_bytes");
        return Err(refused(format!("{section}.write_bytes_per_s"), reason));
    }
    Ok(())
}
