//! Record ids: ULIDs that grow, per tenant, whatever the clock does.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use super::{IdError, IdFault, TenantId};
use crate::clock::{self, Clock, Random};

/// How many tenants [`RecordIds`] remembers one by one.
const TENANTS_REMEMBERED_MAX: usize = 16_384;

/// A record: a ULID, 48 bits of milliseconds and 80 of chance, written as 26 characters of Crockford's base 32.
/// The order of the values is the order of the texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(Ulid);

impl RecordId {
    /// Characters in the textual form.
    pub const LEN: usize = ulid::ULID_LEN;

    /// Parses the canonical form only: 26 characters, upper case, no aliases, no more than 128 bits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let malformed = IdError::new("record id", IdFault::Malformed);
        let id = Ulid::from_string(text).map(Self).map_err(|_| malformed)?;
        if id.encode(&mut [0; Self::LEN]) == text {
            Ok(id)
        } else {
            Err(malformed)
        }
    }

    /// The textual form, in the caller's buffer: no allocation.
    pub fn encode<'buffer>(&self, buffer: &'buffer mut [u8; Self::LEN]) -> &'buffer str {
        self.0.array_to_str(buffer)
    }

    /// The 128 bits, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.0.to_be_bytes()
    }

    /// The id with these 128 bits, most significant first.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid(u128::from_be_bytes(bytes)))
    }

    /// The milliseconds since 1970 it was made at (or a little later, see [`RecordIds`]).
    pub fn timestamp_millis(&self) -> u64 {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Self::LEN]))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecordId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.encode(&mut [0; Self::LEN]))
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Random bytes that a step inside one millisecond is made of.
const STEP_BYTES: usize = 8;

/// Makes record ids: per tenant each is greater than the one before, also when the clock stands still or goes back.
///
/// Inside one millisecond the 80 random bits grow by a random step, so that an id does not tell its neighbours.
/// Memory is bounded: tenants whose last millisecond is over are forgotten together, and their highest millisecond
/// stays as a floor that no later id of a forgotten tenant goes below.
#[derive(Debug)]
pub struct RecordIds {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    state: Mutex<LastIds>,
    remembered_max: usize,
}

#[derive(Debug, Default)]
struct LastIds {
    by_tenant: HashMap<TenantId, RecordId>,
    /// A tenant that is not in `by_tenant` gets ids of later milliseconds than this.
    floor_millis: Option<u64>,
}

impl RecordIds {
    /// Ids by this clock and this chance.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            clock,
            random,
            state: Mutex::default(),
            remembered_max: TENANTS_REMEMBERED_MAX,
        }
    }

    /// The next id of this tenant.
    pub fn next(&self, tenant: &TenantId) -> RecordId {
        let now_millis = self.clock.now().as_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.next_of(&mut state, tenant, now_millis, || {
            clock::array(&*self.random)
        })
    }

    /// The next ids of this tenant, so many, in their order: one look at the clock, and one draw for all.
    pub fn next_many(&self, tenant: &TenantId, count: usize) -> Vec<RecordId> {
        let mut steps = vec![[0; STEP_BYTES]; count];
        self.random.fill(steps.as_flattened_mut());
        let now_millis = self.clock.now().as_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        steps
            .into_iter()
            .map(|step| self.next_of(&mut state, tenant, now_millis, || step))
            .collect()
    }

    fn next_of(
        &self,
        state: &mut LastIds,
        tenant: &TenantId,
        now_millis: u64,
        step: impl FnOnce() -> [u8; STEP_BYTES],
    ) -> RecordId {
        if let Some(last) = state.by_tenant.get_mut(tenant) {
            *last = self.after(*last, now_millis, step);
            return *last;
        }
        let millis = state
            .floor_millis
            .map_or(now_millis, |floor| now_millis.max(floor + 1));
        let id = self.fresh(millis);
        self.remember(state, tenant, id, now_millis);
        id
    }

    /// Makes every later id of this tenant greater than `seen`, an id found in storage at start.
    pub fn observe(&self, tenant: &TenantId, seen: RecordId) {
        let now_millis = self.clock.now().as_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = state.by_tenant.get_mut(tenant) {
            *last = seen.max(*last);
        } else {
            self.remember(&mut state, tenant, seen, now_millis);
        }
    }

    fn remember(&self, state: &mut LastIds, tenant: &TenantId, id: RecordId, now_millis: u64) {
        if state.by_tenant.len() >= self.remembered_max {
            state.forget(|last| last.timestamp_millis() < now_millis);
        }
        if state.by_tenant.len() >= self.remembered_max {
            // Only a clock that was set back, or a thousand new tenants a millisecond, gets here.
            state.forget(|_| true);
        }
        state.by_tenant.insert(tenant.clone(), id);
    }

    fn after(
        &self,
        last: RecordId,
        now_millis: u64,
        step: impl FnOnce() -> [u8; STEP_BYTES],
    ) -> RecordId {
        if last.timestamp_millis() < now_millis {
            return self.fresh(now_millis);
        }
        let step = u128::from(u64::from_le_bytes(step()) >> 16) + 1;
        let random = last.0.random() + step;
        if random >> Ulid::RAND_BITS == 0 {
            RecordId(Ulid::from_parts(last.timestamp_millis(), random))
        } else {
            self.fresh(last.timestamp_millis() + 1)
        }
    }

    /// A first id of a millisecond. Its highest random bit is 0, which leaves room for 2^31 steps at least.
    fn fresh(&self, millis: u64) -> RecordId {
        let random =
            u128::from_le_bytes(clock::array(&*self.random)) >> (128 - Ulid::RAND_BITS + 1);
        RecordId(Ulid::from_parts(millis, random))
    }
}

impl LastIds {
    fn forget(&mut self, over: impl Fn(&RecordId) -> bool) {
        let mut floor = self.floor_millis;
        self.by_tenant.retain(|_, last| {
            let keep = !over(last);
            if !keep {
                floor = floor.max(Some(last.timestamp_millis()));
            }
            keep
        });
        self.floor_millis = floor;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{ManualClock, SeededRandom, Timestamp};

    #[test]
    fn record_ids_have_one_spelling() {
        let text = "01D39ZY06FGSCTVN4T2V9PKHFZ";
        let id = RecordId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(RecordId::from_bytes(id.to_bytes()), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        let too_big = "81D39ZY06FGSCTVN4T2V9PKHFZ";
        let lower = text.to_lowercase();
        for other in [
            "",
            too_big,
            &lower,
            "01D39ZY06FGSCTVN4T2V9PKHF",
            "01D39ZY06FGSCTVN4T2V9PKHFO",
        ] {
            assert!(RecordId::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn many_ids_are_those_that_one_by_one_would_be_greater_each() {
        let (clock, ids) = ids_at(1_000);
        let (acme, other) = (
            TenantId::parse("acme").unwrap(),
            TenantId::parse("other").unwrap(),
        );
        let mut all = vec![ids.next(&acme)];
        all.extend(ids.next_many(&acme, 500));
        clock.set(Timestamp::from_micros(2_000_000));
        all.extend(ids.next_many(&acme, 500));
        all.push(ids.next(&acme));
        assert_eq!(all.len(), 1_002);
        assert!(all.is_sorted_by(|one, next| one < next));
        assert_eq!(all[501].timestamp_millis(), 2_000);
        assert!(ids.next_many(&other, 0).is_empty());
        assert_eq!(ids.next_many(&other, 1).len(), 1);
    }

    fn ids_at(millis: i64) -> (Arc<ManualClock>, RecordIds) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(millis * 1000)));
        let ids = RecordIds::new(
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(SeededRandom::new(3)),
        );
        (clock, ids)
    }

    #[test]
    fn record_ids_grow_while_the_clock_stands_still_or_goes_back() {
        let (clock, ids) = ids_at(1_700_000_000_000);
        let tenant = TenantId::parse("acme").unwrap();
        let mut last = ids.next(&tenant);
        assert_eq!(last.timestamp_millis(), 1_700_000_000_000);
        for round in 0..1000 {
            if round == 500 {
                clock.set(Timestamp::from_micros(5));
            }
            let next = ids.next(&tenant);
            assert!(next > last);
            assert_ne!(next.0.0 - last.0.0, 1, "the step is random");
            last = next;
        }
        clock.set(Timestamp::from_micros(1_700_000_000_001_000));
        assert_eq!(ids.next(&tenant).timestamp_millis(), 1_700_000_000_001);
    }

    #[test]
    fn a_full_millisecond_runs_over_into_the_next() {
        let (_clock, ids) = ids_at(1000);
        let last = RecordId(Ulid::from_parts(1000, u128::MAX));
        let next = ids.after(last, 1000, || [1; STEP_BYTES]);
        assert!(next > last);
        assert_eq!(next.timestamp_millis(), 1001);
    }

    #[test]
    fn forgotten_tenants_never_go_backwards() {
        let (clock, mut ids) = ids_at(1_000_000);
        ids.remembered_max = 4;
        let tenants: Vec<_> = (0..40)
            .map(|n| TenantId::parse(&format!("t{n}")).unwrap())
            .collect();
        let mut highest: HashMap<TenantId, RecordId> = HashMap::new();
        for round in 0..20 {
            if round % 3 == 0 {
                clock.advance(Duration::from_millis(2));
            } else if round % 3 == 1 {
                clock.set(Timestamp::from_micros(500));
            }
            for tenant in &tenants {
                let id = ids.next(tenant);
                let before = highest.insert(tenant.clone(), id);
                assert!(before.is_none_or(|before| before < id));
            }
            assert!(ids.state.lock().unwrap().by_tenant.len() <= 4);
        }
    }

    #[test]
    fn an_observed_id_is_a_lower_bound() {
        let (_clock, ids) = ids_at(1000);
        let tenant = TenantId::parse("acme").unwrap();
        let seen = RecordId(Ulid::from_parts(9_999_999, 5));
        ids.observe(&tenant, seen);
        let next = ids.next(&tenant);
        assert!(next > seen);
        ids.observe(&tenant, seen);
        assert!(ids.next(&tenant) > next);
    }

    proptest! {
        #[test]
        fn the_order_of_record_ids_is_the_order_of_their_texts(a in any::<u128>(), b in any::<u128>()) {
            let (a, b) = (RecordId(Ulid(a)), RecordId(Ulid(b)));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(RecordId::parse(&a.to_string()), Ok(a));
        }
    }
}
