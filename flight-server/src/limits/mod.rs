//! Every limit of the wire in one place, checked against each other when this compiles.

mod bucket;
mod rates;
mod room;

use std::time::Duration;

pub use bucket::{Rate, Standing};
pub(crate) use rates::PAUSES_MAX;
pub use rates::{Admitted, Class, Limited, RateLimits, Rates, Refusals, TenantLimits, What};
pub(crate) use room::{NoRoom, Room, Share};

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The most that all headers of a request may weigh; a token has to fit.
pub const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// The longest JWKS document that is read.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// The most keys that one JWKS may hold.
pub const JWKS_KEYS_MAX: usize = 64;
/// The longest idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// The most silos that one process serves.
pub const SILOS_MAX: usize = 32;

/// The largest record that a configuration may allow.
pub const RECORD_BYTES_CEILING: usize = 4 * 1024 * 1024;
/// The largest batch that a configuration may allow.
pub const BATCH_BYTES_CEILING: usize = 256 * 1024 * 1024;
/// The most requests a second that a configuration may limit a tenant to.
pub const REQUESTS_PER_S_CEILING: u32 = 1_000_000;
/// The most bytes a second that a configuration may limit a tenant to.
pub const BYTES_PER_S_CEILING: u64 = 16 * 1024 * 1024 * 1024;
/// The largest burst that a configuration may allow, in seconds' worth.
pub const BURST_CEILING: u32 = 60;
/// The most writes of one tenant at the same time that a configuration may allow.
pub const WRITES_AT_ONCE_CEILING: u32 = 65_536;

const _: () = assert!(TOKEN_BYTES_MAX < HEADERS_BYTES_MAX as usize);
const _: () = assert!(RECORD_BYTES_CEILING <= BATCH_BYTES_CEILING);

/// The limits that a configuration sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest single record.
    pub record_bytes_max: usize,
    /// The largest batch, all its lines together.
    pub batch_bytes_max: usize,
    /// The most lines of a batch.
    pub batch_lines_max: usize,
    /// How many tenants get a label of their own in the metrics; the others share one.
    pub metric_tenants_max: usize,
    /// How long a stopping server waits for requests that are under way.
    pub shutdown_time_max: Duration,
    /// What each tenant may send.
    pub rates: RateLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes_max: 1024 * 1024,
            batch_bytes_max: 16 * 1024 * 1024,
            batch_lines_max: 10_000,
            metric_tenants_max: 200,
            shutdown_time_max: Duration::from_secs(30),
            rates: RateLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests;
