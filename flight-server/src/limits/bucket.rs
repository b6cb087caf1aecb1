//! One token bucket: so many cells a second, and so many at once after a pause.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::clock::{Clock, Timestamp};
use governor::clock::Reference;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// The longest that one step of the clock counts for. Every bucket is full again after less.
const STEP_MAX: Duration = Duration::from_secs(3_600);

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Cells a second, on average.
    pub per_s: NonZeroU32,
    /// Cells that may be taken at once.
    pub burst: NonZeroU32,
}

/// Where a bucket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it holds when it is full.
    pub limit: u32,
    /// What it holds now.
    pub remaining: u32,
    /// Seconds until it is full again, rounded up.
    pub reset_s: u32,
}

/// The product's clock as buckets read it: time that has passed, which never runs backwards. A clock that is set back
/// costs nobody their allowance.
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    clock: Arc<dyn Clock>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Timestamp,
    passed_ns: u64,
}

/// Nanoseconds that have passed since the clock was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

impl Ticks {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let at = clock.now();
        Self {
            clock,
            seen: Arc::new(Mutex::new(Seen { at, passed_ns: 0 })),
        }
    }

    pub(super) fn now(&self) -> Tick {
        let now = self.clock.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let step_us = now.as_micros().saturating_sub(seen.at.as_micros()).max(0);
        let step = Duration::from_micros(step_us.unsigned_abs()).min(STEP_MAX);
        let step_ns = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        seen.at = now;
        seen.passed_ns = seen.passed_ns.saturating_add(step_ns);
        Tick(seen.passed_ns)
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Tick {
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, by: Nanos) -> Self {
        Self(self.0.saturating_add(by.as_u64()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, by: Nanos) -> Self {
        Self(self.0.checked_sub(by.as_u64()).unwrap_or(self.0))
    }
}

impl governor::clock::Clock for Ticks {
    type Instant = Tick;

    fn now(&self) -> Tick {
        Self::now(self)
    }
}

/// A bucket of one tenant.
#[derive(Debug)]
pub(super) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Ticks, StateInformationMiddleware>,
    ticks: Ticks,
    rate: Rate,
}

impl Bucket {
    pub(super) fn new(rate: Rate, ticks: Ticks) -> Self {
        let quota = Quota::per_second(rate.per_s).allow_burst(rate.burst);
        let limiter = RateLimiter::direct_with_clock(quota, ticks.clone());
        Self {
            limiter: limiter.with_middleware(),
            ticks,
            rate,
        }
    }

    /// The most that can be taken at once.
    pub(super) fn burst(&self) -> u32 {
        self.rate.burst.get()
    }

    /// Takes so many cells or none; the error is how long it takes until they are there.
    pub(super) fn take(&self, cells: NonZeroU32) -> Result<Standing, Duration> {
        // More than there ever is at once counts as all there is.
        let cells = cells.min(self.rate.burst);
        match self.limiter.check_n(cells) {
            Ok(Ok(state)) => Ok(self.standing(state.remaining_burst_capacity())),
            Ok(Err(not_yet)) => Err(not_yet.wait_time_from(self.ticks.now())),
            Err(_more_than_the_burst) => Err(Duration::from_secs(1)),
        }
    }

    /// Where the bucket stands with so much in it.
    pub(super) fn standing(&self, remaining: u32) -> Standing {
        let missing = self.burst().saturating_sub(remaining);
        Standing {
            limit: self.burst(),
            remaining,
            reset_s: missing.div_ceil(self.rate.per_s.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::clock::ManualClock;

    use super::*;

    const START: i64 = 1_000_000_000_000_000;

    fn bucket(per_s: u32, burst: u32) -> (Arc<ManualClock>, Bucket) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(START)));
        let ticks = Ticks::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let rate = Rate {
            per_s: cells(per_s),
            burst: cells(burst),
        };
        (clock, Bucket::new(rate, ticks))
    }

    fn cells(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn taken(bucket: &Bucket) -> usize {
        std::iter::from_fn(|| bucket.take(cells(1)).ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (clock, bucket) = bucket(10, 30);
        let first = bucket.take(cells(1)).unwrap();
        assert_eq!(
            first,
            Standing {
                limit: 30,
                remaining: 29,
                reset_s: 1
            }
        );
        assert_eq!(taken(&bucket), 29);
        let wait = bucket.take(cells(1)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        clock.advance(wait);
        assert_eq!(taken(&bucket), 1);
        clock.advance(Duration::from_secs(2));
        assert_eq!(taken(&bucket), 20);
        clock.advance(Duration::from_secs(1_000_000));
        assert_eq!(taken(&bucket), 30);
    }

    #[test]
    fn many_cells_are_taken_together_or_not_at_all() {
        let (clock, bucket) = bucket(10, 30);
        assert_eq!(bucket.take(cells(20)).unwrap().remaining, 10);
        assert_eq!(bucket.take(cells(20)), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(cells(10)).unwrap().remaining, 0);
        clock.advance(Duration::from_secs(3));
        assert_eq!(bucket.take(cells(1_000)).unwrap().remaining, 0);
    }

    #[test]
    fn a_clock_that_is_set_back_takes_nothing_away() {
        let (clock, bucket) = bucket(10, 30);
        assert_eq!(taken(&bucket), 30);
        clock.set(Timestamp::from_micros(START - 3_600_000_000));
        assert_eq!(taken(&bucket), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&bucket), 10);
        clock.set(Timestamp::from_micros(i64::MAX));
        assert_eq!(taken(&bucket), 30);
        clock.set(Timestamp::from_micros(i64::MIN));
        clock.set(Timestamp::from_micros(0));
        assert_eq!(taken(&bucket), 0);
    }
}
